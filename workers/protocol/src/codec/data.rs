//! `data`: a JSON array, flat or nested, to and from little-endian elements.

use std::fmt;

use bytes::Bytes;
use model_store::DataType;
use serde::de::{DeserializeSeed, Error, SeqAccess, Visitor};
use serde::ser::SerializeSeq as _;
use serde::{Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::Tensor;

/// Returns how many bytes [`parse`] may take for these elements.
pub(super) fn parsed_bytes(json: &RawValue, datatype: DataType, elements: usize) -> usize {
    let text = json.get().len();
    match datatype.element_bytes() {
        // Each element has a digit and a comma at least, so no more are believed than the text can hold.
        Some(element_bytes) => elements.min(text / 2 + 1).saturating_mul(element_bytes),
        // Each string has two quotes and a comma, and comes with a length of four bytes.
        None => text.saturating_mul(2),
    }
}

/// Parses an array of elements of a datatype; nesting is allowed and not compared with the shape.
pub(super) fn parse(
    json: &RawValue,
    datatype: DataType,
    elements: usize,
) -> Result<Bytes, serde_json::Error> {
    if matches!(datatype, DataType::Fp16 | DataType::Bf16) {
        return Err(serde_json::Error::custom(format!(
            "{datatype} has no JSON form, send it as binary data"
        )));
    }
    let mut bytes = Vec::with_capacity(match datatype {
        DataType::Bytes => 0,
        _ => parsed_bytes(json, datatype, elements),
    });
    let mut missing = elements;
    let mut deserializer = serde_json::Deserializer::from_str(json.get());
    Collect {
        datatype,
        bytes: &mut bytes,
        missing: &mut missing,
    }
    .deserialize(&mut deserializer)?;
    if missing > 0 {
        return Err(serde_json::Error::custom(format!(
            "expected {elements} elements, got {}",
            elements - missing
        )));
    }
    Ok(bytes.into())
}

/// Appends one value, or all values of an array, to the bytes.
struct Collect<'a> {
    datatype: DataType,
    bytes: &'a mut Vec<u8>,
    /// Elements that are still to come.
    missing: &'a mut usize,
}

impl Collect<'_> {
    /// Counts an element, before it is stored.
    fn count<E: Error>(&mut self) -> Result<(), E> {
        *self.missing = self
            .missing
            .checked_sub(1)
            .ok_or_else(|| E::custom("more elements than the shape has"))?;
        Ok(())
    }

    fn integer<N: TryInto<i128> + fmt::Display + Copy, E: Error>(self, number: N) -> Result<(), E> {
        let wide: i128 = number.try_into().unwrap_or(i128::MAX);
        let out_of_range =
            || E::custom(format!("{number} is out of the range of {}", self.datatype));
        macro_rules! push {
            ($integer:ty) => {{
                let value = <$integer>::try_from(wide).map_err(|_| out_of_range())?;
                self.bytes.extend_from_slice(&value.to_le_bytes());
            }};
        }
        match self.datatype {
            DataType::Uint8 => push!(u8),
            DataType::Uint16 => push!(u16),
            DataType::Uint32 => push!(u32),
            DataType::Uint64 => push!(u64),
            DataType::Int8 => push!(i8),
            DataType::Int16 => push!(i16),
            DataType::Int32 => push!(i32),
            DataType::Int64 => push!(i64),
            DataType::Fp32 => self.bytes.extend_from_slice(&(wide as f32).to_le_bytes()),
            DataType::Fp64 => self.bytes.extend_from_slice(&(wide as f64).to_le_bytes()),
            DataType::Bool if wide == 0 || wide == 1 => self.bytes.push(u8::from(wide == 1)),
            _ => {
                return Err(E::custom(format!(
                    "expected {} elements, got the number {number}",
                    self.datatype
                )));
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Collect<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of {} elements", self.datatype)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Collect {
            datatype,
            bytes,
            missing,
        } = self;
        while seq
            .next_element_seed(Collect {
                datatype,
                bytes: &mut *bytes,
                missing: &mut *missing,
            })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_bool<E: Error>(mut self, value: bool) -> Result<(), E> {
        self.count()?;
        if self.datatype == DataType::Bool {
            self.bytes.push(u8::from(value));
            Ok(())
        } else {
            Err(E::custom(format!(
                "expected {} elements, got {value}",
                self.datatype
            )))
        }
    }

    fn visit_u64<E: Error>(mut self, number: u64) -> Result<(), E> {
        self.count()?;
        self.integer(number)
    }

    fn visit_i64<E: Error>(mut self, number: i64) -> Result<(), E> {
        self.count()?;
        self.integer(number)
    }

    fn visit_f64<E: Error>(mut self, number: f64) -> Result<(), E> {
        self.count()?;
        match self.datatype {
            DataType::Fp32 if number.is_finite() && (number as f32).is_infinite() => {
                return Err(E::custom(format!("{number} is out of the range of FP32")));
            }
            DataType::Fp32 => self.bytes.extend_from_slice(&(number as f32).to_le_bytes()),
            DataType::Fp64 => self.bytes.extend_from_slice(&number.to_le_bytes()),
            _ => {
                return Err(E::custom(format!(
                    "expected {} elements, got the number {number}",
                    self.datatype
                )));
            }
        }
        Ok(())
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        self.count()?;
        if self.datatype != DataType::Bytes {
            return Err(E::custom(format!(
                "expected {} elements, got a string",
                self.datatype
            )));
        }
        let length =
            u32::try_from(text.len()).map_err(|_| E::custom("a string is longer than 4 GiB"))?;
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
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
