//! Answers that the gateway gives itself: header with a length, body, end; the connection is kept.

use super::context::Context;
use super::headers::EXPOSED;
use crate::downstream::Fault;
use crate::record::event::Outcome;
use crate::rejection::{Code, Rejection};
use crate::route::Api;
use crate::wire::error::{Dialect, Envelope};
use crate::wire::head::{Facts, Heads};
use crate::wire::rates;
use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, CONTENT_TYPE, EXPECT, ORIGIN,
    TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::LazyLock;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};
use tokio::time::timeout;

/// So much of an unread body is read and dropped, so that the connection can be kept and the
/// client hears the answer; more would be a gift to whoever sends it.
const DRAIN_BYTES: usize = 256 << 10;
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Refuses a request.
///
/// # Errors
/// The client is gone.
pub async fn reject(session: &mut Session, ctx: &mut Context, rejection: Rejection) -> Result<()> {
    let fallback = Dialect::default();
    let dialect = ctx.dialect().unwrap_or(&fallback);
    let Envelope {
        status,
        headers,
        retry,
        body,
    } = dialect.envelope(&rejection, ctx.api, ctx.request_id.as_str());
    ctx.outcome = Some(Outcome::Rejected(rejection.code));
    if let Some(exchange) = &ctx.exchange
        && matches!(rejection.code, Code::InvalidJson | Code::InvalidRequest)
        && session.req_header().headers.contains_key(TRANSFER_ENCODING)
    {
        // Pingora reads chunks leniently: where a body ends that makes no sense, and another request
        // begins, may look different to a proxy in front.
        exchange.close_after();
    }
    send(session, ctx, status, &headers, retry, body.into()).await
}

/// Gives an answer with a JSON body.
///
/// # Errors
/// The client is gone.
pub async fn answer(
    session: &mut Session,
    ctx: &mut Context,
    status: u16,
    headers: &[(&'static str, &str)],
    body: Bytes,
) -> Result<()> {
    send(session, ctx, status, headers, None, body).await
}

async fn send(
    session: &mut Session,
    ctx: &mut Context,
    status: u16,
    headers: &[(&'static str, &str)],
    retry: Option<(u64, u64)>,
    body: Bytes,
) -> Result<()> {
    drain(session, ctx).await;
    if let (None, Some(caller)) = (ctx.reading, &ctx.caller) {
        // Nothing was charged; the caller is told all the same.
        let limiter = ctx.snapshot.limiter.clone();
        let limits = &caller.key().plan.limits;
        ctx.reading = Some(limiter.read(caller.subject(), limits).await);
        ctx.asked = SystemTime::now();
    }
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = StatusCode::from_u16(status)
        .map_err(|error| Error::because(ErrorType::InternalError, "status", error))?;
    parts.headers = head(ctx, Some(body.len() as u64), retry);
    let map = &mut parts.headers;
    match body.is_empty() {
        true => map.remove(CONTENT_TYPE),
        false => map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json")),
    };
    allow_browsers(session, map);
    for (name, value) in headers {
        let value = HeaderValue::from_str(value)
            .map_err(|error| Error::because(ErrorType::InternalError, *name, error))?;
        map.insert(*name, value);
    }
    ctx.first_byte = Some(Instant::now());
    let bare = body.is_empty() || session.req_header().method == Method::HEAD;
    session
        .write_response_header(Box::new(ResponseHeader::from(parts)), bare)
        .await?;
    if !bare {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// The head of an answer, as [`Heads::head`] has it: the request's id, where the caller's limits stand, if there is a
/// caller, and the rest where it is known.
pub fn head(ctx: &Context, length: Option<u64>, retry: Option<(u64, u64)>) -> HeaderMap {
    /// Of what lies outside of every mount.
    static NOWHERE: LazyLock<Heads> = LazyLock::new(|| {
        Heads::new(rates::Style {
            api: Api::OpenAi,
            reset: rates::Reset::default(),
            ietf: false,
        })
    });
    let surface = ctx.surface.and_then(|at| ctx.snapshot.surfaces.get(at));
    let heads = surface.map_or(&*NOWHERE, |surface| &surface.heads);
    heads.head(&Facts {
        id: &ctx.request_id,
        api: ctx.api,
        reading: ctx
            .reading
            .filter(|_| surface.is_some())
            .unwrap_or_default(),
        now: ctx.asked,
        length,
        retry,
    })
}

/// Lets a page of any origin read the answer, if a browser asks: keys are what protects it.
pub fn allow_browsers(session: &Session, map: &mut HeaderMap) {
    if session.req_header().headers.contains_key(ORIGIN) {
        map.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        map.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(EXPOSED),
        );
    }
}

async fn drain(session: &mut Session, ctx: &Context) {
    // A client that waits for `100 Continue` has sent nothing and will not, once it is refused.
    if session.req_header().headers.contains_key(EXPECT) && !ctx.welcomed {
        return;
    }
    if let Some(exchange) = &ctx.exchange {
        if exchange.fault == Some(Fault::Overloaded) {
            // The connection is closed behind the answer.
            return;
        }
        exchange.unread(Vec::new());
    }
    if session.as_downstream_mut().is_body_done() {
        return;
    }
    let read = async {
        let mut total = 0;
        while let Ok(Some(chunk)) = session.read_request_body().await {
            total += chunk.len();
            if total > DRAIN_BYTES || session.as_downstream_mut().is_body_done() {
                break;
            }
        }
    };
    let mut read = pin!(read);
    // Most bodies came with their header: no timer for those.
    if !poll_fn(|context| Poll::Ready(read.as_mut().poll(context).is_ready())).await {
        let _ = timeout(DRAIN_TIME, read).await;
    }
}

/// The event that ends a stream which cannot go on, in the form of its protocol.
pub fn terminal_event(
    ctx: &Context,
    form: crate::meter::Form,
    rejection: &Rejection,
    events: u64,
) -> Bytes {
    use crate::meter::Form;
    use serde_json::json;
    let fallback = Dialect::default();
    let dialect = ctx.dialect().unwrap_or(&fallback);
    let id = ctx.request_id.as_str();
    let row = rejection.code.row();
    let text = match form {
        Form::AnthropicSse => {
            let error = dialect.body(rejection, Api::Anthropic, id);
            format!("event: error\ndata: {error}\n\n")
        }
        Form::ResponsesSse => {
            let model = ctx.model.as_ref().map(|model| &*model.id);
            let created = ctx
                .time
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs());
            let failed = json!({
                "type": "response.failed",
                "sequence_number": events,
                "response": {
                    "id": format!("resp_{}", id.trim_start_matches("req_")),
                    "object": "response",
                    "created_at": created,
                    "status": "failed",
                    "error": { "code": row.code, "message": rejection.message },
                    "incomplete_details": null,
                    "model": model,
                    "output": [],
                },
            });
            format!("event: response.failed\ndata: {failed}\n\n")
        }
        Form::ChatSse | Form::OtherSse | Form::Json | Form::Opaque => {
            let error = dialect.body(rejection, Api::OpenAi, id);
            format!("data: {error}\n\n")
        }
    };
    text.into()
}
