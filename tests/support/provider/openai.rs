//! Ordinary answers of the OpenAI API.

use serde_json::{Value, json};

use super::answers::{Answer, TEXT, base64, event, model, models, pieces, speech_bytes};
use super::seen::Seen;
use super::usage::{CACHED, IMAGE, INPUT, OUTPUT};

const CREATED: u64 = 1_700_000_000;

pub(super) fn answer(seen: &Seen) -> Answer {
    let path = seen
        .route()
        .trim_start_matches("/v1/")
        .trim_start_matches('/');
    let body = seen.json();
    let streams =
        body["stream"] == true || seen.field("stream").is_some_and(|stream| stream == "true");
    match (seen.method.as_str(), path) {
        ("POST", "chat/completions") if streams => chat_stream(seen, &body),
        ("POST", "chat/completions") => chat(seen, &body),
        ("POST", "completions") => completions(seen, &body, streams),
        ("POST", "embeddings") => embeddings(seen, &body),
        ("POST", "responses") => responses(seen, &body, streams),
        ("POST", "moderations") => moderations(seen, &body),
        ("POST", "rerank") => rerank(seen, &body),
        ("POST", "images/generations") => images(seen, body["n"].as_u64().unwrap_or(1)),
        ("POST", "images/edits") => images(
            seen,
            seen.field("n").and_then(|n| n.parse().ok()).unwrap_or(1),
        ),
        ("POST", "audio/speech") if body["stream_format"] == "sse" => speech_stream(),
        ("POST", "audio/speech") => Answer::Bytes("audio/mpeg", speech_bytes()),
        ("POST", "audio/transcriptions" | "audio/translations") => transcription(seen, streams),
        ("GET" | "HEAD", "models") => Answer::Json(200, models()),
        ("GET", path) if path.starts_with("models/") => {
            Answer::Json(200, model(&path["models/".len()..]))
        }
        _ => Answer::Json(
            404,
            error(404, &format!("no such path: {} {path}", seen.method)),
        ),
    }
}

/// The tool that the answer calls: the first one, until a result has come back.
fn tool(body: &Value) -> Option<&str> {
    let last = body["messages"]
        .as_array()
        .or(body["input"].as_array())
        .and_then(|turns| turns.last());
    if last.is_some_and(|turn| turn["role"] == "tool" || turn["type"] == "function_call_output") {
        return None;
    }
    let tool = &body["tools"][0];
    tool["function"]["name"].as_str().or(tool["name"].as_str())
}

fn chat_usage() -> Value {
    json!({
        "prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT,
        "prompt_tokens_details": { "cached_tokens": CACHED }, "completion_tokens_details": { "reasoning_tokens": 0 },
    })
}

fn chat(seen: &Seen, body: &Value) -> Answer {
    let (message, finish) = match tool(body) {
        Some(name) => {
            let call = json!({ "id": "call_provider", "type": "function", "function": { "name": name, "arguments": "{\"city\":\"Paris\"}" } });
            (
                json!({ "role": "assistant", "content": null, "tool_calls": [call] }),
                "tool_calls",
            )
        }
        None => (
            json!({ "role": "assistant", "content": pieces(seen).concat() }),
            "stop",
        ),
    };
    Answer::Json(
        200,
        json!({
            "id": "chatcmpl-provider", "object": "chat.completion", "created": CREATED, "model": seen.model,
            "choices": [{ "index": 0, "message": message, "logprobs": null, "finish_reason": finish }],
            "usage": chat_usage(), "system_fingerprint": "fp_provider",
        }),
    )
}

fn chat_stream(seen: &Seen, body: &Value) -> Answer {
    let wants_usage = body["stream_options"]["include_usage"] == true;
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = json!({
            "id": "chatcmpl-provider", "object": "chat.completion.chunk", "created": CREATED, "model": seen.model,
            "system_fingerprint": "fp_provider", "choices": choices,
        });
        // With usage asked for, every chunk has the field and only the last one has the numbers.
        if wants_usage {
            chunk["usage"] = usage;
        }
        event(None, &chunk)
    };
    let delta = |delta: Value, finish: Value| {
        chunk(
            json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]),
            Value::Null,
        )
    };
    let mut events = Vec::new();
    let finish = match tool(body) {
        Some(name) => {
            let call = json!({ "index": 0, "id": "call_provider", "type": "function", "function": { "name": name, "arguments": "" } });
            events.push(delta(
                json!({ "role": "assistant", "content": null, "tool_calls": [call] }),
                Value::Null,
            ));
            for piece in ["{\"city\":", "\"Paris\"}"] {
                events.push(delta(
                    json!({ "tool_calls": [{ "index": 0, "function": { "arguments": piece } }] }),
                    Value::Null,
                ));
            }
            "tool_calls"
        }
        None => {
            events.push(delta(
                json!({ "role": "assistant", "content": "" }),
                Value::Null,
            ));
            events.extend(
                pieces(seen)
                    .iter()
                    .map(|piece| delta(json!({ "content": piece }), Value::Null)),
            );
            "stop"
        }
    };
    events.push(delta(json!({}), json!(finish)));
    if wants_usage {
        events.push(chunk(json!([]), chat_usage()));
    }
    events.push("data: [DONE]\n\n".to_owned());
    Answer::Events(events)
}

