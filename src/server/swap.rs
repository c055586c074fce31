//! From one configuration in force to the next: everything is built, then everything is swapped.

use super::admin::{self, Current};
use super::build::{self, DemoAccess, Lasting};
use super::caps;
use super::keys::Keys;
use super::previous::Previous;
use super::roster::Roster;
use super::stores::first_balances;
use super::tls::{self, Certificate};
use crate::billing::ledger::Ledger;
use crate::config::{Change, Config, Step};
use crate::proxy::snapshot::{Gateway, Snapshot};
use crate::upstream::Provider;
use crate::upstream::live::{Live, Watch};
use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;
use std::collections::HashSet;
use std::sync::Arc;

/// What a reload works on.
pub(super) struct Parts {
    /// The configuration in force.
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) lasting: Lasting,
    /// The money, also where it is only asked about.
    pub(super) books: Option<Arc<Ledger>>,
    pub(super) roster: Arc<Roster>,
    /// The text of the key that was made at the start.
    pub(super) session_key: Option<String>,
    /// Of the listeners, by their places.
    pub(super) certificates: Vec<Option<Arc<Certificate>>>,
    pub(super) admin: Option<Arc<Current>>,
}

/// What a reload has found and done.
pub(super) struct Done {
    pub(super) changes: Vec<Change>,
    pub(super) restart_needed: Vec<Change>,
    /// Providers that requests have not gone to yet.
    pub(super) providers: Vec<Arc<Provider>>,
    /// Accounts that were not listed before.
    pub(super) accounts: Vec<Arc<str>>,
}

impl Parts {
    /// Builds everything, and swaps it when nothing can fail any more. It waits for the disk.
    ///
    /// # Errors
    /// One line: what cannot be used. Nothing was changed.
    pub(super) fn put_in_force(
        &self,
        wanted: &Config,
        demo: Option<&DemoAccess>,
    ) -> Result<Done, String> {
        let old = self.config.load_full();
        let Step {
            config,
            mut changes,
            restart_needed,
        } = Step::between(&old, wanted);
        let before = self.gateway.snapshot.load_full();
        let pairs = self.pairs(&config, wanted)?;
        let keys = Arc::new(Keys::new(&config));
        let previous = Previous {
            config: &old,
            snapshot: &before,
        };
        let snapshot = build::snapshot(&config, &self.lasting, demo, &keys, Some(previous))?;
        changes.extend(replaced_authorities(&old, &before, &config, &snapshot));
        for (place, (certificate, pair)) in pairs.iter().enumerate() {
            if let (Some(certificate), Some(pair)) = (certificate, pair)
                && certificate.current().cert != pair.cert
            {
                let path = format!("listeners[{place}].tls.cert");
                // Another file is a change already.
                if !changes.iter().any(|change| change.path == path) {
                    changes.push(Change::new(path, "the certificate was replaced"));
                }
            }
        }
        let providers: Vec<Arc<Provider>> = snapshot
            .providers
            .iter()
            .map(|(provider, _)| provider)
            .filter(|new| {
                !before
                    .providers
                    .iter()
                    .any(|(old, _)| Arc::ptr_eq(old, new))
            })
            .cloned()
            .collect();
        let mut accounts = Vec::new();
        if !changes.is_empty() {
            // First of all: an account is opened with the first request of its key.
            if let Some(books) = &self.books {
                accounts = books.seed(first_balances(&config));
            }
            let gone = gone(&before, &snapshot);
            let swap = || self.gateway.snapshot.store(Arc::new(snapshot));
            self.roster.replace(keys, swap);
            for (provider, model) in gone {
                self.lasting.metrics.upstreams.forget(&provider, &model);
            }
            self.tell_keys(&before);
            for (certificate, pair) in pairs {
                if let (Some(certificate), Some(pair)) = (certificate, pair) {
                    certificate.replace(pair);
                }
            }
            if let Some(admin) = &self.admin {
                admin.replace(admin::settings(&config, self.session_key.as_deref()));
            }
            if config.limits != old.limits {
                caps::set(&self.gateway.caps, &config.limits);
            }
            if config.log.level != old.log.level {
                log::set_max_level(config.log.level.into());
            }
            self.config.store(Arc::new(config));
        }
        Ok(Done {
            changes,
            restart_needed,
            providers,
            accounts,
        })
    }

    /// Tells how many keys are refused where that may have changed: they may have been replaced.
    fn tell_keys(&self, before: &Snapshot) {
        let now = self.gateway.snapshot.load();
        let refused = before
            .providers
            .iter()
            .filter(|(provider, _)| provider.keys.refused_ones() > 0);
        for (old, _) in refused {
            let mut all = now.providers.iter().map(|(provider, _)| provider);
            if let Some(new) = all.find(|new| new.name == old.name) {
                let upstreams = &self.lasting.metrics.upstreams;
                upstreams.keys_refused(&new.name, new.keys.refused_ones());
            }
        }
    }

    /// The certificate of each listener with what its files say now. A listener that the file does not have any more
    /// keeps what it has.
    #[allow(clippy::type_complexity)] // one pair a listener
    fn pairs(
        &self,
        config: &Config,
        wanted: &Config,
    ) -> Result<Vec<(Option<&Certificate>, Option<Arc<CertifiedKey>>)>, String> {
        let mut pairs = Vec::new();
        for (listener, certificate) in config.listeners.iter().zip(&self.certificates) {
            let still = wanted.listeners.contains(listener);
            let files = listener.tls.as_ref().filter(|_| still);
            let pair = files.map(tls::read).transpose()?;
            pairs.push((certificate.as_deref(), pair));
        }
        Ok(pairs)
    }
}

/// Upstreams and providers of which nothing is known any more, as metrics name them.
fn gone(before: &Snapshot, after: &Snapshot) -> Vec<(Arc<str>, Arc<str>)> {
    let lives = |snapshot: &Snapshot| -> Vec<Arc<Live>> {
        snapshot.lives.iter().flatten().cloned().collect()
    };
    let kept: HashSet<*const Live> = lives(after).iter().map(Arc::as_ptr).collect();
    let upstreams = lives(before)
        .into_iter()
        .filter(|live| !kept.contains(&Arc::as_ptr(live)))
        .map(|live| (live.provider.clone(), live.model.clone()));
    let reached = |reach: &Arc<Watch>| {
        let mut now = after.providers.iter();
        now.any(|(provider, _)| Arc::ptr_eq(&provider.reach, reach))
    };
    let providers = before
        .providers
        .iter()
        .filter(|(provider, _)| !reached(&provider.reach))
        .map(|(provider, _)| (provider.name.clone(), "".into()));
    upstreams.chain(providers).collect()
}

/// Providers whose settings are the same, and which are new all the same: their certificates must have changed.
fn replaced_authorities(
    old: &Config,
    before: &Snapshot,
    new: &Config,
    after: &Snapshot,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for (settings, (provider, _)) in new.providers.iter().zip(&after.providers) {
        let place = old.providers.iter().position(|one| one == settings);
        let known = place.and_then(|place| before.providers.get(place));
        if known.is_some_and(|(known, _)| !Arc::ptr_eq(known, provider)) {
            let path = format!("providers.{}.ca", settings.name);
            changes.push(Change::new(path, "the certificates were replaced"));
        }
    }
    changes
}
