//! Requests whose end two parsers could see in two places. Whatever the gateway makes of one, the
//! provider must see exactly what the gateway accepted, and the connection must not carry a
//! leftover into the next request.
//!
//! Above 400 lines: most of it is tables of requests that stand as raw bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use support::gateway::{Gateway, KEY};
use support::http::{Broken, Client};
use support::provider::Provider;
use support::refusal::{Envelope, framed, refused};

const BODY: &str = "{\"model\":\"gpt-test\",\"messages\":[]}";

/// What the gateway should do with a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// Each request is answered, with these statuses, and the connection serves on.
    Kept(&'static [u16]),
    /// These answers, the last of them a refusal, and then the end of the connection.
    Closed(&'static [u16]),
    /// Either is right by the RFC: one answer of 200 and the connection serves on, or one of 400 and it ends.
    Either,
}

use Want::{Closed, Either, Kept};

const NO: Want = Closed(&[400]);
const YES: Want = Kept(&[200]);

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    want: Want,
}

/// The start of a good request, up to where its framing is told.
fn start() -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {KEY}\r\n"
    )
}

fn whole() -> String {
    format!("{}Content-Length: {}\r\n\r\n{BODY}", start(), BODY.len())
}

fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

/// A good request with these framing headers (each line ends itself) and this body.
fn framing(name: &'static str, headers: &str, body: &str, want: Want) -> Case {
    Case {
        name,
        bytes: format!("{}{headers}\r\n{body}", start()).into_bytes(),
        want,
    }
}

fn raw(name: &'static str, bytes: impl Into<Vec<u8>>, want: Want) -> Case {
    Case {
        name,
        bytes: bytes.into(),
        want,
    }
}

/// A good request whose `Content-Length` header is written like this.
fn length(name: &'static str, header: &str, want: Want) -> Case {
    let header = header.replace("LEN", &BODY.len().to_string());
    framing(name, &header, BODY, want)
}

/// A request with a chunked body and this line as its only framing.
fn coding(name: &'static str, header: &str, want: Want) -> Case {
    framing(name, header, &chunked(BODY), want)
}

/// A chunked request with this for its body.
fn chunks(name: &'static str, body: &str, want: Want) -> Case {
    let body = body
        .replace("LEN", &format!("{:x}", BODY.len()))
        .replace("BODY", BODY);
    framing(name, "Transfer-Encoding: chunked\r\n", &body, want)
}

fn lengths() -> Vec<Case> {
    let smuggled = whole();
    let with_leftover = format!(
        "{}Content-Length: LEN\r\nContent-Length: ALL\r\n\r\n{BODY}{smuggled}",
        start()
    )
    .replace("LEN", &BODY.len().to_string())
    .replace("ALL", &(BODY.len() + smuggled.len()).to_string());
    vec![
        raw("differing lengths", with_leftover, NO),
        length(
            "equal lengths",
            "Content-Length: LEN\r\nContent-Length: LEN\r\n",
            Either,
        ),
        length(
            "a list of equal lengths",
            "Content-Length: LEN, LEN\r\n",
            Either,
        ),
        length(
            "a list of differing lengths",
            "Content-Length: LEN, 0\r\n",
            NO,
        ),
        length(
            "differing lengths, names in two cases",
            "Content-Length: LEN\r\ncontent-length: 1\r\n",
            NO,
        ),
        length("negative length", "Content-Length: -LEN\r\n", NO),
        length("length with a plus", "Content-Length: +LEN\r\n", NO),
        length("hexadecimal length", "Content-Length: 0x22\r\n", NO),
        length("length with an exponent", "Content-Length: 34e0\r\n", NO),
        length("length with a fraction", "Content-Length: LEN.0\r\n", NO),
        length("length with a gap", "Content-Length: 3 4\r\n", NO),
        length("length with a letter", "Content-Length: LENa\r\n", NO),
        length("quoted length", "Content-Length: \"LEN\"\r\n", NO),
        length("length with a parameter", "Content-Length: LEN;x=1\r\n", NO),
        length("empty length", "Content-Length:\r\n", NO),
        length(
            "length beyond 64 bits",
            "Content-Length: 18446744073709551650\r\n",
            NO,
        ),
        length("length with a NUL", "Content-Length: LEN\0\r\n", NO),
        length(
            "length with a vertical tab",
            "Content-Length: \x0bLEN\r\n",
            NO,
        ),
        length(
            "length in full-width digits",
            "Content-Length: \u{ff13}\u{ff14}\r\n",
            NO,
        ),
        length(
            "leading zeros are digits",
            "Content-Length: 000LEN\r\n",
            Either,
        ),
        length(
            "white space around a length",
            "Content-Length: \t LEN \t\r\n",
            YES,
        ),
        length("space before the colon", "Content-Length : LEN\r\n", NO),
        length("tab before the colon", "Content-Length\t: LEN\r\n", NO),
        length("folded length", "Content-Length:\r\n LEN\r\n", NO),
        length(
            "length folded into another header",
            "X-A: b\r\n Content-Length: 0\r\nContent-Length: LEN\r\n",
            NO,
        ),
        length(
            "another name is not a length",
            "Content_Length: 5\r\nContent-Length: LEN\r\n",
            YES,
        ),
        // No length at all is no body: what follows is not a request.
        length(
            "an underscore instead of the hyphen",
            "Content_Length: LEN\r\n",
            Closed(&[400, 400]),
        ),
    ]
}

