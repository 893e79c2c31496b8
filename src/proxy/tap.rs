//! Who looks at calls as they end: taps, each with a filter and a bounded queue. Workers ask one number, relaxed, whether
//! anybody listens at all; what a tap does not want is never written down, and what its queue does not take is counted.
//!
//! A request is seen when the head of its response has come (or Weft has answered, or nobody waits for it any more), a
//! connection at its end. Paths are shown without their queries, which may hold secrets.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use super::relay::End;
use crate::model::{Direction, TapFilter, TapHead};

/// Each costs every call a look.
pub const TAPS_MAX: usize = 16;
/// Lines that wait for one who looks: about 400 KiB. A terminal takes some thousands a second.
const QUEUE: usize = 1024;
/// What of a path is shown.
const PATH_CHARS_MAX: usize = 2048;

/// Everybody who looks.
#[derive(Debug, Default)]
pub struct Taps {
    /// How many there are, so that nobody costs one load.
    listening: AtomicUsize,
    taps: ArcSwap<Vec<Arc<Tap>>>,
    /// Held while the list is made anew.
    changing: Mutex<()>,
    lost: AtomicU64,
}

#[derive(Debug)]
struct Tap {
    filter: TapFilter,
    lines: mpsc::Sender<Bytes>,
    lost: Arc<AtomicU64>,
    /// Calls that fitted, for the sample.
    fitted: AtomicU64,
}

/// What one who looks is given. It is let go by dropping it.
#[derive(Debug)]
pub struct Listening {
    /// One JSON object each, with the end of its line.
    pub lines: mpsc::Receiver<Bytes>,
    /// Lines that did not fit the queue.
    pub lost: Arc<AtomicU64>,
}

impl Taps {
    /// Looks at calls from now on; `None` if too many do already.
    pub fn listen(&self, filter: TapFilter) -> Option<Listening> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taps = self.living();
        if taps.len() >= TAPS_MAX {
            return None;
        }
        let (lines, receiver) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        taps.push(Arc::new(Tap { filter, lines, lost: lost.clone(), fitted: AtomicU64::new(0) }));
        self.replace(taps);
        Some(Listening { lines: receiver, lost })
    }

    /// How many look now.
    pub fn count(&self) -> usize {
        self.living().len()
    }

    /// Lines that did not fit a queue, since the agent's start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn living(&self) -> Vec<Arc<Tap>> {
        self.taps.load().iter().filter(|tap| !tap.lines.is_closed()).cloned().collect()
    }

    fn replace(&self, taps: Vec<Arc<Tap>>) {
        let count = taps.len();
        self.taps.store(Arc::new(taps));
        self.listening.store(count, Ordering::Relaxed);
    }

    /// Lets go of those who do not look any more. Whoever finds the list being changed leaves it to the next call.
    fn prune(&self) {
        if let Ok(_changing) = self.changing.try_lock() {
            self.replace(self.living());
        }
    }

    /// True if anybody looks. To be asked before anything else is done for it.
    pub(super) fn is_watched(&self) -> bool {
        self.listening.load(Ordering::Relaxed) > 0
    }

    /// A call begins that somebody may want to see.
    pub(super) fn begin(self: &Arc<Taps>, head: &TapHead<'_>, protocol: &'static str) -> Option<Box<Seen>> {
        let taps = self.taps.load();
        if taps.iter().any(|tap| tap.lines.is_closed()) {
            self.prune();
        }
        if !taps.iter().any(|tap| tap.filter.may_fit(head)) {
            return None;
        }
        Some(Box::new(Seen { taps: Some(self.clone()), begun: Instant::now(), line: Line::of(head, protocol) }))
    }

    fn tell(&self, line: &Line) {
        let is_error = !line.error.is_empty();
        let mut encoded: Option<Bytes> = None;
        let mut has_gone = false;
        for tap in self.taps.load().iter() {
            if !tap.filter.may_fit(&line.head()) || !tap.filter.fits_end(line.status, is_error) {
                continue;
            }
            let number = tap.fitted.fetch_add(1, Ordering::Relaxed);
            if tap.filter.sample > 1 && number % tap.filter.sample != 0 {
                continue;
            }
            let text = encoded.get_or_insert_with(|| line.encode()).clone();
            match tap.lines.try_send(text) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    tap.lost.fetch_add(1, Ordering::Relaxed);
                    self.lost.fetch_add(1, Ordering::Relaxed);
                }
                Err(TrySendError::Closed(_)) => has_gone = true,
            }
        }
        if has_gone {
            self.prune();
        }
    }
}

