//! Where requests go, and the requests themselves. Loopback only: this tool never loads somebody else's machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// A URL on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The address to connect to.
    pub address: SocketAddr,
    /// The path, with its leading slash.
    pub path: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("http://").ok_or("only http:// URLs")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if path
            .bytes()
            .any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control())
        {
            return Err("the path has a space or a control character".to_owned());
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target {
            address: loopback(authority)?,
            path: path.to_owned(),
        })
    }
}

/// Reads `host:port`, where the host is a loopback address or `localhost`.
pub fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = match text.strip_prefix("localhost:") {
        Some(port) => {
            let port = port.parse().map_err(|_| format!("no port in {text}"))?;
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
        }
        None => text
            .parse()
            .map_err(|_| format!("{text} is not host:port"))?,
    };
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!("{address} is not a loopback address"))
    }
}

/// Whether the answer is to be one JSON text or a stream of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// One JSON text.
    Whole,
    /// Server-sent events, so many of them and so far apart.
    Events {
        /// How many events.
        count: u64,
        /// Milliseconds between two events.
        interval_ms: u64,
    },
}

/// The size of the built-in chat request without a stream, in bytes.
pub const BODY_LENGTH: usize = 240;

/// A chat request of [`BODY_LENGTH`] bytes (longer if the model's name or the stream options need it).
pub fn chat_body(model: &str, answer: Answer) -> String {
    chat_body_of(BODY_LENGTH, model, answer)
}

/// A chat request of so many bytes (longer if the model's name or the stream options need it): the prompt is as long as
/// that takes.
pub fn chat_body_of(length: usize, model: &str, answer: Answer) -> String {
    let stream = match answer {
        Answer::Whole => "",
        Answer::Events { .. } => r#""stream":true,"stream_options":{"include_usage":true},"#,
    };
    let front = format!(
        r#"{{"model":"{model}",{stream}"max_tokens":64,"messages":[{{"role":"system","content":"Be brief."}},{{"role":"user","content":""#
    );
    let back = r#""}]}"#;
    let sentence = "Say in one sentence what a tollgate is. ";
    let room = length.saturating_sub(front.len() + back.len());
    let mut words = sentence.repeat(room / sentence.len() + 1);
    words.truncate(room);
    format!("{front}{words}{back}")
}

/// The bytes of one request, built once and sent many times.
pub fn request(target: &Target, key: &str, answer: Answer, body: &[u8]) -> Vec<u8> {
    let Target { address, path } = target;
    let events = match answer {
        Answer::Whole => String::new(),
        Answer::Events { count, interval_ms } => {
            format!("x-events: {count}\r\nx-interval-ms: {interval_ms}\r\n")
        }
    };
    let mut bytes = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\n{events}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_accepted() {
        assert!(
            "http://127.0.0.1:8080/v1/chat/completions"
                .parse::<Target>()
                .is_ok()
        );
        assert!(
            "http://[::1]:8080"
                .parse::<Target>()
                .is_ok_and(|target| target.path == "/")
        );
        assert!(loopback("localhost:80").is_ok());
        for url in [
            "http://10.0.0.1:80/",
            "http://0.0.0.0:80/",
            "http://example.com:80/",
            "https://127.0.0.1:80/",
        ] {
            assert!(url.parse::<Target>().is_err(), "{url}");
        }
    }

    #[test]
    fn the_request_has_the_size_of_the_method() {
        assert_eq!(chat_body("bench-model", Answer::Whole).len(), BODY_LENGTH);
        let long = chat_body_of(20_000, "bench-model", Answer::Whole);
        assert!(long.len() == 20_000 && long.ends_with(r#""}]}"#));
        let stream = chat_body(
            "bench-model",
            Answer::Events {
                count: 1,
                interval_ms: 1,
            },
        );
        assert!(stream.contains(r#""stream":true"#) && stream.ends_with(r#""}]}"#));
    }
}
