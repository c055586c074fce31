//! When forwarding fails: what the client hears, before or in the middle of an answer.

use super::body::body_overdue;
use super::charge::settle;
use super::context::Context;
use super::overload;
use super::respond::{reject, terminal_event};
use super::response::{broke_off, cut_short};
use super::snapshot::Gateway;
use crate::downstream::session::{CUT, FIRST_BYTE_OVERDUE, OVERDUE, STALLED};
use crate::meter::{Form, Meter};
use crate::record::event::Outcome;
use crate::record::metrics::AttemptEnd;
use crate::rejection::{Code, Rejection};
use crate::upstream::peer::exhausted;
use pingora::proxy::{FailToProxy, Session};
use pingora::{Error, ErrorSource, ErrorType};

/// Ends a failed request in the best way that is still open.
pub async fn answer(
    session: &mut Session,
    error: &Error,
    ctx: &mut Context,
    gateway: &Gateway,
) -> FailToProxy {
    if finished(ctx) {
        settle(ctx, None);
        // The provider said all it had to say, and only then broke off or lingered: the client has
        // a whole answer, be it the provider's own error.
        ctx.outcome = Some(if told_failure(ctx) {
            broke_off(ctx, gateway);
            Outcome::Rejected(Code::UpstreamError)
        } else {
            Outcome::Answered
        });
        // If this fails the client is gone, with its answer.
        let _ = session.write_response_body(None, true).await;
        return FailToProxy {
            error_code: 200,
            can_reuse_downstream: false,
        };
    }
    let prepared = ctx.rejection.take();
    let Some(rejection) = prepared.or_else(|| rejection(error, ctx)) else {
        ctx.outcome = Some(Outcome::ClientGone);
        return FailToProxy {
            error_code: 0,
            can_reuse_downstream: false,
        };
    };
    tell(error, ctx, &rejection);
    settle(ctx, Some(rejection.code));
    ctx.outcome = Some(Outcome::Rejected(rejection.code));
    let status = rejection.code.row().status;
    let written = match session.response_written() {
        None => reject(session, ctx, rejection).await.is_ok(),
        Some(_) => {
            end_stream(session, ctx, gateway, error, rejection).await;
            false
        }
    };
    FailToProxy {
        error_code: status,
        can_reuse_downstream: written,
    }
}

/// Whether the client has the whole of a stream, though its connection did not end as it should.
fn finished(ctx: &Context) -> bool {
    ctx.forward.as_ref().is_some_and(|forward| {
        // Other events have no end marker: only the connection tells.
        let ended = |meter: &Meter| meter.form() != Form::OtherSse && meter.ended();
        forward.stream.is_some() && forward.meter.as_ref().is_some_and(ended)
    })
}

/// Whether the provider has told of a failure in its own stream.
fn told_failure(ctx: &Context) -> bool {
    let meter = ctx
        .forward
        .as_ref()
        .and_then(|forward| forward.meter.as_ref());
    meter.is_some_and(Meter::failed)
}

/// What a failure of Pingora's is to the client; `None` if it is the client that failed.
fn rejection(error: &Error, ctx: &Context) -> Option<Rejection> {
    let etype = error.etype();
    let provider = match &ctx.model {
        Some(model) => format!("The provider of model '{}'", model.id),
        None => "The provider".to_owned(),
    };
    if *etype == ErrorType::ReadTimedout && *error.esource() == ErrorSource::Downstream {
        return Some(body_overdue());
    }
    if *etype == FIRST_BYTE_OVERDUE {
        return Some(Rejection::new(
            Code::UpstreamTimeout,
            format!("{provider} did not answer in time. Try again, or ask for less."),
        ));
    }
    if *etype == STALLED {
        return Some(Rejection::new(
            Code::UpstreamTimeout,
            format!("{provider} stopped sending in the middle of its answer. Try again."),
        ));
    }
    if *etype == OVERDUE {
        return Some(Rejection::new(
            Code::UpstreamTimeout,
            format!("{provider} did not come to the end of its answer in time. Ask for less."),
        ));
    }
    if *etype == CUT {
        return Some(ending());
    }
    if exhausted(error) {
        return Some(overload::no_descriptor());
    }
    if *etype == ErrorType::FileReadError {
        return Some(Rejection::new(
            Code::TemporarilyUnavailable,
            "The upload could not be read back. Try again.",
        ));
    }
    if *error.esource() == ErrorSource::Downstream {
        return None;
    }
    Some(match etype {
        ErrorType::ConnectTimedout
        | ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::ConnectProxyFailure
        | ErrorType::BindError
        | ErrorType::SocketError
        | ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::InvalidCert => Rejection::new(
            Code::UpstreamUnreachable,
            format!("{provider} could not be reached. Try again."),
        ),
        _ => Rejection::new(
            Code::UpstreamError,
            format!("{provider} broke off before it answered. Try again."),
        ),
    })
}

/// The refusal of a request that the process did not live to answer.
pub fn ending() -> Rejection {
    Rejection::new(
        Code::TemporarilyUnavailable,
        "The gateway is shutting down, and could not wait for the end of the answer. Try again.",
    )
}

/// Says it to the operator: once, with the cause, without anything that a client or provider wrote.
fn tell(error: &Error, ctx: &mut Context, rejection: &Rejection) {
    let Some(attempt) = ctx.attempt().filter(|_| rejection.code.is_upstreams()) else {
        return;
    };
    let provider = &attempt.provider.name;
    if exhausted(error) {
        log::warn!(
            "{} no file descriptor is left for a connection to provider {provider}",
            ctx.request_id
        );
        return;
    }
    log::warn!(
        "{} provider {provider}: {} ({})",
        ctx.request_id,
        rejection.code.as_str(),
        error.etype().as_str(),
    );
    // Most were told of when they failed.
    ctx.end_attempt(match rejection.code {
        Code::UpstreamTimeout => AttemptEnd::Timeout,
        _ => AttemptEnd::Broken,
    });
}

/// Ends a stream with an error that its client understands. Other answers are just broken off:
/// their length or their last chunk is missing, which every client notices.
async fn end_stream(
    session: &mut Session,
    ctx: &mut Context,
    gateway: &Gateway,
    error: &Error,
    rejection: Rejection,
) {
    let Some(forward) = &mut ctx.forward else {
        return;
    };
    let Some(meter) = forward.meter.as_mut().filter(|_| forward.stream.is_some()) else {
        return;
    };
    meter.discard_partial();
    gateway.metrics.broken_streams.inc();
    let (form, events) = (meter.form(), meter.events());
    let rejection = if [STALLED, OVERDUE, CUT].contains(error.etype()) {
        rejection
    } else {
        cut_short()
    };
    let event = terminal_event(ctx, form, &rejection, events);
    // The client may be gone as well; then there is no one to tell.
    let _ = session.write_response_body(Some(event), true).await;
}
