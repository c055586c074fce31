//! [`Edge`]: serves connections: it reads each request's header, wraps the session and hands it to the proxy.
//!
//! Pingora's own loop over the requests of a connection has the state of both protocols in it, and a buffer of 4 KiB for
//! the header of each request; it is used for HTTP/2 alone (`Streams`).

use super::again::at_once;
use super::closing::{LINGER, drain, linger};
use super::ending::Ending;
use super::idle::{AT_REST, Idle};
use super::session::{Downstream, Wire};
use super::{CURRENT, Exchange, Fault};
use crate::id::RequestId;
use async_trait::async_trait;
use bytes::BytesMut;
use futures::FutureExt;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Version};
use memchr::{memchr_iter, memmem};
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::server::HttpSession as H1;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::protocols::{ALPN, Digest, Stream};
use pingora::server::ShutdownWatch;
use pingora::{ErrorType, Result};
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::ready;
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{sleep, timeout};

/// An idle connection is kept this long: above the 60 s of common load balancers, so that it is
/// they who close, and no request is lost to a race.
const KEEPALIVE: Duration = Duration::from_secs(75);
/// Once the listeners are closed, so long still: time for a request that was on its way.
const KEEPALIVE_AT_END: Duration = Duration::from_secs(5);
/// A request's header must be whole so long after its first byte.
const HEADER: Duration = Duration::from_secs(10);
/// Bytes of a request that are read at first: its header, and most often all of its body.
const BEGINNING: usize = 4 << 10;
/// A client that does not open its window for a stream of HTTP/2 is let go after this; the
/// connection below has a limit of its own.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Header fields of one request: what nginx and Apache allow.
const MAX_FIELDS: usize = 100;
/// Bytes of an answer that wait in a stream of HTTP/2 for a client that does not read.
const SEND_BUFFER: usize = 64 << 10;
/// Answers a request that cannot be parsed: from its id and the client's address to status and JSON
/// body.
pub type Malformed = Arc<dyn Fn(RequestId, Option<IpAddr>) -> (u16, String) + Send + Sync>;

/// The largest request header in bytes, as it is now.
pub type HeaderLimit = Arc<dyn Fn() -> usize + Send + Sync>;

/// The application that Pingora's connection loop serves.
pub struct Edge<P> {
    proxy: Arc<P>,
    header_limit: HeaderLimit,
    malformed: Malformed,
    options: HttpServerOptions,
    idle: Arc<Idle>,
    ending: Arc<Ending>,
    /// Requests are refused, since there are too many connections.
    overflow: bool,
}

