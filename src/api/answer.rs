//! An answer before it is HTTP: status, type, body. Pure.

use hyper::StatusCode;
use serde::Serialize;

/// OpenMetrics 1.0, which `prometheus-client` writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
    /// The methods that the path knows, where the request's is none of them.
    pub(super) allow: Option<&'static str>,
}

impl Answer {
    /// 200 with `value`, over several lines if `pretty`.
    pub(super) fn json(value: &impl Serialize, pretty: bool) -> Answer {
        let encoded = if pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
        match encoded {
            Ok(mut body) => {
                body.push(b'\n');
                Answer { status: StatusCode::OK, content_type: JSON, body, allow: None }
            }
            Err(error) => {
                Answer::error(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot write the answer: {error}"))
            }
        }
    }

    /// `{"error": sentence}`.
    pub(super) fn error(status: StatusCode, sentence: &str) -> Answer {
        let body = format!("{}\n", serde_json::json!({ "error": sentence })).into_bytes();
        Answer { status, content_type: JSON, body, allow: None }
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Answer {
        let sentence = format!("this path answers to {allow} only");
        Answer { allow: Some(allow), ..Answer::error(StatusCode::METHOD_NOT_ALLOWED, &sentence) }
    }

    pub(super) fn metrics(text: String) -> Answer {
        Answer { status: StatusCode::OK, content_type: OPEN_METRICS, body: text.into_bytes(), allow: None }
    }
}
