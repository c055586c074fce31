//! Multipart bodies: looked into until the model is known, then streamed up, watched to the end.

use super::body::{next_chunk, too_large};
use super::context::Context;
use super::overload::more_room;
use super::request::Refusal;
use crate::downstream::unread::{Collected, Piece, splice};
use crate::limit::overload::Claim;
use crate::rejection::{Code, Rejection};
use crate::wire::multipart::{Fault, Field, ModelField, MultipartScan};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use pingora::proxy::Session;

/// A multipart body on its way.
pub struct Upload {
    scan: MultipartScan,
    model: ModelField,
    begun: Vec<Piece>,
    /// Bytes that pass the filter for the second time, and were judged the first time.
    judged: u64,
    /// Bytes of the client's body so far.
    seen: u64,
    limit: u64,
    length: Option<u64>,
    moved: bool,
}

impl Upload {
    /// The model that the form names.
    pub fn model(&self) -> &str {
        &self.model.value
    }

    /// What the form is called upstream.
    pub fn content_type(&self) -> &str {
        self.scan.content_type()
    }

    /// How many answers are wanted, as far as the form has been read.
    pub fn answers(&self) -> u64 {
        self.scan.answers()
    }

    /// The size of the images that are wanted, as far as the form has been read.
    pub fn size(&self) -> Option<&str> {
        self.scan.size()
    }

    /// The length of the body in bytes: as it was announced, or as much of it as has come.
    pub fn bytes(&self) -> u64 {
        self.length.unwrap_or(0).max(self.seen)
    }

    /// Whether the body has come to its end: no provider can begin before that.
    pub fn is_whole(&self) -> bool {
        self.scan.ended()
    }

    /// Whether the body may still be sent from its beginning.
    pub fn repeatable(&self) -> bool {
        !self.moved
    }

    /// Readies the body for an attempt: what goes up first, and its length where that is known.
    pub fn begin(&mut self, upstream_model: &str) -> (Vec<Piece>, Option<u64>) {
        let old = self.model.span.end - self.model.span.start;
        let mut pieces = self.begun.clone();
        let mut length = self.length;
        if self.model.value != upstream_model {
            let new = Bytes::copy_from_slice(upstream_model.as_bytes());
            length = length.map(|length| length - old + new.len() as u64);
            pieces = splice(pieces, self.model.span.clone(), new);
        }
        self.judged = pieces.iter().map(Piece::len).sum();
        (pieces, length)
    }

    /// Watches what goes up.
    ///
    /// # Errors
    /// A second model, or too much of a body: the request must not be completed.
    pub fn pass(&mut self, chunk: &[u8]) -> Result<(), Rejection> {
        self.moved = true;
        let known = usize::try_from(self.judged)
            .unwrap_or(usize::MAX)
            .min(chunk.len());
        self.judged -= known as u64;
        let fresh = chunk.get(known..).unwrap_or_default();
        self.seen += fresh.len() as u64;
        if self.seen > self.limit {
            return Err(too_large(self.limit));
        }
        self.scan.push(fresh).map_err(fault)
    }
}

/// Reads a form until its model is known. What is held of it in memory is added to the claim.
///
/// # Errors
/// A refusal, or that the client is gone.
pub async fn open(
    session: &mut Session,
    ctx: &Context,
    length: Option<u64>,
    claim: &mut Claim,
) -> Result<Upload, Refusal> {
    let limit = ctx.snapshot.body_limit;
    let mut types = session.req_header().headers.get_all(CONTENT_TYPE).iter();
    let content_type = match (types.next(), types.next()) {
        (Some(only), None) => only.to_str().unwrap_or_default(),
        _ => "",
    };
    let Some(mut scan) = MultipartScan::new(content_type) else {
        return Err(Rejection::new(
            Code::InvalidRequest,
            "This endpoint takes multipart/form-data with one plain boundary; the Content-Type says otherwise.",
        )
        .into());
    };
    let mut begun = Collected::default();
    let model = loop {
        if let Some(model) = scan.model() {
            if model.value.is_empty() {
                return Err(missing_model().into());
            }
            break model.clone();
        }
        let chunk = match next_chunk(session).await? {
            Some(chunk) if !scan.ended() => chunk,
            _ => return Err(missing_model().into()),
        };
        if begun.len() + chunk.len() as u64 > limit {
            return Err(too_large(limit).into());
        }
        scan.push(&chunk).map_err(fault)?;
        let held = Collected::in_memory(begun.len() + chunk.len() as u64);
        more_room(claim, held - Collected::in_memory(begun.len()))?;
        begun.push(chunk).map_err(|error| {
            log::error!("cannot spool an upload: {error}");
            Rejection::new(
                Code::TemporarilyUnavailable,
                "The upload cannot be stored right now. Try again, with the field 'model' before the file.",
            )
        })?;
    };
    Ok(Upload {
        scan,
        model,
        judged: 0,
        seen: begun.len(),
        begun: begun.pieces(),
        limit,
        length,
        moved: false,
    })
}

fn missing_model() -> Rejection {
    Rejection::new(
        Code::MissingRequiredParameter,
        "The form has no field 'model', or an empty one.",
    )
    .param("model")
}

fn fault(fault: Fault) -> Rejection {
    let (code, message, field) = match fault {
        Fault::Repeated(field) => (
            Code::DuplicateField,
            format!(
                "The form has the field '{0}' twice; send it once.",
                field.as_str()
            ),
            field,
        ),
        Fault::Variant(field) => (
            Code::DuplicateField,
            format!(
                "The form has the field '{0}' in another spelling; send it once, as `{0}`.",
                field.as_str()
            ),
            field,
        ),
        Fault::TooLong => (
            Code::InvalidValue,
            "A part's header or the model's name is too long.".to_owned(),
            Field::Model,
        ),
        Fault::BadValue(Field::N) => (
            Code::InvalidValue,
            "The field 'n' must be a whole number.".to_owned(),
            Field::N,
        ),
        Fault::BadValue(field) => (
            Code::InvalidValue,
            format!(
                "The field '{}' has characters that it cannot have.",
                field.as_str()
            ),
            field,
        ),
        Fault::Malformed => (
            Code::InvalidRequest,
            "The body is not multipart with the boundary that its Content-Type names.".to_owned(),
            Field::Model,
        ),
    };
    Rejection::new(code, message).param(field.as_str())
}
