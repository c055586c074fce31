//! Answers pushed through a meter, whole and cut anywhere.
//!
//! Above 400 lines: every form of an answer has its tables, and one harness replays them all.

use super::*;
use proptest::prelude::*;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/",
            $name,
            ".sse"
        ))
    };
}

const CHAT: &[u8] = fixture!("openai_chat");
const CHAT_CRLF: &[u8] = fixture!("openai_chat_crlf");
const CHAT_CUT: &[u8] = fixture!("openai_chat_truncated");
const DEEPSEEK: &[u8] = fixture!("deepseek_chat");
const MESSAGES: &[u8] = fixture!("anthropic_messages");
const MESSAGES_CUT: &[u8] = fixture!("anthropic_messages_truncated");
const RESPONSES: &[u8] = fixture!("openai_responses");
const RESPONSES_INCOMPLETE: &[u8] = fixture!("openai_responses_incomplete");
const RESPONSES_CUT: &[u8] = fixture!("openai_responses_truncated");
const SPEECH: &[u8] = fixture!("openai_speech");

fn settings(form: Form) -> Settings {
    let shape = match form {
        Form::AnthropicSse => Shape::Anthropic,
        Form::ResponsesSse | Form::OtherSse => Shape::OpenAiResponses,
        _ => Shape::OpenAiChat,
    };
    Settings {
        form,
        shape,
        rename: None,
        strip_usage_chunk: false,
    }
}

fn renamed(form: Form, public: &str) -> Settings {
    let rename = Rename {
        public: public.into(),
    };
    Settings {
        rename: Some(rename),
        ..settings(form)
    }
}

fn stripped(settings: Settings) -> Settings {
    Settings {
        strip_usage_chunk: true,
        ..settings
    }
}

#[derive(Debug, PartialEq, Clone)]
struct Seen {
    out: Vec<u8>,
    usage: Usage,
    source: Source,
    ended: bool,
    hostile: bool,
    events: u64,
}

fn run(stream: &[u8], settings: Settings, cuts: &[usize]) -> Seen {
    let mut meter = Meter::new(settings);
    let mut rest = Bytes::copy_from_slice(stream);
    let mut out = Vec::new();
    for &cut in cuts {
        out.extend(meter.push(rest.split_to(cut.min(rest.len()))).unwrap());
    }
    out.extend(meter.push(rest).unwrap());
    out.extend(meter.finish());
    let reading = meter.reading();
    Seen {
        out,
        usage: reading.usage,
        source: reading.source,
        ended: meter.ended(),
        hostile: reading.hostile,
        events: meter.events(),
    }
}

fn usage(input: u64, cached_input: u64, cache_write: u64, output: u64, reasoning: u64) -> Usage {
    Usage {
        input,
        cached_input,
        cache_write,
        output,
        reasoning,
    }
}

fn golden(stream: &[u8], form: Form, want: Usage, source: Source, ended: bool) -> Seen {
    let seen = run(stream, settings(form), &[]);
    assert_eq!(
        (seen.usage, seen.source, seen.ended, seen.hostile),
        (want, source, ended, false)
    );
    seen
}

#[test]
fn golden_streams() {
    let chat = usage(2006, 1920, 0, 300, 64);
    assert_eq!(
        golden(CHAT, Form::ChatSse, chat, Source::Reported, true).out,
        CHAT
    );
    golden(
        DEEPSEEK,
        Form::ChatSse,
        usage(18, 16, 0, 25, 11),
        Source::Reported,
        true,
    );
    let messages = usage(20509, 20317, 188, 97, 0);
    assert_eq!(
        golden(
            MESSAGES,
            Form::AnthropicSse,
            messages,
            Source::Reported,
            true
        )
        .out,
        MESSAGES
    );
    let responses = usage(37, 8, 0, 61, 50);
    assert_eq!(
        golden(
            RESPONSES,
            Form::ResponsesSse,
            responses,
            Source::Reported,
            true
        )
        .out,
        RESPONSES
    );
    golden(
        RESPONSES_INCOMPLETE,
        Form::ResponsesSse,
        responses,
        Source::Reported,
        true,
    );
    let speech = golden(
        SPEECH,
        Form::OtherSse,
        usage(14, 0, 0, 101, 0),
        Source::Reported,
        true,
    );
    assert_eq!(speech.out, SPEECH);
}

