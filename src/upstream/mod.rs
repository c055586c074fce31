//! The providers: where they are, what they speak, with which credential, and which of them a
//! request goes to.

pub mod addresses;
pub mod budget;
pub mod dial;
pub mod health;
pub mod keys;
pub mod live;
pub mod peer;
pub mod pool;
pub mod select;
pub mod turn;

use crate::route::{Api, Operation};
use addresses::Addresses;
use health::Rules;
use http::{HeaderValue, Uri};
use keys::Keys;
use live::Watch;
use std::sync::Arc;
use std::time::Duration;

/// How long a provider may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To connect, TLS included.
    pub connect: Duration,
    /// From the end of the request to the first byte of the answer.
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
    /// From the request's header to the end of the answer, over all attempts.
    pub total: Duration,
}

/// A request that asks a provider whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Path and query.
    pub target: String,
    /// How often.
    pub interval: Duration,
    /// An answer must come within this time.
    pub timeout: Duration,
    /// Its key goes where Anthropic wants it.
    pub anthropic: bool,
}

/// A provider's key as the wire wants it.
#[derive(Clone)]
pub struct Credential {
    /// `Authorization: Bearer …`, marked sensitive.
    pub bearer: HeaderValue,
    /// `x-api-key`, marked sensitive.
    pub plain: HeaderValue,
}

impl Credential {
    /// A credential from the key's text; `None` if it has characters that no header may carry.
    pub fn new(key: &str) -> Option<Credential> {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {key}")).ok()?;
        let mut plain = HeaderValue::from_str(key).ok()?;
        bearer.set_sensitive(true);
        plain.set_sensitive(true);
        Some(Credential { bearer, plain })
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// Base paths of the protocols that a provider speaks, without a trailing slash.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    /// Before OpenAI's paths (`/v1`), if it speaks that.
    pub openai: Option<String>,
    /// Before Anthropic's paths (empty, or a prefix of `/v1/messages`), if it speaks that.
    pub anthropic: Option<String>,
}

/// One provider.
#[derive(Debug)]
pub struct Provider {
    /// The operator's name for it.
    pub name: Arc<str>,
    /// `Host` of its requests.
    pub authority: HeaderValue,
    /// What its certificate must name.
    pub host: String,
    /// HTTPS.
    pub tls: bool,
    /// Limits on its slowness.
    pub timeouts: Timeouts,
    /// Where it is now.
    pub addresses: Arc<Addresses>,
    /// Its keys.
    pub keys: Keys,
    /// When its upstreams are left out because they fail.
    pub health: Rules,
    /// Whether it can be reached.
    pub reach: Arc<Watch>,
    /// How it is asked whether it is there, if it is.
    pub check: Option<Check>,
    /// Parsed once: a request without a query only clones.
    paths: [Option<Uri>; Operation::ALL.len()],
}

/// What a provider is made from. Without `Debug`: it holds keys in clear.
pub struct ProviderSettings {
    /// The operator's name for it.
    pub name: String,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// HTTPS.
    pub tls: bool,
    /// What it speaks.
    pub paths: Paths,
    /// Its keys; may be empty.
    pub keys: Vec<String>,
    /// Limits on its slowness.
    pub timeouts: Timeouts,
    /// When its upstreams are left out because they fail.
    pub health: Rules,
    /// How it is asked whether it is there.
    pub check: Option<Check>,
}

impl Provider {
    /// A provider.
    ///
    /// # Errors
    /// A host or key that no header may carry; the text never shows the key.
    pub fn new(settings: ProviderSettings) -> Result<Provider, String> {
        let ProviderSettings {
            name,
            host,
            port,
            tls,
            paths,
            keys,
            timeouts,
            health,
            check,
        } = settings;
        let shown = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        let standard = if tls { 443 } else { 80 };
        let authority = if port == standard {
            shown
        } else {
            format!("{shown}:{port}")
        };
        let authority = HeaderValue::from_str(&authority)
            .map_err(|_| format!("provider {name}: the host cannot be sent in a header"))?;
        let credentials = keys
            .iter()
            .map(|key| Credential::new(key))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| {
                format!("provider {name}: a key has characters that no header may carry")
            })?;
        let mut targets = [const { None }; Operation::ALL.len()];
        for (target, operation) in targets.iter_mut().zip(Operation::ALL) {
            let path = match operation.api() {
                Api::OpenAi => paths
                    .openai
                    .as_ref()
                    .map(|base| format!("{base}/{}", operation.path())),
                Api::Anthropic => paths
                    .anthropic
                    .as_ref()
                    .map(|base| format!("{base}/v1/{}", operation.path())),
            };
            // The path of a model is a template that nobody is sent to.
            if let (Some(path), false) = (path, operation == Operation::GetModel) {
                let uri = Uri::try_from(path).map_err(|error| {
                    format!("provider {name}: the path of its base_url cannot be sent: {error}")
                })?;
                *target = Some(uri);
            }
        }
        Ok(Provider {
            name: name.into(),
            authority,
            addresses: Arc::new(Addresses::new(&host, port)),
            host,
            tls,
            timeouts,
            keys: Keys::new(credentials),
            health,
            reach: Arc::default(),
            check,
            paths: targets,
        })
    }

