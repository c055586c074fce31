//! A Redis URL → a client of it.

use redis::cluster::ClusterClient;
use redis::io::tcp::TcpSettings;
use redis::{Client, ErrorKind, IntoConnectionInfo, RedisError};
use std::time::Duration;

/// A new connection stands within this time, or is given up.
pub(super) const CONNECT: Duration = Duration::from_millis(500);

/// The kernel gives a connection up when Redis' machine acknowledges nothing for so long.
const UNACKNOWLEDGED: Duration = Duration::from_secs(2);

/// Where Redis is.
pub(super) enum Target {
    /// One server.
    Single(Box<Client>),
    /// A cluster, by some of its nodes.
    Cluster(Box<ClusterClient>),
}

impl Target {
    /// Reads `redis://`, `rediss://`, `redis+cluster://` and `rediss+cluster://`. A cluster may have
    /// several hosts, between commas. `deadline` bounds a cluster's answers, its redirections included.
    pub(super) fn new(url: &str, deadline: Duration) -> Result<Target, RedisError> {
        let tcp = || {
            TcpSettings::default()
                .set_nodelay(true)
                .set_user_timeout(UNACKNOWLEDGED)
        };
        let Some((scheme, rest)) = url.split_once("+cluster://") else {
            let info = url.into_connection_info()?.set_tcp_settings(tcp());
            return Ok(Target::Single(Box::new(Client::open(info)?)));
        };
        let (login, hosts) = match rest.rsplit_once('@') {
            Some((login, hosts)) => (format!("{login}@"), hosts),
            None => (String::new(), rest),
        };
        let hosts = hosts.trim_end_matches('/');
        if hosts.contains('/') {
            // Only number 0 exists there.
            let error = (ErrorKind::InvalidClientConfig, "a cluster has no databases");
            return Err(error.into());
        }
        let nodes = hosts
            .split(',')
            .map(|host| format!("{scheme}://{login}{host}"));
        let client = ClusterClient::builder(nodes)
            .tcp_settings(tcp())
            .connection_timeout(CONNECT)
            .response_timeout(deadline)
            .overall_response_timeout(Some(deadline))
            .retries(1)
            .build()?;
        Ok(Target::Cluster(Box::new(client)))
    }
}

/// Whether a URL can be used; nothing is connected.
pub fn is_usable(url: &str) -> bool {
    Target::new(url, CONNECT).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_is_read() {
        for url in [
            "redis://h",
            "redis://:p%40ss@127.0.0.1:6379/2",
            "rediss://user:pass@redis.example:6380",
            "redis+cluster://h:6379",
            "redis+cluster://user:pass@a:6379,b:6379",
            "rediss+cluster://[::1]:6379",
        ] {
            assert!(is_usable(url), "{url}");
        }
        for url in [
            "redis://h:port",
            "redis://h/x",
            "redis+cluster://",
            "redis+cluster://h:6379/7",
            "http://h",
            "h:6379",
        ] {
            assert!(!is_usable(url), "{url}");
        }
    }
}
