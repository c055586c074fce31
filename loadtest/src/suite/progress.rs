//! How far a long run is: one line on standard error, if somebody is looking.

use std::io::IsTerminal;
use std::time::Instant;

/// Cells of the bar.
const WIDTH: u64 = 24;

/// The line; taken away when dropped, however the run ends.
pub struct Progress {
    shown: bool,
    begin: Instant,
    /// Which of the scenarios, and how many there are.
    scenario: (usize, usize),
    name: &'static str,
    /// Turns done, and all of this scenario.
    turns: (u64, u64),
}

impl Progress {
    /// Of so many scenarios.
    pub fn new(scenarios: usize) -> Self {
        Progress {
            shown: std::io::stderr().is_terminal(),
            begin: Instant::now(),
            scenario: (0, scenarios),
            name: "",
            turns: (0, 0),
        }
    }

    /// The next scenario begins: its proxies are started.
    pub fn scenario(&mut self, name: &'static str) {
        self.scenario.0 += 1;
        self.name = name;
        self.turns = (0, 0);
        self.show("starting");
    }

    /// It has so many turns.
    pub fn turns(&mut self, all: u64) {
        self.turns = (0, all);
    }

    /// The next turn begins.
    pub fn turn(&mut self, side: &str, point: &str) {
        let what = match point {
            "" => side.to_owned(),
            point => format!("{side}, {point}"),
        };
        self.show(&what);
        self.turns.0 += 1;
    }

    fn show(&self, what: &str) {
        if self.shown {
            eprint!(
                "\r{}\x1b[K",
                self.line(self.begin.elapsed().as_secs(), what)
            );
        }
    }

    fn line(&self, seconds: u64, what: &str) -> String {
        let ((number, scenarios), (done, all)) = (self.scenario, self.turns);
        let full = (done * WIDTH).checked_div(all).unwrap_or(0).min(WIDTH) as usize;
        let bar: String = "█".repeat(full) + &"░".repeat(WIDTH as usize - full);
        format!(
            "{bar} {number}/{scenarios} {}: turn {done} of {all}, {what}; {}:{:02}",
            self.name,
            seconds / 60,
            seconds % 60
        )
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows_with_the_turns() {
        let mut progress = Progress {
            shown: false,
            ..Progress::new(3)
        };
        progress.scenario("keys");
        let bar = |progress: &Progress| progress.line(61, "bare").matches('█').count();
        assert_eq!(bar(&progress), 0);
        progress.turns(4);
        progress.turn("bare", "");
        assert_eq!(bar(&progress), 6);
        assert!(
            progress
                .line(61, "bare")
                .ends_with("1/3 keys: turn 1 of 4, bare; 1:01")
        );
        for _ in 0..5 {
            progress.turn("bare", "1,000");
        }
        assert_eq!(bar(&progress), 24);
    }
}