#[test]
fn truncated_streams_show_it_and_lose_only_the_cut_event() {
    let chat = golden(
        CHAT_CUT,
        Form::ChatSse,
        Usage::default(),
        Source::Estimated,
        false,
    );
    assert!(CHAT_CUT.starts_with(&chat.out) && chat.out.ends_with(b"}\n\n") && chat.events == 4);
    let start = usage(20509, 20317, 188, 1, 0);
    let messages = golden(
        MESSAGES_CUT,
        Form::AnthropicSse,
        start,
        Source::Partial,
        false,
    );
    assert!(MESSAGES_CUT.starts_with(&messages.out) && messages.out.ends_with(b"}\n\n"));
    golden(
        RESPONSES_CUT,
        Form::ResponsesSse,
        Usage::default(),
        Source::Estimated,
        false,
    );
    // A last event that is whole but for its blank line is completed.
    for end in [1, 2] {
        let seen = run(&CHAT[..CHAT.len() - end], settings(Form::ChatSse), &[]);
        assert_eq!((seen.out.as_slice(), seen.ended), (CHAT, true));
    }
}

#[test]
fn crlf_ids_and_event_lines_are_normalised() {
    let seen = run(CHAT_CRLF, settings(Form::ChatSse), &[]);
    let want = [b": OPENROUTER PROCESSING\n\n: keepalive\n\n", CHAT].concat();
    assert_eq!(
        String::from_utf8(seen.out).unwrap(),
        String::from_utf8(want).unwrap()
    );
    assert_eq!(
        (seen.usage, seen.ended),
        (usage(2006, 1920, 0, 300, 64), true)
    );
}

#[test]
fn the_usage_chunk_is_metered_and_dropped() {
    let plain = run(CHAT, settings(Form::ChatSse), &[]);
    let seen = run(CHAT, stripped(settings(Form::ChatSse)), &[]);
    assert_eq!(seen.usage, plain.usage);
    assert_eq!(seen.events, plain.events - 1);
    let out = String::from_utf8(seen.out).unwrap();
    assert!(!out.contains("\"choices\":[]") && out.ends_with("data: [DONE]\n\n"));
    assert_eq!(
        CHAT.len() - out.len(),
        String::from_utf8_lossy(CHAT)
            .split_inclusive("\n\n")
            .find(|e| e.contains("\"choices\":[]"))
            .unwrap()
            .len()
    );
    // Usage in a chunk with choices stays, and so does an empty one without usage (Azure's first).
    assert_eq!(
        run(DEEPSEEK, stripped(settings(Form::ChatSse)), &[]).out,
        DEEPSEEK
    );
    let azure = b"data: {\"choices\":[],\"prompt_filter_results\":[],\"usage\":null}\n\n";
    assert_eq!(
        run(azure, stripped(settings(Form::ChatSse)), &[]).out,
        azure
    );
}

#[test]
fn every_other_name_is_replaced_by_the_public_one() {
    for (stream, form, upstream) in [
        (CHAT, Form::ChatSse, "gpt-4o-2024-08-06"),
        (MESSAGES, Form::AnthropicSse, "claude-sonnet-4-5-20250929"),
        (RESPONSES, Form::ResponsesSse, "gpt-5-2025-08-07"),
    ] {
        let seen = run(stream, renamed(form, "my/model"), &[]);
        let want = String::from_utf8_lossy(stream).replace(upstream, "my/model");
        assert_eq!(String::from_utf8(seen.out).unwrap(), want);
        assert_eq!(run(stream, renamed(form, upstream), &[]).out, stream);
    }
    let lines = b"data: {\ndata: \"model\": \"a\\/b\",\ndata: \"x\": \"a/b\"}\n\n";
    let seen = run(lines, renamed(Form::ChatSse, "my/model"), &[]);
    assert_eq!(
        seen.out,
        b"data: {\ndata: \"model\": \"my/model\",\ndata: \"x\": \"a/b\"}\n\n"
    );
}

