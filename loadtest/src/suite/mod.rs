//! `loadtest bench`: what Tollgate costs, scenario by scenario, beside a bare pass-through on the same framework.
//!
//! A scenario ([`scenarios`]) is a list of cells: a side at a point, a point being a size of the work. The [`field`] takes
//! turns over them, there and back, and a [`work`] is what a turn does. What comes of it are [`figures`], from which the
//! [`report`] is made: the [`targets`], tables and [`plot`]s. [`again`] compares a run with the one before.

mod again;
mod field;
mod figures;
mod measure;
mod plot;
mod progress;
mod report;
mod scenarios;
mod targets;
mod work;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use clap::{Args, ValueEnum};

use self::field::Field;
use self::figures::{Figures, Scenario};
use self::progress::Progress;
use self::scenarios::{Name, Plan};
use crate::Result;
use crate::bench::Cores;
use crate::page;
use crate::process::{existing, most_descriptors, processor, raise_descriptors};
use crate::report::Report;

/// What a page's part is called that the suite writes.
const MARKER: &str = "bench";

/// The file with all samples, beside the pictures.
const FIGURES: &str = "figures.json";

/// How often a scenario is measured anew in which Redis may have been late.
const TRIES: usize = 2;

/// The command line.
#[derive(Args)]
pub struct Suite {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// Few rounds and few points: five minutes instead of forty.
    #[arg(long)]
    quick: bool,
    /// Only this scenario; may be given several times. What is there of the others stays in the report.
    #[arg(long, value_enum)]
    only: Vec<Name>,
    /// Where the report, the figures and the pictures go; the figures that are there are compared with the new ones.
    #[arg(long, default_value = "target/bench")]
    to: PathBuf,
    /// Write the report into this page too, between its marks, with figures and pictures in a directory of the page's name
    /// beside it.
    #[arg(long, value_name = "PAGE")]
    write: Option<PathBuf>,
    /// Who runs where.
    #[command(flatten)]
    pub cores: Cores,
}

impl Suite {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let Suite {
            gateway,
            quick,
            only,
            to,
            write,
            cores,
        } = self;
        let begin = Instant::now();
        let program = existing(gateway)?;
        // A page without its marks is told of before anything is measured.
        let page = write.map(Page::read).transpose()?;
        std::fs::create_dir_all(&to)?;
        raise_descriptors(most_descriptors()?)?;
        let names: Vec<Name> = Name::value_variants()
            .iter()
            .copied()
            .filter(|name| only.is_empty() || only.contains(name))
            .collect();
        let mut measured = Figures::default();
        let mut failures = Vec::new();
        let mut progress = Progress::new(names.len());
        for name in names {
            progress.scenario(name.text());
            // Each with a provider of its own: what one leaves behind is none of the next one's business.
            match stubbornly(name, &program, cores, quick, &mut progress).await {
                Ok(scenario) => measured.put(scenario),
                Err(error) => failures.push(format!("{}: {error}", name.text())),
            }
        }
        drop(progress);
        let mut text = String::new();
        let file = to.join(FIGURES);
        let before = known(&file)?;
        if let Some(compared) = again::compared(&before, &measured) {
            text.push_str(&format!("\n## Compared with the run before\n\n{compared}"));
        }
        let figures = together(before, &measured);
        keep(&to, &figures)?;
        let told = report::text(&figures, "");
        std::fs::write(
            to.join("report.md"),
            format!("# Benchmarks\n\n{told}{text}"),
        )?;
        if let Some(page) = page {
            page.write(&measured)?;
        }
        let seconds = begin.elapsed().as_secs();
        Ok(Report {
            text: format!(
                "{}{text}\nMeasured in {} min {} s; the report, all figures and the pictures are in {}\n",
                report::text(&measured, ""),
                seconds / 60,
                seconds % 60,
                to.display()
            ),
            failures,
        })
    }
}

