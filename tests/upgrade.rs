//! Upgrades: processes that follow each other on the same sockets and the same money, and successors that fail.
//!
//! Above 400 lines: one test a promise, each with processes of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[macro_use]
mod support;

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::gateway::KEY;
use support::http::{Client, PATIENCE};
use support::operator::{CHAT, COST, Ground, TOKEN, ask_at, shown, until};
use support::provider::{Gate, Provider, Script};
use support::site::{Site, lives, signal};
use tokio::task::{JoinSet, spawn_blocking};

const PIECE: &str = "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word\"}}]}";
/// As much as every ordinary answer reports: [`COST`].
const USAGE: &str = "{\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":7,\"total_tokens\":18,\"prompt_tokens_details\":{\"cached_tokens\":4}}}";
const PLANS: &str =
    "plans: { all: {}, few: {} }\naccounts: { acme: { plan: all, balance: 1000 } }\n";

fn yaml(ground: &Ground, more: &str) -> String {
    let has = more.contains("shutdown:");
    let shutdown = if has {
        ""
    } else {
        "shutdown: { lame_duck: 0s }\n"
    };
    let yaml = ground.yaml("a", &format!("{PLANS}{shutdown}{more}"));
    // Where an operator has it: below the working directory.
    yaml.replace(&format!("{:?}", ground.store("a")), "data")
}

async fn call(site: &Site, method: &str, path: &str, body: Value) -> support::http::Response {
    let mut client = Client::connect(site.admin.unwrap()).await;
    let bearer = format!("Bearer {TOKEN}");
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let path = format!("/admin/v1{path}");
    let headers = [
        ("Authorization", &*bearer),
        ("Content-Type", "application/json"),
    ];
    client
        .request(method, &path, &headers, body.as_bytes())
        .await
}

/// Waits until exactly so many requests are charged, each at [`COST`], and nothing is held or wrong.
async fn charged(site: &Site, requests: usize) {
    let cost = shown(COST * requests as u64);
    until("all is charged once", async || {
        let used = call(site, "GET", "/usage?account=acme", Value::Null)
            .await
            .json();
        let total = &used["total"];
        let stands = call(site, "GET", "/accounts/acme", Value::Null)
            .await
            .json();
        let right = total["requests"] == requests && total["cost"] == cost.as_str();
        assert!(
            total["requests"].as_u64().unwrap() <= requests as u64,
            "{used}"
        );
        (right && stands["held"] == "0.000000").then_some(())
    })
    .await;
    let drifts = call(site, "GET", "/ledger", Value::Null).await;
    assert_eq!(drifts.status, 200);
    assert_eq!(drifts.json()["drift"], json!([]), "{}", drifts.text());
}

async fn begin(client: &mut Client, stream: bool) {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let body =
        json!({ "model": "gpt-test", "stream": stream, "max_tokens": 5, "messages": messages });
    let key = format!("Bearer {KEY}");
    let headers = [
        ("Authorization", &*key),
        ("Content-Type", "application/json"),
    ];
    client
        .send("POST", CHAT, &headers, body.to_string().as_bytes())
        .await;
}

/// Clients who never pause, each on a connection that it keeps for as long as it may.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(site: &Site) -> Load {
        let stop: Arc<AtomicBool> = Arc::default();
        let answered: Arc<AtomicUsize> = Arc::default();
        let mut clients = JoinSet::new();
        for number in 0..8 {
            let (addr, stop, answered) = (site.addr, stop.clone(), answered.clone());
            clients.spawn(async move {
                let mut client = Client::connect(addr).await;
                while !stop.load(Ordering::Relaxed) {
                    let stream = number % 2 == 0;
                    begin(&mut client, stream).await;
                    let answer = client.response().await;
                    assert_eq!(
                        (answer.status, answer.broken),
                        (200, None),
                        "{}",
                        answer.text()
                    );
                    if stream {
                        assert!(
                            answer.text().ends_with("data: [DONE]\n\n"),
                            "{}",
                            answer.text()
                        );
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                    if answer.header("connection") == Some("close") {
                        client = Client::connect(addr).await;
                    }
                }
            });
        }
        Load {
            stop,
            answered,
            clients,
        }
    }

    /// How many requests were answered; none was not.
    async fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

