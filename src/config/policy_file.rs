//! Files that say how calls of services are carried, for `weft apply`: TOML to the groups of keys of each service's document.
//! What a key may be is checked by `policy/document.rs`, as every agent does; here its mistakes get file and line.
//!
//! ```toml
//! [service.billing]
//! timeouts = { request = "2s" }
//! [[split]]
//! service = "billing"
//! weight = 90
//! platform = "vm"
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Number};

use super::document::{Field, Node, Place, Value, parse_toml};
use super::load::{keep_what_tells, read_file, unreadable};
use super::section::Section;
use super::{ConfigError, ConfigErrors, value};
use crate::model::ServiceName;
use crate::policy::document::Document;

/// What a file says of each service that it names: groups of keys, checked. A group that is empty is to be taken out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PolicyFile(pub BTreeMap<ServiceName, Map<String, serde_json::Value>>);

/// What is said of one service, and where.
#[derive(Default)]
struct Said {
    groups: Map<String, serde_json::Value>,
    /// Where each key stands, by its path in the document.
    places: BTreeMap<String, Place>,
}

impl PolicyFile {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<PolicyFile, ConfigErrors> {
        match read_file(path) {
            Ok(text) => PolicyFile::from_text(&text, path),
            Err(error) => Err(ConfigErrors(vec![unreadable(path, &error, "name a file that can be read with -f")])),
        }
    }

    /// The same from text. `path` is what messages name.
    pub fn from_text(text: &str, path: &Path) -> Result<PolicyFile, ConfigErrors> {
        let (fields, syntax) = parse_toml(path, text);
        let mut found = Vec::new();
        let services = read(Section::new("", Place::whole(path), fields), &mut found);
        if services.is_empty() && found.is_empty() && syntax.is_empty() {
            let advice = "write [service.NAME] with what is to hold for it";
            found.push(Place::whole(path).error("it says nothing of any service", advice));
        }
        let mut file = PolicyFile::default();
        for (name, said) in services {
            check(&name, &said, &mut found);
            file.0.insert(name, said.groups);
        }
        let mut errors = Vec::new();
        keep_what_tells(syntax, found, &mut errors);
        errors.sort_by_key(|error| (error.line, error.column));
        if errors.is_empty() { Ok(file) } else { Err(ConfigErrors(errors)) }
    }
}

fn read(mut top: Section, errors: &mut Vec<ConfigError>) -> BTreeMap<ServiceName, Said> {
    let mut services: BTreeMap<ServiceName, Said> = BTreeMap::new();
    match top.take("service").map(|field| field.node) {
        None => {}
        Some(Node { value: Value::Table(tables), .. }) => {
            for Field { key, place, node } in tables {
                read_service(&key, &place, node, &mut services, errors);
            }
        }
        Some(node) => {
            let message = format!("service must be a table of services, not {}", node.value.kind());
            errors.push(node.place.error(message, "write [service.NAME]"));
        }
    }
    for list in ["route", "split"] {
        for node in entries(list, &mut top, errors) {
            read_entry(list, node, &mut services, errors);
        }
    }
    top.finish(errors);
    services
}

fn read_service(
    key: &str,
    place: &Place,
    node: Node,
    services: &mut BTreeMap<ServiceName, Said>,
    errors: &mut Vec<ConfigError>,
) {
    let name = match value::name::<ServiceName>(key) {
        Ok(name) => name,
        Err(fault) => return errors.push(place.error(fault.message, fault.advice)),
    };
    let Value::Table(fields) = node.value else {
        let message = format!("service.{name} must be a table, not {}", node.value.kind());
        return errors.push(node.place.error(message, format!("write [service.{name}]")));
    };
    let said = services.entry(name).or_default();
    said.places.insert(String::new(), place.clone());
    for field in fields {
        let group = said.keep(field.key.clone(), field.node, errors);
        said.groups.insert(field.key, group);
    }
}

