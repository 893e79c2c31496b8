//! One table of a file while it is being read: typed values are taken out of it, key by key, and what nobody asked for in
//! the end is an unknown key. Every taker reports its mistake and goes on.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::document::{Field, Node, Place, Value};
use super::{ConfigError, duration};

/// A value that remembers where it stood, for mistakes that only show beside other values.
#[derive(Debug, Clone)]
pub(super) struct Spot<T> {
    /// The value.
    pub(super) value: T,
    /// Where it stood.
    pub(super) place: Place,
}

/// Why a text was refused: "is not an address", and what to write instead.
#[derive(Debug)]
pub(super) struct Fault {
    /// Continues a sentence that begins with the key.
    pub(super) message: String,
    /// What to do.
    pub(super) advice: String,
}

impl Fault {
    /// A fault.
    pub(super) fn new(message: impl Into<String>, advice: impl Into<String>) -> Fault {
        Fault { message: message.into(), advice: advice.into() }
    }
}

/// A table being read.
#[derive(Debug)]
pub(super) struct Section {
    name: String,
    place: Place,
    fields: Vec<Field>,
    asked: Vec<&'static str>,
    json: bool,
}

/// Names closer than this to what was written are offered as what was meant (Jaro-Winkler, as clap does).
const SIMILARITY_MIN: f64 = 0.75;

impl Section {
    /// A table; `name` is what its keys are called under, empty at the top.
    pub(super) fn new(name: &str, place: Place, fields: Vec<Field>) -> Section {
        Section { name: name.to_owned(), place, fields, asked: Vec::new(), json: false }
    }

    /// The same, with advice that writes JSON.
    pub(super) fn in_json(self) -> Section {
        Section { json: true, ..self }
    }

    fn inner(&self, name: &str, place: Place, fields: Vec<Field>) -> Section {
        Section { json: self.json, ..Section::new(name, place, fields) }
    }

