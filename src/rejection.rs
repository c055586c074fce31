//! Every refusal that a client can see: code, status, retry advice and words.
//!
//! Principle: 402, a human must act; 429, time heals it; 503, not available now. The table in
//! [`Code::row`] is the only source: `wire::error` turns it into envelopes, the documentation page
//! `docs/errors.md` and the tests are generated from it.

use std::time::{Duration, SystemTime};

/// Why a request was refused. The text form ([`Code::as_str`]) is what clients see as `code`, what
/// metrics carry as label, and what `statuses:` of a mount names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // each is described by its row
pub enum Code {
    MissingApiKey,
    InvalidApiKey,
    KeyExpired,
    KeyDisabled,
    NetworkNotAllowed,
    ModelNotAllowed,
    ModelNotFound,
    ModelPreview,
    InsufficientBalance,
    PackageExhausted,
    SpendCapReached,
    RateLimitExceeded,
    ConcurrencyLimit,
    RequestTooLarge,
    HeadersTooLarge,
    InvalidRequest,
    InvalidJson,
    DuplicateField,
    MissingRequiredParameter,
    InvalidValue,
    UnsupportedOperation,
    LengthRequired,
    RequestTimeout,
    NotFound,
    MethodNotAllowed,
    UpstreamAuth,
    UpstreamRateLimited,
    UpstreamError,
    UpstreamUnreachable,
    UpstreamTimeout,
    ServerIsOverloaded,
    TemporarilyUnavailable,
}

/// Whether and when a client should try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing is said: the status speaks for itself.
    Unsaid,
    /// `x-should-retry: false`: an SDK that retries this status would only waste time.
    Never,
    /// `Retry-After`, with this many seconds where the rejection knows no better.
    After(u32),
}

/// What the table says of one code.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The stable name that clients match on.
    pub code: &'static str,
    /// HTTP status, unless the mount maps the code to another one.
    pub status: u16,
    /// `error.type` of the OpenAI envelope.
    pub openai_type: &'static str,
    /// `error.type` of the Anthropic envelope.
    pub anthropic_type: &'static str,
    /// `error.type` and `error.code` of the `typed` dialect.
    pub typed: (&'static str, &'static str),
    /// Retry advice.
    pub retry: Retry,
    /// When it happens and what to do: one sentence for the documentation.
    pub meaning: &'static str,
}

const INVALID: &str = "invalid_request_error";

macro_rules! row {
    ($code:literal, $status:literal, $openai:expr, $anthropic:literal, $typed:expr, $retry:expr, $meaning:literal) => {
        Row {
            code: $code,
            status: $status,
            openai_type: $openai,
            anthropic_type: $anthropic,
            typed: ($typed, $code),
            retry: $retry,
            meaning: $meaning,
        }
    };
}

impl Code {
    /// Every code, in the order of the documentation.
    pub const ALL: [Code; 32] = [
        Code::MissingApiKey,
        Code::InvalidApiKey,
        Code::KeyExpired,
        Code::KeyDisabled,
        Code::NetworkNotAllowed,
        Code::ModelNotAllowed,
        Code::ModelNotFound,
        Code::ModelPreview,
        Code::InsufficientBalance,
        Code::PackageExhausted,
        Code::SpendCapReached,
        Code::RateLimitExceeded,
        Code::ConcurrencyLimit,
        Code::RequestTooLarge,
        Code::HeadersTooLarge,
        Code::InvalidRequest,
        Code::InvalidJson,
        Code::DuplicateField,
        Code::MissingRequiredParameter,
        Code::InvalidValue,
        Code::UnsupportedOperation,
        Code::LengthRequired,
        Code::RequestTimeout,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::UpstreamAuth,
        Code::UpstreamRateLimited,
        Code::UpstreamError,
        Code::UpstreamUnreachable,
        Code::UpstreamTimeout,
        Code::ServerIsOverloaded,
        Code::TemporarilyUnavailable,
    ];

