//! A configuration as a tree of settings that can be compared and told of: names in place of indexes, values as people
//! write them, secrets marked as such.
//!
//! Every struct is taken apart whole, so that a new setting cannot be forgotten here.
//!
//! Above 400 lines, as `settings` is: each struct of it stands here once.

use super::path;
use super::resolve::shown;
use super::settings::{
    Account, ActiveCheck, Admin, Anonymous, BaseUrl, Billing, Config, Health, Key, KeyBilling,
    Limits, Listener, Log, Model, Package, Plan, Provider, Rate, Redis, Retries, Secret, Shutdown,
    Store, Surface, Timeouts, TlsFiles, UpstreamRef,
};
use crate::billing::money::Money;
use crate::catalog::Price;
use serde::Serialize;
use std::fmt::Display;
use std::time::{Duration, SystemTime};

/// A setting, or several.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// Not there.
    Nothing,
    /// A value that anyone may see.
    Plain(String),
    /// A value that nobody may.
    Secret(String),
    /// Settings that are always there.
    Fields(Vec<(&'static str, Setting)>),
    /// Things that the operator named, in the order of the file.
    Named(Vec<(String, Setting)>),
    /// Things without a name, in the order of the file.
    Listed(Vec<Setting>),
}

use Setting::{Fields, Listed, Named, Nothing, Plain};

/// The whole configuration.
pub(super) fn outline(config: &Config) -> Setting {
    let Config {
        public_url,
        threads,
        listeners,
        admin,
        metrics,
        surfaces,
        key_prefix,
        store,
        providers,
        currency,
        models,
        plans,
        accounts,
        keys,
        anonymous,
        billing,
        limits,
        retries,
        shutdown,
        trusted_proxies,
        log,
        // It follows from the others.
        dormant: _,
    } = config;
    let of = Names(config);
    Fields(vec![
        ("public_url", maybe(public_url)),
        ("threads", maybe(threads)),
        ("listeners", listed(listeners, listener)),
        ("admin", admin.as_ref().map_or(Nothing, self::admin)),
        ("metrics", Fields(vec![("bind", maybe(metrics))])),
        (
            "surfaces",
            named(surfaces, |surface| &surface.mount, surface),
        ),
        ("auth", Fields(vec![("key_prefix", plain(key_prefix))])),
        ("store", self::store(store)),
        (
            "providers",
            named(providers, |provider| &provider.name, provider),
        ),
        ("currency", plain(currency)),
        (
            "models",
            named(models, |model| &model.id, |model| of.model(model)),
        ),
        ("plans", named(plans, |plan| &plan.name, plan)),
        (
            "accounts",
            named(accounts, |account| &account.id, |one| of.account(one)),
        ),
        ("keys", named(keys, |key| &key.name, |key| of.key(key))),
        (
            "anonymous",
            anonymous.as_ref().map_or(Nothing, |one| of.anonymous(one)),
        ),
        ("billing", self::billing(billing)),
        ("limits", self::limits(limits)),
        ("retries", self::retries(retries)),
        ("shutdown", self::shutdown(shutdown)),
        ("trusted_proxies", several(trusted_proxies)),
        ("log", self::log(log)),
    ])
}

fn plain(value: &impl Display) -> Setting {
    Plain(value.to_string())
}

fn maybe(value: &Option<impl Display>) -> Setting {
    value.as_ref().map_or(Nothing, plain)
}

/// A word of an enumeration, as it stands in the file.
fn word(value: &impl Serialize) -> Setting {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Plain(word),
        _ => Nothing,
    }
}

fn several(values: &[impl Display]) -> Setting {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    Plain(format!("[{}]", values.join(", ")))
}

fn time(value: &Duration) -> Setting {
    Plain(shown(*value))
}

fn secrets(values: &[Secret]) -> Setting {
    let values: Vec<&str> = values.iter().map(Secret::expose).collect();
    match values.is_empty() {
        true => Nothing,
        false => Setting::Secret(values.join("\n")),
    }
}

fn listed<T>(all: &[T], each: impl Fn(&T) -> Setting) -> Setting {
    Listed(all.iter().map(each).collect())
}

fn named<T>(all: &[T], name: impl Fn(&T) -> &String, each: impl Fn(&T) -> Setting) -> Setting {
    let each = |one: &T| (name(one).clone(), each(one));
    Named(all.iter().map(each).collect())
}

fn listener(listener: &Listener) -> Setting {
    let Listener { bind, tls } = listener;
    let tls = tls.as_ref().map_or(Nothing, |TlsFiles { cert, key }| {
        Fields(vec![
            ("cert", plain(&cert.display())),
            ("key", plain(&key.display())),
        ])
    });
    Fields(vec![("bind", plain(bind)), ("tls", tls)])
}

fn admin(admin: &Admin) -> Setting {
    let Admin { bind, token } = admin;
    let token = token.as_ref().map_or(&[][..], std::slice::from_ref);
    Fields(vec![("bind", plain(bind)), ("token", secrets(token))])
}

