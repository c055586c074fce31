//! The scripted provider, in this process: answers each request as its [`Wish`] says, and keeps count of what it told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::money::Tokens;
use super::wish::{Kind, Wish};
use crate::Result;
use crate::http::{self, Body, Malformed};
use crate::process::free_ports;
use crate::provider::add_chunk;

/// The longest request that is read.
const LONGEST: usize = 2 * 1024 * 1024;

/// The longest time that a wish may ask to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The most events of a stream.
const MOST_EVENTS: u64 = 100_000;

/// The bytes of one event of a stream, without the chunk around it: a gateway that notes how far it is after so
/// many bytes does so after a known number of events.
pub const EVENT_BYTES: usize = event().len();

const fn event() -> &'static str {
    concat!(
        r#"data: {"id":"chatcmpl-count","object":"chat.completion.chunk","created":1750000000,"model":"fake","#,
        r#""choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}"#,
        "\n\n"
    )
}

/// What was told of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// What it asked for.
    pub wish: Wish,
    /// How often it came.
    pub times: u64,
    /// How often it was read from a connection that had been used before, which was then reset: to the other side as if it
    /// had been dead.
    pub reset_reused: u64,
    /// Events of its stream, up to the one that is being written.
    pub events: u64,
    /// Whether its usage was told, or is being written.
    pub reported: bool,
    /// When the connection was closed before the answer was whole.
    pub closed: Option<std::time::Instant>,
}

impl Told {
    /// What the provider has counted of it so far: its usage, or the prompt and what was written.
    pub fn tokens(&self) -> Tokens {
        let all = self.wish.tokens();
        match self.reported {
            true => all,
            false => Tokens {
                output: self.events,
                ..all
            },
        }
    }
}

/// What was told of all requests.
#[derive(Debug, Default)]
pub struct Book(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    told: BTreeMap<u64, Told>,
    /// Requests without a wish.
    unread: u64,
}

impl Book {
    /// By their numbers.
    pub fn told(&self) -> BTreeMap<u64, Told> {
        self.pages().told.clone()
    }

    /// How many requests came that asked for nothing, which nobody sends.
    pub fn unread(&self) -> u64 {
        self.pages().unread
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that came; gives its wish back.
    pub fn came(&self, wish: Option<Wish>) -> Option<Wish> {
        let mut pages = self.pages();
        let Some(wish) = wish else {
            pages.unread += 1;
            return None;
        };
        let told = pages.told.entry(wish.number).or_insert(Told {
            wish,
            times: 0,
            reset_reused: 0,
            events: 0,
            reported: false,
            closed: None,
        });
        told.times += 1;
        Some(wish)
    }

    /// Changes what is told of a request that came.
    pub fn note(&self, wish: Wish, change: impl FnOnce(&mut Told)) {
        if let Some(told) = self.pages().told.get_mut(&wish.number) {
            change(told);
        }
    }
}

/// A running provider; ends when dropped.
pub struct Provider {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it told.
    pub book: Arc<Book>,
    task: JoinHandle<()>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Provider {
    /// Starts one.
    pub async fn start() -> Result<Self> {
        let [address] = free_ports()?;
        let listener = TcpListener::bind(address).await?;
        let book = Arc::new(Book::default());
        let pages = Arc::clone(&book);
        let task = tokio::spawn(async move {
            let mut conversations = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        // A gateway that is killed closes its connections: no failure of the provider.
                        Ok((stream, _)) => {
                            let pages = Arc::clone(&pages);
                            conversations.spawn(async move { converse(stream, &pages).await.is_ok() });
                        }
                        Err(_) => sleep(Duration::from_millis(10)).await,
                    },
                    Some(_) = conversations.join_next() => {}
                }
            }
        });
        Ok(Provider {
            address,
            book,
            task,
        })
    }
}

