use super::*;
use proptest::prelude::*;

fn check(body: &[u8]) -> Result<Vec<(String, String)>, JsonError> {
    let mut seen = Vec::new();
    object_members(body, &mut |m| {
        let text = |r: Range<usize>| String::from_utf8(body[r].to_vec()).unwrap();
        assert_eq!(m.key, &body[m.key_range.clone()]);
        seen.push((text(m.key_range), text(m.value)));
    })?;
    Ok(seen)
}

#[test]
fn members_come_in_order_with_their_ranges() {
    let seen = check(b" {\"a\" : [1,{\"b\":[]}] ,\n\"c\":\"x\\\"y\",\"d\":{} } \r\n").unwrap();
    let want = [("a", "[1,{\"b\":[]}]"), ("c", "\"x\\\"y\""), ("d", "{}")];
    let seen: Vec<_> = seen.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(seen, want);
    assert_eq!(object_members(b" {} ", &mut |_| {}), Ok(1..3));
}

#[test]
fn refuses_what_parsers_disagree_on() {
    let bad: &[&[u8]] = &[
        b"{\"a\":NaN}",
        b"{\"a\":Infinity}",
        b"{\"a\":-Infinity}",
        b"{\"a\":01}",
        b"{\"a\":+1}",
        b"{\"a\":1.}",
        b"{\"a\":.5}",
        b"{\"a\":1e}",
        b"{\"a\":-}",
        b"{\"a\":tru}",
        b"{\"a\":truex}",
        b"{\"a\":1,}",
        b"{,}",
        b"{\"a\"}",
        b"{\"a\":}",
        b"{a:1}",
        b"{'a':1}",
        b"{\"a\":[1,]}",
        b"{\"a\":[1 2]}",
        b"{\"a\":[}]}",
        b"{\"a\":{\"b\":1]}",
        b"{\"a\":\"\x01\"}",
        b"{\"a\":\"\n\"}",
        b"{\"a\":\"\\x\"}",
        b"{\"a\":\"\\u12g4\"}",
        b"{\"a\":\"\\ud800\"}",
        b"{\"a\":\"\\ud800\\u0041\"}",
        b"{\"a\":\"\\udc00\"}",
        b"{\"a\":\"\\ud800\\ud800\"}",
        b"{\"a\":\"x}",
        b"{",
        b"{\"a\":1",
        b"{\"a\":1}/*c*/",
        b"{\"a\":1}{}",
        b"\xef\xbb\xbf{}",
        b"{\"a\":1 //x\n}",
    ];
    for body in bad {
        assert!(check(body).is_err(), "{}", String::from_utf8_lossy(body));
    }
    assert_eq!(
        check(b"{\"a\":1e400}"),
        Err(JsonError::NumberOutOfRange { offset: 5 })
    );
    let long = format!("{{\"a\":{}}}", "9".repeat(400));
    assert_eq!(
        check(long.as_bytes()),
        Err(JsonError::NumberOutOfRange { offset: 5 })
    );
    assert!(check(b"{\"a\":-1.5E+300,\"b\":\"\\ud83d\\ude00\",\"c\":1e-999}").is_ok());
}

#[test]
fn names_the_fault() {
    assert_eq!(check(b""), Err(JsonError::Empty));
    assert_eq!(check(b" \n"), Err(JsonError::Empty));
    assert_eq!(check(b"[]"), Err(JsonError::NotAnObject));
    assert_eq!(check(b"{} x"), Err(JsonError::TrailingBytes { offset: 3 }));
    assert_eq!(
        check(b"{\"a\":\"\xff\"}"),
        Err(JsonError::Utf8 { offset: 6 })
    );
    let error = check(b"{\"a\":?}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "unexpected byte at offset 5: expected a value"
    );
}

#[test]
fn depth_is_capped_without_recursion() {
    let nested = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
    assert!(check(nested(MAX_DEPTH - 1).as_bytes()).is_ok());
    assert_eq!(
        check(nested(MAX_DEPTH).as_bytes()),
        Err(JsonError::TooDeep { limit: 512 })
    );
    let bomb = format!("{{\"a\":{}", "[{\"b\":".repeat(1_000_000));
    assert_eq!(
        check(bomb.as_bytes()),
        Err(JsonError::TooDeep { limit: 512 })
    );
}

#[test]
fn strings_decode_and_encode() {
    assert_eq!(decode_string(b"gpt\\u002d4\\/x").unwrap(), "gpt-4/x");
    assert_eq!(decode_string(b"\\ud83d\\ude00!").unwrap(), "😀!");
    assert_eq!(decode_string(b"\\ud83d"), None);
    assert_eq!(decode_string(b"a\\"), None);
    assert_eq!(decode_string("é\\q".as_bytes()), None);
}

proptest! {
    #[test]
    fn agrees_with_serde_json(bytes in proptest::collection::vec(
        proptest::sample::select(&b"{}[]\",:\\u0ad8c1e-+.tn \nrulfs\x80\xc3\xa9"[..]), 0..40)) {
        let mut body = b"{\"k\":".to_vec();
        body.extend(&bytes);
        body.push(b'}');
        // serde_json reads 1e-999 and lone surrogates alike when it builds a Value.
        let theirs = serde_json::from_slice::<serde_json::Value>(&body).is_ok();
        prop_assert_eq!(check(&body).is_ok(), theirs, "{}", String::from_utf8_lossy(&body));
    }

    #[test]
    fn encode_then_decode(s in ".*", t in "[\\x00-\\x7f]*") {
        for s in [s, t] {
            let mut out = Vec::new();
            encode_string(&s, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), s.clone());
            prop_assert_eq!(decode_string(&out[1..out.len() - 1]).unwrap(), s);
        }
    }

    #[test]
    fn plain_run_is_exact(bytes in proptest::collection::vec(
        prop_oneof![20 => 0x20u8..=0xff, 1 => Just(b'"'), 1 => Just(b'\\'), 1 => 0u8..0x20], 0..200), at in 0usize..220) {
        let want = (at..bytes.len()).find(|&i| matches!(bytes[i], b'"' | b'\\' | 0..=0x1f));
        prop_assert_eq!(plain_run(&bytes, at), want.unwrap_or(bytes.len()));
    }
}
