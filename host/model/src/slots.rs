//! Resource slots: named quantities, and maps of them.
//!
//! Rules and vectors: `spec/resource-slots.md`. Comparison of maps is a *partial* order in which a
//! missing slot counts as zero.

use std::str::FromStr as _;

use indexmap::IndexMap;
use serde_json::{Map, Value as Json};

use crate::DefaultForUnspecified;
pub use crate::quantity::Quantity;
use crate::quantity::QuantityError;
use crate::size::{self, SizeError};
use crate::status::vocabulary;

vocabulary! {
    /// How a slot is measured.
    SlotKind {
        /// A number, kept to three decimals.
        Count = "count",
        /// Bytes.
        Bytes = "bytes",
        /// A number of indivisible things; counted like [`SlotKind::Count`].
        Unique = "unique",
    }
}

/// Which slots the cluster knows, in the order in which they are shown.
pub type SlotTypes = IndexMap<String, SlotKind>;

/// `cpu` and `mem`, which every cluster knows.
pub fn intrinsic() -> SlotTypes {
    SlotTypes::from([("cpu".to_owned(), SlotKind::Count), ("mem".to_owned(), SlotKind::Bytes)])
}

/// What is wrong with a slot or a map of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The value of a slot can't be read.
    #[error("{slot}: {source}")]
    Value {
        /// The slot.
        slot: String,
        /// What is wrong with it.
        source: ValueError,
    },
    /// A slot that the cluster doesn't know.
    #[error("unit unknown for slot: '{0}'")]
    UnknownSlot(String),
    /// Slots that the cluster doesn't know.
    #[error("Unknown slots: {}", .0.join(", "))]
    UnknownSlots(Vec<String>),
    /// The document is no object.
    #[error("value is not a dict")]
    NotAMap,
    /// The arithmetic has no result.
    #[error(transparent)]
    Arithmetic(#[from] QuantityError),
}

/// What is wrong with one value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// No size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// No decimal.
    #[error(transparent)]
    Quantity(#[from] QuantityError),
    /// A document where a value belongs.
    #[error("value is neither a number nor a string")]
    Type,
}

impl SlotKind {
    /// The kind that a name suggests where no table is at hand: bytes if it contains `mem`.
    pub fn guess(name: &str) -> Self {
        if name.contains("mem") { Self::Bytes } else { Self::Count }
    }

    /// Contract units in one: bytes are counted whole, other amounts in thousandths.
    pub fn scale(self) -> u32 {
        match self {
            Self::Bytes => 1,
            Self::Count | Self::Unique => 1000,
        }
    }

    /// Reads one value of this kind: decimals are exact, fractions of a byte and `nan` refused.
    ///
    /// # Errors
    /// [`ValueError`].
    pub fn read(self, value: &Json) -> Result<Quantity, ValueError> {
        match (self, value) {
            (_, Json::Bool(b)) => Ok(Quantity::int(u8::from(*b))),
            (Self::Bytes, Json::String(text)) => Ok(size::parse(text)?),
            (Self::Bytes, Json::Number(number)) => match Quantity::parse(&number.to_string())? {
                Quantity::Finite(d) if d.is_integer() => Ok(Quantity::Finite(d.with_scale(0))),
                // A number of bytes has no fraction.
                _ => Err(ValueError::Size(SizeError::Fractional)),
            },
            (Self::Count | Self::Unique, Json::String(text)) => counted(text),
            (Self::Count | Self::Unique, Json::Number(number)) => counted(&number.to_string()),
            _ => Err(ValueError::Type),
        }
    }

    /// One amount for people: `1.5g`, `0.5`, `Infinity`.
    pub fn humanized(self, amount: &Quantity) -> String {
        match (self, amount) {
            (Self::Bytes, Quantity::Finite(d)) => {
                let whole = d.with_scale_round(0, bigdecimal::RoundingMode::Down).into_bigint_and_exponent().0;
                size::short(&whole)
            }
            _ => amount.to_string(),
        }
    }
}

