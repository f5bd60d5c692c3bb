//! What parameters may be: functions from a JSON value to what a handler wants, or to what is wrong.

use std::ops::RangeInclusive;
use std::str::FromStr;

use indexmap::IndexMap;
use quarterdeck_model::Timestamp;
use serde_json::{Map, Number, Value};
use uuid::Uuid;

use super::Fault;

/// A text that isn't empty.
pub fn text(value: Value) -> Result<String, Fault> {
    match value {
        Value::String(text) if text.is_empty() => Err("blank value is not allowed".into()),
        Value::String(text) => Ok(text),
        _ => Err("value is not a string".into()),
    }
}

/// A text, perhaps an empty one.
pub fn any_text(value: Value) -> Result<String, Fault> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err("value is not a string".into()),
    }
}

/// A text that isn't empty and has at most so many characters.
pub fn text_up_to(max: usize) -> impl Fn(Value) -> Result<String, Fault> {
    move |value| {
        let text = text(value)?;
        if text.chars().count() > max {
            Err(format!("String is longer than {max} characters").into())
        } else {
            Ok(text)
        }
    }
}

/// Null, or another kind.
pub fn nullable<T>(kind: impl Fn(Value) -> Result<T, Fault>) -> impl Fn(Value) -> Result<Option<T>, Fault> {
    move |value| match value {
        Value::Null => Ok(None),
        value => kind(value).map(Some).map_err(|fault| alternatives(["value should be None".into(), fault])),
    }
}

/// What each of several alternatives has against a value.
fn alternatives<const N: usize>(faults: [Fault; N]) -> Fault {
    Value::Object(faults.into_iter().enumerate().map(|(index, fault)| (index.to_string(), fault)).collect())
}

/// True, false, and the many ways of writing them.
pub fn boolish(value: Value) -> Result<bool, Fault> {
    let found = match &value {
        Value::Bool(flag) => Some(*flag),
        Value::Null => Some(false),
        Value::Number(number) => match number.as_f64() {
            Some(1.0) => Some(true),
            Some(0.0) => Some(false),
            _ => None,
        },
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" | "t" | "y" => Some(true),
            "false" | "0" | "no" | "off" | "n" | "none" => Some(false),
            _ => None,
        },
        _ => None,
    };
    found.ok_or_else(|| "value can't be converted to Bool".into())
}

/// True or false and nothing else.
pub fn strict_bool(value: Value) -> Result<bool, Fault> {
    match &value {
        Value::Bool(flag) => Ok(*flag),
        _ => Err("value should be True or False".into()),
    }
}

/// A whole number; as queries carry texts, a text of one will do.
pub fn int(range: RangeInclusive<i64>) -> impl Fn(Value) -> Result<i64, Fault> {
    move |value| {
        let number = match &value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        within(number.ok_or("value is not int")?, &range)
    }
}

/// A whole number, or something that stands for one, such as `"3"` or `3.0`.
pub fn coerced_int(range: RangeInclusive<i64>) -> impl Fn(Value) -> Result<i64, Fault> {
    move |value| {
        let number = match &value {
            Value::Number(number) => whole(number),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        within(number.ok_or("value can't be converted to int")?, &range)
    }
}

/// A number of seconds, fractions allowed, as a number or its text.
pub fn number(value: Value) -> Result<f64, Fault> {
    let number = match &value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|n| n.is_finite()).ok_or_else(|| "value is not float".into())
}

fn whole(number: &Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        // Beyond 2^53 a float doesn't name one whole number.
        (float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0).then_some(float as i64)
    })
}

fn within(number: i64, range: &RangeInclusive<i64>) -> Result<i64, Fault> {
    if number < *range.start() {
        Err(format!("value is less than {}", range.start()).into())
    } else if number > *range.end() {
        Err(format!("value is greater than {}", range.end()).into())
    } else {
        Ok(number)
    }
}

/// One of some words. `name` is what the vocabulary is called.
pub fn one_of(words: &'static [&'static str], name: &'static str) -> impl Fn(Value) -> Result<&'static str, Fault> {
    move |value| {
        let text = value.as_str().unwrap_or_default();
        words.iter().find(|word| **word == text).copied().ok_or_else(|| not_a_member(name))
    }
}

/// A member of a vocabulary of the model.
pub fn member<T: FromStr>(name: &'static str) -> impl Fn(Value) -> Result<T, Fault> {
    move |value| value.as_str().unwrap_or_default().parse().map_err(|_| not_a_member(name))
}

fn not_a_member(name: &str) -> Fault {
    format!("value is not a valid member of {name}").into()
}

/// A UUID in any spelling.
pub fn uuid(value: Value) -> Result<Uuid, Fault> {
    value.as_str().and_then(|text| Uuid::parse_str(text).ok()).ok_or_else(|| "cannot convert value to UUID".into())
}

