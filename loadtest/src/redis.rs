//! A Redis of our own on a free port, killed when dropped: nothing on disk, unless it is to survive that; and the
//! little of its protocol that asks it how often functions were called, and does to it what outages do.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::Result;
use crate::process::{Process, Scratch, find_program, free_ports};

/// How long it may take to start.
const START: Duration = Duration::from_secs(10);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer that is read, in bytes.
const LONGEST_REPLY: usize = 1024 * 1024;

/// What a Redis keeps on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// Nothing.
    Nothing,
    /// An append-only file, synced every second.
    EverySecond,
    /// An append-only file, synced before each answer.
    Always,
}

impl Disk {
    /// `appendonly` and `appendfsync`.
    fn settings(self) -> [&'static str; 4] {
        let (append, sync) = match self {
            Disk::Nothing => ("no", "no"),
            Disk::EverySecond => ("yes", "everysec"),
            Disk::Always => ("yes", "always"),
        };
        ["--appendonly", append, "--appendfsync", sync]
    }

    /// In reports.
    pub fn name(self) -> &'static str {
        match self {
            Disk::Nothing => "nothing on disk",
            Disk::EverySecond => "appendfsync everysec",
            Disk::Always => "appendfsync always",
        }
    }
}

/// A running Redis with a connection to it.
pub struct Redis {
    process: Process,
    address: SocketAddr,
    stream: TcpStream,
    program: PathBuf,
    core: Option<usize>,
    directory: PathBuf,
    disk: Disk,
}

impl Redis {
    /// Starts one that keeps nothing on disk, and waits until it answers.
    pub async fn start(core: Option<usize>, scratch: &Scratch) -> Result<Self> {
        Redis::with_disk(Disk::Nothing, core, scratch).await
    }

    /// Starts one and waits until it answers.
    pub async fn with_disk(disk: Disk, core: Option<usize>, scratch: &Scratch) -> Result<Self> {
        let program = find_program("redis-server", "redis-server")?;
        let [address] = free_ports()?;
        let directory = scratch.path().join(format!("redis-{}", address.port()));
        std::fs::create_dir(&directory)?;
        let mut process = launch(&program, core, scratch, address, &directory, disk)?;
        let stream = reach(&mut process, address).await?;
        Ok(Redis {
            process,
            address,
            stream,
            program,
            core,
            directory,
            disk,
        })
    }

    /// Ends it by SIGKILL; all it held is gone, but for what is on disk.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again where it was, after [`Redis::kill`], and waits until it answers.
    pub async fn restart(&mut self, scratch: &Scratch) -> Result<()> {
        let Redis {
            process,
            address,
            stream,
            program,
            core,
            directory,
            disk,
        } = self;
        *process = launch(program, *core, scratch, *address, directory, *disk)?;
        *stream = reach(process, *address).await?;
        Ok(())
    }

    /// Sends its process a signal.
    pub fn signal(&self, name: &str) -> Result<()> {
        self.process.signal(name)
    }

    /// Gives it a command whose answer is of one line.
    pub async fn command(&mut self, words: &[&str]) -> Result<()> {
        ask(&mut self.stream, words)
            .await
            .map_err(|error| format!("{}: {error}", words.join(" ")))?;
        Ok(())
    }

