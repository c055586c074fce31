//! Metrics of the configuration: is what is in force what the file says?

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use std::time::{SystemTime, UNIX_EPOCH};

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadEnd {
    /// What had changed is in force.
    Applied,
    /// Nothing had changed that takes hold without a restart.
    Unchanged,
    /// It is not valid; what was in force stays in force.
    Failed,
}

/// The handles.
#[derive(Debug)]
pub struct ReloadMetrics {
    failed: IntGauge,
    reloads: IntCounterVec,
    last: IntGauge,
    waiting: IntGauge,
}

impl ReloadMetrics {
    pub(super) fn new(registry: &Registry) -> Result<ReloadMetrics, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let reloads = IntCounterVec::new(
            Opts::new(
                "tollgate_config_reloads_total",
                "Times that the configuration was read again, by how that ended",
            ),
            &["result"],
        )?;
        registry.register(Box::new(reloads.clone()))?;
        let metrics = ReloadMetrics {
            failed: gauge(
                "tollgate_config_reload_failed",
                "1 while the configuration file is not valid and an earlier state of it is in force",
            )?,
            reloads,
            last: gauge(
                "tollgate_config_last_reload_success_timestamp_seconds",
                "When the configuration file was last read and found valid",
            )?,
            waiting: gauge(
                "tollgate_config_restart_needed",
                "Changed settings that wait for a restart",
            )?,
        };
        metrics.read_now();
        Ok(metrics)
    }

    /// Counts a reload; `waiting` settings wait for a restart, as far as that is known.
    pub fn ended(&self, end: ReloadEnd, waiting: Option<usize>) {
        let result = match end {
            ReloadEnd::Applied => "applied",
            ReloadEnd::Unchanged => "unchanged",
            ReloadEnd::Failed => "failed",
        };
        self.reloads.with_label_values(&[result]).inc();
        self.failed.set(i64::from(end == ReloadEnd::Failed));
        if end != ReloadEnd::Failed {
            self.read_now();
        }
        if let Some(waiting) = waiting {
            self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        }
    }

    fn read_now(&self) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        self.last.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}
