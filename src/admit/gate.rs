//! Limits and money, asked in one step: both are granted, or nothing is.

use super::Refusal;
use crate::billing::hold::Hold;
use crate::billing::ledger::Ledger;
use crate::billing::{Bill, Due};
use crate::limit::limiter::Limiter;
use crate::limit::{Ask, Grant, Refused};
use std::sync::Arc;

/// What a request costs.
pub struct Price {
    /// What it probably will.
    pub bill: Bill,
    /// What is due if nothing more is heard of it.
    pub prompt: Due,
}

/// Asks the limits, and whether the request can be paid for. When this returns with a hold, the journal has it.
///
/// # Errors
/// [`Refusal`]: the limit that fired, or what is short; what cannot be paid for is told first.
pub async fn ask(
    limiter: &Arc<Limiter>,
    ask: Ask,
    paying: Option<(&Arc<Ledger>, Price)>,
) -> Result<(Grant, Option<Hold>), Refusal> {
    let Some((ledger, Price { bill, prompt })) = paying else {
        let granted = limiter.admit(ask).await;
        return granted.map(|grant| (grant, None)).map_err(Refusal::Limit);
    };
    let mut asking = ledger.asking(bill);
    let mut said = limiter.admit_with(ask.clone(), Some(&mut asking)).await;
    // An account's first request.
    if matches!(said, Err(Refused::Part)) && asking.open().await {
        said = limiter.admit_with(ask, Some(&mut asking)).await;
    }
    match said {
        Ok(grant) => match asking.finish(&prompt) {
            Ok(hold) => Ok((grant, Some(hold))),
            // The grant gives its place back.
            Err(shortage) => Err(Refusal::Money(shortage)),
        },
        Err(Refused::Limit(denial)) => Err(Refusal::Limit(denial)),
        Err(Refused::Part) => Err(Refusal::Money(asking.shortage())),
    }
}
