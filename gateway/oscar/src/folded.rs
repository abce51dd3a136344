//! A deserializer that reads as Go's JSON decoder does, whatever the format: keys of structures in
//! any case, `null` for the zero value of anything. Keys of maps, which users choose, stay as they are.

use std::fmt;

use serde::Deserializer;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeSeed, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor,
    value::UnitDeserializer,
};
use serde::forward_to_deserialize_any;

/// Wraps a deserializer and all within it.
pub(crate) struct Folded<D>(pub(crate) D);

/// Wraps a visitor: what it is given is wrapped as well.
struct Wrapped<V> {
    visitor: V,
    /// The keys of the structure that it makes; none of anything else.
    fields: &'static [&'static str],
}

struct Entries<A> {
    map: A,
    fields: &'static [&'static str],
    /// The key before the value that comes next, for what is wrong with it.
    key: String,
}

struct Elements<A> {
    list: A,
    index: usize,
}

/// Reads one value: its zero for `null`.
struct Nullable<S>(S);

/// What `null` is: empty text, 0, false, an empty list or map, nothing.
struct Zero<E>(std::marker::PhantomData<E>);

// === impl Folded ===

macro_rules! wrap {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(Wrapped::new(visitor))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Folded<D> {
    type Error = D::Error;

    wrap! {
        deserialize_any deserialize_bool deserialize_char deserialize_str deserialize_string
        deserialize_bytes deserialize_byte_buf deserialize_option deserialize_unit deserialize_seq
        deserialize_map deserialize_identifier deserialize_ignored_any
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f32 deserialize_f64
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, Wrapped::new(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0
            .deserialize_newtype_struct(name, Wrapped::new(visitor))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(length, Wrapped::new(visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0
            .deserialize_tuple_struct(name, length, Wrapped::new(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Wrapped { visitor, fields })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }
}

// === impl Wrapped ===

impl<V> Wrapped<V> {
    const fn new(visitor: V) -> Self {
        Self {
            visitor,
            fields: &[],
        }
    }
}

macro_rules! pass {
    ($($method:ident($value:ty))*) => {
        $(fn $method<E: Error>(self, value: $value) -> Result<V::Value, E> {
            self.visitor.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Wrapped<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    pass! {
        visit_bool(bool) visit_char(char)
        visit_i8(i8) visit_i16(i16) visit_i32(i32) visit_i64(i64)
        visit_u8(u8) visit_u16(u16) visit_u32(u32) visit_u64(u64)
        visit_f32(f32) visit_f64(f64)
        visit_str(&str) visit_borrowed_str(&'de str) visit_string(String)
        visit_bytes(&[u8]) visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, some: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Folded(some))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Folded(inner))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Elements { list, index: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Entries {
            map,
            fields: self.fields,
            key: String::new(),
        })
    }
}

// === impl Entries, Elements ===

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        let Some(key) = self.map.next_key::<String>()? else {
            return Ok(None);
        };
        let known = self
            .fields
            .iter()
            .find(|field| field.eq_ignore_ascii_case(&key));
        self.key = known.map_or(key, |&known| known.to_owned());
        seed.deserialize(self.key.as_str().into_deserializer())
            .map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.map
            .next_value_seed(Nullable(seed))
            .map_err(|error| within(&self.key, &error))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let element = self.list.next_element_seed(Nullable(seed));
        let index = self.index;
        self.index += 1;
        element.map_err(|error| within(&index.to_string(), &error))
    }

    fn size_hint(&self) -> Option<usize> {
        self.list.size_hint()
    }
}

/// Says where it is wrong, and not what came, which may be a secret.
fn within<E: Error>(key: &str, error: &E) -> E {
    let key: String = key.chars().take(64).collect();
    let text = error.to_string();
    // The innermost place in the text; those around it are said after.
    let mut parts = text.split(" at line ");
    let text = parts.next().unwrap_or_default();
    let place = parts.next().map(|place| format!(" at line {place}"));
    let place = place.unwrap_or_default();
    if let Some(rest) = text.strip_prefix('`') {
        return E::custom(format_args!("`{key}.{rest}{place}"));
    }
    let came = ["invalid type: ", "invalid value: "]
        .into_iter()
        .find_map(|prefix| text.strip_prefix(prefix));
    let Some((came, expected)) = came.and_then(|came| came.rsplit_once(", expected ")) else {
        return E::custom(format_args!("`{key}`: {text}{place}"));
    };
    let kind = came.split([' ', ',']).next().unwrap_or_default();
    E::custom(format_args!(
        "`{key}`: expected {expected}, got {kind}{place}"
    ))
}

// === impl Nullable ===

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Nullable<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<S::Value, D::Error> {
        value.deserialize_option(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Nullable<S> {
    type Value = S::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_none<E: Error>(self) -> Result<S::Value, E> {
        self.0.deserialize(Zero(std::marker::PhantomData))
    }

    fn visit_unit<E: Error>(self) -> Result<S::Value, E> {
        self.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, some: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Folded(some))
    }
}

// === impl Zero ===

macro_rules! zero {
    ($($method:ident => $visit:ident($value:expr))*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
            visitor.$visit($value)
        })*
    };
}

impl<'de, E: Error> Deserializer<'de> for Zero<E> {
    type Error = E;

    zero! {
        deserialize_bool => visit_bool(false)
        deserialize_i64 => visit_i64(0)
        deserialize_u32 => visit_u32(0)
        deserialize_u64 => visit_u64(0)
        deserialize_f32 => visit_f32(0.0)
        deserialize_str => visit_str("")
        deserialize_string => visit_str("")
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        UnitDeserializer::new().deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_none()
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<()>()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_map(MapDeserializer::new(std::iter::empty::<((), ())>()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, E> {
        self.deserialize_map(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, E> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 u8 u16 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum
        identifier ignored_any
    }
}
