//! Prometheus metrics. Every label's values come from the configuration or from the code, so that
//! no client can make series.

use super::event::{Event, Outcome};
use crate::meter::usage::Usage;
use crate::route::Operation;
use ahash::AHashMap;
use arc_swap::ArcSwap;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use std::sync::{Arc, OnceLock};

/// How an attempt at an upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each says itself
pub enum AttemptEnd {
    Ok,
    ClientError,
    Auth,
    RateLimited,
    ServerError,
    Unreachable,
    Timeout,
    Broken,
}

impl AttemptEnd {
    const COUNT: usize = 8;

    const fn as_str(self) -> &'static str {
        match self {
            AttemptEnd::Ok => "ok",
            AttemptEnd::ClientError => "client_error",
            AttemptEnd::Auth => "auth",
            AttemptEnd::RateLimited => "rate_limited",
            AttemptEnd::ServerError => "server_error",
            AttemptEnd::Unreachable => "unreachable",
            AttemptEnd::Timeout => "timeout",
            AttemptEnd::Broken => "broken",
        }
    }
}

/// All metrics of the process; they outlive configurations.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    first_token: HistogramVec,
    first_byte: HistogramVec,
    overhead: HistogramVec,
    token_usage: HistogramVec,
    tokens: IntCounterVec,
    upstream: IntCounterVec,
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
            registry,
        }))
    }

    /// The text format.
    ///
    /// # Errors
    /// What the encoder says.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Ready handles of one surface, operation and model: looking labels up costs more than counting.
/// What only some requests have is made with the first of them, so that no series stays at zero.
#[derive(Debug)]
struct Series {
    answered: IntCounter,
    duration: Histogram,
    first_byte: Histogram,
    first_token: OnceLock<Histogram>,
    overhead: OnceLock<Histogram>,
    tokens: OnceLock<Tokens>,
}

/// The token metrics of one surface, operation and model.
#[derive(Debug)]
struct Tokens {
    input: Histogram,
    output: Histogram,
    totals: [IntCounter; 4],
}

/// Where a request was counted: places in the configuration's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Surface; `None` outside of any.
    pub surface: Option<usize>,
    /// Operation; `None` where the path or the method is none's.
    pub operation: Option<Operation>,
    /// Model; `None` where the request named none that is known.
    pub model: Option<usize>,
}

/// The handles of one configuration, made when first used: their number is bounded by its lists.
#[derive(Debug)]
pub struct Recorder {
    metrics: Arc<Metrics>,
    surfaces: Vec<Arc<str>>,
    models: Vec<Arc<str>>,
    attempts: Vec<(Arc<str>, [OnceLock<IntCounter>; AttemptEnd::COUNT])>,
    series: ArcSwap<AHashMap<Place, Arc<Series>>>,
}

impl Recorder {
    /// A recorder for these mounts, models and providers.
    pub fn new(
        metrics: Arc<Metrics>,
        surfaces: Vec<Arc<str>>,
        models: Vec<Arc<str>>,
        providers: Vec<Arc<str>>,
    ) -> Recorder {
        let unused = |name| (name, Default::default());
        Recorder {
            metrics,
            surfaces,
            models,
            attempts: providers.into_iter().map(unused).collect(),
            series: ArcSwap::default(),
        }
    }

    /// Counts an attempt at the provider in this place of the configuration's list.
    pub fn attempt(&self, provider: usize, end: AttemptEnd) {
        let Some((name, counters)) = self.attempts.get(provider) else {
            return;
        };
        if let Some(counter) = counters.get(end as usize) {
            let labels = [&**name, end.as_str()];
            let made = || self.metrics.upstream.with_label_values(&labels);
            counter.get_or_init(made).inc();
        }
    }

    /// Counts a finished request.
    pub fn record(&self, place: Place, event: &Event) {
        let series = self.series(place);
        let metrics = &self.metrics;
        let names = self.names(place);
        if event.outcome == Outcome::Answered && event.status / 100 == 2 {
            series.answered.inc();
        } else {
            let class = match event.status / 100 {
                2 => "2xx",
                4 => "4xx",
                5 => "5xx",
                _ => "other",
            };
            let [surface, operation, model] = names;
            let labels = [surface, operation, model, class, event.outcome.code()];
            metrics.requests.with_label_values(&labels).inc();
        }
        series.duration.observe(event.total.as_secs_f64());
        if let Some(first_byte) = event.first_byte {
            series.first_byte.observe(first_byte.as_secs_f64());
        }
        if let Some(first_event) = event.first_event {
            let made = || metrics.first_token.with_label_values(&names);
            let histogram = series.first_token.get_or_init(made);
            histogram.observe(first_event.as_secs_f64());
        }
        if let Some(overhead) = event.overhead {
            let made = || metrics.overhead.with_label_values(&names);
            series
                .overhead
                .get_or_init(made)
                .observe(overhead.as_secs_f64());
        }
        if let Some((usage, _)) = event.usage {
            let made = || Tokens::new(metrics, names);
            series.tokens.get_or_init(made).count(usage);
        }
    }

    /// Surface, operation and model as labels.
    fn names(&self, place: Place) -> [&str; 3] {
        fn name(names: &[Arc<str>], at: Option<usize>) -> &str {
            at.and_then(|at| names.get(at)).map_or("other", |name| name)
        }
        [
            name(&self.surfaces, place.surface),
            place.operation.map_or("other", Operation::label),
            name(&self.models, place.model),
        ]
    }

    fn series(&self, place: Place) -> Arc<Series> {
        if let Some(series) = self.series.load().get(&place) {
            return series.clone();
        }
        let made = Arc::new(Series::new(&self.metrics, self.names(place)));
        self.series.rcu(|known| {
            let mut known = AHashMap::clone(known);
            known.entry(place).or_insert_with(|| made.clone());
            known
        });
        made
    }
}

impl Series {
    fn new(metrics: &Metrics, names: [&str; 3]) -> Series {
        let [surface, operation, model] = names;
        Series {
            answered: metrics
                .requests
                .with_label_values(&[surface, operation, model, "2xx", ""]),
            duration: metrics.duration.with_label_values(&names),
            first_byte: metrics.first_byte.with_label_values(&names),
            first_token: OnceLock::new(),
            overhead: OnceLock::new(),
            tokens: OnceLock::new(),
        }
    }
}

impl Tokens {
    fn new(metrics: &Metrics, names: [&str; 3]) -> Tokens {
        let [surface, operation, model] = names;
        let histogram = |kind: &str| {
            let labels = [surface, operation, model, kind];
            metrics.token_usage.with_label_values(&labels)
        };
        let total = |kind: &str| metrics.tokens.with_label_values(&[model, kind]);
        Tokens {
            input: histogram("input"),
            output: histogram("output"),
            totals: [
                total("input"),
                total("output"),
                total("cached_input"),
                total("cache_write"),
            ],
        }
    }

    fn count(&self, usage: Usage) {
        self.input.observe(usage.input as f64);
        self.output.observe(usage.output as f64);
        let counts = [
            usage.input,
            usage.output,
            usage.cached_input,
            usage.cache_write,
        ];
        for (total, count) in self.totals.iter().zip(counts) {
            total.inc_by(count);
        }
    }
}
