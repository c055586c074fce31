//! From the header to the permission: route, authenticate, read the body, admit.

use super::charge::{charged, identified, not_a_flood};
use super::context::{Body, Context, Forward};
use super::failure::ending;
use super::snapshot::Snapshot;
use super::{local, own, upload};
use crate::admit::{Permit, permit, unsupported};
use crate::auth::network::client_address;
use crate::catalog::Upstream;
use crate::downstream::Fault;
use crate::downstream::session::{BODY_SILENCE, CUT};
use crate::rejection::{Code, Rejection, quoted};
use crate::route::{self, Endpoint, Miss, Operation};
use crate::wire::request::{Call, CallError, read_call};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora::proxy::Session;
use pingora::{BError, ErrorType};

/// Why a request does not go on.
pub enum Refusal {
    /// It is answered.
    Rejected(Rejection),
    /// There is no one left to answer.
    Gone(BError),
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Refusal::Rejected(rejection)
    }
}

impl From<BError> for Refusal {
    fn from(error: BError) -> Self {
        Refusal::Gone(error)
    }
}

/// What becomes of a request after its checks.
pub enum Step {
    /// It was answered here.
    Answered,
    /// It goes upstream.
    Forward(Box<Forward>),
}

/// Takes a request through every check.
///
/// # Errors
/// [`Refusal`].
pub async fn check(
    session: &mut Session,
    ctx: &mut Context,
    gateway: &super::snapshot::Gateway,
) -> Result<Step, Refusal> {
    let snapshot = ctx.snapshot.clone();
    ctx.client = ctx
        .exchange
        .as_ref()
        .and_then(|exchange| exchange.peer)
        .map(|peer| {
            client_address(
                peer.ip(),
                &session.req_header().headers,
                &snapshot.trusted_proxies,
            )
        });
    let path = plain_path(session)?;
    if let Err(rejection) = faulty(ctx) {
        // The route is taken for the words of its surface only.
        let _ = routed(session, ctx, &path);
        return Err(rejection.into());
    }
    if local::public(session, ctx, gateway, &path).await? {
        return Ok(Step::Answered);
    }
    let endpoint = routed(session, ctx, &path)?;
    if endpoint.operation == Operation::Catalog {
        not_a_flood(ctx)?;
        local::catalog(session, ctx).await?;
        return Ok(Step::Answered);
    }
    let caller = match identified(session, ctx) {
        Ok(caller) => caller,
        Err(refused) => {
            not_a_flood(ctx)?;
            return Err(refused.into());
        }
    };
    if caller.is_anonymous() {
        // Before its plan is asked for anything, which may be elsewhere.
        not_a_flood(ctx)?;
    }
    ctx.caller = Some(caller.clone());
    if endpoint.operation == Operation::Usage {
        own::usage(session, ctx, &caller).await?;
        return Ok(Step::Answered);
    }
    if endpoint.operation.body() == route::Body::None {
        let asked = endpoint.operation == Operation::ListModels;
        if let Some(found) = snapshot.catalog.catch_all_alone().filter(|_| asked)
            && let Ok(permit) = permit(&caller, found)
            && served(&snapshot, &permit, endpoint.operation).is_ok()
        {
            return charged(
                session,
                ctx,
                caller,
                permit,
                endpoint.operation,
                Body::Empty,
            )
            .await;
        }
        local::models(session, ctx, &endpoint, &caller).await?;
        return Ok(Step::Answered);
    }
    let length = announced_length(session, snapshot.body_limit)?;
    ctx.welcomed = welcome(session).await?;
    let body = match endpoint.operation.body() {
        route::Body::Multipart => {
            let upload = upload::open(session, ctx, length).await?;
            Body::Upload(Box::new(upload))
        }
        _ => {
            let bytes = read_whole(session, length, snapshot.body_limit).await?;
            let call = read_call(&bytes).map_err(refused_call)?;
            required(&call, endpoint.operation)?;
            Body::Json { call, bytes }
        }
    };
    let name = match &body {
        Body::Json { call, .. } => &call.model,
        Body::Upload(upload) => upload.model(),
        Body::Empty => "",
    };
    let found = snapshot.catalog.find(name)?;
    // For the log: what was asked for, even if it is refused now.
    ctx.model = Some(found.clone());
    let permit = permit(&caller, found)?;
    served(&snapshot, &permit, endpoint.operation)?;
    charged(session, ctx, caller, permit, endpoint.operation, body).await
}

/// Checks that some upstream of the model speaks the endpoint's protocol.
fn served(snapshot: &Snapshot, permit: &Permit, operation: Operation) -> Result<(), Rejection> {
    let model = permit.model();
    let speaks = |upstream: &Upstream| {
        let provider = snapshot.providers.get(upstream.provider);
        provider.is_some_and(|(provider, _)| provider.path(operation).is_some())
    };
    match model.model.upstreams.iter().any(speaks) {
        true => Ok(()),
        false => Err(unsupported(&model.id, operation)),
    }
}

