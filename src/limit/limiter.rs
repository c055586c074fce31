//! What the proxy asks: the limits of this node, or those of all nodes in Redis, and what to do while
//! Redis is away.

use super::joined::Joined;
use super::memory::Memory;
use super::redis::Shared;
use super::settling::{self, Ended, Settling};
use super::state::{Charge, reading, units};
use super::{Ask, Denial, Grant, Hold, Limits, Reading, Reason, Refused, Settle, Subject};
use crate::clock::{Clock, Now};
use crate::record::limits::LimitMetrics;
use crate::store::link::Away;
use crate::store::part::Part;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// Every entry is looked at once in this time.
const SWEEP: Duration = Duration::from_secs(30);

/// What is done with limits while Redis is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAway {
    /// By this node's own counters, at its share of each limit.
    Local,
    /// Everything is admitted.
    Allow,
    /// Nothing is.
    Deny,
}

/// The limits of a gateway.
pub struct Limiter {
    /// The only levels there are, or else what Redis last said of those that this node saw.
    memory: Memory,
    redis: Option<Backend>,
    clock: Clock,
    metrics: Arc<LimitMetrics>,
}

struct Backend {
    shared: Arc<Shared>,
    when_away: WhenAway,
    settling: Arc<Settling>,
    joined: Arc<Joined>,
}

impl Limiter {
    /// Limits of one node, in memory.
    pub fn memory(clock: Clock, metrics: Arc<LimitMetrics>) -> Arc<Limiter> {
        Arc::new(Limiter {
            memory: Memory::default(),
            redis: None,
            clock,
            metrics,
        })
    }

    /// Limits of all nodes on one Redis. [`Limiter::run`] must run for ended requests to reach it.
    pub fn redis(
        shared: Shared,
        when_away: WhenAway,
        clock: Clock,
        metrics: Arc<LimitMetrics>,
    ) -> Arc<Limiter> {
        let shared = Arc::new(shared);
        let settling = Arc::new(Settling::new(metrics.clone()));
        let joined = Arc::new(Joined::new(shared.clone(), settling.clone()));
        Arc::new(Limiter {
            memory: Memory::default(),
            redis: Some(Backend {
                shared,
                when_away,
                settling,
                joined,
            }),
            clock,
            metrics,
        })
    }

    /// Asks for one request.
    ///
    /// # Errors
    /// [`Denial`]: the limit that fired.
    pub async fn admit(self: &Arc<Self>, ask: Ask) -> Result<Grant, Denial> {
        match self.admit_with(ask, None).await {
            Ok(grant) => Ok(grant),
            Err(Refused::Limit(denial)) => Err(denial),
            // There was none.
            Err(Refused::Part) => Err(self.unknown()),
        }
    }

    /// Asks for one request, and in the same step for what comes with it: both are granted, or nothing is.
    ///
    /// # Errors
    /// [`Refused`]: which of the two it was. A limit that fires is told only if the other agreed.
    pub async fn admit_with(
        self: &Arc<Self>,
        ask: Ask,
        part: Option<&mut dyn Part>,
    ) -> Result<Grant, Refused> {
        if !ask.limits.any() && part.is_none() {
            return Ok(Grant {
                reading: Reading::default(),
                hold: None,
            });
        }
        let begun = Instant::now();
        let decision = match &self.redis {
            None => self.locally(ask, 1, part, begun),
            Some(backend) => self.in_redis(backend, ask, part).await,
        };
        self.metrics
            .admission
            .observe(begun.elapsed().as_secs_f64());
        let (reading, hold) = decision?;
        let hold = hold
            .filter(|hold| hold.ask.limits.settles())
            .map(|hold| (hold, self.clone() as Arc<dyn Settle>));
        Ok(Grant { reading, hold })
    }

    fn unknown(&self) -> Denial {
        Denial {
            reason: Reason::Store,
            wait: None,
            reading: Reading::default(),
        }
    }

    /// Where a subject stands. While Redis is away: as this node last heard.
    pub async fn read(&self, subject: &Subject, limits: &Limits) -> Reading {
        if limits.requests.is_none() && limits.tokens.is_none() {
            return Reading::default();
        }
        if let Some(backend) = &self.redis
            && let Ok(reading) = backend.shared.read(subject, limits).await
        {
            return reading;
        }
        self.memory
            .read(subject, limits, self.share(), self.clock.now())
    }

    /// The last known number of nodes that share the limits, this one included.
    pub fn nodes(&self) -> u32 {
        self.share()
    }

    /// Of how many parts of the limits this node has one, when it limits by itself.
    fn share(&self) -> u32 {
        self.redis
            .as_ref()
            .map_or(1, |backend| backend.shared.link().nodes())
    }

    fn locally(&self, ask: Ask, share: u32, part: Option<&mut dyn Part>, now: Instant) -> Decision {
        let charged = together(part, || {
            if !ask.limits.any() {
                return Ok((Reading::default(), None));
            }
            let (reading, charge) = self.memory.admit(&ask, share, self.clock.at(now))?;
            Ok((reading, Some(charge)))
        });
        charged.map(|(reading, charge)| {
            let hold = charge.map(|charge| Hold {
                ask,
                charge,
                id: None,
                share,
            });
            (reading, hold)
        })
    }

