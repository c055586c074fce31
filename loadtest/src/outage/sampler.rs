//! What the gateways tell of themselves, asked every 20 ms: whether Redis is away, and how long admissions took.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::Result;
use crate::connection::Connection;

/// From one look to the next.
pub const EVERY: Duration = Duration::from_millis(20);

/// How long one page may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the gateways may take to know of each other.
const MEETING: Duration = Duration::from_secs(10);

/// The longest wait for Redis that is allowed, as the histogram's bound has it.
const ALLOWED: f64 = 0.05;

/// One look at one gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// When the page was there.
    pub at: Instant,
    /// `tollgate_store_away`.
    pub away: bool,
    /// `tollgate_nodes`.
    pub nodes: u64,
    /// `tollgate_redis_errors_total`, of all kinds.
    pub errors: u64,
    /// `tollgate_admission_seconds`: up to so many seconds, so many so far.
    admissions: Vec<(f64, u64)>,
}

/// How long the admissions of some time took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Waits {
    /// How many took longer than 50 ms.
    pub too_long: u64,
    /// The highest bucket with something in it: its bound in seconds, and how many.
    pub highest: Option<(f64, u64)>,
}

/// Looking at several gateways.
pub struct Sampler {
    tasks: JoinSet<Result<(usize, Vec<Sample>)>>,
    stop: watch::Sender<bool>,
}

impl Sampler {
    /// Begins to look.
    pub fn start(nodes: &[SocketAddr]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (number, address) in nodes.iter().copied().enumerate() {
            let stopped = stopped.clone();
            tasks.spawn(async move { Ok((number, follow(address, stopped).await?)) });
        }
        Sampler { tasks, stop }
    }

    /// Ends it, and gives what was seen of each gateway.
    pub async fn finish(mut self) -> Result<Vec<Vec<Sample>>> {
        self.stop.send_replace(true);
        let mut seen = Vec::new();
        while let Some(end) = self.tasks.join_next().await {
            seen.push(end??);
        }
        seen.sort_by_key(|(number, _)| *number);
        Ok(seen.into_iter().map(|(_, samples)| samples).collect())
    }
}

/// Waits until each gateway knows of all others and has Redis.
pub async fn together(nodes: &[SocketAddr]) -> Result<()> {
    let begin = Instant::now();
    for address in nodes {
        let mut connection = Connection::open(*address).await?;
        loop {
            let sample = look(&mut connection, *address).await?;
            if !sample.away && sample.nodes == nodes.len() as u64 {
                break;
            }
            if begin.elapsed() > MEETING {
                let known = sample.nodes;
                return Err(format!("a gateway knows of {known} nodes after {MEETING:?}").into());
            }
            sleep(EVERY).await;
        }
    }
    Ok(())
}

async fn follow(address: SocketAddr, mut stop: watch::Receiver<bool>) -> Result<Vec<Sample>> {
    let mut connection = Connection::open(address).await?;
    let mut samples = Vec::with_capacity(4096);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.changed() => break,
        }
        samples.push(look(&mut connection, address).await?);
    }
    // What the last answers added.
    samples.push(look(&mut connection, address).await?);
    Ok(samples)
}

async fn look(connection: &mut Connection, address: SocketAddr) -> Result<Sample> {
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let mut page = Vec::with_capacity(32 * 1024);
    let (status, close) = timeout(PATIENCE, connection.exchange(request.as_bytes(), &mut page))
        .await
        .map_err(|_| "a gateway does not show its metrics")??;
    if status != 200 {
        return Err(format!("a gateway answers {status} for its metrics").into());
    }
    if close {
        *connection = Connection::open(address).await?;
    }
    let text = std::str::from_utf8(&page)?;
    sample(text, Instant::now()).ok_or_else(|| "a gateway's metrics lack those of Redis".into())
}

/// Reads a page.
fn sample(page: &str, at: Instant) -> Option<Sample> {
    let value = |name: &str| -> Option<u64> {
        let line = page.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(' ')?.trim().parse().ok()
    };
    let (mut errors, mut admissions) = (0, Vec::with_capacity(16));
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("tollgate_redis_errors_total{") {
            errors += rest.split_once("} ")?.1.trim().parse::<u64>().ok()?;
        }
        let Some(rest) = line.strip_prefix("tollgate_admission_seconds_bucket{le=\"") else {
            continue;
        };
        let (bound, count) = rest.split_once("\"} ")?;
        admissions.push((bound.parse().ok()?, count.trim().parse().ok()?));
    }
    let allowed = admissions.iter().any(|(bound, _)| *bound == ALLOWED);
    allowed.then_some(Sample {
        at,
        away: value("tollgate_store_away")? == 1,
        nodes: value("tollgate_nodes")?,
        errors,
        admissions,
    })
}

