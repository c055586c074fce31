//! What a run proves: a line for each claim, with the figures that it rests on.

use std::fmt::Write;

use crate::report::Report;

/// Claims, in the order in which they were first looked at.
#[derive(Default)]
pub struct Claims {
    /// What the claims are about that follow; may be empty.
    part: String,
    claims: Vec<Claim>,
}

/// One claim, with what was found of it in each part of a run.
struct Claim {
    words: String,
    found: Vec<Found>,
}

struct Found {
    holds: bool,
    part: String,
    figures: String,
}

impl Claims {
    /// What follows is about this part of the run.
    pub fn part(&mut self, name: &str) {
        self.part = format!("{name}: ");
    }

    /// Adds one.
    pub fn check(&mut self, holds: bool, claim: &str, figures: &str) {
        let found = Found {
            holds,
            part: self.part.clone(),
            figures: figures.to_owned(),
        };
        let known = self.claims.iter_mut().find(|one| one.words == claim);
        match known {
            Some(known) => known.found.push(found),
            None => self.claims.push(Claim {
                words: claim.to_owned(),
                found: vec![found],
            }),
        }
    }

    /// Adds one of which nothing is to be found; what was found is told, the first of it.
    pub fn none(&mut self, claim: &str, looked_at: u64, faults: &[String]) {
        let figures = match faults {
            [] => format!("{looked_at} of {looked_at}"),
            [first, ..] => format!("{} of {looked_at} not, the first: {first}", faults.len()),
        };
        // Where nothing was looked at, nothing is proved.
        self.check(faults.is_empty() && looked_at > 0, claim, &figures);
    }

    /// The report: what was measured, then a line for each claim, with what was found in each part.
    pub fn report(self, mut text: String) -> Report {
        let mut failures = Vec::new();
        text.push('\n');
        for Claim { words, found } in self.claims {
            let wrong = found.iter().filter(|one| !one.holds);
            let wrong: Vec<String> = wrong
                .map(|one| format!("{}{}", one.part, one.figures))
                .collect();
            let figures: Vec<&str> = found.iter().map(|one| one.figures.as_str()).collect();
            let _ = match wrong.as_slice() {
                [] => writeln!(text, "- holds: {words}: {}", figures.join("; ")),
                wrong => writeln!(text, "- FAILS: {words}: {}", wrong.join("; ")),
            };
            let told = wrong.iter().map(|wrong| format!("{words}: {wrong}"));
            failures.extend(told);
        }
        Report { text, failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_fails_fails_the_run() {
        let mut claims = Claims::default();
        claims.check(true, "the sky is blue", "1 look");
        claims.none("none are lost", 5, &[]);
        claims.part("at night");
        claims.none("none are lost", 3, &[]);
        claims.none("none are twice", 5, &["number 3".to_owned()]);
        claims.none("nothing was seen", 0, &[]);
        let Report { text, failures } = claims.report("table\n".to_owned());
        let begin = "table\n\n- holds: the sky is blue: 1 look\n- holds: none are lost: 5 of 5; 3 of 3\n\
                     - FAILS: none are twice: at night: 1 of 5 not, the first: number 3\n";
        assert!(text.starts_with(begin), "{text}");
        assert_eq!(failures.len(), 2);
        assert!(
            failures[0].starts_with("none are twice: at night: 1 of 5 not"),
            "{failures:?}"
        );
    }
}
