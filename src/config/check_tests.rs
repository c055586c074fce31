#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value as Json, json};
use serde_yaml::Value;

use super::{brief, check};
use crate::config::document::Document;
use crate::config::report::Report;

fn schema() -> Json {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["name"],
        "properties": {
            "name": { "type": "string" },
            "port": { "type": "integer", "format": "uint16", "minimum": 1 },
            "mode": { "$ref": "#/$defs/Mode" },
            "sizes": { "type": "object", "additionalProperties": { "type": "integer", "maximum": 9 } },
            "either": { "anyOf": [{ "$ref": "#/$defs/Mode" }, { "$ref": "#/$defs/Inner" }] },
            "list": { "type": "array", "items": { "$ref": "#/$defs/Inner" } },
            "amount": { "type": ["number", "string"], "title": "amount" },
        },
        "$defs": {
            "Mode": { "oneOf": [{ "const": "on", "type": "string" }, { "const": "off", "type": "string" }] },
            "Inner": { "type": "object", "additionalProperties": false, "properties": { "deep": { "type": "boolean" } } },
        },
    })
}

/// The errors of a text, and what the check left of it.
fn checked(text: &str) -> (String, Value) {
    let (document, problems) = Document::read(text, &|_| None).unwrap();
    let mut report = Report::new(&document, problems);
    let kept = check(&schema(), &mut report);
    (report.into_errors("t").to_string(), kept)
}

#[test]
fn what_fits_is_kept_as_it_is() {
    let text = "name: x\nport: 80\nmode: on\nsizes: { a: 1 }\neither: { deep: true }\nlist: [{}]\namount: 0.5\n";
    let (errors, kept) = checked(text);
    assert_eq!(errors, "");
    assert_eq!(kept, serde_yaml::from_str::<Value>(text).unwrap());
    assert_eq!(checked("{ name: x, either: off, amount: '0.5' }").0, "");
}

#[test]
fn what_is_wrong_is_reported_and_taken_out() {
    let (errors, kept) = checked(
        "port: 65536\nmode: offf\nsizes: { a: 10, b: x }\neither: { deeep: true }\nlist: [3, { deep: 1 }]\nnaem: x\n",
    );
    assert_eq!(
        errors,
        "t:1:1: name: `name` is missing; add `name:` with text\n\
         t:1:7: port: `65536` is too large; the most is 65535\n\
         t:2:7: mode: unknown value `offf`; did you mean `off`? (allowed: on, off)\n\
         t:3:13: sizes.a: `10` is too large; the most is 9\n\
         t:3:20: sizes.b: expected a whole number, found the text `x`\n\
         t:4:11: either.deeep: unknown field `deeep`; did you mean `deep`?\n\
         t:5:8: list[0]: expected a mapping, found the number `3`\n\
         t:5:19: list[1].deep: expected `true` or `false`, found the number `1`\n\
         t:6:1: naem: unknown field `naem`; did you mean `name`?"
    );
    // Entries and items keep their place, fields go.
    assert_eq!(
        kept,
        serde_yaml::from_str::<Value>("sizes: { a: 0, b: 0 }\neither: {}\nlist: [{}, {}]").unwrap()
    );
}

#[test]
fn alternatives_are_named_together() {
    assert!(
        checked("{ name: x, either: 3 }")
            .0
            .contains("expected one of `on`, `off` or a mapping, found the number `3`")
    );
    assert!(
        checked("{ name: x, either: offf }")
            .0
            .contains("did you mean `off`?")
    );
}

#[test]
fn shown_values_are_short_and_on_one_line() {
    assert_eq!(brief("a\nb"), "a\\nb");
    assert_eq!(brief(&"x".repeat(100)).chars().count(), 81);
}
