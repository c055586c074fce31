//! Money as whole micro-units (a millionth of the currency unit), without floats.
//!
//! Every sum is checked: an overflow is `None`, never a wrap and never a panic.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Micro-units in one unit of the currency.
const MICROS_PER_UNIT: i64 = 1_000_000;

/// Decimals that a micro-unit can carry.
const DECIMALS: usize = 6;

/// An amount in micro-units of the configured currency; may be negative.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Money(i64);

/// Why a text is not an amount of money. The words name the remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoneyError {
    /// Not `digits` or `digits.digits`, with `-` in front at most.
    NotDecimal,
    /// More than six digits after the point.
    TooManyDecimals,
    /// More than 64 bits of micro-units hold.
    OutOfRange,
}

impl fmt::Display for MoneyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDecimal => "not a decimal amount; write digits, for example 19.90",
            Self::TooManyDecimals => "more than 6 decimals; write at most 6 decimals",
            Self::OutOfRange => "too large; at most 9223372036854.775807 fits",
        })
    }
}

impl std::error::Error for MoneyError {}

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// An amount of `micros` micro-units.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// The amount in micro-units.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Reads `19.9`, `-3`, `0.000001`: digits on both sides of the point, no exponent, no sign but `-`.
    ///
    /// # Errors
    ///
    /// [`MoneyError`] when the text has another form, more than six decimals, or does not fit.
    pub fn parse(text: &str) -> Result<Self, MoneyError> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = match digits.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (digits, None),
        };
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !fraction.is_none_or(all_digits) {
            return Err(MoneyError::NotDecimal);
        }
        let fraction = fraction.unwrap_or("");
        if fraction.len() > DECIMALS {
            return Err(MoneyError::TooManyDecimals);
        }
        // Summed as negative numbers, because i64::MIN has no positive twin.
        let padding = std::iter::repeat_n(b'0', DECIMALS - fraction.len());
        let mut micros: i64 = 0;
        for digit in whole.bytes().chain(fraction.bytes()).chain(padding) {
            micros = micros
                .checked_mul(10)
                .and_then(|m| m.checked_sub(i64::from(digit - b'0')))
                .ok_or(MoneyError::OutOfRange)?;
        }
        if negative {
            Ok(Self(micros))
        } else {
            micros.checked_neg().map(Self).ok_or(MoneyError::OutOfRange)
        }
    }

    /// The sum, or `None` when it does not fit.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(micros) => Some(Self(micros)),
            None => None,
        }
    }

    /// The sum, or the nearest amount that fits: for sums that were bounded before.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or the nearest amount that fits: for sums that were bounded before.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The difference, or `None` when it does not fit.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(micros) => Some(Self(micros)),
            None => None,
        }
    }
}

/// Always six decimals: `99.937500`. [`Money::parse`] reads it back exactly.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let size = self.0.unsigned_abs();
        let unit = MICROS_PER_UNIT.unsigned_abs();
        write!(f, "{sign}{}.{:06}", size / unit, size % unit)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::{Money, MoneyError};

    #[test]
    fn reads_decimals_exactly() {
        for (text, micros) in [
            ("0", 0),
            ("0.4", 400_000),
            ("100.00", 100_000_000),
            ("99.937500", 99_937_500),
            ("0.000001", 1),
            ("-3.5", -3_500_000),
            ("-0", 0),
            ("007", 7_000_000),
            ("9223372036854.775807", i64::MAX),
            ("-9223372036854.775808", i64::MIN),
        ] {
            assert_eq!(Money::parse(text).map(Money::micros), Ok(micros), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_an_amount() {
        for text in [
            "", "-", ".", ".5", "5.", "+1", "1e3", "1,5", " 1", "1 ", "--1", "1.2.3", "٣", "NaN",
            "0x1",
        ] {
            assert_eq!(Money::parse(text), Err(MoneyError::NotDecimal), "{text:?}");
        }
        assert_eq!(Money::parse("0.0000001"), Err(MoneyError::TooManyDecimals));
        assert_eq!(
            Money::parse("9223372036854.775808"),
            Err(MoneyError::OutOfRange)
        );
        assert_eq!(
            Money::parse("-9223372036854.775809"),
            Err(MoneyError::OutOfRange)
        );
        assert_eq!(
            Money::parse(&"9".repeat(10_000)),
            Err(MoneyError::OutOfRange)
        );
    }

    #[test]
    fn shows_six_decimals_and_reads_them_back() {
        assert_eq!(Money::from_micros(99_937_500).to_string(), "99.937500");
        assert_eq!(Money::from_micros(-1).to_string(), "-0.000001");
        for micros in [0, 1, -1, 999_999, 1_000_000, i64::MAX, i64::MIN] {
            let money = Money::from_micros(micros);
            assert_eq!(Money::parse(&money.to_string()), Ok(money));
        }
    }

    #[test]
    fn sums_are_checked() {
        let one = Money::from_micros(1);
        assert_eq!(one.checked_add(one), Some(Money::from_micros(2)));
        assert_eq!(one.checked_sub(one), Some(Money::ZERO));
        assert_eq!(Money::from_micros(i64::MAX).checked_add(one), None);
        assert_eq!(Money::from_micros(i64::MIN).checked_sub(one), None);
    }
}
