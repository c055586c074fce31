//! The hostile provider, on a thread of its own: it writes as fast as it can, and good traffic is measured elsewhere.

use std::net::{Ipv4Addr, SocketAddr, TcpListener as Listener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::attack::{Attack, Form};
use super::bomb;
use crate::Result;
use crate::ledger::provider::{receive, whole};
use crate::provider::add_chunk;

/// No answer takes longer, if nobody stops it.
const LONGEST: Duration = Duration::from_secs(60);

const MIB: usize = 1 << 20;

/// What is large is so large.
const LARGE: usize = 64 * MIB;

/// What the bomb unpacks to.
const UNPACKED: usize = 256 * MIB;

/// Tokens that no request asked for, and that a JSON number holds exactly.
const TOO_MANY: u64 = 1 << 52;

const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const TEXT_CHUNKED: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENT: &str = concat!(
    r#"data: {"id":"chatcmpl-x","object":"chat.completion.chunk","created":1750000000,"model":"fake","#,
    r#""choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}"#,
    "\n\n"
);
/// What must never reach a client.
pub const POISON: &str = "poison";

/// Usage that cannot be.
const USAGES: [&str; 8] = [
    r#"{"prompt_tokens":-5,"completion_tokens":-1000000,"total_tokens":-1000005}"#,
    r#"{"prompt_tokens":"10","completion_tokens":"1e9"}"#,
    r#"{"prompt_tokens":NaN,"completion_tokens":7}"#,
    r#"{"prompt_tokens":10,"completion_tokens":1e400}"#,
    r#"{"prompt_tokens":9223372036854775808,"completion_tokens":18446744073709551616}"#,
    r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":1000000}}"#,
    r#"{"prompt_tokens":1.5,"completion_tokens":0.1}"#,
    r#"[[[[[[[[[[[[[[[[{"prompt_tokens":{}}]]]]]]]]]]]]]]]]"#,
];

/// A running one; ends when dropped.
pub struct Hostile {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections to the server that a redirect names.
    pub followed: Arc<AtomicU64>,
    /// Requests without an attack, which nobody sends.
    pub unread: Arc<AtomicU64>,
    _stop: oneshot::Sender<()>,
}

/// What all connections have in common.
struct Shared {
    elsewhere: SocketAddr,
    bomb: Vec<u8>,
    unread: Arc<AtomicU64>,
}

impl Hostile {
    /// Starts it.
    pub fn start() -> Result<Self> {
        let (listener, address) = bound()?;
        let (target, elsewhere) = bound()?;
        let followed = Arc::new(AtomicU64::new(0));
        let unread = Arc::new(AtomicU64::new(0));
        let shared = Shared {
            elsewhere,
            bomb: bomb::zeros(UNPACKED),
            unread: Arc::clone(&unread),
        };
        let (stop, stopped) = oneshot::channel();
        let count = Arc::clone(&followed);
        let runtime = crate::runtime()?;
        std::thread::Builder::new()
            .name("hostile".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let served = tokio::select! {
                        served = listen(listener, target, shared, &count) => served,
                        _ = stopped => Ok(()),
                    };
                    if let Err(error) = served {
                        eprintln!("loadtest: hostile provider: {error}");
                    }
                });
            })?;
        Ok(Hostile {
            address,
            followed,
            unread,
            _stop: stop,
        })
    }
}

fn bound() -> Result<(Listener, SocketAddr)> {
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn listen(
    listener: Listener,
    target: Listener,
    shared: Shared,
    followed: &AtomicU64,
) -> Result<()> {
    let (listener, target) = (
        TcpListener::from_std(listener)?,
        TcpListener::from_std(target)?,
    );
    let shared = Arc::new(shared);
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let shared = Arc::clone(&shared);
                conversations.spawn(async move {
                    // Who cuts it off does well.
                    let _ = timeout(LONGEST, converse(stream, &shared)).await;
                });
            }
            accepted = target.accept() => {
                accepted?;
                followed.fetch_add(1, Ordering::Relaxed);
            }
            Some(_) = conversations.join_next() => {}
        }
    }
}

