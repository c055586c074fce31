//! The command line: one file a verb.

mod check;
mod logging;
mod quick;
mod schema;
mod serve;

use crate::config::{Config, load};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};

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
    /// Check a configuration: exit 0 if it is valid, 1 if not; all errors at once.
    Check {
        /// Configuration file.
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
}

/// Does what was asked.
///
/// # Errors
/// What to tell the user; the exit code is then 1.
pub fn run(cli: Cli) -> Result<(), String> {
    match cli.verb {
        Verb::Serve { config } => serve::run(config.as_deref()),
        Verb::Check { config } => check::run(&config),
        Verb::Schema => schema::run(),
    }
}

fn read(path: &Path) -> Result<Config, String> {
    load(path, &environment).map_err(|errors| format!("the configuration is not valid\n{errors}"))
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
