//! What the provider says when no script tells it otherwise: ordinary answers, and the misbehaviour
//! that a model's name asks for, so that a client can choose a scenario by the model alone.

use std::time::Duration;

use serde_json::{Value, json};

use super::script::Script;
use super::seen::Seen;
use super::{anthropic, openai};

/// The words of every ordinary answer.
pub const TEXT: &str = "Hello from the provider.";

/// Length of the ordinary speech, in bytes.
pub const SPEECH: usize = 8192;

/// The ordinary speech: every byte value, so that a re-encoding on the way would show.
pub fn speech_bytes() -> Vec<u8> {
    (0..SPEECH)
        .map(|i| ((i * 7 + i / 256) % 256) as u8)
        .collect()
}

/// Time between the events of `slow`.
const SLOW: Duration = Duration::from_millis(100);

/// An answer before it is put on the wire.
pub(super) enum Answer {
    Json(u16, Value),
    /// Whole events, blank line included.
    Events(Vec<String>),
    Bytes(&'static str, Vec<u8>),
}

/// The pieces of the answer's text, as a stream would bring them.
pub(super) fn pieces(seen: &Seen) -> Vec<String> {
    match seen.model.as_deref() {
        Some("big") => vec!["x".repeat(16 * 1024); 64],
        Some("echo") => vec![echo(seen).to_string()],
        _ => ["Hello", " from", " the", " provider."]
            .map(str::to_owned)
            .to_vec(),
    }
}

fn echo(seen: &Seen) -> Value {
    let body = match seen.json() {
        Value::Null => json!(String::from_utf8_lossy(&seen.body)),
        body => body,
    };
    json!({ "method": seen.method, "path": seen.path, "headers": seen.headers, "body": body })
}

/// The script for a request that no test has scripted. `flaky` fails until a request says that it is a retry.
pub(super) fn script(seen: &Seen) -> Script {
    let anthropic =
        seen.route().contains("/messages") || seen.header("anthropic-version").is_some();
    let model = seen.model.as_deref().unwrap_or_default();
    if let Some(status) = model
        .strip_prefix("status-")
        .and_then(|status| status.parse().ok())
    {
        return refusal(status, anthropic);
    }
    match model {
        "reset" => return Script::reset_at_once(),
        "stall" => return Script::silent(),
        "flaky"
            if seen
                .header("x-stainless-retry-count")
                .is_none_or(|count| count == "0") =>
        {
            return refusal(500, anthropic);
        }
        "garbage" => return Script::garbage("\u{1}\u{2}this is not HTTP\r\n\r\n\u{0}"),
        _ => {}
    }
    let answer = if anthropic {
        anthropic::answer(seen)
    } else {
        openai::answer(seen)
    };
    match answer {
        Answer::Json(status, value) => whole(model, status, &value, anthropic),
        Answer::Bytes(content_type, bytes) => {
            let script = Script::chunked(200).header("content-type", content_type);
            bytes
                .chunks(1024)
                .fold(script, |script, piece| script.chunk(piece.to_vec()))
        }
        Answer::Events(events) => stream(model, events, anthropic),
    }
}

/// The header that providers of this family name their request with.
fn named(script: Script, anthropic: bool) -> Script {
    script.header(
        if anthropic {
            "request-id"
        } else {
            "x-request-id"
        },
        "req_provider",
    )
}

fn whole(model: &str, status: u16, value: &Value, anthropic: bool) -> Script {
    let script =
        named(Script::answer(status), anthropic).header("content-type", "application/json");
    let text = value.to_string();
    let half = text[..text.len() / 2].to_owned();
    match model {
        "cut" => script.length(text.len()).chunk(half).cut(),
        "stall-mid" => script.length(text.len()).chunk(half).stall(),
        "slow" => script.wait(SLOW).chunk(text),
        _ => script.chunk(text),
    }
}

fn stream(model: &str, mut events: Vec<String>, anthropic: bool) -> Script {
    let script = named(Script::sse(), anthropic);
    let two = |script: Script| {
        events
            .iter()
            .take(2)
            .fold(script, |script, event| script.event(event))
    };
    match model {
        "cut" => {
            let third = events
                .get(2)
                .map_or("data: {", |event| &event[..event.len() / 2]);
            two(script).event(third).cut()
        }
        "cut-clean" => two(script),
        "stall-mid" => two(script).stall(),
        "slow" => events
            .iter()
            .fold(script, |script, event| script.event(event).wait(SLOW)),
        _ => {
            if model == "crlf" {
                events
                    .iter_mut()
                    .for_each(|event| *event = event.replace('\n', "\r\n"));
            }
            events
                .iter()
                .fold(script, |script, event| script.event(event))
        }
    }
}

/// An error of the provider's, in its family's form.
fn refusal(status: u16, anthropic: bool) -> Script {
    let message = format!("scripted status {status}");
    let script = named(Script::answer(status), anthropic);
    let script = if status == 429 {
        script.header("retry-after", "7")
    } else {
        script
    };
    if anthropic {
        script.json(&anthropic::error(status, &message))
    } else {
        script.json(&openai::error(status, &message))
    }
}

pub(super) fn event(name: Option<&str>, data: &Value) -> String {
    match name {
        Some(name) => format!("event: {name}\ndata: {data}\n\n"),
        None => format!("data: {data}\n\n"),
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(super) fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, i| {
            bits << 8 | u32::from(group.get(i).copied().unwrap_or(0))
        });
        for i in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= group.len() {
                letter as char
            } else {
                '='
            });
        }
    }
    text
}

/// The list that the SDKs of both families read to its end.
pub(super) fn models() -> Value {
    let names = [
        "gpt-test",
        "claude-test",
        "embed-test",
        "image-test",
        "speech-test",
        "transcribe-test",
    ];
    let list: Vec<Value> = names.iter().map(|name| model(name)).collect();
    json!({
        "object": "list", "data": list, "has_more": false, "first_id": names.first(), "last_id": names.last(),
    })
}

pub(super) fn model(name: &str) -> Value {
    json!({
        "id": name, "object": "model", "created": 1_700_000_000, "owned_by": "provider",
        "type": "model", "display_name": name, "created_at": "2023-11-14T22:13:20Z",
    })
}
