//! A Sentinel of our own: it watches a master, and promotes its replica when the master is gone.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::Result;
use crate::process::{Process, Scratch, find_program, free_ports};
use crate::redis::{Redis, ask, reach};

/// How long it may take until it knows the replica, and until it has promoted it.
const PATIENCE: Duration = Duration::from_secs(30);

/// It is asked so often.
const LOOK: Duration = Duration::from_millis(10);

/// A running Sentinel with a connection to it.
pub struct Sentinel {
    /// Held for its end.
    _process: Process,
    stream: TcpStream,
}

impl Sentinel {
    /// Starts one that watches a master, and waits until it knows its replica.
    pub async fn start(scratch: &Scratch, master: SocketAddr) -> Result<Self> {
        let program = find_program("redis-server", "redis-server")?;
        let [address] = free_ports()?;
        let directory = scratch.path().join(format!("sentinel-{}", address.port()));
        std::fs::create_dir(&directory)?;
        let file = directory.join("sentinel.conf");
        // Within its failover timeout it leaves a replica alone that follows its master by another address: ours
        // does, over the wire that hangs.
        let text = format!(
            "bind {}\nport {}\ndir {}\nlogfile /dev/stderr\n\
             sentinel monitor gate {} {} 1\n\
             sentinel down-after-milliseconds gate 500\n\
             sentinel failover-timeout gate 120000\n",
            address.ip(),
            address.port(),
            directory.display(),
            master.ip(),
            master.port()
        );
        std::fs::write(&file, text)?;
        let command: [&OsStr; 3] = [program.as_os_str(), file.as_os_str(), "--sentinel".as_ref()];
        let log = format!("sentinel-{}", address.port());
        let mut process = Process::start(&log, None, scratch, &command)?;
        let stream = reach(&mut process, address).await?;
        let mut sentinel = Sentinel {
            _process: process,
            stream,
        };
        let begin = Instant::now();
        while !sentinel.ask().await?.contains("slaves=1") {
            if begin.elapsed() > PATIENCE {
                return Err("Sentinel does not find the replica".into());
            }
            sleep(LOOK).await;
        }
        Ok(sentinel)
    }

    /// Waits until the master is another one.
    pub async fn promoted(&mut self, before: SocketAddr) -> Result<SocketAddr> {
        let begin = Instant::now();
        loop {
            let text = self.ask().await?;
            let master = master(&text).ok_or("Sentinel names no master")?;
            if master != before {
                return Ok(master);
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("Sentinel does not promote the replica: {text}").into());
            }
            sleep(LOOK).await;
        }
    }

    async fn ask(&mut self) -> Result<String> {
        ask(&mut self.stream, &["INFO", "sentinel"]).await
    }
}

/// Makes one Redis follow another by some address, and waits until it has all of it.
pub async fn follow(replica: &mut Redis, address: SocketAddr) -> Result<()> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    replica.command(&["REPLICAOF", &host, &port]).await?;
    let begin = Instant::now();
    while !replica
        .info("replication")
        .await?
        .contains("master_link_status:up")
    {
        if begin.elapsed() > PATIENCE {
            return Err("the replica does not reach its master".into());
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// The master's address in what Sentinel says.
fn master(text: &str) -> Option<SocketAddr> {
    let line = text.lines().find(|line| line.starts_with("master0:"))?;
    let mut fields = line.split(',');
    let address = fields.find_map(|field| field.strip_prefix("address="))?;
    address.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_master_is_read() {
        let text = "# Sentinel\r\nsentinel_masters:1\r\n\
                    master0:name=gate,status=ok,address=127.0.0.1:6380,slaves=1,sentinels=1\r\n";
        assert_eq!(master(text), Some(SocketAddr::from(([127, 0, 0, 1], 6380))));
        assert_eq!(master("# Sentinel\r\nsentinel_masters:0\r\n"), None);
    }
}
