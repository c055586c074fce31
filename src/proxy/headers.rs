//! Which headers pass, in either direction.

use http::HeaderName;
use http::header;
use pingora::http::{RequestHeader, ResponseHeader};

/// `x-request-id`: what OpenAI's SDKs read.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `request-id`: what Anthropic's SDKs read.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
/// Tells nginx in front of us not to buffer a stream.
pub const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Anthropic's place for keys.
pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What browsers may read of an answer beyond the usual headers.
pub const EXPOSED: &str = "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, \
x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, \
x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, \
anthropic-ratelimit-requests-limit, anthropic-ratelimit-requests-remaining, anthropic-ratelimit-requests-reset, \
anthropic-ratelimit-tokens-limit, anthropic-ratelimit-tokens-remaining, anthropic-ratelimit-tokens-reset";

/// Whether a client's header goes to the provider.
///
/// What stays behind: credentials of any kind and everything that could pick another account of
/// the operator's (`openai-organization`, `openai-project`), who the client is and what lies
/// between, what would turn the request into another one, and what we set ourselves. The rest is passed on as it came: SDKs put versions and
/// betas there.
fn passes_up(name: &str) -> bool {
    let ours = matches!(
        name,
        "authorization"
            | "x-api-key"
            | "api-key"
            | "x-goog-api-key"
            | "proxy-authorization"
            | "proxy-connection"
            | "cookie"
            | "host"
            | "content-length"
            | "transfer-encoding"
            | "expect"
            | "te"
            | "trailer"
            | "connection"
            | "keep-alive"
            | "upgrade"
            | "http2-settings"
            | "accept-encoding"
            | "openai-organization"
            | "openai-project"
            | "forwarded"
            | "via"
            | "x-real-ip"
            | "true-client-ip"
            | "cf-connecting-ip"
            | "origin"
            | "referer"
            | "x-request-id"
            | "request-id"
            | "range"
            | "content-encoding"
            | "content-type"
            | "x-client-ip"
            | "cdn-loop"
            | "x-method-override"
            | "x-rewrite-url"
    );
    const FAMILIES: [&str; 6] = [
        "x-forwarded-",
        "sec-",
        "x-http-method",
        "x-original-",
        "cf-",
        "if-",
    ];
    !(ours || FAMILIES.iter().any(|family| name.starts_with(family)))
}

/// Whether a provider's header goes to the client: what describes the body and what SDKs read.
///
/// What stays behind: cookies and redirects, the provider's own rate limits (they are the
/// operator's, not the client's), account names, and everything nobody has asked for.
fn passes_down(name: &str) -> bool {
    matches!(
        name,
        "content-type"
            | "content-length"
            | "content-encoding"
            | "content-disposition"
            | "content-range"
            | "accept-ranges"
            | "transfer-encoding"
            | "cache-control"
            | "date"
            | "openai-processing-ms"
            | "openai-version"
            | "openai-model"
            | "openai-poll-after-ms"
            | "x-should-retry"
            | "warning"
    )
}

/// Takes away what the provider must not see.
pub fn strip_request(header: &mut RequestHeader) {
    let foreign: Vec<HeaderName> = header
        .headers
        .keys()
        .filter(|name| !passes_up(name.as_str()))
        .cloned()
        .chain(nominated(header))
        .collect();
    for name in &foreign {
        header.remove_header(name);
    }
}

/// What `Connection` names: meant for this hop alone, whatever it is (RFC 9110, section 7.6.1).
fn nominated(header: &RequestHeader) -> impl Iterator<Item = HeaderName> {
    header
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
}

/// Takes away what the client must not see.
pub fn strip_response(header: &mut ResponseHeader) {
    let foreign: Vec<HeaderName> = header
        .headers
        .keys()
        .filter(|name| !passes_down(name.as_str()))
        .cloned()
        .collect();
    for name in &foreign {
        header.remove_header(name);
    }
    // One length and one type, or none: two would be read differently by different clients.
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        if header.headers.get_all(&name).iter().nth(1).is_some() {
            let first = header.headers.get(&name).cloned();
            header.remove_header(&name);
            if let Some(value) = first {
                let _ = header.insert_header(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_origins_stay_behind() {
        let mut header = RequestHeader::build("POST", b"/", None).unwrap();
        for (name, value) in [
            ("authorization", "Bearer a"),
            ("x-api-key", "a"),
            ("api-key", "a"),
            ("cookie", "a=b"),
            ("openai-organization", "org-1"),
            ("x-forwarded-for", "1.1.1.1"),
            ("sec-fetch-mode", "cors"),
            ("accept-encoding", "gzip"),
            ("anthropic-beta", "a,b"),
            ("anthropic-version", "2023-06-01"),
            ("content-type", "application/json"),
            ("x-stainless-retry-count", "1"),
            ("session_id", "s"),
        ] {
            header.append_header(name, value).unwrap();
        }
        strip_request(&mut header);
        let mut left: Vec<&str> = header.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(
            left,
            [
                "anthropic-beta",
                "anthropic-version",
                "session_id",
                "x-stainless-retry-count"
            ]
        );
    }

    #[test]
    fn the_providers_own_matters_stay_behind() {
        let mut header = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("content-type", "application/json"),
            ("content-type", "text/html"),
            ("set-cookie", "a=b"),
            ("location", "http://elsewhere"),
            ("x-ratelimit-remaining-requests", "3"),
            ("openai-organization", "operator"),
            ("x-accel-redirect", "/etc/passwd"),
            ("openai-processing-ms", "12"),
        ] {
            header.append_header(name, value).unwrap();
        }
        strip_response(&mut header);
        let left: Vec<(&str, &str)> = header
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert!(left.contains(&("content-type", "application/json")));
        assert!(left.contains(&("openai-processing-ms", "12")));
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
