//! The clock of a silent upstream: when the client hears a keepalive and when the wait is over.

use super::Patience;
use std::time::Duration;
use tokio::time::Instant;

/// After so much silence the client hears a keepalive: below the 20 s after which one editor, and
/// the 30 s after which common load balancers, give up on a quiet stream.
pub const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);

/// What to do at a moment of silence.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing until then.
    Wait(Instant),
    /// Send a keepalive, then ask again.
    Keepalive,
    /// The first byte did not come in time.
    FirstByteOverdue,
    /// The answer stalled for too long.
    Stalled,
    /// It should have come to its end.
    Overdue,
}

/// When something last happened; `None` before the attempt under way.
#[derive(Debug, Default)]
pub struct Silence {
    /// The last byte of the answer that came, or of the request that went.
    pub heard: Option<Instant>,
    /// The last byte that the client got.
    pub spoke: Option<Instant>,
}

impl Silence {
    /// Judges the moment `now`. `answering` says that the answer's header has been passed on,
    /// `keepalive` that the answer is a stream between two events.
    pub fn judge(
        &self,
        now: Instant,
        patience: Option<&Patience>,
        answering: bool,
        keepalive: bool,
    ) -> Verdict {
        let mut next = now + KEEPALIVE_AFTER;
        if let Some(patience) = patience {
            let heard = self
                .heard
                .map_or(patience.since, |heard| heard.max(patience.since));
            let (limit, overdue) = match answering {
                false => (patience.first_byte, Verdict::FirstByteOverdue),
                true => (patience.idle, Verdict::Stalled),
            };
            if patience.until <= now {
                return Verdict::Overdue;
            }
            let end = heard + limit;
            if end <= now {
                return overdue;
            }
            next = end.min(patience.until);
        }
        if let (Some(spoke), true) = (self.spoke, answering && keepalive) {
            let due = spoke + KEEPALIVE_AFTER;
            if due <= now {
                return Verdict::Keepalive;
            }
            next = next.min(due);
        }
        Verdict::Wait(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn patience(since: Instant) -> Patience {
        Patience {
            first_byte: 60 * SECOND,
            idle: 40 * SECOND,
            since,
            until: since + 3600 * SECOND,
        }
    }

    #[test]
    fn the_first_byte_has_its_own_limit() {
        let start = Instant::now();
        let silence = Silence::default();
        let judge = |at, patience: &Patience| silence.judge(at, Some(patience), false, true);
        assert_eq!(
            judge(start + 59 * SECOND, &patience(start)),
            Verdict::Wait(start + 60 * SECOND)
        );
        assert_eq!(
            judge(start + 60 * SECOND, &patience(start)),
            Verdict::FirstByteOverdue
        );
        // A second attempt has its time from its own beginning.
        let second = patience(start + 30 * SECOND);
        assert_eq!(
            judge(start + 60 * SECOND, &second),
            Verdict::Wait(start + 90 * SECOND)
        );
    }

    #[test]
    fn all_of_it_has_its_limit_too() {
        let start = Instant::now();
        let at = |seconds: u32| start + seconds * SECOND;
        let patience = Patience {
            until: at(50),
            ..patience(start)
        };
        for (answering, heard) in [(false, None), (true, Some(at(49)))] {
            let silence = Silence {
                heard,
                spoke: heard,
            };
            let judge = |now| silence.judge(now, Some(&patience), answering, false);
            assert_eq!(judge(at(49)), Verdict::Wait(at(50)));
            assert_eq!(judge(at(50)), Verdict::Overdue);
        }
    }

    #[test]
    fn keepalives_come_in_a_stream_only_and_do_not_extend_the_idle_limit() {
        let start = Instant::now();
        let mut silence = Silence {
            heard: Some(start),
            spoke: Some(start),
        };
        let patience = patience(start);
        let at = |seconds: u32| start + seconds * SECOND;
        assert_eq!(
            silence.judge(at(14), Some(&patience), true, true),
            Verdict::Wait(at(15))
        );
        assert_eq!(
            silence.judge(at(15), Some(&patience), true, true),
            Verdict::Keepalive
        );
        assert_eq!(
            silence.judge(at(15), Some(&patience), true, false),
            Verdict::Wait(at(40))
        );
        silence.spoke = Some(at(30));
        assert_eq!(
            silence.judge(at(31), Some(&patience), true, true),
            Verdict::Wait(at(40))
        );
        assert_eq!(
            silence.judge(at(40), Some(&patience), true, true),
            Verdict::Stalled
        );
    }
}
