//! Headers → credential → key: who is calling, and whether this key may be used now and from here.

pub mod directory;
mod glob;
pub mod network;
pub mod record;
pub mod registry;
pub mod secret;
pub mod shared;

pub use glob::Glob;

use crate::billing::Payer;
use crate::limit::{Limits, Subject};
use crate::rejection::{Code, Rejection};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use secret::{KeyHash, KeyHint};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A key as the directory knows it. The key itself is not in here, only its hash was ever kept.
#[derive(Debug)]
pub struct Key {
    /// The operator's name for it.
    pub name: Arc<str>,
    /// The account that pays.
    pub account: Arc<str>,
    /// The account's project.
    pub project: Arc<str>,
    /// The plan whose limits and models hold.
    pub plan: Arc<Plan>,
    /// Narrows the plan's models: `None` leaves them all.
    pub models: Option<Vec<Glob>>,
    /// The models that its package pays for, where a package pays.
    pub package_models: Option<Vec<Glob>>,
    /// Client networks that may use it; empty for any.
    pub networks: Vec<IpNet>,
    /// The moment from which it is refused.
    pub expires: Option<SystemTime>,
    /// Refused until its operator enables it again.
    pub disabled: bool,
    /// Whom the plan's limits are charged to.
    pub subject: Arc<Subject>,
    /// Who pays, and with what.
    pub payer: Arc<Payer>,
}

/// A plan: which models, and how much of them.
#[derive(Debug)]
pub struct Plan {
    /// The operator's name for it.
    pub name: Arc<str>,
    /// Its place in the configuration's list.
    pub place: usize,
    /// Which models it includes.
    pub models: Vec<Glob>,
    /// How much may be asked for.
    pub limits: Arc<Limits>,
}

impl Key {
    /// Whether the plan, the key and, where one pays, its package include the model.
    pub fn allows(&self, model: &str) -> bool {
        let any = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(model));
        any(&self.plan.models) && self.models.as_deref().is_none_or(any) && self.pays_for(model)
    }

    /// Whether what pays for the key pays for this model.
    pub fn pays_for(&self, model: &str) -> bool {
        let globs = self.package_models.as_ref();
        globs.is_none_or(|globs| globs.iter().any(|glob| glob.matches(model)))
    }
}

/// A caller who may go on: only [`authenticate`] and [`anonymous`] make one.
#[derive(Clone, Debug)]
pub struct Caller {
    key: Arc<Key>,
    hint: KeyHint,
    /// Of a caller without a key: its network.
    network: Option<Arc<Subject>>,
}

impl Caller {
    /// The key that was shown.
    pub fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// What logs may show of it.
    pub fn hint(&self) -> KeyHint {
        self.hint
    }

    /// Whether no key was sent.
    pub fn is_anonymous(&self) -> bool {
        self.network.is_some()
    }

    /// Whom the plan's limits are charged to.
    pub fn subject(&self) -> &Arc<Subject> {
        self.network.as_ref().unwrap_or(&self.key.subject)
    }
}

