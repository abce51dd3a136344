//! Parameters: named values beside a request, its inputs and its outputs, the same over both protocols.
//!
//! Sources: Open Inference Protocol v2 ("Parameters"), Triton's extensions parameters, sequence,
//! schedule policy, binary tensor data, classification and system shared memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{MAX_NAME_BYTES, SharedRange};
use crate::oip::InferParameter;
use crate::oip::infer_parameter::ParameterChoice;
use crate::{InferError, PictureOptions};

/// A parameter's value.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Bool(bool),
    Whole(i128),
    Number(f64),
    Text(Cow<'a, str>),
    /// What no parameter is; `null`, `a list` or `an object`.
    Other(&'static str),
}

/// The parameters of a JSON object.
#[derive(Default, Debug)]
pub(super) struct Parameters<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

/// Most parameters of one object.
const MAX_PARAMETERS: usize = 256;

/// What a request's own parameters say. Those of the sequence extension are refused, since no state
/// is kept between requests; `priority` and names that are nobody's are ignored.
#[derive(Default, Debug)]
pub(super) struct OfRequest {
    pub(super) is_binary_output: bool,
    pub(super) timeout: Option<Duration>,
    /// What is asked for of pictures.
    pub(super) options: Vec<(&'static str, String)>,
}

/// What an input's parameters say.
#[derive(Default, Debug)]
pub(super) struct OfInput {
    pub(super) binary_data_size: Option<usize>,
    pub(super) shared: Option<SharedRange>,
}

/// What an output's parameters say.
#[derive(Default, Debug)]
pub(super) struct OfOutput {
    pub(super) is_binary: Option<bool>,
    pub(super) classes: Option<u32>,
    pub(super) shared: Option<SharedRange>,
}

/// The parameters of the shared memory extension, as they come.
#[derive(Default)]
struct Shared {
    region: Option<String>,
    offset: Option<u64>,
    byte_size: Option<u64>,
}

// === impl Parameters ===

impl<'a> Parameters<'a> {
    /// Returns those of a gRPC message.
    pub(super) fn of_message(map: &'a BTreeMap<String, InferParameter>) -> Self {
        let pairs = map.iter().filter_map(|(name, parameter)| {
            let choice = parameter.parameter_choice.as_ref()?;
            Some((Cow::Borrowed(name.as_str()), choice.into()))
        });
        Self(pairs.collect())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Parameters<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Parameters<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object of at most {MAX_PARAMETERS} parameters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(Text(name)) = map.next_key()? {
                    if pairs.len() == MAX_PARAMETERS {
                        return Err(A::Error::invalid_length(MAX_PARAMETERS + 1, &self));
                    }
                    pairs.push((name, map.next_value()?));
                }
                Ok(Parameters(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// A text that is borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

// === impl Value ===

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean, a number or a string")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
                Ok(Value::Bool(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                Ok(Value::Whole(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Value::Whole(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
                Ok(Value::Number(value))
            }

            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
                Ok(Value::Text(value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
                Ok(Value::Text(value.to_owned().into()))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Value::Other("null"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                IgnoredAny.visit_seq(list)?;
                Ok(Value::Other("a list"))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                IgnoredAny.visit_map(map)?;
                Ok(Value::Other("an object"))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl<'a> From<&'a ParameterChoice> for Value<'a> {
    fn from(choice: &'a ParameterChoice) -> Self {
        match choice {
            ParameterChoice::BoolParam(value) => Self::Bool(*value),
            ParameterChoice::Int64Param(value) => Self::Whole((*value).into()),
            ParameterChoice::Uint64Param(value) => Self::Whole((*value).into()),
            ParameterChoice::DoubleParam(value) => Self::Number(*value),
            ParameterChoice::StringParam(value) => Self::Text(value.into()),
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Whole(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            Self::Text(value) => write!(f, "{:?}", clipped(value)),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl Value<'_> {
    fn boolean(&self, name: &str) -> Result<bool, InferError> {
        match self {
            Self::Bool(value) => Ok(*value),
            other => Err(unexpected(name, "true or false", other)),
        }
    }

    fn whole<N: TryFrom<i128>>(&self, name: &str) -> Result<N, InferError> {
        let value = match self {
            Self::Whole(value) => N::try_from(*value).ok(),
            _ => None,
        };
        value.ok_or_else(|| unexpected(name, "a whole number that is not negative", self))
    }

    /// Returns it as text, whatever it is.
    fn scalar(&self, name: &str) -> Result<String, InferError> {
        match self {
            Self::Text(_) => self.text(name),
            Self::Other(_) => Err(unexpected(name, "a boolean, a number or a string", self)),
            Self::Bool(_) | Self::Whole(_) | Self::Number(_) => Ok(self.to_string()),
        }
    }

    fn text(&self, name: &str) -> Result<String, InferError> {
        match self {
            Self::Text(text) if text.len() <= MAX_NAME_BYTES => Ok(text.clone().into_owned()),
            other => {
                let expected = format!("a string of at most {MAX_NAME_BYTES} bytes");
                Err(unexpected(name, &expected, other))
            }
        }
    }
}

fn unexpected(name: &str, expected: &str, got: &Value<'_>) -> InferError {
    InferError::invalid(format!("`{name}`: expected {expected}, got {got}"))
}

/// The beginning of what a caller sent, for a sentence.
pub(super) fn clipped(text: &str) -> &str {
    text.get(..text.floor_char_boundary(64)).unwrap_or_default()
}

// === what they say ===

impl OfRequest {
    pub(super) fn read(parameters: &Parameters<'_>) -> Result<Self, InferError> {
        let mut read = Self::default();
        for (name, value) in &parameters.0 {
            let name = &**name;
            match name {
                "binary_data_output" => read.is_binary_output = value.boolean(name)?,
                "timeout" => {
                    let micros: u64 = value.whole(name)?;
                    // 0 is none.
                    read.timeout = (micros > 0).then(|| Duration::from_micros(micros));
                }
                "priority" => _ = value.whole::<u64>(name)?,
                "sequence_id" => match value {
                    // What a client says that has no sequence.
                    Value::Whole(0) => {}
                    Value::Text(text) if text.is_empty() => {}
                    Value::Whole(_) | Value::Text(_) => {
                        return Err(InferError::invalid(format!(
                            "`sequence_id`: expected none, got {value}: nothing is kept between \
                             requests, so sequences are not offered"
                        )));
                    }
                    other => return Err(unexpected(name, "a whole number or a string", other)),
                },
                "sequence_start" | "sequence_end" => _ = value.boolean(name)?,
                _ if name.starts_with("triton_") => {
                    return Err(InferError::invalid(format!(
                        "parameter keys starting with 'triton_' are reserved for Triton usage and \
                         should not be specified. Got `{}`",
                        clipped(name)
                    )));
                }
                _ => {
                    let mut options = PictureOptions::NAMES.into_iter();
                    if let Some(name) = options.find(|&option| option == name) {
                        read.options.push((name, value.scalar(name)?));
                    }
                }
            }
        }
        Ok(read)
    }
}

impl OfInput {
    pub(super) fn read(parameters: &Parameters<'_>) -> Result<Self, InferError> {
        let mut read = Self::default();
        let mut shared = Shared::default();
        for (name, value) in &parameters.0 {
            let name = &**name;
            match name {
                "binary_data_size" => read.binary_data_size = Some(value.whole(name)?),
                _ => shared.set(name, value)?,
            }
        }
        read.shared = shared.range()?;
        Ok(read)
    }
}

impl OfOutput {
    pub(super) fn read(parameters: &Parameters<'_>) -> Result<Self, InferError> {
        let mut read = Self::default();
        let mut shared = Shared::default();
        for (name, value) in &parameters.0 {
            let name = &**name;
            match name {
                "binary_data" => read.is_binary = Some(value.boolean(name)?),
                // 0 is none.
                "classification" => {
                    read.classes = Some(value.whole(name)?).filter(|&classes| classes > 0);
                }
                _ => shared.set(name, value)?,
            }
        }
        read.shared = shared.range()?;
        if read.classes.is_some() && read.shared.is_some() {
            return Err(InferError::invalid(
                "`classification` and `shared_memory_region`: expected one of them, since classes \
                 are strings of any length",
            ));
        }
        Ok(read)
    }
}

impl Shared {
    fn set(&mut self, name: &str, value: &Value<'_>) -> Result<(), InferError> {
        match name {
            "shared_memory_region" => self.region = Some(value.text(name)?),
            "shared_memory_offset" => self.offset = Some(value.whole(name)?),
            "shared_memory_byte_size" => self.byte_size = Some(value.whole(name)?),
            _ => {}
        }
        Ok(())
    }

    fn range(self) -> Result<Option<SharedRange>, InferError> {
        match (self.region, self.offset, self.byte_size) {
            (Some(region), offset, Some(byte_size)) => Ok(Some(SharedRange {
                region,
                offset: offset.unwrap_or(0),
                byte_size,
            })),
            (Some(_), _, None) => Err(InferError::invalid(
                "`shared_memory_byte_size`: expected beside `shared_memory_region`, got none",
            )),
            (None, None, None) => Ok(None),
            (None, ..) => Err(InferError::invalid(
                "`shared_memory_region`: expected beside `shared_memory_offset` and \
                 `shared_memory_byte_size`, got none",
            )),
        }
    }
}
