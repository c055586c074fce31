use super::*;
use proptest::prelude::*;

fn rename() -> Rename {
    Rename { public: "m".into() }
}

/// Pushes `body` in pieces of the given lengths; returns what came out and the usage.
fn run(body: &[u8], rename: Option<Rename>, cuts: &[usize]) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut scan = AnswerScan::new(rename);
    let mut rest = Bytes::copy_from_slice(body);
    let mut out = Vec::new();
    for &cut in cuts {
        let piece = rest.split_to(cut.min(rest.len()));
        out.extend(scan.push(piece));
    }
    out.extend(scan.push(rest));
    out.extend(scan.finish());
    (out, scan.usage().map(<[u8]>::to_vec))
}

const ANSWER: &str = r#"{"id":"x","model":"vendor/m-1","choices":[{"message":{"model":"vendor/m-1","usage":{"a":1},"content":"say \"usage\":{\"n\":1} and {[ \\"}}],
 "metadata":{"usage":{"no":1}}, "usage" : {"prompt_tokens":3,"details":{"x":[1,{"y":"}"}]}} , "note":"usage"}"#;

#[test]
fn stays_small() {
    assert!(
        size_of::<AnswerScan>() <= 200,
        "{}",
        size_of::<AnswerScan>()
    );
}

#[test]
fn reads_usage_and_replaces_the_name() {
    let (out, usage) = run(ANSWER.as_bytes(), Some(rename()), &[]);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        ANSWER.replacen("vendor/m-1", "m", 1)
    );
    assert_eq!(
        usage.unwrap(),
        br#"{"prompt_tokens":3,"details":{"x":[1,{"y":"}"}]}}"#
    );
}

#[test]
fn untouched_chunks_are_not_copied() {
    let body = Bytes::from_static(ANSWER.as_bytes());
    for rename in [
        None,
        Some(Rename {
            public: "vendor/m-1".into(),
        }),
    ] {
        let out = AnswerScan::new(rename).push(body.clone());
        assert_eq!((out.as_ptr(), out.len()), (body.as_ptr(), body.len()));
    }
}

#[test]
fn nested_models_of_response_and_message_are_replaced() {
    for name in ["response", "message"] {
        let body = format!(
            r#"{{"{name}":{{"a":{{"model":"vendor/m-1"}},"model":"vendor\/m-1"}},"data":{{"model":"vendor/m-1"}},"model":12}}"#
        );
        let (out, _) = run(body.as_bytes(), Some(rename()), &[]);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            body.replace(r#""vendor\/m-1""#, r#""m""#)
        );
    }
}

#[test]
fn last_usage_wins_and_long_ones_are_not_read() {
    let (_, usage) = run(
        br#"{"usage":{"a":1},"usage":null,"usage":{"a":2},"usage":3}"#,
        None,
        &[],
    );
    assert_eq!(usage.unwrap(), br#"{"a":2}"#);
    let long = format!(
        r#"{{"usage":{{"a":"{}"}},"b":1}}"#,
        "x".repeat(MAX_USAGE_BYTES)
    );
    assert_eq!(run(long.as_bytes(), None, &[5000, 9000]).1, None);
    assert_eq!(run(br#"{"usage":{"a":1"#, None, &[]).1, None);
}

#[test]
fn other_bodies_pass_as_they_came() {
    for body in [
        &b"[{\"usage\":{}}]"[..],
        b"\x00\xff\"",
        b"",
        b"}}}}",
        b"\"model\"",
        b"<html>",
        b"{\"model\":\"vendor",
        b"{]]]{\"usage\":{}}",
    ] {
        let (out, usage) = run(body, Some(rename()), &[1, 1, 1]);
        assert_eq!(out, body);
        assert_eq!(usage, None);
    }
}

#[test]
fn an_endless_model_is_not_held() {
    let mut scan = AnswerScan::new(Some(rename()));
    scan.push(Bytes::from_static(b"{\"model\":\""));
    for _ in 0..100 {
        scan.push(Bytes::from(vec![b'v'; 1000]));
        assert!(scan.held.len() <= MAX_NAME_BYTES);
    }
}

#[test]
fn events_are_read_in_one_pass() {
    let data = br#"{"type":"a.b","model":"m","choices":[{"delta":{"finish_reason":"no"},"finish_reason":null},{"finish_reason":"stop"}],"usage":{"x":{"y":1}},"error":null}"#;
    let scan = scan_event(data);
    assert!(scan.complete && scan.finished && !scan.no_choices && !scan.error);
    assert_eq!(&data[scan.kind.unwrap()], b"a.b");
    assert_eq!(&data[scan.model.unwrap()], b"\"m\"");
    let UsageMember::Object(range) = scan.usage else {
        panic!()
    };
    assert_eq!(&data[range], br#"{"x":{"y":1}}"#);

    let data = br#" {"choices": [ ],"usage":null,"response":{"x":{"usage":{}},"model":"r","usage":{"a":1}},"message":{"model":"s","usage":null},"error":{"m":1}} "#;
    let scan = scan_event(data);
    assert!(scan.complete && scan.no_choices && scan.error && !scan.finished);
    assert_eq!(
        (scan.usage, scan.message_usage),
        (UsageMember::Null, UsageMember::Null)
    );
    assert_eq!(&data[scan.response_model.unwrap()], b"\"r\"");
    let UsageMember::Object(range) = scan.response_usage else {
        panic!()
    };
    assert_eq!(&data[range], br#"{"a":1}"#);

    // Half a surrogate pair and NaN are what real streams contain.
    assert!(scan_event(br#"{"choices":[{"delta":{"content":"\ud83d"},"logprobs":NaN}]}"#).complete);
    assert!(!scan_event(b"{\"choices\":[").complete);
    assert_eq!(scan_event(b"[DONE]"), EventScan::default());
}

proptest! {
    #[test]
    fn cuts_do_not_matter(cuts in proptest::collection::vec(0usize..30, 0..30), swap in any::<bool>()) {
        let rename = swap.then(rename);
        let whole = run(ANSWER.as_bytes(), rename.clone(), &[]);
        prop_assert_eq!(run(ANSWER.as_bytes(), rename, &cuts), whole);
    }

    #[test]
    fn hostile_bytes_never_panic(
        parts in proptest::collection::vec(proptest::sample::select(vec![
            "{", "}", "[", "]", "\"", "\\", ":", ",", "\"model\":", "\"usage\":{", "\"response\":{", "\"vendor/m-1\"", "vendor", " ", "\u{e9}", "1", "\\u00"]), 0..40),
        cuts in proptest::collection::vec(0usize..9, 0..30)) {
        let body = parts.concat();
        let whole = run(body.as_bytes(), Some(rename()), &[]);
        prop_assert_eq!(run(body.as_bytes(), Some(rename()), &cuts), whole);
        prop_assert_eq!(run(body.as_bytes(), None, &cuts).0, body.as_bytes());
        scan_event(body.as_bytes());
    }
}
