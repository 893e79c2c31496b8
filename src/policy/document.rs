//! What operators write about the traffic of one service: a JSON document, and how it is read and printed.
//!
//! ```text
//! {"timeouts":{"request":"2s"},"split":[{"weight":90,"platform":"vm"},{"weight":10,"platform":"kubernetes"}]}
//! ```
//!
//! Only what is said is in it; all else is as [`TrafficPolicy::default`] has it. A key that is not known makes the whole
//! document one that this version cannot read: half of what an operator meant is worse than what held before. All mistakes
//! are told at once, each with the key's path and what is allowed. Texts come in, [`TrafficPolicy`]s go out; who wrote them,
//! and which of them holds, is not known here.

mod keys;
mod print;
mod table;

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use crate::model::{TRAFFIC_DOCUMENT_BYTES_MAX, TrafficPolicy};
use table::{Mistakes, Table, kind};

/// The groups of keys, as a document has them. What a file says of a group takes the place of the whole group.
pub const GROUPS: [&str; 7] = ["timeouts", "retries", "balance", "outlier", "limits", "route", "split"];

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key, like `route[0].to.tag`; empty if the whole document is meant.
    pub path: String,
    /// What is wrong, with the key's name.
    pub message: String,
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.advice)
    }
}

/// Why a document is none: all of its mistakes, in the order of its keys. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct DocumentError(pub Vec<Mistake>);

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{mistake}")?;
        }
        Ok(())
    }
}

/// A document that was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document {
    said: Map<String, Value>,
    policy: TrafficPolicy,
}

impl Document {
    /// Reads the text of one.
    pub fn parse(text: &str) -> Result<Document, DocumentError> {
        let whole = |message: String, advice: &str| {
            DocumentError(vec![Mistake { path: String::new(), message, advice: advice.to_owned() }])
        };
        if text.len() > TRAFFIC_DOCUMENT_BYTES_MAX {
            let message = format!("a document of {} bytes", text.len());
            return Err(whole(message, &format!("keep at most {TRAFFIC_DOCUMENT_BYTES_MAX}")));
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(said)) => Document::check(said),
            Ok(value) => Err(whole(format!("it holds {}, not an object", kind(&value)), "write {...}")),
            Err(error) => Err(whole(format!("not JSON: {error}"), "correct the JSON there")),
        }
    }

    /// The same of what was read already.
    pub fn check(mut said: Map<String, Value>) -> Result<Document, DocumentError> {
        let mut mistakes = Mistakes::default();
        let policy = keys::read(Table::top(&said), &mut mistakes);
        // A group with nothing in it says nothing.
        said.retain(|_, value| match value {
            Value::Object(fields) => !fields.is_empty(),
            Value::Array(values) => !values.is_empty(),
            _ => true,
        });
        let document = Document { said, policy };
        let bytes = document.text().len();
        if mistakes.0.is_empty() && bytes > TRAFFIC_DOCUMENT_BYTES_MAX {
            let advice = format!("keep at most {TRAFFIC_DOCUMENT_BYTES_MAX}: every host holds it");
            mistakes.note("", format!("a document of {bytes} bytes"), advice);
        }
        if mistakes.0.is_empty() { Ok(document) } else { Err(DocumentError(mistakes.0)) }
    }

    /// The document that says this, and nothing that holds anyway.
    pub fn of(policy: TrafficPolicy) -> Document {
        Document { said: print::said(&policy), policy }
    }

    /// What it comes to.
    pub fn policy(&self) -> &TrafficPolicy {
        &self.policy
    }

    /// What it says.
    pub fn said(&self) -> &Map<String, Value> {
        &self.said
    }

    /// True if it says nothing.
    pub fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    /// As it travels: on one line, its keys in alphabetical order.
    pub fn text(&self) -> String {
        Value::Object(self.said.clone()).to_string()
    }

    /// The same with these groups in the place of its own; one that is empty is taken out.
    pub fn with(&self, groups: &Map<String, Value>) -> Result<Document, DocumentError> {
        let mut said = self.said.clone();
        said.extend(groups.iter().map(|(group, value)| (group.clone(), value.clone())));
        Document::check(said)
    }

    /// What is another in `other`, key by key.
    pub fn differences(&self, other: &Document) -> Vec<Difference> {
        let mut differences = Vec::new();
        let keys: BTreeSet<&String> = self.said.keys().chain(other.said.keys()).collect();
        for key in keys {
            compare(key, self.said.get(key), other.said.get(key), &mut differences);
        }
        differences
    }
}

/// A key that has another value.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// The key, like `timeouts.request`.
    pub key: String,
    /// What it was; `None`: it was not said.
    pub from: Option<Value>,
    /// What it is; `None`: it is not said any more.
    pub to: Option<Value>,
}

/// Tables are told key by key. Lists are told entry by entry: where one was put in between, those after it have changed.
fn compare(key: &str, from: Option<&Value>, to: Option<&Value>, differences: &mut Vec<Difference>) {
    let as_table = |value: Option<&Value>| match value {
        None => Some(Map::new()),
        Some(Value::Object(fields)) => Some(fields.clone()),
        Some(_) => None,
    };
    let as_list = |value: Option<&Value>| match value {
        None => Some(Vec::new()),
        Some(Value::Array(values)) => Some(values.clone()),
        Some(_) => None,
    };
    if from == to {
        return;
    }
    if let (Some(old), Some(new)) = (as_table(from), as_table(to)) {
        let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        return keys
            .into_iter()
            .for_each(|inner| compare(&format!("{key}.{inner}"), old.get(inner), new.get(inner), differences));
    }
    if let (Some(old), Some(new)) = (as_list(from), as_list(to)) {
        let same = |at: usize| old.get(at) == new.get(at);
        let told = (0..old.len().max(new.len())).filter(|at| !same(*at)).map(|at| Difference {
            key: format!("{key}[{at}]"),
            from: old.get(at).cloned(),
            to: new.get(at).cloned(),
        });
        return differences.extend(told);
    }
    differences.push(Difference { key: key.to_owned(), from: from.cloned(), to: to.cloned() });
}

#[cfg(test)]
mod tests;
