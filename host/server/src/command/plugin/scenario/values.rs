//! Amounts, durations and times as scenarios have them.

use anyhow::{Context as _, anyhow};
use indexmap::IndexMap;
use quarterdeck_model::duration::Duration;
use quarterdeck_model::slots::{SlotKind, SlotMap, units};
use quarterdeck_plugin::types;
use serde_json::Value as Json;

/// Amounts by the names of slots: `{cpu: 4, mem: 16g}`.
pub(super) type Slots = IndexMap<String, Json>;

/// The slots of a scenario, in the order in which they first occur.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<(String, SlotKind)>);

impl Table {
    /// Takes in the slots that some amounts name.
    pub(super) fn note(&mut self, amounts: &Slots) {
        for name in amounts.keys() {
            if !self.0.iter().any(|(known, _)| known == name) {
                self.0.push((name.clone(), kind(name)));
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Amounts in the contract's units; `absent` for slots that aren't named.
    pub(super) fn units(&self, amounts: &Slots, absent: u64) -> anyhow::Result<Vec<u64>> {
        let mut map = SlotMap::new();
        for (name, amount) in amounts {
            let quantity = kind(name).read(amount).with_context(|| format!("{name}: {amount}"))?;
            map.insert(name.clone(), quantity);
        }
        let all = units(&map, &self.0)?;
        let named = self.0.iter().map(|(name, _)| amounts.contains_key(name));
        Ok(all.into_iter().zip(named).map(|(amount, named)| if named { amount } else { absent }).collect())
    }

    /// As the contract has them.
    pub(super) fn contract(&self) -> Vec<types::Slot> {
        let kind = |kind| match kind {
            SlotKind::Count => types::SlotKind::Count,
            SlotKind::Bytes => types::SlotKind::Bytes,
            SlotKind::Unique => types::SlotKind::Unique,
        };
        self.0.iter().map(|(name, of)| types::Slot { name: name.clone(), kind: kind(*of) }).collect()
    }
}

/// Devices are named so; of the rest the host has a guess of its own.
fn kind(name: &str) -> SlotKind {
    if name.ends_with(".device") { SlotKind::Unique } else { SlotKind::guess(name) }
}

/// Milliseconds of a duration such as `90s`, `10m`, `2h`.
pub(super) fn millis(value: &Json) -> anyhow::Result<i64> {
    Duration::parse(value).map(Duration::millis).map_err(|error| anyhow!("{value} is no duration: {error}"))
}

/// Milliseconds of a duration that can't be negative.
pub(super) fn span(value: &Json) -> anyhow::Result<u64> {
    u64::try_from(millis(value)?).with_context(|| format!("{value} is negative"))
}

/// A time: RFC 3339, or milliseconds since 1970-01-01 UTC.
pub(super) fn time(value: Option<&Json>) -> anyhow::Result<Moment> {
    Ok(match value {
        None => Moment { ms: 1_767_225_600_000, offset_s: 0 },
        Some(Json::String(text)) => {
            let at = chrono::DateTime::parse_from_rfc3339(text).with_context(|| format!("{text} is no time"))?;
            Moment { ms: at.timestamp_millis(), offset_s: at.offset().local_minus_utc() }
        }
        Some(other) => Moment { ms: other.as_i64().with_context(|| format!("{other} is no time"))?, offset_s: 0 },
    })
}

/// A time with its offset from UTC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub ms: i64,
    pub offset_s: i32,
}

/// Optional columns from single cells; rows without one get nothing of it.
pub(super) fn columns<'a>(
    rows: usize,
    cells: impl Iterator<Item = (usize, &'a IndexMap<String, Json>)>,
) -> anyhow::Result<Vec<types::Column>> {
    let mut columns: Vec<types::Column> = Vec::new();
    for (row, cells) in cells {
        for (name, value) in cells {
            let index = match columns.iter().position(|column| column.name == *name) {
                Some(index) => index,
                None => {
                    let data = match value {
                        Json::String(_) => types::ColumnData::Texts(vec![String::new(); rows]),
                        Json::Number(number) if !number.is_u64() => types::ColumnData::Decimals(vec![0.0; rows]),
                        _ => types::ColumnData::Integers(vec![0; rows]),
                    };
                    columns.push(types::Column { name: name.clone(), data });
                    columns.len() - 1
                }
            };
            let wrong = || anyhow!("{value} doesn't fit the column {name}: its first value has another type");
            match &mut columns[index].data {
                types::ColumnData::Texts(cells) => cells[row] = value.as_str().ok_or_else(wrong)?.to_owned(),
                types::ColumnData::Decimals(cells) => cells[row] = value.as_f64().ok_or_else(wrong)?,
                types::ColumnData::Integers(cells) => {
                    cells[row] = value.as_u64().or_else(|| value.as_bool().map(u64::from)).ok_or_else(wrong)?;
                }
            }
        }
    }
    Ok(columns)
}

/// The contract's name of a case: `NoRoom` is `no-room`.
pub(super) fn word(case: impl serde::Serialize) -> String {
    let name = serde_json::to_value(case).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// The configuration of a scenario that has none.
pub(super) fn no_options() -> Json {
    Json::Object(serde_json::Map::new())
}
