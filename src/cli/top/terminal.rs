//! The terminal while `weft top` runs: its second screen, without a cursor, and given back as it was.

use std::fmt::Write;
use std::io::{IsTerminal, stdout};

use rustix::termios::tcgetwinsize;

use super::screen::Size;
use crate::cli::output::{CliError, print_line};

/// ECMA-48 and xterm: second screen, cursor away.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
/// Cursor back, first screen.
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";
const HOME: &str = "\u{1b}[H";
const CLEAR_TO_LINE_END: &str = "\u{1b}[K";
const CLEAR_TO_SCREEN_END: &str = "\u{1b}[J";

/// A terminal that is being drawn on.
#[derive(Debug)]
pub(super) struct Terminal(());

impl Terminal {
    /// `None` if standard output is none.
    pub(super) fn open() -> Option<Terminal> {
        let opened = stdout().is_terminal() && print_line(ENTER).ok()?;
        opened.then_some(Terminal(()))
    }

    /// As it is now: it may have been resized.
    pub(super) fn size(&self) -> Option<Size> {
        let size = tcgetwinsize(stdout()).ok()?;
        let size = Size { columns: usize::from(size.ws_col), rows: usize::from(size.ws_row) };
        // A serial line does not know.
        (size.columns > 0 && size.rows > 0).then_some(size)
    }

    /// Redraws without clearing first, so that nothing flickers. False if the terminal has gone.
    pub(super) fn draw(&self, lines: &[String], size: Option<Size>) -> Result<bool, CliError> {
        let mut frame = String::from(HOME);
        for (at, line) in lines.iter().enumerate() {
            let start = if at == 0 { "" } else { "\r\n" };
            // Cleared before it is written: behind a full line the cursor stands on its last character.
            // Writing to a String cannot fail.
            let _infallible = write!(frame, "{start}{CLEAR_TO_LINE_END}{line}");
        }
        if size.is_none_or(|size| lines.len() < size.rows) {
            frame.push_str("\r\n");
            frame.push_str(CLEAR_TO_SCREEN_END);
        }
        print_line(&frame)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _lost = print_line(LEAVE);
    }
}
