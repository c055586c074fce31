//! The quantities that are measured, and how they are told.

use serde::{Deserialize, Serialize};

/// A quantity that is measured. The order is that of a table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Processor time of the proxy.
    RequestCost,
    /// The same, of a streamed event.
    EventCost,
    /// What a core could serve if it did nothing else.
    PerCore,
    /// What was served.
    Rate,
    /// Bytes of bodies that a core could pass on if it did nothing else.
    Throughput,
    /// Processor time of Redis.
    RedisCost,
    /// Function calls in Redis.
    RedisCalls,
    /// The most memory beyond idle, in bodies.
    Peak,
    /// Memory beyond idle, divided by the connections.
    ConnectionMemory,
    /// Memory beyond idle, divided by the streams.
    StreamMemory,
    /// From the provider's stamp to the client, median.
    DelayMedian,
    /// The same, 99th percentile.
    DelayHigh,
    /// From when a request was due to the end of its answer, median.
    LatencyMedian,
    /// The same, 99th percentile.
    LatencyHigh,
    /// From the start of the process to its first right answer.
    Ready,
    /// Resident after the first right answer.
    Idle,
    /// Resident after the last turn.
    Resident,
    /// Streamed events that arrived.
    Events,
    /// Streamed events that did not.
    Lost,
}

impl Measure {
    /// As a table's column or a plot's axis names it.
    pub fn words(self) -> &'static str {
        match self {
            Measure::RequestCost => "µs CPU / request",
            Measure::EventCost => "µs CPU / event",
            Measure::PerCore => "requests/s a core",
            Measure::Rate => "measured/s",
            Measure::Throughput => "MB/s a core",
            Measure::RedisCost => "µs CPU of Redis / request",
            Measure::RedisCalls => "Redis calls / request",
            Measure::Peak => "peak memory / body",
            Measure::ConnectionMemory => "KiB / connection",
            Measure::StreamMemory => "KiB / stream",
            Measure::DelayMedian => "added delay p50, µs",
            Measure::DelayHigh => "added delay p99, µs",
            Measure::LatencyMedian => "p50, µs",
            Measure::LatencyHigh => "p99, µs",
            Measure::Ready => "ready, ms",
            Measure::Idle => "idle, MiB",
            Measure::Resident => "resident, MiB",
            Measure::Events => "events",
            Measure::Lost => "lost",
        }
    }

    /// Decimals that mean something.
    pub fn digits(self) -> usize {
        match self {
            Measure::RequestCost | Measure::EventCost | Measure::RedisCost | Measure::Peak => 2,
            Measure::RedisCalls => 3,
            Measure::ConnectionMemory
            | Measure::StreamMemory
            | Measure::Ready
            | Measure::Idle
            | Measure::Resident => 1,
            Measure::PerCore
            | Measure::Rate
            | Measure::Throughput
            | Measure::DelayMedian
            | Measure::DelayHigh
            | Measure::LatencyMedian
            | Measure::LatencyHigh
            | Measure::Events
            | Measure::Lost => 0,
        }
    }

    /// Whether more of it is better.
    pub fn more_is_better(self) -> bool {
        matches!(
            self,
            Measure::PerCore | Measure::Rate | Measure::Throughput | Measure::Events
        )
    }
}
