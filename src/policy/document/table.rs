//! One table of a document while it is being read: typed values are taken out of it, key by key, and what nobody asked for in
//! the end is an unknown key. Every taker notes its mistake and goes on.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};

use super::Mistake;

/// More are not told at once: who has that many has one that matters.
pub(super) const MISTAKES_MAX: usize = 50;
/// Names closer than this to what was written are offered as what was meant (Jaro-Winkler, as clap does).
const SIMILARITY_MIN: f64 = 0.75;
/// Of a wrong text this much is repeated.
const SHOWN_CHARS_MAX: usize = 80;

/// Why a text was refused, and what to write instead.
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) advice: String,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>, advice: impl Into<String>) -> Fault {
        Fault { message: message.into(), advice: advice.into() }
    }
}

/// The mistakes found so far.
#[derive(Default)]
pub(super) struct Mistakes(pub(super) Vec<Mistake>);

impl Mistakes {
    pub(super) fn note(&mut self, path: &str, message: impl Into<String>, advice: impl Into<String>) {
        if self.0.len() < MISTAKES_MAX {
            self.0.push(Mistake { path: path.to_owned(), message: message.into(), advice: advice.into() });
        }
    }
}

/// A table being read.
pub(super) struct Table<'v> {
    path: String,
    fields: Option<&'v Map<String, Value>>,
    asked: Vec<&'static str>,
}

impl<'v> Table<'v> {
    /// The whole document.
    pub(super) fn top(fields: &'v Map<String, Value>) -> Table<'v> {
        Table { path: String::new(), fields: Some(fields), asked: Vec::new() }
    }

    /// The same under a name.
    pub(super) fn at(self, path: &str) -> Table<'v> {
        Table { path: path.to_owned(), ..self }
    }

    /// Where it is; empty at the top.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// A key's whole name.
    pub(super) fn named(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// True if the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.fields.is_some_and(|fields| fields.contains_key(key))
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<&'v Value> {
        self.asked.push(key);
        self.fields?.get(key)
    }

    /// A table; an absent one reads as empty.
    pub(super) fn table(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Table<'v> {
        let path = self.named(key);
        let fields = match self.take(key) {
            None => None,
            Some(Value::Object(fields)) => Some(fields),
            Some(value) => {
                mistakes.note(&path, format!("{path} must be a table, not {}", kind(value)), format!("write [{path}]"));
                None
            }
        };
        Table { path, fields, asked: Vec::new() }
    }

