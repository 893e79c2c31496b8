//! `weft completions`: clap's script for a shell, and around it one of ours that asks the agent for live names.

mod live;

use clap::Command;
use clap_complete::{Generator, Shell, generate};

pub(super) use self::live::{Args as LiveArgs, run as complete};
use super::output::{CliError, print};

/// Print the completion script of a shell
///
/// With it, TAB completes verbs and options, and where a service, a host or a check is expected, those that the agent
/// knows. An agent that does not answer within 300 ms completes nothing.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft completions bash > /usr/share/bash-completion/completions/weft
  weft completions zsh > /usr/local/share/zsh/site-functions/_weft
  weft completions fish > ~/.config/fish/completions/weft.fish")]
pub(super) struct Args {
    /// For which shell
    #[arg(value_enum)]
    shell: For,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum For {
    /// GNU bash 4 or later
    Bash,
    /// zsh 5 or later
    Zsh,
    /// fish 3 or later
    Fish,
}

const BASH: &str = include_str!("weft.bash");
const ZSH: &str = include_str!("weft.zsh");
const FISH: &str = include_str!("weft.fish");

/// Runs the verb; `weft` is the whole command line.
pub(super) fn run(args: &Args, weft: &Command) -> Result<(), CliError> {
    print(&script(args.shell, weft))
}

fn script(shell: For, weft: &Command) -> String {
    match shell {
        For::Bash => around(&of_clap(Shell::Bash, weft), BASH),
        For::Zsh => around(&of_clap(Shell::Zsh, weft), ZSH),
        For::Fish => of_clap(Shell::Fish, weft) + FISH,
    }
}

fn of_clap(shell: impl Generator, weft: &Command) -> String {
    let mut shown = without_hidden(weft);
    let mut script = Vec::new();
    generate(shell, &mut shown, "weft", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// clap_complete offers hidden verbs too.
fn without_hidden(weft: &Command) -> Command {
    let shown = weft.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    Command::new("weft").version(env!("CARGO_PKG_VERSION")).args(weft.get_arguments().cloned()).subcommands(shown)
}

/// clap's function `_weft` becomes `_weft_static`; ours takes its name, and stands before the line that registers it.
fn around(script: &str, ours: &str) -> String {
    let renamed = script.replacen("\n_weft() {", "\n_weft_static() {", 1);
    let renamed = match renamed.strip_prefix("_weft() {") {
        Some(rest) => format!("_weft_static() {{{rest}"),
        None => renamed,
    };
    // What registers is the last block of both scripts.
    match renamed.rfind("\nif [") {
        Some(at) => format!("{}\n{ours}{}", &renamed[..at], &renamed[at..]),
        None => format!("{renamed}\n{ours}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn script(shell: For) -> String {
        super::script(shell, &crate::cli::Cli::command())
    }

    #[test]
    fn our_function_takes_the_name_that_is_registered_and_calls_claps() {
        for shell in [For::Bash, For::Zsh] {
            let text = script(shell);
            assert_eq!(text.matches("\n_weft() {").count(), 1, "{shell:?}");
            assert!(text.contains("_weft_static() {") && text.contains("    _weft_static \"$@\""), "{shell:?}");
            let (ours, registers) = (text.find("\n_weft() {").unwrap(), text.rfind("\nif [").unwrap());
            assert!(ours < registers, "{shell:?}");
        }
    }

    #[test]
    fn hidden_verbs_are_not_offered() {
        for shell in [For::Bash, For::Zsh, For::Fish] {
            let text = script(shell);
            assert!(text.contains("force-leave") && !text.contains("dev-host"), "{shell:?}");
        }
    }

    #[test]
    fn every_verb_that_takes_a_live_name_exists() {
        let weft = crate::cli::Cli::command();
        for verb in ["services", "resolve", "explain", "watch", "deregister", "maint", "check", "force-leave"] {
            assert!(weft.find_subcommand(verb).is_some(), "{verb}");
            assert!([BASH, ZSH, FISH].iter().all(|script| script.contains(verb)), "{verb}");
        }
    }

    #[test]
    fn bash_takes_the_script_and_completes_verbs_and_live_names() {
        let folder = tempfile::tempdir().unwrap();
        let asked = "weft() { [[ $1 == complete ]] && printf 'billing\\nbilling-2\\nweb\\n'; }";
        let ask = |words: &str, at: usize, current: &str| {
            let path = folder.path().join("weft.bash");
            std::fs::write(&path, script(For::Bash)).unwrap();
            let run = format!(
                "source {}; {asked}; COMP_WORDS=({words} '{current}'); COMP_CWORD={at}; \
                 _weft weft '{current}' x; echo \"${{COMPREPLY[*]}}\"",
                path.display()
            );
            let output = std::process::Command::new("bash").args(["--norc", "-c", &run]).output().unwrap();
            assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(ask("weft", 1, "wat"), "watch");
        assert_eq!(ask("weft resolve", 2, "bil"), "billing billing-2");
        assert_eq!(ask("weft --api 127.0.0.2:8500 explain", 4, "w"), "web");
        assert_eq!(ask("weft maint on", 3, "we"), "web");
        assert!(ask("weft watch", 2, "--pass").contains("--passing"));
    }
}
