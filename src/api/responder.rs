//! One request from head to answer: who may ask, what to wait for, what to read, and what to ask of the agent.
//! `router` and `writes` decide; here their decisions are carried out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::answer::Answer;
use super::audited::{Reports, Subject};
use super::consul::{View, index};
use super::guard::{admit, admit_write};
use super::keyring;
use super::own::freshness;
use super::parameters::{Waiting, resource, waiting, with_jitter};
use super::request::Asked;
use super::rights::{Asker, Client, Openness};
use super::router::{MetricsForm, Outcome, route};
use super::tap::{self, Body, TapSource};
use super::telemetry::{prometheus, telemetry};
use super::watch::{Hub, Resource};
use super::whoami::WhoAsks;
use super::writes::{Write, decide, refused};
use super::{CheckOutput, Command, Counters, Local, Metrics, Settings, TrafficSource, VersionsSource};
use crate::access::{Audit, Tokens};
use crate::model::Directory;

/// A registration with everything in it has a few KiB.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// A goodbye spreads in a few gossip rounds.
const LEAVE_MAX: Duration = Duration::from_secs(20);
/// The agent writes a registration to disk before it answers; a join asks another host.
const COMMAND_MAX: Duration = Duration::from_secs(15);

/// Everybody who waits is woken within this.
const RECENT_MAX: Duration = Duration::from_millis(100);
/// What is kept stays until the next; larger answers are rarely asked for by many.
const RECENT_BYTES_MAX: usize = 256 * 1024;

const CONSUL_INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const CONSUL_KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const CONSUL_LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
const CONSUL_CONSISTENCY: HeaderName = HeaderName::from_static("x-consul-effective-consistency");
const CONSUL_CONTENT_HASH: HeaderName = HeaderName::from_static("x-consul-contenthash");
const WEFT_FRESHNESS: HeaderName = HeaderName::from_static("x-weft-freshness");

/// What every connection needs.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) directory: Arc<ArcSwap<Directory>>,
    pub(super) own: Arc<ArcSwap<Local>>,
    pub(super) hub: Arc<Hub>,
    pub(super) metrics: Metrics,
    pub(super) traffic: TrafficSource,
    pub(super) taps: Option<TapSource>,
    pub(super) versions: VersionsSource,
    pub(super) who_asks: Option<WhoAsks>,
    pub(super) check_output: CheckOutput,
    pub(super) open: Openness,
    pub(super) tokens: Option<Tokens>,
    pub(super) audit: Option<Audit>,
    pub(super) reports: Reports,
    pub(super) commands: mpsc::Sender<Command>,
    /// Bodies that may still be read beside those that are.
    pub(super) bodies: Semaphore,
    pub(super) recent: Recent,
    pub(super) counters: Arc<Counters>,
}

/// The last answer to a client that had waited. A change wakes all who wait for it with the same question, and building
/// a thousand equal bodies would be most of the time that they are told in.
#[derive(Default)]
pub(super) struct Recent(Mutex<Option<Answered>>);

struct Answered {
    /// The directory's, which is never given twice.
    index: u64,
    at: Instant,
    asked: Asked,
    answer: Answer,
}

impl Recent {
    fn find(&self, directory: &Directory, asked: &Asked) -> Option<Answer> {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = recent.as_ref()?;
        // Outputs of checks change without a publication, so no answer is kept for long.
        let fresh = last.index == directory.index && last.at.elapsed() < RECENT_MAX;
        (fresh && last.asked == *asked).then(|| last.answer.clone())
    }