fn counted(text: &str) -> Result<Quantity, ValueError> {
    let quantity = Quantity::parse(text)?;
    if matches!(quantity, Quantity::NaN) {
        // It would compare with nothing: no limit would hold it.
        return Err(QuantityError::NaN.into());
    }
    // The reference's decimals give up beyond 25 integer digits at three decimals.
    if let Quantity::Finite(d) = &quantity
        && d.with_scale_round(0, bigdecimal::RoundingMode::Down).digits() > 25
    {
        return Err(QuantityError::NotDecimal(text.to_owned()).into());
    }
    Ok(quantity.quantized())
}

/// Slots with amounts, in the order in which they were given.
#[derive(Clone, Debug, Default)]
pub struct SlotMap(IndexMap<String, Quantity>);

impl SlotMap {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// The amount of a slot; zero when it isn't there.
    pub fn get(&self, slot: &str) -> Quantity {
        self.0.get(slot).cloned().unwrap_or_else(Quantity::zero)
    }

    /// The amount of a slot, if it is there.
    pub fn find(&self, slot: &str) -> Option<&Quantity> {
        self.0.get(slot)
    }

    /// Sets the amount of a slot.
    pub fn insert(&mut self, slot: impl Into<String>, amount: Quantity) {
        self.0.insert(slot.into(), amount);
    }

    /// Removes a slot.
    pub fn remove(&mut self, slot: &str) -> Option<Quantity> {
        self.0.shift_remove(slot)
    }

