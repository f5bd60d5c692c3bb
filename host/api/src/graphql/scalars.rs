//! The scalars of the contract.

use async_graphql::{InputValueError, InputValueResult, Number, Scalar, ScalarType, Value};
use quarterdeck_model::Timestamp;
use uuid::Uuid;

use super::fault::{Fault, Maybe};

/// The largest integer that every client reads exactly.
const SAFE: i64 = (1 << 53) - 1;

/// An integer of up to 53 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BigInt(pub(crate) i64);

impl BigInt {
    /// For output.
    pub(crate) fn safe(number: i64) -> Maybe<Self> {
        Some(if (-SAFE..=SAFE).contains(&number) {
            Ok(Self(number))
        } else {
            Err(Fault("Cannot serialize integer out of the safe range.".to_owned()))
        })
    }

    fn read(value: &Value) -> Option<i64> {
        let Value::Number(number) = value else { return None };
        // Some clients write whole numbers as floats.
        let whole = number
            .as_i64()
            .or_else(|| number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() <= SAFE as f64).map(|f| f as i64))?;
        (-SAFE..=SAFE).contains(&whole).then_some(whole)
    }
}

#[Scalar(name = "BigInt")]
impl ScalarType for BigInt {
    fn parse(value: Value) -> InputValueResult<Self> {
        Self::read(&value).map(Self).ok_or_else(|| InputValueError::expected_type(value))
    }
    fn is_valid(value: &Value) -> bool {
        Self::read(value).is_some()
    }
    fn to_value(&self) -> Value {
        Value::Number(Number::from(self.0))
    }
}

/// A 32-bit integer for output.
pub(crate) fn int(number: i64) -> Maybe<i32> {
    Some(
        i32::try_from(number)
            .map_err(|_| Fault(format!("Int cannot represent non 32-bit signed integer value: {number}"))),
    )
}

/// JSON in a text, both ways.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JsonString(pub(crate) serde_json::Value);

#[Scalar(name = "JSONString")]
impl ScalarType for JsonString {
    fn parse(value: Value) -> InputValueResult<Self> {
        match &value {
            Value::String(text) => {
                serde_json::from_str(text).map(Self).map_err(|e| InputValueError::custom(format!("not JSON: {e}")))
            }
            _ => Err(InputValueError::expected_type(value)),
        }
    }
    fn is_valid(value: &Value) -> bool {
        matches!(value, Value::String(text) if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
    }
    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

/// A UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UuidText(pub(crate) Uuid);

#[Scalar(name = "UUID")]
impl ScalarType for UuidText {
    fn parse(value: Value) -> InputValueResult<Self> {
        match &value {
            Value::String(text) => Ok(Self(text.parse()?)),
            _ => Err(InputValueError::expected_type(value)),
        }
    }
    fn is_valid(value: &Value) -> bool {
        matches!(value, Value::String(text) if text.parse::<Uuid>().is_ok())
    }
    fn to_value(&self) -> Value {
        Value::String(self.0.hyphenated().to_string())
    }
}

/// An instant, in ISO 8601 with microseconds and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DateTime(pub(crate) Timestamp);

#[Scalar(name = "DateTime")]
impl ScalarType for DateTime {
    fn parse(value: Value) -> InputValueResult<Self> {
        match &value {
            Value::String(text) => Ok(Self(chrono::DateTime::parse_from_rfc3339(text)?.to_utc().into())),
            _ => Err(InputValueError::expected_type(value)),
        }
    }
    fn to_value(&self) -> Value {
        Value::String(self.0.iso())
    }
}

impl From<Timestamp> for DateTime {
    fn from(at: Timestamp) -> Self {
        Self(at)
    }
}
