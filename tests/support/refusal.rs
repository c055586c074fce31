//! What all refusals have in common, whatever refused.

use serde_json::Value;

use super::http::Response;

/// Whose envelope an error has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    OpenAi,
    Anthropic,
}

/// Checks the status, the envelope to the last field and the headers that every refusal carries;
/// gives the `error` object.
#[track_caller]
pub fn refused(answer: &Response, envelope: Envelope, status: u16, code: &str) -> Value {
    let error = framed(answer, envelope);
    let found = match envelope {
        Envelope::OpenAi => &error["code"],
        Envelope::Anthropic => &error["details"]["error_code"],
    };
    assert_eq!(
        (answer.status, found.as_str()),
        (status, Some(code)),
        "{}",
        answer.text()
    );
    error
}

/// The same without a certain status or code: only that it is a refusal of the gateway's own.
#[track_caller]
pub fn framed(answer: &Response, envelope: Envelope) -> Value {
    let text = answer.text();
    assert!(answer.status >= 400, "{}: {text}", answer.status);
    assert_eq!(answer.broken, None, "{text}");
    assert_eq!(answer.header_all("content-type"), ["application/json"]);
    assert_eq!(
        answer.header("content-length"),
        Some(&*answer.body.len().to_string())
    );
    let id = answer.header("x-request-id").unwrap_or_default();
    assert!(!id.is_empty(), "no x-request-id: {:?}", answer.headers);
    assert_eq!(answer.header_all("x-request-id"), [id]);
    assert_eq!(answer.header_all("request-id"), [id]);
    let body = answer.json();
    let error = body["error"].clone();
    let expected: (&[&str], &[&str]) = match envelope {
        // A cap also says when its period ends.
        Envelope::OpenAi if error["code"] == "spend_cap_reached" => (
            &["error"],
            &["message", "type", "param", "code", "resets_at"],
        ),
        Envelope::OpenAi => (&["error"], &["message", "type", "param", "code"]),
        Envelope::Anthropic => {
            assert_eq!(body["type"], "error");
            assert_eq!(body["request_id"], id);
            (
                &["type", "error", "request_id"],
                &["type", "message", "details"],
            )
        }
    };
    assert_eq!(fields(&body), expected.0, "{text}");
    assert_eq!(fields(&error), expected.1, "{text}");
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| text.len() > 10),
        "{text}"
    );
    error
}

fn fields(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .map(|object| object.keys().map(String::as_str).collect())
        .unwrap_or_default()
}
