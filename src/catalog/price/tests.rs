use super::*;
use proptest::prelude::*;

const fn micros(micros: i64) -> Money {
    Money::from_micros(micros)
}

fn money(text: &str) -> Money {
    Money::parse(text).unwrap()
}

fn tokens(input: u64, cached_input: u64, cache_write: u64, output: u64) -> Used {
    let tokens = Usage {
        input,
        cached_input,
        cache_write,
        output,
        reasoning: output,
    };
    Used {
        tokens,
        ..Used::default()
    }
}

fn images(images: u64) -> Used {
    Used {
        images,
        ..Used::default()
    }
}

#[test]
fn tokens_cost_by_the_million() {
    let price = Price {
        input: money("2.5"),
        output: money("10"),
        cached_input: Some(money("1.25")),
        ..Price::default()
    };
    for (used, cost) in [
        (tokens(0, 0, 0, 0), 0),
        (tokens(1_000_000, 0, 0, 0), 2_500_000),
        (tokens(0, 0, 0, 1), 10),
        // 2.5 micro-units, and 1.25: up to a whole one, and both together only once.
        (tokens(1, 0, 0, 0), 3),
        (tokens(1, 1, 0, 0), 2),
        (tokens(2, 1, 0, 0), 4),
        // 86 × 2.5 + 1920 × 1.25 + 300 × 10; reasoning is part of the output.
        (tokens(2006, 1920, 0, 300), 5615),
        // Writing to the cache has no price of its own here.
        (tokens(10, 2, 8, 0), 23),
    ] {
        assert_eq!(price.cost(&used, None), micros(cost), "{used:?}");
    }
    let anthropic = Price {
        input: money("3"),
        output: money("15"),
        cached_input: Some(money("0.3")),
        cache_write: Some(money("3.75")),
        ..Price::default()
    };
    // 4 × 3 + 20317 × 0.3 + 188 × 3.75 + 97 × 15
    let used = tokens(20509, 20317, 188, 97);
    assert_eq!(anthropic.cost(&used, None), micros(8268));
    // Parts beyond their whole leave nothing of it.
    assert_eq!(anthropic.cost(&tokens(5, 10, 10, 0), None), micros(41));
}

#[test]
fn images_cost_by_their_size() {
    let any = Price {
        image: Some(money("0.2")),
        ..Price::default()
    };
    assert_eq!(any.cost(&images(3), Some("256x256")), micros(600_000));
    assert_eq!(any.cost(&images(3), None), micros(600_000));
    let by_size = Price {
        images_by_size: vec![
            ("1024x1024".into(), money("0.2")),
            ("2048x2048".into(), money("0.5")),
            ("512x512".into(), money("0.1")),
        ],
        ..Price::default()
    };
    for (size, cost) in [
        (Some("1024x1024"), 400_000),
        (Some("512x512"), 200_000),
        (Some("2048x2048"), 1_000_000),
        (Some("auto"), 1_000_000),
        (Some("1024X1024"), 1_000_000),
        (None, 1_000_000),
    ] {
        assert_eq!(by_size.cost(&images(2), size), micros(cost), "{size:?}");
    }
    assert_eq!(Price::default().cost(&images(2), None), Money::ZERO);
}

#[test]
fn an_image_by_tokens_and_by_piece_costs_both() {
    let price = Price {
        input: money("5"),
        output: money("40"),
        image: Some(money("0.01")),
        ..Price::default()
    };
    let used = Used {
        images: 2,
        ..tokens(10, 0, 0, 100)
    };
    assert_eq!(price.cost(&used, None), micros(50 + 4_000 + 20_000));
    let tokens_only = Price {
        image: None,
        ..price
    };
    assert_eq!(tokens_only.cost(&used, None), micros(4_050));
}

#[test]
fn speech_and_seconds() {
    let price = Price {
        thousand_characters: Some(money("0.015")),
        second: Some(money("0.0001")),
        ..Price::default()
    };
    for (characters, seconds, cost) in [(1000, 0, 15_000), (1, 0, 15), (0, 61, 6_100), (3, 2, 245)]
    {
        let used = Used {
            characters,
            seconds,
            ..Used::default()
        };
        assert_eq!(price.cost(&used, None), micros(cost));
    }
    let cheap = Price {
        thousand_characters: Some(micros(1)),
        ..Price::default()
    };
    let characters = |characters| Used {
        characters,
        ..Used::default()
    };
    assert_eq!(cheap.cost(&characters(1), None), micros(1));
    assert_eq!(cheap.cost(&characters(1000), None), micros(1));
    assert_eq!(cheap.cost(&characters(1001), None), micros(2));
}

