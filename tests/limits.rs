//! What limits do, on every backend: each body runs in memory and on a real Redis, by a clock that is
//! moved by hand. What a gateway makes of it is in `rates.rs`; Redis that fails, in `store.rs`.
//!
//! Above 400 lines: one suite, so that no backend can be left out of a part of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::redis::Redis;
use tokio::sync::watch;
use tollgate::admit::FUNCTIONS;
use tollgate::clock::{Clock, Now};
use tollgate::limit::bucket::Bucket;
use tollgate::limit::limiter::{Limiter, WhenAway};
use tollgate::limit::redis::Shared;
use tollgate::limit::state::State;
use tollgate::limit::{Ask, Denial, Grant, Limits, Reading, Reason, Subject};
use tollgate::record::metrics::Metrics;
use tollgate::store::link::{Link, Settings};

/// Noon of some day.
const NOON: u64 = 20_000 * 86_400_000 + 43_200_000;

/// A limiter and the clock that it goes by.
struct World {
    limiter: Arc<Limiter>,
    clock: Arc<AtomicU64>,
    _stop: watch::Sender<bool>,
    /// Of a limiter in Redis.
    redis: Option<Redis>,
}

impl World {
    fn memory() -> World {
        let clock = Arc::new(AtomicU64::new(NOON));
        let metrics = Metrics::new().unwrap();
        let limiter = Limiter::memory(Clock::Hand(clock.clone()), metrics.limits.clone());
        World::run(limiter, clock, None)
    }

    async fn redis() -> World {
        let redis = Redis::start().await;
        let clock = Arc::new(AtomicU64::new(NOON));
        let limiter = node(&redis.url(), &clock).await;
        World::run(limiter, clock, Some(redis))
    }

    fn run(limiter: Arc<Limiter>, clock: Arc<AtomicU64>, redis: Option<Redis>) -> World {
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(limiter.clone().run(stopped));
        World {
            limiter,
            clock,
            _stop: stop,
            redis,
        }
    }

    fn pass(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::SeqCst);
    }

    async fn admit(&self, limits: &Limits, estimate: u64) -> Result<Grant, Denial> {
        self.limiter.admit(ask("key", limits, estimate)).await
    }

    async fn read(&self, limits: &Limits) -> Reading {
        self.limiter.read(&subject("key"), limits).await
    }

    /// Waits until Redis was told of all that ended; in memory that is at once.
    async fn until_tokens(&self, limits: &Limits, remaining: u64) {
        let told = async {
            loop {
                let tokens = self.read(limits).await.tokens.unwrap();
                if tokens.remaining == remaining {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(5), told).await;
        let now = self.read(limits).await.tokens;
        assert!(found.is_ok(), "{remaining} tokens were expected: {now:?}");
    }

    /// The first grant, once a place is free.
    async fn until_admitted(&self, limits: &Limits) -> Grant {
        let freed = async {
            loop {
                if let Ok(grant) = self.admit(limits, 0).await {
                    return grant;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(5), freed).await;
        found.expect("no place was freed")
    }
}

/// One more node on a Redis.
async fn node(url: &str, clock: &Arc<AtomicU64>) -> Arc<Limiter> {
    let metrics = Metrics::new().unwrap();
    let settings = Settings {
        url: url.to_owned(),
        prefix: "test".to_owned(),
        functions: FUNCTIONS.to_vec(),
        consequence: String::new(),
        about: String::new(),
    };
    let link = Arc::new(Link::new(settings, metrics.store().unwrap()).unwrap());
    link.first_connect().await;
    assert!(link.up(), "no connection to {url}");
    let hand = Clock::Hand(clock.clone());
    let shared = Shared::new(link, hand.clone());
    // A test that Redis does not answer must not pass by local limits.
    Limiter::redis(shared, WhenAway::Deny, hand, metrics.limits.clone())
}

fn subject(key: &str) -> Subject {
    let mut hash = [0; 32];
    hash[..key.len()].copy_from_slice(key.as_bytes());
    Subject::key("acme", &hash)
}

fn ask(key: &str, limits: &Limits, estimate: u64) -> Ask {
    Ask {
        subject: Arc::new(subject(key)),
        limits: Arc::new(limits.clone()),
        estimate,
    }
}

fn requests(per_minute: u64, burst: u64) -> Limits {
    Limits {
        requests: Some(Bucket::new(per_minute, burst)),
        ..Limits::default()
    }
}

fn tokens(per_minute: u64) -> Limits {
    Limits {
        tokens: Some(Bucket::new(per_minute, per_minute)),
        ..Limits::default()
    }
}

fn millis(denial: &Denial) -> u64 {
    denial.wait.expect("a wait").as_millis() as u64
}

/// Each body on each backend.
macro_rules! on_every_backend {
    ($($name:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::World::memory()).await;
            })+
        }
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::World::redis().await).await;
            })+
        }
    };
}

