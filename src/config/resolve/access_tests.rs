#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::tests::{one, read};
use crate::config::KeyBilling;

const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

#[test]
fn plans_and_accounts() {
    one(
        "plans: { p: { burst: 3 } }",
        "1:15: plans.p.burst",
        "without `requests_per_minute`",
    );
    one(
        "plans: { p: { concurrency: 0 } }",
        "1:28: plans.p.concurrency",
        "the least is 1",
    );
    one(
        "plans: { p: { models: ['a?'] } }",
        "1:24: plans.p.models[0]",
        "`*` is the only one",
    );
    one(
        "accounts: { a: { plan: pro } }",
        "1:24: accounts.a.plan",
        "unknown plan `pro`; there are no plans; add it under `plans`",
    );
    one(
        "plans: { pro: {} }\naccounts: { a: { plan: por } }",
        "2:24: accounts.a.plan",
        "did you mean `pro`?",
    );
    one(
        "plans: { p: {} }\naccounts: { a: { plan: p, projects: [x, x] } }",
        "2:41: accounts.a.projects[1]",
        "listed twice",
    );
    one(
        "anonymous: { plan: p, models: [a] }",
        "1:20: anonymous.plan",
        "unknown plan `p`",
    );
    one(
        "plans: 3\naccounts: { a: { plan: pro } }",
        "1:8: plans",
        "expected a mapping",
    );
}

#[test]
fn keys() {
    let key = |rest: &str, start: &str, part: &str| {
        let text = format!(
            "plans: {{ p: {{}} }}\naccounts: {{ acme: {{ plan: p }} }}\nkeys:\n- {{ name: k, {rest} }}\n"
        );
        one(&text, start, part);
    };
    let hash = format!("sha256: {HASH}");
    key(
        "account: acme, sha256: abc",
        "4:37: keys[0].sha256",
        "64 hexadecimal digits",
    );
    key(
        "account: acme, sha256: 123",
        "4:37: keys[0].sha256",
        "put it in quotes",
    );
    key(
        &format!("account: acem, {hash}"),
        "4:23: keys[0].account",
        "did you mean `acme`?",
    );
    key(
        &format!("account: acme, {hash}, plan: q"),
        "4:109: keys[0].plan",
        "unknown plan `q`",
    );
    key(
        &format!("account: acme, {hash}, project: web"),
        "4:112: keys[0].project",
        "account `acme` has no project `web`; its projects: `default`",
    );
    key(
        &format!("account: acme, {hash}, billing: {{ package: s }}"),
        "4:123: keys[0].billing.package",
        "unknown package `s`",
    );
    key(
        &format!("account: acme, {hash}, billing: pay"),
        "4:112: keys[0].billing",
        "unknown value `pay`; did you mean `pay_as_you_go`?",
    );
    key(
        &format!("account: acme, {hash}, expires: tomorrow"),
        "4:112: keys[0].expires",
        "write RFC 3339",
    );
    key(
        &format!("account: acme, {hash}, networks: [10.0.0.0/33]"),
        "4:114: keys[0].networks[0]",
        "write CIDR",
    );
    key(
        &format!("account: acme, {hash} }}\n- {{ name: l, account: acme, {hash}"),
        "5:37: keys[1].sha256",
        "`keys[0]` has the same hash",
    );
    let other = HASH.replace('9', "a");
    key(
        &format!("account: acme, {hash} }}\n- {{ name: k, account: acme, sha256: {other}"),
        "5:11: keys[1].name",
        "the name of `keys[0]` too",
    );
}

#[test]
fn billing_limits_and_the_rest() {
    one(
        "billing: { day_starts: 8 }",
        "1:24: billing.day_starts",
        "expected a UTC offset such as `+08:00`",
    );
    one(
        "billing: { day_starts: '8:00' }",
        "1:24: billing.day_starts",
        "is no UTC offset",
    );
    one(
        "billing: { packages: { s: { valid: 1d } } }",
        "1:27: billing.packages.s.tokens",
        "`tokens` is missing",
    );
    one(
        "billing: { packages: { s: { tokens: 1, valid: 99999d } } }",
        "1:47: billing.packages.s.valid",
        "the most is `36500d`",
    );
    one(
        "limits: { body: 1 }",
        "1:17: limits.body",
        "write 1KiB to 4GiB",
    );
    one(
        "limits: { unauthenticated_per_ip: 20 }",
        "1:35: limits.unauthenticated_per_ip",
        "expected a rate such as `20/s`",
    );
    one(
        "auth: { key_prefix: 'sk!' }",
        "1:21: auth.key_prefix",
        "at most 16 letters",
    );
    one("currency: cny", "1:11: currency", "three capital letters");
    one(
        "public_url: api.acme.example",
        "1:13: public_url",
        "does not begin with `http://`",
    );
    one(
        "store: { redis: { url: 'memcached://x' } }",
        "1:24: store.redis.url",
        "write `redis://",
    );
    one(
        "trusted_proxies: [lan]",
        "1:19: trusted_proxies[0]",
        "write CIDR",
    );
    assert!(read("limits: { body: 33554432 }\nbilling: { day_starts: -05:30 }").is_ok());
}

#[test]
fn a_keys_references_become_indexes() {
    let text = format!(
        "plans: {{ a: {{}}, b: {{ models: ['x-*'] }} }}\naccounts: {{ m: {{ plan: a }}, n: {{ plan: b, projects: [web] }} }}\n\
         billing: {{ packages: {{ s: {{ tokens: 1, valid: 1d }}, t: {{ tokens: 2, valid: 2d, price: 19.90 }} }} }}\n\
         keys: [{{ name: k, account: n, project: web, sha256: {HASH}, billing: {{ package: t }} }}]"
    );
    let config = read(&text).unwrap();
    let key = &config.keys[0];
    assert_eq!(
        (key.account, key.plan, key.billing),
        (1, 1, KeyBilling::Package(1))
    );
    assert_eq!(
        (config.plans[0].models.as_slice(), key.models.as_deref()),
        (["*".to_owned()].as_slice(), None)
    );
}

#[test]
fn settings_without_their_feature_are_named_once() {
    let config = read(
        "public_url: https://x\nadmin: { bind: '127.0.0.1:1' }\nstore: { path: x, redis: { url: 'redis://x' }, on_failure: { limits: deny, billing: deny } }\n\
         surfaces: [{ mount: /v1, api: openai, rate_limit_reset: epoch, ietf_rate_limit: true }]\n\
         plans: { p: { requests_per_minute: 1, burst: 1, tokens_per_minute: 1, concurrency: 1, tokens_per_day: 1, scope: account }, q: { concurrency: 2, scope: key } }\n\
         accounts: { a: { plan: p, balance: 1 } }\nbilling: { mode: observe, day_starts: '+00:00' }\nlimits: { unauthenticated_per_ip: 20/s }\n\
         models: [{ id: a, status: soon, on_disconnect: drain }]\n",
    );
    assert_eq!(config.unwrap().dormant, ["public_url"]);
    assert!(read("version: 1").unwrap().dormant.is_empty());
}
