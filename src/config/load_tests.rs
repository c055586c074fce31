//! Whole files, loaded.
//!
//! Above 400 lines: a file with every setting, and what each of them must become.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::time::Duration;

use super::parse;
use crate::billing::money::Money;
use crate::config::*;

const EXAMPLE: &str = include_str!("example.yaml");
const DEFAULT: &str = include_str!("../../conf/tollgate.yaml");

fn env(name: &str) -> Option<String> {
    match name {
        "TOLLGATE_ADMIN_TOKEN" => Some("admin-secret".to_owned()),
        "DEEPSEEK_API_KEY" => Some("sk-deepseek".to_owned()),
        "ANTHROPIC_API_KEY" => Some("sk-ant".to_owned()),
        "DIGITS" => Some("123456".to_owned()),
        "SPACED" => Some("hunter2 hunter3".to_owned()),
        _ => None,
    }
}

/// All errors of a text, one a line.
fn bad(text: &str) -> String {
    match parse("t.yaml", text, &env) {
        Ok(_) => panic!("accepted: {text}"),
        Err(errors) => errors.to_string(),
    }
}

/// Asserts that the text has exactly these errors, each given by its beginning and a part of the rest.
#[track_caller]
fn expect(text: &str, wanted: &[(&str, &str)]) {
    let all = bad(text);
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines.len(), wanted.len(), "{all}");
    for (line, (start, part)) in lines.iter().zip(wanted) {
        let start = format!("t.yaml:{start}: ");
        assert!(
            line.starts_with(&start) && line.contains(part),
            "{line}\n  is not {start} … {part}\n{all}"
        );
    }
}

