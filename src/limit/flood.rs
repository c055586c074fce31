//! Requests without a valid key, for each client network: counted before anything is looked up
//! elsewhere, and in a fixed amount of memory, so that nobody can make it grow.

use super::{Network, network};
use pingora_limits::rate::{Rate, RateComponents};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A count-min sketch of this size, 1 MiB with that of the interval before, counts a network too high,
/// never too low: by more than 1 in 6,000 of all requests of the interval in fewer than 2 of 100 cases
/// (Cormode and Muthukrishnan, "An improved data stream summary", 2005).
const HASHES: usize = 4;
const SLOTS: usize = 16_384;

/// A limit for each client network.
pub struct Flood {
    /// Behind a lock: the sketch's own change of intervals can panic when threads race for it, and
    /// this is not the path of good requests.
    rate: Mutex<Rate>,
    most: u32,
    per: Duration,
}

impl Flood {
    /// At most `most` requests in each interval of length `per`.
    pub fn new(most: u32, per: Duration) -> Flood {
        Flood {
            rate: Mutex::new(Rate::new_with_estimator_config(per, HASHES, SLOTS)),
            most,
            per,
        }
    }

    /// Counts one more request from this address.
    ///
    /// # Errors
    /// It is one too many, and would be for so long. Those are not counted: a flood from one network
    /// must not fill the sketch for others.
    pub fn count(&self, ip: Option<IpAddr>) -> Result<(), Duration> {
        let network: Network = network(ip);
        let rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen, passed) = rate.rate_with(&network, |now: RateComponents| {
            (now.curr_samples, now.current_interval_fraction)
        });
        if u32::try_from(seen).is_ok_and(|seen| seen < self.most) {
            rate.observe(&network, 1);
            return Ok(());
        }
        let left = (1.0 - passed).clamp(0.0, 1.0);
        Err(self.per.mul_f64(left).max(Duration::from_millis(1)))
    }

    /// How many are allowed, and in which time.
    pub fn limit(&self) -> (u32, Duration) {
        (self.most, self.per)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_its_own_count() {
        let flood = Flood::new(3, Duration::from_secs(3600));
        let allows = |text: &str| flood.count(text.parse().ok()).is_ok();
        for _ in 0..3 {
            assert!(allows("1.2.3.4"));
        }
        assert!(!allows("1.2.3.4"));
        assert!(allows("1.2.3.5"));
        // One customer's /64 is one network.
        let told: Vec<bool> = (1..=4).map(|n| allows(&format!("2001:db8::{n}"))).collect();
        assert_eq!(told, [true, true, true, false]);
        assert!(allows("2001:db8:0:1::1"));
        assert!(allows("no address"));
        let wait = flood.count("1.2.3.4".parse().ok()).unwrap_err();
        assert!(wait <= Duration::from_secs(3600) && wait > Duration::from_secs(3500));
    }
}
