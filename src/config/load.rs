//! A file or text → [`Config`], or every error in it.

use std::path::Path;

use serde::Deserialize;

use super::check::check;
use super::document::Document;
use super::expand::Env;
use super::report::{Errors, Problem, Report};
use super::resolve::resolve;
use super::schema::{Gateway, json_schema};
use super::settings::Config;

/// More than any configuration is long.
const FILE_LIMIT: usize = 4 * 1024 * 1024;

/// Reads the configuration file at `path`. Variables are looked up in `env`.
///
/// # Errors
///
/// All errors at once, each at its place in the file.
pub fn load(path: &Path, env: Env<'_>) -> Result<Config, Errors> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&name, &text, env),
        Err(error) => Err(whole(
            &name,
            format!("cannot read the configuration: {error}; correct the path or the permissions"),
        )),
    }
}

/// Reads a configuration from a text; `name` is what errors call the file.
///
/// # Errors
///
/// All errors at once, each at its place in the text.
pub fn parse(name: &str, text: &str, env: Env<'_>) -> Result<Config, Errors> {
    if text.len() > FILE_LIMIT {
        return Err(whole(
            name,
            "the configuration is larger than 4 MiB".to_owned(),
        ));
    }
    let (document, problems) =
        Document::read(text, env).map_err(|problem| Errors::new(name, vec![problem]))?;
    let mut report = Report::new(&document, problems);
    let value = check(&json_schema(), &mut report);
    match Gateway::deserialize(value) {
        Ok(typed) => {
            let config = resolve(typed, &mut report);
            if report.is_empty() {
                Ok(config)
            } else {
                Err(report.into_errors(name))
            }
        }
        // The check and the types come from one source. Should they differ, serde's words could hold a secret.
        Err(_) if !report.is_empty() => Err(report.into_errors(name)),
        Err(_) => Err(whole(
            name,
            "the configuration passes the check but cannot be read; please report this".to_owned(),
        )),
    }
}

fn whole(name: &str, message: String) -> Errors {
    Errors::new(
        name,
        vec![Problem {
            line: 1,
            column: 1,
            path: String::new(),
            message,
        }],
    )
}

#[cfg(test)]
#[path = "mutation_tests.rs"]
mod mutation_tests;
#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
