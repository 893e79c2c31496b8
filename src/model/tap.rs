//! What somebody wants to see of the calls that pass: the filter of a tap, read from words once and asked of each call.

use super::Direction;

/// A line must be looked for in every call: names and paths beyond this name nothing.
const TEXT_BYTES_MAX: usize = 2048;

/// Why a filter is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TapError {
    /// No such key.
    #[error("a tap has no {0:?}; it has service, caller, path, method, code, errors, direction, sample and limit")]
    Key(String),
    /// A value that says nothing.
    #[error("{key}={value:?} is no filter; give {form}")]
    Value {
        /// Of which key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What it should be.
        form: &'static str,
    },
}

/// Statuses: one, or a class of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapCode {
    /// `503`.
    Exact(u16),
    /// `5xx`.
    Class(u16),
}

impl TapCode {
    /// Reads `503` or `5xx`.
    pub fn parse(text: &str) -> Option<TapCode> {
        let class = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX"));
        match class {
            Some(class) => class.parse().ok().filter(|class| (1..=5).contains(class)).map(TapCode::Class),
            None => text.parse().ok().filter(|code| (100..=599).contains(code)).map(TapCode::Exact),
        }
    }

    fn fits(self, status: u16) -> bool {
        match self {
            TapCode::Exact(code) => status == code,
            TapCode::Class(class) => status / 100 == class,
        }
    }
}

/// Which calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TapFilter {
    /// Of this service.
    pub service: Option<String>,
    /// By this service, or from this host.
    pub caller: Option<String>,
    /// Whose path begins so.
    pub path: Option<String>,
    /// With this method.
    pub method: Option<String>,
    /// That end with such a status.
    pub code: Option<TapCode>,
    /// That end with 5xx, without a response, or by Weft's own answer.
    pub errors: bool,
    /// That go this way.
    pub direction: Option<Direction>,
    /// One of so many; 0 and 1 are all.
    pub sample: u64,
    /// The tap ends after so many.
    pub limit: Option<u64>,
}

/// What is known of a call when it begins.
#[derive(Debug, Clone, Copy)]
pub struct TapHead<'a> {
    /// Which way.
    pub direction: Direction,
    /// The service that calls; empty if nothing is known of it.
    pub caller: &'a str,
    /// The host that calls.
    pub caller_node: &'a str,
    /// The service that is called.
    pub service: &'a str,
    /// Of a request; empty of a connection.
    pub method: &'a str,
    /// Likewise, without its query.
    pub path: &'a str,
}

impl TapFilter {
    /// Reads `key=value` pairs, as a query has them.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<TapFilter, TapError> {
        let mut filter = TapFilter::default();
        for (key, value) in pairs {
            let text = |key| match value.len() {
                1..=TEXT_BYTES_MAX => Ok(Some(value.to_owned())),
                _ => Err(wrong(key, value, "a text of 1 to 2,048 bytes")),
            };
            let count = |key| match value.parse::<u64>() {
                Ok(count) if count > 0 => Ok(count),
                _ => Err(wrong(key, value, "a number from 1 on")),
            };
            match key {
                "service" => filter.service = text("service")?,
                "caller" => filter.caller = text("caller")?,
                "path" => filter.path = text("path")?,
                "method" => filter.method = text("method")?,
                "code" => {
                    let code =
                        TapCode::parse(value).ok_or_else(|| wrong("code", value, "a status like 503, or 5xx"))?;
                    filter.code = Some(code);
                }
                "errors" => {
                    filter.errors = match value {
                        "" | "1" | "true" => true,
                        "0" | "false" => false,
                        _ => return Err(wrong("errors", value, "true or false")),
                    };
                }
                "direction" => {
                    filter.direction = match value {
                        "in" => Some(Direction::In),
                        "out" => Some(Direction::Out),
                        _ => return Err(wrong("direction", value, "in or out")),
                    };
                }
                "sample" => filter.sample = count("sample")?,
                "limit" => filter.limit = Some(count("limit")?),
                // What every path takes.
                "pretty" | "stale" | "token" => {}
                other => return Err(TapError::Key(other.chars().take(40).collect())),
            }
        }
        Ok(filter)
    }

    /// True if a call that begins so may be one of them.
    pub fn may_fit(&self, head: &TapHead<'_>) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        self.direction.is_none_or(|direction| direction == head.direction)
            && is(&self.service, head.service)
            && is(&self.method, head.method)
            && self.caller.as_ref().is_none_or(|caller| caller == head.caller || caller == head.caller_node)
            && self.path.as_ref().is_none_or(|path| head.path.starts_with(path.as_str()))
    }

    /// True if one that begins so fits by its end: `status` is 0 where there was no response.
    pub fn fits_end(&self, status: u16, is_error: bool) -> bool {
        self.code.is_none_or(|code| code.fits(status)) && (!self.errors || is_error || status >= 500)
    }
}

