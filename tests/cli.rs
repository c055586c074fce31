//! The command line against a gateway that is served: two processes, as an operator has them.
//!
//! What each verb prints of an answer is tested beside it; here it is that all of them work, and what they end with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[macro_use]
mod support;

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use support::operator::{COST, Ground, TOKEN, ask_at, shown, until};
use support::served::Served;

/// A served gateway, and the file that it goes by.
struct World {
    ground: Ground,
    served: Option<Served>,
    file: PathBuf,
    addr: SocketAddr,
    admin: SocketAddr,
}

/// What a command ended with.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

const TOKEN_VARIABLE: (&str, &str) = ("TOLLGATE_ADMIN_TOKEN", TOKEN);

/// Runs the program with these variables and no others; the token never shows.
fn tollgate(variables: &[(&str, &str)], line: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(line)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(
        !said.out.contains(TOKEN) && !said.err.contains(TOKEN),
        "{line:?}"
    );
    said
}

/// An address that nobody has, below the ports that the kernel gives to outgoing connections and those of [`Redis`].
///
/// [`Redis`]: support::redis::Redis
fn free() -> SocketAddr {
    let ports = (0..100).map(|_| RandomState::new().hash_one(0) % 6000 + 5000);
    let mut listeners = ports.filter_map(|port| {
        let port = u16::try_from(port).unwrap();
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
    });
    listeners.next().unwrap().local_addr().unwrap()
}

impl World {
    async fn start(ground: Ground) -> World {
        // Both are in the file: the command line reads it too.
        let [addr, admin] = [free(), free()];
        let yaml = ground.yaml(
            "a",
            &format!(
                "listeners: [{{ bind: {addr} }}]\nadmin: {{ bind: {admin}, token: \"${{ADMIN_TOKEN}}\" }}\n"
            ),
        );
        let file = ground.folder.path().join("gateway.yaml");
        std::fs::write(&file, yaml).unwrap();
        let served = Served::start(&file, &[("ADMIN_TOKEN", TOKEN)]);
        served.until("listening");
        World {
            ground,
            served: Some(served),
            file,
            addr,
            admin,
        }
    }

    fn run(&self, line: &[&str]) -> Said {
        let url = format!("http://{}", self.admin);
        tollgate(&[TOKEN_VARIABLE, ("TOLLGATE_ADMIN_URL", &url)], line)
    }

    /// What must go well; gives standard output.
    fn text(&self, line: &[&str]) -> String {
        let said = self.run(line);
        assert_eq!(said.code, Some(0), "{line:?}: {}", said.err);
        said.out
    }

