//! The command line: one file a verb. Parses, calls into the library, prints, and decides the exit code in one place.

mod agent;
mod ca;
mod check;
mod checks;
mod client;
mod color;
mod completions;
mod deregister;
mod dev;
mod enroll;
mod explain;
mod force_leave;
mod join;
mod leave;
mod log;
mod maint;
mod man;
mod members;
mod names;
mod output;
mod register;
mod reload;
mod resolve;
mod services;
mod status;
mod token;
mod top;
mod validate;
mod watch;

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

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent of this host
    Agent(agent::Args),
    /// Run a whole mesh of several hosts on this machine, to try it
    Dev(dev::Args),
    /// One host of `weft dev`
    #[command(hide = true)]
    DevHost(dev::HostArgs),
    /// Tell how the mesh is, as this host sees it
    Status(status::Args),
    /// List the hosts of the mesh
    Members(members::Args),
    /// List services, or the instances of one
    Services(services::Args),
    /// Tell what a mesh name stands for, and where a call to it may go
    Resolve(resolve::Args),
    /// Explain where a call to a service goes from this host, and why
    Explain(explain::Args),
    /// Show live traffic: calls a second, success, latency
    Top(top::Args),
    /// Follow a service: print its state, or run a command, at each change
    Watch(watch::Args),
    /// Register a service on this host
    Register(register::Args),
    /// Let go of a service of this host
    Deregister(deregister::Args),
    /// Report for a TTL check of this host
    Check(check::Args),
    /// Take a service or this host out of calls for a while
    Maint(maint::Args),
    /// Ask hosts for the mesh, as if they were seeds
    Join(join::Args),
    /// Leave the mesh gracefully; the agent stops
    Leave(leave::Args),
    /// Say of a failed host that it will not come back
    ForceLeave(force_leave::Args),
    /// Check configuration and service files; tells every mistake at once
    Validate(validate::Args),
    /// Have the agent read its files again
    Reload(reload::Args),
    /// Make the cluster's certificate authority
    Ca(ca::Args),
    /// Make and list join tokens, on an issuer
    Token(token::Args),
    /// Enrol this host with a join token
    Enroll(enroll::Args),
    /// Print the completion script of a shell
    Completions(completions::Args),
    /// Print the names that the agent knows, for completion scripts
    #[command(hide = true)]
    Complete(completions::LiveArgs),
    /// Print the manual page
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
            eprintln!("{error}");
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
        Verb::Ca(args) => ca::run(&args, &globals),
        Verb::Token(args) => token::run(&args, &globals),
        Verb::Enroll(args) => enroll::run(&args, &globals),
        Verb::Members(args) => members::run(args, &globals),
        Verb::Services(args) => services::run(args, &globals),
        Verb::Leave(args) => leave::run(args, &globals),
        Verb::Resolve(args) => resolve::run(args, &globals),
        Verb::Status(args) => status::run(&args, &globals),
        Verb::Explain(args) => explain::run(&args, &globals),
        Verb::Top(args) => top::run(&args, &globals),
        Verb::Watch(args) => watch::run(args, &globals),
        Verb::Register(args) => register::run(&args, &globals),
        Verb::Deregister(args) => deregister::run(&args, &globals),
        Verb::Check(args) => check::run(&args, &globals),
        Verb::Maint(args) => maint::run(&args, &globals),
        Verb::Join(args) => join::run(&args, &globals),
        Verb::ForceLeave(args) => force_leave::run(&args, &globals),
        Verb::Reload(args) => reload::run(&args, &globals),
        Verb::Completions(args) => completions::run(&args, Cli::command()),
        Verb::Complete(args) => completions::complete(&args, &globals),
        Verb::Man(args) => man::run(&args, Cli::command(), &globals),
    }
}
