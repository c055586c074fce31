//! A fake model provider over real sockets: speaks the OpenAI API under `/v1/…` and Anthropic's under
//! `/v1/messages`, records what it is asked, and misbehaves as a script or a model name tells it to.
//!
//! ```ignore
//! let provider = Provider::start().await;
//! let gate = Gate::new();
//! provider.on("gpt-test", Script::sse().data("{}").gate(&gate).cut());
//! // … a request through the gateway …
//! provider.wait_cancelled(1).await;
//! assert_eq!(provider.last().unwrap().header("authorization"), Some("Bearer upstream-key"));
//! ```
//!
//! HTTP/1.1 is written by hand so that a script can break it at any byte. A peer that half-closes its
//! side counts as gone: no gateway does that to an upstream it still wants to hear.

mod answers;
mod anthropic;
mod openai;
mod receive;
mod script;
mod seen;
mod serve;

pub use answers::{SPEECH, TEXT, speech_bytes};
pub use script::{Gate, Script, Step};
pub use seen::{Outcome, Part, Seen};

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Tokens that every ordinary answer reports.
pub mod usage {
    /// Prompt tokens. OpenAI counts the cached ones among them, Anthropic beside them.
    pub const INPUT: u64 = 11;
    pub const CACHED: u64 = 4;
    pub const OUTPUT: u64 = 7;
    /// Output tokens of one image.
    pub const IMAGE: u64 = 100;
}

/// How long a `wait_…` waits before it fails the test.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The running provider; it stops, with all its connections, when dropped.
pub struct Provider {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

type Rule = Arc<dyn Fn(&Seen) -> Script + Send + Sync>;

struct Shared {
    seen: Mutex<Vec<Seen>>,
    rules: Mutex<HashMap<String, Rule>>,
    once: Mutex<HashMap<String, VecDeque<Script>>>,
    next: Mutex<VecDeque<Script>>,
    malformed: Mutex<Vec<String>>,
    discarding: AtomicBool,
    connections: AtomicUsize,
    open_connections: AtomicUsize,
    open_streams: AtomicUsize,
    /// Moves on with every change, so that waiting needs no sleep and misses nothing.
    version: watch::Sender<u64>,
}

impl Provider {
    pub async fn start() -> Provider {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        Provider::serve(listener)
    }