fn wrong(key: &'static str, value: &str, form: &'static str) -> TapError {
    TapError::Value { key, value: value.chars().take(80).collect(), form }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: TapHead<'static> = TapHead {
        direction: Direction::Out,
        caller: "web",
        caller_node: "web-01",
        service: "billing",
        method: "GET",
        path: "/v1/users",
    };

    fn filter(pairs: &[(&str, &str)]) -> TapFilter {
        TapFilter::parse(pairs.iter().copied()).unwrap()
    }

    #[test]
    fn each_word_narrows_and_all_of_them_must_fit() {
        let fitting = [
            ("service", "billing"),
            ("caller", "web"),
            ("caller", "web-01"),
            ("path", "/v1/"),
            ("method", "GET"),
            ("direction", "out"),
        ];
        for pair in fitting {
            assert!(filter(&[pair]).may_fit(&HEAD), "{pair:?}");
        }
        for pair in [("service", "bill"), ("caller", "db"), ("path", "/v2"), ("method", "PUT"), ("direction", "in")] {
            assert!(!filter(&[pair]).may_fit(&HEAD), "{pair:?}");
            assert!(!filter(&[fitting[0], pair]).may_fit(&HEAD), "{pair:?}");
        }
        assert!(filter(&[]).may_fit(&HEAD) && filter(&[]).fits_end(0, false));
    }

    #[test]
    fn ends_are_told_apart_by_status_and_by_whose_word_it_is() {
        let class = filter(&[("code", "5xx")]);
        assert!(class.fits_end(503, true) && class.fits_end(500, false) && !class.fits_end(404, false));
        let exact = filter(&[("code", "503")]);
        assert!(exact.fits_end(503, false) && !exact.fits_end(502, true) && !exact.fits_end(0, true));
        let errors = filter(&[("errors", "")]);
        assert!(errors.fits_end(500, false) && errors.fits_end(403, true) && errors.fits_end(0, true));
        assert!(!errors.fits_end(404, false) && !errors.fits_end(200, false));
    }

    #[test]
    fn what_is_no_filter_is_told_with_what_would_be_one() {
        let wrong = |key, value| TapFilter::parse([(key, value)]).unwrap_err().to_string();
        assert_eq!(wrong("code", "6xx"), "code=\"6xx\" is no filter; give a status like 503, or 5xx");
        assert_eq!(wrong("sample", "0"), "sample=\"0\" is no filter; give a number from 1 on");
        assert!(wrong("colour", "red").starts_with("a tap has no \"colour\"; it has service, "));
        for (key, value) in [("direction", "up"), ("errors", "maybe"), ("service", ""), ("limit", "-1"), ("code", "99")]
        {
            assert!(wrong(key, value).contains("; give "), "{key}");
        }
    }

    proptest! {
        #[test]
        fn no_words_make_it_fail_otherwise_than_by_a_sentence(key: String, value: String) {
            let read = TapFilter::parse([(key.as_str(), value.as_str()), ("code", value.as_str())]);
            if let Ok(filter) = read {
                let _either = filter.may_fit(&HEAD) && filter.fits_end(200, false);
            }
        }
    }
}