fn surface(surface: &Surface) -> Setting {
    let Surface {
        mount: _,
        api,
        errors,
        retry_after,
        rate_limit_reset,
        ietf_rate_limit,
        statuses,
    } = surface;
    let statuses = statuses
        .iter()
        .map(|(code, status)| (code.clone(), plain(status)));
    Fields(vec![
        ("api", word(api)),
        ("errors", word(errors)),
        ("retry_after", maybe(retry_after)),
        ("rate_limit_reset", word(rate_limit_reset)),
        ("ietf_rate_limit", plain(ietf_rate_limit)),
        ("statuses", Named(statuses.collect())),
    ])
}

fn store(store: &Store) -> Setting {
    let Store {
        path,
        redis,
        on_failure_limits,
        on_failure_billing,
    } = store;
    let redis = redis.as_ref().map_or(Nothing, |Redis { url, prefix }| {
        Fields(vec![
            ("url", secrets(std::slice::from_ref(url))),
            ("prefix", plain(prefix)),
        ])
    });
    let on_failure = Fields(vec![
        ("limits", word(on_failure_limits)),
        ("billing", word(on_failure_billing)),
    ]);
    Fields(vec![
        ("path", plain(&path.display())),
        ("redis", redis),
        ("on_failure", on_failure),
    ])
}

fn provider(provider: &Provider) -> Setting {
    let Provider {
        name: _,
        api,
        base_url,
        keys,
        timeouts,
        health,
        ca,
    } = provider;
    let Timeouts {
        connect,
        first_byte,
        idle,
        total,
    } = timeouts;
    Fields(vec![
        ("api", word(api)),
        ("base_url", base_url.as_ref().map_or(Nothing, url)),
        ("keys", secrets(keys)),
        (
            "timeouts",
            Fields(vec![
                ("connect", time(connect)),
                ("first_byte", time(first_byte)),
                ("idle", time(idle)),
                ("total", time(total)),
            ]),
        ),
        ("health", self::health(health)),
        ("ca", maybe(&ca.as_ref().map(|ca| ca.display()))),
    ])
}

fn url(url: &BaseUrl) -> Setting {
    let BaseUrl {
        tls,
        host,
        port,
        path,
    } = url;
    let scheme = if *tls { "https" } else { "http" };
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.clone(),
    };
    Plain(format!("{scheme}://{host}:{port}{path}"))
}

fn health(health: &Health) -> Setting {
    let Health {
        failures,
        cooldown,
        max_cooldown,
        slow_start,
        check,
    } = health;
    let check = check.as_ref().map_or(Nothing, |check| {
        let ActiveCheck {
            path,
            interval,
            timeout,
        } = check;
        Fields(vec![
            // Some providers want their key in the query.
            ("path", Setting::Secret(path.clone())),
            ("interval", time(interval)),
            ("timeout", time(timeout)),
        ])
    });
    Fields(vec![
        ("failures", plain(failures)),
        ("cooldown", time(cooldown)),
        ("max_cooldown", time(max_cooldown)),
        ("slow_start", time(slow_start)),
        ("check", check),
    ])
}

fn price(price: &Price) -> Setting {
    let Price {
        input,
        output,
        cached_input,
        cache_write,
        image,
        images_by_size,
        thousand_characters,
        second,
    } = price;
    let by_size = |(size, price): &(String, Money)| (size.clone(), plain(price));
    Fields(vec![
        ("input", plain(input)),
        ("output", plain(output)),
        ("cached_input", maybe(cached_input)),
        ("cache_write", maybe(cache_write)),
        (
            "image",
            match images_by_size.is_empty() {
                true => maybe(image),
                false => Named(images_by_size.iter().map(by_size).collect()),
            },
        ),
        ("thousand_characters", maybe(thousand_characters)),
        ("second", maybe(second)),
    ])
}

fn plan(plan: &Plan) -> Setting {
    let Plan {
        name: _,
        requests_per_minute,
        burst,
        tokens_per_minute,
        concurrency,
        tokens_per_day,
        models,
        scope,
    } = plan;
    Fields(vec![
        ("requests_per_minute", maybe(requests_per_minute)),
        ("burst", maybe(burst)),
        ("tokens_per_minute", maybe(tokens_per_minute)),
        ("concurrency", maybe(concurrency)),
        ("tokens_per_day", maybe(tokens_per_day)),
        ("models", several(models)),
        ("scope", word(scope)),
    ])
}

fn billing(billing: &Billing) -> Setting {
    let Billing {
        mode,
        day_starts_seconds,
        packages,
    } = billing;
    let minutes = day_starts_seconds / 60;
    let sign = if minutes < 0 { '-' } else { '+' };
    let day_starts = format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60);
    let package = |package: &Package| {
        let Package {
            name: _,
            tokens,
            valid,
            models,
            price,
        } = package;
        Fields(vec![
            ("tokens", plain(tokens)),
            ("valid", time(valid)),
            ("models", several(models)),
            ("price", plain(price)),
        ])
    };
    Fields(vec![
        ("mode", word(mode)),
        ("day_starts", Plain(day_starts)),
        ("packages", named(packages, |one| &one.name, package)),
    ])
}

