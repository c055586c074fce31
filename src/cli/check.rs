//! `tollgate check`.

use std::path::Path;

/// Says whether a configuration is valid, and which settings have no effect yet.
pub fn run(path: &Path) -> Result<(), String> {
    let config = super::read(path)?;
    println!("{}: valid", path.display());
    if !config.dormant.is_empty() {
        println!(
            "without effect in this version: {}",
            config.dormant.join(", ")
        );
    }
    Ok(())
}
