//! Where objects are, as people write it, and where they go.

use std::path::PathBuf;
use std::str::FromStr;

/// `BUCKET/KEY`: an object, what is in a folder where it ends with a slash, or all of the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bucket: String,
    /// Empty for the bucket.
    pub(super) key: String,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (bucket, key) = text.split_once('/').unwrap_or((text, ""));
        if bucket.is_empty() {
            return Err("expected BUCKET/KEY, BUCKET/FOLDER/ or BUCKET/".to_owned());
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        })
    }
}

impl Place {
    /// Returns what the keys in this folder begin with.
    pub(super) fn folder(&self) -> String {
        match self.key.as_str() {
            key if key.is_empty() || key.ends_with('/') => key.to_owned(),
            key => format!("{key}/"),
        }
    }
}

/// Returns where the file of a key is, relative to the folder that it goes into.
///
/// # Errors
/// Says why there can be none: keys are any text, and none may lead out of the folder.
pub(super) fn file_of(key: &str) -> Result<PathBuf, &'static str> {
    let parts = key.split('/').map(|part| match part {
        "" | "." | ".." => Err("its key is no path of a file"),
        part if part.contains('\0') => Err("its key has a character that no file's name has"),
        part => Ok(part),
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_bucket_and_what_is_in_it() {
        let read = |text: &str| text.parse::<Place>().map(|place| (place.bucket, place.key));
        let place = |bucket: &str, key: &str| Ok((bucket.to_owned(), key.to_owned()));
        assert_eq!(read("b"), place("b", ""));
        assert_eq!(read("b/"), place("b", ""));
        assert_eq!(read("b/in/a b.jpg"), place("b", "in/a b.jpg"));
        assert_eq!(read("b//x"), place("b", "/x"));
        assert!(read("/x").is_err() && read("").is_err());
        for (text, folder) in [("b", ""), ("b/in", "in/"), ("b/in/", "in/")] {
            assert_eq!(text.parse::<Place>().unwrap().folder(), folder);
        }
    }

    #[test]
    fn no_key_leads_out_of_the_folder() {
        assert_eq!(file_of("a/ü b..jpg"), Ok(PathBuf::from("a/ü b..jpg")));
        for key in [
            "",
            "..",
            "../a",
            "a/../../b",
            "/etc/passwd",
            "a//b",
            "a/",
            "./a",
            "a\0b",
        ] {
            assert!(file_of(key).is_err(), "{key:?}");
        }
    }
}
