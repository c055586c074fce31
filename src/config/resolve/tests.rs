#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::config::{Config, parse};

pub(super) fn read(text: &str) -> Result<Config, String> {
    parse("t", text, &|_| None).map_err(|errors| errors.to_string())
}

/// Asserts that a text has one error, which begins with `start` and contains `part`.
#[track_caller]
pub(super) fn one(text: &str, start: &str, part: &str) {
    let error = read(text).expect_err(text);
    assert!(
        error.starts_with(&format!("t:{start}: ")) && error.contains(part),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn binds() {
    one(
        "listeners: [{ bind: ':80' }]",
        "1:21: listeners[0].bind",
        "0.0.0.0:80",
    );
    one(
        "listeners: [{ bind: '0.0.0.0:80' }, { bind: '127.0.0.1:80' }]",
        "1:45: listeners[1].bind",
        "taken by `listeners[0].bind`",
    );
    one(
        "metrics: { bind: 127.0.0.1:8080 }",
        "1:18: metrics.bind",
        "choose another port",
    );
    one(
        "admin: { bind: '127.0.0.1:1' }\nmetrics: { bind: 127.0.0.1:1 }",
        "2:18: metrics.bind",
        "taken by `admin.bind`",
    );
    assert!(read("listeners: [{ bind: '127.0.0.1:0' }, { bind: '127.0.0.1:0' }]").is_ok());
    one(
        "listeners: [{ bind: '127.0.0.1:1', tls: { cert: /none, key: Cargo.toml } }]",
        "1:49: listeners[0].tls.cert",
        "`/none` cannot be read",
    );
    one(
        "listeners: [{ bind: '127.0.0.1:1', tls: { cert: Cargo.toml, key: / } }]",
        "1:66: listeners[0].tls.key",
        "it is no file",
    );
}

#[test]
fn a_public_admin_bind_needs_a_token() {
    for bind in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
        one(
            &format!("admin: {{ bind: '{bind}' }}"),
            "1:16: admin.bind",
            "no token is set",
        );
        assert!(read(&format!("admin: {{ bind: '{bind}', token: x }}")).is_ok());
    }
    assert!(
        read("admin: { bind: '127.0.0.1:1' }").is_ok()
            && read("admin: { bind: '[::1]:1' }").is_ok()
    );
    one(
        "admin: { bind: '0.0.0.0:1', token: '' }",
        "1:36: admin.token",
        "is empty",
    );
    one(
        "admin: { bind: '0.0.0.0:1', token: '${NONE}' }",
        "1:36: admin.token",
        "variable `NONE` is not set",
    );
}

#[test]
fn mounts() {
    let mount = |mount: &str, part: &str| {
        one(
            &format!("surfaces: [{{ mount: '{mount}', api: openai }}]"),
            "1:21: surfaces[0].mount",
            part,
        );
    };
    mount("v1", "put one in front");
    mount("/v1/", "ends with `/`");
    mount("/a//b", "single slashes");
    mount("//", "single slashes");
    mount("/a/../b", "without `..`");
    mount("/a?b", "query");
    mount("/a b", "no plain path");
    mount("/a%2fb", "no plain path");
    mount("", "does not begin with `/`");
    mount("/livez", "hides the gateway's own `/livez`");
    mount("/api/status/x", "hides the gateway's own `/api/status`");
    let two = |a: &str, b: &str, part: &str| {
        let text = format!("surfaces:\n- {{ {a} }}\n- {{ {b} }}\n");
        if part.is_empty() {
            assert!(read(&text).is_ok(), "{text}");
        }
        let errors = read(&text).err().unwrap_or_default();
        assert!(errors.contains(part), "{errors}");
        assert!(
            part.is_empty() || errors.starts_with("t:3:") && errors.lines().count() == 1,
            "{errors}"
        );
    };
    two(
        "api: openai, mount: /v1",
        "api: anthropic, mount: /v1",
        "mounted twice, first by `surfaces[0]`",
    );
    two(
        "api: openai, mount: /v1",
        "api: openai, mount: /v1/models",
        "`/v1/models` hides `/v1/models`",
    );
    two(
        "api: openai, mount: /v1/chat",
        "api: openai, mount: /v1",
        "`/v1/chat` hides `/v1/chat/completions`",
    );
    two(
        "api: openai, mount: /v1",
        "api: openai, mount: /v1/models/a/b",
        "hides `/v1/models/{id}`",
    );
    two(
        "api: openai, mount: /v1",
        "api: openai, mount: /v1/videos/x/content",
        "hides `/v1/videos/{id}/content`",
    );
    two(
        "api: openai, mount: /v1",
        "api: anthropic, mount: /",
        "`/v1` of `surfaces[0]` collide: `/v1` hides `/v1/messages`, which `/` answers",
    );
    two("api: openai, mount: /v1", "api: openai, mount: /", "");
    two(
        "api: openai, mount: /v1",
        "api: openai, mount: /v1/team",
        "",
    );
    two("api: openai, mount: /v1", "api: openai, mount: /v12", "");
    two(
        "api: anthropic, mount: /",
        "api: openai, mount: /openai/v1",
        "",
    );
}

#[test]
fn surfaces() {
    one(
        "surfaces: [{ mount: /v1, api: openai, errors: anthropic }]",
        "1:47: surfaces[0].errors",
        "`api: anthropic`",
    );
    one(
        "surfaces: [{ mount: /v1, api: anthropic, errors: typed }]",
        "1:50: surfaces[0].errors",
        "`api: openai`",
    );
    one(
        "surfaces: [{ mount: /v1, api: openai, retry_after: 61 }]",
        "1:52: surfaces[0].retry_after",
        "the most is 60",
    );
    one(
        "surfaces: [{ mount: /v1, api: openai, statuses: { spend_cap: 429 } }]",
        "1:51: surfaces[0].statuses.spend_cap",
        "did you mean `spend_cap_reached`?",
    );
    one(
        "surfaces: [{ mount: /v1, api: openai, statuses: { model_not_found: 200 } }]",
        "1:68: surfaces[0].statuses.model_not_found",
        "the least is 400",
    );
}

#[test]
fn providers() {
    one(
        "providers: { p: { api: openai, keys: [k] } }",
        "1:17: providers.p.base_url",
        "`base_url` is missing",
    );
    one(
        "providers: { p: { api: openai, base_url: 'https://x' } }",
        "1:17: providers.p.keys",
        "add at least one key",
    );
    one(
        "providers: { p: { api: openai, base_url: 'https://x', keys: [] } }",
        "1:61: providers.p.keys",
        "add at least one key",
    );
    assert!(read("providers: { p: { api: anthropic, base_url: 'http://127.0.0.1:1' } }").is_ok());
    one(
        "providers: { p: { api: demo, keys: [k] } }",
        "1:30: providers.p.keys",
        "takes no `keys`",
    );
    one(
        "providers: { p: { api: demo, base_url: 'https://x' } }",
        "1:30: providers.p.base_url",
        "takes no `base_url`",
    );
    one(
        "providers: { 'a b': { api: demo } }",
        "1:14: providers[\"a b\"]",
        "`a b` is no name",
    );
    one(
        "providers: { p: { api: demo, timeouts: { idle: 2h } } }",
        "1:48: providers.p.timeouts.idle",
        "write `1ms` to `1h`",
    );
    one(
        "providers: { p: { api: demo, timeouts: { idle: 2 } } }",
        "1:48: providers.p.timeouts.idle",
        "expected a duration such as `3s`",
    );
    one(
        "providers: { p: { api: openai, base_url: 'https://x', keys: ['a b'] } }",
        "1:62: providers.p.keys[0]",
        "a header cannot carry",
    );
}

#[test]
fn models() {
    let model = |rest: &str, start: &str, part: &str| {
        one(
            &format!("providers: {{ p: {{ api: demo }} }}\nmodels:\n- {rest}\n"),
            start,
            part,
        );
    };
    model(
        "{ id: a }",
        "3:3: models[0].upstreams",
        "a model needs an upstream",
    );
    model(
        "{ id: a, upstreams: [{ provider: q }] }",
        "3:36: models[0].upstreams[0].provider",
        "known providers: `p`",
    );
    model(
        "{ id: a, upstreams: [{ provider: p, weight: 0 }] }",
        "3:23: models[0].upstreams",
        "weight 0",
    );
    model(
        "{ id: 'a*', upstreams: [{ provider: p }] }",
        "3:9: models[0].id",
        "has a `*`",
    );
    model(
        "{ id: '*', aliases: [b], upstreams: [{ provider: p }] }",
        "3:14: models[0].aliases",
        "no aliases",
    );
    model(
        "{ id: '*', upstreams: [{ provider: p, model: b }] }",
        "3:41: models[0].upstreams[0].model",
        "remove `model`",
    );
    model(
        "{ id: a, aliases: [a], upstreams: [{ provider: p }] }",
        "3:22: models[0].aliases[0]",
        "taken by `models[0].id`",
    );
    model(
        "{ id: a, aliases: [b], status: soon }\n- { id: b, status: soon }",
        "3:22: models[0].aliases[0]",
        "taken by `models[1].id`",
    );
    model(
        "{ id: a, aliases: [b], status: soon }\n- { id: c, aliases: [b], status: soon }",
        "4:22: models[1].aliases[0]",
        "taken by `models[0].aliases[0]`",
    );
    model(
        "{ id: a, status: soon }\n- { id: a, status: soon }",
        "4:9: models[1].id",
        "taken by `models[0].id`",
    );
    model(
        "{ id: a, status: soon, price: { input: -1 } }",
        "3:42: models[0].price.input",
        "is negative",
    );
    model(
        "{ id: a, status: soon, price: { image: { big: 1e3 } } }",
        "3:49: models[0].price.image.big",
        "not a decimal amount",
    );
    model(
        "{ id: a, status: soon, price: { input: 9000000001 } }",
        "3:42: models[0].price.input",
        "the most is 9000000000",
    );
    let config = read("models: [{ id: a, status: soon, price: { input: 0.000001, image: { 1024x1024: '0.2', 2k: 8999999999.123457 } } }]").unwrap();
    let price = &config.models[0].price;
    assert_eq!(price.input.micros(), 1);
    let sizes: Vec<(&str, i64)> = price
        .images_by_size
        .iter()
        .map(|(size, money)| (size.as_str(), money.micros()))
        .collect();
    assert_eq!(
        sizes,
        [("1024x1024", 200_000), ("2k", 8_999_999_999_123_457)],
        "exact, in the order of the file"
    );
}

#[test]
fn resilience() {
    let health = |text: &str| format!("providers: {{ d: {{ api: demo, health: {{ {text} }} }} }}");
    let at = "1:";
    for (text, path, part) in [
        ("failures: 0", "failures", "least is 1"),
        ("cooldown: 2h", "cooldown", "`1ms` to `1h`"),
        (
            "cooldown: 5s, max_cooldown: 4s",
            "max_cooldown",
            "`5s` to `1h`",
        ),
        (
            "check: { path: models }",
            "check.path",
            "begins with a slash",
        ),
        (
            "check: { path: /a, interval: 10ms }",
            "check.interval",
            "`1s` to `1h`",
        ),
    ] {
        let error = read(&health(text)).expect_err(text);
        assert!(
            error.starts_with(&format!("t:{at}"))
                && error.contains(&format!("providers.d.health.{path}"))
                && error.contains(part),
            "{error}"
        );
    }
    one(
        "limits: { buffered: 1MiB }",
        "1:21: limits.buffered",
        "`limits.body`",
    );
    one(
        "retries: { max: 11 }",
        "1:17: retries.max",
        "the most is 10",
    );
    one(
        "retries: { resend: [always] }",
        "1:21: retries.resend[0]",
        "`broken`, `first_byte`",
    );
    one(
        "shutdown: { lame_duck: 11m }",
        "1:24: shutdown.lame_duck",
        "`0s` to `10m`",
    );
    let config = read("shutdown: { lame_duck: 0s }\nlimits: { body: 1GiB }").unwrap();
    assert!(config.shutdown.lame_duck.is_zero());
    assert_eq!(config.limits.buffered, 1 << 30);
    assert_eq!((config.retries.max, config.retries.budget), (2, 20));
}
