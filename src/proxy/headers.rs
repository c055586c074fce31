//! Which headers pass, in either direction.

use crate::wire::head::vacant;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, Entry, ORIGIN, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, request, response};
use pingora::http::{RequestHeader, ResponseHeader};

/// Tells nginx in front of us not to buffer a stream.
pub const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Anthropic's place for keys.
pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Headers of ours that are added to those that pass.
const ROOM: usize = 8;

/// What browsers may read of an answer beyond the usual headers.
pub const EXPOSED: &str = "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, \
x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, \
x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, \
anthropic-ratelimit-requests-limit, anthropic-ratelimit-requests-remaining, anthropic-ratelimit-requests-reset, \
anthropic-ratelimit-tokens-limit, anthropic-ratelimit-tokens-remaining, anthropic-ratelimit-tokens-reset, \
anthropic-ratelimit-input-tokens-limit, anthropic-ratelimit-input-tokens-remaining, anthropic-ratelimit-input-tokens-reset, \
anthropic-ratelimit-output-tokens-limit, anthropic-ratelimit-output-tokens-remaining, anthropic-ratelimit-output-tokens-reset, \
ratelimit, ratelimit-policy";

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

/// Whether a client's header is still looked at, by Pingora or by us, once the request is on its way: where its body
/// ends, whether its connection is kept, who may read the answer.
fn stays(name: &HeaderName) -> bool {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    [
        CONNECTION,
        CONTENT_LENGTH,
        EXPECT,
        KEEP_ALIVE,
        ORIGIN,
        TRANSFER_ENCODING,
    ]
    .contains(name)
}

/// Takes from a client's header what the provider may see of it. What nobody looks at any more goes too: Pingora copies
/// the header for each attempt.
pub fn take_upward(header: &mut RequestHeader) -> HeaderMap {
    let mut parts = take_request(header);
    let nominated: Vec<HeaderName> = nominated(&parts.headers).collect();
    let (mut up, mut stay) = (
        HeaderMap::with_capacity(parts.headers.len()),
        HeaderMap::new(),
    );
    let mut last: Option<HeaderName> = None;
    // A name is told with its first value only.
    for (name, value) in std::mem::take(&mut parts.headers) {
        last = name.or(last);
        let Some(name) = &last else { continue };
        if stays(name) {
            stay.append(name.clone(), value);
        } else if passes_up(name.as_str()) && !nominated.contains(name) {
            up.append(name.clone(), value);
        }
    }
    parts.headers = stay;
    *header = RequestHeader::from(parts);
    up
}

/// The header of one attempt, with room for what we add.
///
/// Made anew rather than thinned out: Pingora's own maps keep every name in two spellings and parse
/// it again with each change, which costs more than all that we do to a request otherwise.
pub fn upward(from: &HeaderMap) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(from.len() + ROOM);
    for (name, value) in from {
        map.append(name.clone(), value.clone());
    }
    map
}

/// Puts what of a provider's headers goes to the client on the head of our answer.
pub fn downward(from: HeaderMap, head: &mut HeaderMap) {
    let mut last: Option<HeaderName> = None;
    // A name is told with its first value only.
    for (name, value) in from {
        if let Some(name) = name {
            last = passes_down(name.as_str()).then_some(name);
        }
        let Some(name) = &last else { continue };
        match head.entry(name.clone()) {
            Entry::Vacant(place) => {
                place.insert(value);
            }
            Entry::Occupied(mut place) if vacant(place.get()) => {
                place.insert(value);
            }
            // One length and one type, or none: two would be read differently by different clients.
            Entry::Occupied(_) if [CONTENT_TYPE, CONTENT_LENGTH].contains(name) => {}
            Entry::Occupied(mut place) => place.append(value),
        }
    }
    for name in [CONTENT_TYPE, CONTENT_LENGTH] {
        if head.get(&name).is_some_and(vacant) {
            head.remove(&name);
        }
    }
}

/// What `Connection` names: meant for this hop alone, whatever it is (RFC 9110, section 7.6.1).
fn nominated(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
}

/// Takes a request header apart; [`RequestHeader::from`] puts it together again.
pub fn take_request(header: &mut RequestHeader) -> request::Parts {
    let (empty, ()) = http::Request::new(()).into_parts();
    std::mem::replace(header, empty.into()).into()
}

/// Takes an answer's header apart; [`ResponseHeader::from`] puts it together again.
pub fn take_response(header: &mut ResponseHeader) -> response::Parts {
    let (empty, ()) = http::Response::new(()).into_parts();
    std::mem::replace(header, empty.into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::head::VACANT;
    use http::HeaderValue;

    #[test]
    fn credentials_and_origins_stay_behind() {
        let mut header = HeaderMap::new();
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
            ("session_id", "t"),
            ("connection", "keep-alive, X-Mine"),
            ("x-mine", "1"),
            ("content-length", "3"),
        ] {
            header.append(name, HeaderValue::from_static(value));
        }
        let mut request = RequestHeader::build("POST", b"/", None).unwrap();
        for (name, value) in &header {
            request.append_header(name, value).unwrap();
        }
        let header = take_upward(&mut request);
        assert_eq!(upward(&header), header);
        assert_eq!(header.get_all("session_id").iter().count(), 2);
        let names = |header: &HeaderMap| {
            let mut names: Vec<String> = header.keys().map(ToString::to_string).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&request.headers), ["connection", "content-length"]);
        let left = names(&header);
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
        let mut header = HeaderMap::new();
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
            header.append(name, HeaderValue::from_static(value));
        }
        let mut head = HeaderMap::new();
        head.insert("content-length", VACANT);
        head.insert("content-type", VACANT);
        downward(header, &mut head);
        let header = head;
        let left: Vec<(&str, &str)> = header
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert!(left.contains(&("content-type", "application/json")));
        assert!(left.contains(&("openai-processing-ms", "12")));
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