fn codings() -> Vec<Case> {
    let both = format!(
        "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n",
        chunked(BODY).len()
    );
    let reversed = format!(
        "Transfer-Encoding: chunked\r\nContent-Length: {}\r\n",
        chunked(BODY).len()
    );
    vec![
        coding("length and then coding", &both, NO),
        coding("coding and then length", &reversed, NO),
        coding(
            "coding and length 0",
            "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
            NO,
        ),
        coding(
            "coding and length in odd cases",
            "tRANSFER-eNCODING: chunked\r\ncONTENT-lENGTH: 4\r\n",
            NO,
        ),
        coding(
            "chunked is not the last",
            "Transfer-Encoding: chunked, identity\r\n",
            NO,
        ),
        coding(
            "chunked is the last",
            "Transfer-Encoding: identity, chunked\r\n",
            NO,
        ),
        coding(
            "gzip and chunked",
            "Transfer-Encoding: gzip, chunked\r\n",
            NO,
        ),
        coding("an unknown coding", "Transfer-Encoding: xchunked\r\n", NO),
        coding(
            "a coding with a parameter",
            "Transfer-Encoding: chunked;q=1\r\n",
            NO,
        ),
        coding("a quoted coding", "Transfer-Encoding: \"chunked\"\r\n", NO),
        coding("an empty coding", "Transfer-Encoding:\r\n", NO),
        coding(
            "a comma and a coding",
            "Transfer-Encoding: ,chunked\r\n",
            Either,
        ),
        coding(
            "twice in a list",
            "Transfer-Encoding: chunked, chunked\r\n",
            NO,
        ),
        coding(
            "twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            NO,
        ),
        coding(
            "chunked and identity in two",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            NO,
        ),
        coding(
            "identity and chunked in two",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
            NO,
        ),
        coding("a vertical tab", "Transfer-Encoding: \x0bchunked\r\n", NO),
        coding(
            "a form feed at the end",
            "Transfer-Encoding: chunked\x0c\r\n",
            NO,
        ),
        coding("a NUL", "Transfer-Encoding: chunked\0\r\n", NO),
        coding(
            "space before the colon",
            "Transfer-Encoding : chunked\r\n",
            NO,
        ),
        coding("folded", "Transfer-Encoding:\r\n chunked\r\n", NO),
        coding(
            "space before the name",
            " Transfer-Encoding: chunked\r\n",
            NO,
        ),
        coding(
            "folded into another header",
            "X-A: b\r\n Transfer-Encoding: chunked\r\n",
            NO,
        ),
        coding(
            "hidden behind a carriage return",
            "X-A: b\rTransfer-Encoding: chunked\r\n",
            NO,
        ),
        coding(
            "hidden behind a line feed",
            "X-A: b\nTransfer-Encoding: chunked\r\n",
            NO,
        ),
        coding(
            "white space around it",
            "Transfer-Encoding: \t chunked \t\r\n",
            YES,
        ),
        coding("in capitals", "Transfer-Encoding: CHUNKED\r\n", YES),
        coding("plain", "Transfer-Encoding: chunked\r\n", YES),
        raw(
            "a coding in HTTP/1.0",
            format!(
                "{}Transfer-Encoding: chunked\r\n\r\n{}",
                start().replace("HTTP/1.1", "HTTP/1.0"),
                chunked(BODY)
            ),
            NO,
        ),
    ]
}

