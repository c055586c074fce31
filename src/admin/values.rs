//! Values of fields and parameters. Each error says what stands there and what to write instead, and goes on
//! where the field's name ends.

use super::body::Json;
use crate::billing::MOST;
use crate::billing::money::Money;
use crate::nearest::hint;
use crate::rejection::quoted;
use ipnet::IpNet;
use jiff::Timestamp;
use std::net::IpAddr;
use std::time::Duration;

/// What a reader of values gives.
pub type Read<T> = Result<T, String>;

/// Largest amount that is taken: sums of it stay below [`MOST`].
const MOST_MONEY: i64 = 9_000_000_000_000_000;
const _: () = assert!(MOST_MONEY < MOST);

/// A hundred years: sums of times stay far from their ends.
const LONGEST: Duration = Duration::from_secs(36_500 * 86_400);

/// The longest note, in bytes.
const NOTE: usize = 500;

/// A text.
pub fn text(json: Json) -> Read<String> {
    match json {
        Json::Text(text) => Ok(text),
        other => Err(format!("is {}; write a text in quotes", other.shown())),
    }
}

/// `true` or `false`.
pub fn flag(json: Json) -> Read<bool> {
    match json {
        Json::Bool(flag) => Ok(flag),
        other => Err(format!("is {}; write true or false", other.shown())),
    }
}

/// Texts, none of them twice.
pub fn texts(json: Json) -> Read<Vec<String>> {
    let Json::List(items) = json else {
        return Err(format!("is {}; write a list of texts", json.shown()));
    };
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        let one = text(item).map_err(|words| format!("has an item that {words}"))?;
        if texts.contains(&one) {
            return Err(format!("names \"{}\" twice; remove one", quoted(&one)));
        }
        texts.push(one);
    }
    Ok(texts)
}

/// Money that is not negative, as a decimal text or a number without exponent.
pub fn money(json: Json) -> Read<Money> {
    let (Json::Text(text) | Json::Number(text)) = &json else {
        let words = format!("is {}; write an amount such as \"19.90\"", json.shown());
        return Err(words);
    };
    let shown = json.shown();
    let money = Money::parse(text).map_err(|error| format!("is {shown}, {error}"))?;
    if money < Money::ZERO {
        return Err(format!("is {shown}; write 0 or more"));
    }
    if money.micros() > MOST_MONEY {
        return Err(format!("is {shown}; the most is 9000000000"));
    }
    Ok(money)
}

/// Money that is more than nothing.
pub fn sum(json: Json) -> Read<Money> {
    let shown = json.shown();
    match money(json)? {
        Money::ZERO => Err(format!("is {shown}; write more than 0")),
        money => Ok(money),
    }
}

/// A name for people: one line.
pub fn name(json: Json) -> Read<String> {
    let name = text(json)?;
    if name.trim().is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
        return Err(format!(
            "is \"{}\"; write 1 to 128 characters on one line",
            quoted(&name)
        ));
    }
    Ok(name)
}

/// Why something is done: one line.
pub fn note(json: Json) -> Read<String> {
    let note = text(json)?;
    if note.len() > NOTE || note.chars().any(char::is_control) {
        return Err(format!(
            "is \"{}\"; write at most {NOTE} bytes on one line",
            quoted(&note)
        ));
    }
    Ok(note)
}

/// An id that the operator chooses: it appears in paths, metrics and the store.
pub fn id(text: String) -> Read<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".@_-".contains(&b);
    let dots = matches!(text.as_str(), "." | "..");
    if text.is_empty() || text.len() > 64 || dots || !text.bytes().all(allowed) {
        return Err(format!(
            "is \"{}\"; write 1 to 64 letters, digits, `.`, `@`, `_` or `-`",
            quoted(&text)
        ));
    }
    Ok(text)
}

/// Ids, at least one.
pub fn ids(json: Json) -> Read<Vec<String>> {
    let ids = texts(json)?;
    if ids.is_empty() {
        return Err("is empty; name at least one".to_owned());
    }
    ids.into_iter()
        .map(|one| id(one).map_err(|words| format!("has an item that {words}")))
        .collect()
}

/// One of the names that there are; `what` they are is for the hint: `plans`.
pub fn one_of<'a>(
    text: &str,
    what: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Read<()> {
    if known.clone().any(|name| name == text) {
        return Ok(());
    }
    let hint = hint(text, &format!("known {what}"), known);
    Err(format!("is \"{}\", which is not there{hint}", quoted(text)))
}