#[test]
fn whole_chunks_are_not_copied() {
    for (stream, form) in [
        (CHAT, Form::ChatSse),
        (MESSAGES, Form::AnthropicSse),
        (RESPONSES, Form::ResponsesSse),
        (b"\xff\x00", Form::Opaque),
    ] {
        let chunk = Bytes::copy_from_slice(stream);
        let out = Meter::new(settings(form)).push(chunk.clone()).unwrap();
        assert_eq!((out.as_ptr(), out.len()), (chunk.as_ptr(), chunk.len()));
    }
}

#[test]
fn an_incomplete_event_waits_and_can_be_discarded() {
    let mut meter = Meter::new(settings(Form::ChatSse));
    let out = meter
        .push(Bytes::from_static(b"data: {}\n\ndata: {\"a"))
        .unwrap();
    assert_eq!(out, "data: {}\n\n");
    assert!(!meter.ended());
    meter.discard_partial();
    assert_eq!(
        meter.push(Bytes::from_static(b"data: {}\n\n")).unwrap(),
        "data: {}\n\n"
    );
    let long = Bytes::from(vec![b'x'; sse::DEFAULT_LIMIT + 1]);
    assert_eq!(
        meter.push(long),
        Err(MeterError::LineTooLong {
            limit: sse::DEFAULT_LIMIT
        })
    );
}

#[test]
fn ends() {
    for (form, stream, ended) in [
        (Form::ChatSse, "data: [DONE]\n\n", true),
        (
            Form::ChatSse,
            "data: {\"choices\":[{\"finish_reason\": \"length\"}]}\n\n",
            true,
        ),
        (
            Form::ChatSse,
            "data: {\"choices\":[{\"finish_reason\": null,\"delta\":{\"finish_reason\":\"x\"}}]}\n\n",
            false,
        ),
        (
            Form::ChatSse,
            "data: {\"error\":{\"message\":\"x\"}}\n\n",
            true,
        ),
        (Form::ChatSse, "data: {\"error\":null}\n\n", false),
        (
            Form::AnthropicSse,
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            true,
        ),
        (
            Form::AnthropicSse,
            "event: error\ndata: {\"type\":\"error\",\"error\":{}}\n\n",
            true,
        ),
        (
            Form::AnthropicSse,
            "data: {\"type\":\"message_stop\"}\n\n",
            true,
        ),
        (
            Form::AnthropicSse,
            "event: ping\ndata: {\"type\":\"ping\"}\n\n",
            false,
        ),
        (
            Form::ResponsesSse,
            "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{}}\n\n",
            true,
        ),
        (
            Form::ResponsesSse,
            "data: {\"type\":\"response.completed\",\"response\":{}}\n\n",
            true,
        ),
        (
            Form::ResponsesSse,
            "event: error\ndata: {\"type\":\"error\",\"message\":\"x\"}\n\n",
            true,
        ),
        (
            Form::ResponsesSse,
            "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"response.completed\"}\n\n",
            false,
        ),
        (Form::Json, "{}", true),
    ] {
        assert_eq!(
            run(stream.as_bytes(), settings(form), &[]).ended,
            ended,
            "{stream}"
        );
    }
}

#[test]
fn usage_midway_is_partial_and_the_last_one_stands() {
    let running = b"data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1}}\n\ndata: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n";
    let seen = run(running, settings(Form::ChatSse), &[]);
    assert_eq!(
        (seen.usage, seen.source),
        (usage(5, 0, 0, 2, 0), Source::Partial)
    );
    let done = [&running[..], b"data: {\"usage\":null}\n\ndata: [DONE]\n\n"].concat();
    let seen = run(&done, settings(Form::ChatSse), &[]);
    assert_eq!(
        (seen.usage, seen.source),
        (usage(5, 0, 0, 2, 0), Source::Reported)
    );
    let hostile =
        b"data: {\"usage\":{\"prompt_tokens\":-5,\"completion_tokens\":1e99}}\n\ndata: [DONE]\n\n";
    let seen = run(hostile, settings(Form::ChatSse), &[]);
    assert_eq!(
        (seen.usage, seen.source, seen.hostile),
        (Usage::default(), Source::Estimated, true)
    );
}

