//! From the text of `model.yaml` to a [`Manifest`].

use std::fmt;
use std::path::Path;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::{MessageFormatter as _, UserMessageFormatter};

use super::{CONFIG, EngineKind, Labels, Manifest};
use crate::StoreError;
use crate::folder::read_bounded;

/// Name of the manifest in a version's folder.
pub(crate) const MANIFEST: &str = "model.yaml";

/// Largest manifest, in bytes: room for a hundred thousand labels, and parsed in a tenth of a second.
const MAX_BYTES: u64 = 1 << 20;

/// Deepest nesting; `stages[0].crop.margin` is at 4.
const MAX_DEPTH: usize = 8;

/// Most characters of a line that an error repeats.
const MAX_EXCERPT_CHARS: usize = 80;

impl Manifest {
    /// Returns the manifest that this text is, not yet checked.
    ///
    /// Anchors, with them aliases, and merge keys are refused: nothing here is worth repeating, and
    /// they are what YAML is blown up with.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] with line and column, what was expected and what came;
    /// [`StoreError::TooLarge`] over 1 MiB.
    pub fn parse(yaml: &str) -> Result<Self, StoreError> {
        if yaml.len() as u64 > MAX_BYTES {
            return Err(StoreError::TooLarge(format!(
                "a manifest has at most {MAX_BYTES} bytes, this one has {}",
                yaml.len()
            )));
        }
        let options = serde_saphyr::options! {
            with_snippet: false,
            budget: serde_saphyr::budget! {
                max_depth: MAX_DEPTH,
                flow_nesting_limit: MAX_DEPTH,
                max_anchors: 0,
                max_merge_keys: 0,
            },
        };
        serde_saphyr::from_str_with_options(yaml, options)
            .map_err(|error| StoreError::Invalid(sentence(yaml, &error)))
    }

    /// Returns the manifest of a version's folder, parsed and checked: `model.yaml`, else what
    /// `config.pbtxt` amounts to, else that of an ONNX model that nothing is said of.
    ///
    /// # Errors
    /// Those of [`Manifest::parse`] and [`Manifest::check`]; [`StoreError::Io`] if it cannot be
    /// read.
    pub fn read(dir: &Path) -> Result<Self, StoreError> {
        let file = |name| Some(dir.join(name)).filter(|path| path.is_file());
        Self::read_files(file(MANIFEST).as_deref(), file(CONFIG).as_deref())
    }

    /// Reads the one of these that counts.
    pub(crate) fn read_files(
        manifest: Option<&Path>,
        config: Option<&Path>,
    ) -> Result<Self, StoreError> {
        let text = |path: &Path, name: &str| {
            String::from_utf8(read_bounded(path, MAX_BYTES)?)
                .map_err(|error| StoreError::Invalid(format!("`{name}` is not UTF-8: {error}")))
        };
        let manifest = match (manifest, config) {
            (Some(path), _) => Self::parse(&text(path, MANIFEST)?)?,
            (None, Some(path)) => Self::parse_config(&text(path, CONFIG)?)?,
            (None, None) => Self {
                engine: Some(EngineKind::Onnx),
                ..Self::default()
            },
        };
        manifest.check()?;
        Ok(manifest)
    }
}

/// Says where it is wrong, with the line itself: the parser does not name fields.
fn sentence(yaml: &str, error: &serde_saphyr::Error) -> String {
    let problem = match error {
        serde_saphyr::Error::InvalidScalar { ty, .. } => format!("expected {ty}").into(),
        _ => UserMessageFormatter.format_message(error),
    };
    let Some(location) = error.location() else {
        return format!("`{MANIFEST}`: {problem}");
    };
    let line = usize::try_from(location.line()).unwrap_or(usize::MAX);
    let excerpt: String = yaml
        .lines()
        .nth(line.saturating_sub(1))
        .unwrap_or_default()
        .trim()
        .chars()
        .take(MAX_EXCERPT_CHARS)
        .collect();
    let column = location.column();
    format!("`{MANIFEST}`, line {line}, column {column} ({excerpt:?}): {problem}")
}

// Not derived as untagged: that would read the labels `no` and `5` as a boolean and a number.
impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FileOrList;

        impl<'de> Visitor<'de> for FileOrList {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a file or a list of labels")
            }

            fn visit_str<E>(self, name: &str) -> Result<Labels, E> {
                Ok(Labels::File(name.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Labels, A::Error> {
                let mut list = Vec::new();
                while let Some(name) = names.next_element()? {
                    list.push(name);
                }
                Ok(Labels::List(list))
            }
        }

        deserializer.deserialize_any(FileOrList)
    }
}