    async fn in_redis(
        &self,
        backend: &Backend,
        ask: Ask,
        mut part: Option<&mut dyn Part>,
    ) -> Decision {
        let id = ask.limits.settles().then(|| backend.settling.number());
        let mut unknown = Unknown {
            settling: &backend.settling,
            ask: &ask,
            id,
            ended: backend.settling.take(&ask.subject),
        };
        // What nobody can answer is not asked.
        let asked = match &mut part {
            Some(part) if backend.shared.link().up() => Some(&mut **part as &mut dyn Part),
            _ => None,
        };
        let said = backend.joined.admit(&ask, id, &unknown.ended, asked).await;
        if said.is_ok() {
            unknown.ended.clear();
        }
        if matches!(said, Ok(_) | Err(Away::Down)) {
            unknown.id = None;
        }
        drop(unknown);
        let (answer, agreed) = match said {
            Ok(answer) => answer,
            Err(_) => return self.while_away(backend, ask, part),
        };
        let denial = answer.denial(&ask.limits).filter(|_| agreed);
        let admitted = denial.is_none() && agreed;
        let begun = admitted && id.is_some();
        let now = self.clock.now();
        if ask.limits.any() {
            self.memory.follow(&ask, answer.levels, begun, now);
        }
        if let Some(denial) = denial {
            return Err(Refused::Limit(denial));
        }
        if !agreed {
            return Err(Refused::Part);
        }
        if let Some(id) = id {
            backend.settling.begun(id, &ask);
        }
        let reading = reading(&ask.limits, answer.levels, 1);
        let charged = ask.limits.charged(ask.estimate);
        let hold = id.map(|id| Hold {
            ask,
            charge: Charge {
                units: units(charged),
                tokens: charged,
                day: answer.day,
            },
            id: Some(id),
            share: 1,
        });
        Ok((reading, hold))
    }

    fn while_away(&self, backend: &Backend, ask: Ask, part: Option<&mut dyn Part>) -> Decision {
        let known = |now: Now| self.memory.read(&ask.subject, &ask.limits, 1, now);
        match backend.when_away {
            WhenAway::Local => self.locally(ask, self.share(), part, Instant::now()),
            WhenAway::Allow => together(part, || Ok((known(self.clock.now()), None))),
            WhenAway::Deny if !ask.limits.any() => {
                together(part, || Ok((Reading::default(), None)))
            }
            WhenAway::Deny => Err(Refused::Limit(Denial {
                reason: Reason::Store,
                wait: None,
                reading: known(self.clock.now()),
            })),
        }
    }

    /// Does what is not on any request's path, until told to stop.
    pub async fn run(self: Arc<Self>, stopped: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        if let Some(backend) = &self.redis {
            tasks.spawn(settling::run(
                backend.shared.clone(),
                backend.settling.clone(),
                stopped.clone(),
            ));
            tasks.spawn(settling::renew(
                backend.shared.clone(),
                backend.settling.clone(),
                stopped.clone(),
            ));
        }
        tasks.spawn(self.clone().sweep(stopped));
        while tasks.join_next().await.is_some() {}
    }

    async fn sweep(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let mut ticks = interval(SWEEP / Memory::ROUND as u32);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.changed() => return,
            }
            self.memory.sweep(self.clock.now());
            self.metrics.tracked.set(self.memory.tracked() as i64);
        }
    }
}

/// An admission of which nobody knows whether Redis did it: no answer came, or nobody waits for it any
/// more. Its place is given back, and what went along is told again; nothing counts twice.
struct Unknown<'a> {
    settling: &'a Settling,
    ask: &'a Ask,
    id: Option<u64>,
    /// What went along with it.
    ended: Vec<Ended>,
}

impl Drop for Unknown<'_> {
    fn drop(&mut self) {
        let ended = std::mem::take(&mut self.ended);
        self.settling.put_back(self.ask, ended);
        if let Some(id) = self.id {
            self.settling.unknown(self.ask, id);
        }
    }
}

type Decision = Result<(Reading, Option<Hold>), Refused>;

/// Asks the limits, and what comes with them, as one step.
fn together<T>(
    part: Option<&mut dyn Part>,
    mut limits: impl FnMut() -> Result<(Reading, Option<T>), Denial>,
) -> Result<(Reading, Option<T>), Refused> {
    let Some(part) = part else {
        return limits().map_err(Refused::Limit);
    };
    let mut said = None;
    part.locally(&mut || {
        let said = said.insert(limits());
        said.is_ok()
    });
    match said {
        Some(decision) => decision.map_err(Refused::Limit),
        None => Err(Refused::Part),
    }
}

impl Settle for Limiter {
    fn settle(&self, hold: Hold, used: Option<u64>) {
        match (hold.id, &self.redis) {
            (Some(id), Some(backend)) => {
                self.memory.ended(&hold.ask, self.clock.now());
                let more = used.map_or(0, |used| difference(used, hold.charge.tokens));
                let of = (id, hold.charge.day);
                if let Some((ask, ended)) = backend.settling.ended(hold.ask, more, of) {
                    backend.joined.end(ask, ended);
                }
            }
            _ => self.memory.settle(&hold, used, self.clock.now()),
        }
    }
}

fn difference(used: u64, charged: u64) -> i64 {
    let signed = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    signed(used).saturating_sub(signed(charged))
}
