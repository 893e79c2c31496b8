//! The weather: which faults a storm has, when they come and end, and what people do meanwhile. All of it is drawn from the
//! world's generator.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::super::driven::Now;
use super::super::weft::{Disk, Fleet};

/// Services that a host may have.
const SERVICES: u32 = 4;
/// The first hosts are the others' seeds, one or more of them.
const SEEDS_MAX: u32 = 2;
/// A disk may be set back to one of so many earlier states.
const BACKUPS_MAX: usize = 8;

/// In one storm of so many the hosts have clocks.
const CLOCKS_EVERY: u64 = 8;

/// Kinds of faults. Each storm has some of them, so that rare combinations get their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Loss,
    Duplicates,
    Disorder,
    OneWay,
    Partition,
    Half,
    Stall,
    Crash,
    Clock,
    Slow,
    Leave,
    ForceLeave,
}

impl Fault {
    const ALL: [Fault; 12] = [
        Fault::Loss,
        Fault::Duplicates,
        Fault::Disorder,
        Fault::OneWay,
        Fault::Partition,
        Fault::Half,
        Fault::Stall,
        Fault::Crash,
        Fault::Clock,
        Fault::Slow,
        Fault::Leave,
        Fault::ForceLeave,
    ];
}

/// How a host comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disks {
    /// As it went.
    Kept,
    /// Its member list was not written.
    Members,
    /// Its catalog's cache is gone.
    Cache,
    /// It is set back to an earlier state.
    Backup,
    /// There is another machine of that name.
    Reimaged,
}

pub(super) struct Weather {
    faults: Vec<Fault>,
    /// What is to happen to a host, by time.
    restarts: Vec<(Now, u32)>,
    backups: Vec<(u32, Disk)>,
    /// Hosts whose disks were set back.
    pub(super) set_back: BTreeSet<u32>,
    cut_until: Option<Now>,
    pub(super) log: Vec<String>,
    aloud: bool,
}

impl Weather {
    pub(super) fn new(fleet: &mut Fleet) -> Weather {
        let rng = &mut fleet.world.rng;
        let faults = Fault::ALL.into_iter().filter(|_| rng.random_bool(0.4)).collect();
        for host in 0..fleet.count() {
            let drift = fleet.world.rng.random_range(-20_000..=20_000);
            fleet.world.host_mut(host).drift_ppm = drift;
            let seeds = fleet.world.rng.random_range(1..=SEEDS_MAX);
            fleet.machine(host).seeds = (0..seeds).collect();
            // Where clocks are right a disk that was set back harms little; the others are the ones to look at.
            fleet.machine(host).no_clock = fleet.world.seed % CLOCKS_EVERY != 7;
        }
        let aloud = std::env::var_os("WEFT_SIM_SEED").is_some();
        Weather {
            faults,
            restarts: Vec::new(),
            backups: Vec::new(),
            set_back: BTreeSet::new(),
            cut_until: None,
            log: Vec::new(),
            aloud,
        }
    }

    pub(super) fn note(&mut self, fleet: &Fleet, what: &str) {
        let line = format!("{:>7.1} s  {what}", fleet.world.now().as_secs_f64());
        if self.aloud {
            println!("{line}");
        }
        self.log.push(line);
    }

    /// What happens in this step.
    pub(super) fn turn(&mut self, fleet: &mut Fleet) {
        self.people(fleet);
        let now = fleet.world.now();
        if self.cut_until.is_some_and(|until| until <= now) {
            self.cut_until = None;
            fleet.network().heal();
            self.note(fleet, "cuts heal");
        }
        let due: Vec<u32> = self.restarts.iter().filter(|(at, _)| *at <= now).map(|(_, host)| *host).collect();
        self.restarts.retain(|(at, _)| *at > now);
        due.into_iter().for_each(|host| self.restart(fleet, host));
        if fleet.world.rng.random_bool(0.25)
            && let Some(fault) = self.faults.choose(&mut fleet.world.rng).copied()
        {
            self.strike(fleet, fault);
        }
    }

    /// Everything that is broken is mended; every host that did not leave runs, and so do the seeds: a machine with an empty
    /// disk finds nobody else.
    pub(super) fn end(&mut self, fleet: &mut Fleet) {
        fleet.network().calm();
        self.restarts.clear();
        for host in 0..fleet.count() {
            fleet.world.slow(host, Duration::ZERO);
            fleet.world.resume(host);
            let stays_away = fleet.machines[host as usize].left && host >= SEEDS_MAX;
            if !fleet.world.runs(host) && !stays_away {
                fleet.start(host);
            }
        }
        self.note(fleet, "everything heals");
    }

    /// Services come, change and go.
    fn people(&mut self, fleet: &mut Fleet) {
        let busy = fleet.world.rng.random_range(0..4);
        for _ in 0..busy {
            let host = fleet.world.rng.random_range(0..fleet.count());
            let service = fleet.world.rng.random_range(0..SERVICES);
            if fleet.world.rng.random_bool(0.6) {
                fleet.register(host, service);
            } else {
                fleet.deregister(host, service);
            }
        }
    }

