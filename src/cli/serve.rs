//! `tollgate serve`.

use super::{environment, logging, quick};
use crate::config::{Config, read};
use crate::server::{Listening, Reloader, Running, Source, start};
use std::io::{Write, stderr, stdout};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Requests in flight may end within this time after SIGTERM.
const GRACE: Duration = Duration::from_secs(30);

/// After SIGTERM readiness fails so long before the listeners close: load balancers commonly ask
/// every second.
const NOTICE: Duration = Duration::from_secs(2);

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
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = config.threads {
        builder.worker_threads(threads);
    }
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start threads: {error}"))?;
    let result = runtime.block_on(serve(&config, source));
    // Drops what is left of the connections, and with the last of them closes the access log.
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

async fn serve(config: &Config, source: Option<Source>) -> Result<(), String> {
    // Without a file to read again, SIGHUP means what it means to all programs: the terminal is gone.
    let hangup = match &source {
        Some(_) => Some(signal(SignalKind::hangup()).map_err(|error| error.to_string())?),
        None => None,
    };
    // Before anyone is told that there is something to stop.
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let running = start(config, stdout(), source).await?;
    if let Some(hangup) = hangup {
        tokio::spawn(reload_on(hangup, running.reloader.clone()));
    }
    announce(config, &running);
    let notice = tokio::select! {
        _ = terminate.recv() => NOTICE,
        // A person at the keyboard waits for no load balancer.
        _ = interrupt.recv() => Duration::ZERO,
    };
    log::info!("stopping; {} requests in flight", running.active());
    let end = async {
        running.announce_end(notice).await;
        running.shutdown(GRACE).await;
    };
    tokio::select! {
        () = end => {}
        // A second signal: at once.
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Reads the configuration again with every signal. The log tells what came of it.
async fn reload_on(mut hangup: Signal, reloader: Reloader) {
    while hangup.recv().await.is_some() {
        let _ = reloader.reload().await;
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
