//! A limit that fired, in words: which one, its value, for whom, and how long.

use crate::auth::Caller;
use crate::billing::money::Money;
use crate::billing::{Pays, Reason, Shortage};
use crate::limit::bucket::Bucket;
use crate::limit::{self, Denial, Who};
use crate::rejection::{Code, Rejection};
use std::time::{Duration, SystemTime};

/// A client that is refused for concurrency comes back after so long: nobody knows when a place
/// will be free.
const LEAST_PAUSE: u64 = 500;
const LONGEST_PAUSE: u64 = 2000;

/// The refusal.
pub(super) fn refusal(caller: &Caller, denial: &Denial, jitter: u64) -> Rejection {
    let plan = &caller.key().plan;
    let limits = &plan.limits;
    // Pushed piece by piece: under a flood this is what is written most.
    let mut text = String::with_capacity(128);
    let mut code = Code::RateLimitExceeded;
    match denial.reason {
        limit::Reason::Requests => {
            text.push_str("Request rate of ");
            push(&mut text, rate(limits.requests));
            text.push_str(" per minute");
        }
        limit::Reason::Tokens => {
            text.push_str("Token rate of ");
            push(&mut text, rate(limits.tokens));
            text.push_str(" per minute");
        }
        limit::Reason::TokensPerDay => {
            text.push_str("Limit of ");
            push(&mut text, limits.tokens_per_day.unwrap_or(0));
            text.push_str(" tokens a day");
        }
        limit::Reason::Concurrency => {
            code = Code::ConcurrencyLimit;
            text.push_str("Limit of ");
            push(&mut text, limits.concurrency.unwrap_or(0).into());
            text.push_str(" requests at once");
        }
        limit::Reason::Store => {
            return Rejection::new(
                Code::TemporarilyUnavailable,
                "The gateway cannot check rate limits right now. Try again in 5 s.",
            );
        }
    }
    text.push_str(" reached for ");
    match caller.subject().who() {
        Who::Key => {
            text.push_str("key ");
            text.push_str(caller.hint().as_str());
            text.push('…');
        }
        Who::Account => {
            text.push_str("account ");
            text.push_str(&caller.key().account);
        }
        Who::Network => text.push_str("your network (requests without a key)"),
    }
    text.push_str(" (plan ");
    text.push_str(&plan.name);
    let pause = LEAST_PAUSE + jitter % (LONGEST_PAUSE - LEAST_PAUSE + 1);
    let wait = denial.wait.unwrap_or(Duration::from_millis(pause));
    let seconds = u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
    if denial.reason == limit::Reason::Concurrency {
        text.push_str("); retry when one of them has ended.");
    } else {
        text.push_str("); retry in ");
        if seconds > 3600 {
            push(&mut text, seconds / 3600);
            text.push_str(" h ");
            push(&mut text, seconds % 3600 / 60);
            text.push_str(" min.");
        } else {
            push(&mut text, seconds);
            text.push_str(" s.");
        }
    }
    Rejection::new(code, text).retry_after(Some(wait))
}

fn push(text: &mut String, number: u64) {
    text.push_str(itoa::Buffer::new().format(number));
}

/// The refusal of a request that cannot be paid for.
pub(super) fn shortage(caller: &Caller, shortage: &Shortage, currency: &str) -> Rejection {
    let payer = &caller.key().payer;
    let (hint, account) = (caller.hint(), &payer.account);
    let money = |micros: i64| format!("{} {currency}", short(Money::from_micros(micros)));
    let (left, needed) = (shortage.left.max(0), shortage.needed);
    let resets = shortage
        .resets
        .map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
    match shortage.reason {
        Reason::Balance => Rejection::new(
            Code::InsufficientBalance,
            format!(
                "The balance of account {account} has {} left and this request may cost {}. Top it up, or ask for less.",
                money(left),
                money(needed)
            ),
        ),
        Reason::Package => {
            let name = match &payer.pays {
                Pays::Package(name) => name,
                Pays::Balance => account,
            };
            let what = match left {
                0 => format!(
                    "Package {name} of account {account} is used up, expired or was never bought"
                ),
                _ => format!(
                    "Package {name} of account {account} has {left} tokens left and this request may take {needed}"
                ),
            };
            let advice = match left {
                0 => "Buy another, or switch the key to pay-as-you-go.",
                _ => "Ask for less (max_tokens), buy another, or switch the key to pay-as-you-go.",
            };
            Rejection::new(Code::PackageExhausted, format!("{what}. {advice}"))
        }
        Reason::DailyCap | Reason::MonthlyCap => {
            let (word, cap) = match shortage.reason {
                Reason::DailyCap => ("daily", payer.caps.daily),
                _ => ("monthly", payer.caps.monthly),
            };
            Rejection::new(
                Code::SpendCapReached,
                format!(
                    "The {word} cap of {} of key {hint}… is reached: {} left, and this request may cost {}. Raise it, or wait for the new period.",
                    money(cap.unwrap_or_default().micros()),
                    money(left),
                    money(needed)
                ),
            )
            .resets_at(resets)
        }
        Reason::Store => Rejection::new(
            Code::TemporarilyUnavailable,
            "The gateway cannot check or record what this request costs right now. Try again in 5 s.",
        ),
    }
}

/// An amount with two decimals at least, and with all that it has.
fn short(amount: Money) -> String {
    let text = amount.to_string();
    let end = text.trim_end_matches('0').len();
    // Six decimals are always there; the last two of them that are kept stand four before the end.
    text.get(..end.max(text.len() - 4))
        .unwrap_or(&text)
        .to_owned()
}

fn rate(bucket: Option<Bucket>) -> u64 {
    bucket.map_or(0, |bucket| bucket.per_minute())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::tests::caller;
    use crate::limit::{Limits, Reading, Reason, Subject};

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

    #[test]
    fn a_shortage_names_what_is_short_how_much_is_left_and_what_to_do() {
        use crate::billing;
        let caller = caller(&["*"], Limits::default(), Subject::key("a", &[0; 32]));
        let said = |reason, left, needed| {
            let shortage = billing::Shortage {
                reason,
                left,
                needed,
                resets: Some(1_000),
            };
            super::shortage(&caller, &shortage, "CNY")
        };
        let balance = said(billing::Reason::Balance, 120_000, 1_234_567);
        assert_eq!(balance.code, Code::InsufficientBalance);
        assert_eq!(
            balance.message,
            "The balance of account a has 0.12 CNY left and this request may cost 1.234567 CNY. Top it up, or ask for less."
        );
        let package = said(billing::Reason::Package, 0, 100);
        assert_eq!(package.code, Code::PackageExhausted);
        assert_eq!(
            package.message,
            "Package starter of account a is used up, expired or was never bought. Buy another, or switch the key to pay-as-you-go."
        );
        let package = said(billing::Reason::Package, 7, 100);
        assert!(
            package
                .message
                .contains("has 7 tokens left and this request may take 100")
        );
        let cap = said(billing::Reason::DailyCap, -5, 100);
        assert_eq!(cap.code, Code::SpendCapReached);
        assert!(cap.message.contains("0.00 CNY left"), "{}", cap.message);
        assert_eq!(
            cap.resets_at,
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1))
        );
        assert_eq!(
            said(billing::Reason::Store, 0, 0).code,
            Code::TemporarilyUnavailable
        );
    }
}
