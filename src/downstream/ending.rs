//! How exchanges under way learn that the process ends.
//!
//! A flag that is read where something happens anyway, and a call that wakes who waits: a busy stream pays one load
//! for it, and a silent one nothing.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;
use tokio::sync::Notify;

/// Requests wait in so many lists, so that they do not wait for each other to get in.
const LISTS: usize = 8;

const SERVING: u8 = 0;
const CLOSING: u8 = 1;
const CUTTING: u8 = 2;

/// The end of one gateway.
#[derive(Debug, Default)]
pub struct Ending {
    stage: AtomicU8,
    waiting: [Notify; LISTS],
}

impl Ending {
    /// From now on each answer is the last one of its connection.
    pub fn close(&self) {
        self.enter(CLOSING);
    }

    /// What still runs is ended now, with an error that its client understands.
    pub fn cut(&self) {
        self.enter(CUTTING);
        for list in &self.waiting {
            list.notify_waiters();
        }
    }

    fn enter(&self, stage: u8) {
        self.stage.fetch_max(stage, Ordering::AcqRel);
    }

    /// Whether an answer is the last one of its connection.
    pub fn is_closing(&self) -> bool {
        self.stage.load(Ordering::Acquire) > SERVING
    }

    /// Whether what runs is ended now.
    pub fn is_cutting(&self) -> bool {
        self.stage.load(Ordering::Acquire) >= CUTTING
    }

    /// Does `work`, and polls it once more when [`Ending::cut`] was called: somewhere in it [`Ending::cuts`] or
    /// [`Ending::is_cutting`] is asked. `place` spreads those who wait.
    pub(super) async fn waking<F: Future>(&self, place: usize, work: F) -> F::Output {
        let mut work = pin!(work);
        let list = self.waiting.get(place % LISTS);
        let mut called = pin!(async {
            match list {
                Some(list) => list.notified().await,
                None => std::future::pending().await,
            }
        });
        let mut listed = false;
        poll_fn(|cx| {
            if !listed {
                // Once: the task stays the same, and to be listed takes a lock.
                listed = true;
                let _ = called.as_mut().poll(cx);
            }
            work.as_mut().poll(cx)
        })
        .await
    }

    /// Ends when what runs is ended; to be awaited within [`Ending::waking`] only, which sees to it that it is asked.
    pub(super) async fn cuts(&self) {
        poll_fn(|_| match self.is_cutting() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken_once_it_ends_and_not_before() {
        let ending = Arc::new(Ending::default());
        let waiters: Vec<_> = (0..20)
            .map(|place| {
                let ending = ending.clone();
                tokio::spawn(async move { ending.waking(place, ending.cuts()).await })
            })
            .collect();
        tokio::task::yield_now().await;
        ending.close();
        assert!(ending.is_closing() && !ending.is_cutting());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        ending.cut();
        for waiter in waiters {
            timeout(Duration::from_secs(1), waiter)
                .await
                .unwrap()
                .unwrap();
        }
        // Who comes later does not wait at all.
        ending.waking(3, ending.cuts()).await;
        // There is no way back.
        ending.close();
        assert!(ending.is_cutting());
    }
}
