//! What the metrics tell of the configuration: some gauge must differ between a file that is served and one that is not.

use std::collections::BTreeMap;

use crate::Result;
use crate::steady::watch::get;
use std::net::SocketAddr;

/// What the names of these metrics begin with.
const PREFIX: &str = "tollgate_config_";

/// The values of one moment, by series.
pub type Values = BTreeMap<String, f64>;

/// What was seen while valid files lay there, and while invalid ones did.
#[derive(Debug, Default)]
pub struct Gauges {
    valid: Vec<Values>,
    invalid: Vec<Values>,
}

impl Gauges {
    /// Takes in a moment.
    pub fn add(&mut self, invalid: bool, values: Values) {
        match invalid {
            true => self.invalid.push(values),
            false => self.valid.push(values),
        }
    }

    /// The series that always had one value with valid files and always another with invalid ones: name, and both.
    pub fn telling(&self) -> Option<(String, f64, f64)> {
        let names = self.invalid.first()?.keys();
        names
            .filter_map(|name| {
                let valid = constant(&self.valid, name)?;
                let invalid = constant(&self.invalid, name)?;
                (valid != invalid).then(|| (name.clone(), valid, invalid))
            })
            .next()
    }

    /// How many moments there were.
    pub fn looks(&self) -> (usize, usize) {
        (self.valid.len(), self.invalid.len())
    }
}

/// The value that a series had at all moments, if it had one and the same.
fn constant(moments: &[Values], name: &str) -> Option<f64> {
    let first = *moments.first()?.get(name)?;
    let same = moments
        .iter()
        .all(|values| values.get(name).is_some_and(|value| *value == first));
    same.then_some(first)
}

/// Reads a gateway's metrics.
pub async fn look(metrics: SocketAddr) -> Result<Values> {
    let (status, page) = get(metrics, "/metrics").await?;
    match status {
        200 => Ok(read(&String::from_utf8_lossy(&page))),
        status => Err(format!("a gateway answers {status} for its metrics").into()),
    }
}

fn read(page: &str) -> Values {
    let series = page.lines().filter(|line| line.starts_with(PREFIX));
    series
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_tells_of_an_invalid_file_or_none_does() {
        let page = |version: u32, failed: u32| {
            read(&format!(
                "# TYPE tollgate_config_invalid gauge\ntollgate_config_invalid {failed}\n\
                 tollgate_config_reloads_total{{result=\"ok\"}} {version}\ntollgate_holds 3\n"
            ))
        };
        let mut gauges = Gauges::default();
        assert_eq!(gauges.telling(), None);
        gauges.add(false, page(1, 0));
        gauges.add(false, page(2, 0));
        gauges.add(true, page(2, 1));
        let telling = ("tollgate_config_invalid".to_owned(), 0.0, 1.0);
        assert_eq!(gauges.telling(), Some(telling));
        gauges.add(true, page(2, 0));
        assert_eq!(gauges.telling(), None);
    }
}