async fn converse(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::with_capacity(4096);
    loop {
        let body = receive(&mut stream, &mut bytes).await?;
        let Some((attack, number)) = Attack::find(&body) else {
            shared.unread.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        answer(&mut stream, shared, attack, number).await?;
    }
}

/// Attacks; an error or the end of the connection where none can follow on it.
async fn answer(
    stream: &mut TcpStream,
    shared: &Shared,
    attack: Attack,
    number: u64,
) -> Result<()> {
    let form = attack.form(number);
    let over = Err("over".into());
    match attack {
        Attack::Garbage => {
            stream
                .write_all(b"\x16\x03\x01 SSH-2.0 \xff\xfe\r\n\r\n\0")
                .await?;
            return over;
        }
        Attack::LongHeader => {
            let field = "x".repeat(MIB);
            let head =
                format!("HTTP/1.1 200 OK\r\nx-long: {field}\r\ncontent-length: 2\r\n\r\n{{}}");
            stream.write_all(head.as_bytes()).await?;
        }
        Attack::ManyFields => {
            let fields: String = (0..1_000).map(|nth| format!("x-{nth}: y\r\n")).collect();
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            stream.write_all(fields.as_bytes()).await?;
            let good = good(
                form,
                r#"{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}"#,
            );
            let rest = good.strip_prefix("HTTP/1.1 200 OK\r\n").unwrap_or(&good);
            stream.write_all(rest.as_bytes()).await?;
        }
        Attack::SlowHeader => {
            slowly(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n",
            )
            .await?;
        }
        Attack::Interim => loop {
            stream
                .write_all("HTTP/1.1 100 Continue\r\n\r\n".repeat(100).as_bytes())
                .await?;
        },
        Attack::LongLine => {
            stream.write_all(CHUNKED.as_bytes()).await?;
            pour(
                stream,
                Some("data: {\"choices\":[{\"delta\":{\"content\":\""),
            )
            .await?;
        }
        Attack::BrokenEvents => {
            let mut bytes = CHUNKED.as_bytes().to_vec();
            add_bytes(&mut bytes, &broken(number));
            bytes.extend_from_slice(b"0\r\n\r\n");
            stream.write_all(&bytes).await?;
        }
        Attack::Bomb => {
            let kind = match form {
                Form::Text => "application/json",
                Form::Stream => "text/event-stream",
            };
            let length = shared.bomb.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-encoding: gzip\r\ncontent-length: {length}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&shared.bomb).await?;
        }
        Attack::Endless => {
            stream.write_all(CHUNKED.as_bytes()).await?;
            let mut events = Vec::new();
            for _ in 0..100 {
                add_chunk(&mut events, EVENT);
            }
            loop {
                stream.write_all(&events).await?;
            }
        }
        Attack::SlowBody => {
            let (head, body) = match form {
                Form::Stream => (CHUNKED, EVENT.to_owned()),
                Form::Text => (TEXT_CHUNKED, body(USAGES[0])),
            };
            stream.write_all(head.as_bytes()).await?;
            for byte in body.as_bytes().chunks(1) {
                let mut chunk = Vec::with_capacity(8);
                add_bytes(&mut chunk, byte);
                stream.write_all(&chunk).await?;
                sleep(Duration::from_secs(1)).await;
            }
        }
        Attack::LongBody => {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {LARGE}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            pour(stream, None).await?;
        }
        Attack::LongChunks => {
            stream.write_all(TEXT_CHUNKED.as_bytes()).await?;
            pour(stream, Some("{\"choices\":[{\"message\":{\"content\":\"")).await?;
        }
        Attack::ShortLength => {
            let usage = r#"{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}"#;
            let mut answer = good(Form::Text, usage);
            answer.push_str(&String::from_utf8_lossy(&whole(
                200,
                &format!("{{\"{POISON}\":1}}"),
            )));
            stream.write_all(answer.as_bytes()).await?;
        }
        Attack::LongLength => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{\"choices\":[")
                .await?;
            stream.shutdown().await?;
            return over;
        }
        Attack::Redirect => {
            let elsewhere = shared.elsewhere;
            let head = format!(
                "HTTP/1.1 302 Found\r\nlocation: http://{elsewhere}/v1/chat/completions\r\ncontent-length: 0\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
        }
        Attack::Usage => {
            // Both forms have each of them.
            let usage = USAGES[(number / 2) as usize % USAGES.len()];
            stream.write_all(good(form, usage).as_bytes()).await?;
        }
        Attack::LargeUsage => {
            let usage = format!(
                r#"{{"prompt_tokens":1,"completion_tokens":{TOO_MANY},"total_tokens":{}}}"#,
                TOO_MANY + 1
            );
            stream.write_all(good(form, &usage).as_bytes()).await?;
        }
        Attack::Behave => {
            let usage = r#"{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}"#;
            stream.write_all(good(form, usage).as_bytes()).await?;
        }
    }
    Ok(())
}

