//! Providers.

use std::time::Duration;

use super::{Resolver, forms};
use crate::config::path;
use crate::config::schema;
use crate::config::settings::{BaseUrl, Provider, Secret, Timeouts};
use crate::config::words::ProviderApi;

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
            providers.push(Provider {
                name,
                api: api.unwrap_or(ProviderApi::Demo),
                base_url,
                keys,
                timeouts,
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
        let (connect, first_byte, idle) = match given {
            Some(schema::Timeouts {
                connect,
                first_byte,
                idle,
            }) => (connect, first_byte, idle),
            None => (None, None, None),
        };
        let mut timeout = |name: &str, given: Option<schema::DurationText>, seconds| {
            let path = format!("{path}.{name}");
            let given = given.and_then(|text| self.parsed(&path, &text.0, forms::duration));
            if given.is_some_and(|time| time > Duration::from_secs(3600)) {
                self.wrong(&path, "is too long for a timeout; the most is `1h`");
            }
            given.unwrap_or(Duration::from_secs(seconds))
        };
        Timeouts {
            connect: timeout("connect", connect, 3),
            first_byte: timeout("first_byte", first_byte, 60),
            idle: timeout("idle", idle, 120),
        }
    }
}