    /// A key and its value in the file's language, for advice.
    pub(super) fn written(&self, key: &str, value: &str) -> String {
        if self.json { format!(r#""{key}": {value}"#) } else { format!("{key} = {value}") }
    }

    /// True if nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Where the table begins.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// True if the key is there and was not taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.fields.iter().any(|field| field.key == key)
    }

    /// The key's full name, for messages.
    pub(super) fn named(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Takes a key's field out, whatever it holds.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Field> {
        self.asked.push(key);
        self.set_aside(key)
    }

    /// Takes a key that nobody should be told of: it is never what a misspelt key was meant to be.
    pub(super) fn set_aside(&mut self, key: &str) -> Option<Field> {
        let at = self.fields.iter().position(|field| field.key == key)?;
        Some(self.fields.remove(at))
    }

    /// The same for a key that says nothing.
    pub(super) fn set_aside_if(&mut self, key: &str, says_nothing: impl Fn(&Value) -> bool) {
        self.fields.retain(|field| field.key != key || !says_nothing(&field.node.value));
    }

    /// Reads a key's other name as the key, unless that is there too.
    pub(super) fn rename(&mut self, other: &str, key: &str) {
        if let (false, Some(field)) = (self.has(key), self.fields.iter_mut().find(|field| field.key == other)) {
            key.clone_into(&mut field.key);
        }
    }

    /// A table; an absent one reads as empty.
    pub(super) fn section(&mut self, key: &'static str, errors: &mut Vec<ConfigError>) -> Section {
        let name = self.named(key);
        let form = if self.json { self.written(key, "{...}") } else { format!("[{name}]") };
        match self.take(key) {
            None => self.inner(&name, self.place.clone(), Vec::new()),
            Some(Field { node: Node { value: Value::Table(fields), .. }, place, .. }) => {
                self.inner(&name, place, fields)
            }
            Some(field) => {
                errors.push(wrong_kind(&name, &field.node, "a table", &form));
                self.inner(&name, field.place, Vec::new())
            }
        }
    }

    /// A list of tables, or one table alone.
    pub(super) fn sections(&mut self, key: &'static str, errors: &mut Vec<ConfigError>) -> Vec<Section> {
        let name = self.named(key);
        let Some(field) = self.take(key) else { return Vec::new() };
        let nodes = match field.node {
            Node { value: Value::List(nodes), .. } => nodes,
            node => vec![node],
        };
        let form = if self.json { self.written(key, "[{...}]") } else { format!("[[{name}]]") };
        let mut sections = Vec::new();
        for node in nodes {
            match node.value {
                Value::Table(fields) => sections.push(self.inner(&name, node.place, fields)),
                _ => errors.push(wrong_kind(&name, &node, "a table", &form)),
            }
        }
        sections
    }

    /// Text that `parse` accepts.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        errors: &mut Vec<ConfigError>,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Spot<T>> {
        let name = self.named(key);
        let node = self.take(key)?.node;
        read_text(&name, node, &self.written(key, r#""...""#), errors, parse)
    }

    /// A list of texts that `parse` accepts; those it refuses are left out.
    pub(super) fn texts<T>(
        &mut self,
        key: &'static str,
        errors: &mut Vec<ConfigError>,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Option<Vec<Spot<T>>> {
        let name = self.named(key);
        let form = self.written(key, r#"["...", "..."]"#);
        match self.take(key)?.node {
            Node { value: Value::List(nodes), .. } => {
                Some(nodes.into_iter().filter_map(|node| read_text(&name, node, &form, errors, &parse)).collect())
            }
            node => {
                errors.push(wrong_kind(&name, &node, "a list of texts", &form));
                None
            }
        }
    }

    /// A whole number within `range`.
    pub(super) fn number<T>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
        errors: &mut Vec<ConfigError>,
    ) -> Option<Spot<T>>
    where
        T: TryFrom<i128> + Copy + PartialOrd + std::fmt::Display,
    {
        let name = self.named(key);
        let node = self.take(key)?.node;
        let form = self.written(key, &format!("{}, without quotes", range.start()));
        let Value::Integer(number) = node.value else {
            errors.push(wrong_kind(&name, &node, "a whole number", &form));
            return None;
        };
        match T::try_from(number) {
            Ok(value) if range.contains(&value) => Some(Spot { value, place: node.place }),
            _ => {
                let advice = format!("choose one from {} to {}", range.start(), range.end());
                errors.push(node.place.error(format!("{name} = {number} is out of range"), advice));
                None
            }
        }
    }

    /// True or false.
    pub(super) fn boolean(&mut self, key: &'static str, errors: &mut Vec<ConfigError>) -> Option<bool> {
        let name = self.named(key);
        let node = self.take(key)?.node;
        if let Value::Boolean(value) = node.value {
            return Some(value);
        }
        errors.push(wrong_kind(&name, &node, "true or false", &self.written(key, "true, without quotes")));
        None
    }

    /// A length of time within `range`, written "5s", "500ms", "1m30s".
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        errors: &mut Vec<ConfigError>,
    ) -> Option<Spot<Duration>> {
        let name = self.named(key);
        let node = self.take(key)?.node;
        if let Value::Integer(number) = node.value {
            let message = format!("{name} = {number} has no unit");
            errors.push(node.place.error(message, format!(r#"write {key} = "{number}s" if seconds are meant"#)));
            return None;
        }
        read_text(&name, node, &format!(r#"{key} = "5s""#), errors, |text| parse_duration(text, &range))
    }

    /// The same as Consul has it: Go's text, or bare nanoseconds. Nothing (`0`) reads as if the key were not there.
    pub(super) fn go_duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        errors: &mut Vec<ConfigError>,
    ) -> Option<Spot<Duration>> {
        let name = self.named(key);
        let node = self.take(key)?.node;
        let found = match &node.value {
            Value::Text(text) => duration::from_go(text),
            Value::Integer(nanoseconds) => duration::from_nanoseconds(*nanoseconds),
            _ => None,
        };
        let Some(found) = found else {
            let what = match &node.value {
                Value::Text(text) => format!("{name}: {text:?} is not a length of time"),
                Value::Integer(number) => format!("{name} = {number} is no number of nanoseconds"),
                other => format!("{name} must be a length of time, not {}", other.kind()),
            };
            errors.push(node.place.error(what, r#"write it like "10s" or "1m30s", or in nanoseconds"#));
            return None;
        };
        if found.is_zero() {
            return None;
        }
        match in_range(found, &range) {
            Ok(value) => Some(Spot { value, place: node.place }),
            Err(advice) => {
                let message = format!("{name} = {} is out of range", humantime::format_duration(found));
                errors.push(node.place.error(message, advice));
                None
            }
        }
    }

    /// A table whose values are texts or lists of texts, one pair a text.
    pub(super) fn text_lists(
        &mut self,
        key: &'static str,
        errors: &mut Vec<ConfigError>,
    ) -> Option<Vec<Spot<(String, String)>>> {
        let name = self.named(key);
        let form = self.written(key, if self.json { r#"{"name": ["text"]}"# } else { r#"{ name = "text" }"# });
        let field = self.take(key)?;
        let Value::Table(fields) = field.node.value else {
            errors.push(wrong_kind(&name, &field.node, "a table of texts", &form));
            return None;
        };
        let mut pairs = Vec::new();
        for Field { key, node, .. } in fields {
            let whole = format!("{name}.{key}");
            let nodes = match node {
                Node { value: Value::List(nodes), .. } => nodes,
                node => vec![node],
            };
            for node in nodes {
                let text = read_text(&whole, node, &form, errors, |text| Ok(text.to_owned()));
                pairs.extend(text.map(|text| Spot { value: (key.clone(), text.value), place: text.place }));
            }
        }
        Some(pairs)
    }

    /// A table whose values are all texts.
    pub(super) fn pairs(
        &mut self,
        key: &'static str,
        errors: &mut Vec<ConfigError>,
    ) -> Option<Spot<BTreeMap<String, String>>> {
        let name = self.named(key);
        let form = self.written(key, if self.json { r#"{"rack": "r12"}"# } else { r#"{ rack = "r12" }"# });
        let field = self.take(key)?;
        let Value::Table(fields) = field.node.value else {
            errors.push(wrong_kind(&name, &field.node, "a table of texts", &form));
            return None;
        };
        let mut pairs = BTreeMap::new();
        for Field { key, node, .. } in fields {
            let whole = format!("{name}.{key}");
            let text = read_text(&whole, node, &form, errors, |text| Ok(text.to_owned()));
            pairs.extend(text.map(|text| (key, text.value)));
        }
        Some(Spot { value: pairs, place: field.place })
    }

    /// The end: what is left, nobody knows.
    pub(super) fn finish(self, errors: &mut Vec<ConfigError>) {
        for field in &self.fields {
            let message = format!("unknown key `{}`", self.named(&field.key));
            errors.push(field.place.error(message, self.meant(&field.key)));
        }
    }

    fn meant(&self, key: &str) -> String {
        let scored = self.asked.iter().map(|known| (strsim::jaro_winkler(key, known), known));
        match scored.max_by(|(left, _), (right, _)| left.total_cmp(right)) {
            Some((similarity, known)) if similarity >= SIMILARITY_MIN => format!("did you mean `{known}`?"),
            _ => {
                let mut known: Vec<&str> = self.asked.clone();
                known.sort_unstable();
                known.dedup();
                format!("remove it, or use one of {}", known.join(", "))
            }
        }
    }
}

fn read_text<T>(
    name: &str,
    node: Node,
    form: &str,
    errors: &mut Vec<ConfigError>,
    parse: impl FnOnce(&str) -> Result<T, Fault>,
) -> Option<Spot<T>> {
    let Value::Text(text) = &node.value else {
        errors.push(wrong_kind(name, &node, "text", form));
        return None;
    };
    match parse(text) {
        Ok(value) => Some(Spot { value, place: node.place }),
        Err(fault) => {
            errors.push(node.place.error(format!("{name}: {}", fault.message), fault.advice));
            None
        }
    }
}

fn wrong_kind(name: &str, node: &Node, wanted: &str, form: &str) -> ConfigError {
    node.place.error(format!("{name} must be {wanted}, not {}", node.value.kind()), format!("write {form}"))
}

fn parse_duration(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, Fault> {
    let Ok(duration) = humantime::parse_duration(text) else {
        let message = format!("{text:?} is not a length of time");
        return Err(Fault::new(message, r#"write a number with its unit, like "500ms", "5s" or "1m30s""#));
    };
    in_range(duration, range).map_err(|advice| Fault::new(format!("{text:?} is out of range"), advice))
}

/// The duration, or what to choose instead.
fn in_range(duration: Duration, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    if range.contains(&duration) {
        return Ok(duration);
    }
    let (least, most) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
    Err(format!("choose one from {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::document::parse_toml;
    use super::*;

    fn section(text: &str) -> Section {
        let (fields, errors) = parse_toml(Path::new("f"), text);
        assert_eq!(errors, []);
        Section::new("", Place::whole(Path::new("f")), fields)
    }

    fn texts(errors: &[ConfigError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unknown_key_near_a_known_one_is_a_question_and_a_far_one_is_a_list() {
        let mut errors = Vec::new();
        let mut section = section("lisen = 1\nxyz = 2\n");
        section.boolean("listen", &mut errors);
        section.boolean("domain", &mut errors);
        section.finish(&mut errors);
        let expected = [
            "f:1: unknown key `lisen`; did you mean `listen`?",
            "f:2: unknown key `xyz`; remove it, or use one of domain, listen",
        ];
        assert_eq!(texts(&errors), expected);
    }

    #[test]
    fn each_wrong_type_says_what_to_write() {
        let mut errors = Vec::new();
        let mut section = section("a = 1\nb = \"2\"\nc = \"yes\"\nd = 5\ne = \"x\"\nf = 1.5\n");
        section.text("a", &mut errors, |text| Ok(text.to_owned()));
        section.number::<u16>("b", 1..=9, &mut errors);
        section.boolean("c", &mut errors);
        section.duration("d", Duration::ZERO..=Duration::MAX, &mut errors);
        section.texts("e", &mut errors, |text| Ok(text.to_owned()));
        section.pairs("f", &mut errors);
        let expected = [
            "f:1: a must be text, not a number; write a = \"...\"",
            "f:2: b must be a whole number, not text; write b = 1, without quotes",
            "f:3: c must be true or false, not text; write c = true, without quotes",
            "f:4: d = 5 has no unit; write d = \"5s\" if seconds are meant",
            "f:5: e must be a list of texts, not text; write e = [\"...\", \"...\"]",
            "f:6: f must be a table of texts, not a fraction; write f = { rack = \"r12\" }",
        ];
        assert_eq!(texts(&errors), expected);
    }

    #[test]
    fn numbers_and_durations_out_of_range_name_the_range() {
        let mut errors = Vec::new();
        let mut section = section("a = 70000\nb = -1\nc = 99999999999999999999\nd = \"1y\"\n");
        section.number::<u16>("a", 1..=65535, &mut errors);
        section.number::<u16>("b", 1..=65535, &mut errors);
        section.number::<u16>("c", 1..=65535, &mut errors);
        section.duration("d", Duration::from_secs(1)..=Duration::from_secs(3600), &mut errors);
        assert_eq!(errors.len(), 4);
        assert_eq!(errors[0].to_string(), "f:1: a = 70000 is out of range; choose one from 1 to 65535");
        assert_eq!(errors[3].to_string(), "f:4: d: \"1y\" is out of range; choose one from 1s to 1h");
    }
}
