//! What people type for a service: its name, `TAG.SERVICE`, or either as DNS has it (`billing.mesh.internal`).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::client::Client;
use super::output::{CliError, EXIT_USAGE};

/// A service, and perhaps a tag of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) service: String,
    pub(super) tag: Option<String>,
}

/// Reads what was typed; the agent is asked for its domain only if there is a dot.
pub(super) fn service(client: &Client, text: &str) -> Result<Named, CliError> {
    let domain = if text.contains('.') { domain(client)? } else { String::new() };
    read(text, &domain).ok_or_else(|| {
        let advice = "give SERVICE or TAG.SERVICE, with or without the domain; `weft services` lists them";
        CliError::failed(format!("{text:?} names no service"), advice).exiting(EXIT_USAGE)
    })
}

/// The id of a service of this host. Ids may have dots of their own, so the one that is there goes first.
pub(super) fn id(client: &Client, text: &str) -> Result<String, CliError> {
    if !text.contains('.') {
        return Ok(text.to_owned());
    }
    let own = client.get_json::<BTreeMap<String, IgnoredAny>>("/v1/agent/services")?.value;
    let named = if own.contains_key(text) { None } else { read(text, &domain(client)?) };
    let named = named.filter(|named| named.tag.is_none() && own.contains_key(&named.service));
    Ok(named.map_or_else(|| text.to_owned(), |named| named.service))
}

fn domain(client: &Client) -> Result<String, CliError> {
    #[derive(Deserialize)]
    struct Status {
        domain: String,
    }
    Ok(client.get_json::<Status>("/v1/weft/status")?.value.domain)
}

fn read(text: &str, domain: &str) -> Option<Named> {
    let text = text.trim_end_matches('.').to_ascii_lowercase();
    let bare = text.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')).unwrap_or(&text);
    let bare = bare.strip_suffix(".service").unwrap_or(bare);
    let labels: Vec<&str> = bare.split('.').collect();
    match labels[..] {
        _ if labels.contains(&"") => None,
        [service] => Some(Named { service: service.to_owned(), tag: None }),
        [_, "node"] => None,
        [tag, service] => Some(Named { service: service.to_owned(), tag: Some(tag.to_owned()) }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_and_without_tag_and_domain() {
        let read = |text| read(text, "mesh.internal").map(|named| (named.service, named.tag));
        let web = Some(("web".to_owned(), None));
        for text in ["web", "WEB", "web.mesh.internal", "web.mesh.internal.", "web.service.mesh.internal"] {
            assert_eq!(read(text), web, "{text}");
        }
        assert_eq!(read("v2.web.mesh.internal"), Some(("web".to_owned(), Some("v2".to_owned()))));
        assert_eq!(read("v2.web"), Some(("web".to_owned(), Some("v2".to_owned()))));
        for text in ["", ".", "web-01.node", "a.b.c", "a..b"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
