//! One chat request of a [`Wish`], and whether its answer is whole.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::pool::Pool;
use crate::Result;
use crate::bench::chat;
use crate::ledger::site::MODEL;
use crate::ledger::wish::{Kind, Wish};
use crate::target::{Answer, request};

/// How long one answer may take, beside what the wish asks to wait.
const PATIENCE: Duration = Duration::from_secs(15);

/// The end marker of a stream.
const DONE: &str = "data: [DONE]\n\n";

/// Asks for what a wish says; gives when the first byte came, or what is wrong.
pub async fn ask(pool: &Pool, key: &str, wish: Wish) -> Result<Instant> {
    ask_of(pool, key, MODEL, wish).await
}

/// The same, of another model.
pub async fn ask_of(pool: &Pool, key: &str, model: &str, wish: Wish) -> Result<Instant> {
    let bytes = bytes(pool, key, model, wish);
    let patience = PATIENCE + lasts(wish);
    let mut answer = Vec::with_capacity(1024);
    let answered = timeout(patience, pool.exchange(&bytes, &mut answer))
        .await
        .map_err(|_| format!("no whole answer within {patience:?}"))?;
    let answered = match (answered, wish.kind) {
        (Ok(answered), _) => answered,
        (Err(error), Kind::Stream(_)) => {
            return Err(format!("{error}, {} bytes of a stream", answer.len()).into());
        }
        (Err(error), _) => return Err(error),
    };
    let text = String::from_utf8_lossy(&answer);
    match answered.status == 200 && is_whole(&text, wish) {
        true => Ok(answered.first_byte),
        false => {
            let status = answered.status;
            Err(format!(
                "status {status} with {} bytes: {}",
                text.len(),
                end_of(&text)
            )
            .into())
        }
    }
}

/// The bytes of a request.
pub fn bytes(pool: &Pool, key: &str, model: &str, wish: Wish) -> Vec<u8> {
    let body = body(model, wish);
    request(&chat(pool.front()), key, Answer::Whole, body.as_bytes())
}

/// The body of a request.
pub fn body(model: &str, wish: Wish) -> String {
    let stream = match wish.kind {
        Kind::Stream(_) => r#""stream":true,"stream_options":{"include_usage":true},"#,
        Kind::Whole | Kind::Picture => "",
    };
    format!(
        r#"{{"model":"{model}",{stream}"max_tokens":500,"messages":[{{"role":"user","content":"Say what a tollgate is. {}"}}]}}"#,
        wish.mark()
    )
}

/// How long the provider takes for it.
fn lasts(wish: Wish) -> Duration {
    let waits = match wish.kind {
        Kind::Stream(events) => events,
        Kind::Whole | Kind::Picture => 1,
    };
    Duration::from_millis(wish.wait_ms.saturating_mul(waits))
}

/// Whether an answer is all that was asked for: of a stream each event, the usage and the end marker, once.
fn is_whole(text: &str, wish: Wish) -> bool {
    let usage = text.matches(r#""usage":{"#).count() == 1;
    match wish.kind {
        Kind::Stream(events) => {
            let pieces = text.matches(r#""delta":{"content":"#).count() as u64;
            usage && pieces == events && text.matches(DONE).count() == 1 && text.ends_with(DONE)
        }
        Kind::Whole => usage && text.contains("Counted."),
        Kind::Picture => text.contains("pictures.example"),
    }
}

/// The end of a text: there it shows what is missing.
fn end_of(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(200);
    text.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(kind: Kind) -> Wish {
        Wish {
            number: 7,
            kind,
            wait_ms: 100,
        }
    }

    #[test]
    fn a_stream_is_whole_with_its_end_and_no_sooner() {
        let stream = wish(Kind::Stream(2));
        let event = "data: {\"choices\":[{\"delta\":{\"content\":\"word \"}}]}\n\n";
        let usage = "data: {\"usage\":{}}\n\n";
        assert!(is_whole(&format!("{event}{event}{usage}{DONE}"), stream));
        for wrong in [
            format!("{event}{event}{usage}"),
            format!("{event}{usage}{DONE}"),
            format!("{event}{event}{DONE}"),
            format!("{event}{event}{usage}{DONE}{DONE}"),
        ] {
            assert!(!is_whole(&wrong, stream), "{wrong}");
        }
        assert!(!is_whole("{}", wish(Kind::Whole)));
    }

    #[test]
    fn the_wish_is_in_the_body_and_its_time_is_waited_for() {
        let stream = wish(Kind::Stream(20));
        assert_eq!(Wish::find(body("m", stream).as_bytes()), Some(stream));
        assert_eq!(lasts(stream), Duration::from_secs(2));
        assert_eq!(lasts(wish(Kind::Whole)), Duration::from_millis(100));
    }
}
