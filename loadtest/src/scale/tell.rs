//! The report: tables for people, the same as JSON, and the two parts of `docs/capacity.md` that are measured.

use std::fmt::Write;
use std::process::Command;

use serde_json::{Value, json};

use super::cost::{Idle, Row, Variant};
use super::exact::{ALLOWANCE, Exact};
use super::held::Keys;
use super::plan::Costs;
use super::{ACCOUNTS, Figures};
use crate::Result;
use crate::bench::Cores;
use crate::page;
use crate::process::processor;

/// The marks of the page.
const MEASURED: &str = "capacity measured";
const SIZES: &str = "capacity sizes";

/// What is told, and what was asked for.
pub struct Told<'a> {
    /// What was measured.
    pub figures: &'a Figures,
    /// How long each load lasted.
    pub seconds: u64,
    /// Requests a second.
    pub rate: u64,
    /// Whether it was the quick form.
    pub quick: bool,
    /// Who ran where.
    pub cores: Cores,
}

/// The page with both parts anew.
pub fn replace(page: &str, measured: &str, sizes: &str) -> Result<String> {
    let page = page::replace(page, MEASURED, measured)?;
    page::replace(&page, SIZES, sizes)
}

impl Told<'_> {
    /// For people: everything.
    pub fn report(&self) -> Result<String> {
        Ok(format!("{}\n{}", self.measured()?, self.sizes()?))
    }

    /// What was measured.
    pub fn measured(&self) -> Result<String> {
        let Told {
            figures,
            seconds,
            rate,
            quick,
            cores,
        } = self;
        let Figures {
            exact,
            rows,
            idle,
            keys,
            streaming,
            repeated,
        } = figures;
        let form = match quick {
            true => "--quick".to_owned(),
            false => format!("--seconds {seconds} --rate {rate}"),
        };
        let mut text = format!(
            "{}, {}. `loadtest scale --gateway target/release/tollgate {form}`: gateways with one worker thread each, all on core {}; HAProxy, Redis (append-only file, \
             synced each second), generator and provider on core {}; files below {}. Two cores only: more gateways on the same core bring no throughput here. What counts is that a \
             request costs the same, whatever their number. Every answer was checked, and where requests were charged the ledger was the provider's count.\n\n",
            today()?,
            processor(),
            cores.proxy,
            cores.load,
            std::env::temp_dir().display(),
        );
        if *repeated > 0 {
            let _ = writeln!(
                text,
                "{repeated} turns were thrown away and done again: the machine was busy, and Redis later than gateways wait for it (503).\n"
            );
        }
        let _ = writeln!(
            text,
            "**A tight limit**: {} a minute, burst {}, an open loop:\n\n\
             | gateways | offered/s | seconds | sent | admitted | bound | refused |\n\
             | --- | --- | --- | --- | --- | --- | --- |",
            ALLOWANCE.rate, ALLOWANCE.burst
        );
        exact.iter().for_each(|exact| text.push_str(&exact.row()));
        let _ = writeln!(
            text,
            "\n**Below all limits**: an open loop, {ACCOUNTS} accounts with a key each in turns. For each request:\n\n\
             | on | gateways | requests/s | gateways, µs CPU | Redis, µs CPU | HAProxy, µs CPU | Redis calls | to / from Redis, bytes | append-only file, bytes | journal, bytes \
             | access log, bytes | from when it was due: p50 / p99, µs |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        );
        rows.iter().for_each(|row| text.push_str(&row.row()));
        text.push_str(&flat(rows));
        let _ = writeln!(
            text,
            "\n**Without requests**, everything on, each second:\n\n\
             | gateways | a gateway, µs CPU | Redis for each, µs CPU | Redis calls for each | a gateway's memory (PSS), MiB |\n\
             | --- | --- | --- | --- | --- |"
        );
        idle.iter().for_each(|idle| text.push_str(&idle.row()));
        let _ = writeln!(
            text,
            "\n**Keys in Redis** that were used once, one gateway:\n\n\
             | on | accounts | keys | Redis, bytes a key | gateway's memory (PSS), MiB |\n\
             | --- | --- | --- | --- | --- |"
        );
        keys.iter().for_each(|keys| text.push_str(&keys.row()));
        if let Some(streaming) = streaming {
            let _ = writeln!(
                text,
                "\n**Streams** of 20 events a second, everything on, straight to one gateway:\n\n\
                 | streams | events, none lost | gateway, µs CPU an event | KiB a stream | descriptors a stream | Redis, µs CPU a stream and second | Redis calls a stream \
                 and second | journal, bytes a stream and second | added delay p50 / p99, µs |\n\
                 | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
            );
            text.push_str(&streaming.row());
        }
        Ok(text)
    }

    /// What follows for given traffic.
    pub fn sizes(&self) -> Result<String> {
        Ok(self.costs()?.tables())
    }

    /// Of one gateway at the highest rate; of Redis whatever number of gateways it cost most with.
    fn costs(&self) -> Result<Costs> {
        let Figures {
            rows,
            idle,
            streaming,
            ..
        } = self.figures;
        let row = |variant| {
            rows.iter()
                .find(|row| row.variant == variant)
                .ok_or_else(|| format!("nothing was measured of: {}", variant.name()))
        };
        let all = row(Variant::All)?;
        let redis = |variant| {
            let alike = rows
                .iter()
                .filter(|row| row.variant == variant && row.rate >= all.rate);
            row(variant)?;
            Ok::<f64, String>(alike.map(|row| row.redis).fold(0.0, f64::max))
        };
        let idle = idle.last().ok_or("nothing was measured without requests")?;
        let streaming = streaming.ok_or("no streams were measured")?;
        Ok(Costs {
            gateway: all.gateways,
            redis_requests: redis(Variant::Requests)?,
            redis_limits: redis(Variant::Limits)?,
            redis_all: redis(Variant::All)?,
            network: all.received + all.sent,
            append_only: all.append_only,
            journals: all.journals,
            logs: all.logs,
            idle_redis: idle.redis / f64::from(idle.nodes),
            event: streaming.gateway,
            stream_kib: streaming.memory,
            stream_redis: streaming.redis,
            stream_journal: streaming.journal,
            stream_descriptors: streaming.descriptors,
            base_kib: idle.memory as f64,
        })
    }

    /// For programs.
    pub fn json(&self, failures: &[String]) -> Value {
        let Told {
            figures,
            seconds,
            rate,
            quick,
            cores: _,
        } = self;
        let Figures {
            exact,
            rows,
            idle,
            keys,
            streaming,
            repeated,
        } = figures;
        let each = |value: &mut dyn Iterator<Item = Value>| value.collect::<Vec<_>>();
        json!({
            "processor": processor(),
            "seconds": seconds,
            "rate": rate,
            "quick": quick,
            "failures": failures,
            "repeated": repeated,
            "exact": each(&mut exact.iter().map(Exact::json)),
            "requests": each(&mut rows.iter().map(Row::json)),
            "idle": each(&mut idle.iter().map(Idle::json)),
            "keys": each(&mut keys.iter().map(Keys::json)),
            "streams": streaming.map(|streaming| streaming.json()),
        })
    }
}

