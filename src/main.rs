//! The `tollgate` program: exit codes only. 0 done, 1 failed, 2 called wrongly.

use clap::Parser;
use std::process::ExitCode;
use tollgate::cli::{Cli, run};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("tollgate: {message}");
            ExitCode::FAILURE
        }
    }
}
