//! `tollgate serve`.

use super::process::{Answer, PidFile, Request, WITHIN};
use super::{environment, logging, quick};
use crate::config::{Config, read};
use crate::server::handover::{Launch, Predecessor};
use crate::server::{Listening, Reloader, Running, Source, notify, start_after};
use std::io::{Write, stderr, stdout};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

/// After an upgrade the process before may go on with its requests at least so long: nobody waits for its end.
const AFTER_UPGRADE: Duration = Duration::from_secs(15 * 60);

/// Serves until a signal.
pub fn run(path: Option<&Path>) -> Result<(), String> {
    let (source, config) = match path {
        Some(path) => {
            let file = path.to_owned();
            let opened = Source::open(path, move || read(&file, &environment));
            let (source, config) = opened.map_err(super::invalid)?;
            (Some(source), config)
        }
        None => (None, quick::config(&environment)?),
    };
    logging::start(config.log);
    if !config.dormant.is_empty() {
        log::warn!(
            "settings without effect in this version: {}",
            config.dormant.join(", ")
        );
    }
    // Before anyone can put something else at its path.
    let launch = Launch::of_this_process();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = config.threads {
        builder.worker_threads(threads);
    }
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start threads: {error}"))?;
    let result = runtime.block_on(serve(&config, source, launch));
    // Drops what is left of the connections, and with the last of them closes the access log.
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

async fn serve(
    config: &Config,
    source: Option<Source>,
    launch: Result<Launch, String>,
) -> Result<(), String> {
    // Without a file to read again, SIGHUP means what it means to all programs: the terminal is gone.
    let hangup = match &source {
        Some(_) => Some(signal(SignalKind::hangup()).map_err(|error| error.to_string())?),
        None => None,
    };
    // Before anyone is told that there is something to stop.
    let mut signals = Signals::new().map_err(|error| error.to_string())?;
    let predecessor = Predecessor::of_this_process()?;
    let before = predecessor.as_ref().map(|before| before.pid);
    let from_file = source.is_some();
    let mut running = start_after(config, stdout(), source, predecessor).await?;
    if let Some(hangup) = hangup {
        tokio::spawn(reload_on(hangup, running.reloader.clone()));
    }
    running.tell_predecessor().await?;
    let store = &config.store.path;
    // What serves without a file has nothing to be upgraded by.
    let mut pid_file = from_file.then(|| PidFile::write(store, before));
    announce(config, &running);
    notify::ready();
    let watchdog = watchdog(before.is_some());
    loop {
        let lame_duck = match signals.next().await {
            Asked::Terminate => running.config().shutdown.lame_duck,
            // A person at the keyboard waits for no load balancer.
            Asked::Interrupt => Duration::ZERO,
            Asked::Upgrade => {
                let answer = match from_file {
                    true => upgrade(&running, store, &launch, &mut signals).await,
                    false => Err("it serves without a file".to_owned()),
                };
                let request = Request::of(store, std::process::id());
                match answer {
                    Ok(pid) => {
                        log::info!("process {pid} serves; this one ends when its requests have");
                        notify::main_pid(pid);
                        // Whether the successor is alive is its own to say.
                        drop(watchdog);
                        request.answer(&Answer::Serves(pid));
                        return outlive(running, config, &mut signals).await;
                    }
                    Err(why) => {
                        log::error!("no successor serves: {why}; this process serves on");
                        pid_file.iter_mut().for_each(PidFile::rewrite);
                        request.answer(&Answer::Failed(why));
                    }
                }
                continue;
            }
        };
        notify::stopping();
        log::info!("stopping; {} requests in flight", running.active());
        let end = async {
            running.announce_end(lame_duck).await;
            let grace = running.config().shutdown.grace;
            running.shutdown(grace).await;
        };
        tokio::select! {
            () = end => {}
            // A second signal: at once.
            () = signals.end() => {}
        }
        return Ok(());
    }
}

/// Starts a successor; gives its process id when it serves.
async fn upgrade(
    running: &Running,
    store: &Path,
    launch: &Result<Launch, String>,
    signals: &mut Signals,
) -> Result<u32, String> {
    let launch = launch.as_ref().map_err(String::clone)?;
    if let Some(why) = irreplaceable() {
        return Err(why.into());
    }
    let within = Request::of(store, std::process::id()).within();
    let mut ended = None;
    let cancelled = async { ended = Some(signals.ends().await) };
    let handed = running.hand_over(launch, within.unwrap_or(WITHIN), cancelled);
    let handed = handed.await;
    signals.asked = ended;
    handed
}

/// Why this process must not end in favour of another, if it must not.
fn irreplaceable() -> Option<&'static str> {
    if std::process::id() == 1 {
        return Some(
            "this is process 1 of its container, which would end with it: replace the container",
        );
    }
    let main = std::env::var("SYSTEMD_EXEC_PID").ok();
    let main = main.and_then(|pid| pid.parse::<u32>().ok()) == Some(std::process::id());
    (main && std::env::var_os("NOTIFY_SOCKET").is_none()).then_some(
        "systemd would end the service with this process: its unit needs Type=notify and NotifyAccess=all",
    )
}