/// A line, as the API gives it out.
#[derive(Debug, Serialize)]
struct Line {
    /// When the call began: RFC 3339, UTC.
    time: String,
    direction: Direction,
    protocol: &'static str,
    caller: String,
    caller_node: String,
    service: String,
    instance: String,
    node: String,
    method: String,
    path: String,
    status: u16,
    error: String,
    rule: String,
    tries: usize,
    milliseconds: f64,
    bytes_up: Option<u64>,
    bytes_down: Option<u64>,
}

impl Line {
    fn of(head: &TapHead<'_>, protocol: &'static str) -> Line {
        Line {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            direction: head.direction,
            protocol,
            caller: head.caller.to_owned(),
            caller_node: head.caller_node.to_owned(),
            service: head.service.to_owned(),
            instance: String::new(),
            node: String::new(),
            method: head.method.to_owned(),
            path: head.path.chars().take(PATH_CHARS_MAX).collect(),
            status: 0,
            error: String::new(),
            rule: String::new(),
            tries: 0,
            milliseconds: 0.0,
            bytes_up: None,
            bytes_down: None,
        }
    }

    fn head(&self) -> TapHead<'_> {
        TapHead {
            direction: self.direction,
            caller: &self.caller,
            caller_node: &self.caller_node,
            service: &self.service,
            method: &self.method,
            path: &self.path,
        }
    }

    fn encode(&self) -> Bytes {
        // Strings and numbers have a JSON form.
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.push(b'\n');
        Bytes::from(text)
    }
}

/// How a call ended.
#[derive(Debug, Default)]
pub(super) struct Ending<'a> {
    pub node: &'a str,
    pub instance: &'a str,
    pub status: u16,
    pub error: &'a str,
    pub rule: &'a str,
    pub tries: usize,
    pub bytes_up: Option<u64>,
    pub bytes_down: Option<u64>,
}

/// A call under way that somebody may want to see. Dropped before its end it is seen as abandoned.
pub(super) struct Seen {
    taps: Option<Arc<Taps>>,
    begun: Instant,
    line: Line,
}

impl Seen {
    /// The call has ended.
    pub(super) fn end(mut self: Box<Seen>, ending: &Ending<'_>) {
        let line = &mut self.line;
        ending.node.clone_into(&mut line.node);
        ending.instance.clone_into(&mut line.instance);
        ending.error.clone_into(&mut line.error);
        ending.rule.clone_into(&mut line.rule);
        line.status = ending.status;
        line.tries = ending.tries;
        line.bytes_up = ending.bytes_up;
        line.bytes_down = ending.bytes_down;
        self.tell();
    }

    /// It began then, before anybody asked.
    pub(super) fn since(mut self: Box<Seen>, begun: Instant) -> Box<Seen> {
        let ago = self.begun.saturating_duration_since(begun);
        let at = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        self.line.time = humantime::format_rfc3339_millis(at).to_string();
        self.begun = begun;
        self
    }

    fn tell(&mut self) {
        let Some(taps) = self.taps.take() else { return };
        self.line.milliseconds = (self.begun.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        taps.tell(&self.line);
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        if self.taps.is_some() {
            "abandoned".clone_into(&mut self.line.error);
            self.tell();
        }
    }
}

/// What becomes of a connection, kept while it lasts: it is written down only if somebody looks at its end.
pub(super) struct Carried {
    begun: Instant,
    error: Cell<&'static str>,
    bytes: Cell<(u64, u64)>,
}

impl Carried {
    pub(super) fn begin() -> Carried {
        Carried { begun: Instant::now(), error: Cell::new(""), bytes: Cell::new((0, 0)) }
    }

    /// Why it did not end well.
    pub(super) fn broke(&self, error: &'static str) {
        self.error.set(error);
    }

    /// What it carried, up to the service and down.
    pub(super) fn carried(&self, up: u64, down: u64) {
        self.bytes.set((up, down));
    }

