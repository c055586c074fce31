//! What the gateway answers without any provider: health, status, preflights, the model lists.

use super::charge::not_a_flood;
use super::context::Context;
use super::headers::EXPOSED;
use super::request::Refusal;
use super::respond::answer;
use super::snapshot::Gateway;
use crate::admit::permit;
use crate::auth::Caller;
use crate::catalog::listing::{self, Detail};
use crate::catalog::{CATCH_ALL, Status};
use crate::record::access_log::rfc3339;
use crate::record::event::Outcome;
use crate::record::status::WINDOW_SECONDS;
use crate::rejection::{Code, Rejection, quoted};
use crate::route::{Endpoint, Operation};
use bytes::Bytes;
use http::Method;
use pingora::proxy::Session;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

/// What needs neither surface nor key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Public {
    /// `OPTIONS` of anything.
    Preflight,
    /// `HEAD /`: Claude Code asks this before anything else.
    Root,
    /// `/livez`.
    Live,
    /// `/readyz`.
    Ready,
    /// `/api/status`.
    Status,
}

impl Public {
    /// What is asked for here, if it is public.
    pub fn at(method: &Method, path: &str) -> Option<Public> {
        match path {
            _ if method == Method::OPTIONS => Some(Public::Preflight),
            "/" if method == Method::HEAD => Some(Public::Root),
            "/livez" => Some(Public::Live),
            "/readyz" => Some(Public::Ready),
            "/api/status" => Some(Public::Status),
            _ => None,
        }
    }
}

/// Answers what is public.
///
/// # Errors
/// A wrong method, or a client that is gone.
pub async fn public(
    session: &mut Session,
    ctx: &mut Context,
    gateway: &Gateway,
    asked: Public,
) -> Result<(), Refusal> {
    let method = &session.req_header().method;
    let read = matches!(*method, Method::GET | Method::HEAD);
    let (status, body) = match asked {
        Public::Preflight => return preflight(session, ctx).await,
        _ if !read => {
            return Err(Rejection {
                allow: Some("GET, HEAD, OPTIONS"),
                ..Rejection::new(
                    Code::MethodNotAllowed,
                    format!("{} is not allowed here; use GET.", quoted(method.as_str())),
                )
            }
            .into());
        }
        Public::Root => (200, Value::Null),
        Public::Live => (200, json!({ "status": "ok" })),
        Public::Ready => match gateway.ready.load(Ordering::Acquire) {
            true => (200, json!({ "status": "ready" })),
            false => (503, json!({ "status": "shutting_down" })),
        },
        Public::Status => {
            not_a_flood(ctx)?;
            (200, status(ctx, gateway))
        }
    };
    let body = match body {
        Value::Null => Bytes::new(),
        body => body.to_string().into(),
    };
    let headers = [("cache-control", "no-store")];
    ctx.unrecorded = matches!(asked, Public::Live | Public::Ready);
    answer(session, ctx, status, &headers, body).await?;
    ctx.outcome = Some(Outcome::Answered);
    Ok(())
}

async fn preflight(session: &mut Session, ctx: &mut Context) -> Result<(), Refusal> {
    let asked = session
        .req_header()
        .headers
        .get("access-control-request-headers")
        .and_then(|value| value.to_str().ok())
        .unwrap_or("authorization, content-type, x-api-key")
        .to_owned();
    let headers = [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "GET, POST, HEAD, OPTIONS"),
        ("access-control-allow-headers", asked.as_str()),
        ("access-control-expose-headers", EXPOSED),
        ("access-control-max-age", "86400"),
        ("vary", "access-control-request-headers"),
    ];
    answer(session, ctx, 200, &headers, Bytes::new()).await?;
    ctx.outcome = Some(Outcome::Answered);
    Ok(())
}

/// The envelope is the one that one-api's clients read.
fn status(ctx: &Context, gateway: &Gateway) -> Value {
    let uptime = gateway.started.elapsed();
    let snapshot = &ctx.snapshot;
    let models: Vec<Value> = snapshot
        .catalog
        .models()
        .iter()
        .filter(|model| model.status != Status::Hidden && &*model.id != CATCH_ALL)
        .filter_map(|model| {
            let seen = snapshot.traffic.get(model.index)?.seen(uptime);
            Some(json!({
                "id": *model.id,
                "status": model.status.as_str(),
                "state": seen.state(),
                "requests": seen.requests,
                "success_rate": seen.success_rate(),
            }))
        })
        .collect();
    json!({
        "success": true,
        "message": "",
        "data": {
            "system_name": "Tollgate",
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": rfc3339(gateway.started_at),
            "start_time": gateway.started_at.duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            "uptime_seconds": uptime.as_secs(),
            "window_seconds": WINDOW_SECONDS,
            "models": models,
        },
    })
}

/// `GET catalog`.
///
/// # Errors
/// The client is gone.
pub async fn catalog(session: &mut Session, ctx: &mut Context) -> Result<(), Refusal> {
    let list = listing::catalog(&ctx.snapshot.catalog, &ctx.snapshot.currency);
    let headers = [
        ("access-control-allow-origin", "*"),
        ("cache-control", "public, max-age=60"),
    ];
    answer(session, ctx, 200, &headers, list.to_string().into()).await?;
    ctx.outcome = Some(Outcome::Answered);
    Ok(())
}

/// `GET models` and `GET models/{id}`.
///
/// # Errors
/// An unknown model, one that the key may not use, or a client that is gone.
pub async fn models(
    session: &mut Session,
    ctx: &mut Context,
    endpoint: &Endpoint,
    caller: &Caller,
) -> Result<(), Refusal> {
    let snapshot = ctx.snapshot.clone();
    let detailed = session
        .req_header()
        .uri
        .query()
        .is_some_and(|query| query.split('&').any(|pair| pair == "detail=1"));
    let detail = if detailed {
        Detail::Full
    } else {
        Detail::Plain
    };
    let body = match (endpoint.operation, &endpoint.model) {
        (Operation::GetModel, Some(id)) => {
            let found = snapshot.catalog.find(id)?;
            // A model that is announced may be looked at; one that is kept from the key may not.
            match permit(caller, found.clone()) {
                Err(rejection) if rejection.code != Code::ModelPreview => {
                    return Err(rejection.into());
                }
                _ => {}
            }
            listing::entry(&found.model, &found.id, detail, &snapshot.currency)
        }
        _ => listing::models(&snapshot.catalog, caller.key(), detail, &snapshot.currency),
    };
    answer(session, ctx, 200, &[], body.to_string().into()).await?;
    ctx.outcome = Some(Outcome::Answered);
    Ok(())
}