#[test]
fn json_answers() {
    let body = br#"{"model":"up","usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":9}}}"#;
    let seen = run(body, renamed(Form::Json, "my/model"), &[]);
    assert_eq!(
        seen.out,
        String::from_utf8_lossy(body)
            .replace("\"up\"", "\"my/model\"")
            .as_bytes()
    );
    assert_eq!(
        (seen.usage, seen.source, seen.hostile),
        (usage(3, 3, 0, 4, 0), Source::Reported, true)
    );
    let seen = run(b"{\"data\":[]}", settings(Form::Json), &[]);
    assert_eq!((seen.source, seen.ended), (Source::Estimated, true));
}

fn every_case() -> Vec<(&'static [u8], Settings)> {
    let mut cases = Vec::new();
    for stream in [CHAT, CHAT_CRLF, CHAT_CUT, DEEPSEEK] {
        cases.push((stream, settings(Form::ChatSse)));
        cases.push((stream, stripped(settings(Form::ChatSse))));
        cases.push((stream, stripped(renamed(Form::ChatSse, "my/model"))));
    }
    for stream in [MESSAGES, MESSAGES_CUT] {
        cases.push((stream, settings(Form::AnthropicSse)));
        cases.push((stream, renamed(Form::AnthropicSse, "my/model")));
    }
    for stream in [RESPONSES, RESPONSES_INCOMPLETE, RESPONSES_CUT] {
        cases.push((stream, settings(Form::ResponsesSse)));
        cases.push((stream, renamed(Form::ResponsesSse, "my/model")));
    }
    cases.push((SPEECH, settings(Form::OtherSse)));
    cases
}

#[test]
fn byte_by_byte_is_the_same() {
    for (stream, settings) in every_case() {
        let whole = run(stream, settings.clone(), &[]);
        assert_eq!(run(stream, settings, &vec![1; stream.len()]), whole);
    }
}

proptest! {
    #[test]
    fn cuts_do_not_matter(cuts in proptest::collection::vec(0usize..400, 0..40), case in any::<proptest::sample::Index>()) {
        let cases = every_case();
        let (stream, settings) = case.get(&cases).clone();
        let whole = run(stream, settings.clone(), &[]);
        prop_assert_eq!(run(stream, settings, &cuts), whole);
    }

    #[test]
    fn hostile_streams_never_panic_and_stay_strict(
        parts in proptest::collection::vec(proptest::sample::select(vec![
            "data:", " ", "{", "}", "\"usage\":", "{\"prompt_tokens\":1}", "null", "\"choices\":[]", ",", "\n", "\r", "\n\n", "event: message_delta\n",
            "id: 1", "[DONE]", "\"model\":\"m\"", "\"response\":{", "\u{feff}", ": ping", "\"finish_reason\":\"x\""]), 0..50),
        cuts in proptest::collection::vec(0usize..12, 0..40),
        form in proptest::sample::select(vec![Form::ChatSse, Form::AnthropicSse, Form::ResponsesSse, Form::OtherSse, Form::Json, Form::Opaque])) {
        let stream = parts.concat();
        let settings = stripped(renamed(form, "m"));
        let whole = run(stream.as_bytes(), settings.clone(), &[]);
        prop_assert_eq!(run(stream.as_bytes(), settings, &cuts), whole.clone());
        if !matches!(form, Form::Json | Form::Opaque) {
            prop_assert!(whole.out.is_empty() || whole.out.ends_with(b"\n\n"));
            prop_assert!(!whole.out.contains(&b'\r'));
        }
    }
}

fn reading(answer: &str, settings: Settings) -> Reading {
    let mut meter = Meter::new(settings);
    meter
        .push(Bytes::copy_from_slice(answer.as_bytes()))
        .unwrap();
    meter.finish();
    meter.reading()
}

fn audio() -> Settings {
    Settings {
        shape: Shape::OpenAiResponses,
        ..settings(Form::Json)
    }
}