    fn json(&self, line: &[&str]) -> Value {
        let text = self.text(&[line, &["--json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// What must not; gives the one line of standard error.
    fn error(&self, line: &[&str]) -> String {
        let said = self.run(line);
        assert_eq!((said.code, &*said.out), (Some(1), ""), "{line:?}");
        assert_eq!(said.err.lines().count(), 1, "{}", said.err);
        said.err
    }

    async fn status(&self, key: &str, model: &str) -> u16 {
        ask_at(self.addr, key, model).await.status
    }
}

async fn every_verb_works(ground: Ground) {
    let mut world = World::start(ground).await;
    world.text(&[
        "accounts",
        "create",
        "beta",
        "--plan",
        "all",
        "--projects",
        "default,web",
    ]);
    let stands = world.text(&["accounts", "top-up", "beta", "2", "--note", "invoice 7"]);
    assert!(stands.contains("2.00 USD"), "{stands}");
    let stands = world.json(&["accounts", "refund", "beta", "1.00"]);
    assert_eq!(
        (&stands["balance"], &stands["entry"]["kind"]),
        (&"1.000000".into(), &"refund".into())
    );
    let refused = world.error(&["accounts", "refund", "beta", "1.000001"]);
    assert!(refused.contains("[insufficient_balance]"), "{refused}");

    let made = world.run(&[
        "keys",
        "create",
        "--name",
        "web app",
        "--account",
        "beta",
        "--project",
        "web",
    ]);
    assert_eq!(made.code, Some(0), "{}", made.err);
    assert!(made.err.contains("only time"), "{}", made.err);
    let key = made.out.lines().last().unwrap().to_owned();
    let id = world.json(&["keys", "list", "--account", "beta"])["data"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let id = id.as_str();
    assert!(made.out.contains(id), "{}", made.out);
    assert_eq!(world.status(&key, "gpt-test").await, 200);
    for verb in [
        &["keys", "list"][..],
        &["keys", "show", id],
        &["accounts", "show", "beta"],
    ] {
        let shown = world.text(verb);
        assert!(
            shown.contains("web app") && !shown.contains(&key),
            "{shown}"
        );
    }
    for (verb, status) in [("disable", 401), ("enable", 200)] {
        world.text(&["keys", verb, id]);
        assert_eq!(world.status(&key, "gpt-test").await, status);
    }
    world.text(&["keys", "edit", id, "--models", "claude-*"]);
    assert_eq!(world.status(&key, "gpt-test").await, 403);
    world.text(&["keys", "edit", id, "--clear", "models"]);
    let rotated = world.text(&["keys", "rotate", id, "--grace", "0s"]);
    let new = rotated.lines().last().unwrap();
    assert_eq!(world.status(&key, "gpt-free").await, 401);
    assert_eq!(world.status(new, "gpt-free").await, 200);

    world.text(&["packages", "grant", "beta", "starter"]);
    let listed = world.text(&["packages", "list", "--account", "beta"]);
    assert!(
        listed.contains("starter") && listed.contains("60"),
        "{listed}"
    );
    assert!(world.text(&["packages", "list"]).contains("9.90 USD"));
    world.text(&["keys", "edit", id, "--package", "starter"]);
    assert_eq!(world.status(new, "gpt-test").await, 200);
    world.text(&["keys", "revoke", id]);
    assert_eq!(world.status(new, "gpt-test").await, 401);
    let refused = world.error(&["keys", "enable", id]);
    assert!(refused.contains("[conflict]"), "{refused}");

    let report = ["usage", "report", "--by", "model,key", "--account", "beta"];
    let used = until("all is charged", async || {
        let used = world.json(&report);
        (used["total"]["requests"] == 4).then_some(used)
    })
    .await;
    assert_eq!(used["total"]["cost"], shown(2 * COST));
    assert_eq!(used["total"]["package_tokens"], 18);
    let table = world.text(&report);
    assert!(
        table.contains("web app") && table.contains("0.0158 USD"),
        "{table}"
    );
    let csv = world.text(&[&report[..], &["--csv"]].concat());
    assert!(
        csv.starts_with("model,key,key_name,requests,") && csv.contains(&shown(2 * COST)),
        "{csv}"
    );
    let models = world.text(&["models"]);
    assert!(
        models.contains("gpt-test") && models.contains("claude-test"),
        "{models}"
    );
    let verified = world.text(&["ledger", "verify"]);
    assert!(!verified.contains("drift"), "{verified}");
    let accounts = world.text(&["accounts", "list"]);
    assert!(
        accounts.contains("acme") && accounts.contains("beta"),
        "{accounts}"
    );

    // The process told of each write who did what, and of no secret.
    let served = world.served.take().unwrap();
    let told = served.until(&format!(
        "method=DELETE path=/admin/v1/keys/{id} status=200"
    ));
    let told = told.join("\n");
    assert!(
        told.contains("path=/admin/v1/accounts/beta/top-ups status=201"),
        "{told}"
    );
    let (code, out) = served.stop();
    assert_eq!(code, Some(0));
    for secret in [TOKEN, &key[..16], &new[..16]] {
        assert!(!told.contains(secret) && !out.contains(secret));
    }
}

async fn the_file_says_where_the_api_is(ground: Ground) {
    let world = World::start(ground).await;
    let file = world.file.to_str().unwrap();
    let with =
        |variables: &[(&str, &str)]| tollgate(variables, &["keys", "list", "--config", file]);
    let listed = with(&[("ADMIN_TOKEN", TOKEN)]);
    assert_eq!(
        (listed.code, listed.out.contains("narrow")),
        (Some(0), true),
        "{}",
        listed.err
    );
    // As the gateway does, it needs what the file names.
    let refused = with(&[TOKEN_VARIABLE]);
    assert_eq!(
        (refused.code, refused.err.contains("ADMIN_TOKEN")),
        (Some(1), true),
        "{}",
        refused.err
    );
    let url = format!("http://{}", world.admin);
    let refused = tollgate(
        &[("TOLLGATE_ADMIN_TOKEN", "wrong")],
        &["--admin-is-no-option"],
    );
    assert_eq!(refused.code, Some(2));
    for token in [None, Some(("TOLLGATE_ADMIN_TOKEN", "wrong"))] {
        let variables: Vec<_> = token.into_iter().collect();
        let refused = tollgate(&variables, &["keys", "list", "--admin", &url]);
        assert_eq!((refused.code, &*refused.out), (Some(1), ""));
        assert!(
            refused
                .err
                .contains("[unauthorized] Set TOLLGATE_ADMIN_TOKEN"),
            "{}",
            refused.err
        );
    }
    for line in [
        &["keys", "create", "--account", "acme"][..],
        &[
            "keys",
            "create",
            "app",
            "--name",
            "app",
            "--account",
            "acme",
        ],
        &["usage", "report", "--csv", "--json"],
    ] {
        assert_eq!(world.run(line).code, Some(2), "{line:?}");
    }
    let refused = world.error(&["keys", "create", "app", "--account", "acme", "--plan", "al"]);
    assert!(
        refused.contains("`plan`") && refused.contains("all"),
        "{refused}"
    );
    assert!(
        world
            .error(&["keys", "show", "key_0"])
            .contains("[not_found]")
    );
    // Nobody is there any more.
    let World {
        served,
        ground,
        admin,
        ..
    } = world;
    assert_eq!(served.unwrap().stop().0, Some(0));
    let url = format!("http://{admin}");
    for line in [&["keys", "list"][..], &["accounts", "top-up", "acme", "1"]] {
        let refused = tollgate(&[TOKEN_VARIABLE, ("TOLLGATE_ADMIN_URL", &url)], line);
        assert_eq!((refused.code, &*refused.out), (Some(1), ""));
        let words = format!("the admin API at {url} cannot be reached");
        assert!(
            refused.err.contains(&words) && refused.err.contains("--admin URL"),
            "{}",
            refused.err
        );
    }
    drop(ground);
}

/// Keys whose plan is gone are refused, and the log says which.
async fn what_the_file_has_lost_is_told(ground: Ground) {
    let mut world = World::start(ground).await;
    let made = world.json(&[
        "keys",
        "create",
        "app",
        "--account",
        "acme",
        "--plan",
        "few",
    ]);
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert_eq!(world.status(key, "gpt-free").await, 200);
    assert_eq!(world.served.take().unwrap().stop().0, Some(0));
    let yaml = std::fs::read_to_string(&world.file).unwrap();
    let without = yaml
        .replace("few: { models: [\"gpt-*\"] }", "other: {}")
        .replace("plan: few,", "");
    assert_ne!(yaml, without);
    std::fs::write(&world.file, without).unwrap();
    let served = Served::start(&world.file, &[("ADMIN_TOKEN", TOKEN)]);
    let told = served.until("listening").join("\n");
    assert!(
        told.contains("\"warn\"") && told.contains(&format!("key {id}: its plan")),
        "{told}"
    );
    assert_eq!(world.status(key, "gpt-free").await, 401);
    assert_eq!(served.stop().0, Some(0));
    drop(world.ground);
}

on_every_store!(
    every_verb_works,
    the_file_says_where_the_api_is,
    what_the_file_has_lost_is_told,
);
