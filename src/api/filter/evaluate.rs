//! An expression held against a schema, once, and then against elements.

use serde_json::Value;

use super::parser::{Expression, Operator};
use super::{FilterError, Kind};

/// An expression whose selectors, operators and values fit.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Checked {
    All(Vec<Checked>),
    Any(Vec<Checked>),
    Not(Box<Checked>),
    Match { kind: &'static Kind, selector: Vec<String>, operator: Operator, value: Literal },
}

/// A value, read as what its selector is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    None,
    Text(String),
    Number(f64),
    Bool(bool),
}

/// Holds the expression against what elements have.
pub(super) fn check(expression: Expression, kind: &'static Kind) -> Result<Checked, FilterError> {
    let each = |expressions: Vec<Expression>| -> Result<Vec<Checked>, FilterError> {
        expressions.into_iter().map(|one| check(one, kind)).collect()
    };
    Ok(match expression {
        Expression::All(expressions) => Checked::All(each(expressions)?),
        Expression::Any(expressions) => Checked::Any(each(expressions)?),
        Expression::Not(expression) => Checked::Not(Box::new(check(*expression, kind)?)),
        Expression::Match { selector, operator, value } => {
            let value = literal(leaf(kind, &selector)?, &selector, operator, value)?;
            Checked::Match { kind, selector, operator, value }
        }
    })
}

/// What is at the end of a selector. Lists are stepped into without a word, as in go-bexpr.
fn leaf(mut kind: &'static Kind, selector: &[String]) -> Result<&'static Kind, FilterError> {
    let unknown = || FilterError::Selector(selector.join("."));
    for segment in selector {
        if let Kind::List(inner) = kind {
            kind = inner;
        }
        kind = match kind {
            Kind::Object(fields) => {
                fields.iter().find(|(name, _)| name == segment).map(|(_, kind)| kind).ok_or_else(unknown)?
            }
            Kind::Map(inner) => inner,
            Kind::List(_) | Kind::Text | Kind::Number | Kind::Bool | Kind::Texts => return Err(unknown()),
        };
    }
    Ok(kind)
}

fn literal(kind: &Kind, selector: &[String], operator: Operator, value: String) -> Result<Literal, FilterError> {
    use Operator::{Empty, Equal, In, NotEmpty, NotEqual, NotIn};
    let selector = || selector.join(".");
    match (kind, operator) {
        (Kind::Text, Equal | NotEqual | In | NotIn) | (Kind::Texts | Kind::Map(_), In | NotIn) => {
            Ok(Literal::Text(value))
        }
        (Kind::Number, Equal | NotEqual) => match value.parse() {
            Ok(number) => Ok(Literal::Number(number)),
            Err(_) => Err(FilterError::Literal { value, kind: "number", selector: selector() }),
        },
        (Kind::Bool, Equal | NotEqual) => match value.as_str() {
            "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(Literal::Bool(true)),
            "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(Literal::Bool(false)),
            _ => Err(FilterError::Literal { value, kind: "boolean", selector: selector() }),
        },
        (Kind::Texts | Kind::Map(_) | Kind::List(_), Empty | NotEmpty) => Ok(Literal::None),
        _ => Err(FilterError::Operator { operator: operator.as_str(), selector: selector() }),
    }
}

impl Checked {
    pub(super) fn holds(&self, element: &Value) -> bool {
        match self {
            Checked::All(all) => all.iter().all(|one| one.holds(element)),
            Checked::Any(any) => any.iter().any(|one| one.holds(element)),
            Checked::Not(one) => !one.holds(element),
            Checked::Match { kind, selector, operator, value } => {
                matches(kind, Some(element), selector, *operator, value)
            }
        }
    }
}

/// A field that is not there has its zero value; a key that is not in a map is nothing that anything could equal.
fn matches(kind: &Kind, here: Option<&Value>, selector: &[String], operator: Operator, value: &Literal) -> bool {
    let Some((segment, rest)) = selector.split_first() else { return matches_leaf(here, operator, value) };
    match kind {
        Kind::Object(fields) => {
            let Some((name, kind)) = fields.iter().find(|(name, _)| name == segment) else { return false };
            matches(kind, here.and_then(|here| here.get(name)), rest, operator, value)
        }
        Kind::Map(inner) => match here.and_then(|here| here.get(segment)) {
            Some(there) => matches(inner, Some(there), rest, operator, value),
            None => matches!(operator, Operator::NotEqual | Operator::NotIn | Operator::Empty),
        },
        Kind::List(inner) => {
            let mut elements = here.and_then(Value::as_array).into_iter().flatten();
            elements.any(|element| matches(inner, Some(element), selector, operator, value))
        }
        Kind::Text | Kind::Number | Kind::Bool | Kind::Texts => false,
    }
}

fn matches_leaf(here: Option<&Value>, operator: Operator, value: &Literal) -> bool {
    match operator {
        Operator::Equal => equals(here, value),
        Operator::NotEqual => !equals(here, value),
        Operator::In => contains(here, value),
        Operator::NotIn => !contains(here, value),
        Operator::Empty => is_empty(here),
        Operator::NotEmpty => !is_empty(here),
    }
}

fn equals(here: Option<&Value>, value: &Literal) -> bool {
    match value {
        Literal::Text(text) => here.and_then(Value::as_str).unwrap_or_default() == text,
        // Ports and weights: whole numbers far below 2^53.
        Literal::Number(number) => here.and_then(Value::as_f64).unwrap_or_default() == *number,
        Literal::Bool(switch) => here.and_then(Value::as_bool).unwrap_or_default() == *switch,
        Literal::None => false,
    }
}

fn contains(here: Option<&Value>, value: &Literal) -> bool {
    let (Some(here), Literal::Text(text)) = (here, value) else { return false };
    match here {
        Value::String(whole) => whole.contains(text.as_str()),
        Value::Array(list) => list.iter().any(|one| one.as_str() == Some(text)),
        Value::Object(map) => map.contains_key(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn is_empty(here: Option<&Value>) -> bool {
    match here {
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        _ => true,
    }
}
