//! `tollgate ledger`.

use super::Output;
use super::api::Api;
use super::table::{amount, text};
use clap::Subcommand;

/// What is asked of the books.
#[derive(Debug, Subcommand)]
pub enum Ledger {
    /// Add all sums up again: exit 1 if one is not what it should be.
    Verify,
}

/// Does it.
///
/// # Errors
/// In one line.
pub fn run(verb: &Ledger, api: &Api, as_json: bool) -> Result<Output, String> {
    let Ledger::Verify = verb;
    let verified = api.get("/ledger")?;
    let drift = verified["drift"].as_array().cloned().unwrap_or_default();
    let mut shown = String::new();
    for one in &drift {
        shown += &format!(
            "account {}: {} is {} and should be {}: {} {} off\n",
            text(&one["account"]),
            text(&one["what"]),
            amount(&one["stored"]),
            amount(&one["expected"]),
            amount(&one["difference"]),
            text(&one["unit"]),
        );
    }
    let failure = match drift.len() {
        0 => None,
        1 => Some("the books have 1 difference".to_owned()),
        many => Some(format!("the books have {many} differences")),
    };
    if drift.is_empty() {
        shown += "the books add up\n";
    }
    let mut output = if as_json {
        Output::from(verified)
    } else {
        Output::from(shown)
    };
    output.failure = failure;
    Ok(output)
}
