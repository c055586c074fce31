//! Connections that wait for their next request, and may be closed when there is need of room.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// So long a connection waits before it counts as idle: one that is in use never gets here, and so
/// pays nothing for it.
pub(super) const AT_REST: Duration = Duration::from_secs(2);

/// At most so many are closed at once.
const DRAINED: usize = 32;

/// The idle connections of the process.
#[derive(Debug, Default)]
pub struct Idle {
    waiting: AtomicUsize,
    release: Notify,
}

impl Idle {
    /// Closes some of them, those first that have waited longest: an eighth, at least one and at most 32, as nginx
    /// does when its connections run short (`ngx_drain_connections`).
    pub fn release(&self) {
        let waiting = self.waiting.load(Ordering::Relaxed);
        for _ in 0..(waiting / 8).clamp(1, DRAINED).min(waiting) {
            self.release.notify_one();
        }
    }

    /// Counts the connection of this task as idle until it has to go.
    pub(super) async fn released(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        self.release.notified().await;
    }
}

struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn an_eighth_goes_and_the_longest_first() {
        let idle = Arc::new(Idle::default());
        // Nobody is there: nothing is kept for who comes.
        idle.release();
        let mut waiting: Vec<_> = (0..16)
            .map(|_| {
                let idle = idle.clone();
                Box::pin(async move { idle.released().await })
            })
            .collect();
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        idle.release();
        let gone: Vec<usize> = (0..16)
            .filter(|n| {
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                waiting[*n].as_mut().poll(&mut cx).is_ready()
            })
            .collect();
        assert_eq!(gone, [0, 1]);
        drop(waiting);
        assert_eq!(idle.waiting.load(Ordering::Relaxed), 0);
    }
}