/// The tables of a list at the top of the file.
fn entries(list: &'static str, top: &mut Section, errors: &mut Vec<ConfigError>) -> Vec<Node> {
    match top.take(list).map(|field| field.node) {
        None => Vec::new(),
        Some(Node { value: Value::List(nodes), .. }) => nodes,
        Some(node) => {
            let message = format!("{list} must be a list of tables, not {}", node.value.kind());
            errors.push(node.place.error(message, format!("write [[{list}]]")));
            Vec::new()
        }
    }
}

/// One entry of such a list goes to the service that it names.
fn read_entry(list: &str, node: Node, services: &mut BTreeMap<ServiceName, Said>, errors: &mut Vec<ConfigError>) {
    let Value::Table(mut fields) = node.value else {
        let message = format!("{list} must be a list of tables, not of {}", node.value.kind());
        return errors.push(node.place.error(message, format!("write [[{list}]]")));
    };
    let Some(at) = fields.iter().position(|field| field.key == "service") else {
        let message = format!("[[{list}]] does not say whose it is");
        return errors.push(node.place.error(message, r#"write service = "NAME": the service that is called"#));
    };
    let service = fields.remove(at).node;
    let Value::Text(text) = &service.value else {
        let message = format!("{list}.service must be text, not {}", service.value.kind());
        return errors.push(service.place.error(message, r#"write service = "NAME""#));
    };
    let name = match value::name::<ServiceName>(text) {
        Ok(name) => name,
        Err(fault) => {
            return errors.push(service.place.error(format!("{list}.service: {}", fault.message), fault.advice));
        }
    };
    let said = services.entry(name).or_default();
    said.places.entry(String::new()).or_insert_with(|| node.place.clone());
    let so_far = said.groups.get(list).and_then(|group| group.as_array()).map_or(0, Vec::len);
    let node = Node { place: node.place, value: Value::Table(fields) };
    let entry = said.keep(format!("{list}[{so_far}]"), node, errors);
    match said.groups.entry(list).or_insert_with(|| serde_json::Value::Array(Vec::new())) {
        serde_json::Value::Array(entries) => entries.push(entry),
        // The service's own table has something else there, which is told.
        _ => {}
    }
}

impl Said {
    /// A value as a document has it; where it and everything in it stands is kept.
    fn keep(&mut self, path: String, node: Node, errors: &mut Vec<ConfigError>) -> serde_json::Value {
        let kept = match node.value {
            Value::Text(text) => serde_json::Value::String(text),
            Value::Integer(number) => serde_json::Value::Number(number_of(number)),
            Value::Boolean(boolean) => serde_json::Value::Bool(boolean),
            Value::List(nodes) => nodes
                .into_iter()
                .enumerate()
                .map(|(at, node)| self.keep(format!("{path}[{at}]"), node, errors))
                .collect(),
            Value::Table(fields) => {
                let mut table = Map::new();
                for field in fields {
                    let inner = self.keep(format!("{path}.{}", field.key), field.node, errors);
                    table.insert(field.key, inner);
                }
                serde_json::Value::Object(table)
            }
            Value::Foreign(kind) => {
                let advice = "no key takes one; write a whole number, or text in quotes";
                errors.push(node.place.error(format!("{path} is {kind}"), advice));
                serde_json::Value::Null
            }
        };
        self.places.insert(path, node.place);
        kept
    }

    /// Where a key stands, or what it would be in.
    fn place(&self, path: &str) -> Option<&Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return Some(place);
            }
            path = path.get(..path.rfind(['.', '[']).unwrap_or(0)).filter(|_| !path.is_empty())?;
        }
    }
}

/// What is beyond it is out of every range.
fn number_of(number: i128) -> Number {
    match (u64::try_from(number), i64::try_from(number)) {
        (Ok(number), _) => number.into(),
        (_, Ok(number)) => number.into(),
        _ => u64::MAX.into(),
    }
}

fn check(name: &ServiceName, said: &Said, errors: &mut Vec<ConfigError>) {
    let Err(mistakes) = Document::check(said.groups.clone()) else { return };
    for mistake in mistakes.0 {
        let Some(place) = said.place(&mistake.path) else { continue };
        // What has no place in a document has been told.
        let is_told = errors.iter().any(|error| error.line == place.line && error.column == place.column);
        if !is_told {
            errors.push(place.error(format!("{name}: {}", mistake.message), mistake.advice));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<serde_json::Value, Vec<String>> {
        match PolicyFile::from_text(text, Path::new("p.toml")) {
            Ok(file) => {
                Ok(file.0.into_iter().map(|(name, groups)| (name.to_string(), json!(groups))).collect::<Map<_, _>>())
                    .map(serde_json::Value::Object)
            }
            Err(errors) => Err(errors.0.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn services_routes_and_splits_go_to_the_service_that_is_called() {
        let text = r#"
            [service.billing]
            timeouts = { request = "2s" }
            [service.billing.retries]
            max = 1
            [service.web]
            outlier = {}
            [[route]]
            service = "billing"
            path = "/v2/*"
            to = { service = "billing-next" }
            [[split]]
            service = "billing"
            weight = 90
            platform = "vm"
            [[split]]
            service = "billing"
            weight = 10
            platform = "kubernetes"
            [[split]]
            service = "db"
            weight = 1
            tag = "primary"
        "#;
        let expected = json!({
            "billing": {
                "timeouts": { "request": "2s" },
                "retries": { "max": 1 },
                "route": [{ "path": "/v2/*", "to": { "service": "billing-next" } }],
                "split": [{ "weight": 90, "platform": "vm" }, { "weight": 10, "platform": "kubernetes" }],
            },
            "db": { "split": [{ "weight": 1, "tag": "primary" }] },
            "web": { "outlier": {} },
        });
        assert_eq!(read(text), Ok(expected));
    }

    #[test]
    fn every_mistake_has_its_line_and_advice_and_all_are_told_at_once() {
        let text = "[service.billing]\n\
                    timeouts = { request = \"2 parsecs\" }\n\
                    [service.billing.retries]\n\
                    max = 99\n\
                    budget_percent = 0.5\n\
                    [service.Billing]\n\
                    [service.web]\n\
                    limts = {}\n\
                    [[split]]\n\
                    weight = 1\n\
                    [[split]]\n\
                    service = \"web\"\n\
                    weight = 1\n\
                    [[route]]\n\
                    service = \"web\"\n\
                    methods = [\"GET\",\n\
                    \"get\"]\n\
                    [sevice]\n";
        let expected = [
            r#"p.toml:2: billing: timeouts.request: "2 parsecs" is not a length of time; write a number with its unit, like "500ms", "5s" or "1m30s""#,
            "p.toml:4: billing: retries.max = 99 is out of range; choose a whole one from 0 to 10",
            "p.toml:5: retries.budget_percent is a fraction; no key takes one; write a whole number, or text in quotes",
            r#"p.toml:6: the service name "Billing" has the character 'B'; use lower-case letters, digits, '-' and '_', a letter or digit first and last"#,
            "p.toml:8: web: unknown key `limts`; did you mean `limits`?",
            r#"p.toml:9: [[split]] does not say whose it is; write service = "NAME": the service that is called"#,
            "p.toml:11: web: split[0] is for no subset; write which instances it is for: tag, zone, platform or meta",
            r#"p.toml:17: web: route[0].methods[1]: "get" is no method; use one like GET, in capitals"#,
            "p.toml:18: unknown key `sevice`; did you mean `service`?",
        ];
        assert_eq!(read(text).unwrap_err(), expected);
    }

    #[test]
    fn a_file_that_says_nothing_is_a_mistake_and_a_broken_line_is_told_once() {
        assert_eq!(
            read("").unwrap_err(),
            ["p.toml: it says nothing of any service; write [service.NAME] with what is to hold for it"]
        );
        let errors = read("[service.a]\ntimeouts = oops\n[service.b]\nretries = { max = 2024-01-01 }\n").unwrap_err();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(
            errors[0].starts_with("p.toml:2: not TOML") && errors[1].starts_with("p.toml:4: retries.max is a date")
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(\\[service\\.[ab]\\]\n|\\[\\[(split|route)\\]\\]\n|(service|weight|tag|retries|max) = (\"[ab]\"|[0-9]{1,3}|\\{\\}|\\[\\])\n){0,8}") {
            let _ = PolicyFile::from_text(&text, Path::new("x"));
        }
    }
}
