//! The control loop: one task that hands every event to the owner, keeps its timers, and listens to the operator's
//! signals. systemd's watchdog is fed from here, so that it notices an owner that hangs.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::keyring::Orders;
use super::owner::{Ask, Owner};
use super::renewal::Renewal;
use super::threads::{Alive, Updated};
use super::{AgentError, files, system};
use crate::config::Config;
use crate::{api, gossip, health, proxy};

/// Events taken before timers and publication get their turn.
const BATCH_MAX: usize = 256;
/// Before the goodbye, withdrawn services are told everybody; this long at most, if the network is slow.
const DRAIN_DELAY: Duration = Duration::from_secs(1);
/// A goodbye that nobody hears is given up after this long.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Names of seeds are looked up again, because hosts move.
const SEED_LOOKUP_INTERVAL: Duration = Duration::from_secs(60);
/// A join by hand is answered within this time.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const JOIN_ADDRESSES_MAX: usize = 4;
const GOSSIP_PORT: u16 = 7946;
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Where events come from.
pub(super) struct Inlets {
    pub gossip: mpsc::Receiver<gossip::Event>,
    pub proxy: mpsc::Receiver<proxy::Event>,
    pub health: mpsc::Receiver<health::Event>,
    pub updated: mpsc::Receiver<Updated>,
    pub api: mpsc::Receiver<api::Command>,
}

