//! Text to one tree of values that know where they stand, from TOML or JSON. Syntax errors are collected, not thrown:
//! what could be read is checked all the same, so that one missing quote does not hide four other mistakes.

use std::path::Path;
use std::sync::Arc;

use toml::de::{DeInteger, DeTable, DeValue};

use super::{ConfigError, json};

/// A configuration file's limit. A host with a thousand services of ten lines each stays far below.
pub(super) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The file.
    pub(super) file: Arc<Path>,
    /// Counts from 1; `None` if the whole file is meant.
    pub(super) line: Option<usize>,
    /// Counts characters from 1.
    pub(super) column: Option<usize>,
}

impl Place {
    /// The whole file.
    pub(super) fn whole(file: &Path) -> Place {
        Place { file: file.into(), line: None, column: None }
    }

    /// A mistake here.
    pub(super) fn error(&self, message: impl Into<String>, advice: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.file.to_path_buf(),
            line: self.line,
            column: self.column,
            message: message.into(),
            advice: advice.into(),
        }
    }

    /// `FILE:LINE`.
    pub(super) fn source(&self) -> String {
        match self.line {
            Some(line) => format!("{}:{line}", self.file.display()),
            None => self.file.display().to_string(),
        }
    }
}

/// A value of either language.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Text.
    Text(String),
    /// A whole number; out of `i128` reads as its maximum, which every range check refuses.
    Integer(i128),
    /// True or false.
    Boolean(bool),
    /// A list.
    List(Vec<Node>),
    /// A table; keys are unique.
    Table(Vec<Field>),
    /// Something that no key takes: a fraction, a date, null; said in words.
    Foreign(&'static str),
}

impl Value {
    /// The kind in words, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "text",
            Value::Integer(_) => "a number",
            Value::Boolean(_) => "true/false",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Foreign(kind) => kind,
        }
    }
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Where it begins.
    pub(super) place: Place,
    /// What it is.
    pub(super) value: Value,
}

/// One `key = value`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    /// The key.
    pub(super) key: String,
    /// Where the key stands.
    pub(super) place: Place,
    /// The value.
    pub(super) node: Node,
}

/// Reads TOML. The tree holds what could be read, even if there are errors.
pub(super) fn parse_toml(file: &Path, text: &str) -> (Vec<Field>, Vec<ConfigError>) {
    let lines = Lines::new(file, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let errors = errors.iter().map(|error| {
        let place = error.span().map_or_else(|| Place::whole(file), |span| lines.place(span.start));
        place.error(syntax_message(error.message()), syntax_advice(error.message()))
    });
    let mut errors: Vec<ConfigError> = errors.collect();
    // The parser stumbles on over the rest of a broken line; the first stumble is the one that tells.
    errors.dedup_by(|next, first| next.line == first.line);
    (lines.table(table.get_ref()), errors)
}

/// Reads JSON. The tree is empty if there is an error: JSON does not recover.
/// `form` is what to write where it is no object.
pub(super) fn parse_json(file: &Path, text: &str, form: &str) -> (Vec<Field>, Vec<ConfigError>) {
    match json::parse(file, text) {
        Ok(Node { value: Value::Table(fields), .. }) => (fields, Vec::new()),
        Ok(node) => {
            let message = format!("it holds {}, not an object", node.value.kind());
            (Vec::new(), vec![node.place.error(message, form)])
        }
        Err(error) => (Vec::new(), vec![error]),
    }
}

fn syntax_message(parser: &str) -> String {
    format!("not TOML: {parser}")
}

fn syntax_advice(parser: &str) -> &'static str {
    match parser {
        _ if parser.contains("duplicate key") => "keep one of the two",
        _ if parser.contains("quoted") => r#"write text in quotes: key = "text""#,
        _ if parser.contains("string") => r#"write text as "text", opened and closed on the same line"#,
        _ if parser.contains("array") || parser.contains("]") => r#"write a list as ["one", "two"], closed by ]"#,
        _ => r#"write one key = value a line: text in quotes, lists in [ ], sections as [section]"#,
    }
}

/// Offsets of line starts, to turn a byte offset into line and column.
struct Lines<'t> {
    file: Arc<Path>,
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(file: &Path, text: &'t str) -> Lines<'t> {
        let after_newlines = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        Lines { file: file.into(), text, starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|&start| start <= offset);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or("");
        Place { file: self.file.clone(), line: Some(line), column: Some(before.chars().count() + 1) }
    }

    fn table(&self, table: &DeTable<'_>) -> Vec<Field> {
        let mut fields: Vec<(usize, Field)> = table
            .iter()
            .map(|(key, value)| {
                let at = key.span().start;
                let node = Node { place: self.place(value.span().start), value: self.value(value.get_ref()) };
                (at, Field { key: key.get_ref().to_string(), place: self.place(at), node })
            })
            .collect();
        fields.sort_by_key(|(at, _)| *at); // the parser's map is in the order of names; mistakes are told in the file's
        fields.into_iter().map(|(_, field)| field).collect()
    }

    fn value(&self, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => Value::Integer(integer(number)),
            DeValue::Boolean(boolean) => Value::Boolean(*boolean),
            DeValue::Float(_) => Value::Foreign("a fraction"),
            DeValue::Datetime(_) => Value::Foreign("a date"),
            DeValue::Table(table) => Value::Table(self.table(table)),
            DeValue::Array(items) => {
                let node = |item: &toml::Spanned<DeValue<'_>>| Node {
                    place: self.place(item.span().start),
                    value: self.value(item.get_ref()),
                };
                Value::List(items.iter().map(node).collect())
            }
        }
    }
}

fn integer(number: &DeInteger<'_>) -> i128 {
    i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_their_line_and_column() {
        let (fields, errors) = parse_toml(Path::new("x"), "a = 1\n[t]\nlist = [\n  \"x\",\n  2]\n");
        assert_eq!(errors, []);
        let Value::Table(table) = &fields[1].node.value else { panic!("{fields:?}") };
        let Value::List(items) = &table[0].node.value else { panic!("{table:?}") };
        assert_eq!((items[1].place.line, items[1].place.column), (Some(5), Some(3)));
    }

    #[test]
    fn a_broken_line_is_one_error_and_the_rest_is_still_read() {
        let (fields, errors) = parse_toml(Path::new("x"), "a = oops oops\nb = 2\nc = \"open\nd = 4\n");
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [Some(1), Some(3)]);
        assert!(fields.iter().any(|field| field.key == "b") && fields.iter().any(|field| field.key == "d"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_either_parser(text in "[\\[\\]{}=\"'.,:a-c0-9#\\\\ \n\u{e9}-]{0,60}") {
            let _ = parse_toml(Path::new("x"), &text);
            let _ = parse_json(Path::new("x"), &text, "");
        }
    }
}
