//! The command line: one file a verb. Parses, calls into the library, prints, and decides the exit code in one place.

mod acl;
mod agent;
mod apply;
mod audit;
mod ca;
mod check;
mod checks;
mod client;
mod color;
mod completions;
mod decide;
mod deregister;
mod dev;
mod enroll;
mod explain;
mod force_leave;
mod history;
mod intention;
mod issuer;
mod join;
mod keyring;
mod leave;
mod log;
mod maint;
mod man;
mod members;
mod names;
mod open_ports;
mod output;
mod policy;
mod register;
mod reload;
mod report;
mod resolve;
mod rotate;
mod services;
mod shift;
mod status;
mod tap;
mod token;
mod top;
mod traffic;
mod trust;
mod validate;
mod watch;
mod whoami;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use output::{CliError, EXIT_CODES_HELP, EXIT_OK, Globals};

/// A service mesh for virtual machines and bare metal: one agent on every host, no servers.
///
/// Applications call http://SERVICE.mesh.internal/; the agent finds a healthy instance and carries the call there over
/// mutual TLS. `weft dev` shows all of it on this machine.
#[derive(Debug, Parser)]
#[command(name = "weft", version, max_term_width = 100, after_help = EXIT_CODES_HELP)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

/// What each does stands with its arguments, so that `--help` has all of it.
#[derive(Debug, Subcommand)]
enum Verb {
    Agent(agent::Args),
    Dev(dev::Args),
    /// One host of `weft dev`
    #[command(hide = true)]
    DevHost(dev::HostArgs),
    Status(status::Args),
    Members(members::Args),
    Services(services::Args),
    Resolve(resolve::Args),
    Explain(explain::Args),
    Top(top::Args),
    Tap(tap::Args),
    Watch(watch::Args),
    Whoami(whoami::Args),
    Register(register::Args),
    Deregister(deregister::Args),
    Check(check::Args),
    Maint(maint::Args),
    Join(join::Args),
    Leave(leave::Args),
    ForceLeave(force_leave::Args),
    Validate(validate::Args),
    Reload(reload::Args),
    Keyring(keyring::Args),
    Intention(intention::Args),
    Apply(apply::Args),
    Plan(apply::PlanArgs),
    Policy(policy::Args),
    Shift(shift::Args),
    Acl(acl::Args),
    Audit(audit::Args),
    History(history::Args),
    Report(report::Args),
    Ca(ca::Args),
    Issuer(issuer::Args),
    Token(token::Args),
    Enroll(enroll::Args),
    Completions(completions::Args),
    /// Print the names that the agent knows, for completion scripts
    #[command(hide = true)]
    Complete(completions::LiveArgs),
    Man(man::Args),
}

/// Parses the arguments, runs the verb, and says how the process ends.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no failure; clap knows which is which.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(output::EXIT_USAGE));
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::from(EXIT_OK),
        Err(error) => {
            if !error.message.is_empty() {
                eprintln!("{error}");
            }
            ExitCode::from(error.exit_code)
        }
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    let globals = cli.globals;
    match cli.verb {
        Verb::Agent(args) => agent::run(&args),
        Verb::Dev(args) => dev::run(&args, &globals),
        Verb::DevHost(args) => dev::run_host(&args),
        Verb::Validate(args) => validate::run(&args, &globals),
        Verb::Keyring(args) => keyring::run(&args, &globals),
        Verb::Intention(args) => intention::run(&args, &globals),
        Verb::Apply(args) => apply::run(&args, &globals),
        Verb::Plan(args) => apply::plan(&args, &globals),
        Verb::Policy(args) => policy::run(&args, &globals),
        Verb::Shift(args) => shift::run(&args, &globals),
        Verb::Acl(args) => acl::run(&args, &globals),
        Verb::Audit(args) => audit::run(&args, &globals),
        Verb::History(args) => history::run(&args, &globals),
        Verb::Report(args) => report::run(&args, &globals),
        Verb::Ca(args) => ca::run(&args, &globals),
        Verb::Issuer(args) => issuer::run(&args, &globals),
        Verb::Token(args) => token::run(&args, &globals),
        Verb::Enroll(args) => enroll::run(&args, &globals),
        Verb::Members(args) => members::run(args, &globals),
        Verb::Services(args) => services::run(args, &globals),
        Verb::Leave(args) => leave::run(args, &globals),
        Verb::Resolve(args) => resolve::run(args, &globals),
        Verb::Status(args) => status::run(&args, &globals),
        Verb::Explain(args) => explain::run(&args, &globals),
        Verb::Top(args) => top::run(&args, &globals),
        Verb::Tap(args) => tap::run(&args, &globals),
        Verb::Watch(args) => watch::run(args, &globals),
        Verb::Whoami(args) => whoami::run(&args, &globals),
        Verb::Register(args) => register::run(&args, &globals),
        Verb::Deregister(args) => deregister::run(&args, &globals),
        Verb::Check(args) => check::run(&args, &globals),
        Verb::Maint(args) => maint::run(&args, &globals),
        Verb::Join(args) => join::run(&args, &globals),
        Verb::ForceLeave(args) => force_leave::run(&args, &globals),
        Verb::Reload(args) => reload::run(&args, &globals),
        Verb::Completions(args) => completions::run(&args, &Cli::command()),
        Verb::Complete(args) => completions::complete(&args, &globals),
        Verb::Man(args) => man::run(&args, Cli::command(), &globals),
    }
}
