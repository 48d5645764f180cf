//! Option strings: `name,key=value,key=value`, where two commas stand for one in a value.

use std::fmt;
use std::path::PathBuf;

use super::ConfigError;

/// Names, shown with commas between.
pub(super) struct KeyList<'a>(pub &'a [&'static str]);

impl fmt::Display for KeyList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Splits at single commas; two commas in a row are one that belongs to the word.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == ',' && rest.next_if_eq(&',').is_none() {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    words
}

/// The first word of an option string, and the rest unparsed.
pub(super) fn split_head(text: &str) -> (String, Vec<String>) {
    let mut words = words(text);
    let head = words.remove(0);
    (head, words)
}

/// The `key=value` pairs of one option; each is taken once.
pub(super) struct Options {
    what: &'static str,
    pairs: Vec<(String, String)>,
}

impl Options {
    /// The pairs of `words`, which configure `what` and may name `known` keys.
    pub fn new(
        what: &'static str,
        words: Vec<String>,
        known: &'static [&'static str],
    ) -> Result<Self, ConfigError> {
        let mut pairs: Vec<(String, String)> = Vec::with_capacity(words.len());
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                return Err(ConfigError::NotAPair { what, word });
            };
            if !known.contains(&key) {
                return Err(ConfigError::UnknownKey {
                    what,
                    key: key.to_owned(),
                    known,
                });
            }
            if pairs.iter().any(|(earlier, _)| earlier == key) {
                return Err(ConfigError::Duplicate {
                    what,
                    key: key.to_owned(),
                });
            }
            pairs.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self { what, pairs })
    }

    /// The text of `key`, if it was given.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(given, _)| given == key)
            .map(|(_, value)| value.as_str())
    }

    /// `on` or `off`, or `default` if the key was not given.
    pub fn switch(&self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.optional_switch(key)?.unwrap_or(default))
    }

    /// `on` or `off`, if it is given.
    pub fn optional_switch(&self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        match self.text(key) {
            None => Ok(None),
            Some("on") => Ok(Some(true)),
            Some("off") => Ok(Some(false)),
            Some(value) => Err(self.unusable(key, value, "on or off")),
        }
    }

    /// A number that `accept` accepts, decimal or with `0x`.
    pub fn number(
        &self,
        key: &'static str,
        wanted: &'static str,
        accept: impl Fn(u64) -> bool,
    ) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.text(key) else {
            return Ok(None);
        };
        let number = match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => value.parse(),
        };
        match number {
            // A sign is no digit, though the standard library's parsers take one.
            Ok(number) if accept(number) && !value.contains('+') => Ok(Some(number)),
            _ => Err(self.unusable(key, value, wanted)),
        }
    }

    /// A path that must be given.
    pub fn path(&self, key: &'static str) -> Result<PathBuf, ConfigError> {
        match self.text(key) {
            None | Some("") => Err(ConfigError::Missing {
                what: self.what,
                key,
            }),
            Some(path) => Ok(PathBuf::from(path)),
        }
    }

    fn unusable(&self, key: &'static str, value: &str, wanted: &'static str) -> ConfigError {
        ConfigError::Value {
            what: self.what,
            key,
            value: value.to_owned(),
            wanted,
        }
    }
}
