//! What money does, on every backend: each body runs on the embedded store and on a real Redis, by a clock that
//! is moved by hand. What a gateway makes of it is in `billing.rs`.
//!
//! Above 400 lines: one suite, so that no backend can be left out of a part of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::redis::Redis;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tollgate::admit::gate::{self, Price};
use tollgate::admit::{FUNCTIONS, Refusal};
use tollgate::billing::hold::Hold;
use tollgate::billing::ledger::{Ledger, Settings, WhenAway};
use tollgate::billing::money::Money;
use tollgate::billing::period::Calendar;
use tollgate::billing::seeds::Seeds;
use tollgate::billing::{
    Bill, Caps, Due, Entry, Once, Payer, Pays, PostError, Reason, Shortage, Statement, Used,
};
use tollgate::clock::Clock;
use tollgate::limit::bucket::Bucket;
use tollgate::limit::limiter::{Limiter, WhenAway as LimitsAway};
use tollgate::limit::redis::Shared;
use tollgate::limit::{Ask, Limits, Subject};
use tollgate::meter::usage::{Source, Usage};
use tollgate::record::metrics::Metrics;
use tollgate::store::db::Db;
use tollgate::store::link::{Link, Settings as LinkSettings};

/// 20:00 UTC of 2026-11-30: a day and a month before their ends.
const EVENING: u64 = 1_796_068_800_000;
const HOUR: u64 = 3_600_000;
const ACCOUNT: &str = "acme";

/// A node: ledger and limiter on one store.
struct Node {
    ledger: Arc<Ledger>,
    limiter: Arc<Limiter>,
    metrics: Arc<Metrics>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// A store, the nodes on it, and the clock that they go by.
struct World {
    clock: Arc<AtomicU64>,
    dir: TempDir,
    redis: Option<Redis>,
    settings: Settings,
    seed: i64,
    node: Node,
}

fn settings() -> Settings {
    Settings {
        enforce: true,
        calendar: Calendar { offset: 0 },
        when_away: WhenAway::Deny,
    }
}

impl World {
    /// An account with so many micro-units.
    async fn embedded(seed: i64) -> World {
        World::new(seed, settings(), None).await
    }

    async fn redis(seed: i64) -> World {
        World::new(seed, settings(), Some(Redis::start().await)).await
    }

    async fn new(seed: i64, settings: Settings, redis: Option<Redis>) -> World {
        let clock = Arc::new(AtomicU64::new(EVENING));
        let dir = TempDir::with_prefix("ledger-").unwrap();
        let node = Node::start(&clock, &dir, redis.as_ref(), settings, seed).await;
        World {
            clock,
            dir,
            redis,
            settings,
            seed,
            node,
        }
    }

    fn pass(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::SeqCst);
    }

    /// One more node on the same Redis.
    async fn another(&self) -> Node {
        let (redis, seed) = (self.redis.as_ref(), self.seed);
        Node::start(&self.clock, &self.dir, redis, self.settings, seed).await
    }

    /// Ends the node in good order, and begins another on what it leaves.
    async fn restart(self) -> World {
        let World {
            clock,
            dir,
            redis,
            settings,
            seed,
            node,
        } = self;
        node.end().await;
        let node = Node::start(&clock, &dir, redis.as_ref(), settings, seed).await;
        World {
            clock,
            dir,
            redis,
            settings,
            seed,
            node,
        }
    }

    /// The account's state, once every charge that was made is in it.
    async fn settled(&self) -> Statement {
        self.until(|statement| statement.held == Money::ZERO).await
    }