#[test]
fn extremes_end_at_the_most_and_nothing_is_ever_given() {
    let dear = Price {
        input: micros(i64::MAX),
        output: micros(i64::MAX),
        cached_input: Some(micros(i64::MAX)),
        cache_write: Some(micros(i64::MAX)),
        image: Some(micros(i64::MAX)),
        images_by_size: Vec::new(),
        thousand_characters: Some(micros(i64::MAX)),
        second: Some(micros(i64::MAX)),
    };
    let all = Used {
        images: u64::MAX,
        characters: u64::MAX,
        seconds: u64::MAX,
        ..tokens(u64::MAX, u64::MAX, u64::MAX, u64::MAX)
    };
    assert_eq!(dear.cost(&all, None), micros(MOST));
    assert_eq!(dear.cost(&images(1), None), micros(MOST));
    let gift = Price {
        input: micros(i64::MIN),
        output: micros(-1),
        second: Some(micros(-1)),
        ..Price::default()
    };
    assert_eq!(gift.cost(&all, None), Money::ZERO);
    for (price, costs) in [(&gift, false), (&Price::default(), false), (&dear, true)] {
        assert_eq!(price.counts_tokens() || price.counts_units(), costs);
    }
    // Just below the most, and exact there: 2^53 − 1 tokens at one unit a million.
    let unit = Price {
        output: money("1"),
        ..Price::default()
    };
    let most = MOST.unsigned_abs();
    assert_eq!(
        unit.cost(&tokens(0, 0, 0, most - 1), None),
        micros(MOST - 1)
    );
    assert_eq!(unit.cost(&tokens(0, 0, 0, most + 1), None), micros(MOST));
}

fn any_price() -> impl Strategy<Value = Price> {
    let amount = || (0i64..10_000_000_000).prop_map(Money::from_micros);
    let maybe = || proptest::option::of((0i64..10_000_000_000).prop_map(Money::from_micros));
    (
        amount(),
        amount(),
        maybe(),
        maybe(),
        maybe(),
        maybe(),
        maybe(),
    )
        .prop_map(
            |(input, output, cached_input, cache_write, image, thousand_characters, second)| {
                Price {
                    input,
                    output,
                    cached_input,
                    cache_write,
                    image,
                    images_by_size: Vec::new(),
                    thousand_characters,
                    second,
                }
            },
        )
}

fn any_used() -> impl Strategy<Value = Used> {
    let few = || 0u64..100_000;
    ((few(), few(), few(), few()), few(), few(), few()).prop_map(
        |((plain, cached, written, output), images, characters, seconds)| Used {
            images: images / 1000,
            characters,
            seconds,
            ..tokens(plain + cached + written, cached, written, output)
        },
    )
}

proptest! {
    #[test]
    fn it_is_never_more_than_a_micro_unit_above_the_exact_cost(price in any_price(), used in any_used()) {
        let of = |price: Option<Money>| price.unwrap_or_default().micros() as u128;
        let counts = used.tokens;
        let plain = counts.input - counts.cached_input - counts.cache_write;
        let exact = u128::from(plain) * of(Some(price.input))
            + u128::from(counts.cached_input) * of(price.cached_input.or(Some(price.input)))
            + u128::from(counts.cache_write) * of(price.cache_write.or(Some(price.input)))
            + u128::from(counts.output) * of(Some(price.output))
            + u128::from(used.images) * of(price.image) * 1_000_000
            + u128::from(used.characters) * of(price.thousand_characters) * 1000
            + u128::from(used.seconds) * of(price.second) * 1_000_000;
        let cost = price.cost(&used, None).micros() as u128;
        if cost < MOST as u128 {
            prop_assert!(cost * 1_000_000 >= exact);
            prop_assert!(cost * 1_000_000 < exact + 1_000_000);
        } else {
            prop_assert!(exact > (MOST as u128 - 1) * 1_000_000);
        }
    }

    #[test]
    fn more_never_costs_less(price in any_price(), used in any_used(), more in any_used()) {
        let before = price.cost(&used, None);
        let tokens = Usage {
            input: used.tokens.input + more.tokens.input,
            output: used.tokens.output + more.tokens.output,
            ..used.tokens
        };
        for after in [
            Used { tokens, ..used },
            Used { images: used.images + more.images, ..used },
            Used { characters: used.characters + more.characters, ..used },
            Used { seconds: used.seconds + more.seconds, ..used },
        ] {
            prop_assert!(price.cost(&after, None) >= before);
        }
    }

    #[test]
    fn any_numbers_give_an_amount_between_nothing_and_the_most(
        price in any::<[i64; 7]>(), counts in any::<[u64; 7]>()) {
        let [input, output, cached, written, image, characters, second] = price.map(micros);
        let price = Price {
            input,
            output,
            cached_input: Some(cached),
            cache_write: Some(written),
            image: Some(image),
            images_by_size: vec![("a".into(), image)],
            thousand_characters: Some(characters),
            second: Some(second),
        };
        let [input, cached, written, output, images, characters, seconds] = counts;
        let used = Used { images, characters, seconds, ..tokens(input, cached, written, output) };
        let cost = price.cost(&used, Some("a"));
        prop_assert!(cost >= Money::ZERO && cost <= micros(MOST));
    }
}