fn completions(seen: &Seen, body: &Value, streams: bool) -> Answer {
    let answer = |choices: Value, usage: Value| json!({ "id": "cmpl-provider", "object": "text_completion", "created": CREATED, "model": seen.model, "choices": choices, "usage": usage });
    let choice = |text: &str, finish: Value| json!([{ "index": 0, "text": text, "logprobs": null, "finish_reason": finish }]);
    if !streams {
        return Answer::Json(
            200,
            answer(choice(&pieces(seen).concat(), json!("stop")), chat_usage()),
        );
    }
    let mut events: Vec<String> = pieces(seen)
        .iter()
        .map(|piece| event(None, &answer(choice(piece, Value::Null), Value::Null)))
        .collect();
    events.push(event(None, &answer(choice("", json!("stop")), Value::Null)));
    if body["stream_options"]["include_usage"] == true {
        events.push(event(None, &answer(json!([]), chat_usage())));
    }
    events.push("data: [DONE]\n\n".to_owned());
    Answer::Events(events)
}

fn embeddings(seen: &Seen, body: &Value) -> Answer {
    // A list of numbers is one input of tokens; any other list is a list of inputs.
    let count = body["input"]
        .as_array()
        .filter(|list| !list.first().is_some_and(Value::is_number))
        .map_or(1, Vec::len);
    let data: Vec<Value> = (0..count)
        .map(|index| {
            let vector = [0.5f32, -0.25, 0.125, index as f32];
            let embedding = if body["encoding_format"] == "base64" {
                let bytes: Vec<u8> = vector
                    .iter()
                    .flat_map(|number| number.to_le_bytes())
                    .collect();
                json!(base64(&bytes))
            } else {
                json!(vector)
            };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        })
        .collect();
    let usage = json!({ "prompt_tokens": INPUT, "total_tokens": INPUT });
    Answer::Json(
        200,
        json!({ "object": "list", "data": data, "model": seen.model, "usage": usage }),
    )
}

fn responses(seen: &Seen, body: &Value, streams: bool) -> Answer {
    let response = |status: &str, output: Vec<Value>, done: bool| {
        let usage = json!({
            "input_tokens": INPUT, "input_tokens_details": { "cached_tokens": CACHED },
            "output_tokens": OUTPUT, "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": INPUT + OUTPUT,
        });
        json!({
            "id": "resp_provider", "object": "response", "created_at": CREATED, "status": status, "model": seen.model,
            "output": output, "error": null, "incomplete_details": null, "instructions": null, "metadata": {},
            "parallel_tool_calls": true, "tool_choice": "auto", "tools": body["tools"].as_array().cloned().unwrap_or_default(),
            "temperature": 1.0, "top_p": 1.0, "usage": if done { usage } else { Value::Null },
        })
    };
    let (text, called) = (pieces(seen).concat(), tool(body));
    let item = |status: &str, done: bool| match called {
        Some(name) => json!({
            "type": "function_call", "id": "fc_provider", "call_id": "call_provider", "status": status, "name": name,
            "arguments": if done { "{\"city\":\"Paris\"}" } else { "" },
        }),
        None => json!({
            "type": "message", "id": "msg_provider", "status": status, "role": "assistant",
            "content": if done { json!([{ "type": "output_text", "text": text, "annotations": [] }]) } else { json!([]) },
        }),
    };
    let item_done = item("completed", true);
    let complete = response("completed", vec![item_done.clone()], true);
    if !streams {
        return Answer::Json(200, complete);
    }
    let mut events = vec![
        json!({ "type": "response.created", "response": response("in_progress", Vec::new(), false) }),
        json!({ "type": "response.in_progress", "response": response("in_progress", Vec::new(), false) }),
        json!({ "type": "response.output_item.added", "output_index": 0, "item": item("in_progress", false) }),
    ];
    if called.is_some() {
        let place = |kind: &str, key: &str, value: &str| json!({ "type": kind, "item_id": "fc_provider", "output_index": 0, key: value });
        for piece in ["{\"city\":", "\"Paris\"}"] {
            events.push(place(
                "response.function_call_arguments.delta",
                "delta",
                piece,
            ));
        }
        events.push(place(
            "response.function_call_arguments.done",
            "arguments",
            "{\"city\":\"Paris\"}",
        ));
    } else {
        let place = |kind: &str, key: &str, value: Value| json!({ "type": kind, "item_id": "msg_provider", "output_index": 0, "content_index": 0, key: value });
        let part = |text: &str| json!({ "type": "output_text", "text": text, "annotations": [] });
        events.push(place("response.content_part.added", "part", part("")));
        for piece in pieces(seen) {
            let mut delta = place("response.output_text.delta", "delta", json!(piece));
            delta["logprobs"] = json!([]);
            events.push(delta);
        }
        let mut done = place("response.output_text.done", "text", json!(text));
        done["logprobs"] = json!([]);
        events.push(done);
        events.push(place("response.content_part.done", "part", part(&text)));
    }
    events
        .push(json!({ "type": "response.output_item.done", "output_index": 0, "item": item_done }));
    events.push(json!({ "type": "response.completed", "response": complete }));
    let numbered = events.into_iter().enumerate().map(|(number, mut data)| {
        data["sequence_number"] = json!(number);
        event(data["type"].as_str(), &data)
    });
    Answer::Events(numbered.collect())
}

