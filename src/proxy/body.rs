//! The client's body: its length, its pieces, all of it.

use super::overload;
use super::request::Refusal;
use crate::downstream::session::BODY_SILENCE;
use crate::limit::overload::Claim;
use crate::rejection::{Code, Rejection};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora::proxy::Session;
use pingora::{BError, ErrorType};

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
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut length = 0;
    while let Some(piece) = next_chunk(session).await? {
        length += piece.len() as u64;
        if length > limit {
            return Err(too_large(limit).into());
        }
        if announced.is_none() {
            overload::more_room(claim, piece.len() as u64)?;
        }
        // Nearly every request: one piece, not copied again.
        if announced == Some(piece.len() as u64) {
            return Ok(piece);
        }
        pieces.push(piece);
    }
    // Joined once, at the end: a buffer that grew with the body would hold it up to three times
    // while it grows, and an endless body could make it do so.
    match pieces.len() {
        0 | 1 => Ok(pieces.pop().unwrap_or_default()),
        _ => {
            let mut whole = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
            for piece in pieces {
                whole.extend_from_slice(&piece);
            }
            Ok(whole.freeze())
        }
    }
}

/// The refusal of a body above the limit.
pub fn too_large(limit: u64) -> Rejection {
    Rejection::new(
        Code::RequestTooLarge,
        format!("The request body is larger than the limit of {limit} bytes."),
    )
}
