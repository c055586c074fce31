//! The scenarios: what each measures, in the order of the report.

mod bodies;
mod growth;
mod others;
mod policy;
mod streams;

use clap::ValueEnum;

use super::field::{Field, Planned};
use super::figures::{Cell, Scenario, grouped};
use super::measure::Measure;
use super::work::{Side, Work};
use crate::Result;

/// The sides that most scenarios have.
pub const BARE: &str = "bare Pingora";
pub const TOLLGATE: &str = "Tollgate";

/// The points that targets are read from.
pub const ALL_ON: &str = "everything on";
pub const UNKNOWN_KEY: &str = "401, unknown key";
pub const LIMIT_REACHED: &str = "429, limit in memory";
pub const STREAMS: &str = "500";
pub const LARGEST_BODY: usize = 20_000_000;
pub const REQUESTS_ONLY: &str = "requests";
pub const ALL_LIMITS: &str = "requests, tokens, concurrency";
pub const IN_MEMORY: &str = "in memory";
pub const IN_REDIS: &str = "in Redis";
pub const BESIDE: &str = "beside 20 MB bodies";

/// A scenario's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Name {
    /// Two pass-throughs against each other: what of a ratio is noise.
    Control,
    /// Key, limits, charges: step by step, beside a bare pass-through.
    Everything,
    /// nginx, HAProxy and Envoy, at the nearest same work.
    Peers,
    /// TLS and HTTP/2.
    Wire,
    /// Idle memory, and the time from the start to the first right answer.
    Start,
    /// Bodies from 240 bytes to 20 MB.
    Size,
    /// Small requests beside bodies of 20 MB.
    Beside,
    /// 1 to 100,000 keys.
    Keys,
    /// 1 to 1,000 models.
    Models,
    /// 1 to 50 providers of a model.
    Upstreams,
    /// 1 to 10,000 connections.
    Connections,
    /// 401 and 429.
    Refusals,
    /// 100 to 10,000 streams.
    Streams,
    /// Limits in memory and in Redis.
    Limits,
    /// Charges: off, on the embedded store, in Redis.
    Billing,
}

/// What a scenario is, and how its cells are made ready.
pub struct Plan {
    /// How many times there and back.
    pub rounds: u32,
    /// How much a turn is, in words.
    pub turn: String,
    /// What it is; without cells.
    pub scenario: Scenario,
    /// The cells.
    pub planned: Vec<Planned>,
}

impl Name {
    /// As `--only` has it.
    pub fn text(self) -> &'static str {
        match self {
            Name::Control => "control",
            Name::Everything => "everything",
            Name::Peers => "peers",
            Name::Wire => "wire",
            Name::Start => "start",
            Name::Size => "size",
            Name::Beside => "beside",
            Name::Keys => "keys",
            Name::Models => "models",
            Name::Upstreams => "upstreams",
            Name::Connections => "connections",
            Name::Refusals => "refusals",
            Name::Streams => "streams",
            Name::Limits => "limits",
            Name::Billing => "billing",
        }
    }

    /// Starts what it needs.
    pub async fn plan(self, field: &mut Field) -> Result<Plan> {
        match self {
            Name::Control => policy::control(field).await,
            Name::Everything => policy::everything(field).await,
            Name::Peers => others::peers(field).await,
            Name::Wire => others::wire(field).await,
            Name::Start => Ok(start(field)),
            Name::Size => bodies::size(field).await,
            Name::Beside => bodies::beside(field).await,
            Name::Keys => growth::keys(field).await,
            Name::Models => growth::models(field).await,
            Name::Upstreams => growth::upstreams(field).await,
            Name::Connections => growth::connections(field).await,
            Name::Refusals => policy::refusals(field).await,
            Name::Streams => streams::streams(field),
            Name::Limits => policy::limits(field).await,
            Name::Billing => policy::billing(field).await,
        }
    }

    /// Whether it asks Redis about each request. Where the machine is busy otherwise, Redis may answer later than a gateway
    /// waits for it: then the scenario is measured anew.
    pub fn asks_redis(self) -> bool {
        matches!(self, Name::Refusals | Name::Limits | Name::Billing)
    }

    /// A scenario without an axis whose ratios are of processor time a request.
    fn scenario(self, title: &str, about: &str) -> Scenario {
        Scenario {
            name: self.text().to_owned(),
            title: title.to_owned(),
            about: about.to_owned(),
            method: String::new(),
            axis: None,
            main: Measure::RequestCost,
            level: None,
            plots: Vec::new(),
            cells: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// One whose points are sizes, and whose cost a request should stay what it is.
    fn curve(self, title: &str, axis: &str, about: &str) -> Scenario {
        Scenario {
            axis: Some(axis.to_owned()),
            level: Some((Measure::RequestCost, 0.0)),
            plots: vec![Measure::RequestCost],
            ..self.scenario(title, about)
        }
    }
}

impl Plan {
    /// Turns of a closed loop.
    fn closed(field: &Field, rounds: u32, scenario: Scenario, planned: Vec<Planned>) -> Self {
        let requests = grouped(field.requests());
        let connections = super::field::CONNECTIONS;
        Plan {
            rounds,
            turn: format!("closed loop, {requests} requests a turn over {connections} connections"),
            scenario,
            planned,
        }
    }
}

/// Idle memory, and from the start to the first right answer.
fn start(field: &Field) -> Plan {
    let scenario = Scenario {
        main: Measure::Ready,
        ..Name::Start.scenario(
            "Start",
            "A new process each turn, everything on: from its start to its first right answer, and what is resident then.",
        )
    };
    let planned = vec![
        Planned {
            cell: Cell::new("", BARE),
            work: Work::Started(Side::Bare),
        },
        Planned {
            cell: Cell::new("", TOLLGATE).against(0),
            work: Work::Started(Side::Gateway),
        },
    ];
    Plan {
        rounds: field.pick(2, 5),
        turn: "a start a turn".to_owned(),
        scenario,
        planned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_the_command_line_calls_it() {
        for name in Name::value_variants() {
            let value = name.to_possible_value();
            let text = value.as_ref().map(|value| value.get_name());
            assert_eq!(text, Some(name.text()));
        }
    }
}
