//! The command line: one file a verb.

mod accounts;
mod api;
mod check;
mod keys;
mod ledger;
mod logging;
mod models;
mod packages;
mod process;
mod quick;
mod schema;
mod serve;
mod table;
mod upgrade;
mod usage;

use crate::config::{Config, load};
use api::Access;
use clap::{Parser, Subcommand};
use serde_json::Value;
use std::fmt::Display;
use std::io::{ErrorKind, Write, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Edge proxy in front of model providers.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve until SIGTERM or SIGINT.
    Serve {
        /// Configuration file. Without one, OPENAI_API_KEY or ANTHROPIC_API_KEY must be set: then
        /// every model of that provider is served on 127.0.0.1:8080.
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Replace a gateway that serves by what is at its path now, without closing a connection. Exit 0 when the new
    /// process serves, 1 if it does not: then the old one serves on.
    Upgrade {
        /// Configuration file.
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
        /// The process, where it is not the one of store.path.
        #[arg(long)]
        pid: Option<u32>,
        /// How long the new process may take until it serves: `30s`, `5m`.
        #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
        timeout: Duration,
    },
    /// Check a configuration: exit 0 if it is valid, 1 if not; all errors at once.
    Check {
        /// Configuration file.
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
        /// Also print what it changes of this one, and which changes need a restart.
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
    },
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
    /// Make, change and revoke keys of a running gateway.
    Keys {
        #[command(flatten)]
        access: Access,
        #[command(subcommand)]
        verb: keys::Keys,
    },
    /// Accounts and their money.
    Accounts {
        #[command(flatten)]
        access: Access,
        #[command(subcommand)]
        verb: accounts::Accounts,
    },
    /// Token packages.
    Packages {
        #[command(flatten)]
        access: Access,
        #[command(subcommand)]
        verb: packages::Packages,
    },
    /// What was used, and what it cost.
    Usage {
        #[command(flatten)]
        access: Access,
        #[command(subcommand)]
        verb: usage::Usage,
    },
    /// The models of a running gateway, with their state.
    Models {
        #[command(flatten)]
        access: Access,
    },
    /// The books.
    Ledger {
        #[command(flatten)]
        access: Access,
        #[command(subcommand)]
        verb: ledger::Ledger,
    },
}

/// What a verb has to say.
#[derive(Debug, Default)]
struct Output {
    /// On standard output.
    text: String,
    /// On standard error, behind it.
    warning: Option<String>,
    /// Why the exit code is 1 all the same.
    failure: Option<String>,
}

impl From<String> for Output {
    fn from(text: String) -> Output {
        Output {
            text,
            ..Output::default()
        }
    }
}

impl From<Value> for Output {
    fn from(value: Value) -> Output {
        format!("{value:#}\n").into()
    }
}

/// Does what was asked.
///
/// # Errors
/// What to tell the user; the exit code is then 1.
pub fn run(cli: Cli) -> Result<(), String> {
    match cli.verb {
        Verb::Serve { config } => serve::run(config.as_deref()),
        Verb::Upgrade {
            config,
            pid,
            timeout,
        } => upgrade::run(&config, pid, timeout),
        Verb::Check { config, against } => check::run(&config, against.as_deref()),
        Verb::Schema => schema::run(),
        Verb::Keys { access, verb } => say(keys::run(&verb, &access.api()?, access.json)?),
        Verb::Accounts { access, verb } => say(accounts::run(&verb, &access.api()?, access.json)?),
        Verb::Packages { access, verb } => say(packages::run(&verb, &access.api()?, access.json)?),
        Verb::Usage { access, verb } => say(usage::run(&verb, &access.api()?, access.json)?),
        Verb::Models { access } => say(models::run(&access.api()?, access.json)?),
        Verb::Ledger { access, verb } => say(ledger::run(&verb, &access.api()?, access.json)?),
    }
}

fn say(output: Output) -> Result<(), String> {
    let Output {
        text,
        warning,
        failure,
    } = output;
    match stdout().write_all(text.as_bytes()) {
        // `tollgate keys list | head` has seen enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            return Err(format!("cannot write: {error}"));
        }
        _ => {}
    }
    if let Some(warning) = warning {
        eprintln!("{warning}");
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// A time as the configuration has it.
fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|_| "give it as `30s` or `5m`")?;
    Duration::try_from(span).map_err(|_| "a time cannot be below nothing".into())
}

fn read(path: &Path) -> Result<Config, String> {
    load(path, &environment).map_err(invalid)
}

fn invalid(errors: impl Display) -> String {
    format!("the configuration is not valid\n{errors}")
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests;
