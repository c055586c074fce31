//! What a gateway's metrics tell of its attempts at providers.

use std::collections::BTreeMap;

/// The metric, with a label for the provider and one for how the attempt ended.
const METRIC: &str = "tollgate_upstream_requests_total{";

/// So ends an attempt at a provider that accepts no connection.
const UNREACHABLE: &str = "unreachable";

/// Attempts so far, by provider and by how they ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempts(BTreeMap<(String, String), u64>);

impl Attempts {
    /// Reads a page of metrics.
    pub fn read(page: &str) -> Self {
        let mut attempts = BTreeMap::new();
        // Further labels make further lines.
        for (name, count) in page.lines().filter_map(line) {
            *attempts.entry(name).or_default() += count;
        }
        Attempts(attempts)
    }

    /// All of them.
    pub fn all(&self) -> u64 {
        self.0.values().sum()
    }

    /// Those that found no one who accepts a connection; at one provider, or at all.
    pub fn unreachable(&self, provider: Option<&str>) -> u64 {
        let chosen = self.0.iter().filter(|((name, outcome), _)| {
            outcome == UNREACHABLE && provider.is_none_or(|provider| provider == name)
        });
        chosen.map(|(_, count)| count).sum()
    }
}

fn line(line: &str) -> Option<((String, String), u64)> {
    let (labels, value) = line.strip_prefix(METRIC)?.rsplit_once('}')?;
    let label = |name: &str| {
        let found = labels.split(',').find_map(|label| {
            let value = label.strip_prefix(name)?.strip_prefix("=\"")?;
            value.strip_suffix('"')
        });
        found.map(str::to_owned)
    };
    let count = value.trim().parse::<f64>().ok()?;
    Some(((label("provider")?, label("outcome")?), count as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_read_by_provider_and_end() {
        let page = "# TYPE tollgate_upstream_requests_total counter\n\
                    tollgate_upstream_requests_total{outcome=\"ok\",provider=\"p1\"} 12\n\
                    tollgate_upstream_requests_total{outcome=\"unreachable\",provider=\"p1\"} 3\n\
                    tollgate_upstream_requests_total{outcome=\"unreachable\",provider=\"p2\"} 1\n\
                    tollgate_upstream_requests_total{model=\"m\",outcome=\"unreachable\",provider=\"p2\"} 3\n\
                    tollgate_upstream_requests_total_other{outcome=\"ok\",provider=\"p1\"} 100\n";
        let attempts = Attempts::read(page);
        assert_eq!(attempts.all(), 19);
        assert_eq!(attempts.unreachable(None), 7);
        assert_eq!(attempts.unreachable(Some("p2")), 4);
        assert_eq!(Attempts::read(""), Attempts::default());
    }
}