impl<P: HttpServerApp + Send + Sync + 'static> Edge<P> {
    /// Serves `proxy`; request headers above `header_limit` are a fault. Connections without a request are
    /// among the `idle`. `ending` tells sessions of the end.
    pub fn new(
        proxy: Arc<P>,
        header_limit: HeaderLimit,
        malformed: Malformed,
        idle: Arc<Idle>,
        ending: Arc<Ending>,
    ) -> Arc<Edge<P>> {
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(KEEPALIVE);
        Arc::new(Edge {
            proxy,
            header_limit,
            malformed,
            options,
            idle,
            ending,
            overflow: false,
        })
    }

    /// The same for connections beyond the cap: one request each, which is told that it is one too many.
    pub fn overflow(&self) -> Arc<Edge<P>> {
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(AT_REST);
        Arc::new(Edge {
            proxy: self.proxy.clone(),
            header_limit: self.header_limit.clone(),
            malformed: self.malformed.clone(),
            options,
            idle: self.idle.clone(),
            ending: self.ending.clone(),
            overflow: true,
        })
    }

    async fn proxy(
        &self,
        wire: Wire,
        exchange: Arc<Exchange>,
        shutdown: &ShutdownWatch,
    ) -> Option<Wire> {
        let session = Downstream::new(wire, exchange.clone());
        let mut served = self
            .proxy
            .process_new_http(ServerSession::new_custom(session), shutdown);
        let place = Arc::as_ptr(&exchange).addr() / size_of::<Exchange>();
        // The context takes it over before anything is waited for.
        let mut given = Some(exchange.clone());
        let served = poll_fn(|cx| match given.take() {
            Some(exchange) => CURRENT.sync_scope(exchange, || served.as_mut().poll(cx)),
            None => served.as_mut().poll(cx),
        });
        self.ending.waking(place, served).await;
        exchange.state().finished.take()
    }

    /// Serves the requests of a connection of HTTP/1.1, one after the other.
    async fn requests(&self, stream: Stream, shutdown: &ShutdownWatch) {
        let mut next = Some((stream, None));
        while let Some((stream, beginning)) = next {
            next = self.http1(stream, beginning, shutdown).await;
        }
    }

    /// Serves one request, of which the beginning may have come with the one before; then there may be another.
    async fn http1(
        &self,
        mut stream: Stream,
        beginning: Option<BytesMut>,
        shutdown: &ShutdownWatch,
    ) -> Option<(Stream, Option<BytesMut>)> {
        let beginning = match beginning {
            Some(beginning) => beginning,
            None => self.next_request(&mut stream, shutdown).await?,
        };
        let mut wire = Box::new(H1::new(stream));
        // Without a time: the wait for the next request is timed here, once.
        wire.set_server_keepalive(Some(0));
        wire.set_pipelining_enabled(true);
        wire.set_pipelined_prefix(beginning);
        match timeout(HEADER, wire.read_request()).await {
            Ok(Ok(Some(_))) => {}
            Ok(Err(error)) if *error.etype() == ErrorType::InvalidHTTPHeader => {
                self.refuse(wire).await;
                return None;
            }
            // The client closed within the header, or was too slow with it.
            _ => return None,
        }
        if self.overflow || *shutdown.borrow() {
            wire.set_server_keepalive(None);
        }
        wire.set_total_drain_timeout(Some(LINGER));
        // Hints of the provider's are between it and us.
        wire.set_ignore_info_resp(true);
        let fault = self.fault(&wire.get_headers_raw_bytes(), wire.req_header());
        if matches!(fault, Some(Fault::Framing | Fault::Host)) {
            // Where the request ends, or whom it is meant for, is in doubt: nothing after it can
            // be believed.
            wire.set_server_keepalive(None);
        }
        let exchange = Exchange::new(peer(wire.digest()), fault, self.ending.clone());
        let Some(Wire::H1(mut wire)) = self.proxy(Wire::H1(wire), exchange, shutdown).await else {
            return None;
        };
        if !wire.will_keepalive() {
            let unread = !wire.is_body_done();
            linger(wire, unread).await;
            return None;
        }
        // With the body read to its end nothing is waited for: as a future of its own, this would keep the session a second
        // time for as long as the connection lasts.
        wire.drain_request_body().await.ok()?;
        Some(wire.reuse().now_or_never()?.ok()??.into_parts())
    }

    /// Waits for the next request; `None` if it does not begin while the connection is kept: less long when the process
    /// ends, or when there is need of room.
    async fn next_request(
        &self,
        stream: &mut Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<BytesMut> {
        let mut request = pin!(beginning(stream));
        // Most come soon, and pay for nothing but this timer.
        if let Ok(begun) = timeout(AT_REST, &mut request).await {
            return begun;
        }
        let mut closing = shutdown.clone();
        let closes = async {
            // Without a sender everything has ended already.
            let _ = closing.wait_for(|closing| *closing).await;
            sleep(KEEPALIVE_AT_END).await;
        };
        tokio::select! {
            biased;
            begun = &mut request => begun,
            () = closes => None,
            () = self.idle.released() => None,
            () = sleep(KEEPALIVE.saturating_sub(AT_REST)) => None,
        }
    }

    /// Answers what is not HTTP.
    async fn refuse(&self, mut wire: Box<H1>) {
        let id = RequestId::new();
        let client = peer(wire.digest()).map(|peer| peer.ip());
        let (status, body) = (self.malformed)(id, client);
        wire.set_server_keepalive(None);
        let answer = async {
            let mut header = ResponseHeader::build(status, Some(6))?;
            header.insert_header("x-request-id", id.as_str())?;
            header.insert_header("request-id", id.as_str())?;
            header.insert_header("content-type", "application/json")?;
            header.insert_header("content-length", body.len().to_string())?;
            wire.write_response_header(Box::new(header)).await?;
            wire.write_body(body.as_bytes()).await?;
            wire.finish_body().await
        };
        let written: Result<_> = answer.await;
        if written.is_ok() {
            // Without a header nobody knows where the request ends: there may be more of it.
            linger(wire, true).await;
        }
    }

    fn fault(&self, raw: &[u8], header: &RequestHeader) -> Option<Fault> {
        // Pingora takes `Transfer-Encoding` before `Content-Length` and forgets the latter; a proxy
        // in front that did the opposite would let one request smuggle another.
        let both = header.headers.contains_key(TRANSFER_ENCODING)
            && (memmem::find(&raw.to_ascii_lowercase(), b"\ncontent-length").is_some());
        let bare = memchr_iter(b'\n', raw).any(|at| at == 0 || raw.get(at - 1) != Some(&b'\r'));
        if both || bare || !plainly_framed(header) {
            return Some(Fault::Framing);
        }
        if !plainly_addressed(header) {
            return Some(Fault::Host);
        }
        self.excess(raw.len(), header)
    }

    /// Too large a header, or one request too many.
    fn excess(&self, size: usize, header: &RequestHeader) -> Option<Fault> {
        if size > (self.header_limit)() || header.headers.len() > MAX_FIELDS {
            return Some(Fault::HeaderTooLarge);
        }
        self.overflow.then_some(Fault::Overloaded)
    }
}

