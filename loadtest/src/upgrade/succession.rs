//! The processes that follow each other: which of them run, and since when one has ended. Only the first is our child;
//! the others are known by what the gateway says of them, and by the configuration file that no other process has.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Result;
use crate::process::signal;

/// What a successful upgrade prints.
const SERVES: (&str, &str, &str) = (
    "successor ",
    " serves; ",
    " ends when its requests have ended",
);

/// One process.
#[derive(Debug, Clone, Copy)]
struct Life {
    id: u32,
    /// When its successor served.
    succeeded: Option<Instant>,
    ended: Option<Instant>,
}

/// All of them; those that still run are killed when dropped.
pub struct Succession {
    config: PathBuf,
    lives: Vec<Life>,
    /// The most that ran at a time.
    most: usize,
}

impl Drop for Succession {
    fn drop(&mut self) {
        // Also one that no upgrade told of.
        for id in running(&self.config) {
            let _ = signal(id, "KILL");
        }
    }
}

impl Succession {
    /// Begins with the first process.
    pub fn new(config: &Path, first: u32) -> Self {
        let life = Life {
            id: first,
            succeeded: None,
            ended: None,
        };
        Succession {
            config: config.to_owned(),
            lives: vec![life],
            most: 1,
        }
    }

    /// The one that serves.
    pub fn now(&self) -> u32 {
        self.lives.last().map_or(0, |life| life.id)
    }

    /// Takes in what an upgrade printed; gives the successor.
    pub fn follow(&mut self, printed: &str) -> Result<u32> {
        let (successor, old) = told(printed)
            .ok_or_else(|| format!("an upgrade does not tell of a successor: {printed:?}"))?;
        let now = self.now();
        if old != now || successor == now {
            return Err(format!("{successor} is to follow {old}, but {now} serves").into());
        }
        if let Some(last) = self.lives.last_mut() {
            last.succeeded = Some(Instant::now());
        }
        self.lives.push(Life {
            id: successor,
            succeeded: None,
            ended: None,
        });
        Ok(successor)
    }

    /// Looks who runs.
    pub fn look(&mut self) {
        let running = running(&self.config);
        self.most = self.most.max(running.len());
        for life in &mut self.lives {
            if life.ended.is_none() && !running.contains(&life.id) {
                life.ended = Some(Instant::now());
            }
        }
    }

    /// How many run now, those included that nobody told of.
    pub fn count(&self) -> usize {
        running(&self.config).len()
    }

    /// The most that ran at a time.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Of those that have a successor: from when it served to their end, if they have ended.
    pub fn leaving(&self) -> Vec<Option<Duration>> {
        let succeeded = self.lives.iter().filter_map(|life| {
            let since = life.succeeded?;
            Some(
                life.ended
                    .map(|ended| ended.saturating_duration_since(since)),
            )
        });
        succeeded.collect()
    }
}

/// The successor, and the one that ends.
fn told(printed: &str) -> Option<(u32, u32)> {
    let line = printed.lines().find(|line| line.starts_with(SERVES.0))?;
    let rest = line.strip_prefix(SERVES.0)?;
    let (successor, rest) = rest.split_once(SERVES.1)?;
    let old = rest
        .trim_end()
        .trim_end_matches('.')
        .strip_suffix(SERVES.2)?;
    Some((successor.parse().ok()?, old.parse().ok()?))
}

/// The processes that serve a configuration file, or are to: those that have its path among their arguments, and
/// `serve`. A zombie has no arguments.
fn running(config: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter(|id| {
        std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| is_server(&line, config))
    })
    .collect()
}

fn is_server(line: &[u8], config: &Path) -> bool {
    let config = config.as_os_str().as_encoded_bytes();
    let mut words = line.split(|byte| *byte == 0);
    words.clone().any(|word| word == b"serve") && words.any(|word| word.ends_with(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_is_read_from_what_is_printed() {
        let printed = "successor 4711 serves; 4242 ends when its requests have ended\n";
        assert_eq!(told(printed), Some((4711, 4242)));
        for wrong in [
            "",
            "successor 4711 serves",
            "successor x serves; 1 ends when its requests have ended",
        ] {
            assert_eq!(told(wrong), None);
        }
    }

    #[test]
    fn only_servers_of_the_file_are_found() {
        let config = Path::new("/tmp/loadtest-1/80.yaml");
        let line = |words: &[&str]| words.join("\0").into_bytes();
        assert!(is_server(
            &line(&[
                "/b/tollgate",
                "serve",
                "--config",
                "/tmp/loadtest-1/80.yaml",
                ""
            ]),
            config
        ));
        assert!(is_server(
            &line(&["tollgate", "serve", "--config=/tmp/loadtest-1/80.yaml"]),
            config
        ));
        assert!(!is_server(
            &line(&["tollgate", "upgrade", "--config", "/tmp/loadtest-1/80.yaml"]),
            config
        ));
        assert!(!is_server(
            &line(&["tollgate", "serve", "--config", "/tmp/loadtest-2/80.yaml"]),
            config
        ));
    }

    #[test]
    fn a_process_follows_only_the_one_that_serves() -> Result<()> {
        let mut succession = Succession::new(Path::new("/nowhere/at/all.yaml"), 10);
        let printed =
            |new, old| format!("successor {new} serves; {old} ends when its requests have ended");
        assert!(succession.follow("done").is_err());
        assert!(succession.follow(&printed(11, 9)).is_err());
        assert_eq!(succession.follow(&printed(11, 10))?, 11);
        assert_eq!(succession.leaving(), [None]);
        succession.look();
        assert!(matches!(succession.leaving().as_slice(), [Some(_)]));
        assert_eq!(
            (succession.now(), succession.most(), succession.count()),
            (11, 1, 0)
        );
        Ok(())
    }
}
