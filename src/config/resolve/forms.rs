//! Texts with a form of their own → values. Each error says the form that was expected.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use crate::billing::money::Money;
use crate::config::settings::{BaseUrl, Rate};

/// Amounts stay below 2^53 micro-units, which Redis' Lua still holds exactly.
const MOST_UNITS: i64 = 9_000_000_000;

pub(super) type Parsed<T> = Result<T, String>;

/// Digits, then the rest.
pub(super) fn digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// `1048576`, `32KiB`, `32MiB`, `1GiB`, `32kB`, `32MB`, `1GB`, `512B` → bytes.
pub(super) fn size(text: &str) -> Parsed<u64> {
    let (number, unit) = digits(text);
    let bytes: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err("is no size; write bytes, or a whole number with `KiB`, `MiB` or `GiB`, such as `32MiB`".into()),
    };
    let Ok(number) = number.parse::<u64>() else {
        return Err("is no size; write a whole number before the unit, such as `32MiB`".into());
    };
    number
        .checked_mul(bytes)
        .ok_or_else(|| "is too large".to_owned())
}

/// `20/s`, `600/m`, `1000/h`, `1/d`.
pub(super) fn rate(text: &str) -> Parsed<Rate> {
    let wrong = || {
        "is no rate; write a whole number from 1 and a time, such as `20/s`, `600/m` or `1000/h`"
            .to_owned()
    };
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    if count.starts_with('+') {
        return Err(wrong());
    }
    match count.parse::<u32>() {
        Ok(count) if count > 0 => Ok(Rate {
            count,
            per: Duration::from_secs(seconds),
        }),
        _ => Err(wrong()),
    }
}

/// `127.0.0.1:8080`, `[::1]:8080`.
pub(super) fn address(text: &str) -> Parsed<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let remedy = match text.rsplit_once(':') {
        _ if text.parse::<IpAddr>().is_ok() => "the port is missing: add it, as in `127.0.0.1:8080`".to_owned(),
        Some(("", port)) => format!("the address is missing: write `0.0.0.0:{port}` for every interface"),
        Some(("localhost", port)) => format!("names are not looked up: write `127.0.0.1:{port}`"),
        _ => "write an IP address and a port from 0 to 65535, such as `127.0.0.1:8080` or `[::1]:8080`".to_owned(),
    };
    Err(format!("is no address; {remedy}"))
}

/// `10.0.0.0/8`, `2001:db8::/32`, or one address.
pub(super) fn network(text: &str) -> Parsed<IpNet> {
    if let Ok(one) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(one));
    }
    match text.parse::<IpNet>() {
        Ok(network) => Ok(network.trunc()),
        Err(_) => Err("is no network; write CIDR, such as `10.0.0.0/8` or `2001:db8::/32`".into()),
    }
}

/// Money that is not negative, exactly as it stands in the file.
pub(super) fn amount(text: &str) -> Parsed<Money> {
    let money = Money::parse(text).map_err(|error| format!("is {error}"))?;
    if money < Money::ZERO {
        return Err("is negative; write 0 or more".into());
    }
    if money.micros() > MOST_UNITS * 1_000_000 {
        return Err(format!("is too large; the most is {MOST_UNITS}"));
    }
    Ok(money)
}

/// `2027-01-01T00:00:00Z`.
pub(super) fn time(text: &str) -> Parsed<SystemTime> {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(SystemTime::from(time)),
        Err(_) => {
            Err("is no time; write RFC 3339 with an offset, such as `2027-01-01T00:00:00Z`".into())
        }
    }
}

/// `+08:00` → seconds east of UTC; `Z` is none.
pub(super) fn offset(text: &str) -> Parsed<i32> {
    let wrong = || {
        "is no UTC offset; write hours and minutes, such as `+08:00`, at most `±14:00`".to_owned()
    };
    let (sign, rest) = match (text, text.split_at_checked(1)) {
        ("Z", _) => return Ok(0),
        (_, Some(("+", rest))) => (1, rest),
        (_, Some(("-", rest))) => (-1, rest),
        _ => return Err(wrong()),
    };
    let (hours, minutes) = rest.split_once(':').ok_or_else(wrong)?;
    let two = |part: &str| match digits(part) {
        (all, "") if all.len() == 2 => all.parse::<i32>().map_err(|_| wrong()),
        _ => Err(wrong()),
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    let seconds = hours * 3600 + minutes * 60;
    if minutes > 59 || seconds > 14 * 3600 {
        Err(wrong())
    } else {
        Ok(sign * seconds)
    }
}

/// 64 hexadecimal digits.
pub(super) fn sha256(text: &str) -> Parsed<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        let how = "write the 64 hexadecimal digits that `printf %s \"$KEY\" | sha256sum` prints";
        return Err(format!("is no SHA-256; {how}"));
    }
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).unwrap_or_default();
        *byte = u8::from_str_radix(pair, 16).unwrap_or_default();
    }
    Ok(hash)
}