    async fn until(&self, holds: impl Fn(&Statement) -> bool) -> Statement {
        let found = async {
            loop {
                if let Ok(Some(statement)) = self.node.ledger.statement(ACCOUNT).await
                    && holds(&statement)
                {
                    return statement;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(10), found).await {
            Ok(statement) => statement,
            Err(_) => panic!("{:?}", self.node.ledger.statement(ACCOUNT).await),
        }
    }

    async fn no_drift(&self) {
        let found = self
            .node
            .ledger
            .verify(&[ACCOUNT.into()], true)
            .await
            .unwrap();
        assert_eq!(found, []);
    }

    async fn post(&self, entry: Entry) -> Result<(), PostError> {
        let account = ACCOUNT.into();
        let posted = self.node.ledger.post(&account, entry, None, None).await;
        posted.map(drop)
    }
}

impl Node {
    async fn start(
        clock: &Arc<AtomicU64>,
        dir: &TempDir,
        redis: Option<&Redis>,
        settings: Settings,
        seed: i64,
    ) -> Node {
        let hand = Clock::Hand(clock.clone());
        let metrics = Metrics::new().unwrap();
        let seeds = BTreeMap::from([(ACCOUNT.into(), money(seed))]);
        let seeds = Arc::new(Seeds::new(seeds, hand.clone()));
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        let (ledger, work, limiter) = match redis {
            None => {
                let db = Arc::new(Db::open_by(dir.path(), hand.clone()).unwrap());
                let limiter = Limiter::memory(hand.clone(), metrics.limits.clone());
                let (ledger, work) = Ledger::embedded(
                    settings,
                    db,
                    dir.path(),
                    false,
                    seeds,
                    hand,
                    metrics.billing.clone(),
                    stopped.clone(),
                )
                .await
                .unwrap();
                (ledger, work, limiter)
            }
            Some(redis) => {
                let link = LinkSettings {
                    url: redis.url(),
                    prefix: "test".to_owned(),
                    functions: FUNCTIONS.to_vec(),
                    consequence: String::new(),
                    about: String::new(),
                };
                let link = Arc::new(Link::new(link, metrics.store().unwrap()).unwrap());
                link.first_connect().await;
                let shared = Shared::new(link.clone(), hand.clone());
                tasks.push(tokio::spawn(link.clone().supervise(stopped.clone())));
                let away = LimitsAway::Deny;
                let limiter = Limiter::redis(shared, away, hand.clone(), metrics.limits.clone());
                let (ledger, work) = Ledger::redis(
                    settings,
                    link,
                    dir.path(),
                    seeds,
                    hand,
                    metrics.billing.clone(),
                    stopped.clone(),
                )
                .unwrap();
                (ledger, work, limiter)
            }
        };
        tasks.push(tokio::spawn(work));
        tasks.push(tokio::spawn(limiter.clone().run(stopped)));
        Node {
            ledger,
            limiter,
            metrics,
            stop,
            tasks,
        }
    }

    async fn end(self) {
        let _ = self.stop.send(true);
        // The journal's lock goes with the last of them.
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    async fn pay(&self, payer: &Payer, money: i64, tokens: u64) -> Result<Hold, Shortage> {
        match self.ask(payer, money, tokens, &Limits::default()).await {
            Ok(hold) => Ok(hold),
            Err(Refusal::Money(shortage)) => Err(shortage),
            Err(Refusal::Limit(denial)) => panic!("there are no limits: {denial:?}"),
        }
    }

    async fn ask(
        &self,
        payer: &Payer,
        micros: i64,
        tokens: u64,
        limits: &Limits,
    ) -> Result<Hold, Refusal> {
        let bill = Bill {
            payer: Arc::new(payer.clone()),
            model: "m".into(),
            money: money(micros),
            tokens,
        };
        let ask = Ask {
            subject: Arc::new(Subject::key(ACCOUNT, &[7; 32])),
            limits: Arc::new(limits.clone()),
            estimate: tokens,
        };
        let price = Price {
            bill,
            prompt: due(micros / 10, 1, 0),
        };
        let said = gate::ask(&self.limiter, ask, Some((&self.ledger, price))).await;
        said.map(|(_, hold)| hold.unwrap())
    }
}

fn money(micros: i64) -> Money {
    Money::from_micros(micros)
}

fn due(cost: i64, input: u64, output: u64) -> Due {
    Due {
        cost: money(cost),
        used: Used {
            tokens: Usage {
                input,
                output,
                ..Usage::default()
            },
            ..Used::default()
        },
    }
}

fn payer() -> Payer {
    Payer {
        account: ACCOUNT.into(),
        key: "key_1".into(),
        project: "default".into(),
        pays: Pays::Balance,
        caps: Caps::default(),
    }
}

fn packaged() -> Payer {
    Payer {
        pays: Pays::Package("starter".into()),
        ..payer()
    }
}

fn grant(tokens: u64, hours: u64) -> Entry {
    Entry::Grant {
        package: "starter".into(),
        tokens,
        valid: Duration::from_millis(hours * HOUR),
    }
}

const REPORTED: Option<Source> = Some(Source::Reported);

async fn what_is_held_is_not_spent_and_what_was_used_is(world: World) {
    let mut first = world.node.pay(&payer(), 600, 0).await.unwrap();
    let refused = world.node.pay(&payer(), 401, 0).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Balance);
    assert_eq!((refused.left, refused.needed), (400, 401));
    let second = world.node.pay(&payer(), 400, 0).await.unwrap();
    assert_eq!(world.until(|_| true).await.held, money(1000));
    assert_eq!(first.settle(due(250, 11, 7), REPORTED), Some(money(250)));
    assert_eq!(first.settle(due(999, 1, 1), REPORTED), None, "once");
    // Nothing was sent for the second: nothing is due.
    drop(second);
    // Who asks again finds what came back.
    let mut third = world.node.pay(&payer(), 750, 0).await.unwrap();
    third.settle(due(750, 1, 1), Some(Source::Estimated));
    let statement = world.settled().await;
    assert_eq!(statement.balance, Money::ZERO);
    let accounts = [ACCOUNT.into()];
    let rows = world.node.ledger.usage(&accounts, 0, i32::MAX);
    let rows = rows.await.unwrap();
    let [(account, row)] = rows.as_slice() else {
        panic!("{rows:?}");
    };
    assert_eq!(
        (&**account, &*row.key, &*row.model),
        (ACCOUNT, "key_1", "m")
    );
    assert_eq!(row.sums.requests, 2, "what was released was no request");
    assert_eq!(row.sums.cost, money(1000));
    assert_eq!(row.sums.estimated_cost, money(750));
    assert_eq!(row.sums.used.tokens.input, 12);
    assert_eq!(row.sums.used.tokens.output, 8);
    world.no_drift().await;
}

async fn a_hold_that_is_dropped_at_work_is_charged_what_was_last_known(world: World) {
    let mut hold = world.node.pay(&payer(), 500, 0).await.unwrap();
    hold.begun(due(50, 5, 0));
    drop(hold);
    assert_eq!(world.settled().await.balance, money(950));
    let mut hold = world.node.pay(&payer(), 500, 0).await.unwrap();
    hold.begun(due(50, 5, 0));
    assert!(hold.wants_note(4096, std::time::Instant::now()));
    hold.note(due(80, 5, 3));
    drop(hold);
    assert_eq!(world.settled().await.balance, money(870));
    world.no_drift().await;
}

async fn caps_end_with_their_day_and_month(world: World) {
    let capped = Payer {
        caps: Caps {
            daily: Some(money(100)),
            monthly: Some(money(150)),
        },
        ..payer()
    };
    let mut hold = world.node.pay(&capped, 100, 0).await.unwrap();
    // What is held counts.
    let refused = world.node.pay(&capped, 1, 0).await.unwrap_err();
    assert_eq!((refused.reason, refused.left), (Reason::DailyCap, 0));
    assert_eq!(refused.resets, Some(EVENING + 4 * HOUR));
    hold.settle(due(90, 1, 1), REPORTED);
    let mut hold = world.node.pay(&capped, 10, 0).await.unwrap();
    // Settled in the day after, it still counts for its own.
    world.pass(5 * HOUR);
    hold.settle(due(10, 1, 1), REPORTED);
    let mut hold = world.node.pay(&capped, 100, 0).await.unwrap();
    hold.settle(due(100, 1, 1), REPORTED);
    // Another key of the account has caps of its own.
    let other = Payer {
        key: "key_2".into(),
        ..capped.clone()
    };
    let mut hold = world.node.pay(&other, 100, 0).await.unwrap();
    hold.settle(due(100, 1, 1), REPORTED);
    // December: the month's cap.
    world.pass(24 * HOUR);
    let refused = world.node.pay(&capped, 51, 0).await.unwrap_err();
    assert_eq!((refused.reason, refused.left), (Reason::MonthlyCap, 50));
    assert_eq!(refused.resets, Some(EVENING + 4 * HOUR + 31 * 24 * HOUR));
    let mut hold = world.node.pay(&capped, 50, 0).await.unwrap();
    hold.settle(due(50, 1, 1), REPORTED);
    assert_eq!(world.settled().await.balance, money(1000 - 350));
    world.no_drift().await;
}

async fn packages_pay_one_after_the_other(world: World) {
    let none = world.node.pay(&packaged(), 0, 10).await.unwrap_err();
    assert_eq!((none.reason, none.left), (Reason::Package, 0));
    world.post(grant(100, 48)).await.unwrap();
    world.pass(1);
    world.post(grant(1000, 24)).await.unwrap();
    // The one that expires first.
    let mut hold = world.node.pay(&packaged(), 5, 900).await.unwrap();
    let short = world.node.pay(&packaged(), 5, 101).await.unwrap_err();
    assert_eq!((short.left, short.needed), (100, 101));
    let mut other = world.node.pay(&packaged(), 5, 100).await.unwrap();
    assert_eq!(hold.settle(due(77, 500, 300), REPORTED), Some(Money::ZERO));
    other.settle(due(77, 50, 10), REPORTED);
    let statement = world
        .until(|statement| statement.packages.iter().all(|one| one.held == 0))
        .await;
    let left: Vec<i64> = statement.packages.iter().map(|one| one.left).collect();
    assert_eq!(left, [140, 100]);
    assert_eq!(statement.balance, money(1000), "packages are paid for");
    // The first expires.
    world.pass(25 * HOUR);
    let short = world.node.pay(&packaged(), 5, 101).await.unwrap_err();
    assert_eq!(short.left, 100);
    let mut hold = world.node.pay(&packaged(), 5, 100).await.unwrap();
    hold.settle(due(5, 100, 5), REPORTED);
    // More than was held was used: the package stands below nothing, and pays no more.
    let short = world.node.pay(&packaged(), 5, 1).await.unwrap_err();
    assert_eq!((short.reason, short.left), (Reason::Package, 0));
    let accounts = [ACCOUNT.into()];
    let rows = world.node.ledger.usage(&accounts, 0, i32::MAX);
    let rows = rows.await.unwrap();
    let tokens: u64 = rows.iter().map(|(_, row)| row.sums.package_tokens).sum();
    assert_eq!(tokens, 800 + 60 + 105);
    assert!(rows.iter().all(|(_, row)| row.sums.cost == Money::ZERO));
    world.no_drift().await;
}

async fn limits_and_money_are_granted_together_or_not_at_all(world: World) {
    let limits = Limits {
        requests: Some(Bucket::new(60, 2)),
        ..Limits::default()
    };
    // Money refuses: no request is counted.
    for _ in 0..5 {
        let said = world.node.ask(&payer(), 1001, 0, &limits).await;
        assert!(matches!(said, Err(Refusal::Money(_))), "{said:?}");
    }
    let _one = world.node.ask(&payer(), 400, 0, &limits).await.unwrap();
    let _two = world.node.ask(&payer(), 400, 0, &limits).await.unwrap();
    // Limits refuse: nothing is held.
    for _ in 0..5 {
        let said = world.node.ask(&payer(), 100, 0, &limits).await;
        assert!(matches!(said, Err(Refusal::Limit(_))), "{said:?}");
    }
    assert_eq!(world.until(|_| true).await.held, money(800));
    // What can neither be paid nor is within the limits needs a human first.
    let said = world.node.ask(&payer(), 201, 0, &limits).await;
    assert!(matches!(said, Err(Refusal::Money(_))), "{said:?}");
}

async fn parallel_requests_get_what_there_is_and_no_more(world: World) {
    let mut tasks = tokio::task::JoinSet::new();
    let ledger = world.node.ledger.clone();
    for nth in 0..100 {
        let (ledger, limiter) = (ledger.clone(), world.node.limiter.clone());
        tasks.spawn(async move {
            let node = Node {
                ledger,
                limiter,
                metrics: Metrics::new().unwrap(),
                stop: watch::channel(false).0,
                tasks: Vec::new(),
            };
            let mut hold = node.pay(&payer(), 100, 0).await.ok()?;
            tokio::task::yield_now().await;
            hold.settle(due(100, nth, 1), REPORTED)
        });
    }
    let served = tasks.join_all().await.into_iter().flatten().count();
    assert_eq!(served, 10);
    assert_eq!(world.settled().await.balance, Money::ZERO);
    world.no_drift().await;
}

async fn a_refund_takes_nothing_that_is_held(world: World) {
    let amount = |micros| money(micros);
    let hold = world.node.pay(&payer(), 700, 0).await.unwrap();
    let refused = world
        .post(Entry::Refund {
            amount: amount(301),
        })
        .await;
    let available = money(300);
    assert_eq!(refused, Err(PostError::Short { available }));
    let done = world
        .post(Entry::Refund {
            amount: amount(300),
        })
        .await;
    assert_eq!(done, Ok(()));
    world
        .post(Entry::TopUp { amount: amount(5) })
        .await
        .unwrap();
    drop(hold);
    assert_eq!(world.settled().await.balance, money(705));
    let huge = Entry::TopUp {
        amount: amount(1 << 53),
    };
    assert_eq!(world.post(huge).await, Err(PostError::TooLarge));
    world.no_drift().await;
}

async fn an_entry_is_made_once(world: World) {
    let once = |key: &str, fingerprint: &str| Once {
        key: key.to_owned(),
        fingerprint: fingerprint.to_owned(),
    };
    let account: Arc<str> = ACCOUNT.into();
    let top_up = || Entry::TopUp { amount: money(10) };
    let ledger = &world.node.ledger;
    let note = Some("thanks".to_owned());
    let first = ledger
        .post(&account, top_up(), note, Some(&once("a", "f1")))
        .await;
    let (first, replayed) = first.unwrap();
    assert!(!replayed);
    for _ in 0..3 {
        let again = ledger
            .post(&account, top_up(), None, Some(&once("a", "f1")))
            .await;
        assert_eq!(again.unwrap(), (first.clone(), true));
    }
    let other = ledger
        .post(&account, top_up(), None, Some(&once("a", "f2")))
        .await;
    assert_eq!(other.unwrap_err(), PostError::Reused);
    let unknown = ledger.post(&"nobody".into(), top_up(), None, None).await;
    assert_eq!(unknown.unwrap_err(), PostError::Unknown);
    assert_eq!(world.settled().await.balance, money(1010));
    let entries = ledger.entries(ACCOUNT).await.unwrap();
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert_eq!(entries[1], first);
    // The seed is not given again.
    ledger.open(&account).await.unwrap();
    assert_eq!(world.settled().await.balance, money(1010));
    world.no_drift().await;
}

async fn everything_is_there_after_a_restart(world: World) {
    let mut hold = world.node.pay(&payer(), 300, 0).await.unwrap();
    hold.settle(due(123, 1, 2), REPORTED);
    world.post(grant(50, 1000)).await.unwrap();
    let before = world.settled().await;
    let world = world.restart().await;
    let after = world.settled().await;
    assert_eq!(after, before);
    assert_eq!(after.balance, money(877));
    world.no_drift().await;
    // And nothing is applied twice by one more.
    let world = world.restart().await;
    assert_eq!(world.settled().await, before);
    world.no_drift().await;
}

async fn an_account_of_run_time_begins_with_nothing(world: World) {
    let stranger = Payer {
        account: "new".into(),
        ..payer()
    };
    let refused = world.node.pay(&stranger, 1, 0).await.unwrap_err();
    assert_eq!((refused.reason, refused.left), (Reason::Balance, 0));
    // What costs nothing is served.
    drop(world.node.pay(&stranger, 0, 0).await.unwrap());
    let entry = Entry::TopUp { amount: money(3) };
    let ledger = &world.node.ledger;
    ledger.post(&"new".into(), entry, None, None).await.unwrap();
    drop(world.node.pay(&stranger, 3, 0).await.unwrap());
}

async fn observed_nobody_is_refused(mut world: World) {
    world.settings.enforce = false;
    let world = world.restart().await;
    let mut hold = world.node.pay(&payer(), 5000, 0).await.unwrap();
    hold.settle(due(4000, 1, 1), REPORTED);
    let mut hold = world.node.pay(&packaged(), 0, 10).await.unwrap();
    hold.settle(due(9, 7, 1), REPORTED);
    assert_eq!(world.settled().await.balance, money(-3000));
    let shortages = &world.node.metrics.billing.shortages;
    assert_eq!(shortages.with_label_values(&["balance"]).get(), 1);
    assert_eq!(shortages.with_label_values(&["package"]).get(), 1);
    world.no_drift().await;
}

/// Random entries, holds, settlements, releases and restarts: top-ups − charges − refunds is the balance, whatever
/// their order, and nothing stays held.
async fn sums_are_conserved(mut world: World) {
    let mut random = fastrand(7);
    let (mut expected, mut holds) = (world.seed, Vec::new());
    for step in 0..400 {
        world.pass(random(600_000));
        match random(20) {
            0..=8 => {
                let amount = random(400) as i64;
                if let Ok(hold) = world.node.pay(&payer(), amount, 0).await {
                    holds.push((hold, amount));
                }
            }
            9..=14 if !holds.is_empty() => {
                let nth = random(holds.len() as u64) as usize;
                let (mut hold, amount) = holds.swap_remove(nth);
                // Sometimes more than was held.
                let cost = random(amount.unsigned_abs() * 12 / 10 + 1) as i64;
                expected -= cost;
                hold.settle(due(cost, 3, 4), REPORTED);
            }
            15 if !holds.is_empty() => drop(holds.pop()),
            16 => {
                let amount = money(random(500) as i64 + 1);
                world.post(Entry::TopUp { amount }).await.unwrap();
                expected += amount.micros();
            }
            17 => {
                let amount = money(random(200) as i64 + 1);
                if world.post(Entry::Refund { amount }).await.is_ok() {
                    expected -= amount.micros();
                }
            }
            18 if step % 50 == 0 => {
                // Whoever is in flight is released: nothing was sent for them.
                holds.clear();
                world = world.restart().await;
            }
            _ => {}
        }
    }
    holds.clear();
    let statement = world.settled().await;
    assert_eq!(statement.balance, money(expected));
    assert!(
        statement
            .keys
            .iter()
            .all(|(_, spent)| spent.held == Money::ZERO)
    );
    world.no_drift().await;
    let world = world.restart().await;
    assert_eq!(world.settled().await.balance, money(expected));
    world.no_drift().await;
}

/// Numbers below a bound, the same in every run (Marsaglia's xorshift).
fn fastrand(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below.max(1)
    }
}

/// Charges that Redis had acknowledged and lost in a failover are sent again, from this node's journal and from those
/// of dead processes: a server that comes back with an older state is such a one.
#[tokio::test]
async fn what_redis_has_lost_is_sent_again() {
    let redis = Redis::start_with(&["--dbfilename", "old.rdb"]).await;
    let world = World::new(1000, settings(), Some(redis)).await;
    let mut hold = world.node.pay(&payer(), 100, 0).await.unwrap();
    hold.settle(due(100, 1, 1), REPORTED);
    world
        .until(|statement| statement.balance == money(900))
        .await;
    let redis = world.redis.as_ref().unwrap();
    assert_eq!(redis.command(&["SAVE"]).await.text(), "OK");
    // Written, acknowledged, and lost.
    for _ in 0..3 {
        let mut hold = world.node.pay(&payer(), 50, 0).await.unwrap();
        hold.settle(due(50, 1, 1), REPORTED);
    }
    world
        .until(|statement| statement.balance == money(750))
        .await;
    redis.restart().await;
    // Nobody asks for the account meanwhile.
    let statement = world
        .until(|statement| statement.balance == money(750))
        .await;
    assert_eq!(statement.held, Money::ZERO);
    world.no_drift().await;
    assert_eq!(world.node.metrics.billing.replayed.get(), 3);
    // Lost again, and then the process ends: the next one sends it from what the first has left.
    let redis = world.redis.as_ref().unwrap();
    redis.kill().await;
    let world = world.restart().await;
    world.redis.as_ref().unwrap().restart().await;
    world
        .until(|statement| statement.balance == money(750))
        .await;
    world.no_drift().await;
}

/// A day with many rows is read and compared in pieces.
#[tokio::test]
async fn a_long_day_is_added_up_too() {
    let world = World::redis(10_000).await;
    for nth in 0..600 {
        let one = Payer {
            key: format!("key_{nth}").into(),
            ..payer()
        };
        let mut hold = world.node.pay(&one, 3, 0).await.unwrap();
        hold.settle(due(3, 1, 1), REPORTED);
    }
    let statement = world.settled().await;
    assert_eq!(statement.balance, money(10_000 - 1800));
    world.no_drift().await;
    let accounts = [ACCOUNT.into()];
    let rows = world.node.ledger.usage(&accounts, 0, i32::MAX).await;
    assert_eq!(rows.unwrap().len(), 600);
    // Somebody takes a row away.
    let redis = world.redis.as_ref().unwrap();
    let day = Calendar { offset: 0 }.period(EVENING).day;
    let usage = format!("test:{{{ACCOUNT}}}:u:{day}");
    redis
        .command(&["HDEL", &usage, "key_7\u{1f}default\u{1f}m"])
        .await
        .ok();
    let found = world.node.ledger.verify(&accounts, true).await.unwrap();
    let [drift] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(drift.what, format!("day {day}"));
    assert_eq!((drift.stored, drift.expected), (1800, 1797));
    assert_eq!(world.node.metrics.billing.drift.get(), 1);
}

/// A number in Redis that is none stops its account, and nothing else: nothing is written, and when it is mended
/// each charge is applied once.
#[tokio::test]
async fn garbage_in_redis_neither_pays_nor_loses() {
    let world = World::redis(1000).await;
    let mut hold = world.node.pay(&payer(), 100, 0).await.unwrap();
    hold.settle(due(100, 1, 1), REPORTED);
    world
        .until(|statement| statement.balance == money(900))
        .await;
    let redis = world.redis.as_ref().unwrap();
    let day = Calendar { offset: 0 }.period(EVENING).day.to_string();
    let usage = format!("test:{{{ACCOUNT}}}:u:{day}");
    let row = "key_1\u{1f}default\u{1f}m";
    let good = redis.command(&["HGET", &usage, row]).await.text();
    let mut hold = world.node.pay(&payer(), 50, 0).await.unwrap();
    redis.command(&["HSET", &usage, row, "1 2 many"]).await.ok();
    hold.settle(due(50, 1, 1), REPORTED);
    // What is asked meanwhile carries the charge. Nobody can say what the balance is: what is large is refused, what
    // is small is served by what was last heard.
    for _ in 0..30 {
        let refused = world.node.pay(&payer(), 600, 0).await.unwrap_err();
        assert_eq!(refused.reason, Reason::Store);
    }
    let statement = world.node.ledger.statement(ACCOUNT).await.unwrap().unwrap();
    assert_eq!((statement.balance, statement.held), (money(900), money(50)));
    // Others are served, in the same call too.
    let stranger = Payer {
        account: "other".into(),
        ..payer()
    };
    drop(world.node.pay(&stranger, 0, 0).await.unwrap());
    for _ in 0..5 {
        let stopped = payer();
        let (first, second, third) = futures::join!(
            world.node.pay(&stranger, 0, 0),
            world.node.pay(&stopped, 600, 0),
            world.node.pay(&stranger, 0, 0),
        );
        assert!(first.is_ok() && second.is_err() && third.is_ok());
    }
    redis.command(&["HSET", &usage, row, &good]).await.ok();
    let statement = world.settled().await;
    assert_eq!(statement.balance, money(850));
    world.no_drift().await;
}

/// Two nodes on one balance: together they serve what there is.
#[tokio::test]
async fn two_nodes_spend_one_balance_once() {
    let world = World::redis(1000).await;
    let other = world.another().await;
    let mut served = 0;
    let mut holds = Vec::new();
    for nth in 0..40 {
        let node = if nth % 2 == 0 { &world.node } else { &other };
        if let Ok(hold) = node.pay(&payer(), 100, 0).await {
            holds.push(hold);
            served += 1;
        }
    }
    assert_eq!(served, 10);
    for mut hold in holds {
        hold.settle(due(100, 1, 1), REPORTED);
    }
    let statement = world.settled().await;
    assert_eq!(statement.balance, Money::ZERO);
    world.no_drift().await;
    other.end().await;
}

macro_rules! on_every_backend {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::World::embedded(1000).await).await;
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::World::redis(1000).await).await;
            })*
        }
    };
}

on_every_backend!(
    what_is_held_is_not_spent_and_what_was_used_is,
    a_hold_that_is_dropped_at_work_is_charged_what_was_last_known,
    caps_end_with_their_day_and_month,
    packages_pay_one_after_the_other,
    limits_and_money_are_granted_together_or_not_at_all,
    parallel_requests_get_what_there_is_and_no_more,
    a_refund_takes_nothing_that_is_held,
    an_entry_is_made_once,
    everything_is_there_after_a_restart,
    an_account_of_run_time_begins_with_nothing,
    observed_nobody_is_refused,
    sums_are_conserved,
);
