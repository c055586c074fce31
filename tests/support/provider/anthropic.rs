//! Ordinary answers of the Anthropic API.

use serde_json::{Value, json};

use super::answers::{Answer, event, model, models, pieces};
use super::seen::Seen;
use super::usage::{CACHED, INPUT, OUTPUT};

pub(super) fn answer(seen: &Seen) -> Answer {
    let route = seen.route();
    if route.ends_with("/messages/count_tokens") {
        return Answer::Json(200, json!({ "input_tokens": INPUT }));
    }
    if route.ends_with("/messages") && seen.method == "POST" {
        let body = seen.json();
        return if body["stream"] == true {
            stream(seen, &body)
        } else {
            whole(seen, &body)
        };
    }
    if let Some((_, name)) = route.rsplit_once("/models") {
        let name = name.trim_start_matches('/');
        return Answer::Json(
            200,
            if name.is_empty() {
                models()
            } else {
                model(name)
            },
        );
    }
    Answer::Json(404, error(404, &format!("no such path: {route}")))
}

/// The tool that the answer calls: the first one, until a result has come back.
fn tool(body: &Value) -> Option<&str> {
    let answered = body["messages"].as_array()?.last()?["content"]
        .as_array()
        .is_some_and(|blocks| blocks.iter().any(|block| block["type"] == "tool_result"));
    if answered {
        None
    } else {
        body["tools"][0]["name"].as_str()
    }
}

fn message(seen: &Seen, content: &[Value], stop: Option<&str>, output: u64) -> Value {
    json!({
        "id": "msg_provider", "type": "message", "role": "assistant", "model": seen.model, "content": content,
        "stop_reason": stop, "stop_sequence": null, "usage": usage(output),
    })
}

fn usage(output: u64) -> Value {
    json!({
        "input_tokens": INPUT, "cache_creation_input_tokens": 0, "cache_read_input_tokens": CACHED, "output_tokens": output,
    })
}

fn whole(seen: &Seen, body: &Value) -> Answer {
    let (block, stop) = match tool(body) {
        Some(name) => (
            json!({ "type": "tool_use", "id": "toolu_provider", "name": name, "input": { "city": "Paris" } }),
            "tool_use",
        ),
        None => (
            json!({ "type": "text", "text": pieces(seen).concat() }),
            "end_turn",
        ),
    };
    Answer::Json(200, message(seen, &[block], Some(stop), OUTPUT))
}

fn stream(seen: &Seen, body: &Value) -> Answer {
    let (block, deltas, stop): (Value, Vec<Value>, &str) = match tool(body) {
        Some(name) => (
            json!({ "type": "tool_use", "id": "toolu_provider", "name": name, "input": {} }),
            ["", "{\"city\":", "\"Paris\"}"]
                .map(|piece| json!({ "type": "input_json_delta", "partial_json": piece }))
                .to_vec(),
            "tool_use",
        ),
        None => (
            json!({ "type": "text", "text": "" }),
            pieces(seen)
                .iter()
                .map(|piece| json!({ "type": "text_delta", "text": piece }))
                .collect(),
            "end_turn",
        ),
    };
    let mut events = vec![
        json!({ "type": "message_start", "message": message(seen, &[], None, 1) }),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
        json!({ "type": "ping" }),
    ];
    events.extend(
        deltas
            .iter()
            .map(|delta| json!({ "type": "content_block_delta", "index": 0, "delta": delta })),
    );
    events.push(json!({ "type": "content_block_stop", "index": 0 }));
    // Cumulative: these are the counts of the whole message, not of what came since the start.
    events.push(json!({ "type": "message_delta", "delta": { "stop_reason": stop, "stop_sequence": null }, "usage": usage(OUTPUT) }));
    events.push(json!({ "type": "message_stop" }));
    Answer::Events(
        events
            .iter()
            .map(|data| event(data["type"].as_str(), data))
            .collect(),
    )
}

pub(super) fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    };
    json!({ "type": "error", "error": { "type": kind, "message": message }, "request_id": "req_provider" })
}
