//! One struct a request, from which both the log line and the metrics are made.

use super::metrics::AttemptEnd;
use crate::auth::secret::KeyHint;
use crate::billing::money::Money;
use crate::id::RequestId;
use crate::meter::usage::{Source, Usage};
use crate::rejection::Code;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer went out whole, whatever its status.
    Answered,
    /// The gateway refused, or the upstream failed.
    Rejected(Code),
    /// The client left before the answer was whole.
    ClientGone,
}

impl Outcome {
    /// The `code` of logs and metrics: empty for an answer.
    pub const fn code(self) -> &'static str {
        match self {
            Outcome::Answered => "",
            Outcome::Rejected(code) => code.as_str(),
            Outcome::ClientGone => "client_gone",
        }
    }
}

/// An attempt that was followed by another.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The provider.
    pub upstream: Arc<str>,
    /// How it ended.
    pub end: AttemptEnd,
    /// From the choice of the provider on.
    pub took: Duration,
}

/// Everything that is told of one request. It holds no text that a client chose, but for the id of
/// a model under the catch-all, which the configuration let through.
#[derive(Clone, Debug)]
pub struct Event {
    /// When the request's header had been read.
    pub time: SystemTime,
    /// The id that the client was told.
    pub request_id: RequestId,
    /// Mount of the surface; empty outside of any.
    pub surface: Arc<str>,
    /// Operation, as in the metrics' label.
    pub operation: &'static str,
    /// First characters of the key.
    pub key: KeyHint,
    /// Who pays.
    pub account: Option<Arc<str>>,
    /// The account's project.
    pub project: Option<Arc<str>>,
    /// The resolved public id.
    pub model: Option<Arc<str>>,
    /// The provider of the last attempt.
    pub upstream: Option<Arc<str>>,
    /// Attempts upstream.
    pub attempts: u32,
    /// Those of them that were followed by another.
    pub failures: Vec<Failed>,
    /// What the client was answered; 499 if it left before.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// The answer was a stream.
    pub stream: bool,
    /// Tokens, and how sure they are.
    pub usage: Option<(Usage, Source)>,
    /// What was taken from the balance, and how sure that is.
    pub cost: Option<(Money, Source)>,
    /// From the request's header to the end of the answer.
    pub total: Duration,
    /// From the request's header to the answer's first byte.
    pub first_byte: Option<Duration>,
    /// From the request's header to the first event of a streamed answer.
    pub first_event: Option<Duration>,
    /// What the gateway itself took of the time to the first byte.
    pub overhead: Option<Duration>,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// The client's address.
    pub client: Option<IpAddr>,
}
