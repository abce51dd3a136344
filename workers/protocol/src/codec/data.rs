//! `data`: a JSON array, flat or nested, to and from little-endian elements.
//!
//! Hot path: one pass over the text, one allocation for all elements.

use bytes::Bytes;
use model_store::DataType;
use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};

use super::decimal::{Decimal, Element};
use super::parameters::clipped;
use crate::Tensor;

/// Why data are not the elements of a tensor.
#[derive(Debug)]
pub(super) enum DataError {
    /// They are not as many as the shape has, or not nested like it.
    Shape(String),
    /// One of them is none of the datatype's.
    Element(String),
}

/// Returns how many bytes [`parse`] may take for these elements.
pub(super) fn parsed_bytes(json: &[u8], datatype: DataType, elements: usize) -> usize {
    let text = json.len();
    match datatype.element_bytes() {
        // Each element has a digit and a comma at least, so no more are believed than the text can hold.
        Some(element_bytes) => elements.min(text / 2 + 1).saturating_mul(element_bytes),
        // Each string has two quotes and a comma, three bytes, and gets a length of four.
        None => text.saturating_add(elements.min(text / 3 + 1)),
    }
}

/// Parses an array of elements of a datatype: flat, or nested as the shape is, whose product
/// `elements` is.
pub(super) fn parse(
    json: &[u8],
    datatype: DataType,
    shape: &[i64],
    elements: usize,
) -> Result<Bytes, DataError> {
    let text = str::from_utf8(json)
        .map_err(|error| DataError::Element(format!("it is not UTF-8: {error}")))?;
    let mut parser = Parser {
        text,
        at: 0,
        datatype,
        bytes: Vec::with_capacity(parsed_bytes(json, datatype, elements)),
    };
    let flat = [i64::try_from(elements).unwrap_or(i64::MAX)];
    let depth = parser.depth();
    let dimensions = match shape.get(..depth) {
        // A list of nothing has nothing in it that could be nested.
        Some(nested) if depth == shape.len() || nested.ends_with(&[0]) => nested,
        _ if depth <= 1 => &flat[..],
        _ => {
            return Err(DataError::Shape(format!(
                "expected a flat list, or one nested {} deep, got one nested {depth} deep",
                shape.len()
            )));
        }
    };
    match datatype {
        DataType::Bool => parser.rows(dimensions, Parser::boolean),
        DataType::Uint8 => parser.rows(dimensions, |parser| parser.number(u8::to_le_bytes)),
        DataType::Uint16 => parser.rows(dimensions, |parser| parser.number(u16::to_le_bytes)),
        DataType::Uint32 => parser.rows(dimensions, |parser| parser.number(u32::to_le_bytes)),
        DataType::Uint64 => parser.rows(dimensions, |parser| parser.number(u64::to_le_bytes)),
        DataType::Int8 => parser.rows(dimensions, |parser| parser.number(i8::to_le_bytes)),
        DataType::Int16 => parser.rows(dimensions, |parser| parser.number(i16::to_le_bytes)),
        DataType::Int32 => parser.rows(dimensions, |parser| parser.number(i32::to_le_bytes)),
        DataType::Int64 => parser.rows(dimensions, |parser| parser.number(i64::to_le_bytes)),
        DataType::Fp32 => parser.rows(dimensions, |parser| parser.number(f32::to_le_bytes)),
        DataType::Fp64 => parser.rows(dimensions, |parser| parser.number(f64::to_le_bytes)),
        DataType::Bytes => parser.rows(dimensions, Parser::string),
        DataType::Fp16 | DataType::Bf16 => Err(DataError::Element(format!(
            "{datatype} has no JSON form, send it as binary data"
        ))),
    }?;
    if parser.next() != 0 {
        return Err(DataError::Element("something follows the list".to_owned()));
    }
    parser.bytes.shrink_to_fit();
    Ok(parser.bytes.into())
}

/// Reads one JSON value (RFC 8259), of which nothing is known yet.
struct Parser<'a> {
    text: &'a str,
    at: usize,
    datatype: DataType,
    bytes: Vec<u8>,
}

impl<'a> Parser<'a> {
    /// Returns how many brackets the value begins with.
    fn depth(&self) -> usize {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        let visible = self.text.bytes().filter(|byte| !is_space(byte));
        visible.take_while(|&byte| byte == b'[').count()
    }