    /// The slots and their amounts, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Quantity)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// How many slots it names.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it names no slot.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn entries(json: &Json) -> Result<impl Iterator<Item = (&String, &Json)>, SlotError> {
        let map = json.as_object().ok_or(SlotError::NotAMap)?;
        Ok(map.iter().filter(|(_, v)| !v.is_null()))
    }

    /// Reads what a user wrote. With a table, unknown slots are errors and missing ones become
    /// zero; without one, kinds are guessed and nothing is filled in. Nulls are dropped.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn from_user_input(json: &Json, types: Option<&SlotTypes>) -> Result<Self, SlotError> {
        let mut out = Self::new();
        for (slot, value) in Self::entries(json)? {
            let kind = match types {
                Some(types) => *types.get(slot).ok_or_else(|| SlotError::UnknownSlot(slot.clone()))?,
                None => SlotKind::guess(slot),
            };
            let amount = kind.read(value).map_err(|source| SlotError::Value { slot: slot.clone(), source })?;
            out.insert(slot.clone(), amount);
        }
        if let Some(types) = types {
            out.fill(types, &Quantity::zero());
        }
        Ok(out)
    }

    /// Reads a limit: entries of unknown slots are ignored, slots that it doesn't mention get zero
    /// or infinity as the default says.
    ///
    /// # Errors
    /// [`SlotError::Value`].
    pub fn from_policy(json: &Json, default: DefaultForUnspecified, types: &SlotTypes) -> Result<Self, SlotError> {
        let mut out = Self::new();
        for (slot, value) in Self::entries(json)? {
            if let Some(kind) = types.get(slot) {
                let amount = kind.read(value).map_err(|source| SlotError::Value { slot: slot.clone(), source })?;
                out.insert(slot.clone(), amount);
            }
        }
        let rest = match default {
            DefaultForUnspecified::Limited => Quantity::zero(),
            DefaultForUnspecified::Unlimited => Quantity::Infinity,
        };
        out.fill(types, &rest);
        Ok(out)
    }

    /// Reads what a program wrote: plain decimals, no units. Nulls are dropped.
    ///
    /// # Errors
    /// [`SlotError::Value`].
    pub fn from_json(json: &Json) -> Result<Self, SlotError> {
        let mut out = Self::new();
        for (slot, value) in Self::entries(json)? {
            let amount = decimal(value).map_err(|source| SlotError::Value { slot: slot.clone(), source })?;
            out.insert(slot.clone(), amount);
        }
        Ok(out)
    }

    /// Reads a stored map: as [`SlotMap::from_json`], `null` is empty, and `mem` may have a unit.
    ///
    /// # Errors
    /// [`SlotError::Value`].
    pub fn from_stored(json: &Json) -> Result<Self, SlotError> {
        if json.is_null() {
            return Ok(Self::new());
        }
        let mut out = Self::new();
        for (slot, value) in Self::entries(json)? {
            let sized = slot == "mem" && value.as_str().is_some_and(|t| !t.bytes().all(|b| b.is_ascii_digit()));
            let amount = if sized { SlotKind::Bytes.read(value) } else { decimal(value) };
            out.insert(slot.clone(), amount.map_err(|source| SlotError::Value { slot: slot.clone(), source })?);
        }
        Ok(out)
    }

    /// Adds up what an agent's devices allocated: `{device: {slot: {device id: amount}}}`.
    ///
    /// # Errors
    /// [`SlotError::Value`].
    pub fn from_allocations(json: &Json) -> Result<Self, SlotError> {
        let mut out = Self::new();
        for (_, slots) in Self::entries(json)? {
            for (slot, amounts) in Self::entries(slots)? {
                let mut sum = out.get(slot);
                for (_, value) in Self::entries(amounts)? {
                    let amount = match value.as_str() {
                        Some(text)
                            if text.ends_with(|c: char| "kmgtpezyKMGTPEZY ".contains(c)) && !is_infinity(text) =>
                        {
                            size::parse(text).map_err(ValueError::from)
                        }
                        _ => decimal(value),
                    };
                    let amount = amount.map_err(|source| SlotError::Value { slot: slot.clone(), source })?;
                    sum = sum.add(&amount)?;
                }
                out.insert(slot.clone(), sum);
            }
        }
        Ok(out)
    }

    /// The object of decimal texts that goes into the database and onto the wire.
    pub fn to_json(&self) -> Json {
        Json::Object(self.iter().map(|(k, v)| (k.to_owned(), Json::String(v.to_string()))).collect::<Map<_, _>>())
    }

    fn fill(&mut self, types: &SlotTypes, amount: &Quantity) {
        for slot in types.keys() {
            if !self.0.contains_key(slot) {
                self.insert(slot.clone(), amount.clone());
            }
        }
    }

    /// With every known slot: missing ones are zero, unknown ones dropped or refused.
    ///
    /// # Errors
    /// [`SlotError::UnknownSlots`] unless they are ignored.
    pub fn normalized(&self, known: &SlotTypes, ignore_unknown: bool) -> Result<Self, SlotError> {
        let unknown: Vec<String> = self.0.keys().filter(|k| !known.contains_key(*k)).cloned().collect();
        if !ignore_unknown && !unknown.is_empty() {
            return Err(SlotError::UnknownSlots(unknown));
        }
        let mut out = self.clone();
        out.0.retain(|k, _| known.contains_key(k));
        out.fill(known, &Quantity::zero());
        Ok(out)
    }

    fn keys<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a String> {
        self.0.keys().chain(other.0.keys().filter(|k| !self.0.contains_key(*k)))
    }

    /// The sum, slot by slot.
    ///
    /// # Errors
    /// [`SlotError::Arithmetic`] for ∞ + −∞.
    pub fn add(&self, other: &Self) -> Result<Self, SlotError> {
        let mut out = Self::new();
        for key in self.keys(other) {
            out.insert(key.clone(), self.get(key).add(&other.get(key))?);
        }
        Ok(out)
    }

    /// The difference, slot by slot; it may be negative.
    ///
    /// # Errors
    /// [`SlotError::Arithmetic`] for ∞ − ∞.
    pub fn sub(&self, other: &Self) -> Result<Self, SlotError> {
        let mut out = Self::new();
        for key in self.keys(other) {
            out.insert(key.clone(), self.get(key).sub(&other.get(key))?);
        }
        Ok(out)
    }

    /// Slot by slot the smaller amount, over the slots of `self`.
    #[must_use]
    pub fn capped_by(&self, other: &Self) -> Self {
        let mut out = Self::new();
        for (key, amount) in self.iter() {
            let cap = other.get(key);
            out.insert(key, if cap < *amount { cap } else { amount.clone() });
        }
        out
    }

    /// No slot is above the other's.
    pub fn le(&self, other: &Self) -> bool {
        self.keys(other).all(|k| self.get(k) <= other.get(k))
    }

    /// [`SlotMap::le`], and some slot is below.
    pub fn lt(&self, other: &Self) -> bool {
        self.le(other) && self != other
    }

    /// No slot is below the other's.
    pub fn ge(&self, other: &Self) -> bool {
        other.le(self)
    }

    /// [`SlotMap::ge`], and some slot is above.
    pub fn gt(&self, other: &Self) -> bool {
        other.lt(self)
    }

    /// Slots that both name are equal, and every slot that only `other` names is zero.
    pub fn eq_contains(&self, other: &Self) -> bool {
        other.iter().all(|(key, amount)| self.find(key).map_or_else(|| amount.is_zero(), |own| equal(own, amount)))
    }

    /// Slots that both name are equal, and every slot that only `self` names is zero.
    pub fn eq_contained(&self, other: &Self) -> bool {
        other.eq_contains(self)
    }

    /// `cpu=4 mem=1g`: for messages. Kinds of unknown slots are guessed.
    pub fn humanized(&self, types: &SlotTypes) -> String {
        let word = |(slot, amount): (&str, &Quantity)| {
            let kind = types.get(slot).copied().unwrap_or_else(|| SlotKind::guess(slot));
            format!("{slot}={}", kind.humanized(amount))
        };
        self.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    /// Each amount for people.
    ///
    /// # Errors
    /// [`SlotError::UnknownSlot`].
    pub fn humanized_map(&self, types: &SlotTypes) -> Result<IndexMap<String, String>, SlotError> {
        self.iter()
            .map(|(slot, amount)| {
                let kind = types.get(slot).ok_or_else(|| SlotError::UnknownSlot(slot.to_owned()))?;
                Ok((slot.to_owned(), kind.humanized(amount)))
            })
            .collect()
    }

    /// Amounts in contract units for the books of the database; unknown slots are guessed.
    ///
    /// # Errors
    /// [`SlotError::Value`] for amounts that are negative, infinite, no number, or too large.
    pub fn to_book(&self, types: &SlotTypes) -> Result<Vec<(String, i64)>, SlotError> {
        self.iter()
            .map(|(slot, amount)| {
                let kind = types.get(slot).copied().unwrap_or_else(|| SlotKind::guess(slot));
                let units = amount
                    .to_units(kind.scale())
                    .and_then(|units| i64::try_from(units).map_err(|_| QuantityError::TooLarge(amount.to_string())));
                let units = units.map_err(|e| SlotError::Value { slot: slot.to_owned(), source: e.into() })?;
                Ok((slot.to_owned(), units))
            })
            .collect()
    }
}