    fn strike(&mut self, fleet: &mut Fleet, fault: Fault) {
        let count = fleet.count();
        let host = fleet.world.rng.random_range(0..count);
        match fault {
            Fault::Loss => {
                let loss = *[0.0, 0.01, 0.05, 0.25].choose(&mut fleet.world.rng).unwrap_or(&0.0);
                fleet.network().loss = loss;
                self.note(fleet, &format!("loss is {loss}"));
            }
            Fault::Duplicates => {
                fleet.network().duplicated = 0.05;
                self.note(fleet, "duplicates");
            }
            Fault::Disorder => {
                let late_us_max = *[20_000, 200_000, 2_000_000].choose(&mut fleet.world.rng).unwrap_or(&0);
                fleet.network().late = 0.1;
                fleet.network().late_us_max = late_us_max;
                self.note(fleet, &format!("a tenth is up to {late_us_max} µs late"));
            }
            Fault::OneWay => {
                let other = fleet.world.rng.random_range(0..count);
                fleet.network().block(host, other);
                self.heals_after(fleet);
                self.note(fleet, &format!("nothing goes from {host} to {other}"));
            }
            Fault::Partition => {
                let sides: Vec<bool> = (0..count).map(|_| fleet.world.rng.random_bool(0.5)).collect();
                let side = |wanted| (0..count).filter(|host| sides[*host as usize] == wanted).collect::<Vec<u32>>();
                let groups = [side(false), side(true)];
                fleet.network().partition(&groups);
                self.heals_after(fleet);
                self.note(fleet, &format!("partition {groups:?}"));
            }
            Fault::Half => {
                let deaf = fleet.world.rng.random_bool(0.5);
                if deaf {
                    fleet.network().deafen(host);
                } else {
                    fleet.network().silence(host);
                }
                self.heals_after(fleet);
                self.note(fleet, &format!("{host} is {}", if deaf { "deaf" } else { "mute" }));
            }
            Fault::Stall => {
                let time = seconds(&mut fleet.world.rng, 1.0, 30.0);
                let lost = fleet.world.rng.random_bool(0.3);
                if lost {
                    fleet.world.suspend(host, time);
                } else {
                    fleet.world.stall(host, time);
                }
                self.note(fleet, &format!("{host} stands still for {time:?}, lost: {lost}"));
            }
            Fault::Crash => self.crash(fleet, host),
            Fault::Clock => {
                let by = seconds(&mut fleet.world.rng, 0.1, 60.0);
                fleet.world.jump_clock(host, by);
                self.note(fleet, &format!("the clock of {host} jumps by {by:?}"));
            }
            Fault::Slow => {
                let cost = Duration::from_micros(fleet.world.rng.random_range(100..20_000));
                fleet.world.slow(host, cost);
                self.note(fleet, &format!("{host} takes {cost:?} for everything"));
            }
            Fault::Leave => {
                if fleet.world.runs(host) && fleet.running().count() > 2 {
                    fleet.leave(host);
                    if fleet.world.rng.random_bool(0.5) {
                        let at = fleet.world.now() + seconds(&mut fleet.world.rng, 5.0, 40.0);
                        self.restarts.push((at, host));
                    }
                    self.note(fleet, &format!("{host} leaves"));
                }
            }
            Fault::ForceLeave => {
                let by = fleet.world.rng.random_range(0..count);
                if by != host && fleet.world.runs(by) && fleet.force_leave(by, host) {
                    self.note(fleet, &format!("{by} sends {host} away"));
                }
            }
        }
    }

    fn heals_after(&mut self, fleet: &mut Fleet) {
        let until = fleet.world.now() + seconds(&mut fleet.world.rng, 3.0, 40.0);
        self.cut_until.get_or_insert(until);
    }

    fn crash(&mut self, fleet: &mut Fleet, host: u32) {
        if !fleet.world.runs(host) {
            return;
        }
        fleet.crash(host);
        let disk = fleet.machine(host).disk.clone();
        if self.backups.len() < BACKUPS_MAX {
            self.backups.push((host, disk));
        }
        let kinds = [Disks::Kept, Disks::Kept, Disks::Members, Disks::Cache, Disks::Backup, Disks::Reimaged];
        let kind = *kinds.choose(&mut fleet.world.rng).unwrap_or(&Disks::Kept);
        match kind {
            Disks::Kept => {}
            Disks::Members => fleet.machine(host).disk.members.clear(),
            Disks::Cache => fleet.machine(host).disk.records.clear(),
            Disks::Backup => {
                if let Some((_, backup)) = self.backups.iter().find(|(of, _)| *of == host) {
                    fleet.machine(host).disk = backup.clone();
                    self.set_back.insert(host);
                }
            }
            Disks::Reimaged => {
                fleet.reimage(host);
                // What was backed up belongs to the machine before.
                self.backups.retain(|(of, _)| *of != host);
            }
        }
        let at = fleet.world.now() + seconds(&mut fleet.world.rng, 0.1, 30.0);
        self.restarts.push((at, host));
        self.note(fleet, &format!("{host} crashes; disk: {kind:?}; back at {:.1} s", at.as_secs_f64()));
    }

    fn restart(&mut self, fleet: &mut Fleet, host: u32) {
        if !fleet.world.runs(host) {
            fleet.start(host);
            self.note(fleet, &format!("{host} starts"));
        }
    }
}

fn seconds(rng: &mut ChaCha8Rng, least: f64, most: f64) -> Duration {
    Duration::from_secs_f64(rng.random_range(least..most))
}