/// Answers the requests of one connection.
async fn converse(mut stream: TcpStream, book: &Book) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::with_capacity(8 * 1024);
    loop {
        let body = receive(&mut stream, &mut bytes).await?;
        let Some(wish) = book.came(Wish::find(&body)) else {
            stream
                .write_all(&whole(400, r#"{"error":{"message":"no wish"}}"#))
                .await?;
            continue;
        };
        serve(&mut stream, book, wish, &body).await?;
    }
}

/// Reads one request, and gives its body; `bytes` are those that were read beyond it.
pub async fn receive(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<Vec<u8>> {
    let head_length = loop {
        if let Some(length) = http::head_length(bytes) {
            break length;
        }
        read(stream, bytes).await?;
    };
    let head: Vec<u8> = bytes.drain(..head_length).collect();
    let mut framing = http::framing(&head)?.unwrap_or(Body::Length(0));
    let mut body = Vec::with_capacity(1024);
    loop {
        let (used, complete) = framing.feed(bytes, |piece| body.extend_from_slice(piece))?;
        bytes.drain(..used);
        if complete {
            return Ok(body);
        }
        if body.len() > LONGEST {
            return Err(Malformed("a body that is too long").into());
        }
        read(stream, bytes).await?;
    }
}

/// Answers one request as it wishes, and notes when the gateway does not wait for all of it.
pub async fn serve(stream: &mut TcpStream, book: &Book, wish: Wish, body: &[u8]) -> Result<()> {
    let asked = body
        .windows(USAGE_ASKED.len())
        .any(|part| part == USAGE_ASKED);
    let served = answered(stream, book, wish, asked).await;
    if served.is_err() {
        book.note(wish, |told| told.closed = Some(Instant::now().into_std()));
    }
    served
}

/// Answers one request; `asked` for the usage of a stream.
async fn answered(stream: &mut TcpStream, book: &Book, wish: Wish, asked: bool) -> Result<()> {
    let wait = Duration::from_millis(wish.wait_ms).min(LONGEST_WAIT);
    match wish.kind {
        Kind::Stream(events) => {
            send_events(stream, book, wish, events.min(MOST_EVENTS)).await?;
            end_events(stream, book, wish, asked).await
        }
        Kind::Whole | Kind::Picture => {
            attend(stream, Instant::now() + wait).await?;
            book.note(wish, |told| told.reported = true);
            Ok(stream.write_all(&answer(wish)).await?)
        }
    }
}

/// Waits for a moment; an error if the gateway goes meanwhile: what is written then is told to nobody.
async fn attend(stream: &TcpStream, until: Instant) -> Result<()> {
    let mut byte = [0];
    tokio::select! {
        biased;
        ahead = stream.peek(&mut byte) => {
            if ahead? == 0 {
                return Err(Malformed("closed").into());
            }
            sleep_until(until).await;
        }
        () = sleep_until(until) => {}
    }
    Ok(())
}

const USAGE_ASKED: &[u8] = br#""include_usage":true"#;

/// Reads something; a closed connection and a head that does not end are errors.
async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<()> {
    if bytes.len() > LONGEST {
        return Err(Malformed("a head that is too long").into());
    }
    match stream.read_buf(bytes).await? {
        0 => Err(Malformed("closed").into()),
        _ => Ok(()),
    }
}

/// An answer in one piece.
fn answer(wish: Wish) -> Vec<u8> {
    match wish.kind {
        Kind::Picture => whole(
            200,
            r#"{"created":1750000000,"data":[{"url":"https://pictures.example/1.png"}]}"#,
        ),
        Kind::Whole | Kind::Stream(_) => {
            let usage = usage(wish.tokens());
            whole(
                200,
                &format!(
                    r#"{{"id":"chatcmpl-count","object":"chat.completion","created":1750000000,"model":"fake","choices":[{{"index":0,"message":{{"role":"assistant","content":"Counted."}},"finish_reason":"stop"}}],{usage}}}"#
                ),
            )
        }
    }
}

/// A JSON text with a status.
pub fn whole(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn usage(tokens: Tokens) -> String {
    let Tokens {
        input,
        cached,
        output,
    } = tokens;
    let total = input + output;
    format!(
        r#""usage":{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":{cached}}}}}"#
    )
}

/// Sends the header of a stream, and so many events at their times.
pub async fn send_events(
    stream: &mut TcpStream,
    book: &Book,
    wish: Wish,
    events: u64,
) -> Result<()> {
    let begin = Instant::now();
    let apart = Duration::from_millis(wish.wait_ms).min(LONGEST_WAIT);
    let mut bytes = STREAM_HEAD.to_vec();
    for number in 0..events {
        attend(stream, begin + apart * u32::try_from(number)?).await?;
        add_chunk(&mut bytes, event());
        book.note(wish, |told| told.events = number + 1);
        stream.write_all(&bytes).await?;
        bytes.clear();
    }
    // Of no events, the header at least.
    Ok(stream.write_all(&bytes).await?)
}

/// Sends the usage of a stream if it was asked for, then its end.
async fn end_events(stream: &mut TcpStream, book: &Book, wish: Wish, asked: bool) -> Result<()> {
    let mut bytes = Vec::with_capacity(1024);
    if asked {
        let usage = usage(wish.tokens());
        add_chunk(
            &mut bytes,
            &format!(
                "data: {{\"id\":\"chatcmpl-count\",\"object\":\"chat.completion.chunk\",\"created\":1750000000,\"model\":\"fake\",\"choices\":[],{usage}}}\n\n"
            ),
        );
        book.note(wish, |told| told.reported = true);
    }
    add_chunk(&mut bytes, "data: [DONE]\n\n");
    bytes.extend_from_slice(b"0\r\n\r\n");
    Ok(stream.write_all(&bytes).await?)
}

const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(kind: Kind) -> Wish {
        Wish {
            number: 4,
            kind,
            wait_ms: 0,
        }
    }

    #[test]
    fn what_is_told_is_counted() {
        let book = Book::default();
        let stream = wish(Kind::Stream(9));
        assert_eq!(book.came(Some(stream)), Some(stream));
        book.note(stream, |told| told.events = 3);
        let all = stream.tokens();
        let told = |book: &Book| book.told().get(&4).copied();
        assert!(told(&book).is_some_and(|told| told.tokens() == Tokens { output: 3, ..all }));
        book.note(stream, |told| told.reported = true);
        assert!(told(&book).is_some_and(|told| told.tokens() == all && told.times == 1));
        book.came(Some(stream));
        assert!(told(&book).is_some_and(|told| told.times == 2));
        assert_eq!((book.came(None), book.unread()), (None, 1));
    }

    #[test]
    fn answers_are_framed() -> Result<()> {
        for kind in [Kind::Whole, Kind::Picture] {
            let bytes = answer(wish(kind));
            let head = http::response_head(&bytes)?.ok_or("no head")?;
            assert_eq!(head.body, Body::Length((bytes.len() - head.length) as u64));
        }
        Ok(())
    }
}