/// How long admissions took from one look to a later one, at the same gateway.
fn waits(before: &Sample, after: &Sample) -> Waits {
    let mut waits = Waits {
        too_long: 0,
        highest: None,
    };
    let mut below = 0;
    for ((bound, count), (_, earlier)) in after.admissions.iter().zip(&before.admissions) {
        let so_far = count.saturating_sub(*earlier);
        let within = so_far.saturating_sub(below);
        below = so_far;
        if within > 0 {
            waits.highest = Some((*bound, within));
            if *bound > ALLOWED {
                waits.too_long += within;
            }
        }
    }
    waits
}

/// How many calls failed between two looks at each gateway.
pub fn errors_of_all(seen: &[Vec<Sample>], from: Instant, until: Instant) -> Vec<u64> {
    around(seen, from, until)
        .map(|pair| pair.map_or(0, |(first, last)| last.errors.saturating_sub(first.errors)))
        .collect()
}

/// How long admissions took between two moments, at all gateways.
pub fn waits_of_all(seen: &[Vec<Sample>], from: Instant, until: Instant) -> Option<Waits> {
    around(seen, from, until)
        .map(|pair| pair.map(|(first, last)| waits(first, last)))
        .reduce(|one, other| Some(one?.and(other?)))?
}

/// The last look at each gateway before some time, and the last one in it: what came after belongs to the next time.
fn around(
    seen: &[Vec<Sample>],
    from: Instant,
    until: Instant,
) -> impl Iterator<Item = Option<(&Sample, &Sample)>> {
    seen.iter().map(move |samples| {
        let first = samples.iter().rfind(|sample| sample.at <= from);
        let last = samples.iter().rfind(|sample| sample.at <= until);
        Some((first.or(samples.first())?, last.or(samples.last())?))
    })
}

impl Waits {
    /// The highest bucket, for the table.
    pub fn words(self) -> String {
        match self.highest {
            None => "–".to_owned(),
            Some((bound, count)) if bound.is_finite() => {
                format!("≤ {} ms: {count}", bound * 1000.0)
            }
            Some((_, count)) => format!("> {} ms: {count}", ALLOWED * 1000.0),
        }
    }

    fn and(self, other: Waits) -> Waits {
        let highest = match (self.highest, other.highest) {
            (Some((bound, count)), Some((same, more))) if bound == same => {
                Some((bound, count + more))
            }
            (Some(one), Some(other)) => Some(if one.0 > other.0 { one } else { other }),
            (one, other) => one.or(other),
        };
        Waits {
            too_long: self.too_long + other.too_long,
            highest,
        }
    }
}

/// A look at which only this matters.
#[cfg(test)]
pub fn sample_of(at: Instant, away: bool) -> Sample {
    Sample {
        at,
        away,
        nodes: 2,
        errors: 0,
        admissions: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(away: u8, counts: [u64; 3]) -> String {
        let [fast, slow, all] = counts;
        format!(
            "# TYPE tollgate_store_away gauge\n\
             tollgate_store_away {away}\n\
             tollgate_nodes 2\n\
             tollgate_redis_errors_total{{kind=\"failed\"}} 3\n\
             tollgate_redis_errors_total{{kind=\"timeout\"}} 4\n\
             tollgate_admission_seconds_bucket{{le=\"0.001\"}} {fast}\n\
             tollgate_admission_seconds_bucket{{le=\"0.05\"}} {slow}\n\
             tollgate_admission_seconds_bucket{{le=\"+Inf\"}} {all}\n\
             tollgate_admission_seconds_count {all}\n"
        )
    }

    fn seen(counts: [u64; 3]) -> Result<Sample> {
        Ok(sample(&page(0, counts), Instant::now()).ok_or("unreadable")?)
    }

    #[test]
    fn a_page_without_the_metrics_is_not_taken_for_health() {
        let now = Instant::now();
        assert!(sample(&page(1, [1, 2, 3]), now).is_some_and(|sample| sample.away));
        assert!(
            sample(&page(0, [1, 2, 3]), now)
                .is_some_and(|sample| (sample.nodes, sample.errors) == (2, 7))
        );
        assert_eq!(sample("", now), None);
        assert_eq!(
            sample(&page(0, [1, 2, 3]).replace("0.05", "0.06"), now),
            None
        );
        assert_eq!(
            sample(&page(0, [1, 2, 3]).replace("away", "gone"), now),
            None
        );
    }

    #[test]
    fn waits_are_what_was_added_between() -> Result<()> {
        let before = seen([5, 6, 7])?;
        let quiet = waits(&before, &before);
        assert_eq!((quiet.too_long, quiet.highest), (0, None));
        let fine = waits(&before, &seen([10, 14, 15])?);
        assert_eq!((fine.too_long, fine.highest), (0, Some((0.05, 3))));
        let late = waits(&before, &seen([10, 14, 18])?);
        assert_eq!((late.too_long, late.highest), (3, Some((f64::INFINITY, 3))));
        let both = fine.and(late).and(quiet).and(fine);
        assert_eq!((both.too_long, both.highest), (3, late.highest));
        assert_eq!(fine.and(fine).highest, Some((0.05, 6)));
        Ok(())
    }
}
