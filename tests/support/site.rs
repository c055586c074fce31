//! A gateway as an operator has it: a program at a path, a file, a log; processes that follow each other.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::http::PATIENCE;

/// The program, its file and its log; all of its processes end with this.
pub struct Site {
    pub folder: TempDir,
    pub addr: SocketAddr,
    pub admin: Option<SocketAddr>,
    /// Every process that was seen.
    pids: Vec<u32>,
}

impl Site {
    /// Serves this configuration, with these variables and no others.
    pub fn start(yaml: &str, variables: &[(&str, &str)]) -> Site {
        let folder = TempDir::with_prefix("site-").unwrap();
        let program = folder.path().join("tollgate");
        symlink(env!("CARGO_BIN_EXE_tollgate"), &program).unwrap();
        fs::write(folder.path().join("tollgate.yaml"), yaml).unwrap();
        let mut site = Site {
            folder,
            addr: ([127, 0, 0, 1], 0).into(),
            admin: None,
            pids: Vec::new(),
        };
        site.serve(variables);
        site
    }

    /// Serves again, when it has ended.
    pub fn again(&mut self) {
        self.serve(&[]);
    }

    fn serve(&mut self, variables: &[(&str, &str)]) {
        let log = File::create(self.path("log")).unwrap();
        let requests = File::create(self.path("requests")).unwrap();
        let mut child = Command::new(self.path("tollgate"))
            .args(["serve", "--config", "tollgate.yaml"])
            .current_dir(self.folder.path())
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(requests)
            .stderr(log)
            .spawn()
            .unwrap();
        self.pids.push(child.id());
        // Nobody else takes notice of its end.
        std::thread::spawn(move || child.wait());
        // The last line that it tells at its start.
        let log = self.until(|log| {
            let last = log.split_once("admin      http://")?.1;
            last.contains('\n').then(|| log.to_owned())
        });
        let at = |word: &str| {
            let rest = &log[log.find(word)? + word.len()..];
            rest.split(['/', '\n']).next()?.parse().ok()
        };
        self.addr = at("listening  http://").expect("an address");
        self.admin = at("admin      http://");
        self.until(|_| self.path("data/tollgate.pid").exists().then_some(()));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Waits until the log says so.
    pub fn until<T>(&self, said: impl Fn(&str) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            if let Some(found) = said(&log) {
                return found;
            }
            assert!(Instant::now() < end, "waited in vain; the log:\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process that serves, by its file.
    pub fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.path("data/tollgate.pid")).unwrap();
        text.trim().parse().unwrap()
    }

    /// Puts a script in place of the program.
    pub fn replace(&self, script: &str) {
        let aside = self.path("aside");
        fs::write(&aside, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&aside, PermissionsExt::from_mode(0o755)).unwrap();
        fs::rename(aside, self.path("tollgate")).unwrap();
    }

    /// Puts the program back.
    pub fn repair(&self) {
        let aside = self.path("aside");
        symlink(env!("CARGO_BIN_EXE_tollgate"), &aside).unwrap();
        fs::rename(aside, self.path("tollgate")).unwrap();
    }

    /// The command that upgrades it.
    pub fn upgrade(&self, more: &[&str]) -> Command {
        let mut command = self.upgrade_from(self.folder.path());
        command.args(more);
        command
    }

    /// The same from another working directory.
    pub fn upgrade_from(&self, folder: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command
            .args(["upgrade", "--config"])
            .arg(self.path("tollgate.yaml"))
            .current_dir(folder)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it; gives the exit code and what it said.
    pub fn upgraded(&mut self, more: &[&str]) -> (Option<i32>, String) {
        let output = self.upgrade(more).output().unwrap();
        self.heard(output)
    }

    pub fn heard(&mut self, output: Output) -> (Option<i32>, String) {
        let mut said = String::from_utf8(output.stdout).unwrap();
        said += &String::from_utf8(output.stderr).unwrap();
        let pid = self.pid();
        if !self.pids.contains(&pid) {
            self.pids.push(pid);
        }
        (output.status.code(), said)
    }

    /// Waits until a process has ended.
    pub fn ended(&self, pid: u32, patience: Duration) {
        let end = Instant::now() + patience;
        while lives(pid) {
            assert!(
                Instant::now() < end,
                "{pid} lives; the log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Every process that was seen, the oldest first.
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Ok(text) = fs::read_to_string(self.path("data/tollgate.pid")) {
            self.pids.extend(text.trim().parse::<u32>());
        }
        for pid in self.pids.iter().filter(|pid| lives(**pid)) {
            // It may have ended just now.
            let _ = Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .status();
        }
    }
}

pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    assert!(sent.unwrap().success(), "{name} to {pid}");
}

/// Whether it is there, and not only its exit code.
pub fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| {
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        state.is_some_and(|state| state != 'Z' && state != 'X')
    })
}
