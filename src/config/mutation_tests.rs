#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::config::parse;

const EXAMPLE: &str = include_str!("example.yaml");

fn env(_: &str) -> Option<String> {
    Some("value".to_owned())
}

/// Rounds; quick enough for every test run.
const ROUNDS: usize = 400;

/// Bytes moved, doubled, dropped and replaced by YAML's own signs: an error or not, but never a panic.
#[test]
fn mutations_of_the_example_never_panic() {
    const SIGNS: [&str; 20] = [
        ":",
        "-",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "'",
        "&a ",
        "*a",
        "${",
        "$",
        "\n",
        "  ",
        "!!str ",
        "<<: ",
        "#",
        "é",
        "999999999999999999999",
        "\t",
    ];
    let mut seed: u64 = 0x5eed;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below.max(1) as u64) as usize
    };
    for _ in 0..ROUNDS {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for _ in 0..=random(3) {
            let at = random(text.len());
            match random(4) {
                0 => drop(text.remove(at)),
                1 => {
                    let end = (at + random(40)).min(text.len());
                    text.drain(at..end);
                }
                2 => {
                    let end = (at + random(40)).min(text.len());
                    let copy: Vec<char> = text[at..end].to_vec();
                    let to = random(text.len());
                    text.splice(to..to, copy);
                }
                _ => {
                    text.splice(at..at, SIGNS[random(SIGNS.len())].chars());
                }
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = parse("t.yaml", &text, &env) {
            assert!(
                !errors.problems().is_empty() && !errors.to_string().contains("please report"),
                "{errors}\n{text}"
            );
        }
    }
}