/// One byte a second.
async fn slowly(stream: &mut TcpStream, text: &str) -> Result<()> {
    for byte in text.as_bytes().chunks(1) {
        stream.write_all(byte).await?;
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// What is large, in chunks behind some first words, or as it is.
async fn pour(stream: &mut TcpStream, first: Option<&str>) -> Result<()> {
    let piece = [b'x'; 64 * 1024];
    let mut chunk = Vec::with_capacity(piece.len() + 16);
    if let Some(first) = first {
        add_chunk(&mut chunk, first);
        stream.write_all(&chunk).await?;
        chunk.clear();
        add_bytes(&mut chunk, &piece);
    } else {
        chunk.extend_from_slice(&piece);
    }
    for _ in 0..LARGE / piece.len() {
        stream.write_all(&chunk).await?;
    }
    if first.is_some() {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    Ok(())
}

fn add_bytes(bytes: &mut Vec<u8>, piece: &[u8]) {
    bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
    bytes.extend_from_slice(piece);
    bytes.extend_from_slice(b"\r\n");
}

/// Events that are none.
fn broken(number: u64) -> Vec<u8> {
    match number % 5 {
        0 => b"data: \xff\xfe\xc0\n\n".to_vec(),
        1 => b"data: {\"choices\":[{\"delta\":{\"content\":\"half".to_vec(),
        2 => b"\0\0\0\n\n\0".to_vec(),
        3 => b"data: no JSON {]\n\n".to_vec(),
        _ => b"data:\n".repeat(10_000),
    }
}

fn body(usage: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-x","object":"chat.completion","created":1750000000,"model":"fake","choices":[{{"index":0,"message":{{"role":"assistant","content":"Good."}},"finish_reason":"stop"}}],"usage":{usage}}}"#
    )
}

/// An answer in good form, whatever its usage says.
fn good(form: Form, usage: &str) -> String {
    if form == Form::Text {
        return String::from_utf8_lossy(&whole(200, &body(usage))).into_owned();
    }
    let last = format!(
        "data: {{\"id\":\"chatcmpl-x\",\"object\":\"chat.completion.chunk\",\"created\":1750000000,\"model\":\"fake\",\"choices\":[],\"usage\":{usage}}}\n\n"
    );
    let mut bytes = Vec::new();
    for event in [EVENT, &last, "data: [DONE]\n\n"] {
        add_chunk(&mut bytes, event);
    }
    format!("{CHUNKED}{}0\r\n\r\n", String::from_utf8_lossy(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;

    #[test]
    fn good_answers_are_framed() -> Result<()> {
        for form in [Form::Text, Form::Stream] {
            let text = good(form, "{}");
            let mut head = http::response_head(text.as_bytes())?.ok_or("no head")?;
            let rest = &text.as_bytes()[head.length..];
            let mut body = Vec::new();
            let (used, complete) = head
                .body
                .feed(rest, |piece| body.extend_from_slice(piece))?;
            assert!(complete && used == rest.len(), "{text}");
            assert!(String::from_utf8(body)?.contains("\"usage\":{}"));
        }
        Ok(())
    }
}
