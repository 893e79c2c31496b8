//! `curl` as a caller of HTTP services uses it, and its answer taken apart.

use crate::host::Host;

/// The final answer to one request.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// `1.1` or `2`.
    pub(crate) version: String,
    pub(crate) status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The header's only value, or nothing.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} twice in {self:?}");
        value
    }

    /// `weft-error`, or an empty text.
    #[track_caller]
    pub(crate) fn error(&self) -> &str {
        self.header("weft-error").unwrap_or_default()
    }

    fn parse(text: &str) -> Option<Answer> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let version = words.next()?.strip_prefix("HTTP/")?.to_owned();
        let status = words.next()?.parse().ok()?;
        if (100..200).contains(&status) && status != 101 {
            return Answer::parse(body);
        }
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Some(Answer { version, status, headers, body: body.to_owned() })
    }
}

/// The protocols that a caller may speak.
pub(crate) const VERSIONS: [&str; 2] = ["--http1.1", "--http2-prior-knowledge"];

/// One request from `host`; any status is an answer.
#[track_caller]
pub(crate) fn ask(host: &Host, arguments: &[&str]) -> Answer {
    let all = [&["--silent", "--show-error", "--include", "--max-time", "30"], arguments].concat();
    let text = host.run("curl", all).expect(&format!("curl {}", arguments.join(" ")));
    Answer::parse(&text).unwrap_or_else(|| panic!("curl {arguments:?} printed no answer: {text:?}"))
}

/// `curl` with its own options; what it printed.
#[track_caller]
pub(crate) fn curl(host: &Host, arguments: &[&str]) -> String {
    let all = [&["--silent", "--show-error", "--max-time", "50"], arguments].concat();
    host.run("curl", all).expect(&format!("curl {}", arguments.join(" ")))
}
