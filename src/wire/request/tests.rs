use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn call(body: &str) -> Result<Call, CallError> {
    read_call(body.as_bytes())
}

fn rewritten(body: &str, changes: Changes<'_>) -> String {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let call = read_call(&body).unwrap();
    String::from_utf8(rewrite(&body, &call, changes).to_vec()).unwrap()
}

const USAGE: Changes<'_> = Changes {
    upstream_model: None,
    include_usage: true,
    input_to_messages: false,
};

#[test]
fn reads_the_fields() {
    let c = call(
        r#"{"model":"gpt\u002d4","stream":true,"max_tokens":5,"max_completion_tokens":9,"n":2,
        "messages":[],"stream_options":{"x":1,"include_usage":true}}"#,
    )
    .unwrap();
    assert_eq!(
        (c.model.as_str(), c.stream, c.include_usage),
        ("gpt-4", true, true)
    );
    assert!(c.has_messages && !c.has_input);
    assert_eq!(c.model_span, 9..21);
    let c = call(r#"{"model":"a","stream":null,"max_tokens":null,"stream_options":null}"#).unwrap();
    assert_eq!((c.stream, c.include_usage), (false, false));
}

#[test]
fn counts_up_to_2_to_the_53_and_null_are_accepted() {
    for name in [
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "n",
    ] {
        for value in ["0", "1", "9007199254740992", "null"] {
            let body = format!("{{\"model\":\"a\",\"{name}\":{value}}}");
            assert!(call(&body).is_ok(), "{body}");
        }
        for value in [
            "9007199254740993",
            "-1",
            "1.5",
            "1e3",
            "\"1\"",
            "true",
            "[]",
        ] {
            let body = format!("{{\"model\":\"a\",\"{name}\":{value}}}");
            match call(&body) {
                Err(CallError::WrongKind { field, .. }) => assert_eq!(field, name, "{body}"),
                other => panic!("{body}: {other:?}"),
            }
        }
    }
}