#[test]
fn seconds_of_sound() {
    let of = |usage: &str| {
        let reading = reading(&format!(r#"{{"text":"hi","usage":{usage}}}"#), audio());
        (reading.seconds, reading.source, reading.hostile)
    };
    let none = Source::Estimated;
    for (seconds, whole) in [("9", 9), ("8.01", 9), ("9.0", 9), ("0", 0), ("1e2", 100)] {
        let usage = format!(r#"{{"type":"duration","seconds":{seconds}}}"#);
        assert_eq!(of(&usage), (Some(whole), none, false), "{seconds}");
    }
    for hostile in [
        "-1",
        "-0.5",
        "9223372036854775808",
        "1e400",
        "\"12\"",
        "NaN",
        "true",
        "[]",
        "{}",
    ] {
        let usage = format!(r#"{{"type":"duration","seconds":{hostile}}}"#);
        assert_eq!(of(&usage), (None, none, true), "{hostile}");
    }
    assert_eq!(of(r#"{"seconds":null}"#), (None, none, false));
    assert_eq!(of("null"), (None, none, false));
    let tokens = r#"{"type":"tokens","input_tokens":14,"output_tokens":3}"#;
    assert_eq!(of(tokens), (None, Source::Reported, false));
    // Nobody's chat is paid for by the second.
    let chat = reading(r#"{"usage":{"seconds":5}}"#, settings(Form::Json));
    assert_eq!((chat.seconds, chat.source), (None, none));
}

#[test]
fn pictures_are_counted() {
    let of = |answer: &str| {
        let whole = reading(answer, audio()).images;
        for cut in 0..answer.len() {
            let mut meter = Meter::new(audio());
            meter
                .push(Bytes::copy_from_slice(&answer.as_bytes()[..cut]))
                .unwrap();
            meter
                .push(Bytes::copy_from_slice(&answer.as_bytes()[cut..]))
                .unwrap();
            assert_eq!(meter.reading().images, whole, "{cut}");
        }
        whole
    };
    for (answer, count) in [
        (
            r#"{"created":1,"data":[{"b64_json":"aa{[\"]}"},{"url":"x","more":[{}, "y"]}]}"#,
            Some(2),
        ),
        (r#"{"data":[ ]}"#, Some(0)),
        (r#"{"data":["a\\","b"], "usage":{}}"#, Some(2)),
        (r#"{"data":[[1],{}]}"#, Some(2)),
        // Nothing that counts, or nothing yet.
        (r#"{"data":{"data":[{}]}}"#, None),
        (r#"{"images":[{}],"response":{"data":[{}]}}"#, None),
        (r#"{"data":[{"url":"x"},{"url"#, None),
        (r#"{"data":-1}"#, None),
        ("[]", None),
    ] {
        assert_eq!(of(answer), count, "{answer}");
    }
}

#[test]
fn pictures_of_a_stream_are_counted_at_its_end() {
    let event =
        |kind: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"b64_json\":\"x\"}}\n\n");
    let bare = |kind: &str| format!("data: {{\"type\":\"{kind}\"}}\n\n");
    let (done, edited) = ("image_generation.completed", "image_edit.completed");
    let partial = event("image_generation.partial_image");
    for (stream, count) in [
        ([&*partial, &*event(done)].concat(), Some(1)),
        ([event(edited), bare(edited)].concat(), Some(2)),
        ([&*event(done), &*event("error")].concat(), Some(1)),
        (event("error"), Some(0)),
        // A provider with names of its own.
        (partial.clone(), None),
    ] {
        assert_eq!(
            reading(&stream, settings(Form::OtherSse)).images,
            count,
            "{stream}"
        );
    }
    let mut meter = Meter::new(settings(Form::OtherSse));
    meter.push(Bytes::from(event(done))).unwrap();
    assert_eq!(meter.reading().images, None, "there may be more");
}

#[test]
fn hostile_figures_credit_nobody_whatever_the_shape() {
    type Wrap = fn(&str) -> String;
    let shapes: [(Settings, Wrap); 6] = [
        (settings(Form::Json), |n| {
            format!(r#"{{"usage":{{"prompt_tokens":{n},"completion_tokens":{n}}}}}"#)
        }),
        (audio(), |n| {
            format!(r#"{{"usage":{{"input_tokens":{n},"output_tokens":{n}}}}}"#)
        }),
        (settings(Form::ChatSse), |n| {
            format!(
                "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{n},\"completion_tokens\":{n}}}}}\n\ndata: [DONE]\n\n"
            )
        }),
        (settings(Form::AnthropicSse), |n| {
            format!(
                "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"usage\":{{\"input_tokens\":{n},\"cache_read_input_tokens\":{n}}}}}}}\n\nevent: message_delta\ndata: {{\"type\":\"message_delta\",\"usage\":{{\"output_tokens\":{n}}}}}\n\n"
            )
        }),
        (settings(Form::ResponsesSse), |n| {
            format!(
                "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"usage\":{{\"input_tokens\":{n},\"output_tokens\":{n}}}}}}}\n\n"
            )
        }),
        (settings(Form::OtherSse), |n| {
            format!("data: {{\"usage\":{{\"input_tokens\":{n},\"output_tokens\":{n}}}}}\n\n")
        }),
    ];
    for (settings, wrap) in shapes {
        for (number, hostile) in [
            ("-1", true),
            ("9223372036854775808", true),
            ("\"12\"", true),
            ("NaN", true),
            ("1.5", true),
            ("null", false),
        ] {
            let reading = reading(&wrap(number), settings.clone());
            assert_eq!(
                (reading.usage, reading.source, reading.hostile),
                (Usage::default(), Source::Estimated, hostile),
                "{}",
                wrap(number)
            );
        }
        // Two that are well are no sum.
        let twice = [wrap("5"), wrap("7")].concat();
        if !matches!(settings.form, Form::Json) {
            let usage = reading(&twice, settings.clone()).usage;
            assert_eq!(usage.output, 7, "{twice}");
            assert!(matches!(usage.input, 7 | 14), "{twice}");
        }
        // A bad one after a good one takes nothing away.
        let spoilt = [wrap("5"), wrap("-1")].concat();
        if !matches!(settings.form, Form::Json) {
            let reading = reading(&spoilt, settings.clone());
            assert_eq!(
                (reading.usage.output, reading.hostile),
                (5, true),
                "{spoilt}"
            );
        }
    }
}

#[test]
fn deltas_are_what_carries_content() {
    let deltas = |stream: &str, settings: Settings| {
        let mut meter = Meter::new(settings);
        meter
            .push(Bytes::copy_from_slice(stream.as_bytes()))
            .unwrap();
        meter.finish();
        (meter.deltas(), meter.events())
    };
    let chat = |deltas: &[&str]| {
        let event = |delta| format!("data: {{\"choices\":[{{\"index\":0,{delta}}}]}}\n\n");
        deltas.iter().map(event).collect::<String>()
    };
    let role = r#""delta":{"role":"assistant","content":""}"#;
    let null = r#""delta":{"role":"assistant","content":null,"tool_calls":[]}"#;
    let word = r#""delta":{"content":"a"},"finish_reason":null"#;
    let thought = r#""delta":{"content":null,"reasoning_content":"b"}"#;
    let called = r#""delta":{"tool_calls":[{"index":0}]}"#;
    let stop = r#""delta":{},"finish_reason":"stop""#;
    let last_word = r#""delta":{"content":"z"},"finish_reason":"stop""#;
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
    for (events, want) in [
        (vec![role, null], 0),
        (vec![role, word, word, stop], 2),
        (vec![null, thought, called, last_word], 3),
        (
            vec![
                r#""text":"x","finish_reason":null"#,
                r#""text":"","finish_reason":"stop""#,
            ],
            1,
        ),
    ] {
        let stream = chat(&events) + usage;
        let all = events.len() as u64 + 1;
        assert_eq!(
            deltas(&stream, settings(Form::ChatSse)),
            (want, all),
            "{stream}"
        );
        assert_eq!(
            deltas(&stream, renamed(Form::ChatSse, "m")).0,
            want,
            "{stream}"
        );
    }
    let of = |stream: &[u8], form| deltas(std::str::from_utf8(stream).unwrap(), settings(form)).0;
    let lines = |stream: &[u8], end: &str| {
        let text = String::from_utf8_lossy(stream).into_owned();
        text.lines()
            .filter(|line| line.starts_with("event: ") && line.ends_with(end))
            .count() as u64
    };
    assert_eq!(
        of(MESSAGES, Form::AnthropicSse),
        lines(MESSAGES, "content_block_delta")
    );
    assert_eq!(
        of(RESPONSES, Form::ResponsesSse),
        lines(RESPONSES, ".delta")
    );
    assert!(lines(MESSAGES, "content_block_delta") > 0 && lines(RESPONSES, ".delta") > 0);
}
