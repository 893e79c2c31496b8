//! Tokens to an expression, by recursive descent. `not` binds closest, then `and`, then `or`.

use super::lexer::{Placed, Token, syntax};
use super::{DEPTH_MAX, FilterError};

/// What is asked of a selector. `contains` is `in` the other way around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    In,
    NotIn,
    Empty,
    NotEmpty,
}

impl Operator {
    /// go-bexpr's words, for messages.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Operator::Equal => "Equal",
            Operator::NotEqual => "Not Equal",
            Operator::In => "In",
            Operator::NotIn => "Not In",
            Operator::Empty => "Is Empty",
            Operator::NotEmpty => "Is Not Empty",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    All(Vec<Expression>),
    Any(Vec<Expression>),
    Not(Box<Expression>),
    Match {
        selector: Vec<String>,
        operator: Operator,
        /// Empty for the operators that take none.
        value: String,
    },
}

/// Reads all tokens as one expression. `end` is the text's length, for messages.
pub(super) fn parse(tokens: &[Placed], end: usize) -> Result<Expression, FilterError> {
    let mut parser = Parser { tokens, end, depth: 0 };
    let expression = parser.any()?;
    match parser.tokens.first() {
        None => Ok(expression),
        Some((at, _)) => Err(syntax(*at, "expected `and`, `or` or the end")),
    }
}

struct Parser<'a> {
    /// What is left.
    tokens: &'a [Placed],
    end: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn at(&self) -> usize {
        self.tokens.first().map_or(self.end, |(at, _)| *at)
    }

    fn peek(&self) -> Option<&'a Token> {
        self.tokens.first().map(|(_, token)| token)
    }

    fn take(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(&first.1)
    }

    fn take_if(&mut self, wanted: &Token) -> bool {
        let there = self.peek() == Some(wanted);
        if there {
            self.take();
        }
        there
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let there = matches!(self.peek(), Some(Token::Word(word)) if word == keyword);
        if there {
            self.take();
        }
        there
    }

    /// One level deeper, for as long as `read` takes.
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, FilterError>) -> Result<T, FilterError> {
        if self.depth == DEPTH_MAX {
            return Err(FilterError::TooDeep);
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    fn any(&mut self) -> Result<Expression, FilterError> {
        let mut alternatives = vec![self.all()?];
        while self.keyword("or") {
            alternatives.push(self.all()?);
        }
        Ok(alone_or(alternatives, Expression::Any))
    }

    fn all(&mut self) -> Result<Expression, FilterError> {
        let mut conditions = vec![self.not()?];
        while self.keyword("and") {
            conditions.push(self.not()?);
        }
        Ok(alone_or(conditions, Expression::All))
    }

    fn not(&mut self) -> Result<Expression, FilterError> {
        if self.keyword("not") {
            return self.nested(|parser| Ok(Expression::Not(Box::new(parser.not()?))));
        }
        if self.take_if(&Token::Open) {
            let inside = self.nested(Parser::any)?;
            return if self.take_if(&Token::Close) {
                Ok(inside)
            } else {
                Err(syntax(self.at(), "Unmatched parentheses"))
            };
        }
        self.matching()
    }

    fn matching(&mut self) -> Result<Expression, FilterError> {
        let at = self.at();
        match self.peek() {
            Some(Token::Text(_) | Token::Number(_)) => {
                let value = self.value()?;
                self.value_in_selector(value)
            }
            Some(Token::Word(_)) => {
                let selector = self.selector()?;
                if self.at_in() {
                    return self.value_in_selector(selector.join("."));
                }
                match self.operator()? {
                    Some(operator @ (Operator::Empty | Operator::NotEmpty)) => {
                        Ok(Expression::Match { selector, operator, value: String::new() })
                    }
                    Some(operator) => Ok(Expression::Match { selector, operator, value: self.value()? }),
                    None => Err(syntax(self.at(), "expected ==, !=, is, contains, in or not")),
                }
            }
            _ => Err(syntax(at, "expected a selector or a value")),
        }
    }

    /// True where what looked like a selector was a bare value: `primary in Tags`.
    fn at_in(&self) -> bool {
        matches!(self.peek(), Some(Token::Word(word)) if word == "in")
            || matches!(self.tokens, [(_, Token::Word(not)), (_, Token::Word(word)), ..] if not == "not" && word == "in")
    }

    fn value_in_selector(&mut self, value: String) -> Result<Expression, FilterError> {
        let operator = match (self.keyword("not"), self.keyword("in")) {
            (true, true) => Operator::NotIn,
            (false, true) => Operator::In,
            _ => return Err(syntax(self.at(), "expected `in` or `not in` after a value")),
        };
        Ok(Expression::Match { selector: self.selector()?, operator, value })
    }

    /// The operator after a selector, if there is one.
    fn operator(&mut self) -> Result<Option<Operator>, FilterError> {
        if self.take_if(&Token::Equal) {
            return Ok(Some(Operator::Equal));
        }
        if self.take_if(&Token::NotEqual) {
            return Ok(Some(Operator::NotEqual));
        }
        if self.keyword("is") {
            let operator = if self.keyword("not") { Operator::NotEmpty } else { Operator::Empty };
            return if self.keyword("empty") { Ok(Some(operator)) } else { Err(syntax(self.at(), "expected `empty`")) };
        }
        let negated = self.keyword("not");
        if self.keyword("contains") {
            return Ok(Some(if negated { Operator::NotIn } else { Operator::In }));
        }
        if self.keyword("matches") {
            return Err(FilterError::Matches);
        }
        if negated {
            return Err(syntax(self.at(), "expected `in`, `contains` or `matches` after `not`"));
        }
        Ok(None)
    }

    fn selector(&mut self) -> Result<Vec<String>, FilterError> {
        let at = self.at();
        let Some(Token::Word(first)) = self.take() else { return Err(syntax(at, "Invalid selector")) };
        let mut path = vec![first.clone()];
        loop {
            if self.take_if(&Token::Dot) {
                let at = self.at();
                match self.take() {
                    Some(Token::Word(segment) | Token::Number(segment)) => path.push(segment.clone()),
                    _ => return Err(syntax(at, "expected a name after the dot")),
                }
            } else if self.take_if(&Token::OpenIndex) {
                let at = self.at();
                let Some(Token::Text(key)) = self.take() else { return Err(syntax(at, "Invalid index")) };
                path.push(key.clone());
                if !self.take_if(&Token::CloseIndex) {
                    return Err(syntax(self.at(), "Unclosed index expression"));
                }
            } else {
                return Ok(path);
            }
        }
    }

    fn value(&mut self) -> Result<String, FilterError> {
        let at = self.at();
        match self.peek() {
            Some(Token::Word(_)) => Ok(self.selector()?.join(".")),
            Some(Token::Text(value) | Token::Number(value)) => {
                self.take();
                Ok(value.clone())
            }
            _ => Err(syntax(at, "expected a value")),
        }
    }
}

fn alone_or(mut expressions: Vec<Expression>, join: fn(Vec<Expression>) -> Expression) -> Expression {
    match expressions.pop() {
        Some(only) if expressions.is_empty() => only,
        Some(last) => {
            expressions.push(last);
            join(expressions)
        }
        None => join(expressions),
    }
}