#[test]
fn reads_what_is_billed_by_the_piece() {
    let images = |rest: &str| {
        let call = call(&format!(r#"{{"model":"a"{rest}}}"#)).unwrap();
        (call.answers, call.size.map(String::from))
    };
    assert_eq!(images(""), (1, None));
    let (wide, size) = (Some("1024x1536".to_owned()), r#""size":"1024x1536""#);
    assert_eq!(images(&format!(r#","n":4,{size}"#)), (4, wide.clone()));
    assert_eq!(images(r#","size":"1024\u00781536","n":0"#), (1, wide));
    assert_eq!(images(r#","n":null,"size":null"#), (1, None));
    assert_eq!(images(r#","size":"""#), (1, Some(String::new())));
    for odd in ["[1,2]", "7", "{}", "true"] {
        assert_eq!(images(&format!(r#","size":{odd}"#)), (1, None));
    }
    let (longest, long) = ("x".repeat(MAX_SIZE), "x".repeat(MAX_SIZE + 1));
    assert_eq!(
        images(&format!(r#","size":"{longest}""#)),
        (1, Some(longest))
    );
    assert_eq!(images(&format!(r#","size":"{long}""#)), (1, None));
}

#[test]
fn characters_are_those_of_the_text() {
    for (input, count) in [
        (r#""""#, 0),
        (r#""abc""#, 3),
        (r#""你好, мир 🙂""#, 9),
        (r#""a\n\"\\b""#, 5),
        (r#""\u4f60\ud83d\ude42!""#, 3),
        // No text: as it stands.
        (r#"["ab","c"]"#, 10),
        ("null", 4),
    ] {
        let body = format!(r#"{{"model":"a", "input" : {input} ,"voice":"x"}}"#);
        let call = call(&body).unwrap();
        assert_eq!(call.characters(body.as_bytes()), count, "{input}");
    }
    let body = r#"{"model":"a"}"#;
    assert_eq!(call(body).unwrap().characters(body.as_bytes()), 0);
}

#[test]
fn refuses_other_spellings_of_guarded_names() {
    let cases = [
        (r#""model":"b""#, "model"),
        (r#""Model":"b""#, "model"),
        (r#""mod\u0065l":"b""#, "model"),
        (r#""MODEL":1"#, "model"),
        (r#""\u006d\u006f\u0064\u0065\u006c":1"#, "model"),
        (r#""ſtream":true"#, "stream"),
        (r#""\u017ftream":true"#, "stream"),
        (r#""STREAM":true"#, "stream"),
        ("\"max_to\u{212a}ens\":1", "max_tokens"),
        (r#""max_to\u212aens":1"#, "max_tokens"),
        (r#""Max_Completion_Tokens":1"#, "max_completion_tokens"),
        (r#""N":100"#, "n"),
        (r#""model\u0000x":"b""#, "model"),
        (r#""Stream_Options":{}"#, "stream_options"),
        (r#""stream_opt\u0131ons":{}"#, "stream_options"),
        (r#""Input":[]"#, "input"),
        (r#""Size":"1x1""#, "size"),
        (r#""size":"1x1","size":"2x2""#, "size"),
        (r#""stream":true,"stream":true"#, "stream"),
        (r#""messages":[],"Messages":[]"#, "messages"),
        (
            r#""stream_options":{"include_usage":true,"Include_Usage":false}"#,
            INCLUDE_USAGE_PATH,
        ),
        (
            r#""stream_options":{"include_usage":true,"include_usage":true}"#,
            INCLUDE_USAGE_PATH,
        ),
        (
            r#""stream_options":{"INCLUDE_USAGE":true}"#,
            INCLUDE_USAGE_PATH,
        ),
    ];
    for (extra, want) in cases {
        for body in [
            format!(r#"{{"model":"a",{extra}}}"#),
            format!(r#"{{{extra},"model":"a"}}"#),
        ] {
            match call(&body) {
                Err(CallError::Repeated { field, .. }) => assert_eq!(field, want, "{body}"),
                other => panic!("{body}: {other:?}"),
            }
        }
    }
    // Nested and merely similar names are the client's own.
    assert!(
        call(r#"{"model":"a","models":1,"metadata":{"Model":1,"model":2},"model_":3}"#).is_ok()
    );
}

#[test]
fn refuses_wrong_kinds() {
    for (body, want) in [
        (r#"{"model":1}"#, "model"),
        (r#"{"model":null}"#, "model"),
        (r#"{"model":["a"]}"#, "model"),
        (r#"{"model":"a","stream":"true"}"#, "stream"),
        (r#"{"model":"a","stream":1}"#, "stream"),
        (r#"{"model":"a","max_tokens":-1}"#, "max_tokens"),
        (r#"{"model":"a","max_tokens":1.5}"#, "max_tokens"),
        (
            r#"{"model":"a","max_output_tokens":"9"}"#,
            "max_output_tokens",
        ),
        (r#"{"model":"a","n":1e3}"#, "n"),
        (
            r#"{"model":"a","max_tokens":9007199254740993}"#,
            "max_tokens",
        ),
        (r#"{"model":"a","stream_options":[]}"#, "stream_options"),
        (
            r#"{"model":"a","stream_options":{"include_usage":1}}"#,
            INCLUDE_USAGE_PATH,
        ),
    ] {
        match call(body) {
            Err(CallError::WrongKind { field, .. }) => assert_eq!(field, want, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    assert_eq!(call(r#"{"stream":true}"#), Err(CallError::MissingModel));
    assert_eq!(call(r#"{"model":""}"#), Err(CallError::MissingModel));
    assert_eq!(
        call(r#"{"model":"a\u000ab"}"#),
        Err(CallError::ControlCharacter { field: "model" })
    );
    assert!(matches!(call("{\"model\":"), Err(CallError::Json(_))));
}

#[test]
fn unchanged_bodies_are_not_copied() {
    let body = Bytes::from_static(b"{\"model\":\"a\",\"stream_options\":{\"include_usage\":true}}");
    let call = read_call(&body).unwrap();
    let same = rewrite(
        &body,
        &call,
        Changes {
            upstream_model: Some("a"),
            include_usage: true,
            input_to_messages: true,
        },
    );
    assert_eq!(same.as_ptr(), body.as_ptr());
}

#[test]
fn splices_are_exact() {
    let add = r#"{"stream_options":{"include_usage":true}, "model" : "a" }"#;
    assert_eq!(rewritten(r#"{ "model" : "a" }"#, USAGE), add);
    for (from, to) in [
        ("null", r#"{"include_usage":true}"#),
        ("{}", r#"{"include_usage":true}"#),
        ("{ \"a\":1}", r#"{"include_usage":true, "a":1}"#),
        (r#"{"include_usage": false}"#, r#"{"include_usage": true}"#),
        (r#"{"include_usage":null }"#, r#"{"include_usage":true }"#),
    ] {
        let body = |options| format!(r#"{{"stream_options":{options},"model":"a"}}"#);
        assert_eq!(rewritten(&body(from), USAGE), body(to));
    }
    let all = Changes {
        upstream_model: Some("x\"/y"),
        include_usage: true,
        input_to_messages: true,
    };
    assert_eq!(
        rewritten(r#"{"input": [1],"model":"a","k":1}"#, all),
        r#"{"stream_options":{"include_usage":true},"messages": [1],"model":"x\"/y","k":1}"#
    );
    // Both there: neither is touched.
    let both = r#"{"input":1,"messages":[],"model":"a"}"#;
    assert_eq!(
        rewritten(
            both,
            Changes {
                include_usage: false,
                upstream_model: None,
                ..all
            }
        ),
        both
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((".{0,6}", inner), 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Writes `value` with white space taken from `gaps`.
fn spaced(value: &Value, gaps: &mut impl Iterator<Item = &'static str>, out: &mut String) {
    let mut gap = |out: &mut String| out.push_str(gaps.next().unwrap_or(""));
    gap(out);
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                spaced(item, gaps, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (i, (key, item)) in members.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(gaps.next().unwrap_or(""));
                out.push_str(&json!(key).to_string());
                out.push_str(gaps.next().unwrap_or(""));
                out.push(':');
                spaced(item, gaps, out);
            }
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
    out.push_str(gaps.next().unwrap_or(""));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn rewriting_changes_only_what_it_says(
        extra in proptest::collection::vec(("[a-z\"\\\\é]{2,9}_x", any_json()), 0..6),
        model in "[a-z/\"\\\\]{1,12}", upstream in "[A-Z/\"\\\\é]{1,12}",
        options in prop_oneof![Just(None), Just(Some(json!(null))), Just(Some(json!({}))), Just(Some(json!({"a": [1]}))),
            Just(Some(json!({"include_usage": false, "z": 1}))), Just(Some(json!({"z": {"include_usage": 3}, "include_usage": null})))],
        with_input in any::<bool>(), order in any::<u64>(),
        gaps in proptest::collection::vec(proptest::sample::select(vec!["", " ", "\n", "\t \r\n"]), 1..20),
    ) {
        let mut members: Vec<(String, Value)> = extra;
        members.push(("model".into(), json!(model)));
        if let Some(o) = &options { members.push(("stream_options".into(), o.clone())); }
        if with_input { members.push(("input".into(), json!(["hi"]))); }
        let turn = (order % members.len() as u64) as usize;
        members.rotate_left(turn);
        let value = Value::Object(members.into_iter().collect());
        let mut text = String::new();
        spaced(&value, &mut gaps.iter().copied().cycle(), &mut text);
        let body = Bytes::from(text.clone());
        let call = read_call(&body).unwrap();
        let out = rewrite(&body, &call, Changes { upstream_model: Some(&upstream), include_usage: true, input_to_messages: true });

        let mut got: Value = serde_json::from_slice(&out).unwrap();
        let mut want = value.clone();
        want["model"] = json!(upstream);
        if want.get("stream_options").is_none_or(Value::is_null) { want["stream_options"] = json!({}); }
        want["stream_options"]["include_usage"] = json!(true);
        if with_input {
            let input = want.as_object_mut().unwrap().remove("input").unwrap();
            want["messages"] = input;
        }
        prop_assert_eq!(&got, &want);
        prop_assert_eq!(read_call(&out).unwrap().model, upstream);
        got["model"] = json!(model);

        // Undoing the splices one by one gives the very bytes back.
        let again = read_call(&out).unwrap();
        let mut undone = out[..again.model_span.start].to_vec();
        undone.extend(&body[call.model_span.clone()]);
        undone.extend(&out[again.model_span.end..]);
        let mut undone = String::from_utf8(undone).unwrap();
        if with_input { undone = undone.replacen("\"messages\"", "\"input\"", 1); }
        match &call.options {
            StreamOptions::Absent => undone = undone.replacen("\"stream_options\":{\"include_usage\":true},", "", 1),
            StreamOptions::Null(_) => undone = undone.replacen("{\"include_usage\":true}", "null", 1),
            StreamOptions::Object { include_usage: Some(span), .. } => {
                let now = match again.options { StreamOptions::Object { include_usage: Some(s), .. } => s, _ => panic!() };
                // Where the span lies after undoing: lengths before it are back to the original.
                let old = &text[span.clone()];
                prop_assert_eq!(&out[now], b"true");
                undone.replace_range(span.start..span.start + 4, old);
            }
            StreamOptions::Object { inside, is_empty, .. } => {
                let added = if *is_empty { "\"include_usage\":true" } else { "\"include_usage\":true," };
                undone.replace_range(*inside..*inside + added.len(), "");
            }
        }
        prop_assert_eq!(undone, text);
    }
}
