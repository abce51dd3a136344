//! Names and versions of models, checked where they enter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name of a model, in bytes: it becomes one path segment and a Kubernetes label.
const MAX_NAME_BYTES: usize = 63;

/// Name of a model: 1 to 63 letters, digits, `-`, `_` or `.`, beginning with a letter or digit.
///
/// Such a name is one safe segment of a path and of a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName(String);

/// Version of a model: a positive decimal number without leading zeros, a string on the wire.
///
/// Orders by number, so the greatest is the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(u64);

/// `NAME` (the latest version) or `NAME:VERSION`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelReference {
    /// The model's name.
    pub name: ModelName,
    /// The version, or `None` for the latest.
    pub version: Option<Version>,
}

/// Why a name or version was refused; a sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseNameError(String);

// === impl ModelName ===

impl ModelName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = ParseNameError;

    fn from_str(name: &str) -> Result<Self, ParseNameError> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let begins_well = name
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        if begins_well && name.len() <= MAX_NAME_BYTES && name.bytes().all(is_allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(ParseNameError(format!(
                "{name:?} is no model name: expected 1 to {MAX_NAME_BYTES} letters, digits, `-`, `_` or `.`, \
                 beginning with a letter or digit"
            )))
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ModelName {
    type Error = ParseNameError;

    fn try_from(name: String) -> Result<Self, ParseNameError> {
        name.parse()
    }
}

impl From<ModelName> for String {
    fn from(name: ModelName) -> Self {
        name.0
    }
}

// === impl Version ===

impl Version {
    /// The first version of a model.
    pub const FIRST: Self = Self(1);

    /// Returns the version after this one, or `None` after the last.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl FromStr for Version {
    type Err = ParseNameError;

    fn from_str(version: &str) -> Result<Self, ParseNameError> {
        match version.parse() {
            Ok(number) if number > 0 && !version.starts_with(['0', '+']) => Ok(Self(number)),
            _ => Err(ParseNameError(format!(
                "{version:?} is no version: expected a positive whole number, `1` for example"
            ))),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Version {
    type Error = ParseNameError;

    fn try_from(version: String) -> Result<Self, ParseNameError> {
        version.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.0.to_string()
    }
}

// === impl ModelReference ===

impl FromStr for ModelReference {
    type Err = ParseNameError;

    fn from_str(reference: &str) -> Result<Self, ParseNameError> {
        let (name, version) = match reference.split_once(':') {
            Some((name, version)) => (name, Some(version.parse()?)),
            None => (reference, None),
        };
        Ok(Self {
            name: name.parse()?,
            version,
        })
    }
}

impl fmt::Display for ModelReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "{}:{version}", self.name),
            None => self.name.fmt(f),
        }
    }
}

impl TryFrom<String> for ModelReference {
    type Error = ParseNameError;

    fn try_from(reference: String) -> Result<Self, ParseNameError> {
        reference.parse()
    }
}

impl From<ModelReference> for String {
    fn from(reference: ModelReference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests;
