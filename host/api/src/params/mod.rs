//! Parameters of a request: where they come from, and how they are checked.
//!
//! A handler takes each parameter by its names and a *kind* (a function that turns a JSON value into
//! what is wanted), then calls [`Params::finish`]. Nothing fails before that, so that one answer tells
//! everything that is wrong; until then, refused parameters have their default value.

use quarterdeck_control::audit::{self, Act};
use serde_json::{Map, Value};

use crate::wire::{INVALID_API_PARAMS, Problem};

pub mod kinds;
pub mod yaml;

/// What is wrong with a value: a sentence, or an object of them.
pub type Fault = Value;

/// The parameters that haven't been taken yet, and what was wrong with those that have.
#[derive(Debug, Default)]
pub struct Params {
    left: Map<String, Value>,
    faults: Map<String, Fault>,
    extra: bool,
}

impl Params {
    /// Of an object.
    pub fn new(left: Map<String, Value>) -> Self {
        Self { left, ..Self::default() }
    }

    /// Of a query string. The first of several values counts.
    pub fn from_query(query: &str) -> Self {
        let mut left = Map::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            if !left.contains_key(key.as_ref()) {
                left.insert(key.into_owned(), Value::String(value.into_owned()));
            }
        }
        Self::new(left)
    }

    /// Of a body.
    ///
    /// # Errors
    /// A problem when it is no object.
    pub fn from_body(body: &[u8], is_yaml: bool) -> Result<Self, Problem> {
        match read_body(body, is_yaml)? {
            Value::Object(left) => Ok(Self::new(left)),
            _ => Err(malformed()),
        }
    }

    /// Tells the audit what is asked for.
    pub(crate) fn tell(&self, act: &Act) {
        if !self.left.is_empty() {
            let asked = Value::Object(self.left.clone());
            act.describe(audit::target_of(&asked), Some(audit::redacted(&asked)));
        }
    }

    /// Takes a parameter that must be there. The first of `names` is the primary one.
    pub fn required<T: Default>(&mut self, names: &[&str], kind: impl FnOnce(Value) -> Result<T, Fault>) -> T {
        match self.take(names) {
            Some((name, value)) => self.check(name, value, kind).unwrap_or_default(),
            None => {
                self.fault(names[0], "is required");
                T::default()
            }
        }
    }

    /// Takes a parameter that may be missing.
    pub fn optional<T>(&mut self, names: &[&str], default: T, kind: impl FnOnce(Value) -> Result<T, Fault>) -> T {
        match self.take(names) {
            Some((name, value)) => self.check(name, value, kind).unwrap_or(default),
            None => default,
        }
    }

    /// Takes an object with parameters of its own; a missing one is as an empty one.
    pub fn nested<T>(&mut self, names: &[&str], read: impl FnOnce(&mut Params) -> T) -> T {
        let taken = self.take(names);
        let (name, mut inner) = match taken {
            Some((name, Value::Object(left))) => (name, Params::new(left)),
            Some((name, _)) => {
                self.fault(&name, "value is not a dict");
                (name, Params::default())
            }
            None => (names[0].to_owned(), Params::default()),
        };
        let result = read(&mut inner);
        let faults = inner.into_faults();
        if !faults.is_empty() {
            self.faults.entry(name).or_insert(Value::Object(faults));
        }
        result
    }

    /// Reports something that no kind can see, e.g. about two parameters.
    pub fn fault(&mut self, name: &str, fault: impl Into<Fault>) {
        self.faults.insert(name.to_owned(), fault.into());
    }

    /// Unknown parameters are nobody's fault.
    pub fn allow_extra(&mut self) {
        self.extra = true;
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// A problem that names everything wrong.
    pub fn finish(self) -> Result<(), Problem> {
        let faults = self.into_faults();
        if faults.is_empty() { Ok(()) } else { Err(invalid(Value::Object(faults))) }
    }

    /// What is wrong, by parameter.
    pub(crate) fn into_faults(mut self) -> Map<String, Fault> {
        if !self.extra {
            for (key, _) in self.left {
                let fault = Value::String(format!("{key} is not allowed key"));
                self.faults.insert(key, fault);
            }
        }
        self.faults
    }

    /// The first spelling that is there wins, the others are swallowed.
    fn take(&mut self, names: &[&str]) -> Option<(String, Value)> {
        let mut taken = None;
        for name in names {
            if let Some(entry) = self.left.remove_entry(*name) {
                taken.get_or_insert(entry);
            }
        }
        taken
    }

    fn check<T>(&mut self, name: String, value: Value, kind: impl FnOnce(Value) -> Result<T, Fault>) -> Option<T> {
        match kind(value) {
            Ok(value) => Some(value),
            Err(fault) => {
                self.faults.insert(name, fault);
                None
            }
        }
    }
}

