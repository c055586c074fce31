//! The client's body: its length, its pieces, all of it.

use super::failure::ending;
use super::overload;
use super::request::Refusal;
use crate::downstream::session::{BODY_SILENCE, CUT};
use crate::limit::overload::Claim;
use crate::rejection::{Code, Rejection};
use crate::wire::request::{Call, CallError, read_call};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora::proxy::Session;
use pingora::{BError, ErrorType};
use tokio::task::{spawn_blocking, yield_now};

/// After so many bytes of a body another request has its turn: reading them takes some tenth of a millisecond, and so
/// does looking through them.
const TURN: usize = 256 << 10;

/// The length that the header tells.
///
/// # Errors
/// It is above `limit`, or no number.
pub fn announced_length(session: &Session, limit: u64) -> Result<Option<u64>, Rejection> {
    let Some(value) = session.req_header().headers.get(CONTENT_LENGTH) else {
        return Ok(None);
    };
    let length = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    match length {
        Some(length) if length > limit => Err(too_large(limit)),
        Some(length) => Ok(Some(length)),
        None => Err(Rejection::new(
            Code::InvalidRequest,
            "Content-Length is not a number.",
        )),
    }
}

/// Says `100 Continue` to a client that waits for it, which Pingora never does; true if it did.
///
/// # Errors
/// The client is gone.
pub async fn welcome(session: &mut Session) -> Result<bool, BError> {
    let waits = session
        .req_header()
        .headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if waits {
        session
            .as_downstream_mut()
            .write_continue_response()
            .await?;
    }
    Ok(waits)
}

/// The next chunk of the body; `None` at its end.
///
/// # Errors
/// A refusal, or that the client is gone.
pub async fn next_chunk(session: &mut Session) -> Result<Option<Bytes>, Refusal> {
    session.read_request_body().await.map_err(|error| {
        if *error.etype() == ErrorType::ReadTimedout {
            return body_overdue().into();
        }
        if *error.etype() == CUT {
            return ending().into();
        }
        if error.etype().as_str() == "InvalidChunk" {
            let message = "The chunked body is malformed.";
            return Rejection::new(Code::InvalidRequest, message).into();
        }
        error.into_down().into()
    })
}

/// The refusal of a client that stops in the middle of its body.
pub fn body_overdue() -> Rejection {
    Rejection::new(
        Code::RequestTimeout,
        format!(
            "The body did not arrive in time: nothing came for {} s, or hardly anything.",
            BODY_SILENCE.as_secs()
        ),
    )
}

/// Reads a body whole. The claim has room for the announced length; without one it grows with what comes.
///
/// # Errors
/// A refusal, or that the client is gone.
pub async fn read_whole(
    session: &mut Session,
    announced: Option<u64>,
    limit: u64,
    claim: &mut Claim,
) -> Result<Bytes, Refusal> {
    let Some(first) = next_chunk(session).await? else {
        return Ok(Bytes::new());
    };
    // Nearly every request: one piece, not copied again.
    if announced == Some(first.len() as u64) {
        return Ok(first);
    }
    let mut whole = Whole::new(announced);
    let (mut next, mut length, mut turn) = (Some(first), 0, 0);
    while let Some(piece) = next {
        length += piece.len() as u64;
        if length > limit {
            return Err(too_large(limit).into());
        }
        if announced.is_none() {
            overload::more_room(claim, piece.len() as u64)?;
        }
        turn += piece.len();
        whole.push(piece);
        if turn >= TURN {
            turn = 0;
            yield_now().await;
        }
        next = next_chunk(session).await?;
    }
    Ok(whole.finish())
}

/// A body that comes in pieces.
enum Whole {
    /// Its length was told, and its claim is for all of it. The memory is asked for at once, but the system gives it only
    /// as it is written to: no more is taken than has come.
    Told(BytesMut),
    /// Joined once, at the end: a buffer that grew with the body would hold it up to three times while it grows, and an
    /// endless body could make it do so.
    Untold(Vec<Bytes>),
}

impl Whole {
    fn new(announced: Option<u64>) -> Whole {
        match announced.and_then(|length| usize::try_from(length).ok()) {
            Some(length) => Whole::Told(BytesMut::with_capacity(length)),
            None => Whole::Untold(Vec::new()),
        }
    }

    fn push(&mut self, piece: Bytes) {
        match self {
            Whole::Told(whole) => whole.extend_from_slice(&piece),
            Whole::Untold(pieces) => pieces.push(piece),
        }
    }

    fn finish(self) -> Bytes {
        match self {
            Whole::Told(whole) => whole.freeze(),
            Whole::Untold(mut pieces) if pieces.len() < 2 => pieces.pop().unwrap_or_default(),
            Whole::Untold(pieces) => {
                let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
                for piece in pieces {
                    whole.extend_from_slice(&piece);
                }
                whole.freeze()
            }
        }
    }
}

/// Reads what a body asks for: a long one on a thread of its own, since other requests of this one wait meanwhile.
///
/// # Errors
/// See [`CallError`].
pub async fn call(body: &Bytes) -> Result<Call, CallError> {
    if body.len() <= TURN {
        return read_call(body);
    }
    let own = body.clone();
    match spawn_blocking(move || read_call(&own)).await {
        Ok(call) => call,
        // The runtime is ending.
        Err(_) => read_call(body),
    }
}

/// The refusal of a body above the limit.
pub fn too_large(limit: u64) -> Rejection {
    Rejection::new(
        Code::RequestTooLarge,
        format!("The request body is larger than the limit of {limit} bytes."),
    )
}
