//! The built-in provider (`api: demo`): a real HTTP server on a loopback port that speaks both
//! APIs, so that the way of a request is walked whole without any provider's account.
//!
//! Its answers are deterministic: the same request gets the same answer, and usage counts words.

mod answers;

use answers::{Answer, Stream};
use async_trait::async_trait;
use bytes::Bytes;
use pingora::Result;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use serde_json::{Value, json};
use std::sync::Arc;
/// Bodies above this are refused: the gateway has a limit of its own before.
const MAX_BODY: usize = 64 << 20;

/// The provider.
pub struct Demo {
    key: String,
}

impl Demo {
    /// A provider that answers to this key.
    pub fn new(key: String) -> Demo {
        Demo { key }
    }

    fn knows(&self, session: &ServerSession) -> bool {
        let header = session.req_header();
        let bearer = header
            .headers
            .get("authorization")
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let plain = header
            .headers
            .get("x-api-key")
            .map(http::HeaderValue::as_bytes);
        bearer
            .or(plain)
            .is_some_and(|key| key == self.key.as_bytes())
    }

    async fn answer(&self, session: &mut ServerSession) -> Result<()> {
        let path = session.req_header().uri.path().to_owned();
        let content_type = session.get_header_bytes("content-type").to_vec();
        let mut body = Vec::new();
        while let Some(chunk) = session.read_request_body().await? {
            if body.len() + chunk.len() > MAX_BODY {
                return json_answer(session, 413, &answers::error("The body is too large.")).await;
            }
            body.extend_from_slice(&chunk);
        }
        if !self.knows(session) {
            return json_answer(
                session,
                401,
                &answers::error("Not the demo provider's key."),
            )
            .await;
        }
        let request = match content_type.starts_with(b"multipart/") {
            true => json!({ "model": "demo" }),
            false => serde_json::from_slice(&body).unwrap_or(Value::Null),
        };
        match answers::answer(&path, &request) {
            Answer::Json(value) => json_answer(session, 200, &value).await,
            Answer::Stream(stream) => stream_answer(session, stream).await,
            Answer::Audio(bytes) => whole(session, 200, "audio/wav", bytes).await,
            Answer::Unknown => {
                json_answer(session, 404, &answers::error("No such endpoint.")).await
            }
        }
    }
}

async fn json_answer(session: &mut ServerSession, status: u16, value: &Value) -> Result<()> {
    whole(
        session,
        status,
        "application/json",
        value.to_string().into(),
    )
    .await
}

async fn whole(
    session: &mut ServerSession,
    status: u16,
    content_type: &str,
    body: Bytes,
) -> Result<()> {
    let mut header = ResponseHeader::build(status, Some(3))?;
    header.insert_header("content-type", content_type)?;
    header.insert_header("content-length", body.len())?;
    session.write_response_header(Box::new(header)).await?;
    session.write_response_body(body, true).await
}

async fn stream_answer(session: &mut ServerSession, stream: Stream) -> Result<()> {
    let mut header = ResponseHeader::build(200, Some(3))?;
    header.insert_header("content-type", "text/event-stream")?;
    header.insert_header("cache-control", "no-cache")?;
    header.insert_header("transfer-encoding", "chunked")?;
    session.write_response_header(Box::new(header)).await?;
    for event in stream {
        session.write_response_body(event.into(), false).await?;
    }
    session.write_response_body(Bytes::new(), true).await
}

#[async_trait]
impl HttpServerApp for Demo {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !session.read_request().await.ok()? {
            return None;
        }
        session.set_keepalive(Some(60));
        self.answer(&mut session).await.ok()?;
        let settings = HttpPersistentSettings::for_session(&session);
        let reusable = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }
}
