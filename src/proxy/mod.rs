//! The life of a request in Pingora's phases. Each phase is a few lines here; what it does stands
//! in the module that it calls.

pub mod attempt;
mod body;
mod charge;
mod choice;
pub mod context;
mod dress;
mod due;
mod excess;
mod failure;
mod form;
mod headers;
mod local;
mod overload;
mod own;
mod recording;
mod request;
mod respond;
mod response;
mod retry;
pub mod snapshot;
mod upload;

use crate::downstream::Exchange;
use crate::record::event::Outcome;
use async_trait::async_trait;
use bytes::Bytes;
use context::{Body, Context, Forward};
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
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
    /// Boxed: Pingora's future holds it by value, more than once.
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Self::CTX {
        Context::new(
            self.gateway.snapshot.load_full(),
            &self.gateway.metrics.active_requests,
        )
    }

    /// No modules: nothing is compressed here.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
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
        ctx: &mut Self::CTX,
    ) -> Result<Box<HttpPeer>> {
        choice::next_peer(ctx).await
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        if let Some(Forward {
            attempt: Some(attempt),
            ..
        }) = ctx.forward.as_deref_mut()
        {
            attempt.connected(&ctx.snapshot.recorder);
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        header: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        match &mut ctx.forward {
            Some(forward) => {
                charge::begun(forward);
                dress::for_provider(forward, ctx.exchange.as_deref(), header)
            }
            None => Ok(()),
        }
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Self::CTX,
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
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        let hint = header.status.is_informational();
        let fits = match hint {
            true => excess::hint(ctx),
            false => excess::header(ctx, header),
        };
        let judged = match (fits, &mut ctx.forward) {
            (Ok(()), Some(forward)) if !hint => {
                response::judge(&ctx.snapshot.recorder, forward, header)
            }
            (fits, _) => fits,
        };
        if let Err(rejection) = judged {
            ctx.rejection = Some(rejection);
            let mut error = Error::explain(REFUSED, "upstream status");
            error.as_up();
            error.set_retry(retry::refused(ctx));
            return Err(error);
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        header: &mut ResponseHeader,
        ctx: &mut Self::CTX,
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
        ctx: &mut Self::CTX,
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
        ctx: &mut Self::CTX,
    ) -> Result<Option<Bytes>> {
        trailers.clear();
        let rest = response::end(ctx, &self.gateway);
        charge::settle(ctx, None);
        Ok(Some(rest).filter(|rest| !rest.is_empty()))
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Self::CTX,
        error: Box<Error>,
    ) -> Box<Error> {
        retry::unreachable(ctx, peer, error)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Self::CTX,
        client_reused: bool,
    ) -> Box<Error> {
        let answering = session.response_written().is_some();
        retry::broken(ctx, error, client_reused, answering)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Self::CTX,
    ) -> FailToProxy {
        failure::answer(session, error, ctx, &self.gateway).await
    }

    /// Failures are told once, by `failure` and `retry`, in our own words.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Self::CTX, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Self::CTX,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    fn request_summary(&self, _session: &Session, ctx: &Self::CTX) -> String {
        ctx.request_id.to_string()
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Self::CTX) {
        let status = session
            .response_written()
            .map(|header| header.status.as_u16());
        let exchange = ctx.exchange.as_deref();
        let outcome = match (ctx.outcome, error) {
            (Some(Outcome::Rejected(code)), _) => Outcome::Rejected(code),
            // Its answer was read to the end without it.
            _ if exchange.is_some_and(Exchange::client_left) => Outcome::ClientGone,
            (Some(outcome), _) => outcome,
            (None, None) => Outcome::Answered,
            (None, Some(_)) => Outcome::ClientGone,
        };
        let status = match outcome {
            Outcome::ClientGone => 499,
            _ => status.unwrap_or(0),
        };
        // Of most requests that was said with the last byte; the others have ended without one.
        charge::settle(ctx, None);
        recording::record(&self.gateway, session, ctx, status, outcome);
    }
}
