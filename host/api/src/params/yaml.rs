//! YAML whose scalars are all texts, exactly as they were written.
//!
//! A parser that resolves `0x10` to a number can't be asked for the text afterwards. So a document is
//! read twice: once for its shape, then with every scalar asked for as a text.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_yaml_ng::Value as Yaml;

/// Reads a document; `None` when it is malformed.
pub fn read(body: &[u8]) -> Option<Value> {
    let shape: Yaml = serde_yaml_ng::from_slice(body).ok()?;
    Shape(&shape).deserialize(serde_yaml_ng::Deserializer::from_slice(body)).ok()
}

struct Shape<'a>(&'a Yaml);

impl<'de> DeserializeSeed<'de> for Shape<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.0 {
            Yaml::Sequence(_) => deserializer.deserialize_seq(self),
            Yaml::Mapping(_) => deserializer.deserialize_map(self),
            Yaml::Tagged(_) => Err(serde::de::Error::custom("tags are not supported")),
            _ => deserializer.deserialize_str(self),
        }
    }
}

impl<'de> Visitor<'de> for Shape<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("what was there at the first reading")
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        for shape in self.0.as_sequence().into_iter().flatten() {
            list.extend(items.next_element_seed(Shape(shape))?);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        for shape in self.0.as_mapping().into_iter().flatten().map(|(_, value)| value) {
            if let Some(key) = entries.next_key::<String>()? {
                map.insert(key, entries.next_value_seed(Shape(shape))?);
            }
        }
        Ok(Value::Object(map))
    }
}
