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

/// The traffic of one model. A slot packs its minute (32 bits), failures and requests (16 each,
/// saturating), so that starting a new minute and counting are one atomic step.
#[derive(Debug, Default)]
pub struct Traffic {
    slots: [AtomicU64; SLOTS],
}

impl Traffic {
    /// Counts one request; `uptime` is the time since the process started.
    pub fn count(&self, failed: bool, uptime: Duration) {
        let minute = minute(uptime);
        let Some(slot) = self.slots.get(minute as usize % SLOTS) else {
            return;
        };
        let add = |old: u64| {
            let (seen, failures, requests) = unpack(old);
            let (failures, requests) = if seen == minute {
                (failures, requests)
            } else {
                (0, 0)
            };
            Some(pack(
                minute,
                failures.saturating_add(u16::from(failed)),
                requests.saturating_add(1),
            ))
        };
        // Never fails: `add` always has an answer.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// The sum of the window that ends now.
    pub fn seen(&self, uptime: Duration) -> Seen {
        let now = minute(uptime);
        let mut sum = Seen {
            requests: 0,
            failures: 0,
        };
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

fn minute(uptime: Duration) -> u32 {
    u32::try_from(uptime.as_secs() / 60).unwrap_or(u32::MAX)
}

fn pack(minute: u32, failures: u16, requests: u16) -> u64 {
    (u64::from(minute) << 32) | (u64::from(failures) << 16) | u64::from(requests)
}

fn unpack(slot: u64) -> (u32, u16, u16) {
    ((slot >> 32) as u32, (slot >> 16) as u16, slot as u16)
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
    fn a_busy_minute_saturates_and_stays_in_its_slot() {
        let traffic = Traffic::default();
        for _ in 0..70_000 {
            traffic.count(false, at(0));
        }
        assert_eq!(traffic.seen(at(0)).requests, 65_535);
        assert_eq!(traffic.seen(at(0)).failures, 0);
    }
}