/// Measures one; where Redis may have been late, once more from the beginning. That is told.
async fn stubbornly(
    name: Name,
    program: &Path,
    cores: Cores,
    quick: bool,
    progress: &mut Progress,
) -> Result<Scenario> {
    let mut notes = Vec::new();
    loop {
        match scenario(name, program, cores, quick, progress).await {
            Ok(mut scenario) => {
                scenario.notes.extend(notes);
                return Ok(scenario);
            }
            Err(error) if name.asks_redis() && notes.len() < TRIES => {
                notes.push(format!("Measured anew after a failure: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Measures one.
async fn scenario(
    name: Name,
    program: &Path,
    cores: Cores,
    quick: bool,
    progress: &mut Progress,
) -> Result<Scenario> {
    let mut field = Field::new(cores, program.to_owned(), quick).await?;
    let Plan {
        rounds,
        turn,
        scenario,
        planned,
    } = name.plan(&mut field).await?;
    let cells = field.measure(rounds, planned, progress).await?;
    let method = match rounds {
        1 => format!("Once there and back over all rows; {turn}."),
        _ => format!("{rounds} times there and back over all rows; {turn}."),
    };
    Ok(Scenario {
        method: format!("{method} {}, {}.", today()?, processor()),
        cells,
        ..scenario
    })
}

/// The figures of a file, or none if there is no such file.
fn known(file: &Path) -> Result<Figures> {
    match file.exists() {
        true => Figures::read(file),
        false => Ok(Figures::default()),
    }
}

/// The new ones, and the old ones of scenarios that were not measured again; in the order of the report.
fn together(before: Figures, measured: &Figures) -> Figures {
    let mut figures = Figures::default();
    for name in Name::value_variants().iter().map(|name| name.text()) {
        if let Some(found) = measured.find(name).or_else(|| before.find(name)) {
            figures.put(found.clone());
        }
    }
    figures
}

/// Writes figures and pictures.
fn keep(to: &Path, figures: &Figures) -> Result<()> {
    std::fs::create_dir_all(to)?;
    std::fs::write(to.join(FIGURES), figures.json()?)?;
    for (file, svg) in report::pictures(figures) {
        std::fs::write(to.join(file), svg)?;
    }
    Ok(())
}

/// A page with marks.
struct Page {
    file: PathBuf,
    /// Where its figures and pictures are, and what the page calls that.
    folder: PathBuf,
    name: String,
}

impl Page {
    /// One that can be written.
    fn read(file: PathBuf) -> Result<Self> {
        let text = std::fs::read_to_string(&file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        page::replace(&text, MARKER, "").map_err(|error| format!("{}: {error}", file.display()))?;
        let folder = file.with_extension("");
        let name = folder.file_name().and_then(|name| name.to_str());
        let name = format!("{}/", name.ok_or("a page without a name")?);
        Ok(Page { file, folder, name })
    }

    fn write(&self, measured: &Figures) -> Result<()> {
        let figures = together(known(&self.folder.join(FIGURES))?, measured);
        keep(&self.folder, &figures)?;
        let text = std::fs::read_to_string(&self.file)?;
        let text = page::replace(&text, MARKER, &report::text(&figures, &self.name))?;
        Ok(std::fs::write(&self.file, text)?)
    }
}

/// The date, in UTC.
fn today() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%F"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::figures::tests::sample;
    use super::*;

    #[test]
    fn what_was_not_measured_again_stays() {
        let named = |name: &str, about: &str| Scenario {
            name: name.to_owned(),
            about: about.to_owned(),
            ..sample()
        };
        let figures = |scenarios: Vec<Scenario>| Figures { scenarios };
        let before = figures(vec![
            named("keys", "old"),
            named("size", "old"),
            named("gone", "old"),
        ]);
        let now = figures(vec![named("keys", "new"), named("control", "new")]);
        let all: Vec<(String, String)> = together(before, &now)
            .scenarios
            .into_iter()
            .map(|scenario| (scenario.name, scenario.about))
            .collect();
        let expected = [("control", "new"), ("size", "old"), ("keys", "new")];
        let expected = expected.map(|(name, about)| (name.to_owned(), about.to_owned()));
        assert_eq!(all, expected);
    }
}
