//! A client of a hostile provider: reads whatever comes and keeps the end of it only.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::attack::{Attack, Form};
use crate::Result;
use crate::bench::chat;
use crate::connection::Connection;
use crate::ledger::traffic::{self, key, short};
use crate::target::{Answer, request};
use crate::upstreams::traffic::{ACCOUNT, is_cut};

/// The model that the hostile provider serves.
pub const MODEL: &str = "hostile";

/// What every request allows for its answer.
pub const MAX_TOKENS: u64 = 500;

/// No answer is waited for longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of an answer so much is kept, and no more than twice that.
const KEPT: usize = 32 * 1024;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A whole answer.
    Whole,
    /// A refusal in the surface's envelope.
    Refused(u16, String),
    /// A stream that ended with one error event.
    Cut,
    /// A text that was broken off: its length or its last chunk is missing.
    BrokenOff,
    /// What should not be.
    Wrong(String),
}

impl End {
    /// In the table.
    pub fn name(&self) -> String {
        match self {
            End::Whole => "whole".to_owned(),
            End::Refused(status, code) => format!("{status} {code}"),
            End::Cut => "cut".to_owned(),
            End::BrokenOff => "broken off".to_owned(),
            End::Wrong(_) => "wrong".to_owned(),
        }
    }
}

/// One request.
#[derive(Debug, Clone)]
pub struct Met {
    /// Its number; its key has it in its name.
    pub number: u64,
    /// Tokens that a gateway takes its prompt for: four characters each.
    pub estimate: u64,
    /// How long it took.
    pub took: Duration,
    /// Bytes of the answer.
    pub bytes: u64,
    /// What became of it.
    pub end: End,
    /// The end of the answer.
    pub tail: String,
}

/// Asks for an attack, and reads what comes of it.
pub async fn meet(front: SocketAddr, attack: Attack, number: u64) -> Met {
    let form = attack.form(number);
    let stream = match form {
        Form::Stream => r#""stream":true,"stream_options":{"include_usage":true},"#,
        Form::Text => "",
    };
    let body = format!(
        r#"{{"model":"{MODEL}",{stream}"max_tokens":{MAX_TOKENS},"messages":[{{"role":"user","content":"Answer. {}"}}]}}"#,
        attack.mark(number)
    );
    let secret = key(number, ACCOUNT).secret();
    let request = request(&chat(front), &secret, Answer::Whole, body.as_bytes());
    let begin = Instant::now();
    let mut read = Read::default();
    let end = match timeout(PATIENCE, read.all(front, &request)).await {
        Err(_) => End::Wrong(format!("no end within {PATIENCE:?}")),
        Ok(end) => read.judge(end, form),
    };
    Met {
        number,
        estimate: body.len().div_ceil(4) as u64,
        took: begin.elapsed(),
        bytes: read.bytes,
        end,
        tail: String::from_utf8_lossy(&read.kept).into_owned(),
    }
}

/// What was read so far.
#[derive(Default)]
struct Read {
    status: Option<u16>,
    bytes: u64,
    kept: Vec<u8>,
}

impl Read {
    async fn all(&mut self, front: SocketAddr, request: &[u8]) -> Result<()> {
        let mut connection = Connection::open(front).await?;
        let mut head = connection.start(request).await?;
        self.status = Some(head.status);
        loop {
            let before = self.kept.len();
            let complete = connection.read(&mut head.body, &mut self.kept).await?;
            self.bytes += (self.kept.len() - before) as u64;
            if complete {
                return Ok(());
            }
            if self.kept.len() > 2 * KEPT {
                self.kept.drain(..self.kept.len() - KEPT);
            }
        }
    }

    fn judge(&self, end: Result<()>, form: Form) -> End {
        let text = String::from_utf8_lossy(&self.kept);
        match (end, self.status, form) {
            (Err(_), Some(200), Form::Text) => End::BrokenOff,
            (Err(error), status, _) => {
                End::Wrong(format!("status {status:?}, {error}: {}", short(&text)))
            }
            (Ok(()), Some(200), Form::Text) => match text.ends_with('}') {
                true => End::Whole,
                false => End::Wrong(format!("no JSON: {}", short(&text))),
            },
            (Ok(()), Some(200), Form::Stream) if text.ends_with("data: [DONE]\n\n") => End::Whole,
            (Ok(()), Some(200), Form::Stream) if is_cut(&text) => End::Cut,
            (Ok(()), Some(200), Form::Stream) => End::Wrong(format!("no end: {}", short(&text))),
            (Ok(()), status, _) => match traffic::refusal(status.unwrap_or_default(), &text) {
                traffic::End::Refused(status, code) => End::Refused(status, code),
                other => End::Wrong(format!("{other:?}")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, text: &str, form: Form, whole: bool) -> End {
        let read = Read {
            status: Some(status),
            bytes: 0,
            kept: text.as_bytes().to_vec(),
        };
        let end = if whole { Ok(()) } else { Err("closed".into()) };
        read.judge(end, form)
    }

    #[test]
    fn each_end_is_told_from_the_others() {
        let error = "data: {\"error\":{\"code\":\"upstream_error\"}}\n\n";
        assert_eq!(judged(200, "{}", Form::Text, true), End::Whole);
        assert_eq!(judged(200, "{", Form::Text, false), End::BrokenOff);
        assert_eq!(
            judged(200, "data: [DONE]\n\n", Form::Stream, true),
            End::Whole
        );
        assert_eq!(judged(200, error, Form::Stream, true), End::Cut);
        let refused = judged(
            502,
            r#"{"error":{"code":"upstream_error"}}"#,
            Form::Text,
            true,
        );
        assert_eq!(refused, End::Refused(502, "upstream_error".to_owned()));
        for (status, text, form, whole) in [
            (200, error, Form::Stream, false),
            (200, "data: 1\n\n", Form::Stream, true),
            (200, "{", Form::Text, true),
            (502, "<html>", Form::Text, true),
            (502, "{", Form::Text, false),
        ] {
            assert!(
                matches!(judged(status, text, form, whole), End::Wrong(_)),
                "{text}"
            );
        }
    }
}
