//! The life of a request in Pingora's phases. Each phase is a few lines here; what it does stands
//! in the module that it calls.

mod choice;
pub mod context;
mod dress;
mod failure;
mod headers;
mod local;
mod recording;
mod request;
mod respond;
mod response;
mod retry;
pub mod snapshot;
mod upload;

use crate::downstream::Patience;
use crate::record::event::Outcome;
use crate::record::metrics::Attempt as Tried;
use crate::route::Operation;
use crate::wire::request::{Changes, rewrite};
use async_trait::async_trait;
use bytes::Bytes;
use choice::{candidates, next_attempt, no_upstream};
use context::{Body, Context};
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use request::{Refusal, Step};
use snapshot::Gateway;
use std::sync::Arc;
use std::time::Duration;

pub use recording::malformed;

/// A phase that cannot answer by itself leaves its refusal in the context and fails with this.
const REFUSED: ErrorType = ErrorType::Custom("Refused");

/// The proxy.
pub struct Proxy {
    /// What it works with.
    pub gateway: Arc<Gateway>,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new(
            self.gateway.snapshot.load_full(),
            &self.gateway.metrics.active_requests,
        )
    }

    /// No modules: nothing is compressed here.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        match request::check(session, ctx, &self.gateway).await {
            Ok(Step::Forward(forward)) => {
                ctx.forward = Some(forward);
                Ok(false)
            }
            Ok(Step::Answered) => Ok(true),
            Err(Refusal::Rejected(rejection)) => {
                let told = respond::reject(session, ctx, rejection).await;
                told.map_err(|error| error.into_down())?;
                Ok(true)
            }
            // Whatever Pingora calls it: there is nobody to talk to.
            Err(Refusal::Gone(error)) => Err(error.into_down()),
        }
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        ctx: &mut Context,
    ) -> Result<Box<HttpPeer>> {
        let snapshot = ctx.snapshot.clone();
        let Some(forward) = &mut ctx.forward else {
            return Error::e_explain(ErrorType::InternalError, "not admitted");
        };
        let Some(attempt) = next_attempt(forward, &snapshot.providers) else {
            ctx.rejection.get_or_insert_with(no_upstream);
            return Error::e_explain(REFUSED, "no upstream left");
        };
        let upstream = &attempt.provider;
        let address = match upstream.addresses.next().await {
            Ok(address) => address,
            Err(error) => {
                log::warn!(
                    "provider {}: cannot resolve its host: {error}",
                    upstream.name
                );
                snapshot.recorder.attempt(attempt.place, Tried::Unreachable);
                forward.tried |= attempt.bit;
                forward.attempt = Some(attempt);
                let mut failure = Error::explain(ErrorType::ConnectError, "name resolution");
                failure.as_up();
                let more = candidates(forward, &snapshot.providers).any(|c| c.usable);
                failure.set_retry(more);
                return Err(failure);
            }
        };
        let pooled = match &mut forward.body {
            Body::Json { call, bytes } => {
                let model = (*call.model != *attempt.model).then_some(&*attempt.model);
                let changes = Changes {
                    upstream_model: model,
                    include_usage: attempt.injected,
                    input_to_messages: forward.operation == Operation::ChatCompletions,
                };
                let body = rewrite(bytes, call, changes);
                if let Some(exchange) = &ctx.exchange {
                    exchange.set_replay(body);
                }
                !forward.fresh
            }
            // It cannot be sent again, should the pooled connection be closing at this moment.
            Body::Upload(_) => false,
            Body::Empty => !forward.fresh,
        };
        if let Some(exchange) = &ctx.exchange {
            exchange.set_patience(Patience {
                first_byte: upstream.timeouts.first_byte,
                idle: upstream.timeouts.idle,
                since: attempt.chosen,
            });
        }
        forward.tried |= attempt.bit;
        forward.attempts += 1;
        let peer = snapshot
            .providers
            .get(attempt.place)
            .map(|(_, template)| template.at(address, pooled));
        forward.attempt = Some(attempt);
        peer.ok_or_else(|| Error::explain(ErrorType::InternalError, "no such provider"))
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        header: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        match &mut ctx.forward {
            Some(forward) => dress::for_provider(forward, ctx.exchange.as_deref(), header),
            None => Ok(()),
        }
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        let Some(forward) = &mut ctx.forward else {
            return Ok(());
        };
        if let (Body::Upload(upload), Some(chunk)) = (&mut forward.body, body)
            && let Err(rejection) = upload.pass(chunk)
        {
            ctx.rejection = Some(rejection);
            return Err(Error::explain(REFUSED, "upload").into_down());
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        header: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if header.status.is_informational() {
            return Ok(());
        }
        let Some(forward) = &mut ctx.forward else {
            return Ok(());
        };
        let public = forward.admission.model().id.clone();
        if let Err(rejection) = response::judge(&ctx.snapshot.recorder, forward, header, &public) {
            ctx.rejection = Some(rejection);
            let mut error = Error::explain(REFUSED, "upstream status");
            error.as_up();
            return Err(error);
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        header: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if header.status.is_informational() {
            return Ok(());
        }
        response::dress(session, ctx, &self.gateway, header)
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        match response::pass(ctx, &self.gateway, body, end_of_stream) {
            Ok(()) => Ok(None),
            Err(rejection) => {
                ctx.rejection = Some(rejection);
                let mut error = Error::explain(REFUSED, "upstream body");
                error.as_up();
                Err(error)
            }
        }
    }

    /// With trailers the body's end is never said; none of them goes to a client.
    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut Context,
    ) -> Result<Option<Bytes>> {
        trailers.clear();
        let rest = response::end(ctx, &self.gateway);
        Ok(Some(rest).filter(|rest| !rest.is_empty()))
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Context,
        error: Box<Error>,
    ) -> Box<Error> {
        retry::unreachable(ctx, peer, error)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Context,
        client_reused: bool,
    ) -> Box<Error> {
        let answering = session.response_written().is_some();
        retry::broken(ctx, error, client_reused, answering)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        failure::answer(session, error, ctx, &self.gateway).await
    }

    /// Failures are told once, by `failure` and `retry`, in our own words.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Context,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    fn request_summary(&self, _session: &Session, ctx: &Context) -> String {
        ctx.request_id.to_string()
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        let status = session
            .response_written()
            .map(|header| header.status.as_u16());
        let outcome = match (ctx.outcome, error) {
            (Some(outcome), _) => outcome,
            (None, None) => Outcome::Answered,
            (None, Some(_)) => Outcome::ClientGone,
        };
        let status = match outcome {
            Outcome::ClientGone => 499,
            _ => status.unwrap_or(0),
        };
        recording::record(&self.gateway, session, ctx, status, outcome);
    }
}
