//! How a provider fails.

use std::time::Duration;

use clap::ValueEnum;

/// A way for a provider to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// Nobody listens; what is in flight ends, then its connection is closed.
    Refused,
    /// Accepts, and resets at once without reading.
    ResetUnread,
    /// Reads the request, and resets.
    ResetRead,
    /// Reads the request, and says nothing.
    Stalled,
    /// Answers 500.
    Status500,
    /// Answers 503.
    Status503,
    /// Answers 429 with `Retry-After: 5`.
    Status429,
    /// Answers 401: its key is bad.
    Status401,
    /// Sends half of a header, and closes its side.
    HalfClosed,
    /// Resets in the middle of a stream.
    StreamReset,
    /// Closes its side in the middle of a stream.
    StreamClosed,
    /// Sends no chunk where one has to come, in the middle of a stream.
    StreamGarbage,
}

impl Fault {
    /// Those before the first byte of an answer, in the order of the run.
    pub const BEFORE: [Fault; 9] = [
        Fault::Refused,
        Fault::ResetUnread,
        Fault::ResetRead,
        Fault::Stalled,
        Fault::Status500,
        Fault::Status503,
        Fault::Status429,
        Fault::Status401,
        Fault::HalfClosed,
    ];

    /// Those in the middle of a stream; answers in one piece are good ones.
    pub const WITHIN: [Fault; 3] = [
        Fault::StreamReset,
        Fault::StreamClosed,
        Fault::StreamGarbage,
    ];

    /// In the table.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Refused => "refuses connections",
            Fault::ResetUnread => "accepts, resets unread",
            Fault::ResetRead => "reads, resets",
            Fault::Stalled => "reads, says nothing",
            Fault::Status500 => "500",
            Fault::Status503 => "503",
            Fault::Status429 => "429, Retry-After: 5",
            Fault::Status401 => "401",
            Fault::HalfClosed => "half-close in the header",
            Fault::StreamReset => "reset in a stream",
            Fault::StreamClosed => "half-close in a stream",
            Fault::StreamGarbage => "garbage in a stream",
        }
    }

    /// What `retries.resend` must name for a request to be sent again: the provider may have begun to work. Of a
    /// connection that was reset nobody but the provider knows whether it had read the request.
    pub fn resend(self) -> &'static str {
        match self {
            Fault::ResetUnread | Fault::ResetRead | Fault::HalfClosed => "broken",
            Fault::Stalled => "first_byte",
            _ => "",
        }
    }

    /// The status, of one that answers, and a field of the header.
    pub fn status(self) -> Option<(u16, &'static str)> {
        match self {
            Fault::Status500 => Some((500, "")),
            Fault::Status503 => Some((503, "")),
            Fault::Status429 => Some((429, "retry-after: 5\r\n")),
            Fault::Status401 => Some((401, "")),
            _ => None,
        }
    }

    /// A provider that is well again has its share within this time: the longest time for which it is left out, with
    /// jitter, a probe, and its slow start. A key that was refused is left out for longer, as a human has to act.
    pub fn back(self) -> Duration {
        match self {
            Fault::Status401 => Duration::from_secs(60),
            _ => Duration::from_secs(10),
        }
    }

    /// Whether connections that wait for a request are closed, too.
    pub fn closes_idle(self) -> bool {
        matches!(self, Fault::Refused | Fault::ResetUnread)
    }
}
