//! Metrics of limits and of the store behind them.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};
use std::time::Duration;

/// What the store's circuit breaker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaking {
    /// Calls go through.
    Closed,
    /// Calls fail at once.
    Open,
    /// Calls fail at once, and one try is under way.
    Probing,
}

/// The functions that are called in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is described where it is defined, in Lua
pub enum Function {
    Admit,
    Settle,
    Renew,
    Read,
    Announce,
    Nodes,
    Charge,
    Extend,
    Forget,
    Post,
    Verify,
    VerifyDay,
    Write,
    Restore,
    Changes,
    /// A plain command of Redis.
    Command,
}

impl Function {
    const ALL: [Function; 16] = [
        Function::Admit,
        Function::Settle,
        Function::Renew,
        Function::Read,
        Function::Announce,
        Function::Nodes,
        Function::Charge,
        Function::Extend,
        Function::Forget,
        Function::Post,
        Function::Verify,
        Function::VerifyDay,
        Function::Write,
        Function::Restore,
        Function::Changes,
        Function::Command,
    ];

    /// Whether a request waits for it. The others are tried again in the background: how they fail says
    /// nothing new of Redis.
    pub const fn is_waited_for(self) -> bool {
        matches!(self, Function::Admit | Function::Read)
    }

    /// Its name in metrics and, with `tollgate_` before it and the library's version behind, in Redis.
    pub const fn as_str(self) -> &'static str {
        match self {
            Function::Admit => "admit",
            Function::Settle => "settle",
            Function::Renew => "renew",
            Function::Read => "read",
            Function::Announce => "announce",
            Function::Nodes => "nodes",
            Function::Charge => "charge",
            Function::Extend => "extend",
            Function::Forget => "forget",
            Function::Post => "post",
            Function::Verify => "verify",
            Function::VerifyDay => "verify_day",
            Function::Write => "write",
            Function::Restore => "restore",
            Function::Changes => "changes",
            Function::Command => "command",
        }
    }
}

/// Of Redis.
#[derive(Debug)]
pub struct StoreMetrics {
    /// By [`Function`]: looking a label up on every request would cost more than counting.
    calls: [Histogram; Function::ALL.len()],
    errors: IntCounterVec,
    breaker: IntGauge,
    away: IntGauge,
    nodes: IntGauge,
}

/// A round trip on one machine takes tens of microseconds; nobody waits longer than 50 ms.
const ROUND_TRIP: [f64; 10] = [
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05,
];

/// In memory an admission takes well under a microsecond.
const ADMISSION: [f64; 12] = [
    0.000_000_5,
    0.000_001,
    0.000_002,
    0.000_005,
    0.000_02,
    0.000_1,
    0.000_2,
    0.000_5,
    0.001,
    0.005,
    0.02,
    0.05,
];

impl StoreMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// Two metrics of one name: an error in this file.
    pub fn new(registry: &Registry) -> Result<StoreMetrics, prometheus::Error> {
        let calls = HistogramVec::new(
            HistogramOpts::new(
                "tollgate_redis_call_seconds",
                "Calls to Redis that were answered, by function",
            )
            .buckets(ROUND_TRIP.to_vec()),
            &["function"],
        )?;
        let errors = IntCounterVec::new(
            Opts::new(
                "tollgate_redis_errors_total",
                "Calls to Redis without an answer in time, or with an error",
            ),
            &["kind"],
        )?;
        let breaker = IntGauge::new(
            "tollgate_redis_breaker_state",
            "0 closed: calls go through; 1 open: they fail at once; 2 half-open: a try is under way",
        )?;
        let away = IntGauge::new(
            "tollgate_store_away",
            "1 while Redis is away and store.on_failure decides",
        )?;
        let nodes = IntGauge::new(
            "tollgate_nodes",
            "Nodes on this Redis as last heard, this one included",
        )?;
        registry.register(Box::new(calls.clone()))?;
        let calls = Function::ALL.map(|function| calls.with_label_values(&[function.as_str()]));
        registry.register(Box::new(errors.clone()))?;
        registry.register(Box::new(breaker.clone()))?;
        registry.register(Box::new(away.clone()))?;
        registry.register(Box::new(nodes.clone()))?;
        nodes.set(1);
        Ok(StoreMetrics {
            calls,
            errors,
            breaker,
            away,
            nodes,
        })
    }

    /// Counts an answered call.
    pub fn call(&self, function: Function, took: Duration) {
        if let Some(calls) = self.calls.get(function as usize) {
            calls.observe(took.as_secs_f64());
        }
    }

    /// Counts a call without an answer.
    pub fn error(&self, kind: &str) {
        self.errors.with_label_values(&[kind]).inc();
    }

    /// Shows the breaker.
    pub fn breaker(&self, state: Breaking) {
        self.breaker.set(match state {
            Breaking::Closed => 0,
            Breaking::Open => 1,
            Breaking::Probing => 2,
        });
        self.away.set(i64::from(state != Breaking::Closed));
    }

    /// Shows the nodes.
    pub fn nodes(&self, nodes: u32) {
        self.nodes.set(i64::from(nodes));
    }
}

/// Of limits.
#[derive(Debug)]
pub struct LimitMetrics {
    /// Refusals by plan and reason; see [`super::recorder::Recorder`].
    pub refusals: IntCounterVec,
    /// How long admissions took.
    pub admission: Histogram,
    /// Subjects that are not as good as new.
    pub tracked: IntGauge,
    /// Corrections that never reached Redis.
    pub lost: prometheus::IntCounter,
}

impl LimitMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// Two metrics of one name: an error in this file.
    pub fn new(registry: &Registry) -> Result<LimitMetrics, prometheus::Error> {
        let refusals = IntCounterVec::new(
            Opts::new(
                "tollgate_limit_refusals_total",
                "Requests that a limit refused, by plan and limit; without a key the plan is empty",
            ),
            &["plan", "reason"],
        )?;
        let admission = Histogram::with_opts(
            HistogramOpts::new(
                "tollgate_admission_seconds",
                "How long it took to ask the limits, Redis included",
            )
            .buckets(ADMISSION.to_vec()),
        )?;
        let tracked = IntGauge::new(
            "tollgate_limit_subjects",
            "Keys, accounts and networks whose limits are in use on this node",
        )?;
        let lost = prometheus::IntCounter::new(
            "tollgate_limit_settlements_lost_total",
            "Ended requests of which Redis was not told in time; their estimates stay charged",
        )?;
        registry.register(Box::new(refusals.clone()))?;
        registry.register(Box::new(admission.clone()))?;
        registry.register(Box::new(tracked.clone()))?;
        registry.register(Box::new(lost.clone()))?;
        Ok(LimitMetrics {
            refusals,
            admission,
            tracked,
            lost,
        })
    }
}
