//! The configuration is read again: when the file changes, on SIGHUP, and when an operator says so. All three do the
//! same: read, check, build, and then swap everything at once. What cannot be used changes nothing.
//!
//! One task does it ([`Reloads`]), so two reloads never run at once; everybody else asks it ([`Reloader`]). Requests keep
//! the snapshot that they began with, and with it its prices and plans.

use super::local::DemoStand;
use super::marks::Marks;
use super::swap::{Done, Parts};
use crate::admin::backend::{Fault, File, NotReloaded, Reloaded};
use crate::config::{Change, Config, Errors, Loaded};
use crate::record::reload::ReloadEnd;
use async_trait::async_trait;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The least priority of a thread, as `nice` counts it.
#[cfg(target_os = "linux")]
const LEAST: i32 = 19;

/// So many lines at most tell of one reload.
const LINES: usize = 50;

/// So many questions may wait; one answer serves whoever asks then.
const WAITING: usize = 16;

type Read = dyn Fn() -> Loaded + Send + Sync;

/// Where a configuration comes from.
pub struct Source {
    path: PathBuf,
    read: Arc<Read>,
    look: Duration,
    /// Of the file and of those that it names, as they were when it was read.
    marks: Marks,
}

impl Source {
    /// Reads a file by `read`, and gives what it says. From the start on it and the files that it names are looked at
    /// once a second.
    ///
    /// # Errors
    /// All errors of the configuration.
    pub fn open(
        path: &Path,
        read: impl Fn() -> Loaded + Send + Sync + 'static,
    ) -> Result<(Source, Config), Errors> {
        let (config, marks) = marked(&read, path, &Marks::none(path.to_owned()));
        let source = Source {
            path: path.to_owned(),
            read: Arc::new(read),
            look: LOOK,
            marks,
        };
        Ok((source, config?))
    }

    /// Looked at in another interval.
    pub fn every(self, look: Duration) -> Source {
        Source { look, ..self }
    }
}

/// Reads a file. It is marked first: what changes meanwhile is seen by the next look.
fn marked(read: &Read, path: &Path, before: &Marks) -> (Result<Config, Errors>, Marks) {
    let marks = before.again();
    let Loaded { config, mut files } = read();
    if config.is_err() {
        // Perhaps it could not be read far enough to know all of them.
        files.extend(marks.names());
    }
    files.insert(path.to_owned());
    (config, marks.with(files))
}

/// Why it is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Watch,
    Signal,
    Admin,
}

impl Cause {
    const fn words(self) -> &'static str {
        match self {
            Cause::Watch => "the file has changed",
            Cause::Signal => "SIGHUP",
            Cause::Admin => "an operator's call",
        }
    }
}

type Outcome = Result<Reloaded, NotReloaded>;

struct Asked {
    cause: Cause,
    answer: oneshot::Sender<Outcome>,
}

/// Who asks for a reload.
#[derive(Clone)]
pub struct Reloader {
    /// Nobody where there is no file.
    ask: Option<mpsc::Sender<Asked>>,
}

/// A way to ask, and its other end; `file` says whether there is something to be read.
pub(super) fn channel(file: bool) -> (Reloader, Questions) {
    let (ask, asked) = mpsc::channel(WAITING);
    let ask = file.then_some(ask);
    (Reloader { ask }, Questions(asked))
}

/// What is asked.
pub(super) struct Questions(mpsc::Receiver<Asked>);

impl Reloader {
    /// Reads the configuration again, as on SIGHUP. The log tells what came of it.
    ///
    /// # Errors
    /// [`NotReloaded`]: what was in force stays in force.
    pub async fn reload(&self) -> Result<Reloaded, NotReloaded> {
        self.ask(Cause::Signal).await
    }

    async fn ask(&self, cause: Cause) -> Outcome {
        let Some(ask) = &self.ask else {
            return Err(NotReloaded::NoFile);
        };
        let (answer, answered) = oneshot::channel();
        // That nobody takes it shows in the answer.
        let _ = ask.send(Asked { cause, answer }).await;
        answered.await.unwrap_or(Err(NotReloaded::Ending))
    }
}

#[async_trait]
impl File for Reloader {
    async fn reload(&self) -> Outcome {
        self.ask(Cause::Admin).await
    }
}

/// The task that reads the configuration again.
pub(super) struct Reloads {
    source: Source,
    parts: Arc<Parts>,
    demo: DemoStand,
    asked: mpsc::Receiver<Asked>,
    /// The last failure, so that it is told once.
    failure: Option<String>,
    /// What waits for a restart, as was told.
    waiting: Vec<Change>,
}

impl Reloads {
    pub(super) fn new(
        source: Source,
        parts: Parts,
        demo: DemoStand,
        Questions(asked): Questions,
    ) -> Reloads {
        Reloads {
            source,
            parts: Arc::new(parts),
            demo,
            asked,
            failure: None,
            waiting: Vec::new(),
        }
    }