on_every_backend!(
    a_burst_and_then_the_rate,
    decisions_are_those_of_the_pure_algorithm,
    parallel_requests_get_what_there_is_and_no_more,
    tokens_go_into_debt_and_are_repaid_first,
    tokens_that_were_not_used_come_back,
    a_request_that_asks_for_more_than_the_bucket_holds_is_admitted_when_it_is_full,
    requests_at_once_are_counted_until_they_end,
    a_grant_that_is_dropped_gives_its_place_back_and_keeps_its_estimate,
    tokens_of_a_day_end_with_the_day,
    a_settlement_counts_for_the_day_of_its_charge,
    a_refusal_charges_nothing,
    subjects_do_not_share_and_accounts_do,
    networks_are_subjects,
    a_clock_that_goes_back_gives_nothing_away,
    a_plan_that_changes_keeps_what_was_used,
    a_plan_that_lacks_a_limit_leaves_it_to_those_that_have_it,
    who_asks_again_after_an_answer_finds_room,
    a_reading_tells_what_is_left_and_charges_nothing,
    without_limits_nothing_is_counted,
);

async fn a_burst_and_then_the_rate(world: World) {
    let limits = requests(60, 3);
    for left in (0..3).rev() {
        let grant = world.admit(&limits, 0).await.unwrap();
        let level = grant.reading().requests.unwrap();
        assert_eq!((level.limit, level.remaining), (60, left));
        assert_eq!(level.reset, Duration::from_secs(3 - left));
    }
    let denial = world.admit(&limits, 0).await.unwrap_err();
    assert_eq!((denial.reason, millis(&denial)), (Reason::Requests, 1000));
    world.pass(999);
    let denial = world.admit(&limits, 0).await.unwrap_err();
    assert_eq!(millis(&denial), 1);
    world.pass(1);
    assert!(world.admit(&limits, 0).await.is_ok());
    assert!(world.admit(&limits, 0).await.is_err());
    // However long nobody comes, it holds no more than its burst.
    world.pass(86_400_000);
    for _ in 0..3 {
        assert!(world.admit(&limits, 0).await.is_ok());
    }
    assert!(world.admit(&limits, 0).await.is_err());
}

/// A thousand random steps; each answer must be, to the number, what `State` says.
async fn decisions_are_those_of_the_pure_algorithm(world: World) {
    let mut random = 42_u64;
    let mut next = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % below
    };
    let limits = Limits {
        requests: Some(Bucket::new(700, 13)),
        tokens: Some(Bucket::new(9_001, 9_001)),
        concurrency: None,
        tokens_per_day: Some(400_000),
        day_offset: 8 * 3_600_000,
    };
    let now = || {
        let ms = world.clock.load(Ordering::SeqCst);
        Now { ms, wall: ms }
    };
    let mut pure = State::fresh(&limits, now());
    let mut counts = [0; 2];
    for _ in 0..1_000 {
        match next(20) {
            0 => world.pass(next(4_000_000)),
            1 => {
                world.clock.fetch_sub(next(100_000), Ordering::SeqCst);
            }
            _ => world.pass(next(400)),
        }
        let estimate = next(1_500);
        let expected = pure.admit(&limits, estimate, 1, now());
        let got = world.admit(&limits, estimate).await;
        match (got, expected) {
            (Ok(grant), Ok(_)) => {
                counts[0] += 1;
                assert_eq!(grant.reading(), pure.reading(&limits, 1, now()));
                // Its estimate stays charged, here as there.
                drop(grant);
            }
            (Err(denial), Err(expected)) => {
                counts[1] += 1;
                assert_eq!(denial, expected);
            }
            (got, expected) => panic!("{got:?} where {expected:?} was right"),
        }
    }
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
}

