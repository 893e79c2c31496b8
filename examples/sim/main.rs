//! The long simulations: Weft beside memberlist and plain SWIM, in the simulator of `tests/sim/`, with the figures of
//! `docs/gossip.md` as the result.
//!
//! `cargo run --release --example sim -- --seeds 10000` runs that many storms: random faults by seed, then everything heals.
//! `cargo run --release --example sim -- --scenario registration --hosts 1000 --seeds 5` prints one table;
//! `... -- --publish` measures everything (hours) and writes `docs/gossip.md`'s tables and plots. The same seed gives the same
//! figures. `protocol` says what is compared, `run` how seeds are run, `figures` and `plot` what is made of the results,
//! `publish` where it goes; the other files are the scenarios, one each.

#[path = "../../tests/sim/engine/mod.rs"]
mod engine;
#[path = "../plot/mod.rs"]
mod plot;

mod cost;
mod crash;
mod figures;
mod half;
mod partition;
mod protocol;
mod publish;
mod quiet;
mod registration;
mod run;
mod stalls;
mod storm;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};

use figures::{Figure, replace, table};
use protocol::Name;
use run::Wanted;

/// Long simulations of gossip: Weft, memberlist and plain SWIM side by side.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Arguments {
    /// How many storms, or how many seeds each measurement runs with (the large ones take fewer).
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What to measure; without it nothing is measured, and storms are run.
    #[arg(long, value_enum)]
    scenario: Vec<Scenario>,
    /// Fleet sizes; without it the scenario's own.
    #[arg(long)]
    hosts: Vec<u32>,
    /// Who is measured; without it all three.
    #[arg(long, value_enum)]
    protocol: Vec<Name>,
    /// Threads; each seed runs on one.
    #[arg(long)]
    threads: Option<usize>,
    /// Simulated hours of the quiet day.
    #[arg(long, default_value_t = 24)]
    hours: u32,
    /// A directory for plots and figures.json; figures there are kept, those measured again are replaced. Tables go into the
    /// markdown file of that name beside it.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Every scenario at every size into docs/gossip and docs/gossip.md.
    #[arg(long, conflicts_with_all = ["out", "scenario", "hosts", "protocol"])]
    publish: bool,
    /// Measures nothing: writes plots and tables again from the figures that are kept in `--out`.
    #[arg(long, requires = "out")]
    render: bool,
    /// Figures as JSON instead of tables.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Registration,
    Crash,
    Quiet,
    Stalls,
    Half,
    Partition,
    Idle,
    Load,
}

impl Scenario {
    /// Short ones first, so that something is there early.
    const ALL: [Scenario; 8] = [
        Scenario::Stalls,
        Scenario::Half,
        Scenario::Load,
        Scenario::Idle,
        Scenario::Crash,
        Scenario::Registration,
        Scenario::Partition,
        Scenario::Quiet,
    ];

    fn run(self, wanted: &Wanted) -> Vec<Figure> {
        match self {
            Scenario::Registration => registration::run(wanted),
            Scenario::Crash => crash::run(wanted),
            Scenario::Quiet => quiet::run(wanted),
            Scenario::Stalls => stalls::run(wanted),
            Scenario::Half => half::run(wanted),
            Scenario::Partition => partition::run(wanted),
            Scenario::Idle => cost::run_idle(wanted),
            Scenario::Load => cost::run_load(wanted),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.scenario.is_empty() && !arguments.publish && !arguments.render {
        let threads = arguments.threads.unwrap_or_else(cores);
        let well = storm::run(arguments.seed, arguments.seeds, arguments.hosts.first().copied(), threads);
        return if well { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    match simulate(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the figures could not be written: {error}; say where by --out");
            ExitCode::FAILURE
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn simulate(arguments: Arguments) -> std::io::Result<()> {
    let out = if arguments.publish { Some(PathBuf::from("docs/gossip")) } else { arguments.out };
    if arguments.render {
        return out.map_or(Ok(()), |out| publish::write(&out, &publish::kept(&out)));
    }
    let wanted = Wanted {
        protocols: if arguments.protocol.is_empty() { Name::ALL.to_vec() } else { arguments.protocol },
        hosts: arguments.hosts,
        first_seed: arguments.seed,
        seeds: arguments.seeds.max(1),
        threads: arguments.threads.unwrap_or_else(cores),
        hours: arguments.hours.max(1),
    };
    let scenarios = if arguments.publish { Scenario::ALL.to_vec() } else { arguments.scenario };
    let mut measured = Vec::new();
    for scenario in scenarios {
        let begun = Instant::now();
        let figures = scenario.run(&wanted);
        eprintln!("{scenario:?}: {:.0} s", begun.elapsed().as_secs_f64());
        if let Some(out) = &out {
            let mut kept = publish::kept(out);
            replace(&mut kept, figures.clone());
            publish::write(out, &kept)?;
        }
        measured.extend(figures);
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&measured)?);
        return Ok(());
    }
    for (name, columns) in publish::TABLES {
        if measured.iter().any(|figure| figure.scenario == name) {
            println!("{name}\n\n{}", table(&measured, name, columns));
        }
    }
    Ok(())
}
