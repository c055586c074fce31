//! What is served beside the proxy: the metrics page and the built-in provider, each on a listener of its own.

use super::build::DemoAccess;
use crate::auth::secret::generate;
use crate::config::Config;
use crate::demo::Demo;
use crate::record::metrics::Metrics;
use async_trait::async_trait;
use http::{Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;

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

/// The built-in provider: it stands from the first configuration that has one on, with one address and one key, and ends
/// when this is dropped.
pub struct DemoStand {
    access: Option<DemoAccess>,
    shutdown: watch::Receiver<bool>,
    serving: JoinSet<()>,
}

impl DemoStand {
    /// Not there yet.
    pub fn new(shutdown: watch::Receiver<bool>) -> DemoStand {
        DemoStand {
            access: None,
            shutdown,
            serving: JoinSet::new(),
        }
    }

    /// The way to it; it is started if this configuration is the first that needs it.
    ///
    /// # Errors
    /// One line: no port, no randomness.
    pub fn access(&mut self, config: &Config) -> Result<Option<DemoAccess>, String> {
        let mut providers = config.providers.iter();
        let wanted = providers.any(|provider| provider.base_url.is_none());
        if wanted && self.access.is_none() {
            let key = generate("demo-").map_err(|error| format!("no randomness: {error}"))?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let listener = super::bound(address, "the demo provider")?;
            let address = super::local_address(&listener)?;
            let app = Arc::new(Demo::new(key.clone()));
            let shutdown = self.shutdown.clone();
            self.serving.spawn(super::listen::serve(
                listener,
                None,
                super::door::Door::open(app),
                shutdown,
            ));
            self.access = Some(DemoAccess { address, key });
        }
        Ok(self.access.clone())
    }

    /// Nothing more is asked of it: it serves to its end.
    pub async fn stay(mut self) {
        while self.serving.join_next().await.is_some() {}
    }
}
