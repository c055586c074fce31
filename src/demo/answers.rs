//! What the built-in provider says. Above 400 lines only with its tests.

use bytes::Bytes;
use serde_json::{Value, json};

/// Events, each with its blank line.
pub type Stream = Vec<String>;

/// An answer in one of its forms.
pub enum Answer {
    /// JSON.
    Json(Value),
    /// An event stream.
    Stream(Stream),
    /// A sound.
    Audio(Bytes),
    /// No such endpoint.
    Unknown,
}

/// An error body in OpenAI's form.
pub fn error(message: &str) -> Value {
    json!({ "error": { "message": message, "type": "invalid_request_error", "param": null, "code": null } })
}

/// Answers a request.
pub fn answer(path: &str, request: &Value) -> Answer {
    let model = request["model"].as_str().unwrap_or("demo");
    let streamed = request["stream"] == true;
    let said = said(request);
    let reply = format!("This is Tollgate's demo provider. You said: {said}");
    let tokens = Tokens {
        input: words(&said).max(1),
        output: words(&reply),
    };
    match path {
        "/v1/chat/completions" if streamed => {
            let usage = request["stream_options"]["include_usage"] == true;
            Answer::Stream(chat_stream(model, &reply, tokens, usage))
        }
        "/v1/chat/completions" => Answer::Json(json!({
            "id": "chatcmpl-demo",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": reply },
                "finish_reason": "stop",
            }],
            "usage": tokens.chat(),
        })),
        "/v1/completions" => Answer::Json(json!({
            "id": "cmpl-demo",
            "object": "text_completion",
            "created": 0,
            "model": model,
            "choices": [{ "index": 0, "text": reply, "finish_reason": "stop", "logprobs": null }],
            "usage": tokens.chat(),
        })),
        "/v1/responses" if streamed => Answer::Stream(responses_stream(model, &reply, tokens)),
        "/v1/responses" => {
            Answer::Json(response(model, "completed", &[item(&reply)], Some(tokens)))
        }
        "/v1/messages" if streamed => Answer::Stream(messages_stream(model, &reply, tokens)),
        "/v1/messages" => Answer::Json(json!({
            "id": "msg_demo",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{ "type": "text", "text": reply }],
            "stop_reason": "end_turn",
            "stop_sequence": null,
            "usage": tokens.named(),
        })),
        "/v1/messages/count_tokens" => Answer::Json(json!({ "input_tokens": tokens.input })),
        "/v1/embeddings" => Answer::Json(embeddings(model, request, tokens)),
        "/v1/moderations" => Answer::Json(json!({
            "id": "modr-demo",
            "model": model,
            "results": [{ "flagged": false, "categories": {}, "category_scores": {} }],
        })),
        "/v1/rerank" => Answer::Json(rerank(model, request, tokens)),
        "/v1/images/generations" | "/v1/images/edits" => Answer::Json(json!({
            "created": 0,
            "data": [{ "b64_json": PIXEL }],
            "usage": tokens.named(),
        })),
        "/v1/audio/speech" => Answer::Audio(silence()),
        "/v1/audio/transcriptions" | "/v1/audio/translations" => {
            Answer::Json(json!({ "text": "This is Tollgate's demo provider." }))
        }
        _ => Answer::Unknown,
    }
}

#[derive(Clone, Copy)]
struct Tokens {
    input: usize,
    output: usize,
}

impl Tokens {
    /// In the words of chat completions.
    fn chat(self) -> Value {
        json!({
            "prompt_tokens": self.input,
            "completion_tokens": self.output,
            "total_tokens": self.input + self.output,
        })
    }

    /// In the words that all newer APIs share.
    fn named(self) -> Value {
        json!({
            "input_tokens": self.input,
            "output_tokens": self.output,
            "total_tokens": self.input + self.output,
        })
    }
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// The last thing that the request says, at most 200 characters of it.
fn said(request: &Value) -> String {
    let last = match (&request["messages"], &request["input"], &request["prompt"]) {
        (Value::Array(messages), _, _) => messages.last().map(|message| &message["content"]),
        (_, Value::Array(items), _) => items.last(),
        (_, Value::Null, prompt) => Some(prompt),
        (_, input, _) => Some(input),
    };
    let text = match last {
        Some(Value::String(text)) => text.as_str(),
        Some(Value::Array(parts)) => parts
            .iter()
            .find_map(|part| part["text"].as_str())
            .unwrap_or_default(),
        Some(item) => item["content"].as_str().unwrap_or_default(),
        None => "",
    };
    text.chars().take(200).collect()
}

/// The text in pieces of a word, as a model would stream it.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(' ')
}

fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn named(value: &Value) -> String {
    let name = value["type"].as_str().unwrap_or_default();
    format!("event: {name}\ndata: {value}\n\n")
}

fn chat_stream(model: &str, reply: &str, tokens: Tokens, usage: bool) -> Stream {
    let chunk = |choices: Value, usage: Value| {
        data(&json!({
            "id": "chatcmpl-demo",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": model,
            "choices": choices,
            "usage": usage,
        }))
    };
    let delta = |delta: Value, finish: Value| {
        chunk(
            json!([{ "index": 0, "delta": delta, "finish_reason": finish }]),
            Value::Null,
        )
    };
    let mut stream = vec![delta(
        json!({ "role": "assistant", "content": "" }),
        Value::Null,
    )];
    stream.extend(pieces(reply).map(|piece| delta(json!({ "content": piece }), Value::Null)));
    stream.push(delta(json!({}), json!("stop")));
    if usage {
        stream.push(chunk(json!([]), tokens.chat()));
    }
    stream.push("data: [DONE]\n\n".to_owned());
    stream
}

fn messages_stream(model: &str, reply: &str, tokens: Tokens) -> Stream {
    let start = json!({
        "type": "message_start",
        "message": {
            "id": "msg_demo", "type": "message", "role": "assistant", "model": model,
            "content": [], "stop_reason": null, "stop_sequence": null,
            "usage": { "input_tokens": tokens.input, "output_tokens": 1 },
        },
    });
    let mut stream = vec![
        named(&start),
        named(
            &json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
        ),
    ];
    stream.extend(pieces(reply).map(|piece| {
        named(&json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": piece } }))
    }));
    stream.push(named(&json!({ "type": "content_block_stop", "index": 0 })));
    stream.push(named(&json!({
        "type": "message_delta",
        "delta": { "stop_reason": "end_turn", "stop_sequence": null },
        "usage": { "output_tokens": tokens.output },
    })));
    stream.push(named(&json!({ "type": "message_stop" })));
    stream
}

fn item(reply: &str) -> Value {
    json!({
        "id": "msg_demo", "type": "message", "role": "assistant", "status": "completed",
        "content": [{ "type": "output_text", "text": reply, "annotations": [] }],
    })
}

fn response(model: &str, status: &str, output: &[Value], tokens: Option<Tokens>) -> Value {
    json!({
        "id": "resp_demo",
        "object": "response",
        "created_at": 0,
        "status": status,
        "error": null,
        "incomplete_details": null,
        "model": model,
        "output": output,
        "parallel_tool_calls": true,
        "tool_choice": "auto",
        "tools": [],
        "usage": tokens.map(Tokens::named),
    })
}

fn responses_stream(model: &str, reply: &str, tokens: Tokens) -> Stream {
    let started = response(model, "in_progress", &[], None);
    let empty = json!({ "id": "msg_demo", "type": "message", "role": "assistant", "status": "in_progress", "content": [] });
    let place = |kind: &str, more: Value| {
        let mut event =
            json!({ "type": kind, "item_id": "msg_demo", "output_index": 0, "content_index": 0 });
        if let (Some(event), Value::Object(more)) = (event.as_object_mut(), more) {
            event.extend(more);
        }
        event
    };
    let mut events = vec![
        json!({ "type": "response.created", "response": started }),
        json!({ "type": "response.output_item.added", "output_index": 0, "item": empty }),
        place(
            "response.content_part.added",
            json!({ "part": { "type": "output_text", "text": "", "annotations": [] } }),
        ),
    ];
    events.extend(
        pieces(reply).map(|piece| place("response.output_text.delta", json!({ "delta": piece }))),
    );
    events.push(place("response.output_text.done", json!({ "text": reply })));
    events.push(place(
        "response.content_part.done",
        json!({ "part": { "type": "output_text", "text": reply, "annotations": [] } }),
    ));
    events.push(
        json!({ "type": "response.output_item.done", "output_index": 0, "item": item(reply) }),
    );
    events.push(json!({
        "type": "response.completed",
        "response": response(model, "completed", &[item(reply)], Some(tokens)),
    }));
    events
        .iter_mut()
        .enumerate()
        .map(|(number, event)| {
            event["sequence_number"] = json!(number);
            named(event)
        })
        .collect()
}

/// Eight numbers that depend on the text alone.
fn embeddings(model: &str, request: &Value, tokens: Tokens) -> Value {
    let inputs: Vec<&str> = match &request["input"] {
        Value::Array(texts) => texts
            .iter()
            .map(|text| text.as_str().unwrap_or(""))
            .collect(),
        text => vec![text.as_str().unwrap_or("")],
    };
    let as_base64 = request["encoding_format"] == "base64";
    let vectors: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let vector = vector(text);
            let embedding = match as_base64 {
                true => {
                    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                    json!(base64(&bytes))
                }
                false => json!(vector),
            };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        })
        .collect();
    json!({
        "object": "list",
        "model": model,
        "data": vectors,
        "usage": { "prompt_tokens": tokens.input, "total_tokens": tokens.input },
    })
}

