#![allow(clippy::unwrap_used)]

use super::*;
use crate::billing::money::Money;

const NOTHING: Reading = Reading {
    usage: Usage {
        input: 0,
        cached_input: 0,
        cache_write: 0,
        output: 0,
        reasoning: 0,
    },
    source: Source::Estimated,
    seconds: None,
    images: None,
    hostile: false,
};

const WHOLE: Answered = Answered {
    reading: NOTHING,
    relayed: 0,
    begun: true,
    failed: false,
    cut: false,
};

fn asked(operation: Operation) -> Asked<'static> {
    Asked {
        operation,
        prompt: 100,
        most: None,
        answers: 1,
        size: None,
        characters: 0,
        bytes: 0,
    }
}

fn money(text: &str) -> Money {
    Money::parse(text).unwrap()
}

fn by_tokens() -> Price {
    Price {
        input: money("1"),
        output: money("2"),
        ..Price::default()
    }
}

fn reported(input: u64, output: u64, source: Source) -> Reading {
    let usage = Usage {
        input,
        output,
        ..Usage::default()
    };
    Reading {
        usage,
        source,
        ..NOTHING
    }
}

fn tokens(due: &Due) -> (u64, u64, i64) {
    let Usage { input, output, .. } = due.used.tokens;
    (input, output, due.cost.micros())
}

#[test]
fn an_estimate_has_the_prompt_and_the_longest_answer() {
    let chat = asked(Operation::ChatCompletions);
    let of = |asked: Asked<'_>, context| {
        let Estimate { prompt, whole } = asked.estimate(&by_tokens(), context);
        (tokens(&prompt), tokens(&whole))
    };
    let prompt = (100, 0, 100);
    assert_eq!(of(chat, None), (prompt, (100, 1024, 2148)));
    let most = Some(50);
    assert_eq!(of(Asked { most, ..chat }, None), (prompt, (100, 50, 200)));
    // Nothing longer than the model can write is held.
    let most = Some(1 << 53);
    let long = Asked { most, ..chat };
    assert_eq!(of(long, Some(1000)), (prompt, (100, 1000, 2100)));
    let two = Asked { answers: 2, ..long };
    assert_eq!(of(two, Some(1000)), (prompt, (100, 2000, 4100)));
    let embeddings = asked(Operation::Embeddings);
    assert_eq!(of(embeddings, None), (prompt, prompt));
    for free in [Operation::CountTokens, Operation::ListModels] {
        let estimate = asked(free).estimate(&by_tokens(), None);
        assert_eq!(estimate, Estimate::default());
    }
}

#[test]
fn what_is_reported_is_due() {
    let chat = asked(Operation::ChatCompletions);
    let of = |reading, relayed| {
        let answered = Answered {
            reading,
            relayed,
            ..WHOLE
        };
        let (due, source) = chat.used(&answered, &by_tokens());
        (tokens(&due), source)
    };
    let reported_ = reported(7, 3, Source::Reported);
    assert_eq!(of(reported_, 500), ((7, 3, 13), Some(Source::Reported)));
    let partial = reported(120, 1, Source::Partial);
    assert_eq!(of(partial, 9), ((120, 9, 138), Some(Source::Partial)));
    assert_eq!(of(NOTHING, 9), ((100, 9, 118), Some(Source::Estimated)));
    let asked_for = Asked {
        most: Some(8),
        answers: 2,
        ..asked(Operation::ChatCompletions)
    };
    let endless = Answered {
        relayed: 5000,
        cut: true,
        ..WHOLE
    };
    assert_eq!(
        tokens(&asked_for.used(&endless, &by_tokens()).0),
        (100, 8, 116)
    );
    let hostile = Reading {
        hostile: true,
        ..reported(u64::MAX, 0, Source::Reported)
    };
    assert_eq!(of(hostile, 9), ((100, 9, 118), Some(Source::Estimated)));
}

#[test]
fn pictures_are_due_as_they_were_delivered() {
    let price = Price {
        images_by_size: vec![
            ("1024x1024".into(), money("0.2")),
            ("2048x2048".into(), money("0.5")),
        ],
        ..Price::default()
    };
    let four = Asked {
        answers: 4,
        size: Some("1024x1024"),
        ..asked(Operation::ImagesGenerations)
    };
    let Estimate { prompt, whole } = four.estimate(&price, None);
    assert_eq!((prompt.used.images, prompt.cost), (4, money("0.8")));
    assert_eq!(prompt, whole);
    let of = |images, failed| {
        let reading = Reading { images, ..NOTHING };
        let answered = Answered {
            reading,
            failed,
            ..WHOLE
        };
        let (due, source) = four.used(&answered, &price);
        (due.used.images, due.cost, source)
    };
    let sure = Some(Source::Reported);
    assert_eq!(of(Some(3), false), (3, money("0.6"), sure));
    assert_eq!(of(Some(0), false), (0, money("0"), sure));
    // The client left, or the form is unknown.
    assert_eq!(of(None, false), (4, money("0.8"), Some(Source::Estimated)));
    assert_eq!(of(None, true).1, money("0"));
    // By tokens: what is reported of them decides.
    let both = Price {
        output: money("40"),
        ..price
    };
    let reading = Reading {
        images: Some(4),
        ..reported(10, 1000, Source::Reported)
    };
    let (due, source) = four.used(&Answered { reading, ..WHOLE }, &both);
    assert_eq!((due.cost, source), (money("0.84"), sure));
    let reading = Reading {
        images: Some(4),
        ..NOTHING
    };
    let (_, source) = four.used(&Answered { reading, ..WHOLE }, &both);
    assert_eq!(source, Some(Source::Estimated));
}

#[test]
fn speech_is_due_by_its_characters() {
    let price = Price {
        thousand_characters: Some(money("0.015")),
        ..Price::default()
    };
    let speech = Asked {
        characters: 2000,
        ..asked(Operation::AudioSpeech)
    };
    assert_eq!(speech.estimate(&price, None).prompt.cost, money("0.03"));
    let of = |begun, failed| {
        let answered = Answered {
            begun,
            failed,
            ..WHOLE
        };
        speech.used(&answered, &price).0.cost
    };
    assert_eq!(of(true, false), money("0.03"));
    assert_eq!(of(true, true), money("0.03"));
    assert_eq!(of(false, true), money("0"));
}

#[test]
fn transcriptions_are_due_by_the_second() {
    let price = Price {
        second: Some(money("0.0001")),
        ..Price::default()
    };
    let of = |bytes, seconds| {
        let asked = Asked {
            bytes,
            ..asked(Operation::AudioTranscriptions)
        };
        let reading = Reading { seconds, ..NOTHING };
        let (due, source) = asked.used(&Answered { reading, ..WHOLE }, &price);
        (due.used.seconds, due.cost, source)
    };
    let (sure, guessed) = (Some(Source::Reported), Some(Source::Estimated));
    assert_eq!(of(0, Some(9)), (9, money("0.0009"), sure));
    assert_eq!(of(1, None), (60, money("0.006"), guessed));
    assert_eq!(of(16_000_000, None), (1000, money("0.1"), guessed));
    assert_eq!(of(16_000_001, None).0, 1001);
}