    /// It has ended, on that host and instance.
    pub(super) fn end(&self, taps: &Arc<Taps>, head: &TapHead<'_>, (node, instance): (&str, &str), tries: usize) {
        let Some(seen) = taps.begin(head, "tcp") else { return };
        let (up, down) = self.bytes.get();
        let (bytes_up, bytes_down) = (Some(up), Some(down));
        let error = self.error.get();
        let ending = Ending { node, instance, error, tries, bytes_up, bytes_down, ..Ending::default() };
        seen.since(self.begun).end(&ending);
    }
}

/// How a stream ended, in the words of `weft-error` where it has one.
pub(super) fn word(end: &End) -> &'static str {
    match end {
        End::Finished => "",
        End::Refused(_) => "refused",
        End::LostBeforeAccept(_) => "connect-failed",
        End::FarReset | End::LocalReset => "reset",
        End::Lost(_) | End::HostLost => "host-lost",
        End::Idle => "idle",
        End::Expired => "certificate-ended",
        End::TagLost => "tag-moved",
        End::Denied => "denied",
        End::CrowdedOut => "crowded-out",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: TapHead<'static> = TapHead {
        direction: Direction::Out,
        caller: "web",
        caller_node: "web-01",
        service: "billing",
        method: "GET",
        path: "/a",
    };

    fn filter(pairs: &[(&str, &str)]) -> TapFilter {
        TapFilter::parse(pairs.iter().copied()).unwrap()
    }

    fn end(taps: &Arc<Taps>, status: u16) {
        let seen = taps.begin(&HEAD, "HTTP/1.1");
        seen.into_iter().for_each(|seen| seen.end(&Ending { status, ..Ending::default() }));
    }

    fn statuses(listening: &mut Listening) -> Vec<u64> {
        let mut found = Vec::new();
        while let Ok(line) = listening.lines.try_recv() {
            let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
            found.push(value["status"].as_u64().unwrap());
        }
        found
    }

    #[test]
    fn each_sees_what_it_asked_for() {
        let taps = Arc::new(Taps::default());
        assert!(!taps.is_watched());
        let mut all = taps.listen(filter(&[])).unwrap();
        let mut failed = taps.listen(filter(&[("code", "5xx")])).unwrap();
        let mut third = taps.listen(filter(&[("sample", "3")])).unwrap();
        let mut other = taps.listen(filter(&[("service", "db")])).unwrap();
        [200, 503, 404, 500].iter().for_each(|status| end(&taps, *status));
        assert_eq!(statuses(&mut all), [200, 503, 404, 500]);
        assert_eq!(statuses(&mut failed), [503, 500]);
        assert_eq!(statuses(&mut third), [200, 500]);
        assert!(statuses(&mut other).is_empty());
    }

    #[test]
    fn nothing_is_begun_for_calls_that_nobody_wants_to_see() {
        let taps = Arc::new(Taps::default());
        let _listening = taps.listen(filter(&[("path", "/b")])).unwrap();
        assert!(taps.is_watched() && taps.begin(&HEAD, "HTTP/1.1").is_none());
    }

    #[test]
    fn what_a_slow_reader_does_not_take_is_counted_and_nobody_waits() {
        let taps = Arc::new(Taps::default());
        let mut slow = taps.listen(filter(&[])).unwrap();
        (0..QUEUE + 7).for_each(|_| end(&taps, 200));
        assert_eq!((slow.lost.load(Ordering::Relaxed), taps.lost()), (7, 7));
        assert_eq!(statuses(&mut slow).len(), QUEUE);
    }

    #[test]
    fn there_is_room_for_sixteen_and_those_who_go_make_room() {
        let taps = Arc::new(Taps::default());
        let mut listening: Vec<_> = (0..TAPS_MAX).map(|_| taps.listen(filter(&[])).unwrap()).collect();
        assert!(taps.listen(filter(&[])).is_none());
        listening.pop();
        listening.push(taps.listen(filter(&[])).unwrap());
        listening.clear();
        assert_eq!(taps.count(), 0);
        end(&taps, 200);
        assert!(!taps.is_watched(), "the next call finds that nobody looks");
    }

    #[test]
    fn a_request_that_nobody_waits_for_any_more_is_seen_as_abandoned() {
        let taps = Arc::new(Taps::default());
        let mut listening = taps.listen(filter(&[("errors", "")])).unwrap();
        drop(taps.begin(&HEAD, "HTTP/1.1"));
        let line = String::from_utf8(listening.lines.try_recv().unwrap().to_vec()).unwrap();
        assert!(line.contains(r#""status":0,"error":"abandoned""#) && line.ends_with("}\n"), "{line}");
    }
}
