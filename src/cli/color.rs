//! Colour, used sparingly: words of health, and nothing that colour alone would tell.

use std::fmt;
use std::io::{IsTerminal, stdout};

/// When colour is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless NO_COLOR is set (no-color.org) or the terminal is `dumb`.
    #[default]
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

impl Color {
    /// True if standard output takes colour now.
    pub(super) fn shown(self) -> bool {
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
                let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
                !set("NO_COLOR") && !dumb && stdout().is_terminal()
            }
        }
    }
}

/// The code of a word of health; `None` for every other word.
fn code(word: &str) -> Option<&'static str> {
    match word.trim() {
        "passing" | "alive" | "ok" | "yes" | "well" => Some("32"),
        "warning" | "suspect" | "unknown" | "maintenance" | "attention" => Some("33"),
        "critical" | "failed" | "unreachable" | "no" => Some("31"),
        _ => None,
    }
}

/// Writes `text` in the colour of `word`, if it has one and colours are `shown`.
pub(super) fn painted_as(f: &mut impl fmt::Write, word: &str, text: &str, shown: bool) -> fmt::Result {
    match code(word).filter(|_| shown) {
        Some(code) => write!(f, "\u{1b}[{code}m{text}\u{1b}[0m"),
        None => f.write_str(text),
    }
}
