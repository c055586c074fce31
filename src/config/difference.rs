//! What differs between two configurations, and which of it takes hold only when the process is started anew.

use super::check::brief;
use super::outline::{Setting, outline};
use super::path;
use super::settings::Config;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// A setting that changed. Displayed, it tells how; never a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The setting, with names where lists have them: `models.gpt-5.price.input`.
    pub path: String,
    how: String,
}

impl Change {
    /// A change of something that stands in no configuration itself, such as the content of a file that it names.
    pub fn new(path: impl Into<String>, how: impl Into<String>) -> Change {
        Change {
            path: path.into(),
            how: how.into(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { path, how } = self;
        write!(f, "{path}: {how}")
    }
}

/// All that changed from one configuration to another, in the order of the reference.
pub fn difference(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    compare("", &outline(old), &outline(new), &mut changes);
    changes
}

fn compare(path: &str, old: &Setting, new: &Setting, changes: &mut Vec<Change>) {
    use Setting::{Fields, Listed, Named, Nothing, Secret};
    if old == new {
        return;
    }
    match (old, new) {
        (Fields(old), Fields(new)) => {
            for ((name, old), (_, new)) in old.iter().zip(new) {
                compare(&path::field(path, name), old, new, changes);
            }
        }
        (Fields(fields), Nothing) => {
            for (name, old) in fields {
                compare(&path::field(path, name), old, &Nothing, changes);
            }
        }
        (Nothing, Fields(fields)) => {
            for (name, new) in fields {
                compare(&path::field(path, name), &Nothing, new, changes);
            }
        }
        (Named(old), Named(new)) => by_name(path, old, new, changes),
        (Listed(old), Listed(new)) => {
            for at in 0..old.len().max(new.len()) {
                let path = path::item(path, at);
                match (old.get(at), new.get(at)) {
                    (Some(old), Some(new)) => compare(&path, old, new, changes),
                    (None, Some(_)) => changes.push(Change::new(path, "added")),
                    (Some(_), None) => changes.push(Change::new(path, "removed")),
                    (None, None) => {}
                }
            }
        }
        (Nothing, Secret(_)) => changes.push(Change::new(path, "set (not shown)")),
        (Secret(_), Nothing) => changes.push(Change::new(path, "removed")),
        (Secret(_), Secret(_)) => changes.push(Change::new(path, "changed (not shown)")),
        _ => {
            let how = format!("{} -> {}", value(old), value(new));
            changes.push(Change::new(path, how));
        }
    }
}

fn by_name(
    path: &str,
    old: &[(String, Setting)],
    new: &[(String, Setting)],
    changes: &mut Vec<Change>,
) {
    let wanted: HashSet<&str> = new.iter().map(|(name, _)| &**name).collect();
    for (name, _) in old {
        if !wanted.contains(&**name) {
            changes.push(Change::new(path::field(path, name), "removed"));
        }
    }
    let known = old.iter().enumerate();
    let known: HashMap<&str, (usize, &Setting)> = known
        .map(|(at, (name, setting))| (&**name, (at, setting)))
        .collect();
    let mut order = Vec::new();
    for (name, setting) in new {
        let here = path::field(path, name);
        match known.get(&**name) {
            None => changes.push(Change::new(here, "added")),
            Some((at, before)) => {
                order.push(*at);
                compare(&here, before, setting, changes);
            }
        }
    }
    if !order.is_sorted() {
        changes.push(Change::new(path, "in another order"));
    }
}

fn value(setting: &Setting) -> String {
    match setting {
        Setting::Nothing => "none".to_owned(),
        Setting::Plain(text) => brief(text),
        Setting::Secret(_) => "(not shown)".to_owned(),
        Setting::Fields(_) | Setting::Named(_) | Setting::Listed(_) => "several".to_owned(),
    }
}

/// A setting that stays as it is while the process runs.
struct Fixed {
    name: &'static str,
    /// Puts what is in force into a configuration that is to be.
    keep: fn(&Config, &mut Config),
}

/// All of them: the one place where this is said.
const FIXED: [Fixed; 8] = [
    Fixed {
        name: "threads",
        keep: |old, new| new.threads = old.threads,
    },
    Fixed {
        name: "listeners (addresses, and whether they speak TLS)",
        keep: keep_listeners,
    },
    Fixed {
        name: "admin.bind",
        keep: keep_admin,
    },
    Fixed {
        name: "metrics.bind",
        keep: |old, new| new.metrics = old.metrics,
    },
    Fixed {
        name: "store",
        keep: |old, new| new.store = old.store.clone(),
    },
    Fixed {
        name: "billing.mode",
        keep: |old, new| new.billing.mode = old.billing.mode,
    },
    Fixed {
        name: "billing.day_starts",
        keep: |old, new| new.billing.day_starts_seconds = old.billing.day_starts_seconds,
    },
    Fixed {
        name: "log.format",
        keep: |old, new| new.log.format = old.log.format,
    },
];

/// Certificates may lie elsewhere now: they are read again anyway.
fn keep_listeners(old: &Config, new: &mut Config) {
    let wanted = std::mem::take(&mut new.listeners);
    new.listeners = old.listeners.clone();
    for (listener, wanted) in new.listeners.iter_mut().zip(wanted) {
        if listener.bind == wanted.bind && listener.tls.is_some() && wanted.tls.is_some() {
            listener.tls = wanted.tls;
        }
    }
}

/// The address stays, and with it the need for a token.
fn keep_admin(old: &Config, new: &mut Config) {
    match (&old.admin, &mut new.admin) {
        (Some(old), Some(new)) => {
            new.bind = old.bind;
            if new.token.is_none() && !new.bind.ip().to_canonical().is_loopback() {
                new.token = old.token.clone();
            }
        }
        (old, new) => *new = old.clone(),
    }
}

/// The settings of which a change takes hold only when the process is started anew.
pub fn restart_settings() -> impl Iterator<Item = &'static str> {
    FIXED.iter().map(|fixed| fixed.name)
}

/// What a change of the configuration comes to.
pub struct Step {
    /// What can be in force at once: as wanted, but for what needs a restart.
    pub config: Config,
    /// What differs then from what was in force before.
    pub changes: Vec<Change>,
    /// What is wanted and waits for a restart.
    pub restart_needed: Vec<Change>,
}

impl Step {
    /// From what is in force to what is wanted.
    pub fn between(old: &Config, wanted: &Config) -> Step {
        let mut config = wanted.clone();
        for fixed in &FIXED {
            (fixed.keep)(old, &mut config);
        }
        Step {
            changes: difference(old, &config),
            restart_needed: difference(&config, wanted),
            config,
        }
    }
}

#[cfg(test)]
#[path = "difference_tests.rs"]
mod tests;
