//! `weft validate`: the files, read as the agent would read them.

use std::path::PathBuf;

use serde::Serialize;

use super::output::{CliError, Globals, print, print_json};
use crate::config::Config;

/// Check configuration and service files; tells every mistake at once
///
/// Reads what the agent would read and opens nothing else. Exits 1 if there is a mistake.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration; service files are read from services.d beside it
    #[arg(long, value_name = "FILE", default_value = "/etc/weft/weft.toml")]
    config: PathBuf,
}

#[derive(Serialize)]
struct Mistake {
    file: String,
    line: Option<u64>,
    message: String,
    advice: String,
}

#[derive(Serialize)]
struct Report {
    valid: bool,
    services: usize,
    mistakes: Vec<Mistake>,
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let loaded = Config::load(&args.config);
    let report = report(&loaded);
    if globals.json {
        print_json(&report)?;
    }
    match loaded {
        Ok(_) if globals.json => Ok(()),
        Ok(config) => {
            print(&format_args!("{} is valid; services defined: {}\n", args.config.display(), config.services.len()))
        }
        Err(errors) => {
            if !globals.json {
                print(&format_args!("{errors}\n"))?;
            }
            let count = errors.0.len();
            let what = if count == 1 { "mistake" } else { "mistakes" };
            Err(CliError::failed(
                format!("{count} {what} in {}", args.config.display()),
                "correct them and validate again",
            ))
        }
    }
}

fn report(loaded: &Result<Config, crate::config::ConfigErrors>) -> Report {
    match loaded {
        Ok(config) => Report { valid: true, services: config.services.len(), mistakes: Vec::new() },
        Err(errors) => {
            let mistake = |error: &crate::config::ConfigError| Mistake {
                file: error.file.display().to_string(),
                line: error.line.map(|line| line as u64),
                message: error.message.clone(),
                advice: error.advice.clone(),
            };
            Report { valid: false, services: 0, mistakes: errors.0.iter().map(mistake).collect() }
        }
    }
}