/// The key text of a request: `Authorization: Bearer KEY` or `X-API-Key: KEY`.
///
/// # Errors
/// A header that appears twice, another scheme, or two different keys: 401, since nobody can say
/// which of them a later hop would have believed.
pub fn credential(headers: &HeaderMap) -> Result<Option<&str>, Rejection> {
    let bearer =
        match single(headers, &AUTHORIZATION)? {
            None => None,
            Some(value) => Some(bearer(value).ok_or_else(|| {
                refused("The Authorization header is not of the form `Bearer KEY`.")
            })?),
        };
    let api_key = single(headers, &X_API_KEY)?.map(str::trim);
    match (bearer, api_key) {
        (Some(a), Some(b)) if a != b => Err(refused(
            "Authorization and X-API-Key carry two different keys; send one of them.",
        )),
        (bearer, api_key) => Ok(bearer.or(api_key).filter(|key| !key.is_empty())),
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Rejection> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(refused(&format!(
            "The header {name} appears twice; send it once."
        )));
    }
    match value.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(refused(&format!(
            "The header {name} has characters that no key has."
        ))),
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn refused(message: &str) -> Rejection {
    Rejection::new(Code::InvalidApiKey, message)
}

/// The refusal of a request without a key.
pub fn missing() -> Rejection {
    Rejection::new(
        Code::MissingApiKey,
        "No API key was sent. Send `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
    )
}

/// Looks the key up (`hint` is its own, for the words of a refusal) and checks its state, expiry and networks.
///
/// # Errors
/// 401 for an unknown, expired or disabled key, 403 for a network that it does not allow.
pub fn authenticate(
    directory: &directory::Directory,
    text: &str,
    hint: KeyHint,
    client: Option<IpAddr>,
    now: SystemTime,
) -> Result<Caller, Rejection> {
    let Some(key) = directory.find(&KeyHash::of(text)) else {
        return Err(Rejection::new(
            Code::InvalidApiKey,
            format!("The API key {hint}… is not known. Check it, or create a new one."),
        ));
    };
    if key.disabled {
        return Err(Rejection::new(
            Code::KeyDisabled,
            format!("The API key {hint}… is disabled. Ask its operator to enable it."),
        ));
    }
    if key.expires.is_some_and(|expires| expires <= now) {
        return Err(Rejection::new(
            Code::KeyExpired,
            format!("The API key {hint}… has expired. Create a new one."),
        ));
    }
    if !key.networks.is_empty() {
        let inside = client.is_some_and(|ip| key.networks.iter().any(|net| net.contains(&ip)));
        if !inside {
            let shown = client.map_or_else(|| "unknown".to_owned(), |ip| ip.to_string());
            return Err(Rejection::new(
                Code::NetworkNotAllowed,
                format!(
                    "The API key {hint}… may not be used from {shown}. Ask its operator to add the network."
                ),
            ));
        }
    }
    Ok(Caller {
        key,
        hint,
        network: None,
    })
}

/// The caller of a request without a key, where the operator allows those. Each client network has
/// the plan's limits for itself.
pub fn anonymous(directory: &directory::Directory, client: Option<IpAddr>) -> Option<Caller> {
    directory.anonymous().map(|key| Caller {
        key: key.clone(),
        hint: KeyHint::NONE,
        network: Some(Arc::new(Subject::network(client))),
    })
}

#[cfg(test)]
mod tests {
    use super::directory::Directory;
    use super::*;
    use http::HeaderValue;
    use std::time::Duration;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn credential_of(pairs: &[(&'static str, &'static str)]) -> Result<Option<String>, Code> {
        credential(&headers(pairs))
            .map(|key| key.map(str::to_owned))
            .map_err(|rejection| rejection.code)
    }

    #[test]
    fn both_headers_are_read_and_must_agree() {
        let key = || Ok(Some("sk-a".to_owned()));
        assert_eq!(credential_of(&[("authorization", "Bearer sk-a")]), key());
        assert_eq!(credential_of(&[("authorization", "bearer  sk-a")]), key());
        assert_eq!(credential_of(&[("x-api-key", "sk-a")]), key());
        assert_eq!(
            credential_of(&[("authorization", "Bearer sk-a"), ("x-api-key", "sk-a")]),
            key()
        );
        assert_eq!(
            credential_of(&[("authorization", "Bearer sk-a"), ("x-api-key", "sk-b")]),
            Err(Code::InvalidApiKey)
        );
        assert_eq!(credential_of(&[]), Ok(None));
        assert_eq!(credential_of(&[("x-api-key", "")]), Ok(None));
    }

    #[test]
    fn repeated_and_foreign_headers_are_refused() {
        for pairs in [
            &[("authorization", "Bearer a"), ("authorization", "Bearer a")][..],
            &[("x-api-key", "a"), ("x-api-key", "a")],
            &[("authorization", "Basic dTpw")],
            &[("authorization", "sk-a")],
        ] {
            assert_eq!(credential_of(pairs), Err(Code::InvalidApiKey), "{pairs:?}");
        }
    }

    fn key(change: impl FnOnce(&mut Key)) -> Key {
        let mut key = Key {
            name: "n".into(),
            account: "a".into(),
            project: "default".into(),
            plan: Arc::new(Plan {
                name: "p".into(),
                place: 0,
                models: vec![Glob::new("*")],
                limits: Arc::default(),
            }),
            models: None,
            networks: Vec::new(),
            expires: None,
            disabled: false,
            subject: Arc::new(Subject::key("a", &[0; 32])),
            package_models: None,
            payer: Arc::new(Payer::free()),
        };
        change(&mut key);
        key
    }

    fn checked(key: Key, client: &str) -> Option<Code> {
        let directory = Directory::new([(KeyHash::of("sk-secret"), key)], Arc::default(), None);
        authenticate(
            &directory,
            "sk-secret",
            KeyHint::of("sk-secret"),
            client.parse().ok(),
            SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
        )
        .err()
        .map(|rejection| rejection.code)
    }

    #[test]
    fn state_expiry_and_network_are_checked() {
        assert_eq!(checked(key(|_| {}), "1.2.3.4"), None);
        assert_eq!(
            checked(key(|k| k.disabled = true), "1.2.3.4"),
            Some(Code::KeyDisabled)
        );
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(
            checked(key(|k| k.expires = Some(at(1000))), "1.2.3.4"),
            Some(Code::KeyExpired)
        );
        assert_eq!(
            checked(key(|k| k.expires = Some(at(1001))), "1.2.3.4"),
            None
        );
        let local = || key(|k| k.networks = vec!["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(checked(local(), "10.9.8.7"), None);
        assert_eq!(checked(local(), "11.9.8.7"), Some(Code::NetworkNotAllowed));
        assert_eq!(checked(local(), "unknown"), Some(Code::NetworkNotAllowed));
    }

    #[test]
    fn an_unknown_key_is_shown_by_its_first_characters_only() {
        let directory = Directory::new([], Arc::default(), None);
        let key = "sk-0123456789abcdef";
        let rejection = authenticate(
            &directory,
            key,
            KeyHint::of(key),
            None,
            SystemTime::UNIX_EPOCH,
        )
        .unwrap_err();
        assert_eq!(rejection.code, Code::InvalidApiKey);
        assert!(rejection.message.contains("sk-01234…"));
        assert!(!rejection.message.contains("sk-012345"));
    }

    #[test]
    fn a_key_narrows_its_plan() {
        let plan = |models: &[&str]| {
            Arc::new(Plan {
                name: "p".into(),
                place: 0,
                models: models.iter().map(|m| Glob::new(m)).collect(),
                limits: Arc::default(),
            })
        };
        let narrow = key(|k| {
            k.plan = plan(&["deepseek-*", "gpt"]);
            k.models = Some(vec![Glob::new("*-chat"), Glob::new("gpt")]);
        });
        assert!(narrow.allows("deepseek-chat"));
        assert!(narrow.allows("gpt"));
        assert!(!narrow.allows("deepseek-coder"));
        assert!(!narrow.allows("other-chat"));
        let packaged = key(|k| {
            k.plan = plan(&["*"]);
            k.package_models = Some(vec![Glob::new("deepseek-*")]);
        });
        assert!(packaged.allows("deepseek-chat"));
        assert!(!packaged.allows("gpt"));
    }
}
