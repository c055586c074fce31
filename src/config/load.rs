//! A file or text → [`Config`], or every error in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::check::check;
use super::document::Document;
use super::expand::Env;
use super::report::{Errors, Report};
use super::resolve::resolve;
use super::schema::{Gateway, json_schema};
use super::settings::Config;

/// More than any configuration is long.
const FILE_LIMIT: usize = 4 * 1024 * 1024;

/// A configuration file that was read.
pub struct Loaded {
    /// What came of it.
    pub config: Result<Config, Errors>,
    /// Every file that it names, readable or not: secrets, certificates, keys. A configuration that is no YAML names none.
    pub files: BTreeSet<PathBuf>,
}

/// Reads the configuration file at `path`, and tells which files it depends on besides. Variables are looked up in
/// `env`.
#[must_use]
pub fn read(path: &Path, env: Env<'_>) -> Loaded {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parsed(&name, &text, env),
        Err(error) => Loaded::failed(Errors::of_file(
            &name,
            format!("cannot read the configuration: {error}; correct the path or the permissions"),
        )),
    }
}

/// Reads the configuration file at `path`. Variables are looked up in `env`.
///
/// # Errors
///
/// All errors at once, each at its place in the file.
pub fn load(path: &Path, env: Env<'_>) -> Result<Config, Errors> {
    read(path, env).config
}

/// Reads a configuration from a text; `name` is what errors call the file.
///
/// # Errors
///
/// All errors at once, each at its place in the text.
pub fn parse(name: &str, text: &str, env: Env<'_>) -> Result<Config, Errors> {
    parsed(name, text, env).config
}

fn parsed(name: &str, text: &str, env: Env<'_>) -> Loaded {
    if text.len() > FILE_LIMIT {
        return Loaded::failed(Errors::of_file(
            name,
            "the configuration is larger than 4 MiB".to_owned(),
        ));
    }
    let (document, problems) = match Document::read(text, env) {
        Ok(read) => read,
        Err(problem) => return Loaded::failed(Errors::new(name, vec![problem])),
    };
    let mut report = Report::new(&document, problems);
    let value = check(&json_schema(), &mut report);
    let config = Gateway::deserialize(value).map(|typed| resolve(typed, &mut report));
    let files = std::mem::take(&mut report.files);
    let config = match config {
        Ok(config) if report.is_empty() => Ok(config),
        // The check and the types come from one source. Should they differ, serde's words could hold a secret.
        Err(_) if report.is_empty() => Err(Errors::of_file(
            name,
            "the configuration passes the check but cannot be read; please report this".to_owned(),
        )),
        _ => Err(report.into_errors(name)),
    };
    Loaded { config, files }
}

impl Loaded {
    fn failed(errors: Errors) -> Loaded {
        Loaded {
            config: Err(errors),
            files: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
#[path = "mutation_tests.rs"]
mod mutation_tests;
#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
