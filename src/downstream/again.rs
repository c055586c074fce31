//! [`at_once`]: does a task's work on at once when it wakes itself.
//!
//! Pingora's proxy loop is two halves in one task, and each piece of an answer goes from one to the other through a
//! queue: the half that sends wakes the half that waits, and so the task itself. The runtime would put it behind all
//! other tasks that are ready, with some hundred instructions of bookkeeping. Here it is polled again instead.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A task that goes on waking itself lets the others have their turn after so many polls.
const MOST: usize = 4;

const WAITING: u8 = 0;
const WORKING: u8 = 1;
const CALLED: u8 = 2;

/// Who is woken: the task below, unless its work is being done.
struct Call {
    state: AtomicU8,
    task: Waker,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let called = |state| (state == WORKING).then_some(CALLED);
        let state = &self.state;
        if state.fetch_update(Ordering::AcqRel, Ordering::Acquire, called) == Err(WAITING) {
            self.task.wake_by_ref();
        }
    }
}

/// Does `work`, and polls it again at once when it was woken meanwhile.
pub fn at_once<F: Future>(mut work: Pin<&mut F>) -> impl Future<Output = F::Output> {
    let mut own: Option<(Arc<Call>, Waker)> = None;
    poll_fn(move |cx| {
        let (call, waker) = match &mut own {
            Some(own) if own.0.task.will_wake(cx.waker()) => own,
            other => {
                let call = Arc::new(Call {
                    state: AtomicU8::new(WAITING),
                    task: cx.waker().clone(),
                });
                other.insert((call.clone(), call.into()))
            }
        };
        let mut cx = Context::from_waker(waker);
        for _ in 0..MOST {
            call.state.store(WORKING, Ordering::Release);
            if let Poll::Ready(done) = work.as_mut().poll(&mut cx) {
                return Poll::Ready(done);
            }
            if call.state.swap(WAITING, Ordering::AcqRel) == WORKING {
                return Poll::Pending;
            }
        }
        call.task.wake_by_ref();
        Poll::Pending
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Polls once a future that wakes itself so many times; how often it was polled, and its task woken.
    fn polled(wakes: usize) -> (usize, usize) {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut polls = 0;
        let work = poll_fn(|cx: &mut Context<'_>| {
            polls += 1;
            if polls <= wakes {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        let mut cx = Context::from_waker(&waker);
        assert!(pin!(at_once(pin!(work))).poll(&mut cx).is_pending());
        (polls, woken.0.load(Ordering::Relaxed))
    }

    #[test]
    fn what_wakes_itself_is_polled_again_but_not_for_ever() {
        assert_eq!(polled(0), (1, 0));
        assert_eq!(polled(1), (2, 0));
        assert_eq!(polled(3), (4, 0));
        assert_eq!(polled(9), (4, 1));
    }

    #[tokio::test]
    async fn who_is_woken_from_elsewhere_goes_on() {
        let (send, mut receive) = tokio::sync::mpsc::channel(1);
        let sum = tokio::spawn(async move {
            let sum = async {
                let mut sum = 0;
                while let Some(number) = receive.recv().await {
                    sum += number;
                }
                sum
            };
            at_once(pin!(sum)).await
        });
        for number in 1..=100 {
            send.send(number).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(send);
        assert_eq!(sum.await.unwrap(), 5050);
    }
}