/// What more gateways cost a request, in words: beside one gateway with as many requests as each of them had.
fn flat(rows: &[Row]) -> String {
    let all = |nodes: u16, rate: f64| {
        rows.iter().find(|row| {
            row.variant == Variant::All && row.nodes == nodes && (row.rate - rate).abs() < 1.0
        })
    };
    let mut text = String::new();
    let Some(one) = rows.iter().find(|row| row.variant == Variant::All) else {
        return text;
    };
    for nodes in [2, 4] {
        if let (Some(many), Some(alone)) =
            (all(nodes, one.rate), all(1, one.rate / f64::from(nodes)))
        {
            let _ = writeln!(
                text,
                "\n{nodes} gateways: a request cost the gateways {:.2} × what it cost one gateway that had as many requests a second as each of them, and Redis {:.2} × what \
                 it cost with one gateway and as many requests in all.",
                many.gateways / alone.gateways,
                many.redis / one.redis
            );
        }
    }
    text
}

/// The day, as the system tells it.
fn today() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%F"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::held::Streaming;
    use super::*;

    fn row(variant: Variant, gateways: f64) -> Row {
        Row {
            variant,
            nodes: 1,
            requests: 10_000,
            rate: 1_000.0,
            gateways,
            redis: 95.0,
            balancer: 20.0,
            calls: 2.0,
            received: 700.0,
            sent: 300.0,
            append_only: 600.0,
            journals: 190.0,
            logs: 420.0,
            latency: (700, 2_000),
        }
    }

    fn figures() -> Figures {
        Figures {
            exact: vec![Exact {
                nodes: 1,
                offered: 400.0,
                elapsed_ms: 9_998,
                sent: 4_000,
                admitted: 1_099,
                refused: 2_901,
            }],
            rows: [
                (Variant::All, 90.0),
                (Variant::Requests, 60.0),
                (Variant::Limits, 70.0),
                (Variant::Memory, 45.0),
            ]
            .map(|(variant, cost)| row(variant, cost))
            .to_vec(),
            idle: vec![Idle {
                nodes: 4,
                gateways: 4_000.0,
                redis: 400.0,
                calls: 16.0,
                memory: 20_480,
            }],
            keys: Vec::new(),
            streaming: Some(Streaming {
                streams: 500,
                events: 100_000,
                gateway: 25.0,
                redis: 10.0,
                calls: 0.1,
                memory: 64.0,
                descriptors: 2.0,
                journal: 50.0,
                delay: (100, 400),
            }),
            repeated: 0,
        }
    }

    #[test]
    fn what_is_told_fits_the_page() -> Result<()> {
        let figures = figures();
        let told = Told {
            figures: &figures,
            seconds: 10,
            rate: 1_000,
            quick: false,
            cores: Cores { proxy: 0, load: 1 },
        };
        let page = include_str!("../../../docs/capacity.md");
        let page = replace(page, &told.measured()?, &told.sizes()?)?;
        assert!(page.contains("| 1 | 400 | 10.00 | 4000 | 1099 | 1099 | 2901 |"));
        assert!(page.contains("| all limits, charged | 1 | 1000 | 90.0 | 95.0 | 20.0 | 2.000 | 700 / 300 | 600 | 190 | 420 | 700 / 2000 |"));
        // Without Redis there is nothing to tell of it.
        assert!(page.contains(
            "| all limits; without Redis | 1 | 1000 | 45.0 | – | 20.0 | – | – / – | – | 190 | 420 |"
        ));
        assert!(page.contains("| 4 | 1000 | 100 | 4.0 | 20.0 |"));
        assert!(page.contains("| 10000 | 0.90 | 2 |"));
        let json = told.json(&[]);
        assert_eq!(json["exact"][0]["bound"].as_u64(), Some(1_099));
        assert_eq!(json["requests"].as_array().map(Vec::len), Some(4));
        Ok(())
    }

    #[test]
    fn gateways_are_compared_at_the_same_load_of_each() {
        let of = |nodes, rate, gateways| Row {
            nodes,
            rate,
            ..row(Variant::All, gateways)
        };
        let rows = [
            of(1, 2_000.0, 80.0),
            of(4, 2_000.0, 126.0),
            of(1, 500.0, 120.0),
        ];
        let text = flat(&rows);
        assert!(
            text.contains("4 gateways: a request cost the gateways 1.05 ×"),
            "{text}"
        );
        assert!(!text.contains("2 gateways"), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_not_planned_with() {
        let figures = Figures {
            streaming: None,
            ..figures()
        };
        let told = Told {
            figures: &figures,
            seconds: 10,
            rate: 1_000,
            quick: true,
            cores: Cores { proxy: 0, load: 1 },
        };
        assert!(told.sizes().is_err());
    }
}
