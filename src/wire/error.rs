//! Rejection → envelope: status, headers and JSON body in the dialect of the mount.

use crate::rejection::{Code, Rejection, Retry};
use crate::route::Api;
use crate::wire::json::encode_string;
use std::collections::HashMap;
use std::time::Duration;

/// How a mount words its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// OpenAI's or Anthropic's own envelope, as the endpoint's protocol asks.
    Native,
    /// OpenAI's envelope with `type` naming the failure.
    Typed,
    /// OpenAI's envelope with top-level `code` and `msg` beside it.
    CodeMsg,
}

/// The error settings of one mount.
#[derive(Clone, Debug)]
pub struct Dialect {
    /// Wording.
    pub style: Style,
    /// Codes whose status the operator changed.
    pub statuses: HashMap<&'static str, u16>,
    /// A literal `Retry-After` for every 429, in seconds.
    pub retry_after: Option<u32>,
}

impl Default for Dialect {
    fn default() -> Self {
        Dialect {
            style: Style::Native,
            statuses: HashMap::new(),
            retry_after: None,
        }
    }
}

/// An error answer, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// HTTP status.
    pub status: u16,
    /// Headers beside content type, length, request id and the wait.
    pub headers: Vec<(&'static str, &'static str)>,
    /// `Retry-After` in seconds, and in milliseconds.
    pub retry: Option<(u64, u64)>,
    /// JSON text.
    pub body: String,
}

/// The longest `Retry-After` ever sent, in seconds: one SDK sleeps for any value, another refuses
/// to retry at all above it.
pub const RETRY_AFTER_MAX: u64 = 60;

/// 529 is what Anthropic's own API answers when it is overloaded, and what its SDK knows.
const ANTHROPIC_OVERLOADED: u16 = 529;

impl Dialect {
    /// The envelope of a rejection on an endpoint of this mount.
    pub fn envelope(&self, rejection: &Rejection, api: Api, request_id: &str) -> Envelope {
        let (headers, retry) = self.headers(rejection);
        Envelope {
            status: self.status(rejection.code, api),
            headers,
            retry,
            body: self.body(rejection, api, request_id),
        }
    }

