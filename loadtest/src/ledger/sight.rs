//! What a gateway's metrics tell of its charges.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use crate::Result;
use crate::connection::Connection;

/// How long one page may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sight {
    /// Whether Redis counts as away.
    pub away: bool,
    /// Charges that are in the journal and not yet in the store.
    pub unsettled: u64,
    /// Charges that were sent again.
    pub replayed: u64,
    /// Requests in flight that something is held for.
    pub holds: u64,
    /// Calls to Redis that failed or were not answered in time.
    pub errors: u64,
}

/// Looks once.
pub async fn look(address: SocketAddr) -> Result<Sight> {
    sight(&page(address).await?).ok_or_else(|| "metrics of charges are missing".into())
}

/// All metrics, as a gateway shows them.
pub async fn page(address: SocketAddr) -> Result<String> {
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let mut page = Vec::with_capacity(64 * 1024);
    let exchange = async {
        let mut connection = Connection::open(address).await?;
        connection.exchange(request.as_bytes(), &mut page).await
    };
    let (status, _) = timeout(PATIENCE, exchange)
        .await
        .map_err(|_| "a gateway does not show its metrics")??;
    match status {
        200 => Ok(String::from_utf8_lossy(&page).into_owned()),
        _ => Err(format!("a gateway answers {status} for its metrics").into()),
    }
}

/// Waits until all gateways have Redis and all that they charged is in the store; gives how long that took.
pub async fn settled(nodes: &[SocketAddr], patience: Duration) -> Result<Duration> {
    let begin = Instant::now();
    for node in nodes {
        loop {
            let sight = look(*node).await?;
            if !sight.away && sight.unsettled == 0 && sight.holds == 0 {
                break;
            }
            if begin.elapsed() > patience {
                return Err(
                    format!("charges are not settled after {patience:?}: {sight:?}").into(),
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(begin.elapsed())
}

/// Reads a page; metrics of Redis are missing where there is none.
fn sight(page: &str) -> Option<Sight> {
    Some(Sight {
        away: sum(page, "tollgate_store_away").unwrap_or(0) > 0,
        unsettled: sum(page, "tollgate_charges_unsettled")?,
        replayed: sum(page, "tollgate_charges_replayed_total")?,
        holds: sum(page, "tollgate_holds")?,
        errors: sum(page, "tollgate_redis_errors_total").unwrap_or(0),
    })
}

/// The sum of all series of a metric; `None` if there is none.
fn sum(page: &str, name: &str) -> Option<u64> {
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.trim().parse::<f64>().ok()
    });
    values
        .map(|value| value.max(0.0) as u64)
        .reduce(|one, other| one + other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_charges_is_not_taken_for_none() {
        let page = "# TYPE tollgate_holds gauge\n\
                    tollgate_holds 3\n\
                    tollgate_holds_other 9\n\
                    tollgate_charges_unsettled 2\n\
                    tollgate_charges_replayed_total 7\n\
                    tollgate_redis_errors_total{kind=\"failed\"} 1\n\
                    tollgate_redis_errors_total{kind=\"timeout\"} 4\n";
        let expected = Sight {
            away: false,
            unsettled: 2,
            replayed: 7,
            holds: 3,
            errors: 5,
        };
        assert_eq!(sight(page), Some(expected));
        assert_eq!(sight(&page.replace("unsettled", "u")), None);
        assert_eq!(sight(""), None);
    }
}
