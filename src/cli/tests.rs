//! The verbs against an admin API on books and keys in memory.

use super::api::Api;
use super::{Cli, Output, Verb};
use super::{accounts, keys, ledger, models, packages, usage};
use crate::admin::fake_tests::{Bench, TOKEN, bench, parts};
use crate::billing::Drift;
use crate::server::admin::{Current, serve};
use crate::server::door::Door;
use clap::Parser;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::spawn;
use tokio::runtime::Runtime;
use tokio::sync::watch;

struct Running {
    url: String,
    bench: Bench,
    _runtime: Runtime,
    _keep: watch::Sender<bool>,
}

fn running() -> Running {
    let runtime = Runtime::new().unwrap();
    let bench = bench();
    let (settings, backends) = parts(bench.store.clone());
    let admin = Arc::new(Current::new(settings, backends));
    let (keep, never) = watch::channel(false);
    let (address, _) = {
        let _inside = runtime.enter();
        serve(([127, 0, 0, 1], 0).into(), Door::open(admin), never).unwrap()
    };
    Running {
        url: format!("http://{address}"),
        bench,
        _runtime: runtime,
        _keep: keep,
    }
}

impl Running {
    fn run(&self, line: &str) -> Result<Output, String> {
        run(&Api::new(&self.url, Some(TOKEN.to_owned()))?, line)
    }

    fn text(&self, line: &str) -> String {
        match self.run(line) {
            Ok(output) => output.text,
            Err(error) => panic!("{line}: {error}"),
        }
    }
}

fn run(api: &Api, line: &str) -> Result<Output, String> {
    let cli = Cli::try_parse_from(["tollgate"].into_iter().chain(line.split_whitespace()))
        .map_err(|error| error.to_string())?;
    match cli.verb {
        Verb::Keys { access, verb } => keys::run(&verb, api, access.json),
        Verb::Accounts { access, verb } => accounts::run(&verb, api, access.json),
        Verb::Packages { access, verb } => packages::run(&verb, api, access.json),
        Verb::Usage { access, verb } => usage::run(&verb, api, access.json),
        Verb::Models { access } => models::run(api, access.json),
        Verb::Ledger { access, verb } => ledger::run(&verb, api, access.json),
        _ => Err("no verb of the admin API".to_owned()),
    }
}

#[test]
fn a_key_is_named_either_way() {
    let gateway = running();
    for line in [
        "keys create --account acme app",
        "keys create --name app --account acme",
    ] {
        let made = gateway.text(line);
        assert!(made.contains("\nname         app\n"), "{made}");
    }
    for line in [
        "keys create --account acme",
        "keys create app --name web --account acme",
    ] {
        let refused = gateway.run(line).unwrap_err();
        assert!(refused.contains("--name <NAME>"), "{refused}");
    }
}

#[test]
fn keys_are_made_shown_once_and_changed() {
    let gateway = running();
    let made = gateway
        .run("keys create app --account acme --project web --models gpt-*,o* --daily-cap 1.5")
        .unwrap();
    let key = made.text.lines().last().unwrap();
    assert!(key.starts_with("sk-") && made.warning.unwrap().contains("only time"));
    assert!(made.text.contains("1.50 a day, - a month"), "{}", made.text);
    let id = made
        .text
        .lines()
        .next()
        .unwrap()
        .split_whitespace()
        .last()
        .unwrap();
    let list = gateway.text("keys list");
    assert!(
        list.contains(id) && list.contains("ci") && !list.contains(key),
        "{list}"
    );
    let edited = gateway.text(&format!(
        "keys edit {id} --monthly-cap 20 --clear models --plan free"
    ));
    assert!(edited.contains("1.50 a day, 20.00 a month"), "{edited}");
    assert!(edited.contains("all of the plan"), "{edited}");
    assert!(
        gateway
            .text(&format!("keys disable {id}"))
            .contains("disabled")
    );
    assert!(
        gateway
            .text(&format!("keys enable {id}"))
            .contains("active")
    );
    let rotated = gateway.text(&format!("keys rotate {id}"));
    assert!(
        rotated.contains("is taken until") && !rotated.contains(key),
        "{rotated}"
    );
    assert!(
        gateway
            .text(&format!("keys revoke {id} --json"))
            .contains("\"revoked\"")
    );
    let refused = gateway
        .run("keys disable key_9f86d081884c7d65")
        .unwrap_err();
    assert!(
        refused.contains("configuration file") && refused.contains("[conflict]"),
        "{refused}"
    );
    assert!(
        gateway
            .run(&format!("keys edit {id}"))
            .unwrap_err()
            .contains("nothing to change")
    );
    assert!(
        gateway
            .run("keys show ../accounts/acme")
            .unwrap_err()
            .contains("[not_found]")
    );
}

