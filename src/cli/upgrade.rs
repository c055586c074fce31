//! `tollgate upgrade`: asks a process that serves to start its successor, and waits for what comes of it.

use super::process::{Answer, Request, living};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What the process needs beyond the successor's time: to close its store, and to tell.
const MARGIN: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(20);

/// Upgrades the process that serves `path`.
///
/// # Errors
/// What happened instead; the process serves on.
pub fn run(path: &Path, pid: Option<u32>, within: Duration) -> Result<(), String> {
    let config = super::read(path)?;
    let (pid, dir) = match pid {
        Some(pid) => (pid, below(pid, &config.store.path)),
        None => {
            let dir = config.store.path;
            let pid = living(&dir).map_err(|error| {
                let relative = match dir.is_relative() {
                    true => "; store.path counts from the working directory: run this in the one of the process",
                    false => "",
                };
                format!("no process to upgrade: {error}{relative}; or give --pid")
            })?;
            (pid, dir)
        }
    };
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = process.ok_or_else(|| format!("there is no process {pid}"))?;
    // Whoever does not know the signal would die of it.
    if !listens(pid) {
        return Err(format!(
            "process {pid} is not there, or is no tollgate that can be upgraded; it was left alone"
        ));
    }
    // One at a time, for as long as this lives.
    let lock = File::open(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
        return Err("another `tollgate upgrade` is under way here; wait for it".into());
    }
    let request = Request::of(&dir, pid);
    let made = request.make(within);
    made.map_err(|error| format!("{}: {error}", dir.display()))?;
    let answer = ask(&request, process, within);
    request.remove();
    match answer? {
        Answer::Serves(successor) => {
            println!("successor {successor} serves; {pid} ends when its requests have ended");
            Ok(())
        }
        Answer::Failed(why) => Err(format!(
            "no successor serves: {why}; {pid} goes on as before; its log tells more"
        )),
    }
}

fn ask(request: &Request, process: Pid, within: Duration) -> Result<Answer, String> {
    let pid = process.as_raw_nonzero();
    let asked = kill_process(process, Signal::USR2);
    asked.map_err(|error| format!("cannot signal process {pid}: {error}"))?;
    let start = Instant::now();
    loop {
        // First: it may answer and end.
        let lives = test_kill_process(process).is_ok();
        if let Some(answer) = request.answered() {
            return Ok(answer);
        }
        if !lives {
            return Err(format!(
                "process {pid} has ended without an answer; see its log"
            ));
        }
        if start.elapsed() > within + MARGIN {
            return Err(format!("process {pid} does not answer; see its log"));
        }
        sleep(LOOK);
    }
}

/// Where a process has its store, if the path counts from its working directory.
fn below(pid: u32, path: &Path) -> PathBuf {
    match fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(cwd) => cwd.join(path),
        Err(_) => path.to_owned(),
    }
}

/// Whether a process is there that does something of its own at SIGUSR2. Where the system does not tell, a process
/// that is there is believed to.
fn listens(pid: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return !Path::new("/proc/self/status").exists();
    };
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = 1 << (Signal::USR2.as_raw() - 1);
    caught.is_some_and(|mask| mask & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_would_die_of_the_signal_is_left_alone() {
        // This process has no use for it.
        assert!(!listens(std::process::id()));
        assert!(!listens(u32::MAX));
    }
}
