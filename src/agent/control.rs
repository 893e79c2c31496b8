//! The control loop: one task that hands every event to the owner, keeps its timers, and listens to the operator's
//! signals. systemd's watchdog is fed from here, so that it notices an owner that hangs.

use std::net::SocketAddr;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::owner::Owner;
use super::renewal::Renewal;
use super::threads::{Alive, Checks};
use super::{AgentError, system};
use crate::config::Config;
use crate::{api, gossip, health, proxy};

/// Events taken before timers and publication get their turn.
const BATCH_MAX: usize = 256;
/// A goodbye that nobody hears is given up after this long.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Names of seeds are looked up again, because hosts move.
const SEED_LOOKUP_INTERVAL: Duration = Duration::from_secs(60);
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Where events come from.
pub(super) struct Inlets {
    pub gossip: mpsc::Receiver<gossip::Event>,
    pub proxy: mpsc::Receiver<proxy::Event>,
    pub health: mpsc::Receiver<health::Event>,
    pub api: mpsc::Receiver<api::Command>,
}

pub(super) struct Control {
    owner: Owner,
    /// What the files say now.
    config: Config,
    started_with: Config,
    inlets: Inlets,
    renewal: Renewal,
    checks: Checks,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    resolved: mpsc::Receiver<Vec<SocketAddr>>,
    seeds: mpsc::Sender<Vec<SocketAddr>>,
    lookup_at: Instant,
    status_at: Instant,
    leaving: Option<Leaving>,
    /// The part that has ended by itself.
    broken: Option<&'static str>,
    parts: Vec<(&'static str, Alive)>,
}

struct Leaving {
    until: Instant,
    reply: Option<oneshot::Sender<()>>,
}

impl Control {
    pub(super) fn new(
        owner: Owner,
        config: Config,
        inlets: Inlets,
        renewal: Renewal,
        checks: Checks,
        parts: Vec<(&'static str, Alive)>,
    ) -> Result<Control, AgentError> {
        let listen = |kind| signal(kind).map_err(system("a signal handler"));
        let (seeds, resolved) = mpsc::channel(1);
        Ok(Control {
            owner,
            started_with: config.clone(),
            config,
            inlets,
            renewal,
            checks,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            resolved,
            seeds,
            lookup_at: Instant::now(),
            status_at: Instant::now(),
            leaving: None,
            broken: None,
            parts,
        })
    }

    /// Runs until the host has left, or until a part of the agent has ended by itself.
    pub(super) async fn run(mut self) -> Result<(), AgentError> {
        notify(&[NotifyState::Ready, NotifyState::Status(&self.owner.summary())]);
        while !self.is_over() {
            self.owner.turn();
            self.keep_seeds();
            self.keep_status();
            self.next_event().await;
        }
        if let Some(reply) = self.leaving.take().and_then(|leaving| leaving.reply) {
            // Who asked may have hung up; the host has left all the same.
            let _ = reply.send(());
        }
        self.owner.turn();
        self.owner.close();
        self.broken.map_or(Ok(()), |part| Err(AgentError::Broken(part)))
    }

    fn is_over(&self) -> bool {
        let left =
            self.leaving.as_ref().is_some_and(|leaving| self.owner.has_left() || leaving.until <= Instant::now());
        left || self.broken.is_some()
    }

    async fn next_event(&mut self) {
        let leave_until = self.leaving.as_ref().map(|leaving| leaving.until);
        let next = [Some(self.owner.next_turn()), Some(self.status_at), Some(self.lookup_at), leave_until];
        let next = next.into_iter().flatten().min().unwrap_or_else(Instant::now);
        tokio::select! {
            event = self.inlets.gossip.recv() => {
                let Some(event) = event else { return self.part_has_ended("gossip") };
                self.owner.on_gossip(event);
                for _ in 0..BATCH_MAX {
                    let Ok(event) = self.inlets.gossip.try_recv() else { break };
                    self.owner.on_gossip(event);
                }
            }
            event = self.inlets.health.recv() => match event {
                Some(event) => self.owner.on_health(&event),
                None => self.part_has_ended("health"),
            },
            event = self.inlets.proxy.recv() => match event {
                Some(event) => self.owner.on_proxy(event),
                None => self.part_has_ended("the data plane"),
            },
            command = self.inlets.api.recv() => match command {
                Some(api::Command::Leave { reply }) => self.leave(Some(reply)),
                Some(command) => tracing::debug!(%command, "not taken"),
                None => self.part_has_ended("the API"),
            },
            Some(seeds) = self.resolved.recv() => self.owner.set_seeds(seeds),
            Some(renewed) = self.renewal.next() => {
                if let Err(error) = self.owner.renew(renewed) {
                    error!(%error, "the renewed certificate could not be published");
                }
            }
            _ = self.terminate.recv() => self.leave(None),
            _ = self.interrupt.recv() => self.leave(None),
            _ = self.hangup.recv() => self.reload(),
            () = sleep_until(next) => {}
        }
    }

    /// An agent without one of its parts would look well and be of no use: it ends, and is started again.
    fn part_has_ended(&mut self, part: &'static str) {
        if self.broken.is_none() {
            error!(part, "a part of the agent has ended; the agent stops, to be started again");
            self.broken = Some(part);
        }
    }

    fn leave(&mut self, reply: Option<oneshot::Sender<()>>) {
        if self.leaving.is_some() {
            return;
        }
        info!("leaving the cluster");
        notify(&[NotifyState::Stopping, NotifyState::Status("leaving the cluster")]);
        self.owner.leave();
        self.leaving = Some(Leaving { until: Instant::now() + LEAVE_TIMEOUT, reply });
    }

    /// Takes over what has changed in the files; a mistake in any of them leaves everything as it was.
    fn reload(&mut self) {
        let mut config = match Config::load(&self.config.path) {
            Ok(config) => config,
            Err(errors) => {
                error!("the configuration was not reloaded, nothing has changed:\n{errors}");
                return;
            }
        };
        config.data_dir.clone_from(&self.config.data_dir);
        // Against what runs, which is what the agent was started with, so that a pending restart is told each time.
        let difference = Config::reload_difference(&self.started_with, &config);
        if !difference.restart.is_empty() {
            warn!(keys = difference.restart.join(", "), "these keys have changed and take effect at the next start");
        }
        let applied = self
            .owner
            .replace_services(config.services.clone())
            .and_then(|changed| self.owner.set_place(&config.node.zone, &config.node.meta).map(|()| changed));
        match applied {
            Ok(changed) => info!(services = config.services.len(), changed, "configuration reloaded"),
            Err(error) => {
                return error!(%error, "the configuration was not fully reloaded; correct it and reload again");
            }
        }
        self.checks.replace(&config.services);
        self.lookup_at = Instant::now();
        self.config = config;
    }

    /// Looks seeds up in a task of its own: a resolver may take seconds.
    fn keep_seeds(&mut self) {
        if self.lookup_at > Instant::now() {
            return;
        }
        self.lookup_at = Instant::now() + SEED_LOOKUP_INTERVAL;
        if self.config.cluster.seeds.is_empty() {
            return self.owner.set_seeds(Vec::new());
        }
        let (names, found) = (self.config.cluster.seeds.clone(), self.seeds.clone());
        tokio::spawn(async move {
            let mut addresses = Vec::new();
            for name in names {
                match tokio::net::lookup_host(&name).await {
                    Ok(some) => addresses.extend(some),
                    Err(error) => warn!(seed = name, %error, "a seed's name does not resolve; it is looked up again"),
                }
            }
            // None at all is the resolver's fault: those that are known stay. It fails only while the agent stops.
            if !addresses.is_empty() {
                let _ = found.send(addresses).await;
            }
        });
    }

    fn keep_status(&mut self) {
        if self.status_at <= Instant::now() {
            self.status_at = Instant::now() + STATUS_INTERVAL;
            if let Some(part) = self.parts.iter().find(|(_, alive)| !alive.is_alive()).map(|(part, _)| *part) {
                self.part_has_ended(part);
            }
            notify(&[NotifyState::Watchdog, NotifyState::Status(&self.owner.summary())]);
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    // Outside systemd there is nobody to tell.
    let _ = sd_notify::notify(states);
}