/// Streams take a quarter of a second.
fn paced(provider: &Provider) {
    provider.on_fn("gpt-test", |seen| {
        if seen.json()["stream"] != true {
            return Provider::ordinary(seen);
        }
        let mut script = Script::sse();
        for _ in 0..25 {
            script = script.data(PIECE).wait(Duration::from_millis(10));
        }
        script.data(USAGE).data("[DONE]")
    });
}

async fn upgrade(mut site: Site, more: &'static [&'static str]) -> (Site, Option<i32>, String) {
    spawn_blocking(move || {
        let (code, said) = site.upgraded(more);
        (site, code, said)
    })
    .await
    .unwrap()
}

async fn three_upgrades_under_load_lose_nothing_and_charge_all_once(ground: Ground) {
    paced(&ground.provider);
    let mut site = Site::start(&yaml(&ground, ""), &[]);
    // Streams that outlive every upgrade, of the first process.
    let gate = Gate::new();
    let mut long = Vec::new();
    for _ in 0..3 {
        let script = Script::sse().data(PIECE).gate(&gate);
        ground
            .provider
            .once("gpt-test", script.data(USAGE).data("[DONE]"));
        let mut client = Client::connect(site.addr).await;
        begin(&mut client, true).await;
        assert_eq!(client.read_head().await.status, 200);
        let mut pending = String::new();
        assert_eq!(
            client
                .next_events(&mut pending, PATIENCE)
                .await
                .unwrap()
                .len(),
            1
        );
        long.push(client);
    }
    let load = Load::start(&site);
    for _ in 0..3 {
        let before = site.pid();
        let (same, code, said) = upgrade(site, &[]).await;
        site = same;
        assert_eq!(code, Some(0), "{said}\n{}", site.log());
        let now = site.pid();
        let line = format!("successor {now} serves; {before} ends when its requests have ended\n");
        assert_eq!(said, line);
        assert!(before != now && lives(before) && lives(now));
        // The admin API answers as the successor, with its keys and its money.
        let stands = call(&site, "GET", "/accounts/acme", Value::Null).await;
        assert_eq!(stands.status, 200, "{}", stands.text());
        let answered = load.answered.load(Ordering::Relaxed);
        until("it goes on", async || {
            (load.answered.load(Ordering::Relaxed) > answered + 16).then_some(())
        })
        .await;
    }
    let answered = load.end().await;
    let first = site.pids()[0];
    assert!(lives(first), "its streams run");
    gate.open();
    for mut client in long {
        let (events, broken) = client.events().await;
        assert_eq!(
            (events.last().unwrap().data.as_str(), broken),
            ("[DONE]", None)
        );
    }
    for pid in &site.pids()[..3] {
        site.ended(*pid, PATIENCE);
    }
    assert_eq!(ground.provider.count(), answered + 3);
    charged(&site, answered + 3).await;
    // The end of the last one is an ordinary end.
    let last = site.pid();
    signal(last, "TERM");
    site.ended(last, PATIENCE);
    assert!(!site.path("data/tollgate.pid").exists());
    assert_eq!(
        std::fs::read_dir(site.path("data"))
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().starts_with("upgrade-")
            })
            .count(),
        0
    );
}

