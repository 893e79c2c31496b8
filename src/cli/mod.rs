//! The command line: one file a verb. Parses, calls into the library, prints, and decides the exit code in one place.

mod agent;
mod ca;
mod client;
mod dev;
mod enroll;
mod leave;
mod log;
mod members;
mod output;
mod resolve;
mod services;
mod token;
mod validate;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// Check configuration and service files; tells every mistake at once
    Validate(validate::Args),
    /// Make the cluster's certificate authority
    Ca(ca::Args),
    /// Make and list join tokens, on an issuer
    Token(token::Args),
    /// Enrol this host with a join token
    Enroll(enroll::Args),
    /// List the hosts of the mesh
    Members(members::Args),
    /// List services, or the instances of one
    Services(services::Args),
    /// Leave the mesh gracefully; the agent stops
    Leave(leave::Args),
    /// Tell what a mesh name stands for, and where a call to it may go
    Resolve(resolve::Args),
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
    }
}
