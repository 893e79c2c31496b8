//! Checked names. Service and node names are single DNS labels, because the whole point is that they resolve.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A DNS label's length limit (RFC 1035 §2.3.4).
const LABEL_BYTES_MAX: usize = 63;
/// Ids and tags are not always labels (Consul's tags carry `key=value`), but they are bounded.
const TEXT_BYTES_MAX: usize = 255;

/// Why a name was refused, with what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a {what} must not be empty")]
    Empty {
        /// "service name", "tag", ...
        what: &'static str,
    },
    /// Longer than the limit.
    #[error("{what} {text:?} has {length} bytes, more than the {max} allowed; shorten it")]
    TooLong {
        /// What was being named.
        what: &'static str,
        /// The first 32 characters of it.
        text: String,
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A character that the kind of name does not allow.
    #[error("{what} {text:?} has the character {found:?}; use {allowed}")]
    Character {
        /// What was being named.
        what: &'static str,
        /// The name.
        text: String,
        /// The first offending character.
        found: char,
        /// What would be allowed, in words.
        allowed: &'static str,
    },
    /// A word with a meaning of its own in DNS names.
    #[error(
        "{text:?} cannot be a service's name: `{text}.mesh.internal` has a meaning of its own; choose another name"
    )]
    Reserved {
        /// The name.
        text: String,
    },
}

/// Names that have a meaning of their own as the last label before the domain, and the one that agents ask each other
/// for to prove a mesh port.
const RESERVED_SERVICE_NAMES: [&str; 4] = ["service", "node", "addr", PROBE_SERVICE_NAME];
/// No service: an OPEN for it is answered by a reset, and that answer is what is wanted.
const PROBE_SERVICE_NAME: &str = "weft-probe";

fn check_label(text: &str, what: &'static str) -> Result<(), NameError> {
    check_length(text, what, LABEL_BYTES_MAX)?;
    let allowed = "lower-case letters, digits, '-' and '_', a letter or digit first and last";
    let error = |found| Err(NameError::Character { what, text: text.to_owned(), found, allowed });
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if let Some(found) = text.chars().find(|&c| !plain(c) && c != '-' && c != '_') {
        return error(found);
    }
    match (text.chars().next(), text.chars().next_back()) {
        (Some(first), _) if !plain(first) => error(first),
        (_, Some(last)) if !plain(last) => error(last),
        _ => Ok(()),
    }
}

fn check_length(text: &str, what: &'static str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > max {
        let start = text.chars().take(32).collect();
        return Err(NameError::TooLong { what, text: start, length: text.len(), max });
    }
    Ok(())
}

fn check_text(text: &str, what: &'static str) -> Result<(), NameError> {
    check_length(text, what, TEXT_BYTES_MAX)?;
    match text.chars().find(|c| c.is_control()) {
        Some(found) => {
            let allowed = "printable characters";
            Err(NameError::Character { what, text: text.to_owned(), found, allowed })
        }
        None => Ok(()),
    }
}

fn check_service(text: &str, what: &'static str) -> Result<(), NameError> {
    check_label(text, what)?;
    if RESERVED_SERVICE_NAMES.contains(&text) {
        return Err(NameError::Reserved { text: text.to_owned() });
    }
    Ok(())
}

/// What other hosts may send: the probe's name too, which [`check_service`] gives to no service.
fn check_sent_service(text: &str, what: &'static str) -> Result<(), NameError> {
    if text == PROBE_SERVICE_NAME { Ok(()) } else { check_service(text, what) }
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident, $check_sent:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and takes it as it stands.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                $check(text, $what)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $check_sent(&text, $what).map_err(serde::de::Error::custom)?;
                Ok(Self(text.into()))
            }
        }
    };
}

checked_name!(
    /// A host's name: one DNS label, so that `NAME.node.mesh.internal` resolves.
    NodeName, "node name", check_label, check_label
);
checked_name!(
    /// A service's name: one DNS label that is none of the reserved words.
    ServiceName, "service name", check_service, check_sent_service
);
checked_name!(
    /// The id of one instance on its host; the service's name where a host has only one.
    ServiceId, "service id", check_text, check_text
);
checked_name!(
    /// A tag. Any printable text; only a tag that is a DNS label can be asked for by name.
    Tag, "tag", check_text, check_text
);

impl ServiceName {
    /// What an OPEN asks for that only proves the way: no service can have this name.
    pub fn probe() -> ServiceName {
        ServiceName(PROBE_SERVICE_NAME.into())
    }

    /// True for the name that no service has.
    pub fn is_probe(&self) -> bool {
        self.as_str() == PROBE_SERVICE_NAME
    }
}

impl Tag {
    /// True if the tag can stand in a DNS name and so gets a VIP of its own.
    pub fn is_label(&self) -> bool {
        check_label(self.as_str(), "tag").is_ok()
    }
}

impl From<&ServiceName> for ServiceId {
    fn from(name: &ServiceName) -> Self {
        Self(name.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names_are_labels_and_not_reserved_words() {
        assert!(ServiceName::parse("billing-2").is_ok());
        for refused in ["", "Billing", "-x", "x-", "a.b", "node", "service", "addr", "weft-probe", &"a".repeat(64)] {
            assert!(ServiceName::parse(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn the_probes_name_travels_but_nobody_can_choose_it() {
        let sent: ServiceName = serde_json::from_str("\"weft-probe\"").unwrap();
        assert!(sent.is_probe() && sent == ServiceName::probe());
        assert!(serde_json::from_str::<ServiceName>("\"node\"").is_err());
    }

    #[test]
    fn a_tag_may_be_free_text_but_only_a_label_resolves() {
        assert!(!Tag::parse("traefik.enable=true").unwrap().is_label());
        assert!(Tag::parse("primary").unwrap().is_label());
        assert!(Tag::parse("a\nb").is_err());
    }
}