fn chunk_lines() -> Vec<Case> {
    vec![
        chunks("an extension", "LEN;a=b\r\nBODY\r\n0;c\r\n\r\n", YES),
        chunks("a trailer", "LEN\r\nBODY\r\n0\r\nX-Sum: 1\r\n\r\n", Either),
        chunks(
            "a length as trailer",
            "LEN\r\nBODY\r\n0\r\nContent-Length: 500\r\n\r\n",
            Either,
        ),
        chunks("leading zeros", "000000LEN\r\nBODY\r\n0\r\n\r\n", Either),
        chunks(
            "several zeros at the end",
            "LEN\r\nBODY\r\n000\r\n\r\n",
            Either,
        ),
        chunks("a size with 0x", "0xLEN\r\nBODY\r\n0\r\n\r\n", NO),
        chunks("a negative size", "-LEN\r\nBODY\r\n0\r\n\r\n", NO),
        chunks("a size with a plus", "+LEN\r\nBODY\r\n0\r\n\r\n", NO),
        chunks(
            "a size with an underscore",
            "0_LEN\r\nBODY\r\n0\r\n\r\n",
            NO,
        ),
        chunks("a size before a gap", "LEN 1\r\nBODY\r\n0\r\n\r\n", NO),
        chunks("a size that is no number", "zz\r\nBODY\r\n0\r\n\r\n", NO),
        chunks(
            "a size beyond 64 bits",
            "100000000000000LEN\r\nBODY\r\n0\r\n\r\n",
            NO,
        ),
        chunks(
            "a size that wraps to itself",
            "10000000000000000LEN\r\nBODY\r\n0\r\n\r\n",
            NO,
        ),
        chunks("a size ended by a line feed", "LEN\nBODY\r\n0\r\n\r\n", NO),
        chunks(
            "a carriage return in an extension",
            "LEN;a\rb\r\nBODY\r\n0\r\n\r\n",
            NO,
        ),
        chunks("data ended by a line feed", "LEN\r\nBODY\n0\r\n\r\n", NO),
        chunks(
            "data longer than its size",
            "LEN\r\nBODYxx\r\n0\r\n\r\n",
            NO,
        ),
        chunks("an end with line feeds", "LEN\r\nBODY\r\n0\n\n", NO),
    ]
}

