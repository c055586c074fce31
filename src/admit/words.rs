//! A limit that fired, in words: which one, its value, for whom, and how long.

use crate::auth::Caller;
use crate::limit::bucket::Bucket;
use crate::limit::{Denial, Reason, Who};
use crate::rejection::{Code, Rejection};
use std::time::Duration;

/// A client that is refused for concurrency comes back after so long: nobody knows when a place
/// will be free.
const LEAST_PAUSE: u64 = 500;
const LONGEST_PAUSE: u64 = 2000;

/// The refusal.
pub(super) fn refusal(caller: &Caller, denial: &Denial, jitter: u64) -> Rejection {
    let plan = &caller.key().plan;
    let limits = &plan.limits;
    let (code, what) = match denial.reason {
        Reason::Requests => (
            Code::RateLimitExceeded,
            format!("Request rate of {} per minute", rate(limits.requests)),
        ),
        Reason::Tokens => (
            Code::RateLimitExceeded,
            format!("Token rate of {} per minute", rate(limits.tokens)),
        ),
        Reason::TokensPerDay => (
            Code::RateLimitExceeded,
            format!(
                "Limit of {} tokens a day",
                limits.tokens_per_day.unwrap_or(0)
            ),
        ),
        Reason::Concurrency => (
            Code::ConcurrencyLimit,
            format!(
                "Limit of {} requests at once",
                limits.concurrency.unwrap_or(0)
            ),
        ),
        Reason::Store => {
            return Rejection::new(
                Code::TemporarilyUnavailable,
                "The gateway cannot check rate limits right now. Try again in 5 s.",
            );
        }
    };
    let whom = match caller.subject().who() {
        Who::Key => format!("key {}…", caller.hint()),
        Who::Account => format!("account {}", caller.key().account),
        Who::Network => "your network (requests without a key)".to_owned(),
    };
    let pause = LEAST_PAUSE + jitter % (LONGEST_PAUSE - LEAST_PAUSE + 1);
    let wait = denial.wait.unwrap_or(Duration::from_millis(pause));
    let seconds = wait.as_millis().div_ceil(1000);
    let advice = match denial.reason {
        Reason::Concurrency => "retry when one of them has ended".to_owned(),
        _ if seconds > 3600 => format!("retry in {} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("retry in {seconds} s"),
    };
    let message = format!("{what} reached for {whom} (plan {}); {advice}.", plan.name);
    Rejection::new(code, message).retry_after(Some(wait))
}

fn rate(bucket: Option<Bucket>) -> u64 {
    bucket.map_or(0, |bucket| bucket.per_minute())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::tests::caller;
    use crate::limit::{Limits, Reading, Subject};

    fn said(reason: Reason, wait: Option<u64>, subject: Subject) -> Rejection {
        let limits = Limits {
            requests: Some(Bucket::new(600, 600)),
            tokens: Some(Bucket::new(20_000, 20_000)),
            concurrency: Some(2),
            tokens_per_day: Some(1000),
            day_offset: 0,
        };
        let denial = Denial {
            reason,
            wait: wait.map(Duration::from_millis),
            reading: Reading::default(),
        };
        refusal(&caller(&["*"], limits, subject), &denial, 700)
    }

    #[test]
    fn a_refusal_names_the_limit_its_value_whom_and_the_wait() {
        let key = || Subject::key("a", &[0; 32]);
        for (rejection, code, words) in [
            (
                said(Reason::Requests, Some(2001), key()),
                Code::RateLimitExceeded,
                "Request rate of 600 per minute reached for key sk-01234… (plan p); retry in 3 s.",
            ),
            (
                said(Reason::Tokens, Some(1), Subject::account("a", "p")),
                Code::RateLimitExceeded,
                "Token rate of 20000 per minute reached for account a (plan p); retry in 1 s.",
            ),
            (
                said(Reason::TokensPerDay, Some(7_320_000), key()),
                Code::RateLimitExceeded,
                "Limit of 1000 tokens a day reached for key sk-01234… (plan p); retry in 2 h 2 min.",
            ),
            (
                said(Reason::Concurrency, None, Subject::network(None)),
                Code::ConcurrencyLimit,
                "Limit of 2 requests at once reached for your network (requests without a key) (plan p); retry when one of them has ended.",
            ),
        ] {
            assert_eq!(rejection.code, code);
            assert_eq!(rejection.message, words);
        }
        let pause = said(Reason::Concurrency, None, key()).retry_after;
        assert_eq!(pause, Some(Duration::from_millis(1200)));
    }
}
