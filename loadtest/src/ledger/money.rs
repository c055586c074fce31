//! Money in whole micro-units, and what tokens cost.

/// Of a model whose tokens have a price: micro-units a million of them.
pub const PRICE: Price = Price {
    input: 4_000_000,
    output: 16_000_000,
    cached: 400_000,
};

/// Micro-units that a picture costs.
pub const PICTURE: i64 = 200_000;

/// What a million tokens cost, in micro-units.
#[derive(Debug, Clone, Copy)]
pub struct Price {
    /// Of a prompt.
    pub input: u64,
    /// Of an answer.
    pub output: u64,
    /// Of a prompt that the provider had in its cache.
    pub cached: u64,
}

/// Tokens of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the prompt, cached ones included.
    pub input: u64,
    /// Those of them that were cached.
    pub cached: u64,
    /// Of the answer.
    pub output: u64,
}

impl Price {
    /// What a request costs: rounded up once, in whole numbers.
    pub fn cost(self, tokens: Tokens) -> i64 {
        let Tokens {
            input,
            cached,
            output,
        } = tokens;
        let plain = input.saturating_sub(cached);
        let parts = [
            (plain, self.input),
            (cached, self.cached),
            (output, self.output),
        ];
        let sum: u128 = parts
            .iter()
            .map(|(count, price)| u128::from(*count) * u128::from(*price))
            .sum();
        i64::try_from(sum.div_ceil(1_000_000)).unwrap_or(i64::MAX)
    }
}

/// Reads `99.937500`, as the admin API writes money: six decimals, nothing else.
pub fn micros(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, decimals) = digits.split_once('.')?;
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if decimals.len() != 6 || !all_digits(whole) || !all_digits(decimals) {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let decimals: i64 = decimals.parse().ok()?;
    let size = whole.checked_mul(1_000_000)?.checked_add(decimals)?;
    Some(sign * size)
}

/// Micro-units as the configuration and the admin API read them.
pub fn decimal(micros: i64) -> String {
    let size = micros.unsigned_abs();
    let sign = if micros < 0 { "-" } else { "" };
    format!("{sign}{}.{:06}", size / 1_000_000, size % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_rounded_up_once() {
        let cost = |input, cached, output| {
            PRICE.cost(Tokens {
                input,
                cached,
                output,
            })
        };
        assert_eq!(cost(0, 0, 0), 0);
        assert_eq!(cost(10, 0, 3), 88);
        // 9 × 4 + 1 × 0.4 = 36.4
        assert_eq!(cost(10, 1, 0), 37);
        assert_eq!(cost(10, 10, 0), 4);
        assert_eq!(cost(11, 11, 0), 5);
    }

    #[test]
    fn money_is_read_as_it_is_written() {
        for sum in [0, 1, -1, 999_999, 1_000_000, -93_499_999, 1_000_000_000_000] {
            assert_eq!(micros(&decimal(sum)), Some(sum));
        }
        for wrong in [
            "",
            "1",
            "1.5",
            "1.0000000",
            ".000001",
            "1.00000x",
            "+1.000000",
        ] {
            assert_eq!(micros(wrong), None, "{wrong}");
        }
    }
}