fn good(text: &str) -> Config {
    parse("t.yaml", text, &env).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn the_example_loads() {
    let config = good(EXAMPLE);
    assert_eq!(
        config.public_url.as_deref(),
        Some("https://api.acme.example")
    );
    assert_eq!(
        config.listeners[0].bind,
        SocketAddr::from(([0, 0, 0, 0], 8080))
    );
    assert_eq!(
        config
            .admin
            .as_ref()
            .unwrap()
            .token
            .as_ref()
            .unwrap()
            .expose(),
        "admin-secret"
    );
    assert_eq!(config.surfaces[1].mount, "/api/v1");
    assert_eq!(config.surfaces[1].statuses["spend_cap_reached"], 429);
    let deepseek = &config.providers[0];
    assert_eq!(
        (deepseek.name.as_str(), deepseek.keys[0].expose()),
        ("deepseek", "sk-deepseek")
    );
    let url = deepseek.base_url.as_ref().unwrap();
    assert_eq!(
        (url.tls, url.host.as_str(), url.port, url.path.as_str()),
        (true, "api.deepseek.com", 443, "/v1")
    );
    let model = &config.models[0];
    assert_eq!(
        (
            model.upstreams[0].provider,
            model.upstreams[0].weight,
            model.upstreams[1].tier
        ),
        (0, 9, 1)
    );
    assert_eq!(config.providers[model.upstreams[1].provider].name, "demo");
    assert_eq!(model.price.cached_input, Some(Money::from_micros(400_000)));
    assert_eq!(config.accounts[0].balance, Money::from_micros(100_000_000));
    let key = &config.keys[0];
    assert_eq!(
        (key.sha256[0], key.sha256[31], key.billing),
        (0x9f, 0x08, KeyBilling::PayAsYouGo)
    );
    assert_eq!(config.plans[key.plan].name, "pro");
    assert_eq!(key.daily_cap, Some(Money::from_micros(100_000_000)));
    assert_eq!(config.billing.day_starts_seconds, 28_800);
    assert_eq!(
        config.billing.packages[0].valid,
        Duration::from_secs(30 * 86_400)
    );
    assert_eq!(
        (config.limits.body, config.limits.header),
        (32 << 20, 32 << 10)
    );
    assert_eq!(
        config.limits.unauthenticated_per_ip,
        Some(Rate {
            count: 20,
            per: Duration::from_secs(1)
        })
    );
    assert_eq!(config.dormant, ["public_url"]);
    assert_eq!(config.billing.mode, BillingMode::Enforce);
    assert!(
        !format!("{config:?}").contains("secret"),
        "Debug shows no secret"
    );
}

/// The lines that the example gives as comments are part of the schema.
#[test]
fn the_examples_commented_lines_load() {
    let text: String = EXAMPLE
        .lines()
        .map(|line| {
            let indent = line.len() - line.trim_start().len();
            match line.trim_start().strip_prefix("# ") {
                Some(rest) if rest.contains("tls:") || rest.contains("url:") => {
                    format!("# {rest}\n")
                }
                Some(rest)
                    if rest.contains(": ")
                        && !rest.contains("are expanded")
                        && !rest.starts_with("The ") =>
                {
                    format!("{}{rest}\n", " ".repeat(indent))
                }
                _ => format!("{line}\n"),
            }
        })
        .collect();
    let config = good(&text);
    assert_eq!(config.threads, Some(4));
    assert_eq!(config.surfaces[3].errors, ErrorDialect::Typed);
    let key = &config.keys[0];
    assert_eq!(
        config.plans[key.plan].name, "free",
        "a key's plan replaces its account's"
    );
    assert!(key.disabled && key.expires.is_some() && key.networks.len() == 2);
    assert_eq!(config.anonymous.unwrap().models, ["deepseek-chat"]);
    assert_eq!(config.trusted_proxies.len(), 1);
}

#[test]
fn the_commented_default_loads() {
    let config = good(DEFAULT);
    assert_eq!(
        config.listeners[0].bind,
        SocketAddr::from(([127, 0, 0, 1], 8080))
    );
    assert_eq!(
        config.metrics,
        Some(SocketAddr::from(([127, 0, 0, 1], 9902)))
    );
    assert_eq!(config.providers[0].api, ProviderApi::Demo);
    let ids: Vec<&str> = config
        .models
        .iter()
        .map(|model| model.id.as_str())
        .collect();
    assert_eq!(
        ids,
        [
            "demo-chat",
            "demo-embed",
            "demo-image",
            "demo-speech",
            "demo-transcribe"
        ]
    );
    assert_eq!(
        (
            config.plans[0].name.as_str(),
            config.accounts[0].id.as_str()
        ),
        ("default", "demo")
    );
    assert!(
        config.keys.is_empty() && config.dormant.is_empty(),
        "{:?}",
        config.dormant
    );
    assert_eq!(config.billing.mode, BillingMode::Enforce);
}

#[test]
fn what_is_absent_has_its_default() {
    let least = good("version: 1");
    let written = good(
        "listeners: [{ bind: 127.0.0.1:8080 }]\nauth: { key_prefix: sk- }\nstore: { path: ./data }\ncurrency: USD\n\
         billing: { mode: off, day_starts: '+00:00' }\nlimits: { body: 32MiB, header: 32KiB }\nlog: { format: json, level: info }\n\
         surfaces:\n- { mount: /v1, api: openai, errors: openai }\n\
         - { mount: /api/v1, api: openai, retry_after: 60, statuses: { spend_cap_reached: 429, package_exhausted: 429 } }\n\
         - { mount: /anthropic, api: anthropic, errors: anthropic }\n",
    );
    assert_eq!(least, written);
    let base = "providers: { p: { api: openai, base_url: http://localhost:1, TIMEOUTS } }\n\
         models: [{ id: m, MODEL upstreams: [{ provider: p, UPSTREAM }] }]\n";
    let defaults = base
        .replace("TIMEOUTS", "timeouts: { connect: 3s, first_byte: 60s, idle: 120s }")
        .replace("MODEL", "modality: text, status: active, on_disconnect: bill_relayed, price: { input: 0, output: 0 },")
        .replace("UPSTREAM", "weight: 1, tier: 0");
    let least = base
        .replace("TIMEOUTS", "")
        .replace("MODEL", "")
        .replace("UPSTREAM", "");
    assert_eq!(good(&least), good(&defaults));
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file() {
    expect(
        "version: 2
listners: []
admin: { bind: 0.0.0.0:9901 }
store: { path: '${NOWHERE}' }
providers:
  deepseek:
    api: opnai
    base_url: ftp://api.deepseek.com
    keys: [123]
models:
  - id: a
    upstreams: [{ provider: deepsek }]
    price: { inptu: 4, output: 0.1234567 }
  - aliases: [a]
    upstreams: [{ provider: deepseek, weight: -1 }]
limits: { body: lots }
",
        &[
            ("1:10", "version: `2` is too large; the most is 1"),
            (
                "2:1",
                "listners: unknown field `listners`; did you mean `listeners`?",
            ),
            (
                "3:16",
                "admin.bind: `0.0.0.0:9901` is reachable from outside and no token is set; add `token:",
            ),
            (
                "4:16",
                "store.path: variable `NOWHERE` is not set; set it, or give a default: `${NOWHERE:-default}`",
            ),
            (
                "7:10",
                "providers.deepseek.api: unknown value `opnai`; did you mean `openai`?",
            ),
            (
                "8:15",
                "providers.deepseek.base_url: `ftp://api.deepseek.com` does not begin with `http://`",
            ),
            (
                "9:12",
                "providers.deepseek.keys[0]: expected a secret such as `${NAME}`, found a number; put it in quotes",
            ),
            (
                "12:29",
                "models[0].upstreams[0].provider: unknown provider `deepsek`; did you mean `deepseek`?",
            ),
            (
                "13:14",
                "models[0].price.inptu: unknown field `inptu`; did you mean `input`?",
            ),
            (
                "13:32",
                "models[0].price.output: `0.1234567` is more than 6 decimals; write at most 6 decimals",
            ),
            ("14:5", "models[1].id: `id` is missing; add `id:` with text"),
            (
                "14:15",
                "models[1].aliases[0]: `a` is taken by `models[0].id`",
            ),
            (
                "15:47",
                "models[1].upstreams[0].weight: `-1` is too small; the least is 0",
            ),
            ("16:17", "limits.body: `lots` is no size"),
        ],
    );
}

#[test]
fn wrong_types_name_what_was_found_and_the_remedy() {
    expect(
        "models: 3",
        &[("1:9", "models: expected a list, found the number `3`")],
    );
    expect("- a", &[("1:1", "expected a mapping, found a list")]);
    expect("currency: 12", &[("1:11", "put it in quotes: \"12\"")]);
    expect(
        "threads: \"4\"",
        &[(
            "1:10",
            "expected a whole number, found the text `4`; remove the quotes",
        )],
    );
    expect("threads: 1_000", &[("1:10", "write digits only")]);
    expect(
        "threads: 1.5",
        &[("1:10", "expected a whole number, found the number `1.5`")],
    );
    expect(
        "threads: 0",
        &[("1:10", "`0` is too small; the least is 1")],
    );
    expect(
        "log:",
        &[("1:4", "log: `log` has no value; give one, or remove it")],
    );
    expect(
        "log: { level: loud }",
        &[("1:15", "allowed: `error`, `warn`, `info`, `debug`, `trace`")],
    );
    expect("listeners: []", &[("1:12", "listeners: the list is empty")]);
    expect(
        "listeners: [{ bind: '127.0.0.1:1', tls: {} }]",
        &[
            ("1:41", "listeners[0].tls.cert: `cert` is missing"),
            ("1:41", "listeners[0].tls.key: `key` is missing"),
        ],
    );
    expect(
        "limits: { header: true }",
        &[("1:19", "expected a size such as `32MiB`, found `true`")],
    );
    expect(
        "admin: { bind: '127.0.0.1:1', token: [a] }",
        &[("1:38", "found a list")],
    );
    expect(
        "models: [{ id: a, status: soon, price: { image: [1] } }]",
        &[(
            "1:49",
            "models[0].price.image: expected a mapping or an amount such as `19.9`, found a list",
        )],
    );
    expect(
        "",
        &[("1:1", "the file is empty; start from conf/tollgate.yaml")],
    );
    expect("~", &[("1:1", "the file is empty")]);
}

#[test]
fn secrets_never_show() {
    for text in [
        "admin: { bind: '127.0.0.1:1', token: '${SPACED}' }",
        "providers: { p: { api: openai, base_url: 'https://u:hunter2@h', keys: ['hunter2 '] } }",
        "store: { redis: { url: 'http://:hunter2@h' } }",
        "store: { redis: 'redis://:hunter2@h' }\nadmin: hunter2",
        "providers: { p: { api: openai, base_url: 'http://localhost', keys: hunter2 }, q: hunter2 }",
        "limits: { body: '${SPACED}' }\nlog: { level: '${SPACED}' }\ncurrency: ${SPACED}\npublic_url: ${SPACED}",
        "models: [{ id: '${SPACED}', status: soon }, { id: '${SPACED}', status: soon, aliases: ['${SPACED}'] }]",
        "providers: { p: { api: demo } }\nmodels: [{ id: a, upstreams: [{ provider: '${SPACED}' }] }]\nlisteners: [{ bind: '${SPACED}' }]",
        "plans: { p: {} }\naccounts: { a: { plan: p, projects: ['${SPACED}'] } }\nkeys: [{ name: k, account: a, sha256: '${SPACED}', project: '${SPACED}' }]",
        "surfaces: [{ mount: '${SPACED}', api: openai }]\nstore: { redis: { url: 'redis://x', prefix: '${SPACED}' } }",
    ] {
        let errors = bad(text);
        assert!(!errors.contains("hunter"), "{errors}");
    }
    let unquoted = "providers:\n  p:\n    api: openai\n    base_url: http://localhost\n    keys:\n      - ${DIGITS}";
    expect(unquoted, &[("6:9", "found a number; put it in quotes")]);
}

#[test]
fn an_empty_expansion_leaves_an_optional_setting_out() {
    assert_eq!(good("public_url: ${NONE:-}").public_url, None);
    expect(
        "public_url: '${NONE:-}'",
        &[("1:13", "what `${NONE:-}` expands to does not begin with")],
    );
    expect(
        "admin:\n  bind: ${NONE:-}",
        &[("2:9", "admin.bind: `bind` is missing")],
    );
    expect(
        "trusted_proxies:\n  - ${NONE:-}",
        &[("2:5", "expands to nothing")],
    );
    assert_eq!(
        good("threads: ${NONE:-3}").threads,
        Some(3),
        "typed after expansion"
    );
}

#[test]
fn a_missing_file_is_an_error() {
    let errors = super::load(std::path::Path::new("/none/such.yaml"), &env)
        .unwrap_err()
        .to_string();
    assert!(
        errors.starts_with("/none/such.yaml:1:1: cannot read the configuration:"),
        "{errors}"
    );
}
