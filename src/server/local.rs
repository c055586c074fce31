//! The metrics page, on a listener of its own.

use crate::record::metrics::Metrics;
use async_trait::async_trait;
use http::{Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use std::sync::Arc;

/// Serves `/metrics`.
pub struct MetricsPage {
    metrics: Arc<Metrics>,
}

impl MetricsPage {
    /// A page of these metrics.
    pub fn new(metrics: Arc<Metrics>) -> MetricsPage {
        MetricsPage { metrics }
    }
}

#[async_trait]
impl ServeHttp for MetricsPage {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let (status, body) = match session.req_header().uri.path() {
            "/metrics" => match self.metrics.render() {
                Ok(text) => (StatusCode::OK, text),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            _ => (
                StatusCode::NOT_FOUND,
                "The metrics are at /metrics.\n".to_owned(),
            ),
        };
        let length = body.len();
        let mut response = Response::new(body.into_bytes());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
        );
        headers.insert(http::header::CONTENT_LENGTH, length.into());
        response
    }
}
