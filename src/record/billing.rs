//! Metrics of billing.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Of billing.
#[derive(Debug)]
pub struct BillingMetrics {
    /// Requests that could not be paid for, by reason; where nobody is refused, those that would have been.
    pub shortages: IntCounterVec,
    /// What was charged to balances, in micro-units, by how sure the usage is.
    pub charged: IntCounterVec,
    /// Charges that are in the journal and not yet in Redis.
    pub unsettled: IntGauge,
    /// Charges that were sent again: after a restart, or because Redis had lost them.
    pub replayed: IntCounter,
    /// Sums that are not what they should be, as of the last look.
    pub drift: IntGauge,
    /// 1 while the journal cannot be written.
    pub journal_failing: IntGauge,
    /// Requests in flight that something is held for.
    pub holds: IntGauge,
}

impl BillingMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// Two metrics of one name: an error in this file.
    pub fn new(registry: &Registry) -> Result<BillingMetrics, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| {
            let metric = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let replayed = IntCounter::new(
            "tollgate_charges_replayed_total",
            "Charges that were sent to Redis again: of a process before, or because Redis had lost them",
        )?;
        registry.register(Box::new(replayed.clone()))?;
        Ok(BillingMetrics {
            shortages: counters(
                "tollgate_billing_refusals_total",
                "Requests that could not be paid for; with billing.mode observe, those that would have been refused",
                "reason",
            )?,
            charged: counters(
                "tollgate_charged_micro_units_total",
                "What was charged, by how sure the usage is, in millionths of the currency",
                "source",
            )?,
            unsettled: gauge(
                "tollgate_charges_unsettled",
                "Charges that are in the journal and not yet in the store",
            )?,
            replayed,
            drift: gauge(
                "tollgate_ledger_drift",
                "Sums that are not what entries, usage and holds say, as of the last look; anything but 0 needs one",
            )?,
            journal_failing: gauge(
                "tollgate_journal_failing",
                "1 while the journal cannot be written and requests that cost are refused",
            )?,
            holds: gauge(
                "tollgate_holds",
                "Requests in flight that something is held for",
            )?,
        })
    }
}