/// The document of a text that is JSON or else YAML; `None` when it is neither.
pub fn document(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().or_else(|| yaml::read_typed(text.as_bytes()))
}

/// Reads a body that needn't be an object.
///
/// # Errors
/// A problem when it is neither JSON nor, if so declared, YAML.
pub fn read_body(body: &[u8], is_yaml: bool) -> Result<Value, Problem> {
    if is_yaml { yaml::read(body).ok_or_else(malformed) } else { serde_json::from_slice(body).map_err(|_| malformed()) }
}

/// The problem of a body that can't be read.
pub fn malformed() -> Problem {
    Problem::new(INVALID_API_PARAMS).msg("Malformed body")
}

/// The problem of parameters that were read but are wrong.
pub fn invalid(faults: Value) -> Problem {
    Problem::new(INVALID_API_PARAMS).msg("Input validation error").data(faults)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::params::kinds::{boolish, int, nullable, text};
    use serde_json::json;

    fn object(value: Value) -> Params {
        Params::from_body(value.to_string().as_bytes(), false).unwrap()
    }

    #[test]
    fn one_answer_tells_everything() {
        let mut params = object(json!({"b": 5, "alias": "", "bogus": 1, "flag": "perhaps"}));
        let a: String = params.required(&["a", "A"], text);
        params.required(&["b"], text);
        params.required(&["name", "alias"], text);
        params.optional(&["flag"], false, boolish);
        assert_eq!(a, "");
        let faults = Value::Object(params.into_faults());
        assert_eq!(faults["a"], "is required");
        assert_eq!(faults["b"], "value is not a string");
        assert_eq!(faults["alias"], "blank value is not allowed");
        assert_eq!(faults["bogus"], "bogus is not allowed key");
        assert!(faults.get("flag").is_some());
    }

    #[test]
    fn the_first_spelling_wins() {
        let mut params = object(json!({"image": "x", "lang": "y"}));
        assert_eq!(params.required(&["image", "lang"], text), "x");
        params.finish().unwrap();
    }

    #[test]
    fn queries_are_decoded_and_their_first_values_count() {
        let mut params = Params::from_query("echo=a+b%26c%3Dd%2F%C3%A9&n=3&echo=second&empty=");
        assert_eq!(params.required(&["echo"], text), "a b&c=d/é");
        assert_eq!(params.required(&["n"], int(1..=5)), 3);
        params.allow_extra();
        params.finish().unwrap();
    }

    #[test]
    fn bodies_must_be_objects() {
        for body in ["[1]", "\"x\"", "", "{", "nul", "{\"a\":1}x"] {
            let problem = Params::from_body(body.as_bytes(), false).unwrap_err();
            assert!(problem.sentence().contains("Malformed body"), "{body}");
        }
        assert!(Params::from_body(b"echo: [1, 2\n", true).is_err());
        assert!(Params::from_body(b"- 1\n", true).is_err());
    }

    #[test]
    fn yaml_scalars_are_texts() {
        let mut params =
            Params::from_body(b"a: 1\nb: 0x10\nc: 1.50\nd: yes\ne: ~\nf: [true, null]\ng: {x: 010}\n", true).unwrap();
        for (name, expected) in [("a", "1"), ("b", "0x10"), ("c", "1.50"), ("d", "yes"), ("e", "~")] {
            assert_eq!(params.required(&[name], text), expected);
        }
        assert_eq!(params.required(&["f"], Ok), json!(["true", "null"]));
        assert_eq!(params.required(&["g"], Ok), json!({"x": "010"}));
    }

    #[test]
    fn objects_report_inside_themselves() {
        let mut params = object(json!({"config": {"a": 1, "bogus": 2}, "other": 3}));
        params.nested(&["config"], |config| config.optional(&["a"], None, nullable(text)));
        params.nested(&["other"], |_| ());
        assert_eq!(
            Value::Object(params.into_faults()),
            json!({
                "config": {"a": {"0": "value should be None", "1": "value is not a string"}, "bogus": "bogus is not allowed key"},
                "other": "value is not a dict",
            })
        );
    }
}
