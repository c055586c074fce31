//! Providers.

use std::time::Duration;

use super::durations::{DAY, HOUR, MINUTE, Span};
use super::{Resolver, forms};
use crate::config::path;
use crate::config::schema;
use crate::config::settings::{ActiveCheck, BaseUrl, Health, Provider, Secret, Timeouts};
use crate::config::words::ProviderApi;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

impl Resolver<'_, '_> {
    pub(super) fn providers(
        &mut self,
        given: Option<schema::Named<schema::Provider>>,
    ) -> Vec<Provider> {
        let mut providers = Vec::new();
        for (name, typed) in given.map(|given| given.0).unwrap_or_default() {
            let path = path::field("providers", &name);
            self.chosen_name(&path, &name);
            let schema::Provider {
                api,
                base_url,
                keys,
                timeouts,
                health,
                ca,
            } = typed;
            let keys_given = keys.is_some();
            let base_url_given = base_url.is_some();
            let ca_given = ca.is_some();
            let base_url = base_url.and_then(|url| self.url(&format!("{path}.base_url"), &url.0));
            let keys = self.provider_keys(&format!("{path}.keys"), keys);
            let ca = self.file(&format!("{path}.ca"), ca);
            match api {
                Some(ProviderApi::Demo) => {
                    for (field, is_given) in [
                        ("base_url", base_url_given),
                        ("keys", keys_given),
                        ("ca", ca_given),
                    ] {
                        if is_given {
                            let message = format!(
                                "the demo provider is built in and takes no `{field}`; remove it, or set `api`"
                            );
                            self.report.key(&format!("{path}.{field}"), message);
                        }
                    }
                }
                Some(ProviderApi::OpenAi | ProviderApi::Anthropic) => {
                    self.reachable(&path, base_url.as_ref(), base_url_given, keys.is_empty());
                    if ca_given && base_url.as_ref().is_some_and(|url| !url.tls) {
                        self.report.key(
                            &format!("{path}.ca"),
                            "`ca` is for `https`; remove it, or correct `base_url`",
                        );
                    }
                }
                None => {}
            }
            let timeouts = self.timeouts(&format!("{path}.timeouts"), timeouts);
            let health = self.health(&format!("{path}.health"), health);
            providers.push(Provider {
                name,
                api: api.unwrap_or(ProviderApi::Demo),
                base_url,
                keys,
                timeouts,
                health,
                ca,
            });
        }
        providers
    }

    fn provider_keys(&mut self, path: &str, given: Option<Vec<schema::SecretText>>) -> Vec<Secret> {
        let mut keys = Vec::new();
        for (at, key) in given.unwrap_or_default().into_iter().enumerate() {
            self.header_text(&path::item(path, at), &key.0);
            keys.push(Secret::new(key.0));
        }
        keys
    }

    /// A provider in the network needs an address, and a key unless it is on this machine.
    fn reachable(&mut self, path: &str, url: Option<&BaseUrl>, url_given: bool, keyless: bool) {
        let base_url = format!("{path}.base_url");
        if !url_given {
            let message = "`base_url` is missing; add the provider's address, such as `base_url: https://api.example.com/v1`";
            self.report.value(&base_url, message);
        }
        if url.is_some_and(|url| keyless && !forms::is_loopback(&url.host)) {
            let keys = format!("{path}.keys");
            self.report.value(&keys, "`keys` is missing or empty; add at least one key: `keys: [\"${PROVIDER_API_KEY}\"]`");
        }
    }

    fn timeouts(&mut self, path: &str, given: Option<schema::Timeouts>) -> Timeouts {
        let (connect, first_byte, idle, total) = match given {
            Some(schema::Timeouts {
                connect,
                first_byte,
                idle,
                total,
            }) => (connect, first_byte, idle, total),
            None => (None, None, None, None),
        };
        let mut timeout = |name: &str, given: Option<schema::DurationText>, most, usual| {
            let within = Span {
                least: MILLISECOND,
                most,
            };
            let given = self.span(&format!("{path}.{name}"), given, within);
            given.unwrap_or(usual)
        };
        Timeouts {
            connect: timeout("connect", connect, HOUR, SECOND * 3),
            first_byte: timeout("first_byte", first_byte, HOUR, SECOND * 60),
            idle: timeout("idle", idle, HOUR, SECOND * 120),
            total: timeout("total", total, DAY, HOUR),
        }
    }

    fn health(&mut self, path: &str, given: Option<schema::Health>) -> Health {
        let given = given.unwrap_or(schema::Health {
            failures: None,
            cooldown: None,
            max_cooldown: None,
            slow_start: None,
            check: None,
        });
        let schema::Health {
            failures,
            cooldown,
            max_cooldown,
            slow_start,
            check,
        } = given;
        let within = |least, most| Span { least, most };
        let cooldown = self
            .span(
                &format!("{path}.cooldown"),
                cooldown,
                within(MILLISECOND, HOUR),
            )
            .unwrap_or(SECOND);
        let max_cooldown = self.span(
            &format!("{path}.max_cooldown"),
            max_cooldown,
            within(cooldown, HOUR),
        );
        let slow_start = self.span(
            &format!("{path}.slow_start"),
            slow_start,
            within(Duration::ZERO, HOUR),
        );
        Health {
            failures: failures.unwrap_or(5),
            cooldown,
            max_cooldown: max_cooldown.unwrap_or(cooldown.max(SECOND * 60)),
            slow_start: slow_start.unwrap_or(SECOND * 10),
            check: check.and_then(|check| self.active_check(&format!("{path}.check"), check)),
        }
    }

    fn active_check(&mut self, path: &str, given: schema::ActiveCheck) -> Option<ActiveCheck> {
        let schema::ActiveCheck {
            path: target,
            interval,
            timeout,
        } = given;
        let within = |least, most| Span { least, most };
        let interval = self.span(&format!("{path}.interval"), interval, within(SECOND, HOUR));
        let timeout = self.span(
            &format!("{path}.timeout"),
            timeout,
            within(MILLISECOND, MINUTE),
        );
        let target = target?;
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
        if !target.starts_with('/') || !target.bytes().all(plain) {
            self.wrong(
                &format!("{path}.path"),
                "is no path; write one below `base_url` that begins with a slash, such as `/models`",
            );
        }
        Some(ActiveCheck {
            path: target,
            interval: interval.unwrap_or(SECOND * 10),
            timeout: timeout.unwrap_or(SECOND * 2),
        })
    }
}
