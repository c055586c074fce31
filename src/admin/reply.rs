//! What a call is answered with.

use super::failure::Failure;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, without the length.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
    /// What was written, for the audit log: the id of a key, an account or an entry.
    pub subject: Option<String>,
}

impl Reply {
    /// 200 with a JSON body.
    pub fn ok(body: &Value) -> Reply {
        Reply::json(StatusCode::OK, body)
    }

    /// 201 with a JSON body.
    pub fn created(body: &Value) -> Reply {
        Reply::json(StatusCode::CREATED, body)
    }

    /// A JSON body.
    pub fn json(status: StatusCode, body: &Value) -> Reply {
        Reply::text(status, "application/json", body.to_string())
    }

    /// Any text.
    pub fn text(status: StatusCode, content_type: &'static str, body: String) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        // Money and keys: nothing in between may keep them.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Reply {
            status,
            headers,
            body: body.into_bytes(),
            subject: None,
        }
    }

    /// 204, with the methods of the path.
    pub fn options(allow: &str) -> Reply {
        let mut reply = Reply::text(StatusCode::NO_CONTENT, "application/json", String::new());
        reply.headers.remove(CONTENT_TYPE);
        reply.put(ALLOW, allow);
        reply
    }

    /// Names what was written.
    pub fn about(mut self, subject: impl Into<String>) -> Reply {
        self.subject = Some(subject.into());
        self
    }

    /// Says that nothing was done because it was done before.
    pub fn replayed(mut self, replayed: bool) -> Reply {
        if replayed {
            self.put(REPLAYED, "true");
        }
        self
    }

    fn put(&mut self, name: HeaderName, value: &str) {
        // All values are words and numbers of ours, and fit.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Reply {
        let mut reply = Reply::json(failure.status(), &failure.body());
        if let Some(allow) = &failure.allow {
            reply.put(ALLOW, allow);
        }
        if let Some(seconds) = failure.retry_after {
            reply.put(RETRY_AFTER, &seconds.to_string());
        }
        if failure.status() == StatusCode::UNAUTHORIZED {
            reply.put(WWW_AUTHENTICATE, "Bearer");
        }
        reply
    }
}
