//! Metrics of upstreams that fail, and what is told of them.

use crate::upstream::health::Change;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// Of upstreams. Labels are names of the configuration; an empty model stands for all of a provider.
#[derive(Debug)]
pub struct UpstreamMetrics {
    out: IntGaugeVec,
    ejections: IntCounterVec,
    keys: IntGaugeVec,
    retries: IntCounterVec,
}

impl UpstreamMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// Two metrics of one name: an error in this file.
    pub fn new(registry: &Registry) -> Result<UpstreamMetrics, prometheus::Error> {
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        Ok(UpstreamMetrics {
            out: gauges(
                "tollgate_upstream_out",
                "1 while an upstream is left out because it fails; without a model: all of the provider",
                &["provider", "model"],
            )?,
            ejections: counters(
                "tollgate_upstream_ejections_total",
                "How often an upstream was left out because it failed",
                &["provider", "model"],
            )?,
            keys: gauges(
                "tollgate_provider_keys_refused",
                "Keys of a provider that it refused when they were last used",
                &["provider"],
            )?,
            retries: counters(
                "tollgate_retries_total",
                "Further attempts: taken, or refused by the budget of retries",
                &["result"],
            )?,
        })
    }

    /// Counts a further attempt, or one for which there was no budget.
    pub fn retry(&self, taken: bool) {
        let result = if taken { "taken" } else { "no_budget" };
        self.retries.with_label_values(&[result]).inc();
    }

    /// Tells how many keys of a provider were refused when they were last used.
    pub fn keys_refused(&self, provider: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.keys.with_label_values(&[provider]).set(count);
    }

    /// Tells that an upstream is left out, or takes part again.
    pub fn changed(&self, provider: &str, model: &str, change: Change) {
        let labels = [provider, model];
        let what = match model {
            "" => format!("provider {provider}"),
            _ => format!("provider {provider}, model {model}"),
        };
        match change {
            Change::Out(time) => {
                log::warn!(
                    "{what}: left out for {:.1} s because it fails",
                    time.as_secs_f64()
                );
                self.ejections.with_label_values(&labels).inc();
                self.out.with_label_values(&labels).set(1);
            }
            Change::Back => {
                log::info!("{what}: takes part again");
                self.out.with_label_values(&labels).set(0);
            }
        }
    }

    /// Forgets an upstream that is not configured any more; without a model a provider.
    pub fn forget(&self, provider: &str, model: &str) {
        // Most were never told of.
        let _ = self.out.remove_label_values(&[provider, model]);
        if model.is_empty() {
            let _ = self.keys.remove_label_values(&[provider]);
        }
    }
}
