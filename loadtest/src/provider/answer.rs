//! What the provider says: a chat completion in one piece, of any size, or a stream of stamped events.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep_until};

use super::line::Line;
use super::script::Script;
use crate::Result;

macro_rules! opening {
    () => {
        concat!(
            r#"{"id":"chatcmpl-load","object":"chat.completion","created":1750000000,"#,
            r#""model":"bench-model","choices":[{"index":0,"message":{"role":"assistant","content":""#,
        )
    };
}

macro_rules! closing {
    () => {
        concat!(
            r#""},"finish_reason":"stop"}],"#,
            r#""usage":{"prompt_tokens":42,"completion_tokens":9,"total_tokens":51}}"#,
        )
    };
}

macro_rules! answer {
    () => {
        concat!(opening!(), "A gate for the payers.", closing!())
    };
}

/// The body of every plain answer.
pub const ANSWER: &[u8] = answer!().as_bytes();

const _: () = assert!(ANSWER.len() == 274);

const RESPONSE: &[u8] = concat!(
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 274\r\n\r\n",
    answer!()
)
.as_bytes();

/// The smallest answer that can be asked for: one without a word.
pub const SMALLEST: u64 = (opening!().len() + closing!().len()) as u64;

/// The content of large answers, in pieces.
static CONTENT: [u8; 64 * 1024] = [b'w'; 64 * 1024];

const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

const USAGE: &str = concat!(
    r#"data: {"id":"chatcmpl-loadtest","object":"chat.completion.chunk","created":1750000000,"model":"bench-model","#,
    r#""choices":[],"usage":{"prompt_tokens":42,"completion_tokens":9,"total_tokens":51}}"#,
    "\n\n"
);

const DONE: &str = "data: [DONE]\n\n";

/// Sends the plain answer, or one of the size that is asked for.
pub async fn send_whole(line: &mut Line, bytes: Option<u64>) -> Result<()> {
    let Some(bytes) = bytes else {
        return line.send(RESPONSE).await;
    };
    let mut left = bytes.saturating_sub(SMALLEST);
    let mut piece = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {bytes}\r\n\r\n{}",
        opening!()
    )
    .into_bytes();
    // What fits goes out at once, as a plain answer does.
    while left > 0 {
        let length = CONTENT
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        piece.extend_from_slice(&CONTENT[..length]);
        left -= length as u64;
        if left > 0 {
            line.send(&piece).await?;
            piece.clear();
        }
    }
    piece.extend_from_slice(closing!().as_bytes());
    line.send(&piece).await
}

/// Sends events at their times, each with the time at which it was sent.
pub async fn send_events(line: &mut Line, script: &Script) -> Result<()> {
    let interval = Duration::from_millis(script.interval_ms);
    let begin = Instant::now();
    let mut bytes = STREAM_HEAD.to_vec();
    for number in 0..script.events {
        sleep_until(begin + interval * u32::try_from(number)?).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let event = format!(
            concat!(
                r#"data: {{"id":"chatcmpl-loadtest","object":"chat.completion.chunk","created":1750000000,"#,
                r#""model":"bench-model","choices":[{{"index":0,"delta":{{"content":"word "}},"finish_reason":null}}],"#,
                r#""t":{}}}"#,
                "\n\n"
            ),
            now
        );
        add_chunk(&mut bytes, &event);
        line.send(&bytes).await?;
        bytes.clear();
    }
    add_chunk(&mut bytes, USAGE);
    add_chunk(&mut bytes, DONE);
    bytes.extend_from_slice(b"0\r\n\r\n");
    line.send(&bytes).await
}

/// Sends an error with its reason.
pub async fn send_error(line: &mut Line, status: u16, reason: &str) -> Result<()> {
    let body =
        serde_json::json!({ "error": { "message": reason, "type": "loadtest" } }).to_string();
    let text = format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    line.send(text.as_bytes()).await
}

/// Adds a chunk of a chunked body.
pub fn add_chunk(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(format!("{:x}\r\n", text.len()).as_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend_from_slice(b"\r\n");
}
