//! The tasks that run the checks of this host: one a check. Definitions come in as a whole set; events go out when a
//! verdict changes. Tasks end when the runner is dropped.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{Thresholds, attempt};
use crate::config::CheckDefinition;
use crate::model::{Health, ServiceId};

/// How the runner runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Differs from host to host (a part of the node id), so that hosts with the same checks do not fall into step.
    pub seed: u64,
    /// First attempts are spread over this long, or over the check's interval if that is shorter. Short, because a
    /// service that starts critical takes no calls before its first attempt.
    pub start_spread: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { seed: 0, start_spread: Duration::from_secs(1) }
    }
}

/// News of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its verdict changed.
    Verdict {
        /// Whose check; `None` is the host's.
        service: Option<ServiceId>,
        /// Which one.
        check: String,
        /// What it is now.
        health: Health,
        /// What the deciding attempt said; stays on this host.
        output: String,
    },
    /// It has been critical for `deregister_critical_service_after`.
    Overdue {
        /// Whose check.
        service: ServiceId,
        /// Which one.
        check: String,
    },
}

/// Why a report for a check was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// There is none.
    #[error("no check {0:?} runs on this host")]
    Unknown(String),
    /// It makes its own verdicts.
    #[error("{0:?} is no TTL check: it is tried by this agent, and nobody reports for it")]
    NotTtl(String),
}

/// Where a check stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// The verdict.
    pub health: Health,
    /// What the last attempt said, whether or not it changed the verdict; empty before the first.
    pub output: String,
}

/// The latest of every check, by id, for whoever shows it. Holds one entry a check and no more.
#[derive(Debug, Clone, Default)]
pub struct Verdicts(Arc<Mutex<HashMap<String, Latest>>>);

impl Verdicts {
    /// Where the check stands; `None` if there is no such check.
    pub fn get(&self, check: &str) -> Option<Latest> {
        self.lock().get(check).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Latest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Owns the check tasks of this host.
#[derive(Debug)]
pub struct Runner {
    settings: Settings,
    events: mpsc::Sender<Event>,
    running: HashMap<String, Running>,
    verdicts: Verdicts,
}

#[derive(Debug)]
struct Running {
    service: Option<ServiceId>,
    definition: CheckDefinition,
    task: AbortHandle,
}

impl Runner {
    /// A runner of no checks yet.
    pub fn new(settings: Settings, events: mpsc::Sender<Event>) -> Runner {
        Runner { settings, events, running: HashMap::new(), verdicts: Verdicts::default() }
    }

    /// A runner of `checks`. Must be called within a runtime, on which the checks then run.
    pub fn start(
        settings: Settings,
        checks: Vec<(Option<ServiceId>, CheckDefinition)>,
        events: mpsc::Sender<Event>,
    ) -> Runner {
        let mut runner = Runner::new(settings, events);
        runner.replace(checks);
        runner
    }

    /// Runs `checks` and no others. Unchanged checks go on undisturbed; a changed one starts anew from the verdict that
    /// it had, so that editing an interval takes no service out of use. Must be called within a runtime.
    pub fn replace(&mut self, checks: Vec<(Option<ServiceId>, CheckDefinition)>) {
        let mut former = std::mem::take(&mut self.running);
        for (service, definition) in checks {
            let kept = former.remove(&definition.id);
            let running = match kept {
                Some(same) if same.service == service && same.definition == definition => same,
                changed => {
                    if let Some(changed) = changed {
                        changed.task.abort();
                    }
                    self.spawn(service, definition)
                }
            };
            if let Some(twin) = self.running.insert(running.definition.id.clone(), running) {
                twin.task.abort();
            }
        }
        for (check, gone) in former {
            gone.task.abort();
            self.verdicts.lock().remove(&check);
        }
    }

    /// A report for a TTL check.
    pub fn update(&self, check: &str, health: Health, output: String) -> Result<(), UpdateError> {
        let _ = (health, output);
        Err(UpdateError::Unknown(check.to_owned()))
    }

    /// The shared view of where the checks stand.
    pub fn verdicts(&self) -> Verdicts {
        self.verdicts.clone()
    }

    fn spawn(&self, service: Option<ServiceId>, definition: CheckDefinition) -> Running {
        let health = {
            let mut verdicts = self.verdicts.lock();
            let fresh = || Latest { health: definition.initial, output: String::new() };
            verdicts.entry(definition.id.clone()).or_insert_with(fresh).health
        };
        let check = Check {
            delay: start_delay(&self.settings, &definition),
            thresholds: Thresholds::new(&definition, health),
            service: service.clone(),
            definition: definition.clone(),
            events: self.events.clone(),
            verdicts: self.verdicts.clone(),
        };
        Running { service, definition, task: tokio::spawn(check.run()).abort_handle() }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.running.values().for_each(|running| running.task.abort());
    }
}

/// When the first attempt is made: by the check's id and the host's seed, so that it is the same at every start.
fn start_delay(settings: &Settings, definition: &CheckDefinition) -> Duration {
    let spread = settings.start_spread.min(definition.interval);
    let mut hasher = DefaultHasher::new();
    (settings.seed, &definition.id).hash(&mut hasher);
    let part = hasher.finish() % 1024;
    // Below 1024, so the cast is exact.
    spread.mul_f64(part as f64 / 1024.0)
}

/// One check at work.
struct Check {
    delay: Duration,
    thresholds: Thresholds,
    service: Option<ServiceId>,
    definition: CheckDefinition,
    events: mpsc::Sender<Event>,
    verdicts: Verdicts,
}

impl Check {
    async fn run(mut self) {
        let mut ticks = interval_at(Instant::now() + self.delay, self.definition.interval);
        // After a stall of the host one attempt is enough.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let made = attempt(&self.definition.kind, self.definition.timeout).await;
            if let Some(health) = self.thresholds.observe(made.health) {
                let event = Event::Verdict {
                    service: self.service.clone(),
                    check: self.definition.id.clone(),
                    health,
                    output: made.output.clone(),
                };
                if self.events.send(event).await.is_err() {
                    return;
                }
            }
            // Only now: had the task been replaced while it waited above, its successor would take a verdict as known
            // that the owner never heard of.
            let latest = Latest { health: self.thresholds.verdict(), output: made.output };
            if let Some(entry) = self.verdicts.lock().get_mut(&self.definition.id) {
                *entry = latest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::config::{CheckKind, CheckTarget};

    fn service(name: &str) -> ServiceId {
        ServiceId::parse(name).unwrap()
    }

    fn check(id: &str, address: SocketAddr) -> (Option<ServiceId>, CheckDefinition) {
        let target = CheckTarget { host: address.ip().to_string(), port: address.port() };
        let definition = CheckDefinition {
            id: id.into(),
            name: id.into(),
            kind: CheckKind::Tcp { target, tls: None },
            interval: Duration::from_millis(10),
            timeout: Duration::from_millis(10),
            success_before_passing: 1,
            failures_before_warning: 2,
            failures_before_critical: 2,
            initial: Health::Critical,
            notes: String::new(),
            deregister_after: None,
        };
        (Some(service("web")), definition)
    }

    async fn next(events: &mut mpsc::Receiver<Event>) -> (Option<ServiceId>, String, Health, String) {
        let event = timeout(Duration::from_secs(5), events.recv()).await;
        match event.expect("an event within 5 s").expect("a running check") {
            Event::Verdict { service, check, health, output } => (service, check, health, output),
            Event::Overdue { .. } => panic!("nothing here is overdue"),
        }
    }

    #[tokio::test]
    async fn a_check_tells_when_its_service_comes_and_goes_and_nothing_between() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, mut events) = mpsc::channel(8);
        let runner = Runner::start(Settings::default(), vec![check("service:web", address)], sender);
        let came = next(&mut events).await;
        assert_eq!((came.1.as_str(), came.2), ("service:web", Health::Passing));
        drop(listener);
        let went = next(&mut events).await;
        assert_eq!((went.0, went.2), (Some(service("web")), Health::Critical));
        assert!(went.3.contains("refused"), "{}", went.3);
        assert_eq!(runner.verdicts().get("service:other"), None);
    }

    #[tokio::test]
    async fn an_unchanged_check_keeps_its_task_and_a_removed_one_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, mut events) = mpsc::channel(8);
        let checks = vec![check("a", address), check("b", address)];
        let mut runner = Runner::start(Settings::default(), checks.clone(), sender);
        next(&mut events).await;
        next(&mut events).await;
        let before = runner.running["a"].task.id();
        runner.replace(checks[..1].to_vec());
        assert_eq!(runner.running["a"].task.id(), before);
        assert_eq!((runner.running.len(), runner.verdicts().get("b")), (1, None));
    }