fn vector(text: &str) -> [f32; 8] {
    // FNV-1a (Fowler, Noll, Vo): any fixed mixing does.
    let mut hash: u32 = 0x811c_9dc5;
    for byte in text.bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    std::array::from_fn(|_| {
        hash = hash.wrapping_mul(0x0100_0193) ^ (hash >> 15);
        f32::from((hash >> 16) as u16) / 65_536.0
    })
}

fn rerank(model: &str, request: &Value, tokens: Tokens) -> Value {
    let count = request["documents"].as_array().map_or(0, Vec::len);
    let results: Vec<Value> = (0..count)
        .map(|index| json!({ "index": index, "relevance_score": 1.0 / (1.0 + index as f64) }))
        .collect();
    json!({
        "id": "rerank-demo",
        "model": model,
        "results": results,
        "usage": { "total_tokens": tokens.input },
    })
}

/// A PNG of one grey pixel.
const PIXEL: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==";

/// A tenth of a second of silence: RIFF, 8 kHz, 8 bits, mono.
fn silence() -> Bytes {
    const SAMPLES: u32 = 800;
    let mut wav = Vec::with_capacity(44 + SAMPLES as usize);
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(36 + SAMPLES).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend_from_slice(&8000u32.to_le_bytes());
    wav.extend_from_slice(&8000u32.to_le_bytes());
    wav.extend_from_slice(b"\x01\0\x08\0data");
    wav.extend_from_slice(&SAMPLES.to_le_bytes());
    wav.resize(44 + SAMPLES as usize, 0x80);
    wav.into()
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0u32, |bits, byte| (bits << 8) | u32::from(*byte))
            << (8 * (3 - group.len()));
        for digit in 0..4 {
            if digit <= group.len() {
                text.push(char::from(
                    ALPHABET[(bits >> (18 - 6 * digit)) as usize & 63],
                ));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_rfcs() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn answers_are_deterministic_and_streams_end_as_their_api_does() {
        let chat = json!({ "model": "m", "stream": true, "messages": [{ "role": "user", "content": "hi you" }] });
        for (path, end) in [
            ("/v1/chat/completions", "data: [DONE]\n\n"),
            (
                "/v1/messages",
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            ),
        ] {
            let (Answer::Stream(a), Answer::Stream(b)) = (answer(path, &chat), answer(path, &chat))
            else {
                panic!("{path} did not stream");
            };
            assert_eq!(a, b);
            assert_eq!(a.last().map(String::as_str), Some(end));
        }
        let Answer::Stream(events) = answer("/v1/responses", &chat) else {
            panic!("responses did not stream");
        };
        assert!(
            events
                .last()
                .is_some_and(|event| event.starts_with("event: response.completed\n"))
        );
        let Answer::Json(whole) = answer(
            "/v1/chat/completions",
            &json!({ "messages": [{ "content": "hi you" }] }),
        ) else {
            panic!("chat did not answer");
        };
        assert_eq!(whole["usage"]["prompt_tokens"], 2);
    }
}
