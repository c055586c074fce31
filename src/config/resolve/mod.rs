//! The configuration as typed → as used: parses the scalars, fills in defaults, looks up references.
//!
//! Every error is reported and the walk goes on with a stand-in, so that all errors come at once; the
//! result is handed out only when nothing was reported. What the check has taken out is `None` here and
//! was reported there.

mod access;
mod durations;
mod forms;
mod models;
mod providers;
mod server;
mod surfaces;

pub(super) use durations::shown;

use std::path::PathBuf;
use std::time::Duration;

use super::check::brief;
use super::path;
use super::report::Report;
use super::schema::{self, Amount};
use super::settings::Config;
use crate::billing::money::Money;
use crate::nearest::hint;

/// Resolves the whole file. Only of use when `report` is empty afterwards.
pub(crate) fn resolve(typed: schema::Gateway, report: &mut Report<'_>) -> Config {
    let schema::Gateway {
        version,
        public_url,
        threads,
        listeners,
        admin,
        metrics,
        surfaces,
        auth,
        store,
        providers,
        currency,
        models,
        plans,
        accounts,
        keys,
        anonymous,
        billing,
        limits,
        retries,
        shutdown,
        trusted_proxies,
        log,
    } = typed;
    // The check allows version 1 alone.
    let _: Option<u32> = version;
    let mut resolver = Resolver {
        report,
        dormant: Vec::new(),
    };
    let r = &mut resolver;

    let listeners = r.listeners(listeners);
    let admin = r.admin(admin);
    let metrics = r.metrics(metrics);
    r.binds_apart(&listeners, admin.as_ref(), metrics);
    let surfaces = r.surfaces(surfaces);
    let providers = r.providers(providers);
    let models = r.models(models, &providers);
    let plans = r.plans(plans);
    let accounts = r.accounts(accounts, &plans);
    let billing = r.billing(billing);
    let keys = r.keys(keys, &accounts, &plans, &billing.packages);
    let anonymous = r.anonymous(anonymous, &plans);
    Config {
        public_url: public_url.and_then(|url| r.public_url(&url)),
        threads,
        listeners,
        admin,
        metrics,
        surfaces,
        key_prefix: r.key_prefix(auth),
        store: r.store(store),
        providers,
        currency: r.currency(currency),
        models,
        plans,
        accounts,
        keys,
        anonymous,
        billing,
        limits: r.limits(limits),
        retries: server::retries(retries),
        shutdown: r.shutdown(shutdown),
        trusted_proxies: r.networks("trusted_proxies", trusted_proxies),
        log: server::log(log),
        dormant: resolver.dormant,
    }
}

struct Resolver<'r, 'd> {
    report: &'r mut Report<'d>,
    dormant: Vec<String>,
}

impl Resolver<'_, '_> {
    /// Notes a setting whose feature does not exist yet, if it is given.
    fn dormant(&mut self, name: &str, given: bool) {
        if given && !self.dormant.iter().any(|known| known == name) {
            self.dormant.push(name.to_owned());
        }
    }

    /// Reports an error about a value, which begins with the value as it stands in the file.
    fn wrong(&mut self, path: &str, message: &str) {
        let shown = self
            .report
            .document
            .shown(path)
            .map(brief)
            .unwrap_or_default();
        let message = if self.report.document.is_expanded(path) {
            format!("what `{shown}` expands to {message}")
        } else {
            format!("`{shown}` {message}")
        };
        self.report.value(path, message);
    }

    /// Parses a text; an error is reported.
    fn parsed<T>(
        &mut self,
        path: &str,
        text: &str,
        form: fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        // A stand-in of the check is not parsed: it was reported.
        if self.report.is_unusable(path) {
            return None;
        }
        match form(text) {
            Ok(value) => Some(value),
            Err(message) => {
                self.wrong(path, &message);
                None
            }
        }
    }

    /// A duration within these limits.
    fn span(
        &mut self,
        path: &str,
        given: Option<schema::DurationText>,
        within: durations::Span,
    ) -> Option<Duration> {
        let form = match within.least.is_zero() {
            true => durations::duration_or_none,
            false => durations::duration,
        };
        let time = self.parsed(path, &given?.0, form)?;
        if time < within.least || time > within.most {
            let (least, most) = (
                durations::shown(within.least),
                durations::shown(within.most),
            );
            self.wrong(
                path,
                &format!("is out of range; write `{least}` to `{most}`"),
            );
        }
        Some(time)
    }

    /// An amount, exactly as it stands in the file.
    fn amount(&mut self, path: &str, given: Option<Amount>) -> Option<Money> {
        given?;
        let document = self.report.document;
        self.parsed(path, document.exact(path)?, forms::amount)
    }

    /// The index of `name` among the names of a section; an unknown one is reported.
    fn reference<'k>(
        &mut self,
        path: &str,
        name: Option<&str>,
        section: &str,
        known: impl Iterator<Item = &'k str> + Clone,
    ) -> Option<usize> {
        let name = name?;
        let found = known.clone().position(|one| one == name);
        // When the section itself could not be read, that is the error.
        if found.is_none() && !self.report.is_unusable(section) {
            let word = section.rsplit('.').next().unwrap_or(section);
            let one = word.trim_end_matches('s');
            let hint = hint(name, &format!("known {word}"), known);
            let shown = brief(self.report.document.shown(path).unwrap_or(name));
            let remedy = if hint.contains("did you mean") {
                String::new()
            } else {
                format!("; add it under `{section}`, or correct the name")
            };
            let message = format!("unknown {one} `{shown}`{hint}{remedy}");
            self.report.value(path, message);
        }
        found
    }

    /// A name that the operator chose: it appears in paths, metrics and the store.
    fn chosen_name(&mut self, path: &str, name: &str) {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b".@_-".contains(&b);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) {
            let shown = brief(self.report.document.shown(path).unwrap_or(name));
            let message = format!(
                "`{shown}` is no name; write 1 to 64 letters, digits, `.`, `@`, `_` or `-`"
            );
            self.report.key(path, message);
        }
    }

    /// Globs over model ids.
    fn globs(&mut self, path: &str, given: Vec<schema::GlobText>) -> Vec<String> {
        for (at, glob) in given.iter().enumerate() {
            let here = path::item(path, at);
            if glob.0.is_empty() || glob.0.chars().any(|c| c.is_whitespace() || c.is_control()) {
                self.wrong(
                    &here,
                    "is no model glob; write a model id, in which `*` stands for any characters",
                );
            } else if glob.0.contains(['?', '[', ']', '{', '}', '!']) {
                self.wrong(
                    &here,
                    "has a wildcard that globs do not have; `*` is the only one",
                );
            }
        }
        given.into_iter().map(|glob| glob.0).collect()
    }

    /// A file that must be there and be readable.
    fn file(&mut self, path: &str, given: Option<schema::PathText>) -> Option<PathBuf> {
        let file = PathBuf::from(given?.0);
        self.report.files.insert(file.clone());
        let problem = match std::fs::metadata(&file) {
            Err(error) => Some(error.to_string()),
            // Opening a pipe would wait for its other end.
            Ok(metadata) if !metadata.is_file() => Some("it is no file".to_owned()),
            Ok(_) => std::fs::File::open(&file)
                .err()
                .map(|error| error.to_string()),
        };
        if let Some(problem) = problem {
            self.wrong(
                path,
                &format!("cannot be read: {problem}; correct the path or the permissions"),
            );
        }
        Some(file)
    }
}

#[cfg(test)]
mod access_tests;
#[cfg(test)]
mod tests;
