//! Active checks: asks providers whether they are there, where the operator wants that. What is found out counts
//! like a request's outcome: for the way to the provider, not for what its models answer.

use crate::proxy::snapshot::Gateway;
use crate::record::upstreams::UpstreamMetrics;
use crate::upstream::health::{Admits, Change};
use crate::upstream::keys::Choice;
use crate::upstream::live::Watch;
use crate::upstream::peer::{Sending, Template, exhausted};
use crate::upstream::{Check, Provider};
use http::header::{ACCEPT, AUTHORIZATION, HOST, USER_AGENT};
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::upstreams::peer::ALPN;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// A provider that a reload brings is checked this soon.
const LOOK: Duration = Duration::from_secs(1);
/// Where `anthropic-version` is missing, Anthropic answers 400; that would do, but is noise in its logs.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// Checks the providers of whatever configuration is in force, until the shutdown.
pub(super) async fn run(gateway: Arc<Gateway>, mut stopped: watch::Receiver<bool>) {
    let connector = Arc::new(Connector::new(None));
    let mut checked: Vec<(Weak<Provider>, AbortHandle)> = Vec::new();
    let mut ticks = interval(LOOK);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.changed() => break,
        }
        let snapshot = gateway.snapshot.load_full();
        let current = |provider: &Weak<Provider>| {
            let mut all = snapshot.providers.iter();
            all.any(|(one, _)| Weak::as_ptr(provider) == Arc::as_ptr(one))
        };
        checked.retain(|(provider, task)| {
            let stays = current(provider);
            if !stays {
                task.abort();
            }
            stays
        });
        for (provider, template) in &snapshot.providers {
            let known = |(one, _): &(Weak<Provider>, AbortHandle)| {
                Weak::as_ptr(one) == Arc::as_ptr(provider)
            };
            if let Some(check) = provider
                .check
                .clone()
                .filter(|_| !checked.iter().any(known))
            {
                let checks = Checks {
                    provider: provider.clone(),
                    template: template.clone(),
                    check,
                    connector: connector.clone(),
                    gateway: gateway.clone(),
                };
                let task = tokio::spawn(checks.run()).abort_handle();
                checked.push((Arc::downgrade(provider), task));
            }
        }
    }
    for (_, task) in checked {
        task.abort();
    }
}

/// The right to find out, given back if nothing is: a check may end with a reload.
struct Probe<'a>(&'a Watch, bool);

impl Probe<'_> {
    /// Something was found out.
    fn over(mut self) {
        self.1 = false;
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if self.1 {
            self.0.release();
        }
    }
}

/// The checks of one provider.
struct Checks {
    provider: Arc<Provider>,
    template: Template,
    check: Check,
    connector: Arc<Connector>,
    gateway: Arc<Gateway>,
}

impl Checks {
    async fn run(self) {
        let mut ticks = interval(self.check.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let provider = &self.provider;
            let now = || Instant::now().into_std();
            let admits = provider.reach.enter(now());
            let probe = Probe(&provider.reach, admits == Admits::Probe);
            let there = match timeout(self.check.timeout, self.ask()).await {
                Ok(Ok(status)) => status < 500,
                // There is no descriptor left: nothing was found out.
                Ok(Err(error)) if exhausted(&error) => continue,
                Ok(Err(_)) | Err(_) => false,
            };
            probe.over();
            let rules = &provider.health;
            let change = match (there, admits) {
                // Whatever it was before: here is an answer.
                (true, _) => provider.reach.succeeded(true, rules, now()),
                (false, Admits::No(_)) => None,
                (false, _) => {
                    let random = crate::id::next_random();
                    let probe = admits == Admits::Probe;
                    provider.reach.failed(probe, false, rules, now(), random)
                }
            };
            self.tell(change);
        }
    }

    fn tell(&self, change: Option<Change>) {
        let metrics: &UpstreamMetrics = &self.gateway.metrics.upstreams;
        if let Some(change) = change {
            metrics.changed(&self.provider.name, "", change);
        }
    }

    /// The status of the provider's answer.
    async fn ask(&self) -> pingora::Result<u16> {
        let provider = &self.provider;
        let address = provider.addresses.next().await.map_err(|error| {
            pingora::Error::because(pingora::ErrorType::ConnectError, "name resolution", error)
        })?;
        // On a connection of its own: a pooled one says nothing of whether another can be made.
        let sending = Sending {
            pooled: false,
            whole: false,
        };
        let (mut peer, _) = self.template.at(address, sending);
        // Pingora keeps connections of HTTP/2 for other streams, and this one has no other.
        peer.options.alpn = ALPN::H1;
        let (mut session, _) = self.connector.get_http_session(&*peer).await?;
        let mut header = RequestHeader::build("GET", self.check.target.as_bytes(), None)?;
        header.insert_header(HOST, provider.authority.clone())?;
        header.insert_header(ACCEPT, "*/*")?;
        header.insert_header(USER_AGENT, concat!("tollgate/", env!("CARGO_PKG_VERSION")))?;
        let key = match provider.keys.outlook(Instant::now().into_std(), |_| false) {
            Choice::Ready(key) | Choice::LastResort(key) => provider.keys.credential(key),
            Choice::Resting(_) => None,
        };
        if let Some(credential) = key {
            match self.check.anthropic {
                false => header.insert_header(AUTHORIZATION, credential.bearer.clone())?,
                true => {
                    header.insert_header("x-api-key", credential.plain.clone())?;
                    header.insert_header("anthropic-version", ANTHROPIC_VERSION)?;
                }
            }
        }
        session.write_request_header(Box::new(header)).await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let status = session
            .response_header()
            .map_or(0, |header| header.status.as_u16());
        session.shutdown().await;
        Ok(status)
    }
}