async fn parallel_requests_get_what_there_is_and_no_more(world: World) {
    let limits = requests(60, 50);
    let tries = (0..400).map(|_| world.admit(&limits, 0));
    let answers = futures::future::join_all(tries).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 50);
}

async fn tokens_go_into_debt_and_are_repaid_first(world: World) {
    let limits = tokens(6_000);
    let mut grant = world.admit(&limits, 1_000).await.unwrap();
    assert_eq!(grant.reading().tokens.unwrap().remaining, 5_000);
    grant.settle(16_000);
    world.until_tokens(&limits, 0).await;
    // 10,000 below nothing, at 100 a second.
    let denial = world.admit(&limits, 1_000).await.unwrap_err();
    assert_eq!((denial.reason, millis(&denial)), (Reason::Tokens, 110_000));
    assert_eq!(
        denial.reading.tokens.unwrap().reset,
        Duration::from_secs(160)
    );
    world.pass(109_999);
    assert!(world.admit(&limits, 1_000).await.is_err());
    world.pass(1);
    assert!(world.admit(&limits, 1_000).await.is_ok());
}

async fn tokens_that_were_not_used_come_back(world: World) {
    let limits = tokens(6_000);
    let mut grant = world.admit(&limits, 5_000).await.unwrap();
    assert!(world.admit(&limits, 5_000).await.is_err());
    grant.settle(10);
    world.until_tokens(&limits, 5_990).await;
    // Settled is settled.
    grant.settle(0);
    drop(grant);
    assert!(world.admit(&limits, 5_990).await.is_ok());
    assert_eq!(world.read(&limits).await.tokens.unwrap().remaining, 0);
}

async fn a_request_that_asks_for_more_than_the_bucket_holds_is_admitted_when_it_is_full(
    world: World,
) {
    let limits = Limits {
        tokens_per_day: Some(5_000),
        ..tokens(6_000)
    };
    let mut grant = world.admit(&limits, 1_000_000).await.unwrap();
    assert_eq!(grant.reading().tokens.unwrap().remaining, 1_000);
    grant.settle(100);
    world.until_tokens(&limits, 5_900).await;
    assert_eq!(
        world.admit(&limits, 1_000_000).await.unwrap_err().reason,
        Reason::TokensPerDay,
        "the day's are no longer whole"
    );
}

async fn requests_at_once_are_counted_until_they_end(world: World) {
    let limits = Limits {
        concurrency: Some(2),
        ..Limits::default()
    };
    let mut first = world.admit(&limits, 0).await.unwrap();
    let _second = world.admit(&limits, 0).await.unwrap();
    let denial = world.admit(&limits, 0).await.unwrap_err();
    assert_eq!((denial.reason, denial.wait), (Reason::Concurrency, None));
    first.settle(0);
    let _third = world.until_admitted(&limits).await;
    assert!(world.admit(&limits, 0).await.is_err());
}

async fn a_grant_that_is_dropped_gives_its_place_back_and_keeps_its_estimate(world: World) {
    let limits = Limits {
        concurrency: Some(1),
        ..tokens(6_000)
    };
    drop(world.admit(&limits, 500).await.unwrap());
    let grant = world.until_admitted(&limits).await;
    assert_eq!(grant.reading().tokens.unwrap().remaining, 5_500);
}