    fn keep(&self, directory: &Directory, asked: &Asked, answer: &Answer) {
        let answered =
            Answered { index: directory.index, at: Instant::now(), asked: asked.clone(), answer: answer.clone() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(answered);
    }
}

/// A request that would change something.
enum Asks {
    Keys(keyring::Wanted),
    Write(Write),
    /// One that is asked for in a wrong way.
    Wrong(Answer),
}

impl Asks {
    /// `None`: it only reads, or its path is none that writes.
    fn of(asked: &Asked) -> Option<Asks> {
        let keys = keyring::decide(asked).filter(|_| !asked.reads());
        let keys = keys.map(|wanted| wanted.map_or_else(Asks::Wrong, Asks::Keys));
        keys.or_else(|| decide(asked).map(|write| write.map_or_else(Asks::Wrong, Asks::Write)))
    }
}

/// Returns when the agent stops. An error means that it is gone: as good as the word.
pub(super) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _gone = shutdown.wait_for(|stop| *stop).await;
}

impl Shared {
    /// Answers one request.
    pub(super) async fn answer(
        &self,
        client: Client,
        request: Request<Incoming>,
        stopping: watch::Receiver<bool>,
    ) -> Response<Body> {
        Counters::add(&self.counters.requests);
        let (head, body) = request.into_parts();
        let wants_text = wants_text(&head.headers);
        let asked = Asked::new(head.method, head.uri.path(), head.uri.query().unwrap_or(""), wants_text);
        if let Some(asks) = Asks::of(&asked) {
            let asker = self.asker(&client, &head.headers, &asked);
            let mut subject = Subject::default();
            let admitted = admit(client.via, head.uri.authority(), &head.headers)
                .and_then(|()| admit_write(client.via, &head.headers));
            let answer = match admitted {
                Ok(()) if body.size_hint().lower() > BODY_BYTES_MAX as u64 => too_large(),
                Ok(()) => Box::pin(self.written(&asker, asks, body, &mut subject)).await,
                Err(refusal) => self.turned_away(&refusal.to_string()),
            };
            if !asked.reads() {
                Box::pin(self.audit(&client, asker.token.as_deref(), &asked, subject, &answer)).await;
            }
            return self.respond(answer);
        }
        if let Err(refusal) = admit(client.via, head.uri.authority(), &head.headers) {
            return self.respond(self.turned_away(&refusal.to_string()));
        }
        if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
            return self.respond(too_large());
        }
        if !self.open.on_loopback
            && let Err(denied) = self.asker(&client, &head.headers, &asked).may_read()
        {
            return self.respond(self.denied(denied));
        }
        if let Some(wanted) = keyring::decide(&asked) {
            let answer = match wanted {
                Ok(wanted) => Box::pin(self.keyring(wanted, body, &mut Subject::default())).await,
                Err(answer) => answer,
            };
            return self.respond(answer);
        }
        if let Some(who_asks) =
            self.who_asks.as_ref().filter(|_| asked.segments() == ["v1", "weft", "whoami"] && asked.reads())
        {
            return self.respond(Box::pin(who_asks.tell(client.ends.as_ref())).await);
        }
        if let Some(source) = self.taps.as_ref().filter(|_| is_tap(&asked)) {
            return match tap::begin(&asked, source, stopping) {
                Ok(calls) => self.going_on(Body::Calls(Box::new(calls))),
                Err(answer) => self.respond(answer),
            };
        }
        // A client that waits must not hold its head: the two share hyper's buffer.
        drop((head.headers, head.uri, body));
        self.read(asked, stopping).await
    }

    fn asker(&self, client: &Client, headers: &HeaderMap, asked: &Asked) -> Asker {
        Asker::of(client, headers, asked, self.tokens.as_ref(), self.open)
    }

    fn turned_away(&self, sentence: &str) -> Answer {
        Counters::add(&self.counters.requests_refused);
        Answer::error(StatusCode::FORBIDDEN, sentence)
    }

    fn denied(&self, answer: Answer) -> Answer {
        if answer.status == StatusCode::FORBIDDEN {
            Counters::add(&self.counters.denied);
        }
        answer
    }

    /// What this host has registered.
    fn local(&self, directory: &Directory) -> Arc<Local> {
        let own = self.own.load_full();
        if own.index == 0 { Arc::new(Local::announced(directory)) } else { own }
    }

    // Reading.

    async fn read(&self, asked: Asked, mut stopping: watch::Receiver<bool>) -> Response<Body> {
        let mut has_waited = false;
        match waiting(&asked, self.settings.limits.wait_max) {
            Ok(None) => {}
            Ok(Some(Waiting { resource, known, limit })) => {
                has_waited = true;
                let limit = with_jitter(limit, SysRng.try_next_u64().unwrap_or(0));
                tokio::select! {
                    () = self.hub.wait(resource, known, limit) => {}
                    () = stopped(&mut stopping) => {}
                }
            }
            Err(answer) => return self.respond(answer),
        }
        let directory = self.directory.load_full();
        let answer = match self.recent.find(&directory, &asked).filter(|_| has_waited) {
            Some(answer) => answer,
            None => self.built(&asked, &directory, has_waited),
        };
        let mut response = self.response(&directory, self.index_of(&asked, &directory), answer);
        if matches!(asked.segments().as_slice(), ["v1", "catalog" | "health", ..]) {
            // Each host answers from its own copy; what differs is whether the copy is kept up to date.
            let stale = asked.query.first("stale").is_some() || freshness(&directory) == "stale";
            let consistency = HeaderValue::from_static(if stale { "stale" } else { "default" });
            response.headers_mut().insert(CONSUL_CONSISTENCY, consistency);
        }
        response
    }

    fn built(&self, asked: &Asked, directory: &Directory, keep: bool) -> Answer {
        let answer = match self.route(asked, directory) {
            Outcome::Answer(answer) => answer,
            Outcome::Metrics(form) => self.render(form),
        };
        if keep && answer.body.len() <= RECENT_BYTES_MAX {
            self.recent.keep(directory, asked, &answer);
        }
        answer
    }

    fn index_of(&self, asked: &Asked, directory: &Directory) -> u64 {
        match resource(asked) {
            None | Some(Resource::Own(_)) => index(directory),
            Some(resource) => self.hub.index(&resource, directory),
        }
    }

    fn route(&self, asked: &Asked, directory: &Directory) -> Outcome {
        let local = self.local(directory);
        let view = View {
            directory,
            settings: &self.settings,
            local: &local,
            output: &*self.check_output,
            traffic: &*self.traffic,
            versions: &*self.versions,
            now: SystemTime::now(),
        };
        route(asked, &view)
    }

    fn render(&self, form: MetricsForm) -> Answer {
        let mut text = String::new();
        (self.metrics)(&mut text);
        match form {
            MetricsForm::OpenMetrics => Answer::metrics(text),
            MetricsForm::Prometheus => Answer::prometheus(prometheus(&text)),
            MetricsForm::Consul { pretty } => Answer::json(&telemetry(&text, SystemTime::now()), pretty),
        }
    }

    // Writing.

    async fn written(&self, asker: &Asker, asks: Asks, body: Incoming, subject: &mut Subject) -> Answer {
        match asks {
            Asks::Keys(wanted) => match asker.may_change_keys() {
                Ok(()) => self.keyring(wanted, body, subject).await,
                Err(denied) => self.denied(denied),
            },
            Asks::Write(write) => match asker.may_write() {
                Ok(()) => self.write(asker, write, body, subject).await,
                Err(denied) => self.denied(denied),
            },
            Asks::Wrong(answer) => answer,
        }
    }

    async fn write(&self, asker: &Asker, write: Write, body: Incoming, subject: &mut Subject) -> Answer {
        if write == Write::Leave {
            "leave".clone_into(&mut subject.words);
            return match asker.may_operate("what concerns the whole host") {
                Ok(()) => self.leave().await,
                Err(denied) => self.denied(denied),
            };
        }
        let body = if write.takes_body() { self.body(body).await } else { Ok(Bytes::new()) };
        let body = match body {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        let (reply, outcome) = oneshot::channel();
        match write.command(body, reply) {
            Ok(Some(command)) => {
                *subject = Subject::of(&command);
                let allowed = asker.may_do(&command, &self.local(&self.directory.load()));
                match allowed {
                    Ok(()) => self.command(command, outcome).await,
                    Err(denied) => self.denied(denied),
                }
            }
            Ok(None) => Answer::done(),
            Err(answer) => answer,
        }
    }

    /// The whole body, bounded in size and time; and not many at once.
    pub(super) async fn body(&self, body: Incoming) -> Result<Bytes, Answer> {
        let read = async {
            let _place = self.bodies.acquire().await.ok();
            Limited::new(body, BODY_BYTES_MAX).collect().await
        };
        let limit = self.settings.limits.body_timeout;
        match timeout(limit, read).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(error)) => Err(Answer::error(StatusCode::BAD_REQUEST, &format!("the body cannot be read: {error}"))),
            Err(_) => {
                Counters::add(&self.counters.timed_out);
                let sentence = format!("the body did not come within {}", humantime::format_duration(limit));
                Err(Answer::error(StatusCode::REQUEST_TIMEOUT, &sentence))
            }
        }
    }

    async fn command(&self, command: Command, outcome: oneshot::Receiver<Result<(), super::Refused>>) -> Answer {
        let what = command.to_string();
        let asked = async {
            self.commands.send(command).await.ok()?;
            outcome.await.ok()
        };
        match timeout(COMMAND_MAX, asked).await {
            Ok(Some(Ok(()))) => Answer::done(),
            Ok(Some(Err(refusal))) => refused(&refusal),
            Ok(None) => Answer::error(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping"),
            Err(_) => {
                tracing::warn!(what, "a command was not done in time");
                let sentence = format!("{what}: not done in {} s; see the agent's log", COMMAND_MAX.as_secs());
                Answer::error(StatusCode::GATEWAY_TIMEOUT, &sentence)
            }
        }
    }

    async fn leave(&self) -> Answer {
        let (reply, left) = oneshot::channel();
        let asked = async {
            self.commands.send(Command::Leave { reply }).await.ok()?;
            left.await.ok()
        };
        match timeout(LEAVE_MAX, asked).await {
            Ok(Some(())) => Answer::json(&serde_json::json!({ "left": true }), false),
            Ok(None) => Answer::error(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping already"),
            Err(_) => {
                Answer::error(StatusCode::GATEWAY_TIMEOUT, "the goodbye has not spread in 20 s; see the agent's log")
            }
        }
    }

    // Answering.

    fn respond(&self, answer: Answer) -> Response<Body> {
        let directory = self.directory.load();
        self.response(&directory, index(&directory), answer)
    }

    /// An answer that ends with its connection.
    fn going_on(&self, body: Body) -> Response<Body> {
        let mut response = self.respond(Answer::text(StatusCode::OK, ""));
        *response.body_mut() = body;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }

    fn response(&self, directory: &Directory, index: u64, answer: Answer) -> Response<Body> {
        let mut response = Response::new(Body::Whole(Full::new(Bytes::from(answer.body))));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CONSUL_INDEX, HeaderValue::from(index));
        headers.insert(CONSUL_KNOWN_LEADER, HeaderValue::from_static("true"));
        headers.insert(CONSUL_LAST_CONTACT, HeaderValue::from_static("0"));
        headers.insert(WEFT_FRESHNESS, HeaderValue::from_static(freshness(directory)));
        if let Some(allow) = answer.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(hash) = answer.content_hash.and_then(|hash| HeaderValue::try_from(hash).ok()) {
            headers.insert(CONSUL_CONTENT_HASH, hash);
        }
        response
    }
}

fn is_tap(asked: &Asked) -> bool {
    asked.segments() == ["v1", "weft", "tap"] && asked.method == Method::GET
}

fn too_large() -> Answer {
    let sentence = format!("a body of more than {BODY_BYTES_MAX} bytes; no registration needs as many");
    Answer::error(StatusCode::PAYLOAD_TOO_LARGE, &sentence)
}

/// Consul's rule: `Accept` begins with `text/plain`, or names OpenMetrics, which is text too.
fn wants_text(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).is_some_and(|accept| {
        accept.as_bytes().starts_with(b"text/plain") || accept.as_bytes().starts_with(b"application/openmetrics-text")
    })
}
