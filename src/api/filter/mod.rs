//! Consul's `?filter=`: its boolean expressions (hashicorp/go-bexpr) over the elements that an endpoint would answer
//! with. Pure: text and a schema come in, a checked [`Filter`] goes out, which then cannot fail.
//!
//! `lexer` makes tokens, `parser` an expression, `schema` knows what each endpoint's elements have; `evaluate` holds
//! an expression against a schema once and against each element's JSON after that. `matches` is not there: it needs a
//! regular expression engine, and none of Weft's dependencies brings one.

mod evaluate;
mod lexer;
mod parser;
mod schema;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub(super) use schema::{AGENT_SERVICE, CATALOG_SERVICE, CHECK, HEALTH_ENTRY, Kind, MEMBER, NODE};

/// Longer than any that people write; a request's head is bounded by 16 KiB as it is.
const EXPRESSION_BYTES_MAX: usize = 4096;
/// Parentheses and `not`s inside each other.
const DEPTH_MAX: usize = 32;

/// Why there is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FilterError {
    #[error("the filter has {0} bytes, more than the {EXPRESSION_BYTES_MAX} that are read")]
    TooLong(usize),
    #[error("the filter nests deeper than {DEPTH_MAX} levels")]
    TooDeep,
    #[error("Failed to create boolean expression evaluator: at byte {at}: {what}")]
    Syntax { at: usize, what: String },
    #[error("Failed to create boolean expression evaluator: Selector {0:?} is not valid")]
    Selector(String),
    #[error(
        "Failed to create boolean expression evaluator: Invalid match operator {operator:?} for selector {selector:?}"
    )]
    Operator { operator: &'static str, selector: String },
    #[error("Failed to create boolean expression evaluator: {value:?} is no {kind}, which {selector:?} is")]
    Literal { value: String, kind: &'static str, selector: String },
    #[error("Weft does not evaluate `matches`: it has no regular expressions; use `==`, `in` or `contains`")]
    Matches,
}

/// A checked expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filter {
    expression: evaluate::Checked,
}

impl Filter {
    /// Reads an expression over elements of this kind.
    pub(super) fn compile(text: &str, kind: &'static Kind) -> Result<Filter, FilterError> {
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(FilterError::TooLong(text.len()));
        }
        let parsed = parser::parse(&lexer::tokens(text)?, text.len())?;
        Ok(Filter { expression: evaluate::check(parsed, kind)? })
    }

    /// True if the element stays.
    pub(super) fn keeps(&self, element: &Value) -> bool {
        self.expression.holds(element)
    }
}