async fn tokens_of_a_day_end_with_the_day(world: World) {
    // Days begin at 16:00 UTC, four hours from now.
    let limits = Limits {
        tokens_per_day: Some(1_000),
        day_offset: 8 * 3_600_000,
        ..Limits::default()
    };
    assert!(world.admit(&limits, 600).await.is_ok());
    assert!(world.admit(&limits, 400).await.is_ok());
    world.pass(1_000);
    let denial = world.admit(&limits, 1).await.unwrap_err();
    assert_eq!(denial.reason, Reason::TokensPerDay);
    assert_eq!(millis(&denial), 4 * 3_600_000 - 1_000);
    world.pass(4 * 3_600_000 - 1_001);
    assert!(world.admit(&limits, 1).await.is_err());
    world.pass(1);
    assert!(world.admit(&limits, 1_000).await.is_ok());
    assert!(world.admit(&limits, 1).await.is_err());
}

async fn a_settlement_counts_for_the_day_of_its_charge(world: World) {
    let limits = Limits {
        tokens_per_day: Some(1_000),
        ..tokens(1_000_000)
    };
    let mut late = world.admit(&limits, 1_000).await.unwrap();
    world.pass(12 * 3_600_000);
    assert!(world.admit(&limits, 900).await.is_ok());
    late.settle(0);
    world.pass(60_000);
    world.until_tokens(&limits, 1_000_000).await;
    let denial = world.admit(&limits, 200).await.unwrap_err();
    assert_eq!(denial.reason, Reason::TokensPerDay);
}

async fn a_refusal_charges_nothing(world: World) {
    let limits = Limits {
        tokens: Some(Bucket::new(600, 600)),
        ..requests(60, 10)
    };
    drop(world.admit(&limits, 600).await.unwrap());
    for _ in 0..20 {
        let denial = world.admit(&limits, 100).await.unwrap_err();
        assert_eq!((denial.reason, millis(&denial)), (Reason::Tokens, 10_000));
        assert_eq!(denial.reading.requests.unwrap().remaining, 9);
    }
}

async fn subjects_do_not_share_and_accounts_do(world: World) {
    let limits = requests(60, 1);
    for key in ["a", "b"] {
        assert!(world.limiter.admit(ask(key, &limits, 0)).await.is_ok());
        assert!(world.limiter.admit(ask(key, &limits, 0)).await.is_err());
    }
    let of_account = |account: &str, plan: &str| Ask {
        subject: Arc::new(Subject::account(account, plan)),
        ..ask("", &limits, 0)
    };
    assert!(world.limiter.admit(of_account("acme", "pro")).await.is_ok());
    assert!(
        world
            .limiter
            .admit(of_account("acme", "pro"))
            .await
            .is_err()
    );
    assert!(
        world
            .limiter
            .admit(of_account("acme", "free"))
            .await
            .is_ok()
    );
    assert!(
        world
            .limiter
            .admit(of_account("other", "pro"))
            .await
            .is_ok()
    );
}

async fn networks_are_subjects(world: World) {
    let limits = requests(60, 1);
    let from = |ip: &str| Ask {
        subject: Arc::new(Subject::network(Some(ip.parse::<IpAddr>().unwrap()))),
        ..ask("", &limits, 0)
    };
    assert!(world.limiter.admit(from("2001:db8::1")).await.is_ok());
    assert!(world.limiter.admit(from("2001:db8::2")).await.is_err());
    assert!(world.limiter.admit(from("2001:db8:0:1::1")).await.is_ok());
    assert!(world.limiter.admit(from("192.0.2.1")).await.is_ok());
    assert!(world.limiter.admit(from("192.0.2.2")).await.is_ok());
}