/// Globs over model ids.
pub fn globs(json: Json) -> Read<Vec<String>> {
    let globs = texts(json)?;
    if globs.is_empty() {
        return Err("is empty; write `null` for all models of the plan".to_owned());
    }
    for glob in &globs {
        let blank = |c: char| c.is_whitespace() || c.is_control();
        if glob.is_empty() || glob.len() > 256 || glob.contains(blank) {
            return Err(format!(
                "has \"{}\"; write a model id, in which `*` stands for any characters",
                quoted(glob)
            ));
        }
        if glob.contains(['?', '[', ']', '{', '}', '!']) {
            return Err(format!(
                "has \"{}\", a wildcard that globs do not have; `*` is the only one",
                quoted(glob)
            ));
        }
    }
    Ok(globs)
}

/// Networks, as they are kept: without the bits of a host.
pub fn networks(json: Json) -> Read<Vec<String>> {
    let networks = texts(json)?;
    let one = |text: &String| -> Read<String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(IpNet::from(address).to_string());
        }
        match text.parse::<IpNet>() {
            Ok(network) => Ok(network.trunc().to_string()),
            Err(_) => Err(format!(
                "has \"{}\"; write CIDR, such as `10.0.0.0/8` or `2001:db8::/32`",
                quoted(text)
            )),
        }
    };
    networks.iter().map(one).collect()
}

/// A moment, in milliseconds since 1970.
pub fn time(text: &str) -> Read<u64> {
    let time: Timestamp = text.parse().map_err(|_| {
        format!(
            "is \"{}\"; write RFC 3339 with an offset, such as `2027-01-01T00:00:00Z`",
            quoted(text)
        )
    })?;
    u64::try_from(time.as_millisecond())
        .map_err(|_| format!("is \"{}\"; write a time after 1970", quoted(text)))
}

/// A moment in the future.
pub fn future(json: Json, now: u64) -> Read<u64> {
    let text = text(json)?;
    let time = time(&text)?;
    if time <= now {
        return Err(format!(
            "is \"{}\", which has passed; write a time to come, or use `disabled`",
            quoted(&text)
        ));
    }
    Ok(time)
}

/// `24h`, `30m`, `7d`, `90s`, `0s`.
pub fn duration(text: &str) -> Read<Duration> {
    let wrong = || {
        format!(
            "is \"{}\"; write a whole number with a unit, such as `30m`, `24h` or `7d`",
            quoted(text)
        )
    };
    let end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(end);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let all = number.checked_mul(seconds).map(Duration::from_secs);
    all.filter(|all| *all <= LONGEST)
        .ok_or_else(|| format!("is \"{}\"; the most is `36500d`", quoted(text)))
}

/// A moment as it is answered.
pub fn rfc3339(ms: u64) -> Option<String> {
    let time = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Json {
        Json::Number(text.to_owned())
    }

    fn quoted_text(text: &str) -> Json {
        Json::Text(text.to_owned())
    }

    #[test]
    fn money_is_exact_in_both_forms() {
        for json in [number("0.1"), quoted_text("0.100000")] {
            assert_eq!(money(json), Ok(Money::from_micros(100_000)));
        }
        let most = money(number("8999999999.999999")).unwrap();
        assert_eq!(most.to_string(), "8999999999.999999");
        for json in [
            number("1e3"),
            number("0.1234567"),
            number("-1"),
            number("9000000000.000001"),
            quoted_text("1,5"),
            quoted_text(""),
            Json::Null,
            Json::Bool(true),
        ] {
            assert!(money(json.clone()).is_err(), "{json:?}");
        }
        assert!(sum(number("0.00")).unwrap_err().contains("more than 0"));
    }

    #[test]
    fn durations_and_times() {
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        for text in [
            "",
            "7",
            "d",
            "-1h",
            "1.5h",
            "1w",
            "99999999999999999999h",
            "36501d",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(time("1970-01-01T08:00:01+08:00"), Ok(1_000));
        assert_eq!(rfc3339(1_000).as_deref(), Some("1970-01-01T00:00:01Z"));
        assert!(time("2027-01-01").is_err() && time("1960-01-01T00:00:00Z").is_err());
        let later = quoted_text("1970-01-01T00:00:02Z");
        assert!(future(later.clone(), 1_999).is_ok() && future(later, 2_000).is_err());
    }

    #[test]
    fn lists_and_ids() {
        let list = |items: &[&str]| Json::List(items.iter().map(|i| quoted_text(i)).collect());
        assert_eq!(
            networks(list(&["10.1.2.3/8", "::1"])).unwrap(),
            ["10.0.0.0/8", "::1/128"]
        );
        assert!(networks(list(&["10.0.0.0/33"])).is_err());
        assert!(globs(list(&["gpt-*"])).is_ok() && globs(list(&["gpt-[ab]"])).is_err());
        assert!(globs(list(&[])).is_err() && globs(list(&["a", "a"])).is_err());
        assert!(
            id("a b".into()).is_err() && id("..".into()).is_err() && id("a.b@c".into()).is_ok()
        );
    }
}