async fn a_killed_process_is_charged_by_the_one_that_follows_it(ground: Ground) {
    let mut site = Site::start(&yaml(&ground, ""), &[]);
    assert_eq!(ask_at(site.addr, KEY, "gpt-test").await.status, 200);
    let script = Script::sse().data(PIECE).stall();
    ground.provider.once("gpt-test", script);
    let mut client = Client::connect(site.addr).await;
    begin(&mut client, true).await;
    assert_eq!(client.read_head().await.status, 200);
    let first = site.pid();
    let (same, code, said) = upgrade(site, &[]).await;
    site = same;
    assert_eq!(code, Some(0), "{said}");
    // It holds a stream, and dies of something else.
    signal(first, "KILL");
    let used = until("its stream is charged", async || {
        let used = call(&site, "GET", "/usage?account=acme", Value::Null)
            .await
            .json();
        (used["total"]["requests"] == 2).then_some(used)
    })
    .await;
    let cost: f64 = used["total"]["cost"].as_str().unwrap().parse().unwrap();
    assert!(cost * 1e6 > COST as f64, "{used}");
    assert_eq!(ask_at(site.addr, KEY, "gpt-test").await.status, 200);
}

on_every_store!(
    three_upgrades_under_load_lose_nothing_and_charge_all_once,
    a_killed_process_is_charged_by_the_one_that_follows_it,
);

