//! Text to tokens. Every token knows where it began, for messages.

use super::FilterError;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A name, a keyword or a bare value: which, the parser knows.
    Word(String),
    Number(String),
    /// Quoted.
    Text(String),
    Equal,
    NotEqual,
    Dot,
    Open,
    Close,
    OpenIndex,
    CloseIndex,
}

/// A token and where it begins.
pub(super) type Placed = (usize, Token);

/// Splits; whitespace separates and is dropped.
pub(super) fn tokens(text: &str) -> Result<Vec<Placed>, FilterError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let (token, length) = match first {
            ' ' | '\t' | '\r' | '\n' => {
                at += 1;
                continue;
            }
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '[' => (Token::OpenIndex, 1),
            ']' => (Token::CloseIndex, 1),
            '.' => (Token::Dot, 1),
            '=' if text[at..].starts_with("==") => (Token::Equal, 2),
            '!' if text[at..].starts_with("!=") => (Token::NotEqual, 2),
            '`' => raw(text, at)?,
            '"' => quoted(text, at)?,
            'a'..='z' | 'A'..='Z' | '_' => {
                let length = span(&text[at..], is_word);
                (Token::Word(text[at..at + length].to_owned()), length)
            }
            '0'..='9' | '-' => number(text, at)?,
            other => return Err(syntax(at, format!("{other:?} has no meaning here"))),
        };
        tokens.push((at, token));
        at += length;
    }
    Ok(tokens)
}

pub(super) fn syntax(at: usize, what: impl Into<String>) -> FilterError {
    FilterError::Syntax { at, what: what.into() }
}

/// `-` is more than go-bexpr takes: bare values such as `web-01` cost nothing to understand.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '-')
}

fn span(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

fn raw(text: &str, at: usize) -> Result<(Token, usize), FilterError> {
    let inside = &text[at + 1..];
    let end = inside.find('`').ok_or_else(|| syntax(at, "Unterminated string literal"))?;
    Ok((Token::Text(inside[..end].to_owned()), end + 2))
}

fn quoted(text: &str, at: usize) -> Result<(Token, usize), FilterError> {
    let mut value = String::new();
    let mut inside = text[at + 1..].char_indices();
    while let Some((offset, c)) = inside.next() {
        match c {
            '"' => return Ok((Token::Text(value), offset + 2)),
            '\\' => match inside.next().map(|(_, escaped)| escaped) {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some('r') => value.push('\r'),
                Some(plain @ ('\\' | '"' | '\'')) => value.push(plain),
                _ => return Err(syntax(at + 1 + offset, "an escape that is none of \\n \\t \\r \\\\ \\\"")),
            },
            other => value.push(other),
        }
    }
    Err(syntax(at, "Unterminated string literal"))
}

fn number(text: &str, at: usize) -> Result<(Token, usize), FilterError> {
    let rest = &text[at..];
    let sign = usize::from(rest.starts_with('-'));
    let whole = span(&rest[sign..], |c| c.is_ascii_digit());
    let mut length = sign + whole;
    if let Some(fraction) = rest[length..].strip_prefix('.') {
        let digits = span(fraction, |c| c.is_ascii_digit());
        if digits > 0 {
            length += 1 + digits;
        }
    }
    if whole == 0 || rest[length..].starts_with(is_word) {
        return Err(syntax(at, "Invalid number literal; quote what is no number"));
    }
    Ok((Token::Number(rest[..length].to_owned()), length))
}
