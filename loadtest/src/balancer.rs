//! What stands in front of several gateways: HAProxy, or nginx where HAProxy is missing. Each request goes to the
//! next node, over connections that are kept. The settings are in `loadtest/peers/`.

use std::ffi::OsString;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::peers::Peer;
use crate::peers::template::fill;
use crate::process::{Process, Scratch};

/// A balancer's program.
pub struct Balancer {
    kind: Kind,
    program: PathBuf,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Haproxy,
    Nginx,
}

impl Kind {
    fn peer(self) -> Peer {
        match self {
            Kind::Haproxy => Peer::Haproxy,
            Kind::Nginx => Peer::Nginx,
        }
    }

    /// Its settings.
    fn text(
        self,
        bind: SocketAddr,
        nodes: &[SocketAddr],
        directory: &Path,
    ) -> std::result::Result<String, String> {
        let mut servers = String::new();
        for (number, node) in nodes.iter().enumerate() {
            let number = number + 1;
            let _ = match self {
                Kind::Haproxy => writeln!(servers, "    server node-{number} {node}"),
                Kind::Nginx => writeln!(servers, "        server {node} max_fails=0;"),
            };
        }
        let bind = bind.to_string();
        let directory = directory.to_str().ok_or("a directory that is no text")?;
        let (bind, servers) = (("bind", bind.as_str()), ("servers", servers.trim_end()));
        match self {
            Kind::Haproxy => fill(
                include_str!("../peers/haproxy-balancer.cfg"),
                &[bind, servers],
            ),
            Kind::Nginx => fill(
                include_str!("../peers/nginx-balancer.conf"),
                &[bind, servers, ("directory", directory)],
            ),
        }
    }
}

impl Balancer {
    /// The one that is installed.
    pub fn find() -> Result<Self> {
        let find = |kind: Kind| kind.peer().find().map(|program| Balancer { kind, program });
        Ok(find(Kind::Haproxy).or_else(|missing| {
            find(Kind::Nginx).map_err(|_| format!("{missing} (nginx would do, and is missing too)"))
        })?)
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.kind.peer().name()
    }

    /// Starts it; whether it listens yet is for the caller to see.
    pub fn start(
        &self,
        scratch: &Scratch,
        bind: SocketAddr,
        nodes: &[SocketAddr],
    ) -> Result<Process> {
        let file = scratch.path().join("balancer.conf");
        std::fs::write(&file, self.kind.text(bind, nodes, scratch.path())?)?;
        let arguments = self.kind.peer().arguments(scratch.path(), &file);
        let mut command = vec![self.program.as_os_str()];
        command.extend(arguments.iter().map(OsString::as_os_str));
        Process::start("balancer", None, scratch, &command)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn every_node_has_its_line() -> Result<()> {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        for (kind, line) in [
            (Kind::Haproxy, "\n    server node-2 127.0.0.1:3\n"),
            (Kind::Nginx, "\n        server 127.0.0.1:3 max_fails=0;\n"),
        ] {
            let text = kind.text(at(1), &[at(2), at(3)], Path::new("/scratch"))?;
            assert!(text.contains(line), "{text}");
            assert_eq!(text.matches(":2").count(), 1, "{text}");
        }
        Ok(())
    }
}
