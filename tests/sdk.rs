//! The official SDKs, unchanged, against the gateway: each script of `tests/sdk/` is a client's own
//! test suite, and one test here runs it. What a script needs of the gateway: `tests/sdk/README.md`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::gateway::{Gateway, KEY, complete, sha256};
use support::provider::Provider;

/// `limits.body` of the gateway; the scripts send twice as much and expect a refusal.
const BODY_LIMIT: u64 = 1 << 20;
/// The key of the plan `slow`, which has one request a second.
const LIMITED_KEY: &str = "sk-limited-0123456789abcdef0123456789abcdef";
/// The oldest Node that has all the globals which the SDKs use.
const NODE: u32 = 20;

/// Models that misbehave as their name says, and two that tell of the request.
const SCENARIOS: [&str; 9] = [
    "status-400",
    "status-429",
    "status-500",
    "cut",
    "cut-clean",
    "stall",
    "slow",
    "flaky",
    "echo",
];

#[tokio::test(flavor = "multi_thread")]
async fn openai_python_of_today() {
    python("openai-current", "openai_sdk.py", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_python_2() {
    python("openai-2", "openai_sdk.py", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_node() {
    node("openai_sdk.mjs", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic_python_2() {
    python("anthropic-2", "anthropic_sdk.py", "a-").await;
}

/// The last generation that sends `x-api-key`.
#[tokio::test(flavor = "multi_thread")]
async fn anthropic_python_0() {
    python("anthropic-07", "anthropic_sdk.py", "a-").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic_typescript() {
    node("anthropic_sdk.mjs", "a-").await;
}

/// What the README shows as the first request, against what `make run` serves.
#[tokio::test(flavor = "multi_thread")]
async fn first_requests_of_the_readme() {
    let yaml = include_str!("../conf/tollgate.yaml")
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:9901", "127.0.0.1:0")
        .replace("127.0.0.1:9902", "127.0.0.1:0");
    let gateway = Gateway::with(&yaml).await;
    let key = gateway.running.session_key.as_deref().expect("a key");
    let readme = include_str!("../README.md").replace("http://127.0.0.1:8080", &gateway.url());
    let section = readme
        .split("\n## ")
        .find(|section| section.starts_with("The first request"))
        .expect("the section");
    let mut ran = 0;
    for block in section.split("\n```").skip(1).step_by(2) {
        let (language, code) = block.split_once('\n').expect("a block");
        let mut command = match language {
            "sh" => Command::new("sh"),
            "python" if code.contains("anthropic") => {
                Command::new(installed("anthropic-2").join("bin/python"))
            }
            "python" => Command::new(installed("openai-current").join("bin/python")),
            "js" if node_is_here() => {
                let mut node = Command::new("node");
                // `import` looks for packages from where it runs.
                node.arg("--input-type=module")
                    .current_dir(installed("node"));
                node
            }
            "js" => continue,
            other => panic!("how is {other} run?"),
        };
        let flag = if language == "js" { "--eval" } else { "-c" };
        command
            .args([flag, code])
            .env("TOLLGATE_KEY", key)
            .env("NO_PROXY", "127.0.0.1");
        let output = run(command).await;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.to_lowercase().contains("hello"),
            "{code}\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        ran += 1;
    }
    assert!(ran >= 3, "only {ran} blocks ran");
}

async fn python(environment: &str, script: &str, prefix: &'static str) {
    let program = installed(environment).join("bin/python");
    pass(program, script, prefix).await;
}

async fn node(script: &str, prefix: &'static str) {
    if !node_is_here() {
        say(&format!(
            "{script}: skipped, node {NODE} or newer with npm is not installed"
        ));
        return;
    }
    installed("node");
    pass("node".into(), script, prefix).await;
}

fn node_is_here() -> bool {
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.trim_start_matches('v').split('.').next()?.parse().ok()
    };
    version("node").is_some_and(|major: u32| major >= NODE) && version("npm").is_some()
}

/// Runs a program to its end, off the runtime's own threads: the gateway answers on those.
async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .expect("the program starts")
}

fn sdk_dir() -> PathBuf {
    std::env::var_os("TOLLGATE_SDK_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/sdk"),
        PathBuf::from,
    )
}

/// The directory of an environment. Its stamp is written last, so half an installation does not count.
fn installed(environment: &str) -> PathBuf {
    let directory = sdk_dir().join(environment);
    assert!(
        directory.join(".stamp").is_file(),
        "{} is missing: run tests/sdk/setup.sh (make test does)",
        directory.display()
    );
    directory
}

/// Runs a script against a gateway of its own; a scenario harms its upstream's health.
async fn pass(program: PathBuf, script: &str, prefix: &'static str) {
    let provider = Provider::start().await;
    let gateway = Gateway::with(&configuration(&provider)).await;
    let mut command = Command::new(program);
    command
        .arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/sdk")
                .join(script),
        )
        .env("BASE_URL", gateway.url())
        .env("KEY", KEY)
        .env("LIMITED_KEY", LIMITED_KEY)
        .env("BODY_LIMIT", BODY_LIMIT.to_string())
        .env("SCENARIO_PREFIX", prefix)
        .env("TOLLGATE_SDK_DIR", sdk_dir())
        .env_remove("DIRECT");
    let output = run(command).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{script}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let passed = text.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(passed > 0, "{script} ran no test:\n{text}");
    let title = text.lines().next().unwrap_or(script);
    let title = title.trim_start_matches("# ");
    let title = title
        .rsplit_once(", ")
        .map_or(title, |(title, _address)| title);
    say(&format!("{title}: {passed} passed"));
    assert_eq!(provider.malformed(), Vec::<String>::new());
}

/// Past the test runner, which keeps what passing tests print.
fn say(line: &str) {
    // A closed standard error is no failure of the SDK.
    let _ = writeln!(std::io::stderr(), "sdk: {line}");
}

/// The models that the scripts ask for, each scenario behind a provider entry of its own.
fn configuration(provider: &Provider) -> String {
    let (openai, anthropic) = (provider.base_url(), provider.anthropic_url());
    let mut providers = format!(
        "providers:
  openai: {{ api: openai, base_url: \"{openai}\", keys: [upstream-secret] }}
  anthropic: {{ api: anthropic, base_url: \"{anthropic}\", keys: [upstream-secret] }}
"
    );
    let mut models = String::from(
        "models:
  - { id: preview-model, status: preview }
  - { id: forbidden-model, upstreams: [{ provider: openai }, { provider: anthropic }] }
  - { id: claude-test, upstreams: [{ provider: anthropic }] }
  - { id: renamed, upstreams: [{ provider: openai, model: upstream-renamed }] }
  - { id: a-renamed, upstreams: [{ provider: anthropic, model: upstream-renamed }] }
",
    );
    for (id, modality) in [
        ("gpt-test", "text"),
        ("embed-test", "embedding"),
        ("image-test", "image"),
        ("speech-test", "audio"),
        ("transcribe-test", "audio"),
    ] {
        writeln!(
            models,
            "  - {{ id: {id}, modality: {modality}, upstreams: [{{ provider: openai }}] }}"
        )
        .unwrap();
    }
    for scenario in SCENARIOS {
        let patience = match scenario {
            "stall" => ", timeouts: { first_byte: 1s }",
            _ => "",
        };
        for (prefix, api, url) in [("", "openai", &openai), ("a-", "anthropic", &anthropic)] {
            let id = format!("{prefix}{scenario}");
            writeln!(
                providers,
                "  {id}: {{ api: {api}, base_url: \"{url}\", keys: [\"upstream-{id}\"]{patience} }}"
            )
            .unwrap();
            writeln!(
                models,
                "  - {{ id: {id}, upstreams: [{{ provider: {id}, model: {scenario} }}] }}"
            )
            .unwrap();
        }
    }
    // Globs cannot exclude: the key is given what its plan leaves out of `*`.
    let open = [
        "gpt-*",
        "claude-*",
        "*-test",
        "preview-*",
        "*renamed",
        "status-*",
        "cut*",
        "stall",
        "slow",
        "flaky",
        "echo",
        "a-*",
    ];
    let keys = format!(
        "limits: {{ body: 1MiB }}
plans: {{ all: {{ models: {open:?} }}, slow: {{ requests_per_minute: 60, burst: 1, models: [\"*\"] }} }}
keys:
  - {{ name: test, account: acme, project: default, sha256: {:?} }}
  - {{ name: limited, account: acme, project: default, plan: slow, sha256: {:?} }}
",
        sha256(KEY),
        sha256(LIMITED_KEY)
    );
    complete(&format!("{providers}{models}{keys}"))
}
