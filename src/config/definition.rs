//! A service file, checked: the instance as it will be advertised and the checks that this host runs for it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::{CallerKeys, Health, Instance, NodeName, ServiceId};

/// One service of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceDefinition {
    /// What is advertised; its `checks` are empty until the runners have verdicts.
    pub instance: Instance,
    /// What is run for it; ids are unique on this host.
    pub checks: Vec<CheckDefinition>,
    /// Which programs of this host are the service. From files only: who registers a service by the API could otherwise
    /// call in its name.
    pub callers: CallerKeys,
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
    /// For people; stays on this host.
    pub notes: String,
    /// What is done.
    pub kind: CheckKind,
    /// From one start to the next.
    pub interval: Duration,
    /// When an attempt counts as failed; at most `interval` but in Consul's form.
    pub timeout: Duration,
    /// Successes in a row that make it passing; at least 1.
    pub success_before_passing: u32,
    /// Failures in a row that make it warning; at least 1, at most `failures_before_critical`.
    pub failures_before_warning: u32,
    /// Failures in a row that make it critical; at least 1.
    pub failures_before_critical: u32,
    /// The verdict before the first attempt.
    pub initial: Health,
    /// A service whose check has been critical for this long is deregistered, if it came by the API.
    pub deregister_after: Option<Duration>,
}

/// A check that came by the API, for a service that is there or for the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckRegistration {
    /// Whose; `None` is the host's.
    pub service: Option<ServiceId>,
    /// What is run.
    pub check: CheckDefinition,
}

/// How a check speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckTls {
    /// The name that the certificate must carry; `None` is the target's host.
    pub server_name: Option<String>,
    /// Take any certificate.
    pub skip_verify: bool,
    /// A PEM file of roots in place of the system's.
    pub roots: Option<PathBuf>,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// One request over HTTP/1.1: 2xx passes, 429 warns, all else fails (Consul's rule).
    Http {
        /// As the file has it, for people.
        url: String,
        /// Where to connect; its text is the `Host` header.
        target: CheckTarget,
        /// Path and query; begins with `/`.
        path: String,
        /// `GET`, if nothing else is asked for.
        method: String,
        /// Sent beside Weft's own; names and values are valid.
        headers: Vec<(String, String)>,
        /// Sent as it is; empty is none.
        body: String,
        /// For `https`.
        tls: Option<CheckTls>,
    },
    /// A connect that succeeds passes.
    Tcp {
        /// Where to connect.
        target: CheckTarget,
        /// A TLS handshake must succeed as well.
        tls: Option<CheckTls>,
    },
    /// A datagram that no ICMP error answers passes (Consul's rule).
    Udp {
        /// Where to send.
        target: CheckTarget,
    },
    /// `grpc.health.v1.Health/Check`: SERVING passes.
    Grpc {
        /// Where to connect.
        target: CheckTarget,
        /// The service asked about; empty is the server as a whole.
        service: String,
        /// Over TLS.
        tls: Option<CheckTls>,
    },
    /// Nothing is tried: the service reports by the API, and is critical when it has not for `ttl`.
    Ttl {
        /// The time within which it must report.
        ttl: Duration,
    },
    /// A program, run without a shell: exit 0 passes, 1 warns, all else fails. From files only.
    Script {
        /// The program, by its absolute path, and its arguments; never empty.
        args: Vec<String>,
    },
    /// As healthy as another service of this host, or as a host.
    Alias {
        /// The host, if not this one.
        node: Option<NodeName>,
        /// The service's id on that host; `None` is the host itself.
        service: Option<ServiceId>,
    },
    /// A systemd unit that is active passes.
    Systemd {
        /// With its suffix, e.g. `nginx.service`.
        unit: String,
    },
}

impl CheckKind {
    /// The word that Consul's API uses.
    pub fn as_str(&self) -> &'static str {
        match self {
            CheckKind::Http { .. } => "http",
            CheckKind::Tcp { .. } => "tcp",
            CheckKind::Udp { .. } => "udp",
            CheckKind::Grpc { .. } => "grpc",
            CheckKind::Ttl { .. } => "ttl",
            CheckKind::Script { .. } => "script",
            CheckKind::Alias { .. } => "alias",
            CheckKind::Systemd { .. } => "systemd",
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
