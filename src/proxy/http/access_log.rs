//! The access log: a line a request on standard output, for people or as JSON, written by a thread of its own. A log that
//! is not taken as fast as it is written loses lines, never requests; lost lines are counted.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::header::{HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use serde::Serialize;

use super::body::Reply;
use super::forward::Outcome;
use super::reason::WEFT_ERROR;
use crate::config::AccessLog;
use crate::model::ServiceName;

/// Lines that wait for a slow reader; at about 300 bytes each they are a few MiB.
const LINES_MAX: usize = 16_384;
/// What of a path, a user agent or a trace id is written.
const TEXT_BYTES_MAX: usize = 2048;

/// Where lines go.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct AccessLogger {
    form: AccessLog,
    lines: SyncSender<String>,
    lost: Arc<AtomicU64>,
}

impl AccessLogger {
    /// Starts the log's thread; `None` where there is to be no log.
    pub(in crate::proxy) fn start(form: AccessLog) -> std::io::Result<Option<AccessLogger>> {
        if form == AccessLog::Off {
            return Ok(None);
        }
        let (lines, waiting) = sync_channel(LINES_MAX);
        std::thread::Builder::new().name("weft-access-log".into()).spawn(move || write(&waiting))?;
        Ok(Some(AccessLogger { form, lines, lost: Arc::default() }))
    }

    /// Lines that nobody took in time.
    pub(in crate::proxy) fn lost(&self) -> Arc<AtomicU64> {
        self.lost.clone()
    }

    fn take(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes what has come in one go, then waits.
fn write(waiting: &Receiver<String>) {
    while let Ok(mut text) = waiting.recv() {
        while text.len() < 64 * 1024
            && let Ok(more) = waiting.try_recv()
        {
            text.push_str(&more);
        }
        // A closed standard output is the operator's choice.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
    }
}

/// One request, from its beginning.
pub(super) struct Line<'a> {
    log: &'a AccessLogger,
    entry: Entry,
}

#[derive(Serialize)]
struct Entry {
    time: String,
    service: String,
    method: String,
    path: String,
    protocol: &'static str,
    user_agent: String,
    traceparent: String,
    status: u16,
    /// `weft-error`, where Weft answered itself.
    error: String,
    node: String,
    instance: String,
    tries: usize,
    /// To the end of the response's head.
    milliseconds: f64,
}

impl<'a> Line<'a> {
    pub(super) fn begin(
        log: Option<&'a AccessLogger>,
        request: &Request<Incoming>,
        service: &ServiceName,
    ) -> Option<Line<'a>> {
        let log = log?;
        let header = |name: &str| request.headers().get(name).map(text).unwrap_or_default();
        let protocol = match request.version() {
            hyper::Version::HTTP_2 => "HTTP/2",
            hyper::Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        };
        let path: String = request.uri().path().chars().take(TEXT_BYTES_MAX).collect();
        let entry = Entry {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            service: service.to_string(),
            method: request.method().to_string(),
            path,
            protocol,
            user_agent: header(USER_AGENT.as_str()),
            traceparent: header("traceparent"),
            status: 0,
            error: String::new(),
            node: String::new(),
            instance: String::new(),
            tries: 0,
            milliseconds: 0.0,
        };
        Some(Line { log, entry })
    }

    pub(super) fn end(&mut self, response: &Response<Reply>, outcome: &Outcome, took: Duration) {
        let entry = &mut self.entry;
        entry.status = response.status().as_u16();
        entry.error = response.headers().get(WEFT_ERROR).map(text).unwrap_or_default();
        if let Some(endpoint) = &outcome.endpoint {
            entry.node = endpoint.node.facts.name.to_string();
            entry.instance = endpoint.instance.id.to_string();
        }
        entry.tries = outcome.tries;
        entry.milliseconds = (took.as_secs_f64() * 1e6).round() / 1e3;
        self.log.take(entry.line(self.log.form));
    }
}

impl Entry {
    fn line(&self, form: AccessLog) -> String {
        let mut line = match form {
            AccessLog::Json => serde_json::to_string(self).unwrap_or_default(),
            AccessLog::Text | AccessLog::Off => format!(
                "{} {} {} {:?} {} {} {}/{} {:.3}ms tries={}{}",
                self.time,
                self.service,
                self.method,
                self.path,
                self.protocol,
                self.status,
                self.node,
                self.instance,
                self.milliseconds,
                self.tries,
                if self.error.is_empty() { String::new() } else { format!(" error={}", self.error) },
            ),
        };
        line.push('\n');
        line
    }
}

/// What clients send may neither forge lines nor fill the log.
fn text(value: &HeaderValue) -> String {
    let text = String::from_utf8_lossy(value.as_bytes());
    text.chars().filter(|c| !c.is_control()).take(TEXT_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            time: "2026-01-02T03:04:05.678Z".into(),
            service: "billing".into(),
            method: "GET".into(),
            path: "/a\"b".into(),
            protocol: "HTTP/1.1",
            user_agent: "curl".into(),
            traceparent: String::new(),
            status: 503,
            error: "no-instance".into(),
            node: "web-01".into(),
            instance: "billing".into(),
            tries: 2,
            milliseconds: 1.25,
        }
    }

    #[test]
    fn a_line_cannot_be_forged_by_what_a_client_sends() {
        let json = entry().line(AccessLog::Json);
        assert_eq!(json.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value["path"], &value["error"]), (&"/a\"b".into(), &"no-instance".into()));
        let line = entry().line(AccessLog::Text);
        let expected = r#"2026-01-02T03:04:05.678Z billing GET "/a\"b" HTTP/1.1 503 web-01/billing 1.250ms tries=2 error=no-instance"#;
        assert_eq!(line.trim_end(), expected);
        assert_eq!(text(&HeaderValue::from_bytes(b"a\tb").unwrap()), "ab");
    }
}