fn is_infinity(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "inf" | "infinity" | "-inf" | "-infinity")
}

fn decimal(value: &Json) -> Result<Quantity, ValueError> {
    match value {
        Json::String(text) => Ok(Quantity::from_str(text)?),
        Json::Number(number) => Ok(Quantity::from_str(&number.to_string())?),
        Json::Bool(b) => Ok(Quantity::int(u8::from(*b))),
        _ => Err(ValueError::Type),
    }
}

fn equal(a: &Quantity, b: &Quantity) -> bool {
    a.partial_cmp(b) == Some(std::cmp::Ordering::Equal)
}

/// Missing slots count as zero; `NaN` equals nothing.
impl PartialEq for SlotMap {
    fn eq(&self, other: &Self) -> bool {
        self.keys(other).all(|k| equal(&self.get(k), &other.get(k)))
    }
}

impl<K: Into<String>> FromIterator<(K, Quantity)> for SlotMap {
    fn from_iter<I: IntoIterator<Item = (K, Quantity)>>(iter: I) -> Self {
        Self(iter.into_iter().map(|(k, v)| (k.into(), v)).collect())
    }
}

/// The amounts of a map in contract units, in the order of `slots`: bytes, or thousandths;
/// infinity is `u64::MAX`.
///
/// # Errors
/// [`SlotError::Value`] for amounts that are negative, no number, or too large.
pub fn units(map: &SlotMap, slots: &[(String, SlotKind)]) -> Result<Vec<u64>, SlotError> {
    slots
        .iter()
        .map(|(slot, kind)| {
            map.get(slot).to_units(kind.scale()).map_err(|e| SlotError::Value { slot: slot.clone(), source: e.into() })
        })
        .collect()
}

/// The amount that contract units stand for.
pub fn from_units(kind: SlotKind, amount: u64) -> Quantity {
    match (amount, kind) {
        (u64::MAX, _) => Quantity::Infinity,
        (amount, SlotKind::Bytes) => Quantity::int(amount),
        (amount, _) => Quantity::Finite(crate::quantity::strip_zeros(&bigdecimal::BigDecimal::new(amount.into(), 3))),
    }
}