/// Reads what comes first of a request, into as much memory as it takes; `None` if the client leaves instead.
async fn beginning(stream: &mut Stream) -> Option<BytesMut> {
    poll_fn(|cx| {
        let mut room = [const { MaybeUninit::uninit() }; BEGINNING];
        let mut room = ReadBuf::uninit(&mut room);
        let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut room));
        let begun = read.is_ok() && !room.filled().is_empty();
        begun.then(|| BytesMut::from(room.filled())).into()
    })
    .await
}

/// Whether the body's framing is told in the one way that all parsers read alike. Pingora looks at
/// the last coding alone: `gzip, chunked` would go on as if it were plain.
fn plainly_framed(header: &RequestHeader) -> bool {
    let mut codings = header.headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = codings.next().is_none_or(|coding| {
        coding
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked")
    });
    let digits = |value: &HeaderValue| value.as_bytes().trim_ascii().iter().all(u8::is_ascii_digit);
    chunked && codings.next().is_none() && header.headers.get_all(CONTENT_LENGTH).iter().all(digits)
}

/// Whether there is a `Host`, as HTTP/1.1 demands, and nothing but a host and a port in it.
fn plainly_addressed(header: &RequestHeader) -> bool {
    let mut hosts = header.headers.get_all(HOST).iter();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_~%:[]".contains(byte);
    match hosts.next() {
        Some(host) => hosts.next().is_none() && host.as_bytes().iter().all(plain),
        None => header.version != Version::HTTP_11,
    }
}

fn peer(digest: &Digest) -> Option<SocketAddr> {
    let address = digest.socket_digest.as_ref()?.peer_addr()?;
    address.as_inet().copied()
}

#[async_trait]
impl<P: HttpServerApp + Send + Sync + 'static> ServerApp for Edge<P> {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        match stream.selected_alpn_proto() {
            Some(ALPN::H2) => {
                let streams = Arc::new(Streams(self.clone()));
                streams.process_new(stream, shutdown).await
            }
            _ => {
                at_once(pin!(self.requests(stream, shutdown))).await;
                None
            }
        }
    }
}

/// A connection of HTTP/2, which Pingora takes apart into streams.
struct Streams<P>(Arc<Edge<P>>);

#[async_trait]
impl<P: HttpServerApp + Send + Sync + 'static> HttpServerApp for Streams<P> {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let Streams(edge) = &**self;
        let ServerSession::H2(mut wire) = session else {
            return None;
        };
        let header = wire.req_header();
        let size = header
            .headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum::<usize>()
            + header.raw_path().len();
        let fault = edge.excess(size, header);
        wire.set_write_timeout(Some(WRITE_TIMEOUT));
        wire.set_total_drain_timeout(Some(LINGER));
        let peer = wire.digest().and_then(peer);
        let exchange = Exchange::new(peer, fault, edge.ending.clone());
        let wire = Wire::H2(Box::new(wire));
        let served = at_once(pin!(edge.proxy(wire, exchange, shutdown))).await;
        if let Some(Wire::H2(wire)) = served {
            drain(wire).await;
        }
        None
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options.max_send_buffer_size(SEND_BUFFER);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.0.options)
    }
}