async fn a_clock_that_goes_back_gives_nothing_away(world: World) {
    let limits = requests(60, 1);
    assert!(world.admit(&limits, 0).await.is_ok());
    // A little: it is waited for.
    world.clock.fetch_sub(30_000, Ordering::SeqCst);
    assert!(world.admit(&limits, 0).await.is_err());
    world.pass(30_000);
    assert!(world.admit(&limits, 0).await.is_err());
    world.pass(1_000);
    assert!(world.admit(&limits, 0).await.is_ok());
    // A day: it was set, and the bucket goes on from there.
    world.clock.fetch_sub(86_400_000, Ordering::SeqCst);
    assert!(world.admit(&limits, 0).await.is_err());
    world.pass(1_000);
    assert!(world.admit(&limits, 0).await.is_ok());
}

async fn a_plan_that_changes_keeps_what_was_used(world: World) {
    let small = requests(60, 10);
    for _ in 0..8 {
        assert!(world.admit(&small, 0).await.is_ok());
    }
    // A larger plan gives no second burst at once.
    let large = requests(600, 100);
    let left = world.read(&large).await.requests.unwrap();
    assert_eq!((left.limit, left.remaining), (600, 2));
    // A smaller one holds no more than its own.
    let tiny = requests(60, 1);
    assert_eq!(world.read(&tiny).await.requests.unwrap().remaining, 1);
    assert!(world.admit(&tiny, 0).await.is_ok());
    assert!(world.admit(&tiny, 0).await.is_err());
    // A limit that is new begins full.
    let more = Limits {
        tokens: Some(Bucket::new(100, 100)),
        ..tiny
    };
    assert_eq!(world.read(&more).await.tokens.unwrap().remaining, 100);
}

/// Two nodes in the middle of a change of plans.
async fn a_plan_that_lacks_a_limit_leaves_it_to_those_that_have_it(world: World) {
    let with = requests(60, 3);
    let without = tokens(1_000_000);
    for _ in 0..3 {
        assert!(world.admit(&with, 0).await.is_ok());
        drop(world.admit(&without, 5).await.unwrap());
    }
    assert!(world.admit(&with, 0).await.is_err());
    world.pass(500);
    drop(world.admit(&without, 5).await.unwrap());
    world.pass(500);
    drop(world.admit(&without, 5).await.unwrap());
    assert!(world.admit(&with, 0).await.is_ok(), "its second has passed");
    assert!(world.admit(&with, 0).await.is_err());
}

async fn who_asks_again_after_an_answer_finds_room(world: World) {
    let limits = Limits {
        concurrency: Some(1),
        ..tokens(6_000)
    };
    for n in 0..200 {
        let mut grant = match world.admit(&limits, 5_000).await {
            Ok(grant) => grant,
            Err(denial) => panic!("request {n}: {denial:?}"),
        };
        grant.settle(1);
    }
}

async fn a_reading_tells_what_is_left_and_charges_nothing(world: World) {
    let limits = Limits {
        tokens: Some(Bucket::new(1_000, 1_000)),
        ..requests(60, 5)
    };
    for _ in 0..10 {
        let reading = world.read(&limits).await;
        assert_eq!(reading.requests.unwrap().remaining, 5);
        assert_eq!(reading.tokens.unwrap().remaining, 1_000);
        assert_eq!(reading.tokens.unwrap().reset, Duration::ZERO);
    }
    drop(world.admit(&limits, 250).await.unwrap());
    let reading = world.read(&limits).await;
    assert_eq!(reading.requests.unwrap().remaining, 4);
    assert_eq!(reading.tokens.unwrap().remaining, 750);
    assert_eq!(reading.tokens.unwrap().reset, Duration::from_secs(15));
}

async fn without_limits_nothing_is_counted(world: World) {
    let none = Limits::default();
    for _ in 0..100 {
        let grant = world.admit(&none, u64::MAX).await.unwrap();
        assert_eq!(grant.reading(), Reading::default());
    }
    assert_eq!(world.read(&none).await, Reading::default());
    if let Some(redis) = &world.redis {
        assert_eq!(redis.stat_calls("fcall").await, 1, "the announcement only");
    }
}

