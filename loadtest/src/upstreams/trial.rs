//! One trial: requests at a steady rate, all well at first; then providers fail, and are well again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::arrivals::share_back;
use super::attempts::Attempts;
use super::audit::Audit;
use super::course::{Course, Moments, Outcome, Pages, Record};
use super::fault::Fault;
use super::provider::Provider;
use super::site::{Books, Terms, Upstream};
use super::traffic::{Rate, Traffic};
use crate::Result;
use crate::ledger::provider::Told;
use crate::ledger::sight;
use crate::ledger::site::{MODEL, Node};
use crate::process::Scratch;

/// All is well for so long at first.
const BEFORE: Duration = Duration::from_secs(5);

/// After this time a provider that fails has been left out; a silent one is found out after a second.
pub const FOUND_OUT: Duration = Duration::from_secs(3);

/// Percent of the requests that are one of three providers' own again, when so many percent of all reach a provider.
const SHARE: u64 = 20;
const REACHING: u64 = 90;

/// An upstream is left out for 1 s at first and for 4 s at most, and is back in full after 2 s. Only one that is silent
/// has to answer within a second: elsewhere a machine that is busy with other things shall not look like a fault.
const PATIENT: &str = ", timeouts: { connect: 1s, first_byte: 5s }, \
                       health: { cooldown: 1s, max_cooldown: 4s, slow_start: 2s }";
const STRICT: &str = ", timeouts: { connect: 1s, first_byte: 1s }, \
                      health: { cooldown: 1s, max_cooldown: 4s, slow_start: 2s }";

/// After it has its share, requests go on for so long.
const REST: Duration = Duration::from_secs(1);

/// Memory is looked at so often.
const LOOK: Duration = Duration::from_millis(50);

/// What is tried.
pub struct Trial {
    /// In the table.
    pub name: String,
    /// How providers fail.
    pub fault: Fault,
    /// How many of the three.
    pub sick: usize,
    /// What `retries.resend` names.
    pub resend: &'static str,
    /// For how long.
    pub lasts: Duration,
}

impl Trial {
    /// Runs it, with a gateway of its own.
    pub async fn run(
        &self,
        program: &Path,
        scratch: &Scratch,
        rate: Rate,
    ) -> Result<(Course, Outcome)> {
        let mut providers = Vec::with_capacity(3);
        for name in ["p1", "p2", "p3"] {
            providers.push(Provider::start(name).await?);
        }
        let upstreams: Vec<Upstream> = providers.iter().map(|one| self.upstream(one)).collect();
        let resend = self.resend;
        let rate = Rate {
            keys: self.keys(rate.a_second),
            ..rate
        };
        let terms = Terms {
            upstreams: &upstreams,
            keys: rate.keys,
            others: 0,
            settings: &format!("retries: {{ resend: [{resend}] }}"),
        };
        let mut node = terms.node(program, scratch).await?;
        let traffic = Traffic::start(node.front, rate);
        let mut memory = 0;
        let least = rate.a_second * REACHING / 100;
        let phases = self.phases(&node, &providers, least, &mut memory);
        let (moments, mut pages) = phases.await?;
        let seen = traffic.finish().await?;
        let books = Books::ask(&mut node).await?;
        pages.end = attempts(&node).await?;
        let told: Vec<BTreeMap<u64, Told>> = providers.iter().map(|one| one.book.told()).collect();
        let audit = Audit::new(&seen, &told, &books.rows);
        let arrivals: Vec<Vec<Instant>> = providers.iter().map(Provider::arrivals).collect();
        let back = share_back(&arrivals, moments.well, moments.end, SHARE, least);
        let record = Record {
            moments,
            pages,
            seen,
            arrivals,
            back,
        };
        let course = Course::new(&record)?;
        let outcome = Outcome {
            audit,
            books,
            memory,
        };
        Ok((course, outcome))
    }

    /// Keys that suffice, at so many requests a second.
    pub fn keys(&self, a_second: u64) -> u64 {
        let most = BEFORE + self.lasts + self.fault.back() + REST * 2;
        a_second * (most.as_secs() + 1)
    }

    fn upstream(&self, provider: &Provider) -> Upstream {
        Upstream {
            name: provider.name,
            address: provider.address,
            model: MODEL,
            settings: match self.fault {
                Fault::Stalled => STRICT,
                _ => PATIENT,
            },
        }
    }

    async fn phases(
        &self,
        node: &Node,
        providers: &[Provider],
        least: u64,
        memory: &mut u64,
    ) -> Result<(Moments, Pages)> {
        watch(node, BEFORE, memory).await;
        let before = attempts(node).await?;
        let fails = Instant::now();
        for sick in providers.iter().take(self.sick) {
            sick.become_so(Some(self.fault));
        }
        watch(node, FOUND_OUT.min(self.lasts), memory).await;
        let (found_out, then) = (Instant::now(), attempts(node).await?);
        watch(node, self.lasts.saturating_sub(fails.elapsed()), memory).await;
        let during = attempts(node).await?;
        let well = Instant::now();
        for sick in providers {
            sick.become_so(None);
        }
        while well.elapsed() < self.fault.back() + REST {
            watch(node, LOOK * 4, memory).await;
            let arrivals: Vec<Vec<Instant>> = providers.iter().map(Provider::arrivals).collect();
            if share_back(&arrivals, well, Instant::now(), SHARE, least).is_some() {
                watch(node, REST, memory).await;
                break;
            }
        }
        let moments = Moments {
            fails,
            found_out,
            well,
            end: Instant::now(),
        };
        let pages = Pages {
            fails: before,
            found_out: then,
            end: during.clone(),
            well: during,
        };
        Ok((moments, pages))
    }
}

async fn attempts(node: &Node) -> Result<Attempts> {
    Ok(Attempts::read(&sight::page(node.metrics).await?))
}

/// Lets some time pass, and looks at the gateway's memory meanwhile.
pub async fn watch(node: &Node, time: Duration, memory: &mut u64) {
    let begin = Instant::now();
    loop {
        *memory = node.memory().unwrap_or(0).max(*memory);
        let left = time.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return;
        }
        sleep(LOOK.min(left)).await;
    }
}
