//! `weft man`: the manual page, made from the command line's own definition.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Command;
use clap_mangen::Man;
use serde::Serialize;

use super::output::{CliError, Globals, print, print_json};

/// Print the manual page of all verbs, or write one page a verb
///
/// On standard output it is one page, weft(1), with a section for every verb. With --dir there are besides it
/// weft-VERB(1) for every verb.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft man | man -l -
  weft man --dir /usr/local/share/man/man1")]
pub(super) struct Args {
    /// Write the pages there instead of printing one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Done {
    pages: Vec<PathBuf>,
}

/// Runs the verb; `weft` is the whole command line.
pub(super) fn run(args: &Args, weft: Command, globals: &Globals) -> Result<(), CliError> {
    let weft = built(weft);
    let Some(dir) = &args.dir else {
        let page = whole(&weft).map_err(|error| CliError::failed(format!("cannot make the page: {error}"), ""))?;
        return print(&page);
    };
    let mut pages = Vec::new();
    let failed = |path: &Path, error: &io::Error| {
        let advice = "give a directory that is there and may be written";
        CliError::failed(format!("cannot write {}: {error}", path.display()), advice)
    };
    let path = dir.join("weft.1");
    whole(&weft).and_then(|page| fs::write(&path, page)).map_err(|error| failed(&path, &error))?;
    pages.push(path);
    for verb in verbs(&weft) {
        let path = dir.join(format!("weft-{}.1", verb.get_name()));
        alone(verb).and_then(|page| fs::write(&path, page)).map_err(|error| failed(&path, &error))?;
        pages.push(path);
    }
    if globals.json {
        return print_json(&Done { pages });
    }
    print(&format_args!("{} pages are in {}\n", pages.len(), dir.display()))
}

/// Names and usages filled in. `help` is not a verb of its own here.
fn built(weft: Command) -> Command {
    let mut weft = weft.disable_help_subcommand(true);
    weft.build();
    weft
}

fn verbs(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|verb| !verb.is_hide_set())
}

/// weft(1): itself, then every verb as a section.
fn whole(weft: &Command) -> io::Result<String> {
    let man = Man::new(weft.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    for verb in verbs(weft) {
        section(verb, &mut page)?;
    }
    appendix(weft, "EXIT STATUS", &mut page)?;
    man.render_version_section(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// weft-VERB(1).
fn alone(verb: &Command) -> io::Result<String> {
    let man = Man::new(verb.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    body(verb, &mut page)?;
    for inner in verbs(verb) {
        section(inner, &mut page)?;
    }
    writeln!(page, ".SH SEE ALSO\n\\fBweft\\fR(1)")?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// A verb inside another's page: its sections become subsections.
fn section(verb: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let name = verb.get_bin_name().unwrap_or(verb.get_name());
    writeln!(page, ".SH {}", escaped(&name.to_uppercase()))?;
    // Options of every verb are told once, with weft itself.
    let verb = verb.clone().mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg });
    let mut inner = Vec::new();
    body(&verb, &mut inner)?;
    page.extend(String::from_utf8_lossy(&inner).replace("\n.SH ", "\n.SS ").into_bytes());
    for deeper in verbs(&verb) {
        section(deeper, page)?;
    }
    Ok(())
}

fn body(verb: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let man = Man::new(verb.clone());
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    appendix(verb, "EXAMPLES", page)
}

/// The end of `--help`, line by line as it stands there.
fn appendix(command: &Command, title: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let Some(text) = command.get_after_help().map(ToString::to_string) else { return Ok(()) };
    writeln!(page, ".SH {title}\n.nf")?;
    for line in text.lines().filter(|line| !matches!(*line, "Examples:" | "Exit codes:")) {
        writeln!(page, "{}", escaped(line.strip_prefix("Example:").unwrap_or(line)))?;
    }
    writeln!(page, ".fi")
}

/// For roff: a backslash, a leading dot or quote, and hyphens that are to be copied into a shell.
fn escaped(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_page_has_a_section_for_every_verb_with_its_examples_as_they_are() {
        let weft = built(crate::cli::Cli::command());
        let page = whole(&weft).unwrap();
        for verb in verbs(&weft) {
            let heading = format!(".SH WEFT {}", escaped(&verb.get_name().to_uppercase()));
            assert!(page.contains(&heading), "{heading}");
        }
        assert!(page.contains(".SH WEFT CA INIT") && page.contains(".SH EXIT STATUS"));
        assert!(page.contains("  weft watch billing \\-\\-passing \\-\\-once | jq"), "examples keep their form");
        assert!(!page.contains("dev\\-host") && !page.contains("WEFT COMPLETE\n"), "hidden verbs stay hidden");
    }

    #[test]
    fn lines_that_roff_would_read_are_escaped() {
        assert_eq!(escaped(".x"), "\\&.x");
        assert_eq!(escaped("a\\b --c"), "a\\eb \\-\\-c");
    }
}
