//! The members of a JSON object that events are told by, as they are written.
//!
//! A body is anybody's, and the tree of its values would be dozens of times as large as its text.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer as _};
use serde_json::Value;
use serde_json::value::RawValue;

/// All that events are told by.
const NAMES: [&str; 10] = [
    "Key",
    "Records",
    "body",
    "event",
    "event_type",
    "httpMethod",
    "isBase64Encoded",
    "payload",
    "queryStringParameters",
    "storage_provider",
];

/// Longest member that is read as a tree of values, in bytes; text may be longer.
const MAX_TREE_BYTES: usize = 1 << 20;

/// What the pairs of an object may take, in bytes: more than all variables of a script may.
const MAX_PAIRS_BYTES: usize = 1 << 20;
/// What a pair takes beside its texts.
const PAIR_BYTES: usize = 64;

/// Of one that comes twice the last counts, and one that is too long counts as not there.
#[derive(Debug)]
pub(super) struct Members<'a>(BTreeMap<&'static str, &'a RawValue>);

impl<'a> Members<'a> {
    /// Reads a text; `None` where it is JSON and no object.
    pub(super) fn read(json: &'a [u8]) -> serde_json::Result<Option<Self>> {
        let mut members = BTreeMap::new();
        let each = Each(|name: Cow<'a, str>, value| {
            if let Some(known) = NAMES.into_iter().find(|known| *known == name) {
                members.insert(known, value);
            }
            true
        });
        let mut reader = serde_json::Deserializer::from_slice(json);
        let is_object = reader.deserialize_any(each)?;
        reader.end()?;
        Ok(is_object.then_some(Self(members)))
    }

    /// Returns a member as it is written.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|value| value.get())
    }

    /// Returns a member that is text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.raw(name)?).ok()
    }

    /// Returns a member, whatever it is.
    pub(super) fn value(&self, name: &str) -> Option<Value> {
        let raw = self.raw(name);
        serde_json::from_str(raw.filter(|raw| raw.len() <= MAX_TREE_BYTES)?).ok()
    }
}

/// Returns the members of an object and their values as text, up to those that are too much.
pub(super) fn pairs(json: &str) -> Vec<(String, String)> {
    let (mut pairs, mut bytes) = (Vec::new(), 0);
    let each = Each(|name: Cow<'_, str>, value: &RawValue| {
        let value = value.get();
        let text = serde_json::from_str(value).unwrap_or_else(|_| value.to_owned());
        bytes += name.len() + text.len() + PAIR_BYTES;
        pairs.push((name.into_owned(), text));
        bytes <= MAX_PAIRS_BYTES
    });
    // What is no object has none.
    let _ = serde_json::Deserializer::from_str(json).deserialize_any(each);
    pairs
}

/// Hands over the members of an object, for as long as they are wanted, and says whether it is one.
struct Each<F>(F);

impl<'de, F: FnMut(Cow<'de, str>, &'de RawValue) -> bool> Visitor<'de> for Each<F> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<bool, A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            if !(self.0)(name, map.next_value()?) {
                return Err(A::Error::custom("there are too many members"));
            }
        }
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<bool, A::Error> {
        IgnoredAny.visit_seq(list).map(|_| false)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E>(self, _: &str) -> Result<bool, E> {
        Ok(false)
    }
}

/// Borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_no_tree_until_it_is_asked_for_and_short() {
        let long = format!("[{}0]", "0,".repeat(MAX_TREE_BYTES));
        let json = format!(r#"{{"Records":{long},"x":{long},"body":1,"body":"a\u0062"}}"#);
        let members = Members::read(json.as_bytes()).unwrap().unwrap();
        assert_eq!(members.raw("Records"), Some(&*long));
        assert_eq!(members.value("Records"), None);
        assert_eq!(members.raw("x"), None);
        assert_eq!(members.text("body").as_deref(), Some("ab"));
    }

    #[test]
    fn what_is_no_object_is_told_from_what_is_no_json() {
        for json in ["[1, {}]", "null", "true", "-1", "1.5", "1", "\"text\""] {
            assert!(Members::read(json.as_bytes()).unwrap().is_none(), "{json}");
        }
        for text in ["", "{} {}", "{\"a\":}", "hello"] {
            assert!(Members::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn pairs_end_where_they_are_too_many() {
        let many = format!(r#"{{{}"b":1}}"#, r#""a":"x","#.repeat(1 << 20));
        let n_pairs = pairs(&many).len();
        assert!((10_000..20_000).contains(&n_pairs), "{n_pairs}");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            pairs(r#"{"a":"\u0062","n":[1, 2]}"#),
            [pair("a", "b"), pair("n", "[1, 2]")]
        );
        assert_eq!(pairs("[1]"), []);
    }
}
