//! YAML whose scalars are all texts, exactly as they were written.
//!
//! A parser that resolves `0x10` to a number can't be asked for the text afterwards. So a document is
//! read twice: once for its shape, then with every scalar asked for as a text.

use std::cell::Cell;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_yaml_ng::Value as Yaml;

/// Reads a document; `None` when it is malformed.
pub fn read(body: &[u8]) -> Option<Value> {
    // Aliases repeat what they stand for, those in it too: a few lines could become more than memory holds.
    Measure(&Budget::of(body)).deserialize(serde_yaml_ng::Deserializer::from_slice(body)).ok()?;
    let shape: Yaml = serde_yaml_ng::from_slice(body).ok()?;
    Shape(&shape, &Budget::of(body)).deserialize(serde_yaml_ng::Deserializer::from_slice(body)).ok()
}

/// Reads a document with the types that its scalars have; `None` when it is malformed.
pub fn read_typed(body: &[u8]) -> Option<Value> {
    Measure(&Budget::of(body)).deserialize(serde_yaml_ng::Deserializer::from_slice(body)).ok()?;
    serde_yaml_ng::from_slice(body).ok()
}

/// Writes a document. Numbers of JSON keep their text here, which YAML's writer would show as a structure.
///
/// # Errors
/// What the writer says.
pub fn write(document: &Value) -> Result<String, serde_yaml_ng::Error> {
    serde_yaml_ng::to_string(&plain(document))
}

fn plain(value: &Value) -> Yaml {
    match value {
        Value::Null => Yaml::Null,
        Value::Bool(flag) => Yaml::Bool(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Yaml::Number(number.into()),
            (_, Some(number), _) => Yaml::Number(number.into()),
            (_, _, Some(number)) => Yaml::Number(number.into()),
            _ => Yaml::String(number.to_string()),
        },
        Value::String(text) => Yaml::String(text.clone()),
        Value::Array(items) => Yaml::Sequence(items.iter().map(plain).collect()),
        Value::Object(map) => {
            Yaml::Mapping(map.iter().map(|(name, value)| (Yaml::String(name.clone()), plain(value))).collect())
        }
    }
}

/// How much more a document may hold, in nodes and bytes of text. One that repeats little stays within it.
struct Budget(Cell<usize>);

impl Budget {
    fn of(body: &[u8]) -> Self {
        Self(Cell::new(body.len().saturating_mul(4).saturating_add(16)))
    }

    fn spend<E: Error>(&self, amount: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(amount).ok_or_else(|| E::custom("aliases repeat too much"))?;
        self.0.set(left);
        Ok(())
    }
}

/// Walks through a document and keeps nothing of it.
struct Measure<'a>(&'a Budget);

impl<'de> DeserializeSeed<'de> for Measure<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.spend(1)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Measure<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a document without tags")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.spend(text.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Measure(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while entries.next_key_seed(Measure(self.0))?.is_some() {
            entries.next_value_seed(Measure(self.0))?;
        }
        Ok(())
    }
}

/// Numbers are measured here: only now are they texts.
struct Shape<'a>(&'a Yaml, &'a Budget);

impl<'de> DeserializeSeed<'de> for Shape<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.0 {
            Yaml::Sequence(_) => deserializer.deserialize_seq(self),
            Yaml::Mapping(_) => deserializer.deserialize_map(self),
            Yaml::Tagged(_) => Err(Error::custom("tags are not supported")),
            _ => deserializer.deserialize_str(self),
        }
    }
}

impl<'de> Visitor<'de> for Shape<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("what was there at the first reading")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.1.spend(text.len())?;
        Ok(Value::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        for shape in self.0.as_sequence().into_iter().flatten() {
            list.extend(items.next_element_seed(Shape(shape, self.1))?);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        for shape in self.0.as_mapping().into_iter().flatten().map(|(_, value)| value) {
            if let Some(key) = entries.next_key::<String>()? {
                self.1.spend(key.len())?;
                map.insert(key, entries.next_value_seed(Shape(shape, self.1))?);
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_are_written_as_numbers() {
        let document: Value =
            serde_json::from_str(r#"{"n": 1, "f": 0.5, "big": 18446744073709551615, "l": ["1", null]}"#).unwrap();
        let text = write(&document).unwrap();
        assert_eq!(text, "n: 1\nf: 0.5\nbig: 18446744073709551615\nl:\n- '1'\n- null\n");
        assert_eq!(read_typed(text.as_bytes()), Some(document));
    }

    #[test]
    fn aliases_cannot_outgrow_the_document() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..10 {
            let before = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{before}]\n"));
        }
        assert_eq!(read(bomb.as_bytes()), None);
        for scalar in ["x", "1"] {
            let long = format!("a: &a {}\nb: [{}]\n", scalar.repeat(10_000), vec!["*a"; 1_000].join(", "));
            assert_eq!(read(long.as_bytes()), None);
        }
        let honest = read(b"a: &a [0x10, ~, true]\nb: *a\n").unwrap();
        assert_eq!(honest, serde_json::json!({"a": ["0x10", "~", "true"], "b": ["0x10", "~", "true"]}));
        assert!(read(b"{a: [], b, c: 1.5}").is_some());
    }
}
