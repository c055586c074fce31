//! One line of a table, and one object of JSON, for each thing that was measured.

use serde_json::{Value, json};

use super::cost::{Idle, Row, Variant};
use super::exact::Exact;
use super::held::{Keys, Streaming};

/// A figure of Redis, of which there is none without it.
fn of_redis(variant: Variant, figure: f64, digits: usize) -> String {
    match variant.shared() {
        true => format!("{figure:.digits$}"),
        false => "–".to_owned(),
    }
}

impl Exact {
    /// As a line of a table.
    pub fn row(&self) -> String {
        let Exact {
            nodes,
            offered,
            elapsed_ms,
            sent,
            admitted,
            refused,
        } = self;
        format!(
            "| {nodes} | {offered:.0} | {:.2} | {sent} | {admitted} | {} | {refused} |\n",
            *elapsed_ms as f64 / 1000.0,
            self.bound()
        )
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let Exact {
            nodes,
            offered,
            elapsed_ms,
            sent,
            admitted,
            refused,
        } = self;
        json!({
            "nodes": nodes, "offered_per_second": offered, "elapsed_ms": elapsed_ms, "sent": sent,
            "admitted": admitted, "bound": self.bound(), "refused": refused,
        })
    }
}

impl Row {
    /// As a line of a table.
    pub fn row(&self) -> String {
        let Row {
            variant,
            nodes,
            requests: _,
            rate,
            gateways,
            redis,
            balancer,
            calls,
            received,
            sent,
            append_only,
            journals,
            logs,
            latency,
        } = self;
        let [redis, received, sent, append_only] =
            [(redis, 1), (received, 0), (sent, 0), (append_only, 0)]
                .map(|(figure, digits)| of_redis(*variant, *figure, digits));
        let calls = of_redis(*variant, *calls, 3);
        let name = variant.name();
        format!(
            "| {name} | {nodes} | {rate:.0} | {gateways:.1} | {redis} | {balancer:.1} | {calls} | {received} / {sent} | {append_only} | {journals:.0} | {logs:.0} | {} / {} |\n",
            latency.0, latency.1
        )
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let Row {
            variant,
            nodes,
            requests,
            rate,
            gateways,
            redis,
            balancer,
            calls,
            received,
            sent,
            append_only,
            journals,
            logs,
            latency,
        } = self;
        json!({
            "on": variant.name(), "nodes": nodes, "requests": requests, "requests_per_second": rate,
            "gateways_us": gateways, "redis_us": redis, "balancer_us": balancer, "redis_calls": calls,
            "to_redis_bytes": received, "from_redis_bytes": sent, "append_only_bytes": append_only,
            "journal_bytes": journals, "access_log_bytes": logs, "p50_us": latency.0, "p99_us": latency.1,
        })
    }
}

impl Idle {
    /// As a line of a table.
    pub fn row(&self) -> String {
        let Idle {
            nodes,
            gateways,
            redis,
            calls,
            memory,
        } = *self;
        let each = |figure: f64| figure / f64::from(nodes);
        format!(
            "| {nodes} | {:.0} | {:.0} | {:.1} | {:.1} |\n",
            each(gateways),
            each(redis),
            each(calls),
            memory as f64 / 1024.0
        )
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let Idle {
            nodes,
            gateways,
            redis,
            calls,
            memory,
        } = self;
        json!({
            "nodes": nodes, "gateways_us_per_second": gateways, "redis_us_per_second": redis,
            "redis_calls_per_second": calls, "gateway_pss_kib": memory,
        })
    }
}

impl Keys {
    /// As a line of a table.
    pub fn row(&self) -> String {
        let Keys {
            charged,
            accounts,
            keys,
            bytes,
            gateway,
        } = *self;
        let on = if charged {
            Variant::Billing
        } else {
            Variant::Limits
        };
        format!(
            "| {} | {accounts} | {keys} | {bytes:.0} | {:.1} |\n",
            on.name(),
            gateway as f64 / 1024.0
        )
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let Keys {
            charged,
            accounts,
            keys,
            bytes,
            gateway,
        } = self;
        json!({
            "charged": charged, "accounts": accounts, "keys": keys, "redis_bytes_per_key": bytes,
            "gateway_pss_kib": gateway,
        })
    }
}

impl Streaming {
    /// As a line of a table.
    pub fn row(&self) -> String {
        let Streaming {
            streams,
            events,
            gateway,
            redis,
            calls,
            memory,
            descriptors,
            journal,
            delay,
        } = self;
        format!(
            "| {streams} | {events} | {gateway:.1} | {memory:.1} | {descriptors:.2} | {redis:.1} | {calls:.3} | {journal:.0} | {} / {} |\n",
            delay.0, delay.1
        )
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let Streaming {
            streams,
            events,
            gateway,
            redis,
            calls,
            memory,
            descriptors,
            journal,
            delay,
        } = self;
        json!({
            "streams": streams, "events": events, "gateway_us_per_event": gateway,
            "redis_us_per_stream_second": redis, "redis_calls_per_stream_second": calls,
            "kib_per_stream": memory, "descriptors_per_stream": descriptors,
            "journal_bytes_per_stream_second": journal, "p50_us": delay.0, "p99_us": delay.1,
        })
    }
}
