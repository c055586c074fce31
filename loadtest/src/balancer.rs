//! What stands in front of several gateways: HAProxy, or nginx where HAProxy is missing. Each request goes to the
//! next node, over connections that are kept.

use std::ffi::OsStr;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::process::{Process, Scratch, find_program};

/// A balancer's program.
pub enum Balancer {
    /// HAProxy.
    Haproxy(PathBuf),
    /// nginx.
    Nginx(PathBuf),
}

impl Balancer {
    /// The one that is installed.
    pub fn find() -> Result<Self> {
        find_program("haproxy", "haproxy")
            .map(Balancer::Haproxy)
            .or_else(|missing| {
                find_program("nginx", "nginx")
                    .map(Balancer::Nginx)
                    .map_err(|_| format!("{missing} (nginx would do, and is missing too)").into())
            })
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Balancer::Haproxy(_) => "HAProxy",
            Balancer::Nginx(_) => "nginx",
        }
    }

    /// Starts it; whether it listens yet is for the caller to see.
    pub fn start(
        &self,
        scratch: &Scratch,
        bind: SocketAddr,
        nodes: &[SocketAddr],
    ) -> Result<Process> {
        let (program, text): (&Path, String) = match self {
            Balancer::Haproxy(program) => (program, haproxy(bind, nodes)),
            Balancer::Nginx(program) => (program, nginx(bind, nodes, scratch.path())),
        };
        let file = scratch.path().join("balancer.conf");
        std::fs::write(&file, text)?;
        let words: &[&OsStr] = match self {
            // In the foreground, without the start-up notices.
            Balancer::Haproxy(_) => &["-db".as_ref(), "-q".as_ref(), "-f".as_ref()],
            Balancer::Nginx(_) => &[
                "-p".as_ref(),
                scratch.path().as_ref(),
                "-e".as_ref(),
                "stderr".as_ref(),
                "-c".as_ref(),
            ],
        };
        let command = [&[program.as_os_str()], words, &[file.as_os_str()]].concat();
        Process::start("balancer", None, scratch, &command)
    }
}

/// No retries and no health checks: an answer that a node fails to give is to be seen. The times are longer than
/// any run, so that no connection is closed for being idle.
fn haproxy(bind: SocketAddr, nodes: &[SocketAddr]) -> String {
    let mut text = format!(
        "global
    maxconn 4000
    nbthread 1

defaults
    mode http
    retries 0
    timeout connect 5s
    timeout queue 5s
    timeout client 2h
    timeout http-keep-alive 2h
    timeout server 60s
    http-reuse always

frontend front
    bind {bind}
    default_backend nodes

backend nodes
    balance roundrobin
"
    );
    for (number, node) in nodes.iter().enumerate() {
        let _ = writeln!(text, "    server node-{} {node}", number + 1);
    }
    text
}

/// One process: with workers, a killed master would leave them behind.
fn nginx(bind: SocketAddr, nodes: &[SocketAddr], directory: &Path) -> String {
    let directory = directory.display();
    let mut servers = String::new();
    for node in nodes {
        let _ = writeln!(servers, "        server {node} max_fails=0;");
    }
    format!(
        r#"daemon off;
master_process off;
pid "{directory}/balancer.pid";
error_log stderr;
events {{ worker_connections 4000; }}
http {{
    access_log off;
    client_body_temp_path "{directory}/nginx-body";
    proxy_temp_path "{directory}/nginx-proxy";
    fastcgi_temp_path "{directory}/nginx-fastcgi";
    uwsgi_temp_path "{directory}/nginx-uwsgi";
    scgi_temp_path "{directory}/nginx-scgi";
    keepalive_timeout 2h;
    keepalive_requests 1000000000;
    upstream nodes {{
{servers}        keepalive 512;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {bind};
        location / {{
            proxy_pass http://nodes;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream off;
        }}
    }}
}}
"#
    )
}
