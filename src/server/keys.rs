//! Keys: those of the file and those made at run time, as requests are judged by them.

use crate::auth::directory::{Directory, Made};
use crate::auth::record::{AccountRecord, KeyBilling as RecordBilling, KeyRecord};
use crate::auth::secret::KeyHash;
use crate::auth::{Glob, Key, Plan};
use crate::billing::{Caps, Payer, Pays};
use crate::config::{Config, KeyBilling, PlanScope};
use crate::limit::bucket::Bucket;
use crate::limit::{Limits, Subject};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Makes keys of one configuration.
pub(super) struct Keys {
    plans: Vec<(Arc<Plan>, PlanScope)>,
    packages: Vec<(Arc<str>, Vec<Glob>)>,
    /// Accounts of the file: their ids and plans.
    accounts: Vec<(Arc<str>, usize)>,
    made: Arc<Made>,
}

/// What sets one key apart from others of its plan.
struct Own<'a> {
    id: Arc<str>,
    name: &'a str,
    account: Arc<str>,
    project: Arc<str>,
    /// What its limits go by: the same for as long as the key lives.
    limits_by: [u8; 32],
    pays: Pays,
    caps: Caps,
    models: Option<Vec<Glob>>,
    networks: Vec<ipnet::IpNet>,
    expires: Option<SystemTime>,
    disabled: bool,
}

impl Keys {
    /// Of this configuration. Those that were made at run time are told by [`Keys::changed`].
    pub(super) fn new(config: &Config) -> Keys {
        let day_starts = config.billing.day_starts_seconds;
        let plan = |(place, plan): (usize, &crate::config::Plan)| {
            let made = Plan {
                name: plan.name.as_str().into(),
                place,
                models: globs(&plan.models),
                limits: Arc::new(limits(plan, day_starts)),
            };
            (Arc::new(made), plan.scope)
        };
        Keys {
            plans: config.plans.iter().enumerate().map(plan).collect(),
            packages: config
                .billing
                .packages
                .iter()
                .map(|package| (package.name.as_str().into(), globs(&package.models)))
                .collect(),
            accounts: config
                .accounts
                .iter()
                .map(|account| (account.id.as_str().into(), account.plan))
                .collect(),
            made: Arc::default(),
        }
    }

    /// Where requests look keys up; `session_key` exists only while this process runs.
    pub(super) fn directory(&self, config: &Config, session_key: Option<KeyHash>) -> Directory {
        let from_file = config.keys.iter().filter_map(|key| {
            let account = config.accounts.get(key.account)?;
            let own = Own {
                id: file_id(&key.sha256),
                name: &key.name,
                account: account.id.as_str().into(),
                project: key.project.as_str().into(),
                limits_by: key.sha256,
                pays: match key.billing {
                    KeyBilling::PayAsYouGo => Pays::Balance,
                    KeyBilling::Package(at) => Pays::Package(self.packages.get(at)?.0.clone()),
                },
                caps: Caps {
                    daily: key.daily_cap,
                    monthly: key.monthly_cap,
                },
                models: key.models.as_deref().map(globs),
                networks: key.networks.clone(),
                expires: key.expires,
                disabled: key.disabled,
            };
            Some((KeyHash::from_bytes(key.sha256), self.key(key.plan, own)?))
        });
        let for_session = session_key.and_then(|hash| {
            let account = config.accounts.first()?;
            let own = Own {
                id: file_id(hash.as_bytes()),
                name: "session",
                account: account.id.as_str().into(),
                project: account.projects.first()?.as_str().into(),
                limits_by: *hash.as_bytes(),
                pays: Pays::Balance,
                caps: Caps::default(),
                models: None,
                networks: Vec::new(),
                expires: None,
                disabled: false,
            };
            Some((hash, self.key(account.plan, own)?))
        });
        let anonymous = config.anonymous.as_ref().and_then(|anonymous| {
            Some(Key {
                name: "anonymous".into(),
                account: "anonymous".into(),
                project: "anonymous".into(),
                plan: self.plans.get(anonymous.plan)?.0.clone(),
                models: Some(globs(&anonymous.models)),
                package_models: None,
                networks: Vec::new(),
                expires: None,
                disabled: false,
                // Each request's own stands in for it.
                subject: Arc::new(Subject::network(None)),
                payer: Arc::new(Payer::free()),
            })
        });
        let all = from_file.chain(for_session);
        Directory::new(all, self.made.clone(), anonymous)
    }

