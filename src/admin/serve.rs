//! The API on a listener: bytes in, bytes out.

use super::failure::{Code, Failure, Outcome};
use super::{Admin, Request};
use crate::id::RequestId;
use async_trait::async_trait;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use std::time::Duration;
use tokio::time::timeout;

/// The longest body, in bytes.
const LONGEST: usize = 64 << 10;

/// As much of a refused body is read, and for so long: a connection that is closed on unread bytes may lose
/// the answer.
const DRAINED: (usize, Duration) = (1 << 20, Duration::from_millis(500));

/// A body must be there whole so long after its head.
const SLOWEST: Duration = Duration::from_secs(10);

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let header = session.req_header();
        let request = Request {
            id: RequestId::new(),
            method: header.method.clone(),
            uri: header.uri.clone(),
            headers: header.headers.clone(),
            client: session
                .client_addr()
                .and_then(|address| address.as_inet())
                .copied(),
        };
        let has_body = request.headers.contains_key(TRANSFER_ENCODING)
            || request
                .headers
                .get(CONTENT_LENGTH)
                .is_some_and(|length| length != "0");
        let mut whole = !has_body;
        let reply = self.answer(&request, body(session, &mut whole)).await;
        if !whole && !drained(session).await {
            session.set_keepalive(None);
        }
        let length = reply.body.len();
        let mut response = Response::new(reply.body);
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        let headers = response.headers_mut();
        if reply.status != StatusCode::NO_CONTENT {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        if let Ok(id) = HeaderValue::from_bytes(request.id.as_bytes()) {
            headers.insert("x-request-id", id.clone());
            headers.insert("request-id", id);
        }
        headers.insert(
            "x-content-type-options",
            HeaderValue::from_static("nosniff"),
        );
        if request.method == Method::HEAD {
            response.body_mut().clear();
        }
        response
    }
}

/// Reads the body, and notes when it has come to its end.
async fn body(session: &mut ServerSession, whole: &mut bool) -> Outcome<Vec<u8>> {
    let read = async {
        let mut body = Vec::new();
        loop {
            match session.read_request_body().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > LONGEST => {
                    return Err(Failure::new(
                        Code::TooLarge,
                        "The body is larger than 64 KiB; no call needs as much.",
                    ));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => {
                    *whole = true;
                    return Ok(body);
                }
                Err(_) => {
                    return Err(Failure::new(
                        Code::InvalidJson,
                        "The body could not be read to its end; send it again.",
                    ));
                }
            }
        }
    };
    timeout(SLOWEST, read).await.unwrap_or_else(|_| {
        Err(Failure::new(
            Code::TooSlow,
            "The body did not arrive within 10 s; send it again.",
        ))
    })
}

/// Reads what is left of a body, to its end if that is near.
async fn drained(session: &mut ServerSession) -> bool {
    let (most, time) = DRAINED;
    let read = async {
        let mut left = most;
        while let Ok(chunk) = session.read_request_body().await {
            match chunk.map(|chunk| left.checked_sub(chunk.len())) {
                None => return true,
                Some(Some(less)) => left = less,
                Some(None) => return false,
            }
        }
        false
    };
    timeout(time, read).await.unwrap_or(false)
}
