//! A secret that was typed: it is not shown by `Debug`, and wiped when it is let go of. (The arguments of a process are seen by
//! others while it runs: the verbs say so, and offer other ways.)

use std::convert::Infallible;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use zeroize::Zeroizing;

#[derive(Clone)]
pub(super) struct Typed(Zeroizing<String>);

impl FromStr for Typed {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Typed, Infallible> {
        Ok(Typed(Zeroizing::new(text.to_owned())))
    }
}

impl Deref for Typed {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} characters", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Cli;

    #[test]
    fn no_secret_that_was_typed_is_shown_by_debug() {
        for words in [
            &["weft", "enroll", "--token", "weft1.SECRET"][..],
            &["weft", "keyring", "install", "SECRET"],
            &["weft", "keyring", "remove", "SECRET"],
        ] {
            let cli = Cli::try_parse_from(words).unwrap();
            let shown = format!("{cli:?}");
            assert!(!shown.contains("SECRET"), "{shown}");
        }
    }
}
