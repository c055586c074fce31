//! Where a provider is: its host name resolved ahead of the requests, without blocking any.

use arc_swap::ArcSwap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// How often names are looked up again. The system's resolver tells no TTL; providers behind
/// load balancers publish 30 to 60 s.
pub const REFRESH: Duration = Duration::from_secs(30);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The addresses of one host.
#[derive(Debug)]
pub struct Addresses {
    host: String,
    port: u16,
    /// The host is an address: there is nothing to look up.
    fixed: bool,
    current: ArcSwap<Vec<SocketAddr>>,
    next: AtomicUsize,
}

impl Addresses {
    /// The addresses of a host; a name has none before its first look-up.
    pub fn new(host: &str, port: u16) -> Addresses {
        let fixed = host.parse::<IpAddr>().ok();
        Addresses {
            host: host.to_owned(),
            port,
            fixed: fixed.is_some(),
            current: ArcSwap::from_pointee(
                fixed
                    .map(|ip| SocketAddr::new(ip, port))
                    .into_iter()
                    .collect(),
            ),
            next: AtomicUsize::new(0),
        }
    }

    /// The next address in turn, looked up now if it never was.
    ///
    /// # Errors
    /// What the resolver said.
    pub async fn next(&self) -> std::io::Result<SocketAddr> {
        if let Some(address) = self.pick() {
            return Ok(address);
        }
        self.refresh().await?;
        self.pick()
            .ok_or_else(|| std::io::Error::other(format!("{} has no address", self.host)))
    }

    fn pick(&self) -> Option<SocketAddr> {
        let current = self.current.load();
        match current.len() {
            0 => None,
            1 => current.first().copied(),
            count => current
                .get(self.next.fetch_add(1, Ordering::Relaxed) % count)
                .copied(),
        }
    }

    /// Looks the name up. After a failure the last known addresses stay in use.
    ///
    /// # Errors
    /// What the resolver said, or that it took too long.
    pub async fn refresh(&self) -> std::io::Result<()> {
        if self.fixed {
            return Ok(());
        }
        let found = timeout(LOOKUP_TIMEOUT, lookup_host((self.host.as_str(), self.port)))
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        let mut found: Vec<SocketAddr> = found.collect();
        found.sort();
        found.dedup();
        if !found.is_empty() && **self.current.load() != found {
            self.current.store(Arc::new(found));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_no_look_up_and_a_name_gets_one() {
        let fixed = Addresses::new("127.0.0.1", 80);
        assert_eq!(fixed.next().await.unwrap().to_string(), "127.0.0.1:80");
        let name = Addresses::new("localhost", 81);
        let found = name.next().await.unwrap();
        assert!(found.ip().is_loopback());
        assert_eq!(found.port(), 81);
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_an_error_and_not_a_wait() {
        // RFC 6761 reserves `.invalid`: it never resolves.
        let missing = Addresses::new("tollgate.invalid", 80);
        assert!(missing.next().await.is_err());
    }
}
