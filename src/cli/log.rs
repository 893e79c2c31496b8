//! Where log lines go: standard error, for people or as JSON, at the levels of the configuration.

use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};

/// Starts logging. Once a process.
pub(super) fn start(config: &LogConfig) {
    let registry = tracing_subscriber::registry();
    let text = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let started = match config.format {
        LogFormat::Text => registry.with(text.with_ansi(false).with_filter(config.level.clone())).try_init(),
        LogFormat::Json => {
            let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
            registry.with(json.with_filter(config.level.clone())).try_init()
        }
    };
    if let Err(error) = started {
        eprintln!("weft: logging could not be started: {error}");
    }
}