    /// The table's row of this code.
    #[rustfmt::skip]
    pub const fn row(self) -> Row {
        use Retry::{After, Never, Unsaid};
        match self {
            Code::MissingApiKey => row!("missing_api_key", 401, INVALID, "authentication_error", "invalid_api_key", Unsaid, "No key was sent: send `Authorization: Bearer KEY` or `X-API-Key: KEY`."),
            Code::InvalidApiKey => row!("invalid_api_key", 401, INVALID, "authentication_error", "invalid_api_key", Unsaid, "The key is unknown, or two different keys were sent."),
            Code::KeyExpired => row!("key_expired", 401, INVALID, "authentication_error", "invalid_api_key", Unsaid, "The key's expiry has passed: create a new one."),
            Code::KeyDisabled => row!("key_disabled", 401, INVALID, "authentication_error", "invalid_api_key", Unsaid, "The key was disabled by its operator."),
            Code::NetworkNotAllowed => row!("network_not_allowed", 403, INVALID, "permission_error", INVALID, Unsaid, "The key may not be used from the client's network."),
            Code::ModelNotAllowed => row!("model_not_allowed", 403, INVALID, "permission_error", INVALID, Unsaid, "The key or its plan does not include the model."),
            Code::ModelNotFound => Row { typed: ("model_not_found", "unknown_model"), ..row!("model_not_found", 404, INVALID, "not_found_error", "model_not_found", Unsaid, "No model has this id; ids are case-sensitive: copy one from `GET models`.") },
            Code::ModelPreview => row!("model_preview", 503, "model_unavailable", "api_error", "model_unavailable", Never, "The model is listed but not open yet: ask the operator for access.") ,
            Code::InsufficientBalance => row!("insufficient_balance", 402, "insufficient_quota", "billing_error", "insufficient_credit", Unsaid, "The account's balance is used up: top it up."),
            Code::PackageExhausted => row!("package_exhausted", 402, "insufficient_quota", "billing_error", "insufficient_credit", Unsaid, "The key's token package is used up or expired: buy another or switch the key to pay-as-you-go."),
            Code::SpendCapReached => row!("spend_cap_reached", 402, "insufficient_quota", "billing_error", "insufficient_credit", Unsaid, "The key's daily or monthly cap is reached: raise it or wait for the new period."),
            Code::RateLimitExceeded => row!("rate_limit_exceeded", 429, "rate_limit_error", "rate_limit_error", "rate_limited", After(1), "The request or token rate is reached: wait as `Retry-After` says."),
            Code::ConcurrencyLimit => row!("concurrency_limit", 429, "rate_limit_error", "rate_limit_error", "rate_limited", After(1), "Too many requests of this key are in flight."),
            Code::RequestTooLarge => row!("request_too_large", 413, INVALID, "request_too_large", INVALID, Unsaid, "The body is above the gateway's limit."),
            Code::HeadersTooLarge => row!("headers_too_large", 431, INVALID, "invalid_request_error", INVALID, Unsaid, "The request's headers are above the gateway's limit."),
            Code::InvalidRequest => row!("invalid_request", 400, INVALID, "invalid_request_error", INVALID, Unsaid, "The request is not well-formed HTTP, or its target is not a plain path."),
            Code::InvalidJson => row!("invalid_json", 400, INVALID, "invalid_request_error", INVALID, Unsaid, "The body is not a JSON object."),
            Code::DuplicateField => row!("duplicate_field", 400, INVALID, "invalid_request_error", INVALID, Unsaid, "A field that decides routing or billing appears twice, or in another spelling."),
            Code::MissingRequiredParameter => row!("missing_required_parameter", 400, INVALID, "invalid_request_error", INVALID, Unsaid, "A required field is missing."),
            Code::InvalidValue => row!("invalid_value", 400, INVALID, "invalid_request_error", INVALID, Unsaid, "A field has a value of the wrong kind."),
            Code::UnsupportedOperation => row!("unsupported_operation", 400, INVALID, "invalid_request_error", INVALID, Unsaid, "The model is not served over this API: call it on the other one."),
            Code::LengthRequired => row!("length_required", 411, INVALID, "invalid_request_error", INVALID, Unsaid, "A body without a length that is too long to be sent twice."),
            Code::RequestTimeout => row!("request_timeout", 408, INVALID, "invalid_request_error", INVALID, Unsaid, "The body did not arrive in time."),
            Code::NotFound => row!("not_found", 404, INVALID, "not_found_error", INVALID, Unsaid, "No endpoint has this path."),
            Code::MethodNotAllowed => row!("method_not_allowed", 405, INVALID, "invalid_request_error", INVALID, Unsaid, "The endpoint exists for another method: see `Allow`."),
            Code::UpstreamAuth => row!("upstream_auth", 502, "upstream_error", "api_error", "upstream_error", Never, "The provider refused the gateway's own credential: the operator must act."),
            Code::UpstreamRateLimited => row!("upstream_rate_limited", 429, "rate_limit_error", "rate_limit_error", "rate_limited", After(1), "The provider limits the gateway: wait as `Retry-After` says."),
            Code::UpstreamError => row!("upstream_error", 502, "upstream_error", "api_error", "upstream_error", Unsaid, "The provider failed."),
            Code::UpstreamUnreachable => row!("upstream_unreachable", 502, "upstream_error", "api_error", "upstream_error", Unsaid, "The provider could not be reached."),
            Code::UpstreamTimeout => row!("upstream_timeout", 504, "upstream_error", "timeout_error", "upstream_timeout", Unsaid, "The provider did not answer in time."),
            Code::ServerIsOverloaded => row!("server_is_overloaded", 503, "server_error", "overloaded_error", "model_unavailable", After(1), "No upstream of the model, or not the gateway itself, can take the request now."),
            Code::TemporarilyUnavailable => row!("temporarily_unavailable", 503, "server_error", "api_error", "model_unavailable", After(5), "The gateway cannot store what the request needs right now: try again."),
        }
    }