/// The successor serves: what is in flight here goes on to its end, and connections are closed when they are idle.
async fn outlive(running: Running, config: &Config, signals: &mut Signals) -> Result<(), String> {
    let longest = running.config().shutdown.grace.max(AFTER_UPGRADE);
    let grace = {
        let mut quiet = pin!(timeout(longest, running.quiet()));
        loop {
            let asked = tokio::select! {
                _ = &mut quiet => break Duration::ZERO,
                asked = signals.next() => asked,
            };
            match asked {
                Asked::Upgrade => {
                    let request = Request::of(&config.store.path, std::process::id());
                    let why = "it has a successor already, and ends";
                    request.answer(&Answer::Failed(why.into()));
                }
                // The successor is told as well.
                Asked::Terminate | Asked::Interrupt => break running.config().shutdown.grace,
            }
        }
    };
    tokio::select! {
        () = running.shutdown(grace) => {}
        () = signals.end() => {}
    }
    Ok(())
}

/// Reads the configuration again with every signal. The log tells what came of it.
async fn reload_on(mut hangup: Signal, reloader: Reloader) {
    while hangup.recv().await.is_some() {
        notify::reloading();
        let _ = reloader.reload().await;
        notify::ready();
    }
}

/// Tells the service manager that the runtime is alive, if it wants to hear it, until this is dropped.
fn watchdog(inherited: bool) -> Option<Watchdog> {
    let period = notify::watchdog(inherited)?;
    Some(Watchdog(tokio::spawn(async move {
        let mut ticks = interval(period / 2);
        loop {
            ticks.tick().await;
            notify::alive();
        }
    })))
}

struct Watchdog(JoinHandle<()>);

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What somebody wants of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Terminate,
    Interrupt,
    Upgrade,
}

/// The signals that are listened to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    upgrade: Signal,
    /// One that came while something else was under way.
    asked: Option<Asked>,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            upgrade: signal(SignalKind::user_defined2())?,
            asked: None,
        })
    }

    async fn next(&mut self) -> Asked {
        if let Some(asked) = self.asked.take() {
            return asked;
        }
        tokio::select! {
            _ = self.terminate.recv() => Asked::Terminate,
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.upgrade.recv() => Asked::Upgrade,
        }
    }

    /// The next one that asks for the end.
    async fn ends(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Terminate,
            _ = self.interrupt.recv() => Asked::Interrupt,
        }
    }

    async fn end(&mut self) {
        self.ends().await;
    }
}

/// Tells a person where the gateway is, and, when it made a key, how to use it. This goes to
/// standard error: standard output is the access log's.
fn announce(config: &Config, running: &Running) {
    let mut text = format!("Tollgate {}\n", env!("CARGO_PKG_VERSION"));
    for listening in &running.listeners {
        text += &format!("  listening  {}\n", base(*listening));
    }
    if let Some(metrics) = running.metrics {
        text += &format!("  metrics    http://{metrics}/metrics\n");
    }
    if let Some(admin) = running.admin {
        text += &format!("  admin      http://{admin}/admin/v1\n");
    }
    if let (Some(key), Some(first)) = (&running.session_key, running.listeners.first()) {
        text += &format!(
            "  key        {key}   (until this process ends: the configuration has no keys)\n"
        );
        text += &example(config, base(*first), key);
    } else if config.keys.is_empty() && config.anonymous.is_none() {
        log::warn!(
            "the configuration has no keys: every request will be refused; add some under keys:"
        );
    }
    // Serving matters more than saying so.
    let _ = stderr().write_all(text.as_bytes());
}

fn base(listening: Listening) -> String {
    let Listening { mut address, tls } = listening;
    if address.ip().is_unspecified() {
        address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    format!("http{}://{address}", if tls { "s" } else { "" })
}

fn example(config: &Config, base: String, key: &str) -> String {
    use crate::config::{Api, ModelStatus, ProviderApi};
    let mount = config
        .surfaces
        .iter()
        .find(|surface| surface.api == Api::OpenAi);
    let model = config
        .models
        .iter()
        .find(|model| model.status == ModelStatus::Active && model.id != "*");
    let mount = mount.map_or("/v1", |surface| &surface.mount);
    let Some(model) = model.map(|model| &model.id) else {
        // Nothing is listed by name: only a provider of OpenAI's API can be asked what it has.
        let listing = config
            .providers
            .iter()
            .any(|provider| provider.api != ProviderApi::Anthropic);
        return match listing {
            true => format!(
                "\nSee its models:\n  curl {base}{mount}/models -H 'Authorization: Bearer {key}'\n\n"
            ),
            false => String::new(),
        };
    };
    format!(
        "\nTry it:\n  curl {base}{mount}/chat/completions \\\n    -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\\n    -d '{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'\n\n"
    )
}
