use super::*;

fn read(raw: &str, shape: Shape) -> (Usage, bool, bool) {
    let parsed = parse(raw.as_bytes(), shape);
    let Resolved {
        usage,
        complete,
        hostile,
    } = parsed.usage.resolve(shape);
    (usage, complete, hostile || parsed.hostile)
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

#[test]
fn each_provider_in_its_own_words() {
    let chat = r#"{"prompt_tokens":10,"completion_tokens":7,"total_tokens":17,"prompt_tokens_details":{"audio_tokens":0,"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":3}}"#;
    assert_eq!(
        read(chat, Shape::OpenAiChat),
        (usage(10, 4, 0, 7, 3), true, false)
    );
    let deepseek = r#"{"prompt_tokens":10,"completion_tokens":7,"prompt_cache_hit_tokens":6,"prompt_cache_miss_tokens":4,"prompt_tokens_details":null}"#;
    assert_eq!(
        read(deepseek, Shape::OpenAiChat),
        (usage(10, 6, 0, 7, 0), true, false)
    );
    let responses = r#"{"input_tokens":20,"input_tokens_details":{"cached_tokens":5},"output_tokens":9,"output_tokens_details":{"reasoning_tokens":8},"total_tokens":29}"#;
    assert_eq!(
        read(responses, Shape::OpenAiResponses),
        (usage(20, 5, 0, 9, 8), true, false)
    );
    let anthropic = r#"{"input_tokens":3,"cache_creation_input_tokens":100,"cache_read_input_tokens":40,"output_tokens":12,"service_tier":"standard","cache_creation":{"ephemeral_5m_input_tokens":100}}"#;
    assert_eq!(
        read(anthropic, Shape::Anthropic),
        (usage(143, 40, 100, 12, 0), true, false)
    );
    let embeddings = r#"{"prompt_tokens":8,"total_tokens":8}"#;
    assert_eq!(
        read(embeddings, Shape::OpenAiChat),
        (usage(8, 0, 0, 0, 0), true, false)
    );
    assert_eq!(
        read(r#"{"total_tokens":9}"#, Shape::OpenAiChat),
        (usage(9, 0, 0, 0, 0), false, false)
    );
}

#[test]
fn both_sets_of_names_at_once() {
    let both = r#"{"prompt_tokens":10,"completion_tokens":5,"input_tokens":0,"output_tokens":0,"input_tokens_details":null}"#;
    assert_eq!(read(both, Shape::OpenAiChat).0, usage(10, 0, 0, 5, 0));
    assert_eq!(
        read(r#"{"input_tokens":1,"output_tokens":2}"#, Shape::OpenAiChat).0,
        usage(1, 0, 0, 2, 0)
    );
}

#[test]
fn hostile_figures_are_ignored() {
    for bad in [
        "-1",
        "1.5",
        "\"7\"",
        "NaN",
        "9223372036854775808",
        "1e300",
        "9007199254740993",
        "[1]",
        "true",
        "-0",
        "{}",
        "1e999",
    ] {
        let raw = format!(r#"{{"prompt_tokens":{bad},"completion_tokens":7}}"#);
        assert_eq!(
            read(&raw, Shape::OpenAiChat),
            (usage(0, 0, 0, 7, 0), false, true),
            "{bad}"
        );
    }
    assert_eq!(
        read(
            r#"{"prompt_tokens":null,"completion_tokens":7}"#,
            Shape::OpenAiChat
        ),
        (usage(0, 0, 0, 7, 0), false, false)
    );
    assert_eq!(
        read(
            r#"{"prompt_tokens":12.0,"completion_tokens":1e3}"#,
            Shape::OpenAiChat
        ),
        (usage(12, 0, 0, 1000, 0), true, false)
    );
    let cached =
        r#"{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":50}}"#;
    assert_eq!(
        read(cached, Shape::OpenAiChat),
        (usage(5, 5, 0, 7, 0), true, true)
    );
    assert!(parse(b"{\"prompt_tokens\":1", Shape::OpenAiChat).hostile);
    assert!(parse(b"\xff", Shape::OpenAiChat).usage.is_empty());
}

#[test]
fn anthropic_deltas_overwrite() {
    let mut sum = parse(
        br#"{"input_tokens":3,"cache_read_input_tokens":9,"output_tokens":1}"#,
        Shape::Anthropic,
    )
    .usage;
    sum.merge(
        parse(
            br#"{"input_tokens":null,"output_tokens":50}"#,
            Shape::Anthropic,
        )
        .usage,
    );
    sum.merge(parse(br#"{"output_tokens":80}"#, Shape::Anthropic).usage);
    assert_eq!(sum.resolve(Shape::Anthropic).usage, usage(12, 9, 0, 80, 0));
}