    /// Whether it is the upstream that failed.
    pub const fn is_upstreams(self) -> bool {
        matches!(
            self,
            Code::UpstreamAuth
                | Code::UpstreamRateLimited
                | Code::UpstreamError
                | Code::UpstreamUnreachable
                | Code::UpstreamTimeout
                | Code::ServerIsOverloaded
        )
    }

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        self.row().code
    }
}

/// The names of every code: what `statuses:` of a mount may use.
pub const CODES: [&str; Code::ALL.len()] = {
    let mut names = [""; Code::ALL.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = Code::ALL[at].as_str();
        at += 1;
    }
    names
};

/// A refusal on its way to the client.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// Why.
    pub code: Code,
    /// What refused, the value, and what to do; never a secret.
    pub message: String,
    /// The body field at fault, for the envelope's `param`.
    pub param: Option<&'static str>,
    /// The true wait, where it is known.
    pub retry_after: Option<Duration>,
    /// Value of the `Allow` header, for a wrong method.
    pub allow: Option<&'static str>,
    /// When what is used up is there again.
    pub resets_at: Option<SystemTime>,
}

impl Rejection {
    /// A refusal with words of its own.
    pub fn new(code: Code, message: impl Into<String>) -> Rejection {
        Rejection {
            code,
            message: message.into(),
            param: None,
            retry_after: None,
            allow: None,
            resets_at: None,
        }
    }

    /// Names the body field at fault.
    pub fn param(mut self, param: &'static str) -> Rejection {
        self.param = Some(param);
        self
    }

    /// Says when what is used up is there again.
    pub fn resets_at(mut self, at: Option<SystemTime>) -> Rejection {
        self.resets_at = at;
        self
    }

    /// Says how long to wait.
    pub fn retry_after(mut self, wait: Option<Duration>) -> Rejection {
        self.retry_after = wait;
        self
    }
}

/// What a client sent, made fit for an error text: control characters escaped, cut at 100 characters.
pub fn quoted(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(100)
        .flat_map(|c| c.escape_debug())
        .collect();
    if text.chars().nth(100).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_once_under_its_own_place() {
        for (at, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, at);
            assert_eq!(CODES[at], code.as_str());
            assert_eq!(CODES.iter().filter(|c| **c == code.as_str()).count(), 1);
        }
    }

    #[test]
    fn the_status_follows_the_principle() {
        for code in Code::ALL {
            let row = code.row();
            match row.status {
                402 => assert_eq!(row.openai_type, "insufficient_quota"),
                429 => assert!(matches!(row.retry, Retry::After(_)), "{code:?}"),
                503 => assert_ne!(row.retry, Retry::Unsaid, "{code:?}"),
                _ => {}
            }
        }
    }

    #[test]
    fn quoted_text_cannot_break_a_line() {
        assert_eq!(quoted("a\r\nb\0"), "a\\r\\nb\\0");
        assert_eq!(quoted(&"x".repeat(300)).chars().count(), 101);
    }
}
