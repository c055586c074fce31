#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::{Document, Problem};
use serde_yaml::Value;

fn env(name: &str) -> Option<String> {
    (name == "FOUR").then(|| "4".to_owned())
}

fn read(text: &str) -> (Document, Vec<Problem>) {
    Document::read(text, &env).unwrap()
}

fn fails(text: &str) -> String {
    let Problem {
        line,
        column,
        path,
        message,
    } = Document::read(text, &env).unwrap_err();
    format!("{line}:{column}: {path}: {message}")
}

#[test]
fn every_key_and_value_has_its_place() {
    let (document, problems) = read("a: 1\nmodels:\n  - id: x\n    price: { input: 4 }\n");
    assert!(problems.is_empty());
    assert_eq!(document.key_position("models[0].price"), (4, 5));
    assert_eq!(document.value_position("models[0].price"), (4, 12));
    assert_eq!(document.value_position("models[0].price.input"), (4, 21));
    assert_eq!(
        document.value_position("models[0].price.absent"),
        (4, 12),
        "the nearest above"
    );
    assert_eq!(document.value_position(""), (1, 1));
    assert_eq!(
        read("é: { ü: 1 }").0.value_position("[\"é\"][\"ü\"]"),
        (1, 9),
        "columns are characters"
    );
}

#[test]
fn scalars_are_typed_after_expansion() {
    let (document, _) = read("a: ${FOUR}\nb: \"${FOUR}\"\nc: '4'\nd: !!str 4\ne: |\n  4\nf: $$4\n");
    let kinds = ["a", "b", "c", "d", "e", "f"].map(|name| document.root[name].clone());
    let text = |text: &str| Value::from(text);
    assert_eq!(
        kinds,
        [
            Value::from(4u64),
            text("4"),
            text("4"),
            text("4"),
            text("4\n"),
            text("$4")
        ]
    );
    assert_eq!(document.shown("a"), Some("${FOUR}"));
    assert_eq!(document.exact("a"), Some("4"));
}

#[test]
fn single_values_that_are_wrong_come_beside_the_document() {
    let (document, problems) = read("a: ${NONE}\nb: 1\nb: 2\nc: { <<: { x: 1 } }\nd: !odd 1\n");
    let lines: Vec<String> = problems
        .iter()
        .map(|p| format!("{}:{} {} {}", p.line, p.column, p.path, p.message))
        .collect();
    let all = lines.join("\n");
    for wanted in [
        "1:4 a variable `NONE` is not set",
        "3:1 b `b` is given twice, first in line 2; remove one",
        "merge keys (`<<`) are not part of YAML 1.2",
        "the tag `!odd` is not supported",
    ] {
        assert!(all.contains(wanted), "{wanted}\n{all}");
    }
    assert_eq!(lines.len(), 4, "{all}");
    assert_eq!(document.root["b"], Value::from(1u64), "the first counts");
}

#[test]
fn what_is_no_single_yaml_document_is_refused() {
    assert!(fails("").contains("the file is empty"));
    assert!(fails("# only a comment\n").contains("the file is empty"));
    assert!(fails("a: 1\n---\nb: 2\n").starts_with("2:1: : a second document begins here"));
    assert!(fails("a: [1\nb: 2").contains("not YAML"));
    assert!(fails("a: {b: ${FOUR}}").contains("in quotes"));
    assert!(fails("[a, b]: 1").contains("a field name must be a plain word"));
    assert!(fails("a: *nowhere").contains("not YAML"));
}

#[test]
fn aliases_are_copied_within_bounds() {
    let (document, problems) = read("a: &x { b: [1, 2] }\nc: *x\n");
    assert!(problems.is_empty());
    assert_eq!(document.root["c"]["b"][1], Value::from(2u64));
    assert_eq!(document.key_position("c"), (2, 1));
    assert_eq!(
        document.value_position("c.b[1]"),
        (1, 16),
        "inside an alias: where it was written"
    );
    assert!(fails("a: &x [*x]").contains("refers to itself"));

    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let before = n - 1;
        bomb += &format!(
            "a{n}: &a{n} [*a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}]\n"
        );
    }
    assert!(fails(&bomb).contains("more than 100000 values"));

    let mut tower = "a0: &a0 [[[[[[[[x]]]]]]]]\n".to_owned();
    for n in 1..12 {
        tower += &format!("a{n}: &a{n} [[[[[[[[*a{}]]]]]]]]\n", n - 1);
    }
    assert!(fails(&tower).contains("nested more than 64 levels deep"));
    assert!(fails(&format!("a: {}", "[".repeat(100))).contains("nested more than 64 levels deep"));
    assert!(
        fails(&format!("a: {}", "[".repeat(5_000))).contains("recursion limit"),
        "the parser's own"
    );
    assert!(
        fails(&format!("a: {}", "{a: ".repeat(100))).contains("nested more than 64 levels deep")
    );
}
