//! Listeners, admin, metrics, store, limits and log.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::durations::{DAY, MINUTE, Span};
use super::{Resolver, forms};
use crate::config::path;
use crate::config::schema;
use crate::config::settings::{
    Admin, Limits, Listener, Log, Redis, Retries, Secret, Shutdown, Store, TlsFiles,
};
use crate::config::words::{BillingFailure, LimitsFailure, LogFormat, LogLevel};
use crate::store::target;

/// Where clients connect when the file says nothing: this machine only.
const DEFAULT_BIND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Resolver<'_, '_> {
    pub(super) fn listeners(&mut self, given: Option<Vec<schema::Listener>>) -> Vec<Listener> {
        let Some(given) = given else {
            return vec![Listener {
                bind: DEFAULT_BIND,
                tls: None,
            }];
        };
        let mut listeners = Vec::with_capacity(given.len());
        for (at, schema::Listener { bind, tls }) in given.into_iter().enumerate() {
            let path = path::item("listeners", at);
            let bind = self
                .bind(&format!("{path}.bind"), bind)
                .unwrap_or(DEFAULT_BIND);
            let tls = tls.and_then(|schema::Tls { cert, key }| {
                let cert = self.file(&format!("{path}.tls.cert"), cert);
                let key = self.file(&format!("{path}.tls.key"), key);
                Some(TlsFiles {
                    cert: cert?,
                    key: key?,
                })
            });
            listeners.push(Listener { bind, tls });
        }
        listeners
    }

    pub(super) fn admin(&mut self, given: Option<schema::Admin>) -> Option<Admin> {
        let schema::Admin { bind, token } = given?;
        // A token that could not be read is given all the same.
        let without_token = token.is_none() && !self.report.is_unusable("admin.token");
        let token = token.and_then(|token| {
            self.header_text("admin.token", &token.0)
                .then(|| Secret::new(token.0))
        });
        let bind = self.bind("admin.bind", bind)?;
        if without_token && !bind.ip().to_canonical().is_loopback() {
            let message = "is reachable from outside and no token is set; add `token: \"${TOLLGATE_ADMIN_TOKEN}\"`, or bind to `127.0.0.1`";
            self.wrong("admin.bind", message);
        }
        Some(Admin { bind, token })
    }

    /// A secret that travels in a header must be visible ASCII. The secret is not shown.
    pub(super) fn header_text(&mut self, path: &str, text: &str) -> bool {
        if self.report.is_unusable(path) {
            return false;
        }
        let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if !good {
            let what = if text.is_empty() {
                "is empty"
            } else {
                "has spaces, line breaks or other characters that a header cannot carry"
            };
            self.report.value(
                path,
                format!("the secret {what}; check the variable or file that it comes from"),
            );
        }
        good
    }

    pub(super) fn metrics(&mut self, given: Option<schema::Metrics>) -> Option<SocketAddr> {
        let schema::Metrics { bind } = given?;
        self.bind("metrics.bind", bind)
    }

    fn bind(&mut self, path: &str, given: Option<schema::AddressText>) -> Option<SocketAddr> {
        self.parsed(path, &given?.0, forms::address)
    }

    /// No two listeners on one port of one address.
    pub(super) fn binds_apart(
        &mut self,
        listeners: &[Listener],
        admin: Option<&Admin>,
        metrics: Option<SocketAddr>,
    ) {
        let mut all: Vec<(String, SocketAddr)> = listeners
            .iter()
            .enumerate()
            .map(|(at, listener)| (format!("listeners[{at}].bind"), listener.bind))
            .collect();
        all.extend(admin.map(|admin| ("admin.bind".to_owned(), admin.bind)));
        all.extend(metrics.map(|bind| ("metrics.bind".to_owned(), bind)));
        for (at, (path, bind)) in all.iter().enumerate() {
            let other = all.iter().take(at).find(|(other, earlier)| {
                let (a, b) = (bind.ip(), earlier.ip());
                let same = a == b
                    || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified());
                // The default stands in for what could not be read.
                bind.port() != 0
                    && bind.port() == earlier.port()
                    && same
                    && !self.report.is_unusable(other)
            });
            if let Some((other, earlier)) = other {
                let message =
                    format!("`{bind}` is taken by `{other}` ({earlier}); choose another port");
                self.report.value(path, message);
            }
        }
    }

    pub(super) fn public_url(&mut self, given: &schema::UrlText) -> Option<String> {
        self.dormant("public_url", true);
        self.url("public_url", &given.0)?;
        Some(given.0.trim_end_matches('/').to_owned())
    }

    /// A URL; one with a user name is not shown.
    pub(super) fn url(
        &mut self,
        path: &str,
        text: &str,
    ) -> Option<crate::config::settings::BaseUrl> {
        if self.report.is_unusable(path) {
            return None;
        }
        match forms::url(text) {
            Ok(url) => Some(url),
            Err(message) if text.contains('@') => {
                self.report.value(path, format!("the URL {message}"));
                None
            }
            Err(message) => {
                self.wrong(path, &message);
                None
            }
        }
    }

    pub(super) fn key_prefix(&mut self, given: Option<schema::Auth>) -> String {
        let prefix = given
            .and_then(|schema::Auth { key_prefix }| key_prefix)
            .unwrap_or_else(|| "sk-".to_owned());
        if prefix.len() > 16
            || !prefix
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            self.wrong(
                "auth.key_prefix",
                "is no key prefix; write at most 16 letters, digits, `-` and `_`, such as `sk-`",
            );
        }
        prefix
    }

    pub(super) fn currency(&mut self, given: Option<String>) -> String {
        let currency = given.unwrap_or_else(|| "USD".to_owned());
        if currency.len() != 3 || !currency.bytes().all(|b| b.is_ascii_uppercase()) {
            self.wrong(
                "currency",
                "is no currency; write three capital letters, such as `USD` or `CNY`",
            );
        }
        currency
    }

    pub(super) fn store(&mut self, given: Option<schema::Store>) -> Store {
        let (path, redis, on_failure) = match given {
            Some(schema::Store {
                path,
                redis,
                on_failure,
            }) => (path, redis, on_failure),
            None => (None, None, None),
        };
        let path = path.map_or_else(|| "./data".to_owned(), |path| path.0);
        if path.is_empty() {
            self.report.value(
                "store.path",
                "`path` is empty; write a directory such as `./data`",
            );
        }
        let (limits, billing) = match on_failure {
            Some(schema::OnFailure { limits, billing }) => (limits, billing),
            None => (None, None),
        };
        Store {
            path: path.into(),
            redis: redis.and_then(|redis| self.redis(redis)),
            on_failure_limits: limits.unwrap_or(LimitsFailure::Local),
            on_failure_billing: billing.unwrap_or(BillingFailure::Deny),
        }
    }

    fn redis(&mut self, given: schema::Redis) -> Option<Redis> {
        let schema::Redis { url, prefix } = given;
        let prefix = prefix.unwrap_or_else(|| "tollgate".to_owned());
        // Braces would change the hash tag that keeps an account in one slot.
        if prefix.is_empty()
            || prefix.len() > 64
            || !prefix
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b".:_-".contains(&b))
        {
            self.wrong(
                "store.redis.prefix",
                "is no prefix; write 1 to 64 letters, digits, `.`, `:`, `_` or `-`",
            );
        }
        let url = url?.0;
        const SCHEMES: [&str; 4] = [
            "redis://",
            "rediss://",
            "redis+cluster://",
            "rediss+cluster://",
        ];
        let rest = SCHEMES.iter().find_map(|scheme| url.strip_prefix(scheme));
        let plain = rest.is_some_and(|rest| !rest.is_empty() && !url.contains(char::is_whitespace));
        if !plain || !target::is_usable(&url) {
            let message = "the Redis URL cannot be used; write `redis://:password@host:6379/0`, with `rediss` for TLS and `redis+cluster` (without a database) for a cluster; percent-encode what is special in a password";
            self.report.value("store.redis.url", message);
        }
        Some(Redis {
            url: Secret::new(url),
            prefix,
        })
    }

    pub(super) fn limits(&mut self, given: Option<schema::Limits>) -> Limits {
        let given = given.unwrap_or(schema::Limits {
            body: None,
            header: None,
            unauthenticated_per_ip: None,
            connections: None,
            in_flight: None,
            buffered: None,
            answer: None,
        });
        let schema::Limits {
            body,
            header,
            unauthenticated_per_ip,
            connections,
            in_flight,
            buffered,
            answer,
        } = given;
        let body = self
            .size("limits.body", body, 4 * GIB, "4GiB")
            .unwrap_or(32 * MIB);
        let buffered = self.size("limits.buffered", buffered, 1024 * GIB, "1024GiB");
        if buffered.is_some_and(|buffered| buffered < body) {
            self.wrong(
                "limits.buffered",
                "is less than one body may have (`limits.body`); raise it, or lower that",
            );
        }
        Limits {
            body,
            header: self
                .size("limits.header", header, MIB, "1MiB")
                .unwrap_or(32 * KIB),
            unauthenticated_per_ip: unauthenticated_per_ip.and_then(|rate| {
                self.parsed("limits.unauthenticated_per_ip", &rate.0, forms::rate)
            }),
            connections,
            in_flight,
            buffered: buffered.unwrap_or(body.max(512 * MIB)),
            answer: self
                .size("limits.answer", answer, 4 * GIB, "4GiB")
                .unwrap_or(256 * MIB),
        }
    }

    pub(super) fn shutdown(&mut self, given: Option<schema::Shutdown>) -> Shutdown {
        let (lame_duck, grace) = match given {
            Some(schema::Shutdown { lame_duck, grace }) => (lame_duck, grace),
            None => (None, None),
        };
        let within = |most| Span {
            least: Duration::ZERO,
            most,
        };
        Shutdown {
            lame_duck: self
                .span("shutdown.lame_duck", lame_duck, within(MINUTE * 10))
                .unwrap_or(Duration::from_secs(2)),
            grace: self
                .span("shutdown.grace", grace, within(DAY))
                .unwrap_or(Duration::from_secs(30)),
        }
    }

    fn size(
        &mut self,
        path: &str,
        given: Option<schema::SizeText>,
        most: u64,
        shown: &str,
    ) -> Option<u64> {
        given?;
        let document = self.report.document;
        let bytes = self.parsed(path, document.exact(path)?, forms::size)?;
        if bytes < KIB || bytes > most {
            self.wrong(path, &format!("is out of range; write 1KiB to {shown}"));
        }
        Some(bytes)
    }

    pub(super) fn networks(
        &mut self,
        path: &str,
        given: Option<Vec<schema::NetworkText>>,
    ) -> Vec<IpNet> {
        let given = given.unwrap_or_default();
        let parse = |(at, text): (usize, &schema::NetworkText)| {
            self.parsed(&path::item(path, at), &text.0, forms::network)
        };
        given.iter().enumerate().filter_map(parse).collect()
    }
}

pub(super) fn retries(given: Option<schema::Retries>) -> Retries {
    let (max, budget, resend) = match given {
        Some(schema::Retries {
            max,
            budget,
            resend,
        }) => (max, budget, resend),
        None => (None, None, None),
    };
    Retries {
        max: max.unwrap_or(2),
        budget: budget.unwrap_or(20),
        resend: resend.unwrap_or_default(),
    }
}

pub(super) fn log(given: Option<schema::Log>) -> Log {
    let (format, level) = match given {
        Some(schema::Log { format, level }) => (format, level),
        None => (None, None),
    };
    Log {
        format: format.unwrap_or(LogFormat::Json),
        level: level.unwrap_or(LogLevel::Info),
    }
}