fn heads() -> Vec<Case> {
    let (start, whole) = (start(), whole());
    let head = |lines: &str| whole.replace("Host: gateway\r\n", lines);
    let line = |line: &str| whole.replace("POST /v1/chat/completions HTTP/1.1", line);
    let size = BODY.len();
    vec![
        raw("line feeds for line ends", whole.replace("\r\n", "\n"), NO),
        raw(
            "one line feed for a line end",
            whole.replace("gateway\r\n", "gateway\n"),
            NO,
        ),
        raw(
            "a line feed after the request line",
            whole.replace("HTTP/1.1\r\n", "HTTP/1.1\n"),
            NO,
        ),
        raw(
            "an empty line of a line feed",
            whole.replace("\r\n\r\n", "\r\n\n"),
            NO,
        ),
        raw(
            "a line end of carriage returns",
            whole.replace("gateway\r\n", "gateway\r\r\n"),
            NO,
        ),
        raw("no Host", head(""), NO),
        raw("two Hosts", head("Host: gateway\r\nHost: gateway\r\n"), NO),
        raw(
            "two different Hosts",
            head("Host: gateway\r\nHost: other\r\n"),
            NO,
        ),
        raw("a Host with a space", head("Host: gate way\r\n"), NO),
        raw("a Host with a path", head("Host: gateway/path\r\n"), NO),
        raw("a Host with a user", head("Host: user@gateway\r\n"), NO),
        raw(
            "a Host before a comma",
            head("Host: gateway, other\r\n"),
            NO,
        ),
        raw("a folded Host", head("Host:\r\n gateway\r\n"), NO),
        raw(
            "a header without a name",
            head("Host: gateway\r\n: value\r\n"),
            NO,
        ),
        raw(
            "a header without a colon",
            head("Host: gateway\r\nvalue\r\n"),
            NO,
        ),
        raw(
            "a header name with a space",
            head("Host: gateway\r\nX A: b\r\n"),
            NO,
        ),
        raw(
            "a header name with a bracket",
            head("Host: gateway\r\nX(A: b\r\n"),
            NO,
        ),
        raw(
            "a header name beyond ASCII",
            head("Host: gateway\r\nX-\u{e9}: b\r\n"),
            NO,
        ),
        raw(
            "a NUL in a value",
            head("Host: gateway\r\nX-A: b\0c\r\n"),
            NO,
        ),
        raw(
            "white space before the first header",
            head(" Host: gateway\r\nHost: gateway\r\n"),
            NO,
        ),
        raw("HTTP/0.9", "GET /v1/models\r\n", NO),
        raw(
            "HTTP/2 on a plain port",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            NO,
        ),
        raw("HTTP/1.2", line("POST /v1/chat/completions HTTP/1.2"), NO),
        raw("HTTP/3.0", line("POST /v1/chat/completions HTTP/3.0"), NO),
        raw("http/1.1", line("POST /v1/chat/completions http/1.1"), NO),
        raw(
            "HTTP/1.1 with a space",
            line("POST /v1/chat/completions HTTP/1.1 "),
            NO,
        ),
        raw("HTTP/01.1", line("POST /v1/chat/completions HTTP/01.1"), NO),
        raw(
            "tabs in the request line",
            line("POST\t/v1/chat/completions\tHTTP/1.1"),
            NO,
        ),
        raw(
            "two spaces in the request line",
            line("POST  /v1/chat/completions HTTP/1.1"),
            Kept(&[400]),
        ),
        raw(
            "a space in the target",
            line("POST /v1/chat/completions x HTTP/1.1"),
            Kept(&[404]),
        ),
        raw(
            "a request line in the target",
            line("POST /v1/models HTTP/1.1 /v1/chat/completions HTTP/1.1"),
            NO,
        ),
        raw(
            "a NUL in the target",
            line("POST /v1/chat/completions\0 HTTP/1.1"),
            Kept(&[404]),
        ),
        raw(
            "a colon in the method",
            line("POST: /v1/chat/completions HTTP/1.1"),
            NO,
        ),
        raw("no method", line("/v1/chat/completions HTTP/1.1"), NO),
        raw(
            "an empty line before the request",
            format!("\r\n{whole}"),
            Either,
        ),
        raw(
            "TLS on a plain port",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
            NO,
        ),
        raw(
            "a body on a GET",
            format!(
                "GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {}\r\n\r\n{whole}",
                whole.len()
            ),
            YES,
        ),
        raw(
            "a chunked body on a GET",
            format!(
                "GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n{}",
                chunked(&whole)
            ),
            YES,
        ),
        raw(
            "a request in the body of a refused one",
            format!(
                "POST /nowhere HTTP/1.1\r\nHost: g\r\nContent-Length: {}\r\n\r\n{whole}",
                whole.len()
            ),
            Kept(&[404]),
        ),
        raw(
            "a request in the chunked body of a refused one",
            format!(
                "POST /nowhere HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n{}",
                chunked(&whole)
            ),
            Kept(&[404]),
        ),
        raw(
            "an upgrade to HTTP/2",
            format!(
                "{start}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: {size}\r\n\r\n{BODY}"
            ),
            YES,
        ),
        raw(
            "an upgrade to WebSocket",
            format!(
                "{start}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\nContent-Length: {size}\r\n\r\n{BODY}"
            ),
            YES,
        ),
        raw(
            "two good ones",
            format!("{whole}{whole}"),
            Kept(&[200, 200]),
        ),
        raw(
            "a good one and a bad one",
            format!("{whole}X"),
            Closed(&[200, 400]),
        ),
    ]
}

async fn judge(gateway: &Gateway, provider: &Provider, case: &Case) -> Result<(), String> {
    let fail = |what: String| Err(format!("{}: {what}", case.name));
    let before = provider.count();
    let mut client = Client::connect(gateway.addr).await;
    // It may close before it has taken all of it.
    let _ = client.try_send_raw(&case.bytes).await;
    let expected = match case.want {
        Kept(statuses) | Closed(statuses) => statuses,
        Either => &[200],
    };
    let mut accepted = 0;
    let mut refused = false;
    for (nth, status) in expected.iter().enumerate() {
        if nth > 0 && matches!(case.want, Closed(_)) {
            // What completes a half request makes it one that can be judged.
            let _ = client.try_send_raw(b"\r\n\r\n").await;
        }
        let answer = match client.try_response().await {
            Ok(answer) => answer,
            // Some faults leave no one to answer: closing is right where a refusal is expected.
            Err(Broken::Closed | Broken::Reset) if *status == 400 => {
                return counted(provider, before, accepted, case);
            }
            Err(why) => return fail(format!("no answer {nth}: {why:?}")),
        };
        if answer.status >= 400 {
            framed(&answer, Envelope::OpenAi);
        }
        let served =
            case.bytes.starts_with(b"POST /v1/chat") || case.bytes.starts_with(b"\r\nPOST");
        accepted += usize::from(answer.status == 200 && served);
        refused = answer.status >= 400;
        let fits = answer.status == *status || case.want == Either && answer.status == 400;
        if !fits {
            return fail(format!(
                "{} instead of {status}: {}",
                answer.status,
                answer.text()
            ));
        }
    }
    let closes = match case.want {
        Kept(_) => false,
        Closed(_) => true,
        Either => refused,
    };
    if closes {
        if !client.closes(Duration::from_secs(5)).await {
            return fail("the connection stays open".into());
        }
    } else {
        // Nothing of the case is left between its answer and this one.
        client.send_raw(whole().as_bytes()).await;
        match client.try_response().await {
            Ok(answer) if answer.status == 200 => accepted += 1,
            other => return fail(format!("the next request: {other:?}")),
        }
    }
    counted(provider, before, accepted, case)
}

