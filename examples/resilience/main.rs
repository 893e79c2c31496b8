//! What happens to calls when services fail: experiments with real agents, real HAProxy beside them in the same run, and real
//! servers that turn slow, fail, hang or are overloaded, with the figures of `docs/resilience.md` as the result.
//!
//! `cargo build --release && cargo run --release --example resilience -- --experiment slow-backend` prints one table;
//! `--seconds 20` makes it short, `--publish` writes tables and plots into `docs/`. Needs HAProxy, python3, iproute2 and
//! unshare; everything happens in namespaces of the program's own.
//!
//! `load` makes calls, `backend` answers them, `fleet` and `peers` are what carries them, `stage` is where it happens;
//! `figures` and `publish` say what is made of the results. The other files are the experiments, one each.

#[path = "../plot/mod.rs"]
mod plot;
#[path = "../../tests/netns/process.rs"]
#[allow(dead_code)]
mod process;

mod ask;
mod backend;
mod chain;
mod churn;
mod failing;
mod figures;
mod fleet;
mod histogram;
mod load;
mod overload;
mod peers;
mod publish;
mod slow_backend;
mod split;
mod stage;
mod zone;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

use figures::{Column, Figure, replace, table};
use stage::Stage;

/// One thing that is shown.
struct Experiment {
    name: &'static str,
    columns: &'static [Column],
    run: fn(&Stage) -> Vec<Figure>,
    plots: fn(&[Figure]) -> Vec<(&'static str, plot::Plot)>,
}

/// An experiment's entry, by its module.
macro_rules! experiment {
    ($module:ident) => {
        Experiment { name: $module::NAME, columns: $module::COLUMNS, run: $module::run, plots: $module::plots }
    };
}

const EXPERIMENTS: &[Experiment] = &[
    experiment!(slow_backend),
    experiment!(failing),
    experiment!(overload),
    experiment!(chain),
    experiment!(zone),
    experiment!(split),
    experiment!(churn),
];

/// Experiments with services that fail, behind Weft and behind HAProxy.
#[derive(Debug, Parser)]
#[command(name = "resilience", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// What to run; may be given several times. Without it: everything.
    #[arg(long)]
    experiment: Vec<String>,
    /// How long each runs; without it as long as its figures ask for. What happens meanwhile is scaled.
    #[arg(long)]
    seconds: Option<u32>,
    /// So much of the usual rate of calls, in percent.
    #[arg(long, default_value_t = 100)]
    rate_percent: u32,
    /// The agent's program; without it the one that was built beside this program.
    #[arg(long)]
    weft: Option<PathBuf>,
    /// Into docs/resilience and docs/resilience.md.
    #[arg(long)]
    publish: bool,
    /// A directory for plots and figures.json, as `--publish` has it.
    #[arg(long, conflicts_with = "publish")]
    out: Option<PathBuf>,
    /// Measures nothing: writes plots and tables again from the figures that are kept there.
    #[arg(long)]
    render: bool,
}

/// What this program is for itself.
#[derive(Debug, Subcommand)]
enum Part {
    /// The servers behind the mesh
    Backend(backend::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Part::Backend(arguments)) = &arguments.part {
        backend::serve(arguments);
        return ExitCode::SUCCESS;
    }
    match experiments(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Two folders up from this program: `target/release/examples/resilience`, `target/release/weft`.
fn built_beside() -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let weft = this.ancestors().nth(2).map(|folder| folder.join("weft")).unwrap_or_default();
    match weft.is_file() {
        true => Ok(weft),
        false => Err(format!("no agent at {}; next: cargo build --release, or say where by --weft", weft.display())),
    }
}

fn experiments(arguments: Arguments) -> Result<(), String> {
    let out = if arguments.publish { Some(PathBuf::from("docs/resilience")) } else { arguments.out };
    let told = |error: std::io::Error| format!("the figures could not be written: {error}; say where by --out");
    if arguments.render {
        let out = out.ok_or("--render needs --out or --publish")?;
        return publish::write(&out, &publish::kept(&out)).map_err(told);
    }
    let names = || EXPERIMENTS.iter().map(|experiment| experiment.name).collect::<Vec<_>>().join(", ");
    let wanted = arguments.experiment;
    if let Some(unknown) = wanted.iter().find(|name| EXPERIMENTS.iter().all(|known| known.name != name.as_str())) {
        return Err(format!("no experiment {unknown}; there are {}", names()));
    }
    let weft = arguments.weft.map_or_else(built_beside, Ok)?;
    Stage::enter()?;
    let versions = versions(&weft);
    println!("{versions}\n");
    for experiment in EXPERIMENTS {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == experiment.name) {
            continue;
        }
        let stage = Stage::new(weft.clone(), arguments.seconds, arguments.rate_percent).map_err(told)?;
        let mut measured = (experiment.run)(&stage);
        measured.iter_mut().for_each(|figure| figure.with = format!("{versions}{}", stage.shortened()));
        println!("{}\n\n{}", experiment.name, table(&measured, experiment.name, experiment.columns));
        if !measured.iter().all(Figure::can_be_kept) {
            eprintln!("not kept: the generator was late, the machine is too busy; next: run it again when it is not");
        } else if let Some(out) = &out {
            let mut kept = publish::kept(out);
            replace(&mut kept, measured);
            publish::write(out, &kept).map_err(told)?;
        }
    }
    Ok(())
}

/// What the figures were taken with.
fn versions(weft: &std::path::Path) -> String {
    let weft = process::run(Command::new(weft).arg("--version")).stdout;
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}; {}; Linux {}; {cpu}, {cores} cores", weft.trim(), peers::version(), kernel.trim())
}
