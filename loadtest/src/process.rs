//! The programs under test: started on a core of their own, measured from /proc, killed when dropped.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use tokio::time::sleep;

use crate::Result;

/// Set in the environment once this process runs on its core.
const PINNED: &str = "LOADTEST_PINNED";

/// A directory for configuration and logs, removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one that only this user can read.
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("loadtest-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Scratch(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running program. Its standard output is thrown away, its standard error kept for a failure's report.
pub struct Process {
    child: Child,
    errors: PathBuf,
}

/// What a process holds in memory, in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Resident, shared pages counted whole.
    pub rss: u64,
    /// Resident, shared pages divided among those who share them.
    pub pss: u64,
}

impl Process {
    /// Starts a program, on one core if one is given. `setpriv` and `taskset` replace themselves by the program,
    /// so the process id is the program's. The system kills it when this process ends, however that comes about.
    pub fn start(
        name: &str,
        core: Option<usize>,
        scratch: &Scratch,
        command: &[&OsStr],
    ) -> Result<Self> {
        let errors = scratch.path().join(format!("{name}.stderr"));
        let mut line = Command::new("setpriv");
        line.args(["--pdeathsig", "KILL"]);
        if let Some(core) = core {
            line.args(["taskset", "-c", &core.to_string()]);
        }
        let child = line
            .args(command)
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&errors)?)
            .spawn()
            .map_err(|error| format!("cannot start setpriv (util-linux): {error}"))?;
        Ok(Process { child, errors })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error if the program has ended, with its last words.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("ended with {status}\n{}", self.last_words()).into()),
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end, which must come within some time.
    pub async fn ended(&mut self, patience: Duration) -> Result<ExitStatus> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begin.elapsed() > patience {
                let words = self.last_words();
                return Err(format!("still runs after {patience:?}\n{words}").into());
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends it a signal by the name that `kill` knows, such as `STOP`.
    pub fn signal(&self, name: &str) -> Result<()> {
        signal(self.child.id(), name)
    }

    /// All of the standard error.
    pub fn words(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.errors)?).into_owned())
    }

    /// The last lines of the standard error.
    pub fn last_words(&self) -> String {
        let text = fs::read(&self.errors).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// User and system time of all threads so far: see [`cpu_of`].
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(self.child.id())
    }

    /// What it holds in memory now.
    pub fn memory(&self) -> Result<Memory> {
        memory_of(self.child.id())
    }

    /// Begins to look anew for the most that it holds: see [`Process::peak`].
    pub fn forget_peak(&self) -> Result<()> {
        let file = format!("/proc/{}/clear_refs", self.child.id());
        fs::write(&file, "5").map_err(|error| format!("{file}: {error}").into())
    }

    /// The most that was resident since [`Process::forget_peak`], in KiB.
    pub fn peak(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        kib_of(&text, "VmHWM:").ok_or_else(|| "unreadable /proc/PID/status".into())
    }
}

/// Sends a process a signal by the name that `kill` knows. The shell has that built in.
pub fn signal(id: u32, name: &str) -> Result<()> {
    let id = id.to_string();
    let line = "kill -s \"$1\" \"$2\"";
    let status = Command::new("sh")
        .args(["-c", line, "sh", name, &id])
        .stdin(Stdio::null())
        .status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("cannot send {name} to process {id}: {status}").into()),
    }
}

/// User and system time of all threads of a process so far, those that have ended too; to the nanosecond, where the
/// ticks of `/proc/PID/stat` are 10 ms.
pub fn cpu_of(id: u32) -> Result<Duration> {
    let id = Pid::from_raw(i32::try_from(id)?);
    Ok(clock_getcpuclockid(id)?.now()?.into())
}

/// What a process holds in memory now.
pub fn memory_of(id: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
    let field = |name| kib_of(&text, name).ok_or("unreadable /proc/PID/smaps_rollup");
    Ok(Memory {
        rss: field("Rss:")?,
        pss: field("Pss:")?,
    })
}

/// How many file descriptors a process has open.
pub fn descriptors_of(id: u32) -> Result<u64> {
    Ok(fs::read_dir(format!("/proc/{id}/fd"))?.count() as u64)
}

/// How many file descriptors this process and those that it starts may open at the most.
pub fn most_descriptors() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/limits")?;
    let (_, hard) = descriptor_limits(&text).ok_or("unreadable /proc/self/limits")?;
    Ok(hard)
}

/// How many file descriptors this process and those that it starts may open: as many as the system lets it, at least
/// so many.
pub fn raise_descriptors(least: u64) -> Result<u64> {
    let hard = most_descriptors()?;
    if hard < least {
        return Err(format!(
            "needs {least} file descriptors and may open {hard}: raise the hard limit (ulimit -Hn)"
        )
        .into());
    }
    let id = std::process::id().to_string();
    let status = Command::new("prlimit")
        .args(["--pid", &id, &format!("--nofile={hard}:{hard}")])
        .status()
        .map_err(|error| format!("cannot start prlimit (util-linux): {error}"))?;
    match status.success() {
        true => Ok(hard),
        false => Err(format!("prlimit: {status}").into()),
    }
}

/// Soft and hard limit of open files.
fn descriptor_limits(text: &str) -> Option<(u64, u64)> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let mut fields = line.split_ascii_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kib_of(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
}

/// The processor's name.
pub fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or("unknown processor", |(_, name)| name.trim())
        .to_owned()
}

/// Moves this process to a core by starting it again through `taskset`; returns at once in the second life.
pub fn pin_self(core: usize) -> Result<()> {
    if std::env::var_os(PINNED).is_some() {
        return Ok(());
    }
    let error = Command::new("taskset")
        .arg("-c")
        .arg(core.to_string())
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(PINNED, "1")
        .exec();
    Err(format!("cannot start taskset (util-linux): {error}").into())
}

/// Where a program is: in the PATH, or where system programs are that not every user's PATH names.
pub fn find_program(name: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .chain(system)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            format!("{name} is missing; install your system's package, on Debian or Ubuntu: apt-get install {package}")
                .into()
        })
}

/// The whole path of a program, for one that is started in another directory.
pub fn existing(path: PathBuf) -> Result<PathBuf> {
    path.canonicalize()
        .map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Ports that were free a moment ago, all different.
pub fn free_ports<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    let mut held = Vec::with_capacity(N);
    for address in &mut addresses {
        let listener = TcpListener::bind(*address)?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_that_of_the_other_process() -> Result<()> {
        let scratch = Scratch::new()?;
        let command = ["sh", "-c", "while :; do :; done"].map(OsStr::new);
        let busy = Process::start("busy", None, &scratch, &command)?;
        let before = busy.cpu()?;
        // Ends when it has worked; the test runner would stop one that never does.
        while busy.cpu()? < before + Duration::from_millis(2) {
            std::thread::yield_now();
        }
        Ok(())
    }

    #[test]
    fn limits_of_descriptors_are_read() {
        let text = "Limit  Soft Limit  Hard Limit  Units\nMax processes  1  2  processes\n\
                    Max open files            1024                 20000                files     \n";
        assert_eq!(descriptor_limits(text), Some((1024, 20000)));
        assert_eq!(descriptor_limits(""), None);
    }

    #[test]
    fn memory_is_read_by_name() {
        assert_eq!(
            kib_of(
                "Rss:      1652 kB\nPss:       405 kB\nPss_Anon: 9 kB\n",
                "Pss:"
            ),
            Some(405)
        );
    }
}