/// The process serves as before: the same one, with its money.
async fn as_before(site: &Site, pid: u32, requests: usize) {
    assert_eq!(site.pid(), pid);
    assert_eq!(ask_at(site.addr, KEY, "gpt-test").await.status, 200);
    charged(site, requests).await;
    let body = json!({ "amount": "1", "note": "after" });
    let paid = call(site, "POST", "/accounts/acme/top-ups", body).await;
    assert_eq!(paid.status, 201, "{}", paid.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_fails_changes_nothing() {
    let ground = Ground::embedded().await;
    let good = yaml(&ground, "");
    let mut site = Site::start(&good, &[]);
    let pid = site.pid();
    let file = site.path("tollgate.yaml");
    let mut requests = 0;
    // What the successor is, what is said of it, and whether it got as far as to the store.
    let cases = [
        ("exit 3", "ended with exit status: 3"),
        ("exec sleep 60", "it did not serve within 1 s; process"),
        (
            "printf 'nonsense\\n' >&0; exec sleep 60",
            "it said \"nonsense\" in place of \"store\"",
        ),
        // It has the store, and hangs.
        (
            "printf 'store\\n' >&0; exec sleep 60",
            "it did not serve within 1 s; process",
        ),
        ("printf 'store\\n' >&0; exit 4", "ended with exit status: 4"),
    ];
    for (script, why) in cases {
        site.replace(script);
        let asking = {
            let (addr, admin) = (site.addr, site.admin.unwrap());
            tokio::spawn(async move {
                // Meanwhile requests are served, and operators are at worst kept waiting.
                let mut count = 0;
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(600) {
                    assert_eq!(ask_at(addr, KEY, "gpt-test").await.status, 200);
                    count += 1;
                }
                let mut client = Client::connect(admin).await;
                let bearer = format!("Bearer {TOKEN}");
                let headers = [("Authorization", &*bearer)];
                let path = "/admin/v1/usage?account=acme";
                let used = client.request("GET", path, &headers, b"").await;
                assert_eq!(used.status, 200, "{}", used.text());
                count
            })
        };
        let (same, code, said) = upgrade(site, &["--timeout", "1s"]).await;
        site = same;
        assert_eq!(code, Some(1), "{script}: {said}");
        assert!(
            said.contains(why) && said.contains(&format!("{pid} goes on as before")),
            "{script}: {said}"
        );
        assert!(site.log().contains("no successor serves"), "{}", site.log());
        requests += asking.await.unwrap() + 1;
        as_before(&site, pid, requests).await;
    }
    site.repair();

    // The program is good, and its configuration is not: the command says so, and disturbs nobody.
    std::fs::write(&file, good.replace("plans:", "planes:")).unwrap();
    let (same, code, said) = upgrade(site, &[]).await;
    site = same;
    assert_eq!(code, Some(1));
    assert!(said.contains("the configuration is not valid"), "{said}");
    // Nor does a signal without the command.
    signal(pid, "USR2");
    site.until(|log| log.contains("ended with exit status: 1").then_some(()));
    requests += 1;
    as_before(&site, pid, requests).await;
    // What only shows when the successor has opened the store: there is no room for its journal.
    std::fs::write(&file, &good).unwrap();
    let place = site.path("data/journal/journal-1");
    std::fs::write(&place, "a file").unwrap();
    let (same, code, said) = upgrade(site, &[]).await;
    site = same;
    assert_eq!(code, Some(1), "{said}");
    site.until(|log| {
        log.contains("journal-1`: cannot lock the journal")
            .then_some(())
    });
    std::fs::remove_file(place).unwrap();
    requests += 1;
    as_before(&site, pid, requests).await;

    std::fs::write(&file, good).unwrap();
    let (same, code, said) = upgrade(site, &[]).await;
    site = same;
    assert_eq!(code, Some(0), "{said}");
    site.ended(pid, PATIENCE);
    let pid = site.pid();
    requests += 1;
    as_before(&site, pid, requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_during_an_upgrade_ends_the_process_and_no_successor_is_left() {
    let ground = Ground::embedded().await;
    let mut site = Site::start(&yaml(&ground, ""), &[]);
    let pid = site.pid();
    assert_eq!(ask_at(site.addr, KEY, "gpt-test").await.status, 200);
    site.replace("echo successor $$ is here >&2; printf 'store\\n' >&0; exec sleep 60");
    let command = site.upgrade(&[]).spawn().unwrap();
    let successor: u32 = site.until(|log| {
        let (_, rest) = log.split_once("successor ")?;
        rest.split_once(" is here")?.0.parse().ok()
    });
    signal(pid, "TERM");
    site.ended(pid, PATIENCE);
    site.ended(successor, PATIENCE);
    let output = spawn_blocking(move || command.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("a signal came before it served"), "{said}");
    // The store was opened again, and closed in good order: all is in it.
    site.repair();
    site.again();
    charged(&site, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_are_one_after_the_other_or_one() {
    let ground = Ground::embedded().await;
    let mut site = Site::start(&yaml(&ground, ""), &[]);
    let first = site.pid();
    let commands: Vec<_> = (0..2).map(|_| site.upgrade(&[]).spawn().unwrap()).collect();
    let mut succeeded = 0;
    for command in commands {
        let output = spawn_blocking(move || command.wait_with_output())
            .await
            .unwrap();
        let (code, said) = site.heard(output.unwrap());
        match code {
            Some(0) => succeeded += 1,
            _ => assert!(
                said.contains("another `tollgate upgrade` is under way"),
                "{said}"
            ),
        }
    }
    assert!(succeeded >= 1);
    // Signals without a command as well.
    let before = site.pid();
    signal(before, "USR2");
    signal(before, "USR2");
    let now = until("there is another", async || {
        Some(site.pid()).filter(|pid| *pid != before)
    })
    .await;
    site.ended(first, PATIENCE);
    site.ended(before, PATIENCE);
    assert_eq!(site.pid(), now);
    assert_eq!(ask_at(site.addr, KEY, "gpt-test").await.status, 200);
    charged(&site, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_gateway_is_left_alone() {
    let ground = Ground::embedded().await;
    let mut site = Site::start(&yaml(&ground, ""), &[]);
    let mut other = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let said = site
        .upgrade(&["--pid", &other.id().to_string()])
        .output()
        .unwrap();
    let (code, said) = site.heard(said);
    assert_eq!(code, Some(1));
    assert!(said.contains("was left alone"), "{said}");
    assert!(other.try_wait().unwrap().is_none(), "it lives");
    other.kill().unwrap();
    other.wait().unwrap();
    let pid = site.pid();
    // From anywhere: by its number.
    let output = site.upgrade_from("/".as_ref()).output().unwrap();
    let (code, said) = site.heard(output);
    assert_eq!(code, Some(1));
    assert!(said.contains("counts from the working directory"), "{said}");
    let mut elsewhere = site.upgrade_from("/".as_ref());
    let output = elsewhere
        .args(["--pid", &pid.to_string()])
        .output()
        .unwrap();
    let (code, said) = site.heard(output);
    assert_eq!(code, Some(0), "{said}");
    let pid = site.pid();
    signal(pid, "KILL");
    site.ended(pid, PATIENCE);
    let (code, said) = site.upgraded(&[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("does not serve any more"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_is_announced_and_a_second_one_ends_at_once() {
    let ground = Ground::embedded().await;
    let more = "shutdown: { lame_duck: 400ms, grace: 60s }\n";
    let site = Site::start(&yaml(&ground, more), &[]);
    let pid = site.pid();
    let mut idle = Client::connect(site.addr).await;
    assert_eq!(idle.get("/readyz", "").await.status, 200);
    let start = Instant::now();
    signal(pid, "TERM");
    until("readiness fails", async || {
        let ready = Client::connect(site.addr).await.get("/readyz", "").await;
        (ready.status == 503).then_some(())
    })
    .await;
    // New connections are served as before.
    assert_eq!(ask_at(site.addr, KEY, "gpt-test").await.status, 200);
    site.ended(pid, PATIENCE);
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(400) && took < Duration::from_secs(3),
        "{took:?}"
    );

    let site = Site::start(&yaml(&ground, more), &[]);
    let pid = site.pid();
    ground
        .provider
        .once("gpt-test", Script::sse().data(PIECE).stall());
    let mut client = Client::connect(site.addr).await;
    begin(&mut client, true).await;
    assert_eq!(client.read_head().await.status, 200);
    let start = Instant::now();
    // A person at the keyboard: no lame duck, but the stream has its time.
    signal(pid, "INT");
    until("nobody is let in", async || {
        Client::try_connect(site.addr).await.err()
    })
    .await;
    assert!(start.elapsed() < Duration::from_millis(400));
    assert!(lives(pid));
    signal(pid, "TERM");
    site.ended(pid, Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_what_it_has_to() {
    let ground = Ground::embedded().await;
    let socket = ground.folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    // What else was heard until all of these were, in whatever order. They that are alive say so for ever.
    let hears_all = |wanted: &[&str]| {
        let (mut missing, mut others) = (wanted.to_vec(), Vec::new());
        let end = Instant::now() + PATIENCE;
        while !missing.is_empty() {
            assert!(Instant::now() < end, "{missing:?} missing; {others:?}");
            let mut bytes = [0; 256];
            let length = manager
                .recv(&mut bytes)
                .unwrap_or_else(|error| panic!("{missing:?}: {error}; {others:?}"));
            let heard = String::from_utf8(bytes[..length].to_vec()).unwrap();
            match missing.iter().position(|words| *words == heard) {
                Some(at) => drop(missing.remove(at)),
                None => others.push(heard),
            }
        }
        others
    };
    let hears = |words: &str| hears_all(&[words]);
    let variables = [
        ("NOTIFY_SOCKET", socket.to_str().unwrap()),
        ("WATCHDOG_USEC", "200000"),
    ];
    let site = Site::start(&yaml(&ground, ""), &variables);
    let first = site.pid();
    assert_eq!(hears("READY=1"), [""; 0]);
    hears("WATCHDOG=1");
    hears("WATCHDOG=1");
    let (site, code, said) = upgrade(site, &[]).await;
    assert_eq!(code, Some(0), "{said}");
    // The one is the successor's word, the other the first process's.
    let heard = hears_all(&["READY=1", &format!("MAINPID={}", site.pid())]);
    assert!(!heard.iter().any(|word| word == "STOPPING=1"), "{heard:?}");
    site.ended(first, PATIENCE);
    hears("WATCHDOG=1");
    let heard = {
        signal(site.pid(), "TERM");
        hears("STOPPING=1")
    };
    assert!(heard.iter().all(|word| word == "WATCHDOG=1"), "{heard:?}");
}
