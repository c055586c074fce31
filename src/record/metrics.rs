//! Prometheus metrics. Every label's values come from the configuration or from the code, so that
//! no client can make series.

use super::billing::BillingMetrics;
use super::limits::{LimitMetrics, StoreMetrics};
use super::overload::OverloadMetrics;
use super::reload::ReloadMetrics;
use super::upstreams::UpstreamMetrics;
use crate::limit::overload::Caps;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use std::sync::Arc;

/// How an attempt at an upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // most say themselves
pub enum AttemptEnd {
    Ok,
    ClientError,
    Auth,
    RateLimited,
    ServerError,
    Unreachable,
    Timeout,
    Broken,
    /// The pooled connection was dead: the request never arrived.
    Stale,
    /// The client left before there was an answer.
    ClientGone,
}

impl AttemptEnd {
    pub(super) const COUNT: usize = 10;

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            AttemptEnd::Ok => "ok",
            AttemptEnd::ClientError => "client_error",
            AttemptEnd::Auth => "auth",
            AttemptEnd::RateLimited => "rate_limited",
            AttemptEnd::ServerError => "server_error",
            AttemptEnd::Unreachable => "unreachable",
            AttemptEnd::Timeout => "timeout",
            AttemptEnd::Broken => "broken",
            AttemptEnd::Stale => "stale",
            AttemptEnd::ClientGone => "client_gone",
        }
    }
}

/// All metrics of the process; they outlive configurations.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub(super) requests: IntCounterVec,
    pub(super) duration: HistogramVec,
    pub(super) first_token: HistogramVec,
    pub(super) first_byte: HistogramVec,
    pub(super) overhead: HistogramVec,
    pub(super) token_usage: HistogramVec,
    pub(super) tokens: IntCounterVec,
    pub(super) upstream: IntCounterVec,
    /// Requests in flight.
    pub active_requests: IntGauge,
    /// Streams in flight.
    pub active_streams: IntGauge,
    /// Access-log events that were dropped.
    pub log_dropped: IntCounter,
    /// Answers whose usage had numbers that cannot be.
    pub hostile_usage: IntCounter,
    /// Requests that were not HTTP.
    pub malformed: IntCounter,
    /// Streams that the upstream broke off.
    pub broken_streams: IntCounter,
    /// Upstreams that fail.
    pub upstreams: UpstreamMetrics,
    /// Limits.
    pub limits: Arc<LimitMetrics>,
    /// Money.
    pub billing: Arc<BillingMetrics>,
    /// The configuration.
    pub reload: ReloadMetrics,
}

/// OpenTelemetry's advice for `gen_ai.server.request.duration`.
const SECONDS: [f64; 14] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];
/// OpenTelemetry's advice for `gen_ai.server.time_to_first_token`.
const FIRST_TOKEN: [f64; 16] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// OpenTelemetry's advice for `gen_ai.client.token.usage`.
const TOKENS: [f64; 14] = [
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
    16777216.0, 67108864.0,
];
/// The gateway's own share is counted in microseconds.
const OVERHEAD: [f64; 10] = [
    0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.005, 0.02, 0.1,
];

const GEN_AI: [&str; 3] = ["surface", "gen_ai_operation_name", "gen_ai_request_model"];

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// Two metrics of one name: an error in this file.
    pub fn new() -> Result<Arc<Metrics>, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let counter = |name: &str, help: &str| {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let histograms = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let metric = HistogramVec::new(options, labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let build = IntGaugeVec::new(
            Opts::new("tollgate_build_info", "1, labelled with the build"),
            &["version"],
        )?;
        registry.register(Box::new(build.clone()))?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Arc::new(Metrics {
            requests: counters(
                "tollgate_requests_total",
                "Requests, by where they went and how they ended; code is empty for an answer",
                &["surface", "operation", "model", "status_class", "code"],
            )?,
            duration: histograms(
                "gen_ai_server_request_duration_seconds",
                "From the request's header to the end of the answer",
                &GEN_AI,
                &SECONDS,
            )?,
            first_token: histograms(
                "gen_ai_server_time_to_first_token_seconds",
                "From the request's header to the first event of a streamed answer",
                &GEN_AI,
                &FIRST_TOKEN,
            )?,
            first_byte: histograms(
                "tollgate_time_to_first_byte_seconds",
                "From the request's header to the first byte of the answer",
                &["surface", "operation", "model"],
                &FIRST_TOKEN,
            )?,
            overhead: histograms(
                "tollgate_overhead_seconds",
                "What the gateway itself adds before the first byte: without reading the request and waiting for the upstream",
                &["surface", "operation", "model"],
                &OVERHEAD,
            )?,
            token_usage: histograms(
                "gen_ai_client_token_usage",
                "Tokens of a request, by type",
                &[
                    "surface",
                    "gen_ai_operation_name",
                    "gen_ai_request_model",
                    "gen_ai_token_type",
                ],
                &TOKENS,
            )?,
            tokens: counters(
                "tollgate_tokens_total",
                "Tokens; cached_input and cache_write are part of input",
                &["model", "type"],
            )?,
            upstream: counters(
                "tollgate_upstream_requests_total",
                "Attempts at providers, by how they ended",
                &["provider", "outcome"],
            )?,
            active_requests: gauge("tollgate_active_requests", "Requests in flight")?,
            active_streams: gauge("tollgate_active_streams", "Streamed answers in flight")?,
            log_dropped: counter(
                "tollgate_access_log_dropped_total",
                "Access-log lines that were lost to a full queue or a failing output",
            )?,
            hostile_usage: counter(
                "tollgate_hostile_usage_total",
                "Answers whose usage held numbers that cannot be",
            )?,
            malformed: counter(
                "tollgate_malformed_requests_total",
                "Connections that sent something that is not HTTP",
            )?,
            broken_streams: counter(
                "tollgate_broken_streams_total",
                "Streamed answers that the upstream did not finish",
            )?,
            upstreams: UpstreamMetrics::new(&registry)?,
            limits: Arc::new(LimitMetrics::new(&registry)?),
            billing: Arc::new(BillingMetrics::new(&registry)?),
            reload: ReloadMetrics::new(&registry)?,
            registry,
        }))
    }

    /// The metrics of Redis, for a gateway that has one.
    ///
    /// # Errors
    /// They were registered before.
    pub fn store(&self) -> Result<Arc<StoreMetrics>, prometheus::Error> {
        Ok(Arc::new(StoreMetrics::new(&self.registry)?))
    }

    /// Shows what the process takes on, once.
    ///
    /// # Errors
    /// They were registered before.
    pub fn watch(&self, caps: Arc<Caps>) -> Result<(), prometheus::Error> {
        let metrics = OverloadMetrics::new(caps)?;
        self.registry.register(Box::new(metrics))
    }

    /// The text format.
    ///
    /// # Errors
    /// What the encoder says.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
