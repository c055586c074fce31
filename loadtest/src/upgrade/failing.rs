//! Upgrades that must fail: a configuration that is invalid, a program that ends at once, one that hangs. Each is put in
//! the place of the right one, the upgrade is called, and the right one is put back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::call::{Called, upgrade};
use super::succession::Succession;
use crate::Result;
use crate::process::Scratch;
use crate::steady::gateway::Places;

/// How long the successor may take, as the verb is told.
const TIMEOUT: &str = "3s";

/// How long the verb may take then: the old process may have to open its store again.
const PATIENCE: Duration = Duration::from_secs(45);

/// So long afterwards no process is left of it.
const GONE: Duration = Duration::from_secs(5);

/// A program that ends at once, and one that hangs: for a while only, whatever becomes of it.
const ENDS: &str = "#!/bin/sh\nexit 1\n";
const HANGS: &str = "#!/bin/sh\nsleep 60\n";

/// One of them.
pub struct Failed {
    /// What was wrong.
    pub what: &'static str,
    /// What came of the call.
    pub called: Called,
    /// Processes of the gateway afterwards: one.
    pub left: usize,
}

/// Calls them one after the other. `program` is the one that serves, `caller` another copy of it.
pub async fn fail(
    caller: &Path,
    program: &Path,
    places: &Places,
    succession: &Succession,
    scratch: &Scratch,
) -> Result<Vec<Failed>> {
    let mut all = Vec::new();
    let right = fs::read_to_string(&places.file)?;
    let half = &right[..right.find("base_url").unwrap_or(right.len() / 2)];
    places.configure(half)?;
    let failed = attempt(
        "an invalid configuration",
        caller,
        places,
        succession,
        scratch,
    )
    .await;
    places.configure(&right)?;
    all.push(failed?);
    for (what, script) in [
        ("a program that ends at once", ENDS),
        ("a program that hangs", HANGS),
    ] {
        let kept = program.with_extension("kept");
        fs::rename(program, &kept)?;
        put(program, script)?;
        let failed = attempt(what, caller, places, succession, scratch).await;
        fs::rename(&kept, program)?;
        all.push(failed?);
    }
    Ok(all)
}

async fn attempt(
    what: &'static str,
    caller: &Path,
    places: &Places,
    succession: &Succession,
    scratch: &Scratch,
) -> Result<Failed> {
    let more = ["--timeout", TIMEOUT];
    let called = upgrade(caller, &places.file, &more, scratch, PATIENCE).await?;
    let begin = Instant::now();
    while succession.count() != 1 && begin.elapsed() < GONE {
        sleep(Duration::from_millis(50)).await;
    }
    Ok(Failed {
        what,
        called,
        left: succession.count(),
    })
}

/// Puts a script in a place, by rename.
fn put(place: &Path, script: &str) -> Result<()> {
    let next = place.with_extension("next");
    fs::write(&next, script)?;
    fs::set_permissions(&next, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(&next, place)?)
}
