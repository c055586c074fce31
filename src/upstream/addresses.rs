//! Where a provider is: its host name resolved ahead of the requests, without blocking any.

use arc_swap::ArcSwap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// How often names are looked up again. The system's resolver tells no TTL; providers behind
/// load balancers publish 30 to 60 s.
pub const REFRESH: Duration = Duration::from_secs(30);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// A name that could not be resolved is not asked for again before this time: a burst of requests
/// must not become a burst of look-ups.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);

/// The addresses of one host, in the order in which they are tried.
#[derive(Debug)]
pub struct Addresses {
    host: String,
    port: u16,
    /// The host is an address: there is nothing to look up.
    fixed: bool,
    current: ArcSwap<Vec<SocketAddr>>,
    next: AtomicUsize,
    /// Held during a look-up; the moment of the last failure.
    looking_up: Mutex<Option<Instant>>,
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
            looking_up: Mutex::new(None),
        }
    }

    /// The next address in turn, looked up now if none is known.
    ///
    /// # Errors
    /// What the resolver said.
    pub async fn next(&self) -> std::io::Result<SocketAddr> {
        if let Some(address) = self.pick() {
            return Ok(address);
        }
        self.look_up_once().await?;
        self.pick()
            .ok_or_else(|| std::io::Error::other(format!("{} has no address", self.host)))
    }

    /// Puts an address that could not be reached behind the others.
    pub fn failed(&self, address: SocketAddr) {
        self.current.rcu(|current| {
            let mut order = Vec::clone(current);
            if let Some(at) = order.iter().position(|known| *known == address) {
                order.remove(at);
                order.push(address);
            }
            order
        });
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.current.load().len()
    }

    /// Takes turns among the first addresses of one family: the resolver put the family first that
    /// this host reaches (RFC 6724), and the other may not be reachable at all.
    fn pick(&self) -> Option<SocketAddr> {
        let current = self.current.load();
        let first = current.first()?;
        let count = current
            .iter()
            .take_while(|address| address.is_ipv4() == first.is_ipv4())
            .count();
        match count {
            1 => Some(*first),
            _ => current
                .get(self.next.fetch_add(1, Ordering::Relaxed) % count)
                .copied(),
        }
    }

    async fn look_up_once(&self) -> std::io::Result<()> {
        let mut failed = self.looking_up.lock().await;
        if self.count() > 0 {
            return Ok(());
        }
        if failed.is_some_and(|at| at.elapsed() < FAILURE_HOLDS) {
            return Err(std::io::Error::other(format!(
                "{} could not be resolved a moment ago",
                self.host
            )));
        }
        let result = self.refresh().await;
        *failed = result.is_err().then(Instant::now);
        result
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
        self.learn(found.collect());
        Ok(())
    }

    /// Takes a resolver's answer; while it names the same addresses, those that failed stay behind.
    fn learn(&self, found: Vec<SocketAddr>) {
        let mut unique: Vec<SocketAddr> = Vec::with_capacity(found.len());
        for address in found {
            if !unique.contains(&address) {
                unique.push(address);
            }
        }
        let current = self.current.load();
        let same = unique.len() == current.len() && unique.iter().all(|a| current.contains(a));
        if !unique.is_empty() && !same {
            self.current.store(Arc::new(unique));
        }
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

    #[test]
    fn turns_are_taken_in_the_first_family_and_the_failed_goes_last() {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let addresses = Addresses::new("two.example", 80);
        let (a, b, six) = (
            parse("10.0.0.1:80"),
            parse("10.0.0.2:80"),
            parse("[::1]:80"),
        );
        addresses.learn(vec![a, b, a, six]);
        let seen: Vec<_> = (0..4).filter_map(|_| addresses.pick()).collect();
        assert_eq!(seen, [a, b, a, b]);
        addresses.failed(a);
        assert_eq!(addresses.pick(), Some(b));
        addresses.learn(vec![a, b, six]);
        assert_eq!(addresses.pick(), Some(b), "the same answer keeps the order");
        addresses.failed(b);
        assert_eq!(addresses.pick(), Some(six));
        addresses.learn(vec![a]);
        assert_eq!(addresses.pick(), Some(a));
    }
}
