//! From the header to the permission: route, authenticate, read the body, admit.

use super::body::{self, announced_length, read_whole, welcome};
use super::charge::{charged, identified, not_a_flood};
use super::context::{Body, Context, Forward};
use super::snapshot::Snapshot;
use super::{local, overload, own, upload};
use crate::admit::{Permit, permit, unsupported};
use crate::auth::network::client_address;
use crate::catalog::Upstream;
use crate::downstream::Fault;
use crate::rejection::{Code, Rejection, quoted};
use crate::route::{self, Endpoint, Miss, Operation};
use crate::wire::request::{Call, CallError};
use http::Method;
use pingora::BError;
use pingora::http::RequestHeader;
use pingora::proxy::Session;

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
    let header = session.req_header();
    let path = plain_path(header)?;
    if let Err(rejection) = faulty(ctx) {
        // The route is taken for the words of its surface only.
        let _ = routed(&header.method, path, ctx);
        return Err(rejection.into());
    }
    if overflowing(ctx) && !overload::exempt(&header.method, path) {
        let _ = routed(&header.method, path, ctx);
        return Err(overload::no_connection().into());
    }
    if let Some(public) = local::Public::at(&header.method, path) {
        local::public(session, ctx, gateway, public).await?;
        return Ok(Step::Answered);
    }
    match overload::in_flight(gateway) {
        Ok(claim) => ctx.in_flight = Some(claim),
        Err(rejection) => {
            let _ = routed(&header.method, path, ctx);
            return Err(rejection.into());
        }
    }
    let endpoint = routed(&header.method, path, ctx)?;
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
    // A JSON body is held whole: all of it has its place before any of it is read.
    let whole = match endpoint.operation.body() {
        route::Body::Multipart => 0,
        _ => length.unwrap_or(0),
    };
    let mut claim = overload::room(gateway, whole)?;
    ctx.welcomed = welcome(session).await?;
    let body = match endpoint.operation.body() {
        route::Body::Multipart => {
            let upload = upload::open(session, ctx, length, &mut claim).await?;
            if let Some(exchange) = &ctx.exchange {
                exchange.hold(claim, None);
            }
            Body::Upload(Box::new(upload))
        }
        _ => {
            let limit = snapshot.body_limit;
            let bytes = read_whole(session, length, limit, &mut claim).await?;
            if let Some(exchange) = &ctx.exchange {
                exchange.hold(claim, Some(&bytes));
            }
            let call = body::call(&bytes).await.map_err(refused_call)?;
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

/// Whether the connection is one too many.
fn overflowing(ctx: &Context) -> bool {
    ctx.exchange
        .as_ref()
        .is_some_and(|exchange| exchange.fault == Some(Fault::Overloaded))
}

/// What was wrong with the request before anyone looked at what it asks for.
fn faulty(ctx: &Context) -> Result<(), Rejection> {
    let (code, message) = match ctx.exchange.as_ref().and_then(|exchange| exchange.fault) {
        None | Some(Fault::Overloaded) => return Ok(()),
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
fn plain_path(header: &RequestHeader) -> Result<&str, Rejection> {
    let raw = header.raw_path();
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
    match std::str::from_utf8(path) {
        Ok(path) if path.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(path),
        _ => Err(Rejection::new(
            Code::InvalidRequest,
            "The request target has characters that must be percent-encoded.",
        )),
    }
}

fn routed(method: &Method, path: &str, ctx: &mut Context) -> Result<Endpoint, Rejection> {
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