    /// The error object alone, as it appears inside a stream that breaks. Written by hand: under a flood
    /// of refusals it is what the gateway does most.
    pub fn body(&self, rejection: &Rejection, api: Api, request_id: &str) -> String {
        let row = rejection.code.row();
        let mut text = Vec::with_capacity(192 + 2 * rejection.message.len());
        if api == Api::Anthropic {
            member(
                &mut text,
                br#"{"type":"error","error":{"type":"#,
                row.anthropic_type,
            );
            member(&mut text, br#","message":"#, &rejection.message);
            member(&mut text, br#","details":{"error_code":"#, row.code);
            resets_at(&mut text, rejection);
            member(&mut text, br#"}},"request_id":"#, request_id);
            text.push(b'}');
            return utf8(text);
        }
        let (kind, code) = match self.style {
            Style::Typed => row.typed,
            Style::Native | Style::CodeMsg => (row.openai_type, row.code),
        };
        member(&mut text, br#"{"error":{"message":"#, &rejection.message);
        member(&mut text, br#","type":"#, kind);
        match rejection.param {
            Some(param) => member(&mut text, br#","param":"#, param),
            None => text.extend_from_slice(br#","param":null"#),
        }
        member(&mut text, br#","code":"#, code);
        resets_at(&mut text, rejection);
        text.push(b'}');
        if self.style == Style::CodeMsg {
            member(&mut text, br#","code":7,"msg":"#, &rejection.message);
        }
        text.push(b'}');
        utf8(text)
    }

    fn status(&self, code: Code, api: Api) -> u16 {
        let row = code.row();
        match self.statuses.get(row.code) {
            Some(status) => *status,
            None if api == Api::Anthropic && code == Code::ServerIsOverloaded => {
                ANTHROPIC_OVERLOADED
            }
            None => row.status,
        }
    }

    /// Headers, and the wait.
    fn headers(&self, rejection: &Rejection) -> (Headers, Option<(u64, u64)>) {
        let mut headers = Vec::new();
        if let Some(allow) = rejection.allow {
            headers.push(("allow", allow));
        }
        let never = ("x-should-retry", "false");
        match rejection.code.row().retry {
            Retry::Unsaid => {}
            Retry::Never => headers.push(never),
            Retry::After(seconds) => {
                let wait = rejection
                    .retry_after
                    .unwrap_or(Duration::from_secs(u64::from(seconds)));
                let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                let whole = millis.div_ceil(1000);
                if whole <= RETRY_AFTER_MAX {
                    let literal = self
                        .retry_after
                        .filter(|_| rejection.code.row().status == 429);
                    let shown = literal.map_or(whole, u64::from);
                    return (headers, Some((shown, millis)));
                }
                headers.push(never);
            }
        }
        (headers, None)
    }
}

type Headers = Vec<(&'static str, &'static str)>;

fn resets_at(text: &mut Vec<u8>, rejection: &Rejection) {
    let at = rejection.resets_at.and_then(|at| at.try_into().ok());
    let at: Option<jiff::Timestamp> = at;
    if let Some(at) = at {
        member(text, br#","resets_at":"#, &at.to_string());
    }
}

fn member(text: &mut Vec<u8>, before: &[u8], value: &str) {
    text.extend_from_slice(before);
    encode_string(value, text);
}

fn utf8(text: Vec<u8>) -> String {
    // All that was put in was.
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parsed(envelope: &Envelope) -> Value {
        serde_json::from_str(&envelope.body).unwrap()
    }

    #[test]
    fn a_cap_says_when_its_period_ends() {
        let at = std::time::UNIX_EPOCH + Duration::from_secs(1_796_140_800);
        let rejection = Rejection::new(Code::SpendCapReached, "Over.").resets_at(Some(at));
        let openai = Dialect::default().envelope(&rejection, Api::OpenAi, "req_1");
        assert_eq!(
            parsed(&openai)["error"]["resets_at"],
            "2026-12-01T16:00:00Z"
        );
        let anthropic = Dialect::default().envelope(&rejection, Api::Anthropic, "req_1");
        let details = &parsed(&anthropic)["error"]["details"];
        assert_eq!(details["resets_at"], "2026-12-01T16:00:00Z");
        assert_eq!(details["error_code"], "spend_cap_reached");
    }

    #[test]
    fn openai_envelope_has_its_four_fields() {
        let rejection = Rejection::new(Code::ModelNotFound, "Unknown model 'x'.").param("model");
        let envelope = Dialect::default().envelope(&rejection, Api::OpenAi, "req_1");
        assert_eq!(envelope.status, 404);
        assert_eq!(
            parsed(&envelope),
            json!({"error": {"message": "Unknown model 'x'.", "type": "invalid_request_error",
                             "param": "model", "code": "model_not_found"}})
        );
    }

    #[test]
    fn anthropic_envelope_names_the_code_and_the_request() {
        let rejection = Rejection::new(Code::ServerIsOverloaded, "busy");
        let envelope = Dialect::default().envelope(&rejection, Api::Anthropic, "req_1");
        assert_eq!(envelope.status, 529);
        assert_eq!(
            parsed(&envelope),
            json!({"type": "error", "request_id": "req_1",
                   "error": {"type": "overloaded_error", "message": "busy",
                             "details": {"error_code": "server_is_overloaded"}}})
        );
    }

    #[test]
    fn other_dialects_keep_the_envelope_that_sdks_read() {
        let rejection = Rejection::new(Code::ModelNotFound, "no").param("model");
        let typed = Dialect {
            style: Style::Typed,
            ..Dialect::default()
        };
        let body: Value = serde_json::from_str(&typed.body(&rejection, Api::OpenAi, "r")).unwrap();
        assert_eq!(body["error"]["type"], "model_not_found");
        assert_eq!(body["error"]["code"], "unknown_model");
        let code_msg = Dialect {
            style: Style::CodeMsg,
            ..Dialect::default()
        };
        let body: Value =
            serde_json::from_str(&code_msg.body(&rejection, Api::OpenAi, "r")).unwrap();
        assert_eq!(body["code"], 7);
        assert_eq!(body["msg"], "no");
        assert_eq!(body["error"]["code"], "model_not_found");
    }

    #[test]
    fn a_mount_may_change_statuses_and_the_literal_wait() {
        let dialect = Dialect {
            statuses: HashMap::from([("spend_cap_reached", 429)]),
            retry_after: Some(60),
            ..Dialect::default()
        };
        let cap = Rejection::new(Code::SpendCapReached, "cap");
        assert_eq!(dialect.envelope(&cap, Api::OpenAi, "r").status, 429);
        let rate = Rejection::new(Code::RateLimitExceeded, "rate")
            .retry_after(Some(Duration::from_millis(2100)));
        let envelope = dialect.envelope(&rate, Api::OpenAi, "r");
        assert_eq!(envelope.retry, Some((60, 2100)));
    }

    #[test]
    fn waits_round_up_and_long_ones_stop_the_retries() {
        let wait = |ms| {
            let rejection = Rejection::new(Code::RateLimitExceeded, "rate")
                .retry_after(Some(Duration::from_millis(ms)));
            let envelope = Dialect::default().envelope(&rejection, Api::OpenAi, "r");
            (envelope.headers, envelope.retry)
        };
        assert_eq!(wait(2001), (vec![], Some((3, 2001))));
        assert_eq!(wait(60_000), (vec![], Some((60, 60_000))));
        assert_eq!(wait(60_001), (vec![("x-should-retry", "false")], None));
    }

    #[test]
    fn every_code_has_an_answer_on_both_apis() {
        for code in Code::ALL {
            for api in [Api::OpenAi, Api::Anthropic] {
                let envelope = Dialect::default().envelope(&Rejection::new(code, "m"), api, "r");
                assert!((400..600).contains(&envelope.status), "{code:?}");
                assert!(parsed(&envelope)["error"]["type"].is_string());
            }
        }
    }
}
