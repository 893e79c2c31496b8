//! How every verb speaks: tables and JSON on standard output, errors and remarks on standard error, exit codes.
//!
//! Names, zones and tags come from other hosts, so nothing of them that could steer a terminal is printed.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::color::{Color, painted_as};

/// Done.
pub(super) const EXIT_OK: u8 = 0;
/// Could not be done; the message says why.
pub(super) const EXIT_FAILED: u8 = 1;
/// Was asked for wrongly; clap uses the same.
pub(super) const EXIT_USAGE: u8 = 2;
/// No agent answered.
pub(super) const EXIT_UNREACHABLE: u8 = 3;
/// The agent answered; what was asked for does not exist.
pub(super) const EXIT_NOT_FOUND: u8 = 4;

/// `weft plan`: something would change.
pub(super) const EXIT_CHANGES: u8 = 5;

/// For the end of `--help`: exit codes are an interface, scripts test them.
pub(super) const EXIT_CODES_HELP: &str = "\
Exit codes:
  0  done
  1  failed; the message says why
  2  wrong usage
  3  no agent answers
  4  what was asked for does not exist
  5  of `weft plan`: something would change";

/// Apart in `--help`, so that a verb's own options stand first.
const EVERY_VERB: &str = "Options of every verb";

/// How the agent's API is asked.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Api {
    /// Where the agent's API is: a socket's path, HOST:PORT or http://HOST:PORT
    ///
    /// Without it, and without WEFT_API: the socket /run/weft/weft.sock, then 127.0.0.1:8500.
    #[arg(id = "api", long = "api", global = true, value_name = "ADDRESS", help_heading = EVERY_VERB)]
    pub address: Option<String>,

    /// A file with the token to show, made by `weft acl create`; the unix socket needs none
    ///
    /// Without it: the token that WEFT_API_TOKEN holds, if any.
    #[arg(id = "api_token", long = "api-token", global = true, value_name = "FILE", help_heading = EVERY_VERB)]
    pub token_file: Option<PathBuf>,
}

impl From<String> for Api {
    fn from(address: String) -> Api {
        Api { address: Some(address), token_file: None }
    }
}

/// What every verb that talks to the agent takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Globals {
    /// Where the agent's API is, and the token to show it
    #[command(flatten)]
    pub api: Api,

    /// Print JSON, for programs: stable keys, and "version": 1 in every object
    #[arg(long, global = true, help_heading = EVERY_VERB)]
    pub json: bool,

    /// When health is shown in colour; auto is on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t, help_heading = EVERY_VERB)]
    pub color: Color,
}

/// Why a verb could not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CliError {
    /// What failed, on what; empty if there is nothing to say.
    pub message: String,
    /// What to do next; empty if there is nothing to say.
    pub advice: String,
    /// One of the `EXIT_` constants.
    pub exit_code: u8,
}

impl CliError {
    /// An error that ends in [`EXIT_FAILED`].
    pub(super) fn failed(message: impl Into<String>, advice: impl Into<String>) -> CliError {
        CliError { message: message.into(), advice: advice.into(), exit_code: EXIT_FAILED }
    }

    /// No error, but an exit code that says something; everything has been printed.
    pub(super) fn silent(exit_code: u8) -> CliError {
        CliError { message: String::new(), advice: String::new(), exit_code }
    }

    /// The same error with another exit code.
    pub(super) fn exiting(self, exit_code: u8) -> CliError {
        CliError { exit_code, ..self }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Mistakes of a file are told one a line.
        for (at, line) in self.message.lines().enumerate() {
            write!(f, "{}{}", if at == 0 { "error: " } else { "\n" }, Plain(line))?;
        }
        if !self.advice.is_empty() {
            write!(f, "\n  next: {}", Plain(&self.advice))?;
        }
        Ok(())
    }
}

impl std::error::Error for CliError {}

/// Text with its control characters, and those that reorder text (Unicode's bidi controls), made visible.
pub(super) struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| write!(f, "{}", plain(c)))
    }
}

fn plain(c: char) -> char {
    let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || reorders { '\u{fffd}' } else { c }
}

/// Columns, aligned by their widest cell. The last is never padded, and an empty cell prints as `-`, so that `awk` finds
/// the same column in every row.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    /// Words of health are painted.
    painted: bool,
}

/// Columns whose cells are words of health; elsewhere a service may be named `failed`.
const PAINTED: [&str; 4] = ["HEALTH", "STATE", "MESH", "CALLS"];

