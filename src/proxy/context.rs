//! What is known of a request, as it comes to be known.

use super::attempt::Attempt;
use super::snapshot::Snapshot;
use super::upload::Upload;
use crate::admit::Admission;
use crate::auth::Caller;
use crate::auth::secret::KeyHint;
use crate::billing::money::Money;
use crate::catalog::Found;
use crate::clock;
use crate::downstream::Exchange;
use crate::id::RequestId;
use crate::limit::Reading;
use crate::limit::overload::Claim;
use crate::meter::usage::Source;
use crate::meter::{self, Meter};
use crate::record::event::{Failed, Outcome};
use crate::record::metrics::AttemptEnd;
use crate::rejection::Rejection;
use crate::route::{Api, Endpoint, Operation};
use crate::wire::error::Dialect;
use crate::wire::request::Call;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use prometheus::IntGauge;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Pingora's per-request context.
pub struct Context {
    /// The session's side of the request.
    pub exchange: Option<Arc<Exchange>>,
    /// The configuration that the request began with.
    pub snapshot: Arc<Snapshot>,
    /// What the client is told as request id.
    pub request_id: RequestId,
    /// When the header had been read, on the wall clock.
    pub time: SystemTime,
    /// The same, for durations.
    pub started: Instant,
    /// The surface that the path lies under.
    pub surface: Option<usize>,
    /// Protocol of error answers.
    pub api: Api,
    /// Where the request goes, once it is known.
    pub endpoint: Option<Endpoint>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// What logs may show of the key that was sent, known or not.
    pub hint: KeyHint,
    /// Who calls, once it is known.
    pub caller: Option<Caller>,
    /// Nobody wants to read of this request: a load balancer asked after our health.
    pub unrecorded: bool,
    /// What is called, once it is known; also of requests that are then refused.
    pub model: Option<Found>,
    /// Where the caller's limits stand, once they were asked.
    pub reading: Option<Reading>,
    /// When they were asked.
    pub asked: SystemTime,
    /// A client that waited for `100 Continue` was told to go on.
    pub welcomed: bool,
    /// The request on its way upstream: it exists only after every check.
    pub forward: Option<Box<Forward>>,
    /// A refusal found in a phase that cannot answer by itself.
    pub rejection: Option<Rejection>,
    /// How the request ended, once that is known.
    pub outcome: Option<Outcome>,
    /// When the answer's first byte went out.
    pub first_byte: Option<Instant>,
    /// When the first event of a stream went out.
    pub first_event: Option<Instant>,
    /// Its place among the requests in flight.
    pub in_flight: Option<Claim>,
    /// Counts the request as active for as long as it lives.
    pub active: Active,
}

/// A request that was admitted, and how its forwarding goes.
pub struct Forward {
    /// The permission.
    pub admission: Admission,
    /// What is asked for.
    pub operation: Operation,
    /// Its body.
    pub body: Body,
    /// Tokens of the prompt, as far as one can guess; 0 where nobody asks.
    pub prompt: u64,
    /// Bytes of the answer's body that went to the client.
    pub relayed: u64,
    /// What of the client's header goes to the provider.
    pub headers: HeaderMap,
    /// Query string, without the question mark.
    pub query: Option<String>,
    /// When the body had been read, or as much of it as the route needs.
    pub read: Instant,
    /// Which of the model's upstreams were tried: a bit each; those past 64 are tried once at most.
    pub tried: u64,
    /// Which keys failed it: the provider's place, and the key's among its keys.
    pub tried_keys: Vec<(usize, usize)>,
    /// Attempts so far.
    pub attempts: u32,
    /// Those of them that took from the budget of retries.
    pub retries: u32,
    /// How those ended that were followed by another.
    pub failures: Vec<Failed>,
    /// Hints (1xx) of providers so far.
    pub hints: u32,
    /// The next attempt takes a new connection: the pooled one was dead, and others may be.
    pub fresh: bool,
    /// The attempt under way.
    pub attempt: Option<Attempt>,
    /// Reads the answer.
    pub meter: Option<Meter>,
    /// The answer is an event stream that the client sees as one.
    pub stream: Option<Active>,
    /// An error answer of the provider, held until secrets are cut out.
    pub held: Option<BytesMut>,
    /// When the provider's header had come.
    pub answered: Option<Instant>,
    /// Limits and money were told what it used.
    pub settled: bool,
    /// What the answer had said of that by then.
    pub used: Option<meter::Reading>,
    /// What was taken from the balance for it, and how sure that is.
    pub cost: Option<(Money, Source)>,
}

/// The body of a forwarded request.
pub enum Body {
    /// Held whole: it can be sent again.
    Json {
        /// What the gateway read of it.
        call: Call,
        /// As the client sent it.
        bytes: Bytes,
    },
    /// Streamed up.
    Upload(Box<Upload>),
    /// There is none.
    Empty,
}

impl Forward {
    /// Keeps for the log how the attempt under way has failed; another one follows.
    pub fn note_failure(&mut self) {
        if let Some(Attempt {
            provider,
            ended: Some(end),
            chosen,
            ..
        }) = &self.attempt
        {
            self.failures.push(Failed {
                upstream: provider.name.clone(),
                end: *end,
                took: chosen.elapsed(),
            });
        }
    }
}

impl Context {
    /// The context of a request that has just been read.
    pub fn new(snapshot: Arc<Snapshot>, active: &IntGauge) -> Box<Context> {
        let exchange = Exchange::current();
        let started = match &exchange {
            Some(exchange) => exchange.began.into_std(),
            None => Instant::now(),
        };
        let time = clock::wall(started);
        Box::new(Context {
            exchange,
            snapshot,
            request_id: RequestId::new(),
            time,
            started,
            surface: None,
            api: Api::OpenAi,
            endpoint: None,
            client: None,
            hint: KeyHint::NONE,
            caller: None,
            unrecorded: false,
            model: None,
            reading: None,
            asked: time,
            welcomed: false,
            forward: None,
            rejection: None,
            outcome: None,
            first_byte: None,
            first_event: None,
            in_flight: None,
            active: Active::new(active),
        })
    }

    /// How errors of this request are worded.
    pub fn dialect(&self) -> Option<&Dialect> {
        let surface = self.snapshot.surfaces.get(self.surface?)?;
        Some(&surface.dialect)
    }

    /// Tells how the attempt under way has ended, if nobody has.
    pub fn end_attempt(&mut self, end: AttemptEnd) {
        let attempt = self
            .forward
            .as_mut()
            .and_then(|forward| forward.attempt.as_mut());
        if let Some(attempt) = attempt {
            attempt.end(&self.snapshot.recorder, end);
        }
    }

    /// The attempt under way.
    pub fn attempt(&self) -> Option<&Attempt> {
        self.forward.as_ref()?.attempt.as_ref()
    }
}

/// One unit of a gauge, given back when dropped.
pub struct Active(IntGauge);

impl Active {
    /// Counts one more.
    pub fn new(gauge: &IntGauge) -> Active {
        gauge.inc();
        Active(gauge.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}
