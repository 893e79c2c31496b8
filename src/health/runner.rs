//! The tasks that run the checks of this host: one a check. Definitions come in as a whole set; events go out when a
//! verdict changes. Tasks end when the runner is dropped.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::alias::{self, Alias, View};
use super::attempt::{Shared, attempt};
use super::standing::{Standing, Unheard, until};
use super::ttl::{self, Reports};
use super::{Counters, Event, Verdicts};
use crate::config::{CheckDefinition, CheckKind};
use crate::model::{Directory, Health, ServiceId};

/// How the runner runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Differs from host to host (a part of the node id), so that hosts with the same checks do not fall into step.
    pub seed: u64,
    /// First attempts are spread over this long, or over the check's interval if that is shorter. Short, because a
    /// service that starts critical takes no calls before its first attempt. Later ones are spread over the interval.
    pub start_spread: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { seed: 0, start_spread: Duration::from_secs(1) }
    }
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

/// Owns the check tasks of this host.
#[derive(Debug)]
pub struct Runner {
    settings: Settings,
    events: mpsc::Sender<Event>,
    running: HashMap<String, Running>,
    verdicts: Verdicts,
    shared: Shared,
    view: Option<View>,
}

#[derive(Debug)]
struct Running {
    service: Option<ServiceId>,
    definition: CheckDefinition,
    /// Of a TTL check.
    reports: Option<Reports>,
    task: AbortHandle,
}

impl Runner {
    /// A runner of no checks yet.
    pub fn new(settings: Settings, events: mpsc::Sender<Event>) -> Runner {
        let (verdicts, shared) = (Verdicts::default(), Shared::default());
        Runner { settings, events, running: HashMap::new(), verdicts, shared, view: None }
    }

    /// With the directory that alias checks look in, and the news of its publications. Without it they are critical.
    pub fn with_directory(mut self, directory: Arc<ArcSwap<Directory>>, changes: watch::Receiver<u64>) -> Runner {
        self.view = Some(View { directory, changes });
        self
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
            self.verdicts.end(&check);
        }
    }

    /// A report for a TTL check: its verdict until the next one, or until there was none for the check's `ttl`.
    pub fn update(&self, check: &str, health: Health, output: String) -> Result<(), UpdateError> {
        let running = self.running.get(check).ok_or_else(|| UpdateError::Unknown(check.to_owned()))?;
        let reports = running.reports.as_ref().ok_or_else(|| UpdateError::NotTtl(check.to_owned()))?;
        reports.put(health, output);
        Ok(())
    }

    /// The shared view of where the checks stand.
    pub fn verdicts(&self) -> Verdicts {
        self.verdicts.clone()
    }

    /// What the checks count.
    pub fn counters(&self) -> Arc<Counters> {
        self.verdicts.counters().clone()
    }

    fn spawn(&self, service: Option<ServiceId>, definition: CheckDefinition) -> Running {
        let verdict = self.verdicts.begin(&definition.id, definition.initial);
        let (events, verdicts) = (self.events.clone(), self.verdicts.clone());
        let standing = Standing::new(service.clone(), &definition, verdict, events, verdicts);
        let mut reports = None;
        let task = match &definition.kind {
            CheckKind::Ttl { ttl } => {
                let told = reports.insert(Reports::default()).clone();
                tokio::spawn(ttl::run(standing, *ttl, told))
            }
            CheckKind::Alias { node, service } => {
                tokio::spawn(alias::run(standing, Alias::new(node.clone(), service.clone()), self.view.clone()))
            }
            _ => {
                let pace = Pace::new(&self.settings, &definition);
                tokio::spawn(run_attempts(standing, pace, definition.clone(), self.shared.clone()))
            }
        };
        Running { service, definition, reports, task: task.abort_handle() }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.running.values().for_each(|running| running.task.abort());
    }
}

/// When attempts are made: by the check's id and the host's seed, so that it is the same at every start.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pace {
    /// The first, from the start on.
    first: Duration,
    /// The second, from the start on: from there on every interval.
    second: Duration,
}

impl Pace {
    fn new(settings: &Settings, definition: &CheckDefinition) -> Pace {
        let mut hasher = DefaultHasher::new();
        (settings.seed, &definition.id).hash(&mut hasher);
        // At least 1 and at most 1024, so the cast is exact.
        let part = (hasher.finish() % 1024 + 1) as f64 / 1024.0;
        let first = settings.start_spread.min(definition.interval).mul_f64(part);
        Pace { first, second: first + definition.interval.mul_f64(part) }
    }
}

async fn run_attempts(
    mut standing: Standing,
    pace: Pace,
    definition: CheckDefinition,
    shared: Shared,
) -> Result<(), Unheard> {
    let began = Instant::now();
    sleep_until(began + pace.first).await;
    standing.tried(attempt(&definition.kind, definition.timeout, &shared).await).await?;
    let mut ticks = interval_at(began + pace.second, definition.interval);
    // After a stall of the host one attempt is enough.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = standing.due();
        tokio::select! {
            _ = ticks.tick() => {
                standing.tried(attempt(&definition.kind, definition.timeout, &shared).await).await?;
            }
            () = until(due) => standing.on_due().await?,
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

    fn start(checks: Vec<(Option<ServiceId>, CheckDefinition)>, events: mpsc::Sender<Event>) -> Runner {
        let mut runner = Runner::new(Settings::default(), events);
        runner.replace(checks);
        runner
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
        let runner = start(vec![check("service:web", address)], sender);
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
        let mut runner = start(checks.clone(), sender);
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
        let mut runner = start(vec![(id.clone(), definition.clone())], sender);
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
        drop(start(vec![check("a", address)], sender));
        let ended = timeout(Duration::from_secs(5), events.recv()).await;
        assert_eq!(ended.expect("the channel closes"), None);
    }

    #[test]
    fn attempts_are_spread_first_over_a_second_and_then_over_the_interval_and_differ_by_host() {
        let settings = Settings::default();
        let (_, mut definition) = check("a", "127.0.0.1:9".parse().unwrap());
        definition.interval = Duration::from_secs(10);
        let mut paces = Vec::new();
        for id in 0..100 {
            definition.id = format!("service:{id}");
            paces.push(Pace::new(&settings, &definition));
        }
        assert!(paces.iter().all(|pace| pace.first <= Duration::from_secs(1)));
        assert!(paces.iter().any(|pace| pace.first < Duration::from_millis(200)));
        assert!(paces.iter().any(|pace| pace.first > Duration::from_millis(800)));
        assert!(paces.iter().all(|pace| pace.second > pace.first && pace.second - pace.first <= definition.interval));
        assert!(paces.iter().any(|pace| pace.second > Duration::from_secs(8)));
        let other = Settings { seed: 1, ..Settings::default() };
        assert_ne!(Pace::new(&other, &definition), Pace::new(&settings, &definition));
        definition.interval = Duration::from_millis(10);
        assert!(Pace::new(&settings, &definition).first <= Duration::from_millis(10));
    }
}
