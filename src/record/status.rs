//! Per-model state from real traffic, for `/api/status`. No traffic is a state of its own, never 100 %.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The window that the state tells of, in slots of one minute.
const SLOTS: usize = 10;
/// Length of the window in seconds.
pub const WINDOW_SECONDS: u64 = SLOTS as u64 * 60;

/// What the last minutes looked like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Requests that reached an upstream.
    pub requests: u64,
    /// Those that the upstream failed: an error of its own, out of reach, too slow, broken off.
    pub failures: u64,
}

impl Seen {
    /// No traffic.
    pub const NONE: Seen = Seen {
        requests: 0,
        failures: 0,
    };

    /// `no_data`, `operational` (≥ 99 % succeed), `degraded`, or `down` (fewer than half succeed).
    pub fn state(self) -> &'static str {
        let Seen { requests, failures } = self;
        match requests {
            0 => "no_data",
            _ if failures * 100 <= requests => "operational",
            _ if failures * 2 <= requests => "degraded",
            _ => "down",
        }
    }

    /// Share of successes; `None` without traffic.
    pub fn success_rate(self) -> Option<f64> {
        (self.requests > 0).then(|| 1.0 - self.failures as f64 / self.requests as f64)
    }
}

/// The traffic of one model. A slot packs its minute (20 bits), failures and requests (22 each), so
/// that starting a new minute and counting are one atomic step.
#[derive(Debug, Default)]
pub struct Traffic {
    slots: [AtomicU64; SLOTS],
}

/// So many requests are counted in a minute; then both counts stand still, so that their share stays
/// true.
const FULL: u32 = (1 << 22) - 1;

impl Traffic {
    /// Counts one request; `uptime` is the time since the process started.
    pub fn count(&self, failed: bool, uptime: Duration) {
        let minute = minute(uptime);
        let Some(slot) = self.slots.get(minute as usize % SLOTS) else {
            return;
        };
        let add = |old: u64| {
            let (failures, requests) = match unpack(old) {
                (seen, failures, requests) if seen == minute => (failures, requests),
                _ => (0, 0),
            };
            (requests < FULL).then(|| pack(minute, failures + u32::from(failed), requests + 1))
        };
        // Fails only for a full slot, which stays as it is.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// The sum of the window that ends now.
    pub fn seen(&self, uptime: Duration) -> Seen {
        let now = minute(uptime);
        let mut sum = Seen::NONE;
        for slot in &self.slots {
            let (minute, failures, requests) = unpack(slot.load(Ordering::Relaxed));
            if now - minute.min(now) < SLOTS as u32 {
                sum.requests += u64::from(requests);
                sum.failures += u64::from(failures);
            }
        }
        sum
    }
}

/// Minutes since the start, as far as 20 bits go: two years.
fn minute(uptime: Duration) -> u32 {
    (uptime.as_secs() / 60) as u32 & ((1 << 20) - 1)
}

fn pack(minute: u32, failures: u32, requests: u32) -> u64 {
    (u64::from(minute) << 44) | (u64::from(failures) << 22) | u64::from(requests)
}

fn unpack(slot: u64) -> (u32, u32, u32) {
    let low = |bits: u64| (bits & u64::from(FULL)) as u32;
    ((slot >> 44) as u32, low(slot >> 22), low(slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Duration {
        Duration::from_secs(minutes * 60)
    }

    #[test]
    fn no_traffic_is_its_own_state() {
        let seen = Traffic::default().seen(at(5));
        assert_eq!((seen.state(), seen.success_rate()), ("no_data", None));
    }

    #[test]
    fn the_window_slides() {
        let traffic = Traffic::default();
        for _ in 0..99 {
            traffic.count(false, at(3));
        }
        traffic.count(true, at(3));
        assert_eq!(traffic.seen(at(12)).state(), "operational");
        assert_eq!(traffic.seen(at(12)).success_rate(), Some(0.99));
        assert_eq!(traffic.seen(at(13)).state(), "no_data");
        traffic.count(true, at(13));
        assert_eq!(traffic.seen(at(13)).state(), "down");
        traffic.count(false, at(14));
        assert_eq!(traffic.seen(at(14)).state(), "degraded");
    }

    #[test]
    fn a_full_minute_stands_still() {
        let traffic = Traffic::default();
        let nearly = pack(0, FULL / 4, FULL - 1);
        traffic.slots[0].store(nearly, Ordering::Relaxed);
        for _ in 0..10 {
            traffic.count(true, at(0));
        }
        let seen = traffic.seen(at(0));
        assert_eq!(seen.requests, u64::from(FULL));
        assert_eq!(seen.failures, u64::from(FULL / 4) + 1);
    }
}