fn counted(provider: &Provider, before: usize, accepted: usize, case: &Case) -> Result<(), String> {
    let came = provider.count() - before;
    if came != accepted {
        return Err(format!(
            "{}: accepted {accepted}, forwarded {came}",
            case.name
        ));
    }
    let bodies = provider.seen();
    if let Some(seen) = bodies[before..].iter().find(|seen| seen.body != BODY) {
        return Err(format!("{}: forwarded {:?}", case.name, seen.body));
    }
    match provider.malformed().as_slice() {
        [] => Ok(()),
        malformed => Err(format!("{}: malformed upstream: {malformed:?}", case.name)),
    }
}

async fn all(cases: Vec<Case>) {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&format!(
        "providers: {{ fake: {{ api: openai, base_url: \"{}\", keys: [upstream-secret] }} }}\nmodels: [{{ id: gpt-test, upstreams: [{{ provider: fake }}] }}]\n",
        provider.base_url()
    ))
    .await;
    let mut failures = Vec::new();
    for case in &cases {
        if let Err(failure) = judge(&gateway, &provider, case).await {
            failures.push(failure);
        }
        let mut client = Client::connect(gateway.addr).await;
        client.send_raw(whole().as_bytes()).await;
        let answer = client.try_response().await.map(|answer| answer.status);
        assert_eq!(
            answer,
            Ok(200),
            "after {:?} the gateway serves no more",
            case.name
        );
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test]
async fn a_framing_fault_is_told_in_the_words_of_the_surface() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&format!(
        "providers: {{ fake: {{ api: openai, base_url: \"{}\", keys: [upstream-secret] }} }}\nmodels: [{{ id: gpt-test, upstreams: [{{ provider: fake }}] }}]\n",
        provider.base_url()
    ))
    .await;
    for (path, envelope) in [
        ("/v1/chat/completions", Envelope::OpenAi),
        ("/v1/messages", Envelope::Anthropic),
        ("/anthropic/v1/messages", Envelope::Anthropic),
        ("/anthropic/nowhere", Envelope::Anthropic),
    ] {
        let mut client = Client::connect(gateway.addr).await;
        let head = start().replace("/v1/chat/completions", path);
        let both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        client.send_raw(format!("{head}{both}").as_bytes()).await;
        refused(&client.response().await, envelope, 400, "invalid_request");
        assert!(client.closes(Duration::from_secs(5)).await);
    }
    assert_eq!(provider.count(), 0);
}

#[tokio::test]
async fn odd_lengths() {
    all(lengths()).await;
}

#[tokio::test]
async fn odd_transfer_codings() {
    all(codings()).await;
}

#[tokio::test]
async fn odd_chunks() {
    all(chunk_lines()).await;
}

#[tokio::test]
async fn odd_heads() {
    all(heads()).await;
}

/// Pingora's chunk reader takes an empty size for 0 and the rest for trailers.
#[tokio::test]
async fn a_chunk_without_a_size() {
    all(vec![chunks("no size", "\r\nBODY\r\n0\r\n\r\n", NO)]).await;
}

/// Pingora's chunk reader skips a bare line feed in an extension. A proxy in front that takes it for
/// the line's end sees the request end earlier, and another begin: that one must not be served.
#[tokio::test]
async fn a_chunk_extension_ended_by_a_line_feed() {
    let bytes = format!("LEN;a\nBODY\r\n0\r\n\r\n{}", whole());
    all(vec![chunks(
        "an extension ended by a line feed",
        &bytes,
        NO,
    )])
    .await;
}
