//! The process's own log, on standard error: what happens to the gateway, not to each request.

use crate::config::{Log as Settings, LogFormat};
use crate::record::access_log::rfc3339;
use log::{Log, Metadata, Record};
use serde_json::json;
use std::io::Write;
use std::time::SystemTime;

struct Stderr {
    format: LogFormat,
}

/// Starts logging as configured; a reload may change the level.
pub fn start(settings: Settings) {
    let logger = Stderr {
        format: settings.format,
    };
    // A second call, in a test, leaves the first logger in place.
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(settings.level.into());
    }
}

impl Log for Stderr {
    /// Libraries may only warn: below that they print headers and bodies, and their errors are
    /// mostly clients that hung up. The client of Redis warns of each try to connect; what matters of
    /// that is told by `store`.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let own = metadata.target().starts_with("tollgate");
        let telling =
            metadata.level() == log::Level::Warn && !metadata.target().starts_with("redis");
        metadata.level() <= log::max_level() && (own || telling)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let time = rfc3339(SystemTime::now());
        let message = record.args().to_string();
        let line = match self.format {
            LogFormat::Json => json!({
                "time": time,
                "level": record.level().as_str().to_ascii_lowercase(),
                "target": record.target(),
                "message": message,
            })
            .to_string(),
            LogFormat::Text => {
                format!("{time} {:5} {}", record.level(), message.escape_debug())
            }
        };
        // There is nowhere left to say that standard error is closed.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }

    fn flush(&self) {}
}
