//! What the holder of a token may do. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{ServiceName, glob_matches};

/// As long as a service's name may be.
const GLOB_BYTES_MAX: usize = 63;
/// Of one token: each is held against each write.
pub(super) const GLOBS_MAX: usize = 64;

/// Why a text is no glob over names of services.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no service's name, nor a glob over names; use lower-case letters, digits, '-', '_' and '*', at most 63"
)]
pub struct RoleError(String);

/// A service's name, or a glob over such: `billing`, `web-*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceGlob(String);

impl ServiceGlob {
    /// Reads one.
    pub fn parse(text: &str) -> Result<ServiceGlob, RoleError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '*');
        if text.is_empty() || text.len() > GLOB_BYTES_MAX || !text.chars().all(allowed) {
            return Err(RoleError(text.chars().take(GLOB_BYTES_MAX + 1).collect()));
        }
        Ok(ServiceGlob(text.to_owned()))
    }

    /// Whether it fits a service.
    pub fn fits(&self, service: &ServiceName) -> bool {
        glob_matches(&self.0, service.as_str())
    }
}

impl TryFrom<String> for ServiceGlob {
    type Error = RoleError;

    fn try_from(text: String) -> Result<ServiceGlob, RoleError> {
        ServiceGlob::parse(&text)
    }
}

impl From<ServiceGlob> for String {
    fn from(glob: ServiceGlob) -> String {
        glob.0
    }
}

impl std::str::FromStr for ServiceGlob {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<ServiceGlob, RoleError> {
        ServiceGlob::parse(text)
    }
}

impl fmt::Display for ServiceGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a token is good for. Each may also do what those above it may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Role {
    /// Read, where reading needs a token.
    Read,
    /// Register, deregister and maintain services of these names on this host, their checks, and report for those.
    Register {
        /// Which services.
        services: Vec<ServiceGlob>,
    },
    /// Everything.
    Operator,
}

impl Role {
    /// The word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Register { .. } => "register",
            Role::Operator => "operator",
        }
    }

    /// Whether it may register and maintain this service.
    pub fn covers(&self, service: &ServiceName) -> bool {
        match self {
            Role::Read => false,
            Role::Register { services } => services.iter().any(|glob| glob.fits(service)),
            Role::Operator => true,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        if let Role::Register { services } = self {
            services.iter().try_for_each(|glob| write!(f, " {glob}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_covers_the_services_that_its_globs_fit() {
        let name = |text| ServiceName::parse(text).unwrap();
        let web = Role::Register { services: vec![ServiceGlob::parse("web-*").unwrap()] };
        assert!(web.covers(&name("web-1")) && !web.covers(&name("web")) && !web.covers(&name("billing")));
        assert!(!Role::Read.covers(&name("web-1")) && Role::Operator.covers(&name("billing")));
        for wrong in ["", "Web", "a b", "a/b", "a.b", &"x".repeat(64)] {
            assert!(ServiceGlob::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_role_is_written_as_it_is_read() {
        let web = Role::Register { services: vec![ServiceGlob::parse("web-*").unwrap()] };
        for role in [Role::Read, web, Role::Operator] {
            let text = serde_json::to_string(&role).unwrap();
            assert_eq!(serde_json::from_str::<Role>(&text).unwrap(), role, "{text}");
        }
        assert!(serde_json::from_str::<Role>(r#"{"role":"register","services":["A"]}"#).is_err());
        assert!(serde_json::from_str::<Role>(r#"{"role":"root"}"#).is_err());
    }
}
