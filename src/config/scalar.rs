//! The type of a plain (unquoted) YAML scalar, by YAML 1.2's core schema.
//!
//! Not YAML 1.1's: `no`, `on` and `1_000` are texts here.

use serde_yaml::Value;

/// Null, a boolean, a number or else a text.
pub(crate) fn typed(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Value::from(f64::INFINITY);
        }
        "-.inf" | "-.Inf" | "-.INF" => return Value::from(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Value::from(f64::NAN),
        _ => {}
    }
    integer(text)
        .or_else(|| float(text).map(Value::from))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn integer(text: &str) -> Option<Value> {
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            // `from_str_radix` takes a sign, YAML does not.
            let plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
            return u64::from_str_radix(digits, radix)
                .ok()
                .filter(|_| plain)
                .map(Value::from);
        }
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    match (text.parse::<u64>(), text.parse::<i64>()) {
        (Ok(number), _) => Some(Value::from(number)),
        (_, Ok(number)) => Some(Value::from(number)),
        _ => None,
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`: Rust reads more than this (`inf`, `nan`).
fn float(text: &str) -> Option<f64> {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (
            mantissa,
            Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)),
        ),
        None => (body, None),
    };
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let some_digit = !whole.is_empty() || !fraction.is_empty();
    let exponent_ok = exponent.is_none_or(|e| !e.is_empty() && digits(e));
    (some_digit && digits(whole) && digits(fraction) && exponent_ok).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::typed;
    use serde_yaml::Value;

    #[test]
    fn follows_the_core_schema() {
        for text in ["", "~", "null", "NULL"] {
            assert_eq!(typed(text), Value::Null, "{text}");
        }
        assert_eq!(typed("true"), Value::Bool(true));
        assert_eq!(typed("FALSE"), Value::Bool(false));
        assert_eq!(typed("12"), Value::from(12u64));
        assert_eq!(typed("-12"), Value::from(-12i64));
        assert_eq!(typed("+7"), Value::from(7u64));
        assert_eq!(typed("0x1F"), Value::from(31u64));
        assert_eq!(typed("0o17"), Value::from(15u64));
        assert_eq!(typed("0.4"), Value::from(0.4));
        assert_eq!(typed("100.00"), Value::from(100.0));
        assert_eq!(typed("1e3"), Value::from(1000.0));
        assert_eq!(typed(".5"), Value::from(0.5));
        assert_eq!(typed("-.inf"), Value::from(f64::NEG_INFINITY));
        for text in [
            "no",
            "on",
            "1_000",
            "inf",
            "nan",
            "3s",
            "0x",
            "0xZZ",
            "0x+1",
            "-",
            "+",
            ".",
            "1e",
            "e5",
            "1.2.3",
            "10.0.0.1:80",
            "2027-01-01T00:00:00Z",
            "+08:00",
            "- 1",
        ] {
            assert_eq!(typed(text), Value::String(text.to_owned()), "{text}");
        }
    }
}