    /// A list of at most `max` tables.
    pub(super) fn tables(&mut self, key: &'static str, max: usize, mistakes: &mut Mistakes) -> Vec<Table<'v>> {
        let path = self.named(key);
        let values = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(values)) => values,
            Some(value) => {
                let message = format!("{path} must be a list of tables, not {}", kind(value));
                mistakes.note(&path, message, format!("write [[{path}]]"));
                return Vec::new();
            }
        };
        if values.len() > max {
            mistakes.note(&path, format!("{} {path} tables", values.len()), format!("keep at most {max}"));
        }
        let mut tables = Vec::new();
        for (at, value) in values.iter().enumerate().take(max) {
            let path = format!("{path}[{at}]");
            match value {
                Value::Object(fields) => tables.push(Table { path, fields: Some(fields), asked: Vec::new() }),
                value => {
                    let message = format!("{path} must be a table, not {}", kind(value));
                    mistakes.note(&path, message, "write key = value lines under it");
                }
            }
        }
        tables
    }

    /// Text that `parse` accepts.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        let value = self.take(key)?;
        read_text(&self.named(key), value, &format!("write {key} = \"...\""), mistakes, parse)
    }

    /// A list of at most `max` texts that `parse` accepts.
    pub(super) fn texts<T>(
        &mut self,
        key: &'static str,
        max: usize,
        mistakes: &mut Mistakes,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Vec<T> {
        let path = self.named(key);
        let advice = format!("write {key} = [\"...\", \"...\"]");
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(values)) => {
                if values.len() > max {
                    let message = format!("{path} has {} entries", values.len());
                    mistakes.note(&path, message, format!("keep at most {max}"));
                }
                let named = |at: usize| format!("{path}[{at}]");
                let read = |(at, value)| read_text(&named(at), value, &advice, mistakes, &parse);
                values.iter().take(max).enumerate().filter_map(read).collect()
            }
            Some(value) => {
                mistakes.note(&path, format!("{path} must be a list of texts, not {}", kind(value)), advice);
                Vec::new()
            }
        }
    }

    /// A table of at most `max` pairs that `parse` accepts.
    pub(super) fn pairs<T>(
        &mut self,
        key: &'static str,
        max: usize,
        mistakes: &mut Mistakes,
        parse: impl Fn(&str, &Value) -> Result<T, Fault>,
    ) -> BTreeMap<String, T> {
        let path = self.named(key);
        let fields = match self.take(key) {
            None => return BTreeMap::new(),
            Some(Value::Object(fields)) => fields,
            Some(value) => {
                let advice = format!("write {key} = {{ name = \"value\" }}");
                mistakes.note(&path, format!("{path} must be a table, not {}", kind(value)), advice);
                return BTreeMap::new();
            }
        };
        if fields.len() > max {
            mistakes.note(&path, format!("{path} has {} entries", fields.len()), format!("keep at most {max}"));
        }
        let mut pairs = BTreeMap::new();
        for (name, value) in fields.iter().take(max) {
            match parse(name, value) {
                Ok(parsed) => drop(pairs.insert(name.clone(), parsed)),
                Err(fault) => {
                    let path = format!("{path}.{name}");
                    mistakes.note(&path, format!("{}: {}", shown(&path), fault.message), fault.advice);
                }
            }
        }
        pairs
    }

    /// A whole number within `range`.
    pub(super) fn number<T>(
        &mut self,
        key: &'static str,
        range: &RangeInclusive<T>,
        mistakes: &mut Mistakes,
    ) -> Option<T>
    where
        T: TryFrom<u64> + Copy + PartialOrd + std::fmt::Display,
    {
        let value = self.take(key)?;
        let path = self.named(key);
        let Value::Number(number) = value else {
            let message = format!("{path} must be a whole number, not {}", kind(value));
            mistakes.note(&path, message, format!("write {key} = {}, without quotes", range.start()));
            return None;
        };
        match number.as_u64().and_then(|number| T::try_from(number).ok()) {
            Some(number) if range.contains(&number) => Some(number),
            _ => {
                let advice = format!("choose a whole one from {} to {}", range.start(), range.end());
                mistakes.note(&path, format!("{path} = {number} is out of range"), advice);
                None
            }
        }
    }

    /// True or false.
    pub(super) fn boolean(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<bool> {
        let value = self.take(key)?;
        if let Value::Bool(boolean) = value {
            return Some(*boolean);
        }
        let path = self.named(key);
        let message = format!("{path} must be true or false, not {}", kind(value));
        mistakes.note(&path, message, format!("write {key} = true, without quotes"));
        None
    }

    /// A length of time within `range`, written "5s", "500ms", "1m30s".
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: &RangeInclusive<Duration>,
        mistakes: &mut Mistakes,
    ) -> Option<Duration> {
        let value = self.take(key)?;
        let path = self.named(key);
        if let Value::Number(number) = value {
            let advice = format!("write {key} = \"{number}s\" if seconds are meant");
            mistakes.note(&path, format!("{path} = {number} has no unit"), advice);
            return None;
        }
        read_text(&path, value, &format!("write {key} = \"5s\""), mistakes, |text| parse_duration(text, range))
    }

    /// The end: what was not asked for, nobody knows.
    pub(super) fn finish(self, mistakes: &mut Mistakes) {
        for key in self.fields.into_iter().flat_map(Map::keys).filter(|key| !self.asked.contains(&key.as_str())) {
            let message = format!("unknown key `{}`", shown(&self.named(key)));
            mistakes.note(&self.named(key), message, self.meant(key));
        }
    }

    fn meant(&self, key: &str) -> String {
        // Who writes a longer one did not mean a shorter.
        let comparable: String = key.chars().take(SHOWN_CHARS_MAX).collect();
        let scored = self.asked.iter().map(|known| (strsim::jaro_winkler(&comparable, known), known));
        match scored.max_by(|(left, _), (right, _)| left.total_cmp(right)) {
            Some((similarity, known)) if similarity >= SIMILARITY_MIN => format!("did you mean `{known}`?"),
            _ => {
                let mut known = self.asked.clone();
                known.sort_unstable();
                known.dedup();
                format!("remove it, or use one of {}", known.join(", "))
            }
        }
    }
}

fn read_text<T>(
    path: &str,
    value: &Value,
    advice: &str,
    mistakes: &mut Mistakes,
    parse: impl FnOnce(&str) -> Result<T, Fault>,
) -> Option<T> {
    let Value::String(text) = value else {
        mistakes.note(path, format!("{path} must be text, not {}", kind(value)), advice);
        return None;
    };
    match parse(text) {
        Ok(value) => Some(value),
        Err(fault) => {
            mistakes.note(path, format!("{path}: {}", fault.message), fault.advice);
            None
        }
    }
}

fn parse_duration(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, Fault> {
    let Ok(duration) = humantime::parse_duration(text) else {
        let message = format!("{} is not a length of time", quoted(text));
        return Err(Fault::new(message, r#"write a number with its unit, like "500ms", "5s" or "1m30s""#));
    };
    if range.contains(&duration) {
        return Ok(duration);
    }
    let (least, most) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
    Err(Fault::new(format!("{} is out of range", quoted(text)), format!("choose one from {least} to {most}")))
}

/// A value's kind in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true/false",
        Value::Number(number) if number.is_f64() => "a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

/// The beginning of a text that may be of any length.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

/// The same in quotes.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", shown(text))
}
