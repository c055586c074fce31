//! Redis servers of a test's own, on free ports, each in a directory of its own.
//!
//! ```ignore
//! let redis = Redis::start().await;
//! assert_eq!(redis.command(&["SET", "name", "value"]).await.text(), "OK");
//! redis.pause(); // it keeps its connections and its port, and answers nobody
//! redis.resume();
//! ```
//!
//! No server outlives its test process, however that ends: the kernel kills it then.

mod cluster;
mod keeper;
mod reply;

pub use cluster::Cluster;
pub use reply::Reply;

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long [`Redis::command`] waits for an answer, and a start for its end, before they fail the test.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Clients' ports are the `PORTS` from `FIRST_PORT`, the cluster bus has those 10,000 above, where
/// Redis puts it. All lie below the ports that the kernel gives to outgoing connections: while a
/// server is down nobody takes its port, nor can a client that dials it connect to itself.
const FIRST_PORT: u16 = 11_000;
const PORTS: u16 = 10_000;

/// A running server, unless a test has killed it; it ends when dropped.
pub struct Redis {
    port: u16,
    directory: TempDir,
    arguments: Vec<String>,
    child: Mutex<Option<Child>>,
}

/// Why a server did not come up.
enum Failure {
    PortTaken,
    Other(String),
}

impl Redis {
    /// Without persistence: a restart forgets everything.
    pub async fn start() -> Redis {
        Redis::start_with(&[]).await
    }

    /// With more arguments, such as `--appendonly yes`; of two that contradict each other, these win.
    pub async fn start_with(arguments: &[&str]) -> Redis {
        for _ in 0..100 {
            // Each `RandomState` has other keys than the one before.
            let spread = RandomState::new().hash_one(std::process::id()) % u64::from(PORTS);
            let redis = Redis {
                port: FIRST_PORT + u16::try_from(spread).expect("below 10,000"),
                directory: TempDir::with_prefix("redis-").expect("a directory"),
                arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
                child: Mutex::new(None),
            };
            match redis.launch().await {
                Ok(()) => return redis,
                Err(Failure::PortTaken) => {}
                Err(Failure::Other(why)) => panic!("redis-server does not start: {why}"),
            }
        }
        panic!("redis-server found no free port in 100 attempts");
    }

    /// `redis://127.0.0.1:PORT/0`.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.addr())
    }

    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Stops the process in its tracks: the kernel still accepts connections for it, nobody answers.
    pub fn pause(&self) {
        self.signal("STOP");
        let deadline = Instant::now() + PATIENCE;
        // The signal is on its way when `kill` returns, not yet there.
        while self.state() != 'T' {
            assert!(Instant::now() < deadline, "redis-server does not pause");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Ends the process as a crash would; its port refuses connections afterwards.
    pub async fn kill(&self) {
        self.end();
    }

    /// Starts it again on its port, in its directory, with its arguments; kills it first if it runs.
    pub async fn restart(&self) {
        self.end();
        match self.launch().await {
            Ok(()) => {}
            Err(Failure::PortTaken) => panic!("another process has taken port {}", self.port),
            Err(Failure::Other(why)) => panic!("redis-server does not start again: {why}"),
        }
    }

    /// Sends one command on a connection of its own; an error of Redis is [`Reply::Error`].
    pub async fn command(&self, parts: &[&str]) -> Reply {
        match self.try_command(parts, PATIENCE).await {
            Ok(reply) => reply,
            Err(why) => panic!("{}: {why}", parts.join(" ")),
        }
    }

    /// The same for a server that may be away; says why there is no answer.
    pub async fn try_command(&self, parts: &[&str], patience: Duration) -> Result<Reply, String> {
        let addr = self.addr();
        match timeout(patience, exchange(addr, parts)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(format!("redis at {addr}: {error}")),
            Err(_) => Err(format!(
                "redis at {addr} does not answer within {patience:?}; is it paused?"
            )),
        }
    }

    /// A field of `INFO section`, as text.
    pub async fn info(&self, section: &str, field: &str) -> Option<String> {
        let page = self.command(&["INFO", section]).await.text();
        page.lines().find_map(|line| {
            let value = line.strip_prefix(field)?.strip_prefix(':')?;
            Some(value.to_owned())
        })
    }

    /// How often a command ran, failures included; a subcommand is named as `function|load`.
    pub async fn stat_calls(&self, command: &str) -> u64 {
        // calls=3,usec=21,usec_per_call=7.00,…
        let field = format!("cmdstat_{command}");
        let Some(values) = self.info("commandstats", &field).await else {
            return 0;
        };
        values
            .split(',')
            .find_map(|value| value.strip_prefix("calls=")?.parse().ok())
            .unwrap_or_else(|| panic!("what does {field}:{values} mean?"))
    }

    /// What the server has written since it was last started.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    async fn launch(&self) -> Result<(), Failure> {
        let log = File::create(self.directory.path().join("log")).expect("a log file");
        let mut command = Command::new("setpriv");
        command
            // `setpriv` becomes `redis-server`: the child's id is the server's.
            .args(["--pdeathsig", "KILL", "redis-server"])
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.directory.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log);
        let child = keeper::spawn(command)
            .map_err(|error| Failure::Other(format!("setpriv of util-linux: {error}")))?;
        *self.child() = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready().await {
            if let Some(status) = self.exited() {
                let log = self.log();
                return Err(if log.contains("Address already in use") {
                    Failure::PortTaken
                } else {
                    Failure::Other(format!(
                        "{status} (tests/prepare.sh test installs it)\n{log}"
                    ))
                });
            }
            if Instant::now() > deadline {
                let log = self.log();
                return Err(Failure::Other(format!("not ready in {PATIENCE:?}\n{log}")));
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Its own words first: what answers on the port may be the server that has taken it.
    async fn is_ready(&self) -> bool {
        self.log().contains("Ready to accept connections")
            && self
                .try_command(&["PING"], Duration::from_secs(1))
                .await
                .is_ok_and(|reply| reply == Reply::Text("PONG".to_owned()))
    }

    fn exited(&self) -> Option<String> {
        let status = self.child().as_mut()?.try_wait().expect("a child");
        status.map(|status| format!("redis-server ended, {status}"))
    }

    fn end(&self) {
        if let Some(mut child) = self.child().take() {
            // An error means that it has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn signal(&self, name: &str) {
        let id = self.id();
        // The shell has a `kill` of its own where no program of that name is installed.
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{name} {id}")])
            .status()
            .expect("a shell");
        assert!(status.success(), "kill -{name} {id}: {status}");
    }

    /// The process's state as the kernel shows it: `T` is stopped.
    fn state(&self) -> char {
        let id = self.id();
        let text = fs::read_to_string(format!("/proc/{id}/stat")).expect("a process");
        // The name before it stands in parentheses and may hold anything.
        let (_, rest) = text.rsplit_once(") ").expect("a state");
        rest.chars().next().expect("a state")
    }

    fn id(&self) -> u32 {
        self.child()
            .as_ref()
            .map(Child::id)
            .expect("redis-server was killed before")
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.end();
    }
}

async fn exchange(addr: SocketAddr, parts: &[&str]) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(&reply::request(parts)).await?;
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(reply) = reply::parse(&bytes) {
            return Ok(reply);
        }
    }
}