fn moderations(seen: &Seen, body: &Value) -> Answer {
    let count = body["input"].as_array().map_or(1, Vec::len);
    let result = json!({
        "flagged": false, "categories": { "hate": false, "violence": false },
        "category_scores": { "hate": 0.01, "violence": 0.02 }, "category_applied_input_types": { "hate": ["text"], "violence": ["text"] },
    });
    Answer::Json(
        200,
        json!({ "id": "modr-provider", "model": seen.model, "results": vec![result; count] }),
    )
}

fn rerank(seen: &Seen, body: &Value) -> Answer {
    let documents = body["documents"].as_array().map_or(0, Vec::len);
    let count = body["top_n"]
        .as_u64()
        .map_or(documents, |n| (n as usize).min(documents));
    // The last document is the most relevant, so that an unsorted answer would show.
    let results: Vec<Value> =
        (0..count).map(|rank| json!({ "index": documents - 1 - rank, "relevance_score": 0.9 - 0.1 * rank as f64 })).collect();
    let usage = json!({ "prompt_tokens": INPUT, "total_tokens": INPUT });
    Answer::Json(
        200,
        json!({ "id": "rerank-provider", "model": seen.model, "results": results, "usage": usage }),
    )
}

fn images(seen: &Seen, count: u64) -> Answer {
    let data: Vec<Value> = (0..count)
        .map(|n| json!({ "b64_json": base64(format!("image {n}").as_bytes()) }))
        .collect();
    let output = IMAGE * count;
    let usage = json!({
        "input_tokens": INPUT, "input_tokens_details": { "text_tokens": INPUT, "image_tokens": 0 },
        "output_tokens": output, "total_tokens": INPUT + output,
    });
    Answer::Json(
        200,
        json!({ "created": CREATED, "model": seen.model, "data": data, "usage": usage }),
    )
}

fn audio_usage() -> Value {
    json!({ "input_tokens": INPUT, "output_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT })
}

fn speech_stream() -> Answer {
    let mut events: Vec<String> = speech_bytes()
        .chunks(1024)
        .map(|piece| {
            event(
                None,
                &json!({ "type": "speech.audio.delta", "audio": base64(piece) }),
            )
        })
        .collect();
    events.push(event(
        None,
        &json!({ "type": "speech.audio.done", "usage": audio_usage() }),
    ));
    Answer::Events(events)
}

fn transcription(seen: &Seen, streams: bool) -> Answer {
    let Some(file) = seen.parts().into_iter().find(|part| part.name == "file") else {
        return Answer::Json(400, error(400, "no file in the form"));
    };
    let text = format!("{TEXT} {} bytes.", file.data.len());
    if streams {
        return Answer::Events(vec![
            event(
                None,
                &json!({ "type": "transcript.text.delta", "delta": text }),
            ),
            event(
                None,
                &json!({ "type": "transcript.text.done", "text": text, "usage": audio_usage() }),
            ),
        ]);
    }
    match seen.field("response_format").as_deref() {
        Some("text") => Answer::Bytes("text/plain; charset=utf-8", text.into_bytes()),
        _ => {
            let mut usage = audio_usage();
            usage["type"] = json!("tokens");
            Answer::Json(200, json!({ "text": text, "usage": usage }))
        }
    }
}

pub(super) fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    json!({ "error": { "message": message, "type": kind, "param": null, "code": "scripted" } })
}
