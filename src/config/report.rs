//! The errors of a configuration: gathered all at once, each at its place in the file.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use super::document::Document;
use super::path;

/// One error of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line in the file, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The setting, such as `models[0].price`; empty for the whole document.
    pub path: String,
    /// What is wrong, with the value where it is no secret, and the remedy.
    pub message: String,
}

/// All errors of a configuration; displayed one a line, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    file: String,
    problems: Vec<Problem>,
}

impl Errors {
    pub(crate) fn new(file: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort();
        problems.dedup();
        Self {
            file: file.to_owned(),
            problems,
        }
    }

    /// One error of a whole file.
    #[must_use]
    pub fn of_file(file: &str, message: String) -> Self {
        let problem = Problem {
            line: 1,
            column: 1,
            path: String::new(),
            message,
        };
        Self::new(file, vec![problem])
    }

    /// The errors in the order of the file; never empty.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            let Problem {
                line,
                column,
                path,
                message,
            } = problem;
            let end = if at == 0 { "" } else { "\n" };
            let colon = if path.is_empty() { "" } else { ": " };
            write!(
                f,
                "{end}{}:{line}:{column}: {path}{colon}{message}",
                self.file
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Gathers errors while the document is checked and resolved.
pub(crate) struct Report<'d> {
    /// The document that is looked at.
    pub(crate) document: &'d Document,
    /// Files that the document names, readable or not.
    pub(crate) files: BTreeSet<PathBuf>,
    problems: Vec<Problem>,
    /// Settings that were reported as unusable: what follows from them is not reported again.
    unusable: BTreeSet<String>,
}

impl<'d> Report<'d> {
    /// Starts with what reading the document found.
    pub(crate) fn new(document: &'d Document, problems: Vec<Problem>) -> Self {
        Self {
            document,
            files: document.files.clone(),
            problems,
            unusable: document.failed.clone(),
        }
    }

    /// Reports an error at the value of a setting.
    pub(crate) fn value(&mut self, path: &str, message: impl Into<String>) {
        let place = self.document.value_position(path);
        self.push(place, path, message.into());
    }

    /// Reports an error at the name of a setting.
    pub(crate) fn key(&mut self, path: &str, message: impl Into<String>) {
        let place = self.document.key_position(path);
        self.push(place, path, message.into());
    }

    /// Reports an error at a value that cannot be used: nothing under it is reported later.
    pub(crate) fn unusable_value(&mut self, path: &str, message: impl Into<String>) {
        self.value(path, message);
        self.unusable.insert(path.to_owned());
    }

    /// As [`Report::unusable_value`], at the name.
    pub(crate) fn unusable_key(&mut self, path: &str, message: impl Into<String>) {
        self.key(path, message);
        self.unusable.insert(path.to_owned());
    }

    /// Whether the setting or what holds it was reported as unusable.
    pub(crate) fn is_unusable(&self, path: &str) -> bool {
        let mut at = Some(path);
        while let Some(here) = at {
            if self.unusable.contains(here) {
                return true;
            }
            at = path::parent(here);
        }
        false
    }

    /// Whether nothing was reported.
    pub(crate) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// All that was reported.
    pub(crate) fn into_errors(self, file: &str) -> Errors {
        Errors::new(file, self.problems)
    }

    fn push(&mut self, (line, column): (usize, usize), path: &str, message: String) {
        if !self.is_unusable(path) {
            self.problems.push(Problem {
                line,
                column,
                path: path.to_owned(),
                message,
            });
        }
    }
}
