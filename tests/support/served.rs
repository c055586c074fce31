//! `tollgate serve` as a process of its own, for what only a process shows: its output and its end.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use super::http::PATIENCE;

/// A served file, ended with this value.
pub struct Served {
    child: Child,
    /// Lines of standard error, as they come.
    told: mpsc::Receiver<String>,
}

impl Served {
    /// Serves a file, with these variables and no others.
    pub fn start(path: &Path, variables: &[(&str, &str)]) -> Served {
        Served::spawn(
            Command::new(env!("CARGO_BIN_EXE_tollgate")),
            path,
            variables,
        )
    }

    /// The same for a process that may have so many files open and no more.
    pub fn with_files(path: &Path, files: u32) -> Served {
        let mut shell = Command::new("/bin/sh");
        let line = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
        shell.args(["-c", &line, env!("CARGO_BIN_EXE_tollgate")]);
        Served::spawn(shell, path, &[])
    }

    fn spawn(mut command: Command, path: &Path, variables: &[(&str, &str)]) -> Served {
        let mut child = command
            .args(["serve", "--config"])
            .arg(path)
            .current_dir(path.parent().unwrap())
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, told) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Served { child, told }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What has been told by now.
    pub fn told(&self) -> Vec<String> {
        self.told.try_iter().collect()
    }

    /// What is told up to a line that has this in it.
    pub fn until(&self, word: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let Ok(line) = self.told.recv_timeout(PATIENCE) else {
                panic!("waited for {word:?}, was told {lines:#?}");
            };
            lines.push(line);
            if lines.last().unwrap().contains(word) {
                return lines;
            }
        }
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// SIGTERM; gives the exit code and all of standard output.
    pub fn stop(mut self) -> (Option<i32>, String) {
        self.signal("-TERM");
        let mut text = String::new();
        let mut stdout = self.child.stdout.take().unwrap();
        stdout.read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code(), text)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