pub(super) struct Control {
    owner: Owner,
    /// What the files say now.
    config: Config,
    started_with: Config,
    inlets: Inlets,
    renewal: Renewal,
    keyring: Orders,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    resolved: mpsc::Receiver<Vec<SocketAddr>>,
    seeds: mpsc::Sender<Vec<SocketAddr>>,
    /// Hosts to be joined, looked up.
    found: mpsc::Receiver<Found>,
    finder: mpsc::Sender<Found>,
    reloaded: Option<Reloaded>,
    /// The files changed while they were taken over.
    reload_again: bool,
    lookup_at: Instant,
    status_at: Instant,
    leaving: Option<Leaving>,
    /// The part that has ended by itself.
    broken: Option<&'static str>,
    parts: Vec<(&'static str, Alive)>,
}

/// First withdrawn, then gone: whoever calls this host's services has heard of it before the host is no member any more.
struct Leaving {
    /// Of the phase.
    until: Instant,
    said_goodbye: bool,
    replies: Vec<oneshot::Sender<()>>,
}

/// The addresses of a host that is to be joined.
struct Found {
    addresses: Result<Vec<SocketAddr>, String>,
    until: Instant,
    reply: api::Reply,
}

/// A configuration that takes the place of the running one if the owner takes it.
struct Reloaded {
    config: Config,
    taken: oneshot::Receiver<Result<(), api::Refused>>,
    reply: Option<api::Reply>,
}

impl Control {
    pub(super) fn new(
        owner: Owner,
        config: Config,
        inlets: Inlets,
        renewal: Renewal,
        keyring: Orders,
        parts: Vec<(&'static str, Alive)>,
    ) -> Result<Control, AgentError> {
        let listen = |kind| signal(kind).map_err(system("a signal handler"));
        let (seeds, resolved) = mpsc::channel(1);
        let (finder, found) = mpsc::channel(1);
        Ok(Control {
            owner,
            started_with: config.clone(),
            config,
            inlets,
            renewal,
            keyring,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            resolved,
            seeds,
            found,
            finder,
            reloaded: None,
            reload_again: false,
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
            self.keep_leaving();
            self.keep_seeds();
            self.keep_status();
            self.next_event().await;
        }
        for reply in self.leaving.take().into_iter().flat_map(|leaving| leaving.replies) {
            // Who asked may have hung up; the host has left all the same.
            let _ = reply.send(());
        }
        self.owner.turn();
        let past = self.owner.must_end();
        // On disk when this returns: the next start rests on it.
        self.owner.close();
        match (past, self.broken) {
            (Some(epoch), _) => Err(AgentError::OwnPast { epoch }),
            (None, Some(part)) => Err(AgentError::Broken(part)),
            (None, None) => Ok(()),
        }
    }

    fn is_over(&self) -> bool {
        let is_past = |leaving: &Leaving| self.owner.has_left() || leaving.until <= Instant::now();
        let left = self.leaving.as_ref().is_some_and(|leaving| leaving.said_goodbye && is_past(leaving));
        left || self.broken.is_some() || self.owner.must_end().is_some()
    }

    /// From withdrawn to goodbye.
    fn keep_leaving(&mut self) {
        let Some(leaving) = self.leaving.as_mut().filter(|leaving| !leaving.said_goodbye) else { return };
        if self.owner.is_withdrawn() || leaving.until <= Instant::now() {
            leaving.said_goodbye = true;
            leaving.until = Instant::now() + LEAVE_TIMEOUT;
            self.owner.leave();
            self.owner.turn();
        }
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
                Some(event) => self.owner.on_health(event),
                None => self.part_has_ended("health"),
            },
            Some((reply, result)) = self.inlets.updated.recv() => {
                // What the report changed came before the answer to it.
                while let Ok(event) = self.inlets.health.try_recv() {
                    self.owner.on_health(event);
                }
                self.owner.on_updated(reply, result);
            }
            event = self.inlets.proxy.recv() => match event {
                Some(event) => self.owner.on_proxy(&event),
                None => self.part_has_ended("the data plane"),
            },
            command = self.inlets.api.recv() => match command {
                Some(command) => self.on_command(command),
                None => self.part_has_ended("the API"),
            },
            written = self.owner.written() => self.owner.on_written(written),
            taken = taken(&mut self.reloaded) => self.on_reloaded(taken),
            Some(found) = self.found.recv() => self.join(found),
            Some(seeds) = self.resolved.recv() => self.owner.set_seeds(seeds),
            Some(renewed) = self.renewal.next() => {
                if let Err(error) = self.owner.renew(renewed.identity, renewed.voucher) {
                    error!(%error, "the renewed certificate could not be published");
                }
            }
            _ = self.terminate.recv() => self.leave(None),
            _ = self.interrupt.recv() => self.leave(None),
            _ = self.hangup.recv() => self.reload(None),
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

    fn on_command(&mut self, command: api::Command) {
        use api::Command;
        match command {
            Command::Leave { reply } => self.leave(Some(reply)),
            Command::Register { definition, body, replace_checks, reply } => {
                if let Err(mistakes) = self.config.admits(&definition) {
                    // Who asked may have hung up.
                    let _ = reply.send(Err(api::Refused::Invalid(mistakes.to_string())));
                    return;
                }
                self.owner.ask(Ask::Register { definition, body, replace_checks }, Some(reply));
            }
            Command::Deregister { id, reply } => self.owner.ask(Ask::Deregister { id }, Some(reply)),
            Command::RegisterCheck { registration, body, reply } => {
                self.owner.ask(Ask::RegisterCheck { registration, body }, Some(reply));
            }
            Command::DeregisterCheck { id, reply } => self.owner.ask(Ask::DeregisterCheck { id }, Some(reply)),
            Command::UpdateCheck { id, health, output, reply } => self.owner.update_check(id, health, output, reply),
            Command::Maintain { service, reason, reply } => {
                self.owner.ask(Ask::Maintain { service, reason }, Some(reply));
            }
            Command::Join { address, reply } => self.find(address, reply),
            Command::ForceLeave { node, prune, reply } => self.owner.force_leave(&node, prune, reply),
            Command::Reload { reply } => self.reload(Some(reply)),
            Command::Decide { policy, reply } => self.owner.decide(&policy, reply),
            Command::Keyring { order, reply } => self.keyring.start(self.owner.roster(), order, reply),
        }
    }

    fn leave(&mut self, reply: Option<oneshot::Sender<()>>) {
        if let Some(leaving) = &mut self.leaving {
            return leaving.replies.extend(reply);
        }
        info!("leaving the cluster");
        notify(&[NotifyState::Stopping, NotifyState::Status("leaving the cluster")]);
        self.owner.withdraw();
        let replies = reply.into_iter().collect();
        self.leaving = Some(Leaving { until: Instant::now() + DRAIN_DELAY, said_goodbye: false, replies });
    }

    /// Looks a host up that is to be joined, in a task of its own.
    fn find(&mut self, address: String, reply: api::Reply) {
        let until = Instant::now() + JOIN_TIMEOUT;
        let finder = self.finder.clone();
        tokio::spawn(async move {
            let with_port = with_port(&address);
            let looked_up = tokio::time::timeout_at(until, tokio::net::lookup_host(&with_port)).await;
            let addresses = match looked_up {
                Ok(Ok(found)) => Ok(found.take(JOIN_ADDRESSES_MAX).collect()),
                Ok(Err(error)) => Err(format!("{address} does not resolve: {error}")),
                Err(_) => Err(format!("{address} was not resolved within {JOIN_TIMEOUT:?}")),
            };
            // The control loop has ended: so has the API, and nobody waits.
            let _ = finder.send(Found { addresses, until, reply }).await;
        });
    }

    fn join(&mut self, found: Found) {
        match found.addresses {
            Ok(addresses) => self.owner.join(addresses, found.until, found.reply),
            Err(error) => drop(found.reply.send(Err(api::Refused::Failed(error)))),
        }
    }

    /// Takes over what has changed in the files; a mistake in any of them leaves everything as it was.
    fn reload(&mut self, reply: Option<api::Reply>) {
        if self.reloaded.is_some() {
            // A signal has nobody to be told: it is heeded afterwards.
            self.reload_again |= reply.is_none();
            return refuse(reply, "a reload is under way; try again when it is done".to_owned());
        }
        let mut config = match Config::load(&self.config.path) {
            Ok(config) => config,
            Err(errors) => {
                error!("the configuration was not reloaded, nothing has changed:\n{errors}");
                return refuse(reply, errors.to_string());
            }
        };
        config.data_dir.clone_from(&self.config.data_dir);
        let (answer, taken) = oneshot::channel();
        self.owner.ask(Ask::Files(Box::new(files(&config))), Some(answer));
        self.reloaded = Some(Reloaded { config, taken, reply });
    }

    fn on_reloaded(&mut self, taken: Result<(), api::Refused>) {
        let Some(reloaded) = self.reloaded.take() else { return };
        self.take_over(reloaded, taken);
        if std::mem::take(&mut self.reload_again) {
            self.reload(None);
        }
    }

    fn take_over(&mut self, reloaded: Reloaded, taken: Result<(), api::Refused>) {
        let Reloaded { config, reply, .. } = reloaded;
        if let Err(refused) = taken {
            error!("the configuration was not reloaded, nothing has changed:\n{refused}");
            return refuse(reply, refused.to_string());
        }
        // Against what runs, which is what the agent was started with, so that a pending restart is told each time.
        let difference = Config::reload_difference(&self.started_with, &config);
        if !difference.restart.is_empty() {
            warn!(keys = difference.restart.join(", "), "these keys have changed and take effect at the next start");
        }
        info!(services = config.services.len(), "configuration reloaded");
        self.lookup_at = Instant::now();
        self.config = config;
        if let Some(reply) = reply {
            // Who asked may have hung up.
            let _ = reply.send(Ok(()));
        }
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

fn refuse(reply: Option<api::Reply>, why: String) {
    if let Some(reply) = reply {
        // Who asked may have hung up.
        let _ = reply.send(Err(api::Refused::Failed(why)));
    }
}

/// The owner's word on a reload; without one under way it never comes.
async fn taken(reloaded: &mut Option<Reloaded>) -> Result<(), api::Refused> {
    match reloaded {
        None => std::future::pending().await,
        Some(reloaded) => {
            let ended = || Err(api::Refused::Failed("the agent is stopping".to_owned()));
            (&mut reloaded.taken).await.unwrap_or_else(|_| ended())
        }
    }
}

/// `HOST:PORT`; the gossip port where there is none.
fn with_port(address: &str) -> String {
    match address.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, GOSSIP_PORT).to_string(),
        Err(_) if address.contains(':') => address.to_owned(),
        Err(_) => format!("{address}:{GOSSIP_PORT}"),
    }
}

#[cfg(test)]
mod tests {
    use super::with_port;

    #[test]
    fn a_host_to_be_joined_has_the_gossip_port_unless_another_is_given() {
        let cases = [
            ("10.0.0.1", "10.0.0.1:7946"),
            ("10.0.0.1:8301", "10.0.0.1:8301"),
            ("fd00::1", "[fd00::1]:7946"),
            ("[fd00::1]:8301", "[fd00::1]:8301"),
            ("seed.example", "seed.example:7946"),
            ("seed.example:1", "seed.example:1"),
        ];
        for (given, asked) in cases {
            assert_eq!(with_port(given), asked);
        }
    }
}