    /// A key that was made or changed at run time: from now on requests go by it. `account` is its account, if that
    /// was made at run time too. False if it is refused though nobody revoked it: its plan, account or package is not in
    /// the configuration any more, or its hash is none.
    pub(super) fn changed(&self, record: &KeyRecord, account: Option<&AccountRecord>) -> bool {
        let keys = match record.revoked {
            Some(_) => Some(Vec::new()),
            None => self.made_of(record, account),
        };
        let known = keys.is_some();
        self.made.replace(&record.id, keys.unwrap_or_default());
        known
    }

    fn made_of(
        &self,
        record: &KeyRecord,
        account: Option<&AccountRecord>,
    ) -> Option<Vec<(KeyHash, Key)>> {
        // The file's accounts stand before those of the same id that were made at run time.
        let mut of_file = self.accounts.iter();
        let of_file = of_file.find(|(id, _)| *id == record.account);
        let plan = match (&record.plan, of_file) {
            (Some(name), _) => self.plan(name)?,
            (None, Some((_, plan))) => *plan,
            (None, None) => self.plan(&account?.plan)?,
        };
        let own = |expires: Option<u64>| {
            let cap = |cap: crate::billing::money::Money| Some(cap).filter(|cap| cap.micros() > 0);
            Some(Own {
                id: record.id.clone(),
                name: &record.name,
                account: record.account.clone(),
                project: record.project.clone(),
                limits_by: Sha256::digest(record.id.as_bytes()).into(),
                pays: match &record.billing {
                    RecordBilling::PayAsYouGo => Pays::Balance,
                    RecordBilling::Package(name) => Pays::Package(name.as_str().into()),
                },
                caps: Caps {
                    daily: cap(record.spend_cap.daily),
                    monthly: cap(record.spend_cap.monthly),
                },
                models: record.models.as_deref().map(globs),
                networks: record
                    .networks
                    .iter()
                    .map(|network| network.parse().ok())
                    .collect::<Option<_>>()?,
                expires: expires.map(|ms| UNIX_EPOCH + Duration::from_millis(ms)),
                disabled: record.disabled,
            })
        };
        let mut keys = vec![(hash(&record.hash)?, self.key(plan, own(record.expires)?)?)];
        if let Some(old) = &record.retiring {
            let until = record.expires.unwrap_or(u64::MAX).min(old.until);
            keys.push((hash(&old.hash)?, self.key(plan, own(Some(until))?)?));
        }
        Some(keys)
    }

    fn plan(&self, name: &str) -> Option<usize> {
        self.plans.iter().position(|(plan, _)| &*plan.name == name)
    }

    fn key(&self, plan: usize, own: Own<'_>) -> Option<Key> {
        let (plan, scope) = self.plans.get(plan)?;
        let package_models = match &own.pays {
            Pays::Balance => None,
            Pays::Package(name) => {
                let mut packages = self.packages.iter();
                Some(packages.find(|(known, _)| known == name)?.1.clone())
            }
        };
        Some(Key {
            name: own.name.into(),
            subject: Arc::new(match scope {
                PlanScope::Key => Subject::key(&own.account, &own.limits_by),
                PlanScope::Account => Subject::account(&own.account, &plan.name),
            }),
            payer: Arc::new(Payer {
                account: own.account.clone(),
                key: own.id,
                project: own.project.clone(),
                pays: own.pays,
                caps: own.caps,
            }),
            account: own.account,
            project: own.project,
            plan: plan.clone(),
            models: own.models,
            package_models,
            networks: own.networks,
            expires: own.expires,
            disabled: own.disabled,
        })
    }
}

/// The id of a key of the file: of its hash, since it has to be the same on every node and after every start.
pub(super) fn file_id(hash: &[u8; 32]) -> Arc<str> {
    let digits: String = hash
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("key_{digits}").into()
}

fn hash(hex: &str) -> Option<KeyHash> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(KeyHash::from_bytes(bytes))
}

fn limits(plan: &crate::config::Plan, day_starts: i32) -> Limits {
    let crate::config::Plan {
        name: _,
        requests_per_minute,
        burst,
        tokens_per_minute,
        concurrency,
        tokens_per_day,
        models: _,
        scope: _,
    } = plan;
    Limits {
        requests: requests_per_minute.map(|rate| Bucket::new(rate, burst.unwrap_or(rate))),
        tokens: tokens_per_minute.map(|rate| Bucket::new(rate, rate)),
        concurrency: concurrency.map(|most| u32::try_from(most).unwrap_or(u32::MAX)),
        tokens_per_day: *tokens_per_day,
        day_offset: i64::from(day_starts) * 1000,
    }
}

fn globs(patterns: &[String]) -> Vec<Glob> {
    patterns.iter().map(|pattern| Glob::new(pattern)).collect()
}
