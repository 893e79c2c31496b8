//! Registrations of earlier runs, from the files that the store kept to checked definitions. A file that cannot be
//! understood is set aside and named in the log: it is somebody's registration, so it is never removed.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tracing::error;

use super::owner::Maintenance;
use crate::config::{CheckRegistration, ConfigErrors, ServiceDefinition};
use crate::model::{PastStatement, ServiceName};
use crate::store::{Kept, Registration, Registrations, set_aside};

/// What came by the API before this start.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub services: Vec<ServiceDefinition>,
    pub checks: Vec<CheckRegistration>,
    pub maintenance: Maintenance,
    /// Bodies of policy records.
    pub policies: Vec<Vec<u8>>,
    pub histories: Vec<History>,
}

/// What was stated about the traffic of one service, as it is on disk.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct History {
    pub service: ServiceName,
    /// The latest last.
    pub statements: Vec<PastStatement>,
}

/// Reads what was kept, with the API's own readers.
pub(super) fn read(
    kept: Registrations,
    service: impl Fn(&[u8]) -> Result<ServiceDefinition, ConfigErrors>,
    check: impl Fn(&[u8]) -> Result<CheckRegistration, ConfigErrors>,
) -> Stored {
    let named_service = |read: &ServiceDefinition| Registration::Service(read.instance.id.to_string());
    let named_check = |read: &CheckRegistration| Registration::Check(read.check.id.clone());
    Stored {
        services: kept.services.iter().filter_map(|kept| read_one(kept, &service, named_service)).collect(),
        checks: kept.checks.iter().filter_map(|kept| read_one(kept, &check, named_check)).collect(),
        maintenance: kept.maintenance.and_then(|kept| read_maintenance(&kept)).unwrap_or_default(),
        policies: kept.policies.and_then(|kept| read_policies(&kept)).unwrap_or_default(),
        histories: kept.histories.iter().filter_map(read_history).collect(),
    }
}

fn read_one<T>(
    kept: &Kept,
    parse: impl Fn(&[u8]) -> Result<T, ConfigErrors>,
    name: impl Fn(&T) -> Registration,
) -> Option<T> {
    match parse(&kept.bytes) {
        Ok(read) if kept.is_of(&name(&read)) => Some(read),
        Ok(_) => give_up(&kept.path, "its name is not that of the id inside"),
        Err(errors) => give_up(&kept.path, &errors.to_string()),
    }
}

fn read_maintenance(kept: &Kept) -> Option<Maintenance> {
    serde_json::from_slice(&kept.bytes).map_or_else(|error| give_up(&kept.path, &error.to_string()), Some)
}

fn read_policies(kept: &Kept) -> Option<Vec<Vec<u8>>> {
    let texts: Result<Vec<String>, _> = serde_json::from_slice(&kept.bytes);
    let texts = texts.map_or_else(|error| give_up(&kept.path, &error.to_string()), Some)?;
    let bodies: Result<Vec<_>, _> = texts.iter().map(|text| data_encoding::BASE64.decode(text.as_bytes())).collect();
    bodies.map_or_else(|error| give_up(&kept.path, &error.to_string()), Some)
}

fn read_history(kept: &Kept) -> Option<History> {
    match serde_json::from_slice::<History>(&kept.bytes) {
        Ok(read) if kept.is_of(&Registration::History(read.service.to_string())) => Some(read),
        Ok(_) => give_up(&kept.path, "its name is not that of the service inside"),
        Err(error) => give_up(&kept.path, &error.to_string()),
    }
}

fn give_up<T>(path: &Path, reason: &str) -> Option<T> {
    match set_aside(path, "unreadable") {
        Ok(aside) => error!(
            path = %path.display(), aside = %aside.display(), reason,
            "a registration of an earlier run is not understood and was set aside: register it again"
        ),
        Err(error) => error!(
            path = %path.display(), %error, reason,
            "a registration of an earlier run is not understood, and could not be set aside"
        ),
    }
    None
}