impl Table {
    /// A table with a row of headings.
    pub(super) fn new(headings: &[&str]) -> Table {
        Table { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()], painted: false }
    }

    /// The same with its words of health in colour, if `shown`.
    pub(super) fn painted(self, shown: bool) -> Table {
        Table { painted: shown, ..self }
    }

    /// True if there is nothing but headings.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// Adds a row.
    pub(super) fn row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cell = |cell: T| match cell.as_ref() {
            "" => "-".to_owned(),
            text => text.chars().map(plain).collect(),
        };
        self.rows.push(cells.into_iter().map(cell).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let paints = |at: usize| self.rows.first().and_then(|row| row.get(at)).is_some_and(|h| PAINTED.contains(&&**h));
        for row in &self.rows {
            let Some((last, padded)) = row.split_last() else { continue };
            for (at, (cell, width)) in padded.iter().zip(&widths).enumerate() {
                // Padding is not painted: it would be underlined by some terminals' themes.
                let gap = width - cell.chars().count() + 2;
                painted_as(f, cell, cell, self.painted && paints(at))?;
                write!(f, "{:gap$}", "")?;
            }
            painted_as(f, last, last, self.painted && paints(padded.len()))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Prints to standard output. A reader that has gone (`weft members | head -1`) is no error.
pub(super) fn print(text: &impl fmt::Display) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::failed(format!("cannot write to standard output: {error}"), ""))
        }
        _ => Ok(()),
    }
}

/// Prints text to standard output; false if its reader has gone, which ends verbs that print on and on.
pub(super) fn print_line(text: &str) -> Result<bool, CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::failed(format!("cannot write to standard output: {error}"), "")),
    }
}

/// Raised when a key of the JSON output goes or changes its meaning; new keys do not raise it.
const JSON_VERSION: u32 = 1;

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    value: &'a T,
}

/// Prints one JSON object to standard output.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    match serde_json::to_string_pretty(&Versioned { version: JSON_VERSION, value }) {
        Ok(text) => print(&format_args!("{text}\n")),
        Err(error) => Err(no_json(&error)),
    }
}

/// One JSON object on one line, its end included, for verbs that print one after another.
pub(super) fn json_line(value: &impl Serialize) -> Result<String, CliError> {
    let line = serde_json::to_string(&Versioned { version: JSON_VERSION, value }).map_err(|error| no_json(&error))?;
    Ok(line + "\n")
}

fn no_json(error: &serde_json::Error) -> CliError {
    CliError::failed(format!("cannot write JSON: {error}"), "")
}

/// What tables say about how old they are; on standard error, so that standard output stays a table.
pub(super) const STALE_BANNER: &str = "\
stale: this host has no contact with the others; what follows was true when contact ended
";

/// Prints [`STALE_BANNER`] if the answer was stale.
pub(super) fn warn_if_stale(stale: bool) {
    if stale {
        remark(STALE_BANNER);
    }
}

/// Prints a remark to standard error. One that nobody can read is lost, and nothing else with it.
pub(super) fn remark(text: &str) {
    let _lost = write!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_aligns_its_columns_and_shows_empty_cells() {
        let mut table = Table::new(&["NAME", "ZONE", "ID"]);
        table.row(["web-01", "", "01"]);
        table.row(["é", "eu-1a", "02"]);
        assert_eq!(table.to_string(), "NAME    ZONE   ID\nweb-01  -      01\né       eu-1a  02\n");
    }

    #[test]
    fn nothing_that_another_host_says_steers_the_terminal() {
        let mut table = Table::new(&["ZONE"]);
        table.row(["\u{1b}]0;owned\u{7}\u{202e}x"]);
        assert_eq!(table.to_string(), "ZONE\n\u{fffd}]0;owned\u{fffd}\u{fffd}x\n");
        let error = CliError::failed("a\u{1b}[2Jb", "");
        assert_eq!(error.to_string(), "error: a\u{fffd}[2Jb");
    }

    #[test]
    fn only_words_of_health_in_their_columns_are_painted_and_columns_stay_aligned() {
        let mut table = Table::new(&["NAME", "HEALTH", "ID"]);
        table.row(["critical", "critical", "01"]);
        table.row(["web", "passing", "02"]);
        let expected = "NAME      HEALTH    ID\ncritical  \u{1b}[31mcritical\u{1b}[0m  01\n\
                        web       \u{1b}[32mpassing\u{1b}[0m   02\n";
        assert_eq!(table.clone().painted(true).to_string(), expected);
        assert!(!table.painted(false).to_string().contains('\u{1b}'));
    }

    #[test]
    fn every_json_object_says_its_version_first() {
        #[derive(Serialize)]
        struct Said {
            left: bool,
        }
        assert_eq!(json_line(&Said { left: true }).unwrap(), "{\"version\":1,\"left\":true}\n");
    }

    #[test]
    fn an_error_says_what_to_do_next() {
        let error = CliError::failed("no agent answers", "start it: systemctl start weft").exiting(EXIT_UNREACHABLE);
        assert_eq!(error.to_string(), "error: no agent answers\n  next: start it: systemctl start weft");
        assert_eq!(error.exit_code, 3);
        let error = CliError::failed("2 mistakes\nx.toml:1: a\nx.toml:2: b\u{1b}", "");
        assert_eq!(error.to_string(), "error: 2 mistakes\nx.toml:1: a\nx.toml:2: b\u{fffd}");
    }
}
