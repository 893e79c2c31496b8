//! Storms, after TigerBeetle's VOPR (docs/internals/vopr.md): a fleet under random faults by seed. In the first phase nothing
//! unsafe may happen, whatever fails; then everything heals, and all that was asked for must come true within a bound.
//!
//! [`run`] is one storm; its seed decides the size of the fleet, which kinds of faults there are, and every one of them. A
//! failure prints `seed=N`; `WEFT_SIM_SEED=N cargo test --test sim storms -- --nocapture` runs that storm alone, with its
//! faults as they come. Many storms: `cargo run --release --example sim -- --seeds N`.
//!
//! `faults` makes the weather, `check` says what must hold.

mod check;
mod faults;

use std::fmt;
use std::time::{Duration, Instant};

use super::driven::{Kind, Now};
use super::network::Latency;
use super::weft::{Fleet, Setup};
use check::Checker;
use faults::Weather;
use rand::RngExt;

/// How long faults go on.
const STORM: Duration = Duration::from_secs(90);
/// Between two faults, and between two checks.
const STEP: Duration = Duration::from_millis(500);
/// After everything has healed all must be well within this time: a restarted host's floor waits for up to 30 s, an exchange
/// with a seed for up to 37 s, and a host that doubts itself most probes at a ninth of its pace.
pub(crate) const CALM_WITHIN: Duration = Duration::from_secs(120);
/// Then it must stay so.
const STAYS_FOR: Duration = Duration::from_secs(20);

/// A storm that ended well.
#[derive(Debug, Clone)]
pub(crate) struct Summary {
    pub(crate) seed: u64,
    pub(crate) hosts: u32,
    pub(crate) faults: usize,
    pub(crate) events: u64,
    /// Equal for equal runs.
    pub(crate) trace: u64,
    /// From the end of all faults until members, and then catalogs too, were as they should be.
    pub(crate) members_after: Duration,
    pub(crate) calm_after: Duration,
    /// The most bytes of datagrams that one host sent on average, and the most of everything in any second.
    pub(crate) bytes_per_second_max: u64,
    pub(crate) bytes_peak_max: u64,
    pub(crate) took: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { seed, hosts, faults, events, members_after, calm_after, .. } = self;
        write!(
            f,
            "seed={seed}: {hosts} hosts, {faults} faults, {events} events; members after {:.1} s, catalogs after {:.1} s; at \
             most {} B/s in datagrams, {} B in a second; {} ms",
            members_after.as_secs_f64(),
            calm_after.as_secs_f64(),
            self.bytes_per_second_max,
            self.bytes_peak_max,
            self.took.as_millis()
        )
    }
}

/// A storm in which something was not as it must be.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    pub(crate) at: Now,
    pub(crate) what: String,
    /// The faults so far.
    pub(crate) log: Vec<String>,
    /// What everybody held of everybody.
    pub(crate) picture: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed={}: after {:?}: {}", self.seed, self.at, self.what)?;
        self.log.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        write!(f, "{}", self.picture)
    }
}

impl std::error::Error for Failure {}

/// Runs one storm over a small fleet.
pub(crate) fn run(seed: u64) -> Result<Summary, Failure> {
    run_with(seed, 12, Setup::default())
}

/// The same over up to `hosts_max` hosts, set up so.
pub(crate) fn run_with(seed: u64, hosts_max: u32, setup: Setup) -> Result<Summary, Failure> {
    let begun = Instant::now();
    let mut fleet = Fleet::new(seed, 0, setup.clone());
    let hosts = fleet.world.rng.random_range(3..=hosts_max.max(3));
    fleet = Fleet::new(seed, hosts, setup);
    let kinds = [Latency::CALM, Latency::Zones, Latency::Continents];
    let latency = kinds[fleet.world.rng.random_range(0..kinds.len())];
    fleet.network().latency = latency;
    fleet.setup.zones = latency.zones();
    let mut storm = Storm { weather: Weather::new(&mut fleet), checker: Checker::new(), fleet };
    storm.weather.note(&storm.fleet, &format!("{hosts} hosts, {latency:?}"));
    storm.rage()?;
    let (members_after, calm_after) = storm.calm_down()?;
    let world = &storm.fleet.world;
    let elapsed = world.now().as_secs().max(1);
    let traffic = (0..hosts).map(|host| &world.host(host).traffic);
    let datagrams = traffic.clone().map(|traffic| traffic.sent_total() - traffic.sent[Kind::Stream as usize]);
    Ok(Summary {
        seed,
        hosts,
        faults: storm.weather.log.len() - 1,
        events: world.observer.events,
        trace: world.trace,
        members_after,
        calm_after,
        bytes_per_second_max: datagrams.max().unwrap_or(0) / elapsed,
        bytes_peak_max: traffic.map(|traffic| traffic.peak).max().unwrap_or(0),
        took: begun.elapsed(),
    })
}

struct Storm {
    fleet: Fleet,
    weather: Weather,
    checker: Checker,
}

impl Storm {
    /// The first phase: faults, and nothing unsafe.
    fn rage(&mut self) -> Result<(), Failure> {
        self.fleet.start_all();
        let end = self.fleet.world.now() + STORM;
        while self.fleet.world.now() < end {
            self.weather.turn(&mut self.fleet);
            self.step()?;
        }
        Ok(())
    }

    /// The second: everything heals, and all comes true. Says after how long members, and catalogs, were well.
    fn calm_down(&mut self) -> Result<(Duration, Duration), Failure> {
        self.weather.end(&mut self.fleet);
        let since = self.fleet.world.now();
        let (mut members_well, mut all_well) = (None, None::<Now>);
        loop {
            self.step()?;
            let now = self.fleet.world.now();
            let members = self.checker.members_wrong(&self.fleet);
            if members.is_none() {
                members_well.get_or_insert(now);
            } else {
                members_well = None;
            }
            let wrong = members.or_else(|| self.checker.catalogs_wrong(&self.fleet));
            match (wrong, all_well) {
                (None, None) => all_well = Some(now),
                (None, Some(at)) if now >= at + STAYS_FOR => {
                    return Ok((members_well.map_or(at, |well| well.min(at)) - since, at - since));
                }
                (None, Some(_)) => {}
                // The last of the storm may still be under way: suspicions that end well.
                (Some(_), Some(_)) if now < since + CALM_WITHIN => all_well = None,
                (Some(what), Some(_)) => return Err(self.fail(format!("all was well, and then was not: {what}"))),
                (Some(what), None) if now >= since + CALM_WITHIN => {
                    return Err(self.fail(format!("{CALM_WITHIN:?} after everything has healed: {what}")));
                }
                (Some(_), None) => {}
            }
        }
    }

    fn step(&mut self) -> Result<(), Failure> {
        self.fleet.run_for(STEP);
        if let Some(host) = self.fleet.met_past.difference(&self.weather.set_back).next() {
            return Err(self.fail(format!("host {host} met a past that it does not have")));
        }
        match self.checker.unsafe_now(&self.fleet) {
            None => Ok(()),
            Some(what) => Err(self.fail(what)),
        }
    }

    fn fail(&self, what: String) -> Failure {
        let world = &self.fleet.world;
        let (log, picture) = (self.weather.log.clone(), world.picture());
        Failure { seed: world.seed, at: world.now(), what, log, picture }
    }
}