    /// Works until it is aborted; half a reload is none.
    pub(super) async fn run(mut self) {
        let mut looks = interval_at(Instant::now() + self.source.look, self.source.look);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                asked = self.asked.recv() => match asked {
                    Some(Asked { cause, answer }) => {
                        let outcome = self.reload(cause).await;
                        // Who asked may have left.
                        let _ = answer.send(outcome);
                    }
                    None => return,
                },
                _ = looks.tick() => {
                    if self.changed().await {
                        let _ = self.reload(Cause::Watch).await;
                    }
                }
            }
        }
    }

    /// Whether one of the files has.
    async fn changed(&self) -> bool {
        let marks = self.source.marks.clone();
        let looked = spawn_blocking(move || marks.again() != marks).await;
        looked.unwrap_or(false)
    }

    async fn reload(&mut self, cause: Cause) -> Outcome {
        let done = match self.read().await {
            Ok(wanted) => self.put_in_force(wanted).await.map_err(Failure::Unfit),
            Err(errors) => Err(Failure::Invalid(errors)),
        };
        let metrics = &self.parts.lasting.metrics.reload;
        match done {
            Ok(done) => {
                let end = match done.changes.is_empty() {
                    true => ReloadEnd::Unchanged,
                    false => ReloadEnd::Applied,
                };
                metrics.ended(end, Some(done.restart_needed.len()));
                self.tell(cause, &done);
                self.settle(done).await
            }
            Err(failure) => {
                metrics.ended(ReloadEnd::Failed, None);
                self.tell_failure(cause, &failure);
                Err(NotReloaded::Invalid(failure.faults()))
            }
        }
    }

    async fn read(&mut self) -> Result<Config, Errors> {
        let (read, path) = (self.source.read.clone(), self.source.path.clone());
        let before = self.source.marks.clone();
        let work = move || marked(&*read, &path, &before);
        match aside(work).await {
            Some((config, marks)) => {
                self.source.marks = marks;
                config
            }
            // There is no thread to be had, or the reader has a bug: the panic was told.
            None => {
                let path = self.source.path.display().to_string();
                Err(Errors::of_file(&path, "it could not be read".to_owned()))
            }
        }
    }

    async fn put_in_force(&mut self, wanted: Config) -> Result<Done, String> {
        let demo = self.demo.access(&wanted)?;
        let parts = self.parts.clone();
        let work = move || parts.put_in_force(&wanted, demo.as_ref());
        aside(work)
            .await
            .unwrap_or_else(|| Err("it could not be built".to_owned()))
    }

    /// What may take its time, and what nobody waits for with a request.
    async fn settle(&self, done: Done) -> Outcome {
        if let Some(books) = &self.parts.books {
            books.open_new(&done.accounts).await;
        }
        let providers = done.providers;
        tokio::spawn(async move {
            for provider in providers {
                super::refresh::resolve(&provider).await;
            }
        });
        let paths = |changes: &[Change]| changes.iter().map(|one| one.path.clone()).collect();
        Ok(Reloaded {
            changes: paths(&done.changes),
            restart_needed: paths(&done.restart_needed),
        })
    }

    fn tell(&mut self, cause: Cause, done: &Done) {
        let mended = self.failure.take().is_some();
        let (changes, waiting) = (&done.changes, &done.restart_needed);
        let news = *waiting != self.waiting;
        if !changes.is_empty() || news || mended || cause != Cause::Watch {
            let count = changes.len();
            log::info!(
                "configuration reloaded ({}): {count} changes",
                cause.words()
            );
        }
        tell_all(changes, |line| log::info!("configuration: {line}"));
        if news {
            let words = "takes hold when the process is started anew";
            tell_all(waiting, |line| log::warn!("configuration: {words}: {line}"));
            self.waiting.clone_from(waiting);
        }
    }

    fn tell_failure(&mut self, cause: Cause, failure: &Failure) {
        let text = failure.to_string();
        // The same errors, found by another look.
        if cause == Cause::Watch && self.failure.as_ref() == Some(&text) {
            return;
        }
        log::error!(
            "configuration not reloaded ({}); what was in force stays in force",
            cause.words()
        );
        let lines: Vec<&str> = text.lines().collect();
        tell_all(&lines, |line| log::error!("configuration: {line}"));
        self.failure = Some(text);
    }
}

/// Works on a thread of its own, which gives way to all that serve requests: a large configuration takes a while.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("reload".into());
    let spawned = thread.spawn(move || {
        // Of Linux alone: elsewhere it would be the whole process that gives way. If it cannot be had, all goes as well.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, LEAST);
        // Who asked may have left.
        let _ = done.send(work());
    });
    if let Err(error) = spawned {
        log::error!("no thread for a reload: {error}");
    }
    result.await.ok()
}

fn tell_all(lines: &[impl std::fmt::Display], tell: impl Fn(&dyn std::fmt::Display)) {
    for line in lines.iter().take(LINES) {
        tell(line);
    }
    if lines.len() > LINES {
        tell(&format!("and {} more", lines.len() - LINES));
    }
}

/// Why a file changes nothing.
enum Failure {
    /// It has errors.
    Invalid(Errors),
    /// It is valid, and cannot be used all the same: one line.
    Unfit(String),
}

impl Failure {
    fn faults(&self) -> Vec<Fault> {
        match self {
            Failure::Invalid(errors) => errors
                .problems()
                .iter()
                .map(|problem| Fault {
                    line: problem.line,
                    column: problem.column,
                    path: problem.path.clone(),
                    message: problem.message.clone(),
                })
                .collect(),
            Failure::Unfit(message) => vec![Fault {
                line: 1,
                column: 1,
                path: String::new(),
                message: message.clone(),
            }],
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Invalid(errors) => errors.fmt(f),
            Failure::Unfit(message) => message.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn a_large_change_is_told_in_a_bounded_number_of_lines() {
        let told = |count: usize| {
            let lines: Vec<usize> = (1..=count).collect();
            let told = RefCell::new(Vec::new());
            tell_all(&lines, |line| told.borrow_mut().push(line.to_string()));
            told.into_inner()
        };
        assert_eq!(told(LINES).len(), LINES);
        let many = told(LINES + 7);
        assert_eq!(many.len(), LINES + 1);
        assert_eq!(many.last().unwrap(), "and 7 more");
    }
}