    /// What it says of itself.
    pub async fn info(&mut self, section: &str) -> Result<String> {
        ask(&mut self.stream, &["INFO", section]).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Processor time so far.
    pub fn cpu(&self) -> Result<Duration> {
        self.process.cpu()
    }

    /// Begins to count calls anew.
    pub async fn forget_calls(&mut self) -> Result<()> {
        ask(&mut self.stream, &["CONFIG", "RESETSTAT"]).await?;
        Ok(())
    }

    /// How often functions were called since.
    pub async fn function_calls(&mut self) -> Result<u64> {
        let text = ask(&mut self.stream, &["INFO", "commandstats"]).await?;
        calls(&text, "fcall").ok_or_else(|| "unreadable commandstats of Redis".into())
    }
}

/// Waits for its first answer.
pub async fn reach(process: &mut Process, address: SocketAddr) -> Result<TcpStream> {
    let begin = Instant::now();
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await
            && ask(&mut stream, &["PING"]).await.is_ok()
        {
            return Ok(stream);
        }
        process
            .check()
            .map_err(|error| format!("redis-server: {error}"))?;
        if begin.elapsed() > START {
            let words = process.last_words();
            return Err(format!("redis-server does not answer on {address}\n{words}").into());
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Starts the program: loopback, no snapshots, bounded memory.
fn launch(
    program: &Path,
    core: Option<usize>,
    scratch: &Scratch,
    address: SocketAddr,
    directory: &Path,
    disk: Disk,
) -> Result<Process> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let fixed = [
        "--bind",
        &host,
        "--port",
        &port,
        "--save",
        "",
        "--daemonize",
        "no",
        "--maxmemory",
        "512mb",
        "--loglevel",
        "warning",
        // What it says goes where a failure's report looks for it.
        "--logfile",
        "/dev/stderr",
        "--dir",
    ]
    .map(OsStr::new);
    let command = [
        &[program.as_os_str()],
        fixed.as_slice(),
        &[directory.as_os_str()],
        disk.settings().map(OsStr::new).as_slice(),
    ]
    .concat();
    let log = format!("redis-{}", address.port());
    Process::start(&log, core, scratch, &command)
}

/// Sends a command and reads its one answer: a number, a simple or a bulk string.
pub async fn ask(stream: &mut TcpStream, words: &[&str]) -> Result<String> {
    let exchange = async {
        stream.write_all(&command(words)).await?;
        let mut bytes = Vec::with_capacity(4096);
        loop {
            if let Some(text) = reply(&bytes)? {
                return Ok(text);
            }
            if bytes.len() > LONGEST_REPLY {
                return Err("Redis gave an answer longer than 1 MiB".into());
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err("Redis closed the connection".into());
            }
        }
    };
    timeout(PATIENCE, exchange)
        .await
        .map_err(|_| "Redis does not answer")?
}

/// A command on the wire.
fn command(words: &[&str]) -> Vec<u8> {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    text.into_bytes()
}

/// The answer at the front of `bytes`, once it is complete.
fn reply(bytes: &[u8]) -> Result<Option<String>> {
    let Some(line) = bytes.windows(2).position(|two| two == b"\r\n") else {
        return Ok(None);
    };
    let first = std::str::from_utf8(&bytes[..line])?;
    if let Some(text) = first.strip_prefix(['+', ':']) {
        return Ok(Some(text.to_owned()));
    }
    if let Some(text) = first.strip_prefix('-') {
        return Err(format!("Redis refused: {text}").into());
    }
    let length = first
        .strip_prefix('$')
        .and_then(|digits| digits.parse().ok());
    let Some(length) = length.filter(|length: &usize| *length <= LONGEST_REPLY) else {
        return Err(format!("an unexpected answer of Redis: {first}").into());
    };
    let rest = &bytes[line + 2..];
    if rest.len() < length + 2 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8(rest[..length].to_vec())?))
}

/// How often a command was called, by the text of `INFO commandstats`; one that is missing there never was.
/// Nothing if the text is not what it should be.
fn calls(text: &str, command: &str) -> Option<u64> {
    if !text.starts_with("# Commandstats") {
        return None;
    }
    let fields = text.lines().find_map(|line| {
        let (name, fields) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        (name == command).then_some(fields)
    });
    let Some(fields) = fields else { return Some(0) };
    fields
        .split(',')
        .find_map(|field| field.trim().strip_prefix("calls="))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATS: &str = "# Commandstats\r\n\
        cmdstat_fcall_ro:calls=7,usec=1,usec_per_call=1.00,rejected_calls=0,failed_calls=0\r\n\
        cmdstat_config|resetstat:calls=1,usec=30,usec_per_call=30.00,rejected_calls=0,failed_calls=0\r\n\
        cmdstat_fcall:calls=40213,usec=700,usec_per_call=17.00,rejected_calls=0,failed_calls=0\r\n";

    #[test]
    fn calls_are_found_by_the_whole_name() {
        assert_eq!(calls(STATS, "fcall"), Some(40_213));
        assert_eq!(calls(STATS, "fcall_ro"), Some(7));
        assert_eq!(calls(STATS, "config|resetstat"), Some(1));
    }

    #[test]
    fn a_command_that_was_never_called_is_not_listed() {
        assert_eq!(calls("# Commandstats\r\n", "fcall"), Some(0));
        assert_eq!(calls(STATS, "get"), Some(0));
    }

    #[test]
    fn another_text_is_not_taken_for_no_calls() {
        assert_eq!(calls("# Clients\r\n", "fcall"), None);
        assert_eq!(
            calls("# Commandstats\r\ncmdstat_fcall:usec=1\r\n", "fcall"),
            None
        );
        assert_eq!(
            calls("# Commandstats\r\ncmdstat_fcall:calls=x\r\n", "fcall"),
            None
        );
    }

    #[test]
    fn an_answer_is_read_once_it_is_complete() {
        let wire = b"$5\r\nhello\r\n";
        for cut in 0..wire.len() {
            assert!(
                reply(&wire[..cut]).is_ok_and(|text| text.is_none()),
                "{cut}"
            );
        }
        assert!(reply(wire).is_ok_and(|text| text.as_deref() == Some("hello")));
        assert!(reply(b"+OK\r\n").is_ok_and(|text| text.as_deref() == Some("OK")));
        assert!(reply(b":2\r\n").is_ok_and(|text| text.as_deref() == Some("2")));
        for wrong in ["-ERR no\r\n", "*1\r\n", "$-1\r\n", "$9999999999\r\n"] {
            assert!(reply(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_command_carries_the_lengths_of_its_words() {
        assert_eq!(
            command(&["INFO", "commandstats"]),
            b"*2\r\n$4\r\nINFO\r\n$12\r\ncommandstats\r\n"
        );
    }
}
