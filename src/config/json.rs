//! JSON to the same tree as TOML. serde_json keeps no positions, so the reader under it counts lines, and every key and
//! value is asked for the line at the moment it has been read.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::ConfigError;
use super::document::{Field, Node, Place, Value};

/// Reads one JSON value that fills the file.
pub(super) fn parse(file: &Path, text: &str) -> Result<Node, ConfigError> {
    let position = Position { file: file.into(), line: Cell::new(1) };
    let source = Counted { rest: text.as_bytes(), newline_read: false, line: &position.line };
    let mut json = serde_json::Deserializer::from_reader(source);
    let node = Tree(&position).deserialize(&mut json).and_then(|node| json.end().map(|()| node));
    node.map_err(|error| {
        let place = Place { file: file.into(), line: Some(error.line().max(1)), column: Some(error.column().max(1)) };
        let text = error.to_string();
        let message = text.split(" at line ").next().unwrap_or_default();
        place.error(format!("not JSON: {message}"), "correct the JSON there")
    })
}

struct Position {
    file: Arc<Path>,
    line: Cell<usize>,
}

impl Position {
    fn place(&self) -> Place {
        Place { file: self.file.clone(), line: Some(self.line.get()), column: None }
    }
}

/// Counts a line once the byte *after* its newline is read: numbers are followed by one byte of look-ahead, which may be
/// the newline and must not move them to the next line.
struct Counted<'a> {
    rest: &'a [u8],
    newline_read: bool,
    line: &'a Cell<usize>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (Some((&byte, rest)), Some(slot)) = (self.rest.split_first(), buffer.first_mut()) else {
            return Ok(0);
        };
        if self.newline_read {
            self.line.set(self.line.get() + 1);
        }
        self.newline_read = byte == b'\n';
        self.rest = rest;
        *slot = byte;
        Ok(1)
    }
}

struct Tree<'a>(&'a Position);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Tree<'_> {
    fn node<E>(&self, value: Value) -> Result<Node, E> {
        Ok(Node { place: self.0.place(), value })
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        self.node(Value::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        self.node(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        self.node(Value::Integer(value.into()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        self.node(Value::Foreign("a fraction"))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        self.node(Value::Foreign("null"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        self.node(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let place = self.0.place();
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Tree(self.0))? {
            list.push(item);
        }
        Ok(Node { place, value: Value::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let place = self.0.place();
        let (mut fields, mut seen): (Vec<Field>, HashSet<String>) = Default::default();
        while let Some(key) = entries.next_key::<String>()? {
            let at = self.0.place();
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("the key {key:?} is there twice; keep one of the two")));
            }
            let node = entries.next_value_seed(Tree(self.0))?;
            fields.push(Field { key, place: at, node });
        }
        Ok(Node { place, value: Value::Table(fields) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_know_their_line() {
        let node =
            parse(Path::new("x"), "{\n \"a\": 1\n,\n\n \"b\": [true,\n 2\n],\n\"c\": {\"d\":\n\"e\"}}\n").unwrap();
        let Value::Table(fields) = node.value else { panic!() };
        let lines: Vec<_> = fields.iter().map(|f| (f.place.line, f.node.place.line)).collect();
        assert_eq!(lines, [(Some(2), Some(2)), (Some(5), Some(5)), (Some(8), Some(8))]);
        let Value::List(items) = &fields[1].node.value else { panic!() };
        assert_eq!((items[0].place.line, items[1].place.line), (Some(5), Some(6)));
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        for (text, line) in [("{\n\"a\": }", 2), ("{\"a\": 1}\nx", 2), ("", 1), ("{\"a\":1,\n\"a\":2}", 2)] {
            let error = parse(Path::new("x.json"), text).unwrap_err();
            assert_eq!(error.line, Some(line), "{text:?}: {error}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_stack_overflow() {
        assert!(parse(Path::new("x"), &"[".repeat(100_000)).is_err());
    }
}
