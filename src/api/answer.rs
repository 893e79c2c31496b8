//! An answer before it is HTTP: status, type, body. Pure.

use hyper::StatusCode;
use serde::Serialize;

/// OpenMetrics 1.0, which `prometheus-client` writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Prometheus's own form, from before OpenMetrics.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
    /// The methods that the path knows, where the request's is none of them.
    pub(super) allow: Option<&'static str>,
    /// What a client waits by for the next change of what it was told, in place of an index.
    pub(super) content_hash: Option<String>,
}

impl Answer {
    fn new(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
        Answer { status, content_type, body, allow: None, content_hash: None }
    }

    /// 200 with `value`, over several lines if `pretty`.
    pub(super) fn json(value: &impl Serialize, pretty: bool) -> Answer {
        let encoded = if pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
        match encoded {
            Ok(mut body) => {
                body.push(b'\n');
                Answer::new(StatusCode::OK, JSON, body)
            }
            Err(error) => {
                Answer::error(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot write the answer: {error}"))
            }
        }
    }

    /// `{"error": sentence}`.
    pub(super) fn error(status: StatusCode, sentence: &str) -> Answer {
        let body = format!("{}\n", serde_json::json!({ "error": sentence })).into_bytes();
        Answer::new(status, JSON, body)
    }

    /// Consul's texts, where programs read them.
    pub(super) fn text(status: StatusCode, text: &str) -> Answer {
        Answer::new(status, TEXT, text.as_bytes().to_vec())
    }

    /// What Consul answers to a write that was done: nothing.
    pub(super) fn done() -> Answer {
        Answer::new(StatusCode::OK, JSON, Vec::new())
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Answer {
        let sentence = format!("this path answers to {allow} only");
        Answer { allow: Some(allow), ..Answer::error(StatusCode::METHOD_NOT_ALLOWED, &sentence) }
    }

    pub(super) fn metrics(text: String) -> Answer {
        Answer::new(StatusCode::OK, OPEN_METRICS, text.into_bytes())
    }

    pub(super) fn prometheus(text: String) -> Answer {
        Answer::new(StatusCode::OK, PROMETHEUS, text.into_bytes())
    }

    pub(super) fn with_status(self, status: StatusCode) -> Answer {
        Answer { status, ..self }
    }

    pub(super) fn with_content_hash(self, hash: String) -> Answer {
        Answer { content_hash: Some(hash), ..self }
    }
}
