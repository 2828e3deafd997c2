//! A metadata value: its types with GGUF's numbers, and both directions of its bytes.

use serde::Serialize;

use super::reader::{Fault, Header};

/// The number of an array, which has an element type of its own.
const ARRAY: u32 = 9;

/// One line a type: value, array of them, Rust's type, GGUF's number.
macro_rules! values {
    ($($one:ident $many:ident $type:ty = $id:literal),* $(,)?) => {
        /// A metadata value; readers are strict about the type, so it is part of the value.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(untagged)]
        #[allow(missing_docs, reason = "the names are GGUF's own")]
        pub enum Value {
            $($one($type), $many(Vec<$type>),)*
        }

        impl Value {
            /// GGUF's number of the type.
            fn type_id(&self) -> u32 {
                match self {
                    $(Self::$one(_) => $id, Self::$many(_) => ARRAY,)*
                }
            }

            /// Appends type and value.
            pub fn write(&self, out: &mut Vec<u8>) {
                out.extend(self.type_id().to_le_bytes());
                match self {
                    $(
                        Self::$one(value) => value.write(out),
                        Self::$many(list) => {
                            out.extend(u32::to_le_bytes($id));
                            out.extend((list.len() as u64).to_le_bytes());
                            list.iter().for_each(|value| value.write(out));
                        }
                    )*
                }
            }

            /// Reads type and value.
            pub(super) fn read(header: &mut Header) -> Result<Self, Fault> {
                match u32::read(header)? {
                    $($id => <$type>::read(header).map(Self::$one),)*
                    ARRAY => {
                        let element = u32::read(header)?;
                        let length = u64::read(header)?;
                        match element {
                            $($id => array(header, length).map(Self::$many),)*
                            ARRAY => Err(Fault::because("is an array of arrays, which no reader supports")),
                            other => Err(Fault::because(format!("has elements of the unknown type {other}"))),
                        }
                    }
                    other => Err(Fault::because(format!("has the unknown type {other}"))),
                }
            }
        }
    };
}

values! {
    U8 U8s u8 = 0,
    I8 I8s i8 = 1,
    U16 U16s u16 = 2,
    I16 I16s i16 = 3,
    U32 U32s u32 = 4,
    I32 I32s i32 = 5,
    F32 F32s f32 = 6,
    Bool Bools bool = 7,
    String Strings String = 8,
    U64 U64s u64 = 10,
    I64 I64s i64 = 11,
    F64 F64s f64 = 12,
}

impl Value {
    /// The text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Any number, or a flag as 0 or 1.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(x) => Some(x.into()),
            Self::F64(x) => Some(x),
            Self::Bool(x) => Some(f64::from(u8::from(x))),
            Self::I8(n) => Some(n.into()),
            Self::I16(n) => Some(n.into()),
            Self::I32(n) => Some(n.into()),
            Self::I64(n) => Some(n as f64),
            _ => self.as_u64().map(|n| n as f64),
        }
    }

    /// A whole number that is not negative, or the first of a list of them, as keys have it that may differ by layer.
    pub fn first_integer(&self) -> Option<u64> {
        match self {
            Self::U32s(list) => list.first().map(|&n| n.into()),
            Self::I32s(list) => list.first().and_then(|&n| n.try_into().ok()),
            Self::U64s(list) => list.first().copied(),
            Self::I64s(list) => list.first().and_then(|&n| n.try_into().ok()),
            one => one.as_u64(),
        }
    }

    /// A whole number of any width that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::U32(n) => Some(n.into()),
            Self::U64(n) => Some(n),
            Self::I8(n) => n.try_into().ok(),
            Self::I16(n) => n.try_into().ok(),
            Self::I32(n) => n.try_into().ok(),
            Self::I64(n) => n.try_into().ok(),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

/// A value in a header: numbers little-endian, strings after their length.
pub(super) trait Field: Sized {
    /// The fewest bytes that one takes.
    const LEAST: u64;

    fn write(&self, out: &mut Vec<u8>);
    fn read(header: &mut Header) -> Result<Self, Fault>;
}

/// `length` fields, one after another. A length is believed only as far as the header has bytes for it.
fn array<T: Field>(header: &mut Header, length: u64) -> Result<Vec<T>, Fault> {
    if length.checked_mul(T::LEAST).is_none_or(|bytes| bytes > header.left()) {
        return Err(Fault::because(format!(
            "is an array of {length} elements, more than the header can have"
        )));
    }
    (0..length).map(|_| T::read(header)).collect()
}

macro_rules! numbers {
    ($($type:ty)*) => {
        $(impl Field for $type {
            const LEAST: u64 = size_of::<Self>() as u64;

            fn write(&self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }

            fn read(header: &mut Header) -> Result<Self, Fault> {
                header.bytes().map(Self::from_le_bytes)
            }
        })*
    };
}

numbers!(u8 i8 u16 i16 u32 i32 f32 u64 i64 f64);

impl Field for bool {
    const LEAST: u64 = 1;

    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read(header: &mut Header) -> Result<Self, Fault> {
        match u8::read(header)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Fault::because(format!("is the bool {other}; expected 0 or 1"))),
        }
    }
}

impl Field for String {
    const LEAST: u64 = 8;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend((self.len() as u64).to_le_bytes());
        out.extend(self.as_bytes());
    }

    fn read(header: &mut Header) -> Result<Self, Fault> {
        let length = u64::read(header)?;
        let bytes = header.take(length)?;
        Self::from_utf8(bytes).map_err(|_| Fault::because("has a text that is not UTF-8"))
    }
}
