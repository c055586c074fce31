//! How much a caller may ask for: requests and tokens a minute, requests at once, tokens a day.
//!
//! [`bucket`] and [`state`] are the arithmetic, with time as an argument; [`memory`] keeps the states
//! of one node, [`redis`] those of many; [`limiter`] is what the proxy asks, and what decides while
//! Redis is away; [`flood`] guards what comes before any key is known, [`overload`] the process as a whole.

pub mod bucket;

pub mod flood;
mod joined;
pub mod limiter;
pub mod memory;
pub mod overload;
pub mod redis;
mod settling;
pub mod state;

use bucket::Bucket;
use sha2::{Digest, Sha256};
use state::Charge;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The limits of a plan; `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests a minute, and how many may come at once.
    pub requests: Option<Bucket>,
    /// Tokens a minute. May go into debt: charged by estimate, corrected by what was used.
    pub tokens: Option<Bucket>,
    /// Requests in flight.
    pub concurrency: Option<u32>,
    /// Tokens a day.
    pub tokens_per_day: Option<u64>,
    /// Where days begin: milliseconds east of UTC.
    pub day_offset: i64,
}

impl Limits {
    /// Whether a request must be told of again when it has ended.
    pub fn settles(&self) -> bool {
        self.counts_tokens() || self.concurrency.is_some()
    }

    /// Whether a request's tokens matter.
    pub fn counts_tokens(&self) -> bool {
        self.tokens.is_some() || self.tokens_per_day.is_some()
    }

    /// Whether there is any limit at all.
    pub fn any(&self) -> bool {
        self.requests.is_some() || self.settles()
    }

    /// The estimate as it is charged: never more than a full bucket, or the first call of a client
    /// that asks for much, or does not say, could never be admitted. What is beyond becomes debt.
    pub fn charged(&self, estimate: u64) -> u64 {
        let bucket = self.tokens.map_or(u64::MAX, |bucket| bucket.burst());
        estimate
            .min(bucket)
            .min(self.tokens_per_day.unwrap_or(u64::MAX))
    }
}

/// Whom the limits hold for: a key, an account, or the network of a client without a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Subject {
    /// Tells subjects apart in this process.
    id: u128,
    /// In Redis: what decides the slot. All of an account is in one.
    tag: String,
    /// In Redis: the subject below its tag.
    name: String,
    /// Who it is, for the words of a refusal.
    who: Who,
}

/// Who shares a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// One key.
    Key,
    /// All keys of an account.
    Account,
    /// A client network.
    Network,
}

impl Subject {
    /// A key, by the first half of its hash: stable over renaming and the same on every node.
    pub fn key(account: &str, hash: &[u8; 32]) -> Subject {
        let id = half(hash);
        Subject {
            id,
            tag: account.to_owned(),
            name: format!("k:{id:032x}"),
            who: Who::Key,
        }
    }

    /// All keys of an account that have this plan.
    pub fn account(account: &str, plan: &str) -> Subject {
        let hash = Sha256::new()
            .chain_update(b"account\0")
            .chain_update(account)
            .chain_update(b"\0")
            .chain_update(plan)
            .finalize();
        Subject {
            id: half(&hash.into()),
            tag: account.to_owned(),
            name: format!("a:{plan}"),
            who: Who::Account,
        }
    }

    /// A client network: an IPv4 address, or an IPv6 /64, which is what one customer gets.
    pub fn network(ip: Option<IpAddr>) -> Subject {
        let network = network(ip);
        let name = match network {
            Network::V4(bits) => format!("n:{}", std::net::Ipv4Addr::from_bits(bits)),
            Network::V6(bits) => format!("n:{bits:016x}"),
            Network::Unknown => "n:unknown".to_owned(),
        };
        let id = match network {
            Network::V4(bits) => u128::from(bits),
            Network::V6(bits) => (1 << 64) | u128::from(bits),
            Network::Unknown => 1 << 65,
        };
        Subject {
            id,
            // Networks have nothing in common: each has a slot of its own.
            tag: name.clone(),
            name,
            who: Who::Network,
        }
    }

    /// Who shares the limits.
    pub fn who(&self) -> Who {
        self.who
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subject({}/{})", self.tag, self.name)
    }
}

fn half(hash: &[u8; 32]) -> u128 {
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    u128::from_be_bytes(first)
}

/// What of an address one client holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Network {
    V4(u32),
    V6(u64),
    Unknown,
}

pub(crate) fn network(ip: Option<IpAddr>) -> Network {
    match ip.map(|ip| ip.to_canonical()) {
        Some(IpAddr::V4(ip)) => Network::V4(ip.to_bits()),
        Some(IpAddr::V6(ip)) => Network::V6((ip.to_bits() >> 64) as u64),
        None => Network::Unknown,
    }
}

/// What a request asks of a limiter.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whom it is charged to.
    pub subject: Arc<Subject>,
    /// By which limits.
    pub limits: Arc<Limits>,
    /// Tokens that it will probably use.
    pub estimate: u64,
}

/// Which limit refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Requests a minute.
    Requests,
    /// Tokens a minute.
    Tokens,
    /// Requests in flight.
    Concurrency,
    /// Tokens a day.
    TokensPerDay,
    /// None: Redis is away, and the operator's policy is to deny then.
    Store,
}

impl Reason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Reason; 5] = [
        Reason::Requests,
        Reason::Tokens,
        Reason::Concurrency,
        Reason::TokensPerDay,
        Reason::Store,
    ];

    /// The word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Requests => "requests",
            Reason::Tokens => "tokens",
            Reason::Concurrency => "concurrency",
            Reason::TokensPerDay => "tokens_per_day",
            Reason::Store => "store",
        }
    }
}

/// Where a bucket stands, for headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// The limit a minute.
    pub limit: u64,
    /// What is left now, in whole requests or tokens.
    pub remaining: u64,
    /// Until the bucket is full again.
    pub reset: Duration,
}

/// Where a subject stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Requests.
    pub requests: Option<Level>,
    /// Tokens.
    pub tokens: Option<Level>,
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Which limit fired.
    pub reason: Reason,
    /// How long until the same request would be admitted; unknown for concurrency.
    pub wait: Option<Duration>,
    /// Where the subject stands.
    pub reading: Reading,
}

/// Why a request was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A limit fired.
    Limit(Denial),
    /// The limits would have admitted it; what was asked along with them refused.
    Part,
}

/// Permission to make one request: only a limiter makes one. It is settled once, with what was
/// used; one that is dropped gives its place back and keeps what was estimated.
pub struct Grant {
    reading: Reading,
    hold: Option<(Hold, Arc<dyn Settle>)>,
}

/// What a limiter must be told when a request has ended.
#[derive(Clone, Debug)]
pub struct Hold {
    ask: Ask,
    /// What it was charged.
    charge: Charge,
    /// Its number in Redis; `None` if this node alone knows of it.
    id: Option<u64>,
    /// Of how many parts of the limits this node had one.
    share: u32,
}

/// Takes a hold back.
trait Settle: Send + Sync {
    /// `used` is what the request used; `None` leaves the estimate charged.
    fn settle(&self, hold: Hold, used: Option<u64>);
}

impl Grant {
    /// Where the subject stands, this request counted.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// Ends the request, which used so many tokens.
    pub fn settle(&mut self, used: u64) {
        if let Some((hold, limiter)) = self.hold.take() {
            limiter.settle(hold, Some(used));
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some((hold, limiter)) = self.hold.take() {
            limiter.settle(hold, None);
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant({:?})", self.hold.as_ref().map(|(hold, _)| hold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_an_ipv4_address_or_an_ipv6_64() {
        let of = |text: &str| Subject::network(text.parse().ok());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("1.2.3.4"), of("1.2.3.5"));
        assert_eq!(of("::ffff:1.2.3.4"), of("1.2.3.4"));
        assert_ne!(of("::"), of("0.0.0.0"));
        assert_ne!(of("nonsense"), of("::"));
    }

    #[test]
    fn subjects_of_one_account_share_a_slot_and_nothing_else() {
        let (a, b) = (
            Subject::key("acme", &[1; 32]),
            Subject::key("acme", &[2; 32]),
        );
        let all = Subject::account("acme", "pro");
        assert_eq!((&a.tag, &a.tag), (&b.tag, &all.tag));
        assert!(a.id != b.id && a.name != b.name && all.id != a.id);
        // No account and plan can be put together in two ways.
        assert_ne!(Subject::account("a", "b").id, Subject::account("ab", "").id);
    }
}