/// A list whose items are all of one kind.
pub fn list<T>(kind: impl Fn(Value) -> Result<T, Fault>) -> impl Fn(Value) -> Result<Vec<T>, Fault> {
    move |value| {
        let Value::Array(items) = value else { return Err("value is not a list".into()) };
        let (mut good, mut faults) = (Vec::with_capacity(items.len()), Map::new());
        for (index, item) in items.into_iter().enumerate() {
            match kind(item) {
                Ok(item) => good.push(item),
                Err(fault) => {
                    faults.insert(index.to_string(), fault);
                }
            }
        }
        if faults.is_empty() { Ok(good) } else { Err(Value::Object(faults)) }
    }
}

/// An object whose values are all of one kind.
pub fn map<T>(kind: impl Fn(Value) -> Result<T, Fault>) -> impl Fn(Value) -> Result<IndexMap<String, T>, Fault> {
    move |value| {
        let Value::Object(entries) = value else { return Err("value is not a dict".into()) };
        let (mut good, mut faults) = (IndexMap::with_capacity(entries.len()), Map::new());
        for (key, value) in entries {
            match kind(value) {
                Ok(value) => {
                    good.insert(key, value);
                }
                Err(fault) => {
                    faults.insert(key, Value::Object(Map::from_iter([("value".to_owned(), fault)])));
                }
            }
        }
        if faults.is_empty() { Ok(good) } else { Err(Value::Object(faults)) }
    }
}

/// Any object.
pub fn object(value: Value) -> Result<Map<String, Value>, Fault> {
    match value {
        Value::Object(entries) => Ok(entries),
        _ => Err("value is not a dict".into()),
    }
}

/// A text that holds a JSON object.
pub fn json_object(value: Value) -> Result<Map<String, Value>, Fault> {
    let text = any_text(value)?;
    let read = serde_json::from_str(&text).map_err(|_| Fault::from("value is not a JSON text"))?;
    object(read)
}

/// An instant as RFC 3339 writes it.
pub fn instant(value: Value) -> Result<Timestamp, Fault> {
    let text = text(value)?;
    let parsed = chrono::DateTime::parse_from_rfc3339(&text);
    parsed.map(|at| Timestamp(at.timestamp_micros())).map_err(|_| "value is no time of RFC 3339".into())
}

/// A URL with a scheme and something behind it.
pub fn url(value: Value) -> Result<String, Fault> {
    let text = text(value)?;
    let is_url = text.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some());
    if is_url { Ok(text) } else { Err("value is not URL".into()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn flags() {
        for yes in [json!(true), json!(1), json!("TRUE"), json!("on"), json!("t"), json!("Y"), json!("1")] {
            assert_eq!(boolish(yes.clone()), Ok(true), "{yes}");
        }
        for no in [json!(false), json!(0), json!("No"), json!("none"), json!("off"), json!(null), json!("n")] {
            assert_eq!(boolish(no.clone()), Ok(false), "{no}");
        }
        for bad in [json!("f"), json!(""), json!("perhaps"), json!(2), json!([]), json!({})] {
            assert!(boolish(bad.clone()).is_err(), "{bad}");
        }
        assert!(strict_bool(json!("true")).is_err());
    }

    #[test]
    fn numbers() {
        assert_eq!(int(1..=9)(json!(3)), Ok(3));
        assert_eq!(int(1..=9)(json!("3")), Ok(3));
        assert_eq!(int(1..=9)(json!(3.0)), Err("value is not int".into()));
        assert_eq!(int(1..=9)(json!(true)), Err("value is not int".into()));
        assert_eq!(int(1..=9)(json!(0)), Err("value is less than 1".into()));
        assert_eq!(int(1..=9)(json!(10)), Err("value is greater than 9".into()));
        assert_eq!(coerced_int(1..=9)(json!(3.0)), Ok(3));
        assert_eq!(coerced_int(1..=9)(json!("3")), Ok(3));
        assert!(coerced_int(1..=9)(json!(2.5)).is_err());
        assert!(coerced_int(0..=i64::MAX)(serde_json::from_str("1e400").unwrap_or(json!([]))).is_err());
    }

    #[test]
    fn lists_and_maps_name_their_bad_members() {
        assert_eq!(
            list(text)(json!(["a", 1, ""])),
            Err(json!({"1": "value is not a string", "2": "blank value is not allowed"}))
        );
        assert_eq!(list(text)(json!("x")), Err("value is not a list".into()));
        assert_eq!(map(text)(json!({"a": ""})), Err(json!({"a": {"value": "blank value is not allowed"}})));
        let good = map(text)(json!({"b": "1", "a": "2"})).unwrap();
        assert_eq!(good.keys().collect::<Vec<_>>(), ["b", "a"]);
    }

    #[test]
    fn words_and_ids() {
        assert_eq!(one_of(&["keypair", "jwt"], "AuthTokenTypes")(json!("jwt")), Ok("jwt"));
        assert!(one_of(&["keypair"], "AuthTokenTypes")(json!(1)).is_err());
        assert!(uuid(json!("0f6c1c1e7d0e4a3e9f3a5f6f2d8d9f10")).is_ok());
        assert_eq!(uuid(json!("not-a-uuid")), Err("cannot convert value to UUID".into()));
        assert!(url(json!("http://h/x")).is_ok());
        assert!(url(json!("h/x")).is_err());
    }
}
