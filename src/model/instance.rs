//! What a host says of itself and of the services that run on it: the bodies of its records, read.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{NodeName, ServiceId, ServiceName, Tag};

/// Health of an instance, worst last, in the words of Consul's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Takes calls.
    Passing,
    /// Takes calls; somebody should look.
    Warning,
    /// Takes none.
    Critical,
}

impl Health {
    /// The word that Consul's API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Passing => "passing",
            Health::Warning => "warning",
            Health::Critical => "critical",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Any byte stream.
    #[default]
    Tcp,
    /// HTTP/1.1.
    Http,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// gRPC.
    Grpc,
}

impl Protocol {
    /// True for the protocols whose VIP also answers on port 80.
    pub fn is_http(self) -> bool {
        self != Protocol::Tcp
    }

    /// The word of the service file.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Http => "http",
            Protocol::Http2 => "http2",
            Protocol::Grpc => "grpc",
        }
    }
}

/// One check's verdict as it travels: the transition, never the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Unique on its host, e.g. `service:billing:1`.
    pub id: String,
    /// For people.
    pub name: String,
    /// `http`, `tcp`, ...
    pub kind: String,
    /// The verdict.
    pub health: Health,
}

/// One instance of a service: the body of a service record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Unique on its host.
    pub id: ServiceId,
    /// The service that it is an instance of.
    pub service: ServiceName,
    /// Where the process listens, as seen from its own host; `None` is 127.0.0.1.
    pub address: Option<IpAddr>,
    /// Where the process listens; 0 where it has no port: found by name and API, never called through the mesh.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// The port that the service's VIP answers on; `None` is `port`.
    pub vip_port: Option<u16>,
    /// Tags, in the file's order.
    pub tags: Vec<Tag>,
    /// Free key-value pairs.
    pub meta: BTreeMap<String, String>,
    /// How its part of the calls compares with other instances', as Consul's `weights`.
    pub weights: Weights,
    /// How long a request may wait for its response to begin; `None` is `proxy.request_timeout` of the caller's host.
    pub request_timeout: Option<Duration>,
    /// Verdicts of its checks; empty means "passing".
    pub checks: Vec<CheckStatus>,
}

/// Consul's `weights`: told by DNS (SRV) and the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// While its checks pass.
    pub passing: u16,
    /// While one of them warns.
    pub warning: u16,
}

impl Default for Weights {
    fn default() -> Weights {
        Weights { passing: 1, warning: 1 }
    }
}

impl Weights {
    /// The one that counts at that health; nothing goes to what is critical.
    pub fn at(self, health: Health) -> u16 {
        match health {
            Health::Passing => self.passing,
            Health::Warning => self.warning,
            Health::Critical => 0,
        }
    }
}

impl Instance {
    /// The worst verdict among the checks.
    pub fn health(&self) -> Health {
        self.checks.iter().map(|check| check.health).max().unwrap_or(Health::Passing)
    }

    /// Where its own host's agent delivers.
    pub fn delivery(&self) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), self.port)
    }

    /// The port that the service's VIP answers on, as this instance has it.
    pub fn vip_port(&self) -> u16 {
        self.vip_port.unwrap_or(self.port)
    }
}

/// What a host says of itself: the body of its node record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The host's name; the certificate carries the same.
    pub name: NodeName,
    /// The address under which other hosts reach it.
    pub address: IpAddr,
    /// Where its mesh port is reached, port mapping included.
    pub mesh: SocketAddr,
    /// Where its gossip port is reached, port mapping included.
    pub gossip: SocketAddr,
    /// Failure domain; empty if none is set.
    pub zone: String,
    /// Free key-value pairs.
    pub meta: BTreeMap<String, String>,
    /// The agent's version.
    pub version: String,
    /// Verdicts of the host's own checks, maintenance among them; empty means "passing".
    pub checks: Vec<CheckStatus>,
    /// The node certificate and its intermediates, DER, leaf first. It binds the record key to the name.
    pub certificates: Vec<Vec<u8>>,
}

impl NodeFacts {
    /// The worst verdict among the host's own checks.
    pub fn health(&self) -> Health {
        self.checks.iter().map(|check| check.health).max().unwrap_or(Health::Passing)
    }
}