/// `https://host:port/path`. The text is never in the error: it may hold a password.
pub(super) fn url(text: &str) -> Parsed<BaseUrl> {
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return Err("does not begin with `http://` or `https://`; write it whole, such as `https://api.example.com/v1`".into());
    }
    if text.contains(['?', '#']) {
        return Err("has a query or fragment; remove `?` or `#` and what follows".into());
    }
    let uri: http::Uri = text
        .parse()
        .map_err(|error| format!("cannot be read ({error}); write `https://host:port/path`"))?;
    let Some(authority) = uri.authority() else {
        return Err("has no host; write `https://host/path`".into());
    };
    if authority.as_str().contains('@') {
        return Err(
            "holds a user name; remove what stands before `@` and put the key into `keys`".into(),
        );
    }
    let tls = uri.scheme_str() == Some("https");
    let host = authority.host();
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let host = match inner {
        Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_err() => {
            return Err("has a host that is no IPv6 address".into());
        }
        Some(inner) => inner,
        None => host,
    };
    if host.is_empty() {
        return Err("has no host; write `https://host/path`".into());
    }
    let port = match (uri.port_u16(), tls) {
        (Some(0), _) => return Err("has port 0; write the provider's port, or none".into()),
        (Some(port), _) => port,
        // What is longer than its host has a port, and not one that could be read.
        (None, _) if authority.as_str().len() > authority.host().len() => {
            return Err("has a port that is no number from 1 to 65535".into());
        }
        (None, true) => 443,
        (None, false) => 80,
    };
    let path = uri.path().trim_end_matches('/');
    if path.contains("//") || path.split('/').any(|part| part == "." || part == "..") {
        return Err("has `//`, `.` or `..` in its path; write it straight".into());
    }
    Ok(BaseUrl {
        tls,
        host: host.to_ascii_lowercase(),
        port,
        path: path.to_owned(),
    })
}

/// Whether a host is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates() {
        for (text, bytes) in [
            ("32MiB", 33_554_432),
            ("32KiB", 32_768),
            ("12", 12),
            ("1GB", 1_000_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "32 MiB",
            "-1",
            "1.5MiB",
            "32mib",
            "99999999999999999999",
            "18446744073709551615GiB",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(
            rate("20/s"),
            Ok(Rate {
                count: 20,
                per: Duration::from_secs(1)
            })
        );
        for text in [
            "",
            "20",
            "20/",
            "/s",
            "0/s",
            "-1/s",
            "+1/s",
            "20/x",
            "4294967296/s",
        ] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_and_networks() {
        assert!(address("127.0.0.1:0").is_ok() && address("[::1]:8080").is_ok());
        for (text, remedy) in [
            (":8080", "0.0.0.0:8080"),
            ("localhost:80", "127.0.0.1:80"),
            ("10.0.0.1", "port is missing"),
            ("::1", "port is missing"),
            ("1.2.3.4:99999", "0 to 65535"),
        ] {
            assert!(address(text).unwrap_err().contains(remedy), "{text}");
        }
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert!(network("10.0.0.0/33").is_err() && network("x").is_err());
    }

    #[test]
    fn amounts_times_offsets_hashes() {
        assert_eq!(amount("0.4"), Ok(Money::from_micros(400_000)));
        assert_eq!(
            amount("9000000000"),
            Ok(Money::from_micros(9_000_000_000_000_000))
        );
        for text in ["-1", "9000000000.000001", "1e3", ".inf", "0.0000001", ""] {
            assert!(amount(text).is_err(), "{text}");
        }
        assert!(time("2027-01-01T00:00:00Z").is_ok() && time("2027-01-01T08:00:00+08:00").is_ok());
        assert!(time("2027-01-01").is_err() && time("2027-01-01T00:00:00").is_err());
        assert_eq!(offset("+08:00"), Ok(28_800));
        assert_eq!(offset("-05:30"), Ok(-19_800));
        for text in [
            "", "8", "+8:00", "+08", "+14:01", "+08:60", "é8:00", "+-8:00",
        ] {
            assert!(offset(text).is_err(), "{text}");
        }
        assert_eq!(sha256(&"aF".repeat(32)), Ok([0xaf; 32]));
        assert!(
            sha256("ab").is_err()
                && sha256(&"zz".repeat(32)).is_err()
                && sha256(&"é".repeat(32)).is_err()
        );
    }

    #[test]
    fn urls() {
        let of = |text: &str| url(text).map(|u| (u.tls, u.host, u.port, u.path));
        assert_eq!(
            of("https://API.x.com/v1/"),
            Ok((true, "api.x.com".into(), 443, "/v1".into()))
        );
        assert_eq!(
            of("http://[::1]:8080"),
            Ok((false, "::1".into(), 8080, String::new()))
        );
        for text in [
            "",
            "x",
            "ftp://x",
            "https://",
            "https:///v1",
            "https://u:p@x/",
            "https://x/?a=1",
            "https://x/#f",
            "https://x:0/",
            "https://x:99999/",
            "https://x:/",
            "https://x/a//b",
            "https://x/../y",
            "https://a b/",
            "https://[zz]/",
        ] {
            assert!(of(text).is_err(), "{text}");
        }
        assert!(!of("https://me:hunter2@x/").unwrap_err().contains("hunter2"));
        assert!(is_loopback("localhost") && is_loopback("127.0.0.2") && is_loopback("::1"));
        assert!(!is_loopback("10.0.0.1") && !is_loopback("localhost.example"));
    }
}