/// Only what is in flight must be remembered for its end.
#[tokio::test]
async fn entries_of_every_plan_are_forgotten_in_memory() {
    let clock = Arc::new(AtomicU64::new(NOON));
    let metrics = Metrics::new().unwrap();
    let limiter = Limiter::memory(Clock::Hand(clock.clone()), metrics.limits.clone());
    for (n, limits) in [requests(60, 10), tokens(6_000)].iter().enumerate() {
        for key in 0..100 {
            let key = format!("{n}.{key}");
            drop(limiter.admit(ask(&key, limits, 10)).await.unwrap());
        }
    }
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(limiter.run(stopped));
    clock.fetch_add(60_000, Ordering::SeqCst);
    let swept = async {
        loop {
            // A round of the sweeper takes half a minute; its metric follows each step.
            support::clock::pass(Duration::from_secs(1)).await;
            tokio::task::yield_now().await;
            let page = metrics.render().unwrap();
            if page.contains("\ntollgate_limit_subjects 0\n") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(600), swept)
        .await
        .expect("entries are left");
}

// What only many nodes have.

#[tokio::test]
async fn nodes_share_one_limit_exactly() {
    let redis = Redis::start().await;
    let clock = Arc::new(AtomicU64::new(NOON));
    let nodes = [
        node(&redis.url(), &clock).await,
        node(&redis.url(), &clock).await,
        node(&redis.url(), &clock).await,
    ];
    let limits = requests(600, 37);
    let mut admitted = 0;
    for step in 0..50 {
        let tries = (0..12).map(|n| nodes[n % 3].admit(ask("key", &limits, 0)));
        let answers = futures::future::join_all(tries).await;
        admitted += answers.iter().filter(|answer| answer.is_ok()).count();
        assert!(admitted <= 37 + step * 7, "step {step}: {admitted}");
        clock.fetch_add(700, Ordering::SeqCst);
    }
    // 7 every 700 ms were there, and more were always asked for: all were given.
    assert_eq!(admitted, 37 + 49 * 7);
}

/// The first of them is sent alone, and the others while its call is under way: each is decided by itself.
#[tokio::test]
async fn those_who_ask_at_the_same_moment_share_calls() {
    let world = World::redis().await;
    let redis = world.redis.as_ref().unwrap();
    let limits = Limits {
        concurrency: Some(60),
        ..requests(60, 50)
    };
    let (one, other) = (ask("one", &limits, 0), ask("other", &limits, 0));
    for _ in 0..3 {
        let before = redis.stat_calls("fcall").await;
        let all = (0..200).map(|n| match n % 2 {
            0 => world.limiter.admit(one.clone()),
            _ => world.limiter.admit(other.clone()),
        });
        let all = futures::future::join_all(all).await;
        for first in 0..2 {
            let asked = all.iter().skip(first).step_by(2);
            let granted: Vec<bool> = asked.map(Result::is_ok).collect();
            let expected: Vec<bool> = (0..100).map(|n| n < 50).collect();
            assert_eq!(
                granted, expected,
                "the first 50 of a hundred, in their order"
            );
        }
        // An announcement a second is among them.
        let calls = redis.stat_calls("fcall").await - before;
        assert!(calls <= 20, "{calls} calls for 200 admissions");
        // Who asks after the end of a request finds its place free.
        drop(all);
        world.pass(60_000);
    }
}

#[tokio::test]
async fn a_node_that_was_killed_gives_its_places_back_after_two_minutes() {
    let redis = Redis::start().await;
    let clock = Arc::new(AtomicU64::new(NOON));
    let (dead, alive) = (
        node(&redis.url(), &clock).await,
        node(&redis.url(), &clock).await,
    );
    let limits = Limits {
        concurrency: Some(1),
        ..Limits::default()
    };
    // It never tells that the request has ended.
    std::mem::forget(dead.admit(ask("key", &limits, 0)).await.unwrap());
    drop(dead);
    clock.fetch_add(119_999, Ordering::SeqCst);
    assert!(alive.admit(ask("key", &limits, 0)).await.is_err());
    clock.fetch_add(1, Ordering::SeqCst);
    assert!(alive.admit(ask("key", &limits, 0)).await.is_ok());
}

#[tokio::test]
async fn a_request_that_takes_long_keeps_its_place() {
    let world = World::redis().await;
    let limits = Limits {
        concurrency: Some(1),
        ..Limits::default()
    };
    let grant = world.admit(&limits, 0).await.unwrap();
    let redis = world.redis.as_ref().unwrap();
    let holds = redis.command(&["KEYS", "test:{acme}:h:*"]).await.texts();
    for _ in 0..5 {
        let calls = redis.stat_calls("fcall").await;
        world.pass(31_000);
        support::clock::pass(Duration::from_secs(31)).await;
        // It is renewed in the background.
        while redis.stat_calls("fcall").await == calls {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(
        world.admit(&limits, 0).await.is_err(),
        "155 s old, and in flight: {holds:?}"
    );
    drop(grant);
    world.until_admitted(&limits).await;
}

#[tokio::test]
async fn a_flush_forgets_no_request_in_flight_for_long() {
    let world = World::redis().await;
    let limits = Limits {
        concurrency: Some(1),
        ..Limits::default()
    };
    let _long = world.admit(&limits, 0).await.unwrap();
    let redis = world.redis.as_ref().unwrap();
    redis.command(&["FLUSHALL"]).await.ok();
    let calls = redis.stat_calls("fcall").await;
    support::clock::pass(Duration::from_secs(31)).await;
    while redis.stat_calls("fcall").await == calls {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(world.admit(&limits, 0).await.is_err());
}

#[tokio::test]
async fn forged_values_admit_nobody_and_break_nothing() {
    let world = World::redis().await;
    let redis = world.redis.as_ref().unwrap();
    let limits = Limits {
        tokens: Some(Bucket::new(6_000, 6_000)),
        concurrency: Some(5),
        tokens_per_day: Some(100_000),
        ..requests(60, 10)
    };
    drop(world.admit(&limits, 10).await.unwrap());
    let keys = redis.command(&["KEYS", "test:{acme}:*"]).await.texts();
    let levels = keys.iter().find(|key| key.contains(":l:")).unwrap();
    for garbage in [
        "nan",
        "inf",
        "-inf",
        "1e400",
        "9e99",
        "x",
        "-1e300",
        "1.5",
        "0x7fffffffffff",
    ] {
        for field in ["r", "ra", "t", "ta", "d", "s"] {
            redis.command(&["DEL", levels]).await;
            redis
                .command(&[
                    "HSET",
                    levels,
                    "r",
                    "0",
                    "t",
                    "0",
                    "ra",
                    &NOON.to_string(),
                    "ta",
                    &NOON.to_string(),
                    "d",
                    "20000",
                    "s",
                    "0",
                ])
                .await;
            redis.command(&["HSET", levels, field, garbage]).await;
            let answer = world.admit(&limits, 10).await;
            assert!(answer.is_err(), "{field} = {garbage}: {answer:?}");
            let reading = world.read(&limits).await;
            assert!(reading.requests.unwrap().remaining <= 10);
        }
    }
    // Not even of the right kind.
    redis.command(&["DEL", levels]).await;
    redis.command(&["SET", levels, "everything"]).await;
    assert!(world.admit(&limits, 10).await.is_err());
    // What heals it is time, as for anyone who has used up everything.
    world.pass(86_400_000);
    assert!(world.admit(&limits, 10).await.is_ok());
    redis.command(&["DEL", levels]).await;
    redis
        .command(&[
            "HSET", levels, "r", "garbage", "ra", "garbage", "t", "garbage", "ta", "garbage",
        ])
        .await;
    assert!(world.admit(&limits, 10).await.is_err());
    world.pass(1_000);
    assert!(world.admit(&limits, 10).await.is_ok());
}
