//! Processor time and memory of a process that somebody else has started, over time.

use std::fmt::Write;
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use tokio::time::sleep;

use crate::Result;
use crate::process::{Memory, cpu_of, memory_of};
use crate::report::{Report, Samples};

/// The command line.
#[derive(Args)]
pub struct Watch {
    /// The process to watch, by its id.
    #[arg(long)]
    pid: u32,
    /// For so long, or until it ends.
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Milliseconds between two looks.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u64).range(100..=60_000))]
    interval_ms: u64,
}

/// One look.
#[derive(Clone, Copy)]
struct Look {
    at: Duration,
    /// Processor time so far.
    cpu: Duration,
    memory: Memory,
}

impl Watch {
    /// Looks until the time is over or the process has ended.
    pub async fn run(self) -> Result<Report> {
        let Watch {
            pid,
            seconds,
            interval_ms,
        } = self;
        let begin = Instant::now();
        let look = || -> Result<Look> {
            Ok(Look {
                at: begin.elapsed(),
                cpu: cpu_of(pid)?,
                memory: memory_of(pid)?,
            })
        };
        let mut looks = vec![look()?];
        for number in 1..=seconds * 1000 / interval_ms {
            let due = Duration::from_millis(interval_ms) * u32::try_from(number)?;
            sleep(due.saturating_sub(begin.elapsed())).await;
            // It has ended, which is no failure of the watch.
            let Ok(look) = look() else { break };
            looks.push(look);
        }
        Ok(Report::sound(table(pid, &looks)))
    }
}

fn table(pid: u32, looks: &[Look]) -> String {
    let mut text = String::from(
        "| seconds | CPU, % of a core | PSS, MiB | RSS, MiB |\n| --- | --- | --- | --- |\n",
    );
    let mib = |kib: u64| kib as f64 / 1024.0;
    let (mut share, mut pss, mut rss) =
        (Samples::default(), Samples::default(), Samples::default());
    for pair in looks.windows(2) {
        let [before, now] = pair else { continue };
        let time = (now.at - before.at).as_secs_f64();
        let worked = now.cpu.saturating_sub(before.cpu).as_secs_f64();
        let percent = 100.0 * worked / time;
        share.add(percent);
        pss.add(mib(now.memory.pss));
        rss.add(mib(now.memory.rss));
        let _ = writeln!(
            text,
            "| {:.1} | {percent:.1} | {:.1} | {:.1} |",
            now.at.as_secs_f64(),
            mib(now.memory.pss),
            mib(now.memory.rss),
        );
    }
    let _ = writeln!(
        text,
        "\nprocess {pid}: CPU {} %, PSS {} MiB, RSS {} MiB: median (least–greatest) of {} looks",
        share.spread(1),
        pss.spread(1),
        rss.spread(1),
        share.count(),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_a_core_is_that_between_two_looks() {
        let look = |seconds, centiseconds: u64, pss| Look {
            at: Duration::from_secs(seconds),
            cpu: Duration::from_millis(10 * centiseconds),
            memory: Memory { rss: 2 * pss, pss },
        };
        let looks = [
            look(0, 1000, 1024),
            look(1, 1050, 2048),
            look(3, 1250, 4096),
        ];
        let text = table(7, &looks);
        assert!(text.contains("| 1.0 | 50.0 | 2.0 | 4.0 |"), "{text}");
        assert!(text.contains("| 3.0 | 100.0 | 4.0 | 8.0 |"), "{text}");
        assert!(
            text.contains("process 7: CPU 75.0 (50.0–100.0) %"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn this_process_can_be_watched() -> Result<()> {
        let watch = Watch {
            pid: std::process::id(),
            seconds: 1,
            interval_ms: 500,
        };
        assert!(watch.run().await?.text.contains("of 2 looks"));
        Ok(())
    }
}
