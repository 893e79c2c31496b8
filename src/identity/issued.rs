//! What an issuer has issued: a line of JSON for each certificate, in `ca/issued.jsonl`. For people who ask who got what, and
//! when; nothing is decided by it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::certificate::unix_s;
use super::files::Home;
use super::{IdentityError, ca};

const ISSUED: &str = "issued.jsonl";
const ISSUED_BEFORE: &str = "issued.1.jsonl";
/// Some 40,000 certificates, and as many in the file before it: of 10,000 hosts those of more than two weeks.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// One certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedCertificate {
    /// When, seconds since 1970.
    pub at_unix_s: u64,
    /// Whom it names: a SPIFFE id, or an issuer's name.
    pub subject: String,
    /// Its serial number, hex.
    pub serial: String,
    /// When it ends, seconds since 1970.
    pub not_after_unix_s: u64,
}

/// The record of one issuer.
pub(super) struct Issued {
    home: Home,
    path: PathBuf,
    before: PathBuf,
}

impl Issued {
    pub(super) fn of(data_dir: &Path) -> Result<Issued, IdentityError> {
        let ca = ca::directory(data_dir);
        Ok(Issued { home: Home::open(data_dir)?, path: ca.join(ISSUED), before: ca.join(ISSUED_BEFORE) })
    }

    /// Records a certificate. A record that cannot be written is told and stops nobody: without certificates the fleet stands
    /// still.
    pub(super) fn note(&self, certificate: &[u8]) {
        if let Err(error) = self.append(certificate) {
            warn!(%error, path = %self.path.display(), "a certificate was issued and could not be recorded");
        }
    }

    fn append(&self, certificate: &[u8]) -> Result<(), IdentityError> {
        let entry = entry(certificate).ok_or(IdentityError::Crypto("read a certificate that it made"))?;
        let line = serde_json::to_string(&entry).map_err(|error| IdentityError::damaged(&self.path, &error))? + "\n";
        if fs::metadata(&self.path).is_ok_and(|there| there.len() >= FILE_BYTES_MAX) {
            fs::rename(&self.path, &self.before).map_err(IdentityError::io("rename", &self.path))?;
        }
        self.home.append(&self.path, line.as_bytes())
    }
}

/// What this host has issued, as far as it is kept, oldest first.
pub fn issued_list(data_dir: &Path) -> Result<Vec<IssuedCertificate>, IdentityError> {
    let issued = Issued::of(data_dir)?;
    let mut all = Vec::new();
    for path in [&issued.before, &issued.path] {
        let Ok(file) = fs::File::open(path) else { continue };
        let lines = BufReader::new(file).lines();
        // A line that a crash left half written is no reason to show none.
        all.extend(lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()));
    }
    Ok(all)
}

fn entry(certificate: &[u8]) -> Option<IssuedCertificate> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    let names = read.subject_alternative_name().ok().flatten().map(|names| names.value.general_names.as_slice());
    let uri = names.unwrap_or_default().iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let common_name = || read.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned);
    Some(IssuedCertificate {
        at_unix_s: unix_s(std::time::SystemTime::now()),
        subject: uri.or_else(common_name)?,
        serial: data_encoding::HEXLOWER.encode(&read.serial.to_bytes_be()),
        not_after_unix_s: u64::try_from(read.validity().not_after.timestamp()).ok()?,
    })
}
