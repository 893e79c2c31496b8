//! A service file, checked: the instance as it will be advertised and the checks that this host runs for it.

use std::fmt;
use std::time::Duration;

use crate::model::{Health, Instance};

/// One service of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceDefinition {
    /// What is advertised; its `checks` are empty until the runners have verdicts.
    pub instance: Instance,
    /// What is run for it; ids are unique on this host.
    pub checks: Vec<CheckDefinition>,
    /// `FILE:LINE`, for messages.
    pub source: String,
}

/// One check of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckDefinition {
    /// Unique on this host: `service:billing`, or `service:billing:2` where a service has several.
    pub id: String,
    /// For people.
    pub name: String,
    /// What is done.
    pub kind: CheckKind,
    /// From one start to the next.
    pub interval: Duration,
    /// When an attempt counts as failed; at most `interval`.
    pub timeout: Duration,
    /// Successes in a row that make it passing; at least 1.
    pub success_before_passing: u32,
    /// Failures in a row that make it warning; at least 1, at most `failures_before_critical`.
    pub failures_before_warning: u32,
    /// Failures in a row that make it critical; at least 1.
    pub failures_before_critical: u32,
    /// The verdict before the first attempt.
    pub initial: Health,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// GET over plain HTTP/1.1: 2xx passes, 429 warns, all else fails (Consul's rule).
    Http {
        /// As the file has it, for people.
        url: String,
        /// Where to connect; its text is the `Host` header.
        target: CheckTarget,
        /// Path and query; begins with `/`.
        path: String,
    },
    /// A connect that succeeds passes.
    Tcp {
        /// Where to connect.
        target: CheckTarget,
    },
}

impl CheckKind {
    /// The word that Consul's API uses.
    pub fn as_str(&self) -> &'static str {
        match self {
            CheckKind::Http { .. } => "http",
            CheckKind::Tcp { .. } => "tcp",
        }
    }
}

/// A host, which may be a name to be looked up at each attempt, and a port. Prints as `host:port`, IPv6 in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckTarget {
    /// An address without brackets, or a name.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

impl fmt::Display for CheckTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}
