//! What one snapshot takes over from the one before it: the same objects, so that requests of both count together.

use crate::catalog::Model;
use crate::config::{Config, Provider as ConfigProvider};
use crate::limit::flood::Flood;
use crate::proxy::snapshot::Snapshot;
use crate::record::status::Traffic;
use crate::upstream::Provider;
use crate::upstream::live::Live;
use crate::upstream::peer::{Authorities, Template};
use std::sync::Arc;
use std::time::Duration;

/// What is in force, for the snapshot that takes its place.
#[derive(Clone, Copy)]
pub struct Previous<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// What was built from it.
    pub snapshot: &'a Snapshot,
}

impl Previous<'_> {
    /// A provider whose settings and certificates are the same: with its state and its connections.
    pub(super) fn provider(
        &self,
        settings: &ConfigProvider,
        authorities: Option<&Authorities>,
    ) -> Option<(Arc<Provider>, Template)> {
        let mut before = self.config.providers.iter();
        let place = before.position(|before| before == settings)?;
        let (provider, template) = self.snapshot.providers.get(place)?;
        let same = template.trusts(authorities);
        same.then(|| (provider.clone(), template.clone()))
    }

    /// The provider of this name, whatever its settings are.
    pub(super) fn named(&self, name: &str) -> Option<&Provider> {
        let mut all = self.snapshot.providers.iter();
        let (provider, _) = all.find(|(provider, _)| &*provider.name == name)?;
        Some(provider)
    }

    /// The upstreams of a model, as they are doing, at providers that are where they were.
    pub(super) fn lives(
        &self,
        model: &Model,
        providers: &[(Arc<Provider>, Template)],
    ) -> Vec<Arc<Live>> {
        let stays = |name: &str| {
            let mut now = providers.iter();
            let now = now.find(|(provider, _)| &*provider.name == name);
            now.zip(self.named(name)).is_some_and(|((now, _), before)| {
                (&now.authority, now.tls) == (&before.authority, before.tls)
            })
        };
        let place = self.place(model);
        let lives = place.and_then(|place| self.snapshot.lives.get(place));
        let lives = lives.into_iter().flatten();
        lives
            .filter(|live| stays(&live.provider))
            .cloned()
            .collect()
    }

    /// The limit on requests without a key, with its counts, if it is the same.
    pub(super) fn flood(&self, count: u32, per: Duration) -> Option<Arc<Flood>> {
        let flood = self.snapshot.flood.clone();
        flood.filter(|flood| flood.limit() == (count, per))
    }

    fn place(&self, model: &Model) -> Option<usize> {
        let mut before = self.snapshot.catalog.models().iter();
        before.position(|before| before.id == model.id)
    }

    /// The traffic of a model that was there before.
    pub(super) fn traffic(&self, model: &Model) -> Option<Arc<Traffic>> {
        self.snapshot.traffic.get(self.place(model)?).cloned()
    }
}
