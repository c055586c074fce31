//! `tollgate check`.

use crate::config::{Change, Step, restart_settings};
use crate::server::check_files;
use std::path::Path;

/// Says whether a configuration is valid, which settings have no effect yet, and what is changed of another.
pub fn run(path: &Path, against: Option<&Path>) -> Result<(), String> {
    let config = super::read(path)?;
    check_files(&config).map_err(super::invalid)?;
    let mut text = format!("{}: valid\n", path.display());
    if !config.dormant.is_empty() {
        let dormant = config.dormant.join(", ");
        text += &format!("without effect in this version: {dormant}\n");
    }
    match against {
        None => {
            let names: Vec<_> = restart_settings().collect();
            text += &format!("takes hold with a restart only: {}\n", names.join("; "));
        }
        Some(other) => {
            let Step {
                changes,
                restart_needed,
                ..
            } = Step::between(&super::read(other)?, &config);
            text += &told("changes that a reload puts in force", &changes);
            text += &told("changes that need a restart", &restart_needed);
        }
    }
    super::say(text.into())
}

fn told(title: &str, changes: &[Change]) -> String {
    let lines = changes.iter().map(|change| format!("  {change}\n"));
    format!("{title}: {}\n{}", changes.len(), lines.collect::<String>())
}
