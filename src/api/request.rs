//! A request's target, parsed once: path segments and query pairs, percent-decoded. Pure; its length is bounded by the
//! limit on a request's head.

use hyper::Method;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) method: Method,
    /// `/v1/a%20b` is `["v1", "a b"]`.
    pub(super) segments: Vec<String>,
    pub(super) query: Query,
    /// By `Accept`, text is wanted rather than JSON.
    pub(super) wants_text: bool,
}

impl Asked {
    pub(super) fn new(method: Method, path: &str, query: &str, wants_text: bool) -> Asked {
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = path.strip_suffix('/').unwrap_or(path);
        let segments = path.split('/').map(|segment| decode(segment, false)).collect();
        Asked { method, segments, query: Query::parse(query), wants_text }
    }

    pub(super) fn segments(&self) -> Vec<&str> {
        self.segments.iter().map(String::as_str).collect()
    }

    /// True for the methods that only read.
    pub(super) fn reads(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }
}

/// The query's pairs in their order; a key without `=` has the empty value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Query {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        });
        Query(pairs.collect())
    }

    /// The first value of `key`.
    pub(super) fn first(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    /// All of it.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Every value of `key`.
    pub(super) fn all<'a, 'k>(&'a self, key: &'k str) -> impl Iterator<Item = &'a str> + use<'a, 'k> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A switch as Consul reads it: there without a value means on. `Err` holds a value that is no boolean.
    pub(super) fn switch(&self, key: &str) -> Result<bool, &str> {
        match self.first(key) {
            None | Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
            Some("" | "1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
            Some(other) => Err(other),
        }
    }
}

/// Percent-decoding (RFC 3986 §2.1). What is not an escape stays as it is; bytes that are not UTF-8 become U+FFFD and
/// so name nothing.
fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'%', [high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    decoded.push(high << 4 | low);
                    rest = tail;
                }
                _ => decoded.push(byte),
            },
            (b'+', _) if plus_is_space => decoded.push(b' '),
            _ => decoded.push(byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_and_queries_are_decoded_once() {
        let asked = Asked::new(Method::GET, "/v1/catalog/service/a%2Fb/", "tag=x%3D1&tag=a+b&passing&near=%zz", false);
        assert_eq!(asked.segments(), ["v1", "catalog", "service", "a/b"]);
        assert_eq!(asked.query.all("tag").collect::<Vec<_>>(), ["x=1", "a b"]);
        assert_eq!(asked.query.first("near"), Some("%zz"));
        assert_eq!(asked.query.switch("passing"), Ok(true));
    }

    #[test]
    fn a_switch_is_on_without_a_value_and_refuses_what_is_no_boolean() {
        let switch = |query: &str| Query::parse(query).switch("passing").map_err(str::to_owned);
        assert_eq!(switch(""), Ok(false));
        assert_eq!(switch("passing=1"), Ok(true));
        assert_eq!(switch("passing=false"), Ok(false));
        assert_eq!(switch("passing=maybe"), Err("maybe".to_owned()));
    }

    proptest! {
        #[test]
        fn decoding_never_fails_and_never_grows(text in "[%+a-fA-F0-9/é]{0,64}") {
            // A lone byte that is not UTF-8 becomes the three bytes of U+FFFD: no longer than its escape.
            prop_assert!(decode(&text, true).len() <= text.len());
        }
    }
}
