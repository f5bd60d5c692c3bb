//! Nonsense, the same each time.

use hyper::body::Bytes;
use serde_json::{Map, Value, json};

/// A small generator of numbers that is the same everywhere (splitmix64).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.roll(of.len())]
    }

    /// A text that somebody might send.
    pub fn text(&mut self) -> String {
        const TEXTS: &[&str] = &[
            "",
            " ",
            "default",
            crate::PYTHON_IMAGE,
            "user@conf.test",
            "9b000000-0000-4000-8000-000000000003",
            "AKIACONFUSER00000003",
            "../../etc/passwd",
            "a\u{0}b",
            "\u{202e}",
            "💥",
            "'; DROP TABLE users; --",
            "{\"a\": 1}",
            "-1",
            "1e999",
            "NaN",
            "Infinity",
            "99999999999999999999",
            "1g",
            "3mo",
            "true",
            "2026-13-45",
            "run",
            "frozen",
            "batch",
            "http://[::1",
            "*",
            "%00%ff",
            "fifo",
            "scaling-group",
            "everywhere",
            "{ __schema { types { name } } }",
            "query($a: Int) { agent(id: $a) { id } }",
        ];
        match self.roll(12) {
            0 => "x".repeat(1 + self.roll(5_000)),
            1 => (0..self.roll(20)).map(|_| char::from_u32(1 + self.roll(0xD7FE) as u32).unwrap_or('?')).collect(),
            _ => (*self.pick(TEXTS)).to_owned(),
        }
    }

    /// A JSON value, `depth` levels deep at most.
    pub fn value(&mut self, depth: usize) -> Value {
        const NUMBERS: &[f64] =
            &[0.0, -0.0, 1.0, -1.0, 0.5, 1e308, -1e308, 9.007_199_254_740_993e15, 4_294_967_296.0, 1e-300];
        match self.roll(if depth == 0 { 7 } else { 10 }) {
            0 => Value::Null,
            1 => json!(self.roll(2) == 0),
            2 => json!(self.pick(NUMBERS)),
            3 => json!(*self.pick(&[0, 1, -1, 7, 65_536, i64::MAX, i64::MIN])),
            4..7 => json!(self.text()),
            7 => (0..self.roll(4)).map(|_| self.value(depth - 1)).collect(),
            _ => {
                const KEYS: &[&str] = &[
                    "resources",
                    "environ",
                    "mounts",
                    "scaling_group",
                    "cpu",
                    "mem",
                    "kind",
                    "name",
                    "cluster_size",
                    "a/b~c",
                ];
                let mut map = Map::new();
                for _ in 0..self.roll(5) {
                    let key = if self.roll(4) == 0 { self.text() } else { (*self.pick(KEYS)).to_owned() };
                    map.insert(key, self.value(depth - 1));
                }
                Value::Object(map)
            }
        }
    }

    /// A request's body: mostly an object with some of `keys`.
    pub fn body(&mut self, keys: &[&str]) -> Bytes {
        let odd = self.roll(12);
        if odd == 0 {
            return Bytes::from((0..self.roll(64)).map(|_| self.roll(256) as u8).collect::<Vec<_>>());
        }
        if odd == 1 {
            return Bytes::from(self.value(3).to_string());
        }
        if odd == 2 {
            return Bytes::from("[".repeat(1 + self.roll(100_000)));
        }
        let mut map = Map::new();
        for key in keys {
            if self.roll(3) > 0 {
                map.insert((*key).to_owned(), self.value(3));
            }
        }
        if self.roll(4) == 0 {
            map.insert(self.text(), self.value(2));
        }
        if keys.contains(&"enqueueOnly") {
            // Or the answer would rightly be waited for.
            map.insert("enqueueOnly".to_owned(), json!(true));
        }
        Bytes::from(Value::Object(map).to_string())
    }
}