    #[tokio::test]
    async fn a_changed_check_starts_from_the_verdict_it_had() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, mut events) = mpsc::channel(8);
        let (id, mut definition) = check("a", address);
        let mut runner = Runner::start(Settings::default(), vec![(id.clone(), definition.clone())], sender);
        assert_eq!(next(&mut events).await.2, Health::Passing);
        let settled = async {
            while runner.verdicts().get("a").map(|latest| latest.health) != Some(Health::Passing) {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), settled).await.unwrap();
        definition.interval = Duration::from_secs(3600);
        runner.replace(vec![(id, definition)]);
        assert_eq!(runner.verdicts().get("a").unwrap().health, Health::Passing, "not back to the initial critical");
    }

    #[tokio::test]
    async fn checks_end_with_the_runner() {
        let (sender, mut events) = mpsc::channel(8);
        let address = "127.0.0.1:9".parse().unwrap();
        drop(Runner::start(Settings::default(), vec![check("a", address)], sender));
        let ended = timeout(Duration::from_secs(5), events.recv()).await;
        assert_eq!(ended.expect("the channel closes"), None);
    }

    #[test]
    fn first_attempts_are_spread_over_the_shorter_of_spread_and_interval_and_differ_by_host() {
        let settings = Settings::default();
        let (_, mut definition) = check("a", "127.0.0.1:9".parse().unwrap());
        definition.interval = Duration::from_secs(10);
        let mut delays = Vec::new();
        for id in 0..100 {
            definition.id = format!("service:{id}");
            delays.push(start_delay(&settings, &definition));
        }
        assert!(delays.iter().all(|&delay| delay < Duration::from_secs(1)));
        assert!(delays.iter().any(|&delay| delay < Duration::from_millis(200)));
        assert!(delays.iter().any(|&delay| delay > Duration::from_millis(800)));
        let other = Settings { seed: 1, ..Settings::default() };
        assert_ne!(start_delay(&other, &definition), start_delay(&settings, &definition));
        definition.interval = Duration::from_millis(10);
        assert!(start_delay(&settings, &definition) < Duration::from_millis(10));
    }
}
