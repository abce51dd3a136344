//! The lists of `data`, taken out of a request's JSON before it is parsed.
//!
//! A parser has to look at each of their bytes to find their end, and another one at each again to
//! read them, which for large tensors is most of the work. Here their end is found by counting
//! brackets; that they are JSON is found out when they are read.

use std::borrow::Cow;

use memchr::{memchr, memchr2, memchr3};
use serde_json::value::RawValue;

/// A request's JSON without its lists of `data`.
#[derive(Debug)]
pub(super) struct Cut<'a> {
    /// The JSON, with a `0` where a list was.
    pub(super) rest: Cow<'a, [u8]>,
    /// Where in the rest a list was, and what it was; in order.
    lists: Vec<(usize, &'a [u8])>,
}

impl<'a> Cut<'a> {
    /// Takes the lists out of a text; what is no JSON is left to be found out.
    pub(super) fn of(json: &'a [u8]) -> Self {
        let mut rest = Vec::new();
        let mut lists = Vec::new();
        let (mut at, mut copied) = (0, 0);
        while let Some(string) = next_string(json, at) {
            at = string.end;
            if json.get(string) != Some(b"\"data\"") {
                continue;
            }
            let begin = value_after_colon(json, at);
            let Some(end) = begin.and_then(|begin| list_end(json, begin)) else {
                continue;
            };
            let begin = begin.unwrap_or(end);
            rest.extend_from_slice(json.get(copied..begin).unwrap_or_default());
            lists.push((rest.len(), json.get(begin..end).unwrap_or_default()));
            rest.push(b'0');
            (at, copied) = (end, end);
        }
        if lists.is_empty() {
            return Self {
                rest: json.into(),
                lists,
            };
        }
        rest.extend_from_slice(json.get(copied..).unwrap_or_default());
        Self {
            rest: rest.into(),
            lists,
        }
    }

    /// Returns the text of a value of the rest: the list that was there, or what is there.
    pub(super) fn text<'b>(&'b self, value: &'b RawValue) -> &'b [u8] {
        let value = value.get().as_bytes();
        let at = value
            .as_ptr()
            .addr()
            .wrapping_sub(self.rest.as_ptr().addr());
        match self.lists.binary_search_by_key(&at, |(at, _)| *at) {
            Ok(index) => self.lists.get(index).map_or(value, |(_, list)| list),
            Err(_) => value,
        }
    }
}

/// Returns where the next string is, with its quotes; `None` if there is none that ends.
fn next_string(json: &[u8], from: usize) -> Option<std::ops::Range<usize>> {
    let begin = from + memchr(b'"', json.get(from..)?)?;
    let mut at = begin + 1;
    loop {
        at += memchr2(b'"', b'\\', json.get(at..)?)?;
        if json.get(at) == Some(&b'"') {
            return Some(begin..at + 1);
        }
        // What is escaped is no end.
        at += 2;
    }
}

/// Returns where the value after a key begins, if it is a list.
fn value_after_colon(json: &[u8], key_end: usize) -> Option<usize> {
    let skip = |from: usize| {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        let mut rest = json.get(from..)?.iter();
        Some(from + rest.position(|byte| !is_space(byte))?)
    };
    let colon = skip(key_end).filter(|&at| json.get(at) == Some(&b':'))?;
    skip(colon + 1).filter(|&at| json.get(at) == Some(&b'['))
}

/// Returns where the list that begins here ends, if it does.
fn list_end(json: &[u8], begin: usize) -> Option<usize> {
    let (mut at, mut depth) = (begin, 0_usize);
    loop {
        at += memchr3(b'[', b']', b'"', json.get(at..)?)?;
        match json.get(at)? {
            b'[' => depth += 1,
            b']' if depth <= 1 => return Some(at + 1),
            b']' => depth -= 1,
            _ => {
                at = next_string(json, at)?.end;
                continue;
            }
        }
        at += 1;
    }
}