#[test]
fn accounts_and_packages() {
    let gateway = running();
    let made = gateway.text("accounts create beta --plan free --projects a,b");
    assert!(made.contains("0.00 CNY"), "{made}");
    let state = gateway.text("accounts top-up beta 12.345 --note invoice");
    assert!(
        state.contains("12.345 CNY") && state.contains("top-up: 12.345 CNY"),
        "{state}"
    );
    let state = gateway.text("accounts refund beta 2.345");
    assert!(state.contains("balance      10.00 CNY"), "{state}");
    let refused = gateway.run("accounts refund beta 99").unwrap_err();
    assert!(refused.contains("[insufficient_balance]"), "{refused}");
    let state = gateway.text("packages grant beta starter");
    assert!(
        state.contains("1000") && state.contains("package starter"),
        "{state}"
    );
    assert!(gateway.text("packages list").contains("19.90 CNY"));
    assert!(
        gateway
            .text("packages list --account beta")
            .contains("2026-12-20 12:00")
    );
    let list = gateway.text("accounts list");
    assert!(
        list.lines().nth(1).unwrap().contains("100.00 CNY"),
        "{list}"
    );
}

#[test]
fn reports() {
    let gateway = running();
    assert!(gateway.text("usage report").starts_with("nothing was used"));
    assert!(
        gateway
            .text("usage report --by key,day --csv")
            .starts_with("key,key_name,day,")
    );
    assert!(
        gateway
            .run("usage report --by modle")
            .unwrap_err()
            .contains("`model`?")
    );
    assert!(gateway.text("models").contains("degraded"));
    assert!(gateway.text("ledger verify").contains("add up"));
    *gateway.bench.store.drift.lock().unwrap() = vec![Drift {
        account: "acme".into(),
        what: "balance".into(),
        stored: 1_000_000,
        expected: 3_000_000,
    }];
    let verified = gateway.run("ledger verify").unwrap();
    assert!(verified.failure.is_some());
    assert_eq!(
        verified.text,
        "account acme: balance is 1.00 and should be 3.00: -2.00 CNY off\n"
    );
}

#[test]
fn what_is_in_the_way_is_said() {
    let gateway = running();
    let other = Api::new(&gateway.url, Some("wrong".into())).unwrap();
    let refused = run(&other, "keys list").unwrap_err();
    assert!(refused.contains("TOLLGATE_ADMIN_TOKEN"), "{refused}");
    assert!(
        Api::new("https://x", None)
            .err()
            .unwrap()
            .contains("tunnel")
    );
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = Api::new(&format!("http://{nobody}"), None).unwrap();
    let refused = run(&nobody, "keys list").unwrap_err();
    assert!(refused.contains("--admin URL"), "{refused}");
    gateway.bench.store.away.store(true, Ordering::SeqCst);
    let away = gateway.run("accounts top-up acme 5").unwrap_err();
    assert!(away.contains("[temporarily_unavailable]"), "{away}");
}

#[test]
fn a_write_that_gets_no_answer_is_repeated_with_the_same_key() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = spawn(move || {
        let mut keys = Vec::new();
        for turn in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            let mut bytes = [0; 4096];
            while !request.ends_with('}') {
                let count = stream.read(&mut bytes).unwrap();
                request += std::str::from_utf8(&bytes[..count]).unwrap();
            }
            let key = request
                .lines()
                .find(|line| line.starts_with("idempotency-key: "));
            keys.push(key.unwrap().to_owned());
            if turn == 1 {
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                stream.write_all(answer.as_bytes()).unwrap();
            }
        }
        keys
    });
    run(&Api::new(&url, None).unwrap(), "accounts top-up acme 5").unwrap();
    let keys = asked.join().unwrap();
    assert_eq!(keys[0], keys[1]);
    assert_eq!(keys[0].len(), "idempotency-key: ".len() + 32);
}