    /// Returns the byte that comes next, white space skipped; 0 at the end.
    #[inline]
    fn next(&mut self) -> u8 {
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                Some(&byte) => return byte,
                None => return 0,
            }
        }
    }

    /// Reads lists within lists, as many of as many as the dimensions say, down to elements.
    fn rows(
        &mut self,
        dimensions: &[i64],
        element: impl Fn(&mut Self) -> Result<(), DataError> + Copy,
    ) -> Result<(), DataError> {
        match dimensions {
            [] => {
                self.next();
                element(self)
            }
            [length] => self.list(*length, element),
            [length, inner @ ..] => self.list(*length, |parser| parser.rows(inner, element)),
        }
    }

    fn list(
        &mut self,
        expected: i64,
        mut element: impl FnMut(&mut Self) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        if self.next() != b'[' {
            let (_, got) = self.peek();
            let got = clipped(got);
            return Err(DataError::Shape(format!(
                "expected a list of {expected}, got {got}"
            )));
        }
        self.at += 1;
        let mut count = 0;
        if self.next() != b']' {
            loop {
                if count == expected {
                    return Err(DataError::Shape(format!(
                        "expected a list of {expected}, got more"
                    )));
                }
                self.next();
                element(self)?;
                count += 1;
                match self.next() {
                    b',' => self.at += 1,
                    b']' => break,
                    _ => return Err(self.unexpected()),
                }
            }
        }
        self.at += 1;
        if count < expected {
            return Err(DataError::Shape(format!(
                "expected a list of {expected}, got {count}"
            )));
        }
        Ok(())
    }

    /// Returns where the number, or the word, that comes next ends, and what it is, for a sentence.
    fn peek(&mut self) -> (usize, &'a str) {
        let first = self.next();
        let rest = self.text.get(self.at..).unwrap_or_default();
        match first {
            b'[' => (0, "a list"),
            b'{' => (0, "an object"),
            b'"' => (0, "a string"),
            _ => {
                let is_end = |byte: u8| matches!(byte, b',' | b']' | b' ' | b'\n' | b'\r' | b'\t');
                let length = rest.bytes().position(is_end).unwrap_or(rest.len());
                (self.at + length, rest.get(..length).unwrap_or_default())
            }
        }
    }

    #[inline]
    fn number<N: Element, const B: usize>(
        &mut self,
        bytes: impl Fn(N) -> [u8; B],
    ) -> Result<(), DataError> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let Some((decimal, element)) =
            Decimal::read(rest).and_then(|decimal| Some((decimal, N::of(decimal)?)))
        else {
            return Err(self.unexpected());
        };
        self.bytes.extend_from_slice(&bytes(element));
        self.at += decimal.text.len();
        Ok(())
    }

    fn boolean(&mut self) -> Result<(), DataError> {
        let (end, token) = self.peek();
        self.bytes.push(match token {
            "true" | "1" => 1,
            "false" | "0" => 0,
            _ => return Err(self.unexpected()),
        });
        self.at = end;
        Ok(())
    }

    fn string(&mut self) -> Result<(), DataError> {
        if self.next() != b'"' {
            return Err(self.unexpected());
        }
        let text = self.text.get(self.at + 1..).unwrap_or_default();
        let special = text
            .bytes()
            .position(|byte| matches!(byte, b'"' | b'\\' | ..0x20));
        let special = special.unwrap_or(text.len());
        if text.as_bytes().get(special) == Some(&b'"') {
            self.push(text.get(..special).unwrap_or_default())?;
            self.at += special + 2;
            return Ok(());
        }
        // With escapes, or what no string may hold: the end is the first quote that is not escaped.
        let mut is_escaped = false;
        let length = text.bytes().position(|byte| {
            let is_end = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            is_end
        });
        let end = self.at
            + 2
            + length
                .unwrap_or(text.len())
                .min(text.len().saturating_sub(1));
        let literal = self.text.get(self.at..end).unwrap_or_default();
        let string: String = serde_json::from_str(literal)
            .map_err(|error| DataError::Element(format!("a string can't be read: {error}")))?;
        self.push(&string)?;
        self.at = end;
        Ok(())
    }

    fn push(&mut self, element: &str) -> Result<(), DataError> {
        let length = u32::try_from(element.len())
            .map_err(|_| DataError::Element("a string is longer than 4 GiB".to_owned()))?;
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(element.as_bytes());
        Ok(())
    }

    /// Says that what comes next is no element.
    fn unexpected(&mut self) -> DataError {
        let first = self.next();
        let (_, got) = self.peek();
        let datatype = self.datatype;
        match first {
            b'[' => DataError::Shape("it is nested deeper than the shape".to_owned()),
            b'-' | b'0'..=b'9' if datatype == DataType::Bytes || datatype == DataType::Bool => {
                DataError::Element(format!(
                    "expected {datatype} elements, got the number {}",
                    clipped(got)
                ))
            }
            b'-' | b'0'..=b'9' => DataError::Element(format!("{} is no {datatype}", clipped(got))),
            _ => DataError::Element(format!(
                "expected {datatype} elements, got {}",
                clipped(got)
            )),
        }
    }
}

/// Writes a tensor's elements as a flat array. Numbers that are not finite become `null`.
pub(super) struct Elements<'a>(pub(super) &'a Tensor);

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tensor = self.0;
        macro_rules! numbers {
            ($number:ty) => {{
                let (elements, _) = tensor.data.as_chunks();
                serializer.collect_seq(
                    elements
                        .iter()
                        .map(|&element| <$number>::from_le_bytes(element)),
                )
            }};
        }
        match tensor.datatype {
            DataType::Bool => serializer.collect_seq(tensor.data.iter().map(|&byte| byte != 0)),
            DataType::Uint8 => serializer.collect_seq(&tensor.data),
            DataType::Uint16 => numbers!(u16),
            DataType::Uint32 => numbers!(u32),
            DataType::Uint64 => numbers!(u64),
            DataType::Int8 => numbers!(i8),
            DataType::Int16 => numbers!(i16),
            DataType::Int32 => numbers!(i32),
            DataType::Int64 => numbers!(i64),
            DataType::Fp32 => numbers!(f32),
            DataType::Fp64 => numbers!(f64),
            DataType::Bytes => {
                let mut seq = serializer.serialize_seq(None)?;
                for element in tensor.bytes_elements() {
                    seq.serialize_element(&String::from_utf8_lossy(&element))?;
                }
                seq.end()
            }
            // Refused before the answer is begun.
            DataType::Fp16 | DataType::Bf16 => Err(serde::ser::Error::custom(format!(
                "{} has no JSON form",
                tensor.datatype
            ))),
        }
    }
}
