//! Who may call: whoever has the token; without one in the configuration, programs of this machine.

use super::failure::{Code, Failure, Outcome};
use http::HeaderMap;
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use sha2::{Digest, Sha256};
use std::net::IpAddr;

/// The token, as its digest: what is compared tells nothing of what it was made from.
pub struct Token([u8; 32]);

impl Token {
    /// The digest of a token.
    pub fn new(text: &str) -> Token {
        Token(Sha256::digest(text.as_bytes()).into())
    }

    /// Compares in the same time whatever differs.
    fn is(&self, text: &str) -> bool {
        let other: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        let differing = self
            .0
            .iter()
            .zip(other)
            .fold(0, |seen, (a, b)| seen | (a ^ b));
        differing == 0
    }
}

/// Checks a call.
///
/// # Errors
/// 401 without the token; 403, where there is none, for what a web page in a browser of this machine sent.
pub fn check(token: Option<&Token>, headers: &HeaderMap) -> Outcome<()> {
    let Some(token) = token else {
        return local(headers);
    };
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (sent.next(), sent.next()) else {
        return Err(refused(
            "Send the header `Authorization: Bearer TOKEN` once, with `admin.token` of the configuration.",
        ));
    };
    let given = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match given {
        Some(given) if token.is(given) => Ok(()),
        Some(_) => Err(refused(
            "The token is not `admin.token` of the configuration; check it.",
        )),
        None => Err(refused(
            "The Authorization header is not of the form `Bearer TOKEN`.",
        )),
    }
}

/// Without a token the loopback address is the fence. A browser on this machine is inside of it, and
/// the pages that it shows are not: they have an `Origin`, or reach us by a name that they chose.
fn local(headers: &HeaderMap) -> Outcome<()> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let here = host.is_none_or(|host| {
        let name = host
            .parse::<http::uri::Authority>()
            .map(|authority| authority.host().trim_matches(['[', ']']).to_owned())
            .unwrap_or_default();
        name.eq_ignore_ascii_case("localhost")
            || name
                .parse::<IpAddr>()
                .is_ok_and(|ip| ip.to_canonical().is_loopback())
    });
    if here && !headers.contains_key(ORIGIN) {
        return Ok(());
    }
    Err(Failure::new(
        Code::Forbidden,
        "Calls from web pages are refused while the configuration has no `admin.token`; set one, or call 127.0.0.1 with a program.",
    ))
}

fn refused(message: &str) -> Failure {
    Failure::new(Code::Unauthorized, message).param("Authorization")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn code(token: Option<&str>, headers: &[(&'static str, &'static str)]) -> Option<Code> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        let token = token.map(Token::new);
        check(token.as_ref(), &map)
            .err()
            .map(|failure| failure.code)
    }

    #[test]
    fn the_token_is_needed_where_there_is_one() {
        let of = |headers: &[_]| code(Some("secret-token"), headers);
        assert_eq!(of(&[("authorization", "Bearer secret-token")]), None);
        assert_eq!(of(&[("authorization", "bearer  secret-token ")]), None);
        for headers in [
            &[][..],
            &[("authorization", "Bearer secret-toke")],
            &[("authorization", "Bearer secret-tokenx")],
            &[("authorization", "secret-token")],
            &[("authorization", "Basic secret-token")],
            &[("x-api-key", "secret-token")],
            &[
                ("authorization", "Bearer secret-token"),
                ("authorization", "Bearer secret-token"),
            ],
        ] {
            assert_eq!(of(headers), Some(Code::Unauthorized), "{headers:?}");
        }
    }

    #[test]
    fn without_a_token_web_pages_are_kept_out() {
        let of = |headers: &[_]| code(None, headers);
        for headers in [
            &[][..],
            &[("host", "127.0.0.1:9901")],
            &[("host", "localhost:9901")],
            &[("host", "[::1]:9901")],
        ] {
            assert_eq!(of(headers), None, "{headers:?}");
        }
        for headers in [
            &[("host", "rebound.example:9901")][..],
            &[
                ("host", "127.0.0.1:9901"),
                ("origin", "https://evil.example"),
            ],
            &[("host", "127.0.0.1:9901"), ("origin", "null")],
        ] {
            assert_eq!(of(headers), Some(Code::Forbidden), "{headers:?}");
        }
    }
}
