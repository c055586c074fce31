//! Where providers are: asked ahead of the requests.

use crate::proxy::snapshot::Gateway;
use crate::upstream::Provider;
use crate::upstream::addresses::REFRESH;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::interval;

/// Keeps the providers' addresses fresh.
pub(super) async fn run(gateway: Arc<Gateway>, mut stopped: watch::Receiver<bool>) {
    let mut ticks = interval(REFRESH);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.changed() => return,
        }
        let snapshot = gateway.snapshot.load_full();
        for (provider, _) in &snapshot.providers {
            resolve(provider).await;
        }
    }
}

/// Asks where a provider is now.
pub(super) async fn resolve(provider: &Provider) {
    if let Err(error) = provider.addresses.refresh().await {
        log::warn!(
            "provider {}: cannot resolve its host: {error}",
            provider.name
        );
    }
}
