use super::*;
use crate::config::parse;

const EXAMPLE: &str = include_str!("example.yaml");

fn env(name: &str) -> Option<String> {
    Some(format!("secret-of-{name}"))
}

fn config(text: &str) -> Config {
    parse("t.yaml", text, &env).unwrap_or_else(|errors| panic!("{errors}"))
}

const BASE: &str = "
listeners: [{ bind: 127.0.0.1:8080 }]
admin: { bind: 127.0.0.1:9090, token: old-secret }
providers:
  fake: { api: openai, base_url: https://a.example/v1, keys: [key-secret] }
  other: { api: openai, base_url: https://b.example/v1, keys: [other-secret] }
models:
  - { id: gpt-5, price: { input: 1 }, upstreams: [{ provider: fake }] }
  - { id: o.4, upstreams: [{ provider: fake }] }
plans: { free: { requests_per_minute: 10 }, pro: {} }
accounts: { acme: { plan: free } }
keys:
  - { name: ci, account: acme, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 }
";

/// What is told of the base with these texts replaced.
fn told(replaced: &[(&str, &str)]) -> Vec<String> {
    let text = replaced.iter().fold(BASE.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "{old}");
        text.replace(old, new)
    });
    let changes = difference(&config(BASE), &config(&text));
    changes.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_the_same_is_not_told() {
    assert_eq!(difference(&config(EXAMPLE), &config(EXAMPLE)), []);
    // Written in another way.
    assert!(told(&[("{ input: 1 }", "{ input: 1.00, output: 0 }")]).is_empty());
}

#[test]
fn values_are_shown_and_secrets_are_not() {
    assert_eq!(
        told(&[
            ("input: 1 ", "input: 2.5 "),
            (
                "requests_per_minute: 10",
                "burst: 5, requests_per_minute: 20"
            ),
            ("old-secret", "new-secret"),
            ("key-secret", "newer-secret"),
            ("9f86", "9f87"),
            ("plan: free", "plan: pro"),
            ("a.example", "c.example"),
        ]),
        [
            "admin.token: changed (not shown)",
            "providers.fake.base_url: https://a.example:443/v1 -> https://c.example:443/v1",
            "providers.fake.keys: changed (not shown)",
            "models.gpt-5.price.input: 1.000000 -> 2.500000",
            "plans.free.requests_per_minute: 10 -> 20",
            "plans.free.burst: none -> 5",
            "accounts.acme.plan: free -> pro",
            "keys.ci.sha256: changed (not shown)",
            "keys.ci.plan: free -> pro",
        ]
    );
    assert_eq!(
        told(&[(", token: old-secret", "")]),
        ["admin.token: removed"]
    );
}

#[test]
fn things_come_and_go_by_their_names() {
    let last = "  - { id: o.4, upstreams: [{ provider: fake }] }\n";
    assert_eq!(told(&[(last, "")]), ["models[\"o.4\"]: removed"]);
    let first = "  - { id: gpt-5, price: { input: 1 }, upstreams: [{ provider: fake }] }\n";
    assert_eq!(
        told(&[(first, ""), (last, &format!("{last}{first}"))]),
        ["models: in another order"]
    );
    assert_eq!(
        told(&[(
            "- { id: o.4, upstreams: [{ provider: fake }]",
            "- { id: new, upstreams: [{ provider: fake }, { provider: other }] }\n  - { id: o.4, upstreams: [{ provider: fake }, { provider: other }]"
        )]),
        ["models.new: added", "models[\"o.4\"].upstreams[1]: added"]
    );
}

#[test]
fn what_needs_a_restart_waits_and_the_rest_does_not() {
    let old = config(BASE);
    let text = BASE
        .replace("input: 1 ", "input: 2 ")
        .replace("127.0.0.1:8080", "127.0.0.1:8081")
        .replace("admin: { bind: 127.0.0.1:9090, token: old-secret }\n", "threads: 3\nmetrics: { bind: 127.0.0.1:9091 }\nstore: { path: elsewhere }\nlog: { format: text, level: debug }\nbilling: { mode: observe, day_starts: \"+08:00\" }\n");
    let wanted = config(&text);
    let step = Step::between(&old, &wanted);
    let paths = |changes: &[Change]| {
        changes
            .iter()
            .map(|one| one.path.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        paths(&step.changes),
        ["models.gpt-5.price.input", "log.level"]
    );
    assert_eq!(
        paths(&step.restart_needed),
        [
            "threads",
            "listeners[0].bind",
            "admin.bind",
            "admin.token",
            "metrics.bind",
            "store.path",
            "billing.mode",
            "billing.day_starts",
            "log.format",
        ]
    );
    // Every one of them belongs to a name of the list.
    for path in paths(&step.restart_needed) {
        let known = restart_settings().any(|name| {
            let name = name.split(' ').next().unwrap();
            path.starts_with(name) || path.starts_with("admin.")
        });
        assert!(known, "{path}");
    }
    // Asked again, nothing is left to be done, and the same waits.
    let again = Step::between(&step.config, &wanted);
    assert_eq!(again.changes, []);
    assert_eq!(again.restart_needed, step.restart_needed);
}

#[test]
fn an_address_that_stays_open_keeps_its_token() {
    let public = BASE.replace("127.0.0.1:9090", "0.0.0.0:9090");
    let wanted = BASE.replace(", token: old-secret", "");
    let step = Step::between(&config(&public), &config(&wanted));
    let token = step.config.admin.unwrap().token.unwrap();
    assert_eq!(token.expose(), "old-secret");
    assert_eq!(step.changes, []);
    // A new one is taken at once.
    let wanted = BASE.replace("old-secret", "new-secret");
    let step = Step::between(&config(&public), &config(&wanted));
    assert_eq!(
        step.config.admin.unwrap().token.unwrap().expose(),
        "new-secret"
    );
    assert_eq!(step.restart_needed.len(), 1);
}

#[test]
fn no_secret_is_told_whatever_changes() {
    let full = config(EXAMPLE);
    let none = config("version: 1");
    let mut all = difference(&full, &none);
    all.extend(difference(&none, &full));
    let mut other = full.clone();
    for provider in &mut other.providers {
        for key in &mut provider.keys {
            *key = crate::config::Secret::new("secret-of-nobody".to_owned());
        }
    }
    all.extend(difference(&full, &other));
    assert!(all.len() > 20, "{}", all.len());
    for change in all {
        assert!(!change.to_string().contains("secret-of"), "{change}");
    }
}
