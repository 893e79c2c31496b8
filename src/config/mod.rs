//! Raw files to checked configuration: `weft.toml` and `services.d/` come in, a [`Config`] or *all* of their mistakes go
//! out, each with file, line and advice. Nothing here binds a port, and nothing past here checks a value again.
//!
//! The way through: `load` finds the files, `document` turns TOML or JSON text into one tree that knows its lines,
//! `reading`, `service`, `callers` and `check` take typed values out of it through `section`, `rules` holds them against each other;
//! `settings` and `definition` are what comes out. `consul` makes Consul's form readable to the same readers, and
//! `registration` gives them the bodies of the API. `policy_file` reads what operators apply.

mod callers;
mod check;
mod check_kind;
mod consul;
mod definition;
mod difference;
mod document;
mod duration;
mod error;
mod json;
mod load;
mod policy_file;
mod reading;
mod registration;
mod rules;
mod section;
mod service;
mod settings;
mod value;

#[cfg(test)]
mod tests;

pub use definition::{CheckDefinition, CheckKind, CheckRegistration, CheckTarget, CheckTls, ServiceDefinition};
pub use difference::Difference;
pub use error::{ConfigError, ConfigErrors};
pub use policy_file::PolicyFile;
pub use reading::default_advertise;
pub use registration::{check_registration, service_registration};
pub use rules::CHECKS_MAX;
pub use settings::{
    AccessLog, ApiConfig, ApiTls, Capture, ClusterConfig, Config, DELIVERY_SOURCE, DnsConfig, GossipConfig, LogConfig,
    LogFormat, MeshConfig, NodeConfig, ProxyConfig, Upstreams,
};
