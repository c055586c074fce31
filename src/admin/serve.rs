//! The API on a listener: bytes in, bytes out.

use super::failure::{Code, Failure, Outcome};
use super::{Admin, Request};
use crate::id::RequestId;
use async_trait::async_trait;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use std::time::Duration;
use tokio::time::timeout;

/// The longest body, in bytes.
const LONGEST: usize = 64 << 10;

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
        let reply = self.answer(&request, body(session)).await;
        if reply.status.is_client_error() {
            // What may be left of a body is not waited for.
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
        if let Ok(id) = request.id.header() {
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

/// Reads the body.
async fn body(session: &mut ServerSession) -> Outcome<Vec<u8>> {
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
                Ok(None) => return Ok(body),
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
