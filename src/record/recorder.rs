//! One configuration's handles on the metrics, ready to be counted with.

use super::event::{Event, Outcome};
use super::metrics::{AttemptEnd, Metrics};
use super::upstreams::UpstreamMetrics;
use crate::limit::Reason;
use crate::meter::usage::Usage;
use crate::rejection::Code;
use crate::route::Operation;
use prometheus::{Histogram, IntCounter};
use std::sync::{Arc, OnceLock};

/// Ready handles of one surface, operation and model: looking labels up costs more than counting.
/// What only some requests have is made with the first of them, so that no series stays at zero.
#[derive(Debug)]
struct Series {
    answered: IntCounter,
    /// By code, of the gateway's own refusals: their status on one surface is always the same, while an
    /// upstream's failure may come behind a status 200.
    rejected: [OnceLock<IntCounter>; Code::ALL.len()],
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
#[derive(Clone, Copy, Debug)]
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
    plans: Vec<(Arc<str>, [OnceLock<IntCounter>; Reason::ALL.len()])>,
    attempts: Vec<(Arc<str>, [OnceLock<IntCounter>; AttemptEnd::COUNT])>,
    /// By surface, operation and model; the first of each stands for none.
    series: Vec<[OnceLock<Row>; Operation::ALL.len() + 1]>,
}

/// The handles of one surface and operation, by model.
type Row = Box<[OnceLock<Box<Series>>]>;

impl Recorder {
    /// A recorder for these mounts, models, plans and providers.
    pub fn new(
        metrics: Arc<Metrics>,
        surfaces: Vec<Arc<str>>,
        models: Vec<Arc<str>>,
        plans: Vec<Arc<str>>,
        providers: Vec<Arc<str>>,
    ) -> Recorder {
        let unused = |name| (name, Default::default());
        let series = std::iter::repeat_with(Default::default);
        let series = series.take(surfaces.len() + 1).collect();
        let unused_plan = |name| (name, Default::default());
        Recorder {
            metrics,
            surfaces,
            models,
            plans: plans.into_iter().map(unused_plan).collect(),
            attempts: providers.into_iter().map(unused).collect(),
            series,
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

    /// Metrics of upstreams that fail.
    pub fn upstreams(&self) -> &UpstreamMetrics {
        &self.metrics.upstreams
    }

    /// Counts a request that a limit of the plan in this place of the configuration's list refused.
    pub fn refused(&self, plan: usize, reason: Reason) {
        let Some((name, counters)) = self.plans.get(plan) else {
            return;
        };
        if let Some(counter) = counters.get(reason as usize) {
            let labels = [&**name, reason.as_str()];
            let refusals = &self.metrics.limits.refusals;
            counter
                .get_or_init(|| refusals.with_label_values(&labels))
                .inc();
        }
    }

    /// Counts a request without a valid key that was one of too many.
    pub fn refused_unauthenticated(&self) {
        let refusals = &self.metrics.limits.refusals;
        refusals.with_label_values(&["", "unauthenticated"]).inc();
    }

    /// Counts a finished request.
    pub fn record(&self, place: Place, event: &Event) {
        let Some(series) = self.series(place) else {
            return;
        };
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
            let made = || metrics.requests.with_label_values(&labels);
            let known = match event.outcome {
                Outcome::Rejected(code) if !code.is_upstreams() => {
                    series.rejected.get(code as usize)
                }
                _ => None,
            };
            match known {
                Some(counter) => counter.get_or_init(made).inc(),
                None => made().inc(),
            }
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

    /// `None` for what is not in this configuration's lists.
    fn series(&self, place: Place) -> Option<&Series> {
        let at = |place: Option<usize>| place.map_or(0, |place| place + 1);
        let rows = self.series.get(at(place.surface))?;
        let row = rows.get(at(place.operation.map(|operation| operation as usize)))?;
        let none = || std::iter::repeat_with(OnceLock::new);
        let row = row.get_or_init(|| none().take(self.models.len() + 1).collect());
        let made = || Box::new(Series::new(&self.metrics, self.names(place)));
        Some(row.get(at(place.model))?.get_or_init(made))
    }
}

impl Series {
    fn new(metrics: &Metrics, names: [&str; 3]) -> Series {
        let [surface, operation, model] = names;
        Series {
            answered: metrics
                .requests
                .with_label_values(&[surface, operation, model, "2xx", ""]),
            rejected: std::array::from_fn(|_| OnceLock::new()),
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