/// What was wrong with the request before anyone looked at what it asks for.
fn faulty(ctx: &Context) -> Result<(), Rejection> {
    let (code, message) = match ctx.exchange.as_ref().and_then(|exchange| exchange.fault) {
        None => return Ok(()),
        Some(Fault::Framing) => (
            Code::InvalidRequest,
            "The request's framing is ambiguous: send either one Content-Length or Transfer-Encoding: chunked, and CRLF line ends.",
        ),
        Some(Fault::Host) => (
            Code::InvalidRequest,
            "The request needs one Host header, with a host name and nothing else.",
        ),
        Some(Fault::HeaderTooLarge) => (
            Code::HeadersTooLarge,
            "The request's headers are too large, or too many.",
        ),
    };
    Err(Rejection::new(code, message))
}

/// The path as it came.
fn plain_path(session: &Session) -> Result<String, Rejection> {
    let raw = session.req_header().raw_path();
    // An absolute target names a host of its own; nothing here serves another host.
    if raw.first() != Some(&b'/') {
        return Err(Rejection::new(
            Code::InvalidRequest,
            "The request target must be a path.",
        ));
    }
    // Taken from the bytes that came, since a parsed URI may have been tidied up.
    let end = memchr::memchr2(b'?', b'#', raw).unwrap_or(raw.len());
    let path = raw.get(..end).unwrap_or_default();
    if !path.iter().all(u8::is_ascii_graphic) {
        return Err(Rejection::new(
            Code::InvalidRequest,
            "The request target has characters that must be percent-encoded.",
        ));
    }
    Ok(String::from_utf8_lossy(path).into_owned())
}

fn routed(session: &Session, ctx: &mut Context, path: &str) -> Result<Endpoint, Rejection> {
    let method = &session.req_header().method;
    match ctx.snapshot.router.route(method, path) {
        Ok(endpoint) => {
            ctx.surface = Some(endpoint.surface);
            ctx.api = endpoint.api;
            ctx.endpoint = Some(endpoint.clone());
            Ok(endpoint)
        }
        Err(Miss::Method(endpoint)) => {
            ctx.surface = Some(endpoint.surface);
            ctx.api = endpoint.api;
            let allow = endpoint.operation.allow();
            Err(Rejection {
                allow: Some(allow),
                ..Rejection::new(
                    Code::MethodNotAllowed,
                    format!(
                        "{} is not allowed here; use {allow}.",
                        quoted(method.as_str())
                    ),
                )
            })
        }
        Err(Miss::Path(surface)) => {
            ctx.surface = surface;
            if let Some(surface) = surface {
                ctx.api = ctx.snapshot.router.api(surface);
            }
            Err(Rejection::new(
                Code::NotFound,
                format!("No endpoint is at {}. Check the base URL.", quoted(path)),
            ))
        }
    }
}

fn announced_length(session: &Session, limit: u64) -> Result<Option<u64>, Rejection> {
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
async fn welcome(session: &mut Session) -> Result<bool, BError> {
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
            "The body did not arrive: nothing came for {} s.",
            BODY_SILENCE.as_secs()
        ),
    )
}

async fn read_whole(
    session: &mut Session,
    announced: Option<u64>,
    limit: u64,
) -> Result<Bytes, Refusal> {
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut length = 0;
    while let Some(piece) = next_chunk(session).await? {
        length += piece.len() as u64;
        if length > limit {
            return Err(too_large(limit).into());
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

fn required(call: &Call, operation: Operation) -> Result<(), Rejection> {
    let missing = match operation {
        Operation::ChatCompletions if !call.has_messages && !call.has_input => "messages",
        Operation::Messages | Operation::CountTokens if !call.has_messages => "messages",
        Operation::Embeddings | Operation::AudioSpeech | Operation::Moderations
            if !call.has_input =>
        {
            "input"
        }
        _ => return Ok(()),
    };
    Err(missing_parameter(missing))
}

fn missing_parameter(name: &'static str) -> Rejection {
    Rejection::new(
        Code::MissingRequiredParameter,
        format!("The field '{name}' is missing."),
    )
    .param(name)
}

fn refused_call(error: CallError) -> Rejection {
    match error {
        CallError::Json(error) => Rejection::new(
            Code::InvalidJson,
            format!("The body is not a valid JSON object: {error}."),
        ),
        CallError::Repeated { field, found } => Rejection::new(
            Code::DuplicateField,
            format!(
                "The field '{field}' appears twice, or in another spelling ('{}'). Send it once, as `{field}`.",
                quoted(&found)
            ),
        )
        .param(field),
        CallError::MissingModel => missing_parameter("model"),
        CallError::WrongKind { field, expected } => Rejection::new(
            Code::InvalidValue,
            format!("The field '{field}' must be {expected}."),
        )
        .param(field),
        CallError::ControlCharacter { field } => Rejection::new(
            Code::InvalidValue,
            format!("The field '{field}' has control characters."),
        )
        .param(field),
    }
}