    /// On a given listener, for a provider that comes back on its old address.
    pub fn serve(listener: TcpListener) -> Provider {
        let addr = listener.local_addr().expect("a bound listener");
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            rules: Mutex::default(),
            once: Mutex::default(),
            next: Mutex::default(),
            malformed: Mutex::default(),
            discarding: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            open_connections: AtomicUsize::new(0),
            open_streams: AtomicUsize::new(0),
            version: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(serve::accept(listener, shared.clone())).abort_handle();
        Provider {
            addr,
            shared,
            accepting,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `base_url` of a provider with `api: openai`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// `base_url` of a provider with `api: anthropic`.
    pub fn anthropic_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// All requests, in the order in which their heads arrived.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen().clone()
    }

    pub fn last(&self) -> Option<Seen> {
        self.shared.seen().last().cloned()
    }

    pub fn count(&self) -> usize {
        self.shared.seen().len()
    }

    /// Requests whose body named this model.
    pub fn count_of(&self, model: &str) -> usize {
        self.shared
            .seen()
            .iter()
            .filter(|seen| seen.model.as_deref() == Some(model))
            .count()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub fn open_connections(&self) -> usize {
        self.shared.open_connections.load(Ordering::SeqCst)
    }

    /// Answers begun and not yet ended.
    pub fn open_streams(&self) -> usize {
        self.shared.open_streams.load(Ordering::SeqCst)
    }

    /// What arrived and was not HTTP/1.1 as one sender should write it; a sound gateway leaves this empty.
    pub fn malformed(&self) -> Vec<String> {
        lock(&self.shared.malformed).clone()
    }

    /// From now on, bodies are counted and dropped: `Seen::received` tells their length, and nothing else
    /// of them is known, so that only `next` can script their answers.
    pub fn discard_bodies(&self) {
        self.shared.discarding.store(true, Ordering::SeqCst);
    }

    /// From now on, requests for `model` get this script.
    pub fn on(&self, model: &str, script: Script) {
        self.on_fn(model, move |_| script.clone());
    }

    /// The same, decided for each request.
    pub fn on_fn(&self, model: &str, rule: impl Fn(&Seen) -> Script + Send + Sync + 'static) {
        lock(&self.shared.rules).insert(model.to_owned(), Arc::new(rule));
    }

    /// What would be answered without any script; for rules that change only some requests.
    pub fn ordinary(seen: &Seen) -> Script {
        answers::script(seen)
    }

    /// The next request for `model`, once; several line up.
    pub fn once(&self, model: &str, script: Script) {
        lock(&self.shared.once)
            .entry(model.to_owned())
            .or_default()
            .push_back(script);
    }

    /// The next request, whatever it is; several line up.
    pub fn next(&self, script: Script) {
        lock(&self.shared.next).push_back(script);
    }

    /// Forgets scripts and records, not the counters of connections.
    pub fn reset(&self) {
        lock(&self.shared.rules).clear();
        lock(&self.shared.once).clear();
        lock(&self.shared.next).clear();
        lock(&self.shared.malformed).clear();
        self.shared.seen().clear();
    }

    /// Until `n` requests have arrived (their heads).
    pub async fn wait_requests(&self, n: usize) {
        self.wait_until(&format!("{n} requests"), |seen| seen.len() >= n)
            .await;
    }

    /// Until `n` requests have arrived whole.
    pub async fn wait_bodies(&self, n: usize) {
        self.wait_until(&format!("{n} whole requests"), |seen| {
            seen.iter().filter(|s| s.body_done.is_some()).count() >= n
        })
        .await;
    }

    /// Until `n` requests were abandoned by the other side before their answer was complete.
    pub async fn wait_cancelled(&self, n: usize) {
        self.wait_ended(n, Outcome::Cancelled).await;
    }

    /// Until `n` requests were answered to the end.
    pub async fn wait_complete(&self, n: usize) {
        self.wait_ended(n, Outcome::Complete).await;
    }

    async fn wait_ended(&self, n: usize, outcome: Outcome) {
        let what = format!("{n} × {outcome:?}");
        self.wait_until(&what, |seen| {
            seen.iter().filter(|s| s.outcome == outcome).count() >= n
        })
        .await;
    }

    /// Until exactly `n` answers are under way.
    pub async fn wait_open_streams(&self, n: usize) {
        self.wait_until(&format!("{n} open streams"), |_| self.open_streams() == n)
            .await;
    }

    /// Until exactly `n` connections are open.
    pub async fn wait_open_connections(&self, n: usize) {
        self.wait_until(&format!("{n} open connections"), |_| {
            self.open_connections() == n
        })
        .await;
    }

    /// Until a condition on the records holds; fails the test after [`PATIENCE`].
    pub async fn wait_until(&self, what: &str, holds: impl Fn(&[Seen]) -> bool) {
        let mut version = self.shared.version.subscribe();
        let wait = version.wait_for(|_| holds(&self.shared.seen()));
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!(
                "the provider waited in vain for {what}; it saw {:#?}",
                self.seen()
            );
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // The accepting task owns its connections' tasks and ends them with itself.
        self.accepting.abort();
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        lock(&self.seen)
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Changes one record, found by its number: `Provider::reset` may have removed it.
    fn update(&self, number: usize, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.seen().iter_mut().find(|seen| seen.number == number) {
            change(seen);
        }
        self.changed();
    }

    fn script(&self, seen: &Seen) -> Script {
        if let Some(script) = lock(&self.next).pop_front() {
            return script;
        }
        let model = seen.model.as_deref().unwrap_or_default();
        if let Some(script) = lock(&self.once)
            .get_mut(model)
            .and_then(VecDeque::pop_front)
        {
            return script;
        }
        let rule = lock(&self.rules).get(model).cloned();
        rule.map_or_else(|| answers::script(seen), |rule| rule(seen))
    }

    fn early(&self) -> Option<Script> {
        let mut next = lock(&self.next);
        if next.front().is_some_and(|script| script.early) {
            next.pop_front()
        } else {
            None
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
