//! What the process as a whole takes on: caps on what is counted (connections, requests in flight)
//! and on what is weighed (bytes of bodies).
//!
//! Nobody waits for room: what finds none is refused at once. A [`Cap`] is two numbers, changed
//! without a lock, and may be lowered below what is taken of it: then nothing more is given until
//! enough has come back. (A semaphore of tokio's has its permits for good, and a queue of waiters
//! behind a lock, which nobody needs here.)

use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether the process, or the machine, may open no more files: nobody else is at fault then.
pub fn out_of_descriptors(error: &std::io::Error) -> bool {
    let codes = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error
        .raw_os_error()
        .is_some_and(|code| codes.contains(&code))
}

/// All caps of a process.
#[derive(Debug)]
pub struct Caps {
    /// Client connections.
    pub connections: Arc<Cap>,
    /// Connections beyond those, which are told that they are too many.
    pub overflow: Arc<Cap>,
    /// Connections to the admin API and the metrics.
    pub operators: Arc<Cap>,
    /// Requests in flight.
    pub in_flight: Arc<Cap>,
    /// Bytes of request bodies in memory.
    pub buffered: Arc<Cap>,
}

impl Caps {
    /// Each with the name that metrics know it by.
    pub fn all(&self) -> [(&'static str, &Cap); 5] {
        let Caps {
            connections,
            overflow,
            operators,
            in_flight,
            buffered,
        } = self;
        [
            ("connections", connections),
            ("overflow", overflow),
            ("operators", operators),
            ("in_flight", in_flight),
            ("buffered", buffered),
        ]
    }
}

/// The most that is taken at once of one thing, and what is taken now.
#[derive(Debug)]
pub struct Cap {
    most: AtomicU64,
    taken: AtomicU64,
    refused: AtomicU64,
}

impl Cap {
    /// A cap of `most`, of which nothing is taken.
    pub fn new(most: u64) -> Arc<Cap> {
        Arc::new(Cap {
            most: most.into(),
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Raises or lowers it. What is taken stays taken.
    pub fn set(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// The most.
    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// What is taken now.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// How often there was no room.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes `weight` of it, if there is room; none is counted as a refusal.
    pub fn take(self: &Arc<Self>, weight: u64) -> Option<Claim> {
        self.add(weight).then(|| Claim {
            cap: self.clone(),
            weight,
        })
    }

    fn add(&self, weight: u64) -> bool {
        // Compared before it is added, and not taken back afterwards: a large body that finds no
        // room must not stand in the way of a small one for that moment.
        let room = |taken: u64| {
            let taken = taken.checked_add(weight)?;
            (taken <= self.most()).then_some(taken)
        };
        let added = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .is_ok();
        if !added {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        added
    }
}

/// What is taken of a cap, given back when dropped.
#[derive(Debug)]
pub struct Claim {
    cap: Arc<Cap>,
    weight: u64,
}

impl Claim {
    /// Takes so much more, if there is room; none is counted as a refusal.
    pub fn more(&mut self, weight: u64) -> bool {
        let added = self.cap.add(weight);
        if added {
            self.weight += weight;
        }
        added
    }

    /// Says what is held in fact, room or not: what is too much now is missing for those that ask next.
    pub fn weigh(&mut self, weight: u64) {
        let taken = &self.cap.taken;
        match weight.checked_sub(self.weight) {
            Some(more) => taken.fetch_add(more, Ordering::Relaxed),
            None => taken.fetch_sub(self.weight - weight, Ordering::Relaxed),
        };
        self.weight = weight;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.cap.taken.fetch_sub(self.weight, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let cap = Cap::new(10);
        let mut first = cap.take(4).unwrap();
        let second = cap.take(6).unwrap();
        assert!(cap.take(1).is_none());
        assert!(!first.more(1));
        drop(second);
        assert!(first.more(6));
        assert_eq!((cap.taken(), cap.refused()), (10, 2));
        drop(first);
        assert_eq!(cap.taken(), 0);
        // Nothing that a client may claim runs over.
        assert!(cap.take(1).is_some_and(|mut claim| !claim.more(u64::MAX)));
        assert!(cap.take(u64::MAX).is_none());
        assert_eq!(cap.taken(), 0);
    }

    #[test]
    fn a_cap_may_be_lowered_below_what_is_taken() {
        let cap = Cap::new(3);
        let claims = [cap.take(1), cap.take(1), cap.take(1)];
        cap.set(1);
        assert!(cap.take(1).is_none());
        drop(claims);
        let one = cap.take(1).unwrap();
        assert!(cap.take(1).is_none());
        cap.set(2);
        assert!(cap.take(1).is_some());
        drop(one);
    }

    #[test]
    fn what_is_held_in_fact_may_be_more() {
        let cap = Cap::new(10);
        let mut claim = cap.take(8).unwrap();
        claim.weigh(16);
        assert_eq!(cap.taken(), 16);
        assert!(cap.take(1).is_none());
        claim.weigh(8);
        assert!(cap.take(2).is_some());
        claim.weigh(16);
        drop(claim);
        assert_eq!(cap.taken(), 0);
    }

    #[test]
    fn threads_never_take_more_than_there_is() {
        let cap = Cap::new(7);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let claim = cap.take(3);
                        assert!(cap.taken() <= 7);
                        drop(claim);
                    }
                });
            }
        });
        assert_eq!(cap.taken(), 0);
    }
}