fn limits(limits: &Limits) -> Setting {
    let Limits {
        body,
        header,
        unauthenticated_per_ip,
        connections,
        in_flight,
        buffered,
        answer,
    } = limits;
    let rate = |rate: &Rate| Plain(format!("{} in {}", rate.count, shown(rate.per)));
    Fields(vec![
        ("body", plain(body)),
        ("header", plain(header)),
        (
            "unauthenticated_per_ip",
            unauthenticated_per_ip.as_ref().map_or(Nothing, rate),
        ),
        ("connections", maybe(connections)),
        ("in_flight", maybe(in_flight)),
        ("buffered", plain(buffered)),
        ("answer", plain(answer)),
    ])
}

fn retries(retries: &Retries) -> Setting {
    let Retries {
        max,
        budget,
        resend,
    } = retries;
    let resend = resend.iter().map(|one| match word(one) {
        Plain(word) => word,
        _ => String::new(),
    });
    Fields(vec![
        ("max", plain(max)),
        ("budget", plain(budget)),
        ("resend", several(&resend.collect::<Vec<_>>())),
    ])
}

fn shutdown(shutdown: &Shutdown) -> Setting {
    let Shutdown { lame_duck, grace } = shutdown;
    Fields(vec![("lame_duck", time(lame_duck)), ("grace", time(grace))])
}

fn log(log: &Log) -> Setting {
    let Log { format, level } = log;
    Fields(vec![("format", word(format)), ("level", word(level))])
}

/// What indexes stand for.
struct Names<'a>(&'a Config);

impl Names<'_> {
    fn plan(&self, at: usize) -> Setting {
        maybe(&self.0.plans.get(at).map(|plan| &plan.name))
    }

    fn model(&self, model: &Model) -> Setting {
        let Model {
            id: _,
            aliases,
            label,
            org,
            context_length,
            tags,
            modality,
            status,
            upstreams,
            price,
            on_disconnect,
        } = model;
        Fields(vec![
            ("aliases", several(aliases)),
            ("label", maybe(label)),
            ("org", maybe(org)),
            ("context_length", maybe(context_length)),
            ("tags", several(tags)),
            ("modality", word(modality)),
            ("status", word(status)),
            ("upstreams", listed(upstreams, |one| self.upstream(one))),
            ("price", self::price(price)),
            ("on_disconnect", word(on_disconnect)),
        ])
    }

    fn upstream(&self, upstream: &UpstreamRef) -> Setting {
        let UpstreamRef {
            provider,
            model,
            weight,
            tier,
            concurrency,
        } = upstream;
        let provider = self.0.providers.get(*provider);
        Fields(vec![
            ("provider", maybe(&provider.map(|provider| &provider.name))),
            ("model", maybe(model)),
            ("weight", plain(weight)),
            ("tier", plain(tier)),
            ("concurrency", maybe(concurrency)),
        ])
    }

    fn account(&self, account: &Account) -> Setting {
        let Account {
            id: _,
            plan,
            balance,
            projects,
        } = account;
        Fields(vec![
            ("plan", self.plan(*plan)),
            ("balance", plain(balance)),
            ("projects", several(projects)),
        ])
    }

    fn key(&self, key: &Key) -> Setting {
        let Key {
            name: _,
            account,
            sha256,
            project,
            plan,
            billing,
            daily_cap,
            monthly_cap,
            models,
            networks,
            expires,
            disabled,
        } = key;
        let account = self.0.accounts.get(*account);
        let billing = match billing {
            KeyBilling::PayAsYouGo => Plain("payg".to_owned()),
            KeyBilling::Package(at) => {
                let package = self.0.billing.packages.get(*at);
                maybe(&package.map(|package| path::field("package", &package.name)))
            }
        };
        let hash = sha256.iter().map(|byte| format!("{byte:02x}"));
        Fields(vec![
            ("account", maybe(&account.map(|account| &account.id))),
            ("sha256", Setting::Secret(hash.collect())),
            ("project", plain(project)),
            ("plan", self.plan(*plan)),
            ("billing", billing),
            (
                "spend_cap",
                Fields(vec![
                    ("daily", maybe(daily_cap)),
                    ("monthly", maybe(monthly_cap)),
                ]),
            ),
            (
                "models",
                models.as_ref().map_or(Nothing, |models| several(models)),
            ),
            ("networks", several(networks)),
            ("expires", expires.map_or(Nothing, moment)),
            ("disabled", plain(disabled)),
        ])
    }

    fn anonymous(&self, anonymous: &Anonymous) -> Setting {
        let Anonymous { plan, models } = anonymous;
        Fields(vec![
            ("plan", self.plan(*plan)),
            ("models", several(models)),
        ])
    }
}

fn moment(time: SystemTime) -> Setting {
    jiff::Timestamp::try_from(time).map_or(Nothing, |time| plain(&time))
}
