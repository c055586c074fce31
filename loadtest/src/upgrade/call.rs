//! One call of the verb `upgrade`.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::Result;
use crate::process::Scratch;

/// What came of it.
pub struct Called {
    /// How it ended; nothing if it did not in time, and was killed.
    pub status: Option<ExitStatus>,
    /// What it printed.
    pub printed: String,
    /// What it complained of.
    pub complained: String,
    /// How long it took.
    pub took: Duration,
}

/// Killed when dropped.
struct Caller(Child);

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Called {
    /// Whether it says that a successor serves.
    pub fn is_well(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// In words.
    pub fn words(&self) -> String {
        let end = match self.status {
            Some(status) => status.to_string(),
            None => format!("still ran after {:?}", self.took),
        };
        let lines: Vec<&str> = self.complained.lines().collect();
        let last = lines[lines.len().saturating_sub(3)..].join(" / ");
        format!("{end}; {} {last}", self.printed.trim())
    }
}

/// Calls it. Its output goes to files: a successor that keeps them open keeps nobody waiting.
pub async fn upgrade(
    program: &Path,
    config: &Path,
    more: &[&str],
    scratch: &Scratch,
    patience: Duration,
) -> Result<Called> {
    let out = scratch.path().join("upgrade.stdout");
    let errors = scratch.path().join("upgrade.stderr");
    let begin = Instant::now();
    let child = Command::new(program)
        .arg("upgrade")
        .arg("--config")
        .arg(config)
        .args(more)
        .current_dir(scratch.path())
        .stdin(Stdio::null())
        .stdout(File::create(&out)?)
        .stderr(File::create(&errors)?)
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    let mut caller = Caller(child);
    let status = loop {
        if let Some(status) = caller.0.try_wait()? {
            break Some(status);
        }
        if begin.elapsed() > patience {
            break None;
        }
        sleep(Duration::from_millis(5)).await;
    };
    let took = begin.elapsed();
    drop(caller);
    let read = |path| std::fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok(Called {
        status,
        printed: read(&out)?,
        complained: read(&errors)?,
        took,
    })
}
