//! The program as a person runs it: exit codes, what it says, and that what it says is true.
//!
//! Above 400 lines: each command is run as a process, with what that takes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::http::Client;
use support::served::Served;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tollgate");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs the program to its end with nothing but these variables in its environment.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A file of this text, and the folder that must outlive it.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollgate.yaml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn check(path: &Path, variables: &[(&str, &str)]) -> Output {
    run(&["check", "--config", path.to_str().unwrap()], variables)
}

const MINIMAL: &str = "
version: 1
listeners: [{ bind: \"127.0.0.1:0\" }]
metrics: { bind: \"127.0.0.1:0\" }
providers: { demo: { api: demo } }
models: [{ id: demo-chat, upstreams: [{ provider: demo }] }]
plans: { all: { models: [\"*\"] } }
accounts: { acme: { plan: all } }
";

/// Six errors of six kinds: unknown field, wrong type, unknown name, bad scalar, missing field, unset variable.
const BAD: &str = "\
version: 1
listners: [{ bind: 127.0.0.1:0 }]
providers:
  deepseek: { api: openai, base_url: https://api.deepseek.com/v1, keys: [\"${NOT_SET_ANYWHERE}\"] }
models:
  - { id: chat, upstreams: [{ provider: depseek }] }
  - { upstreams: [{ provider: deepseek }] }
plans: { all: { models: [\"*\"], concurrency: many } }
accounts: { acme: { plan: al } }
limits: { body: 32Mib }
";

/// Line, path and a word of each error of [`BAD`].
const BAD_HAS: [(usize, &str, &str); 7] = [
    (2, "listners", "listeners"),
    (4, "providers.deepseek.keys[0]", "NOT_SET_ANYWHERE"),
    (6, "models[0].upstreams[0].provider", "deepseek"),
    (7, "models[1]", "id"),
    (8, "plans.all.concurrency", "many"),
    (9, "accounts.acme.plan", "all"),
    (10, "limits.body", "32Mib"),
];

#[track_caller]
fn tells_all(text: &str, path: &Path) {
    for (line, setting, word) in BAD_HAS {
        let place = format!("{}:{line}:", path.display());
        let found = text.lines().any(|told| {
            told.strip_prefix(&place).is_some_and(|rest| {
                let (column, rest) = rest.split_once(": ").unwrap();
                column.parse::<usize>().is_ok_and(|column| column > 0)
                    && rest.starts_with(setting)
                    && rest.contains(word)
            })
        });
        assert!(found, "{place} {setting} … {word}:\n{text}");
    }
}

#[test]
fn check_exits_with_0_1_or_2() {
    let (_folder, path) = file(MINIMAL);
    let output = check(&path, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("valid"), "{}", stdout(&output));

    let (_folder, path) = file(BAD);
    let output = check(&path, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    tells_all(&stderr(&output), &path);

    for (text, word) in [("", "empty"), ("a: [", ""), ("version: 2\n", "version")] {
        let (_folder, path) = file(text);
        let output = check(&path, &[]);
        assert_eq!(output.status.code(), Some(1), "{text:?}");
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
    }
    let output = check(Path::new("/no/such/file.yaml"), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/no/such/file.yaml"));

    for arguments in [
        &["check"][..],
        &["check", "--config"],
        &["check", "--confg", "x"],
        &["nothing"],
        &["serve", "x", "y"],
        &[],
    ] {
        let output = run(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains("--help"), "{}", stderr(&output));
    }
}

#[test]
fn serve_tells_all_errors_of_its_file_at_once() {
    let (_folder, path) = file(BAD);
    let output = run(&["serve", "--config", path.to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(1));
    tells_all(&stderr(&output), &path);
}

#[test]
fn the_files_that_we_ship_are_valid() {
    let variables = [
        (
            "TOLLGATE_ADMIN_TOKEN",
            "admin-secret-0123456789abcdef01234567",
        ),
        ("DEEPSEEK_API_KEY", "deepseek-secret"),
        ("ANTHROPIC_API_KEY", "anthropic-secret"),
    ];
    let root = Path::new(ROOT);
    let default = root.join("conf/tollgate.yaml");
    let example = root.join("src/config/example.yaml");
    for (path, variables) in [(&default, &[][..]), (&example, &variables)] {
        let output = check(path, variables);
        let told = format!("{}{}", stdout(&output), stderr(&output));
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert!(!told.contains("secret"), "{told}");
    }
    // Each variable that is missing is named, and none that is there is shown.
    let output = check(&example, &variables[1..2]);
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(told.contains("TOLLGATE_ADMIN_TOKEN"), "{told}");
    assert!(told.contains("ANTHROPIC_API_KEY"), "{told}");
    assert!(!told.contains("deepseek-secret"), "{told}");
}

#[test]
fn what_a_variable_holds_is_never_shown() {
    let text = MINIMAL.replace("plan: all }", "plan: \"${PLAN}\" }");
    let text = text.replace(
        "{ api: demo }",
        "{ api: openai, base_url: \"${URL}\", keys: [\"${KEY}\"] }",
    );
    let (_folder, path) = file(&text);
    let output = check(
        &path,
        &[
            ("PLAN", "hidden-plan"),
            ("URL", "hidden://user:hidden@host"),
            ("KEY", "hidden\nkey"),
        ],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(!stderr(&output).contains("hidden"), "{}", stderr(&output));
}

#[test]
fn schema_is_json_and_knows_every_section() {
    let output = run(&["schema"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    let properties = schema["properties"].as_object().unwrap();
    for section in [
        "version",
        "listeners",
        "providers",
        "models",
        "keys",
        "limits",
    ] {
        assert!(properties.contains_key(section), "{section}");
    }
}

#[test]
fn version_and_help() {
    let output = run(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let expected = format!("tollgate {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout(&output), expected);
    let output = run(&["--help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    for verb in ["serve", "check", "schema"] {
        assert!(stdout(&output).contains(verb), "{}", stdout(&output));
    }
}

#[test]
fn serve_without_a_file_needs_a_key_of_a_provider() {
    let output = run(&["serve"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    for word in ["--config", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"] {
        assert!(told.contains(word), "{told}");
    }
    // An empty one is none.
    let output = run(&["serve"], &[("OPENAI_API_KEY", "")]);
    assert_eq!(output.status.code(), Some(1));
    // What is wrong in the environment is told, without the key.
    let output = run(
        &["serve"],
        &[
            ("OPENAI_API_KEY", "sk-hidden-0123456789"),
            ("OPENAI_BASE_URL", "not a url"),
        ],
    );
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(told.contains("base_url"), "{told}");
    assert!(!told.contains("sk-hidden"), "{told}");
}

/// What is quoted in a line of shell.
fn quoted(line: &str) -> Vec<&str> {
    line.split('\'').skip(1).step_by(2).collect()
}

#[tokio::test]
async fn serve_says_where_it_listens_and_its_example_works() {
    let (_folder, path) = file(MINIMAL);
    let served = Served::start(&path, &[]);
    let told = served.until(" -d '");
    let all = told.join("\n");
    let value = |name: &str| -> &str {
        told.iter()
            .find_map(|line| line.trim().strip_prefix(name))
            .unwrap_or_else(|| panic!("no {name}: {all}"))
            .trim()
    };
    let base = value("listening ");
    let address: SocketAddr = base.strip_prefix("http://").unwrap().parse().unwrap();
    let key = value("key ").split(' ').next().unwrap();
    assert!(key.starts_with("sk-") && key.len() > 40, "{key}");

    // The example, taken apart as a shell would.
    let url = value("curl ").trim_end_matches([' ', '\\']);
    let target = url.strip_prefix(base).unwrap();
    let quotes: Vec<&str> = told.iter().flat_map(|line| quoted(line)).collect();
    let [authorization, content_type, body] = quotes[..] else {
        panic!("{quotes:?}");
    };
    let headers: Vec<(&str, &str)> = [authorization, content_type]
        .iter()
        .map(|header| header.split_once(": ").unwrap())
        .collect();
    assert_eq!(headers[0].1, format!("Bearer {key}"));
    let mut client = Client::connect(address).await;
    let answer = client
        .request("POST", target, &headers, body.as_bytes())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["object"], "chat.completion");

    let metrics = value("metrics ");
    let rest = metrics.strip_prefix("http://").unwrap();
    let (at, page) = rest.split_once('/').unwrap();
    let mut scrape = Client::connect(at.parse().unwrap()).await;
    // The request is counted when its answer has gone out, which is a moment before it is here.
    let counted = async {
        let path = format!("/{page}");
        while !scrape
            .get(&path, "")
            .await
            .text()
            .contains("tollgate_requests_total")
        {}
    };
    let counted = tokio::time::timeout(Duration::from_secs(10), counted).await;
    assert!(counted.is_ok(), "the request is not in the metrics");

    let (code, log) = served.stop();
    assert_eq!(code, Some(0));
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("standard output is the access log"))
        .collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert_eq!(
        lines[0]["request_id"],
        answer.header("x-request-id").unwrap()
    );
    assert!(!log.contains(&key[..9]), "{log}");
}

#[tokio::test]
async fn a_file_with_keys_makes_none_and_another_process_on_its_port_is_named() {
    let key = support::gateway::sha256("sk-test");
    let text = format!("{MINIMAL}keys: [{{ name: ci, account: acme, sha256: \"{key}\" }}]\n");
    let (_folder, path) = file(&text);
    let served = Served::start(&path, &[]);
    let told = served.until("metrics ");
    let line = told.iter().find(|line| line.contains("listening")).unwrap();
    let address = line.rsplit("//").next().unwrap();
    let mut client = Client::connect(address.parse().unwrap()).await;
    assert_eq!(client.get("/v1/models", "sk-test").await.status, 200);

    let (_folder, other) = file(&text.replacen("127.0.0.1:0", address, 1));
    let output = run(&["serve", "--config", other.to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(address), "{}", stderr(&output));

    let (code, log) = served.stop();
    assert_eq!(code, Some(0));
    assert_eq!(log.lines().count(), 1, "{log}");
}

#[tokio::test]
async fn the_default_file_serves_once_its_ports_are_free_ones() {
    let text = std::fs::read_to_string(Path::new(ROOT).join("conf/tollgate.yaml")).unwrap();
    let text = text
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:9901", "127.0.0.1:0")
        .replace("127.0.0.1:9902", "127.0.0.1:0");
    let (_folder, path) = file(&text);
    let served = Served::start(&path, &[]);
    let told = served.until(" -d '");
    assert!(told.iter().any(|line| line.contains("listening")));
    assert_eq!(served.stop().0, Some(0));
}
