//! Metrics of the caps: read off them when somebody looks, so that requests count once.

use crate::limit::overload::Caps;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use std::sync::{Arc, Mutex, PoisonError};

/// Shows the caps, what is taken of them, and how often they refused.
pub struct OverloadMetrics {
    caps: Arc<Caps>,
    most: IntGaugeVec,
    taken: IntGaugeVec,
    refusals: IntCounterVec,
    /// Two that look at once would count refusals twice.
    looking: Mutex<()>,
}

impl OverloadMetrics {
    /// Metrics of these caps.
    ///
    /// # Errors
    /// A name that no metric may have: an error in this file.
    pub fn new(caps: Arc<Caps>) -> Result<OverloadMetrics, prometheus::Error> {
        let gauges = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["cap"]);
        Ok(OverloadMetrics {
            caps,
            most: gauges(
                "tollgate_overload_cap",
                "The most of each that the process takes on at once; bytes for buffered",
            )?,
            taken: gauges(
                "tollgate_overload_used",
                "What is taken of each cap now; bytes for buffered",
            )?,
            refusals: IntCounterVec::new(
                Opts::new(
                    "tollgate_overload_refusals_total",
                    "Connections and requests that found a cap reached; those that found overflow and operators reached were closed without an answer",
                ),
                &["cap"],
            )?,
            looking: Mutex::default(),
        })
    }
}

impl Collector for OverloadMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let mut all = self.most.desc();
        all.extend(self.taken.desc());
        all.extend(self.refusals.desc());
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let shown = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, cap) in self.caps.all() {
            self.most.with_label_values(&[name]).set(shown(cap.most()));
            self.taken
                .with_label_values(&[name])
                .set(shown(cap.taken()));
            let refusals = self.refusals.with_label_values(&[name]);
            // It never falls: neither does the cap's own count.
            refusals.inc_by(cap.refused().saturating_sub(refusals.get()));
        }
        let mut all = self.most.collect();
        all.extend(self.taken.collect());
        all.extend(self.refusals.collect());
        all
    }
}