    /// Takes over what is known from the same provider under older settings: where it is, whether it can be reached, and
    /// how the keys that both have are doing.
    pub fn inherit(&mut self, older: &Provider) {
        if (&self.authority, self.tls) != (&older.authority, older.tls) {
            return;
        }
        self.addresses = older.addresses.clone();
        self.reach = older.reach.clone();
        self.keys.inherit(&older.keys);
    }

    /// The path of an operation, if the provider speaks its protocol.
    pub fn path(&self, operation: Operation) -> Option<&Uri> {
        self.paths.get(operation as usize)?.as_ref()
    }

    /// Its keys' bytes, to be cut out of its error answers.
    pub fn secrets(&self) -> impl Iterator<Item = &[u8]> {
        self.keys
            .credentials()
            .map(|credential| credential.plain.as_bytes())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn settings(keys: &[&str]) -> ProviderSettings {
        ProviderSettings {
            name: "p".into(),
            host: "api.example".into(),
            port: 443,
            tls: true,
            paths: Paths {
                openai: Some("/v1".into()),
                anthropic: None,
            },
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            timeouts: Timeouts {
                connect: Duration::from_secs(3),
                first_byte: Duration::from_secs(60),
                idle: Duration::from_secs(120),
                total: Duration::from_secs(3600),
            },
            health: Rules {
                failures: 5,
                cooldown: Duration::from_secs(1),
                max_cooldown: Duration::from_secs(60),
                slow_start: Duration::from_secs(10),
            },
            check: None,
        }
    }

    #[test]
    fn paths_follow_the_protocol() {
        let provider = Provider::new(settings(&["k"])).unwrap();
        assert_eq!(
            provider.path(Operation::ChatCompletions).map(Uri::path),
            Some("/v1/chat/completions")
        );
        assert_eq!(provider.path(Operation::Messages), None);
        let both = Provider::new(ProviderSettings {
            paths: Paths {
                openai: Some("/v1".into()),
                anthropic: Some(String::new()),
            },
            ..settings(&[])
        })
        .unwrap();
        assert_eq!(
            both.path(Operation::Messages).map(Uri::path),
            Some("/v1/messages")
        );
        assert!(both.keys.credential(0).is_none());
    }

    #[test]
    fn the_host_header_names_the_port_only_where_it_is_not_the_standard_one() {
        let host = |host: &str, port, tls| {
            Provider::new(ProviderSettings {
                host: host.into(),
                port,
                tls,
                ..settings(&[])
            })
            .unwrap()
            .authority
        };
        assert_eq!(host("api.example", 443, true), "api.example");
        assert_eq!(host("api.example", 443, false), "api.example:443");
        assert_eq!(host("::1", 8080, false), "[::1]:8080");
    }

    #[test]
    fn what_is_known_is_inherited_from_the_same_host_only() {
        let now = std::time::Instant::now();
        let older = Provider::new(settings(&["one", "two"])).unwrap();
        older.keys.limited(1, Some(Duration::from_secs(9)), now);
        let mut newer = Provider::new(settings(&["two", "three"])).unwrap();
        newer.inherit(&older);
        assert!(newer.keys.rest(0, now).is_some() && newer.keys.rest(1, now).is_none());
        assert!(Arc::ptr_eq(&newer.reach, &older.reach));
        let mut elsewhere = Provider::new(ProviderSettings {
            host: "other.example".into(),
            ..settings(&["two"])
        })
        .unwrap();
        elsewhere.inherit(&older);
        assert!(elsewhere.keys.rest(0, now).is_none());
        assert!(!Arc::ptr_eq(&elsewhere.reach, &older.reach));
    }

    #[test]
    fn credentials_are_never_shown() {
        let provider = Provider::new(settings(&["one-secret", "two-secret"])).unwrap();
        let debug = format!("{provider:?} {:?}", provider.keys.credential(0));
        assert!(!debug.contains("secret"), "{debug}");
        let error = Provider::new(settings(&["bad\nsecret"])).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }
}
