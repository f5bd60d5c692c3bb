//! Resource presets.

use serde_json::Value as Json;

use crate::listing::{Conditions, Source};
use crate::{Result, Row, Sql};

const SOURCE: Source = Source {
    columns: "r.name, r.resource_slots, r.shared_memory",
    from: "resource_presets r",
    count_from: "resource_presets r",
    order: "r.name",
    unique: "r.name",
};

/// A resource preset.
#[derive(Clone, Debug)]
pub struct PresetItem {
    /// Its name.
    pub name: String,
    /// Slot → amount.
    pub resource_slots: Json,
    /// Bytes.
    pub shared_memory: Option<i64>,
}

fn read(row: &Row) -> Result<PresetItem> {
    Ok(PresetItem {
        name: row.get("name")?,
        resource_slots: row.json("resource_slots")?,
        shared_memory: row.get("shared_memory")?,
    })
}

/// Presets by name; all of them without one.
///
/// # Errors
/// The database's.
pub async fn select<S: Sql>(sql: &mut S, name: Option<&str>) -> Result<Vec<PresetItem>> {
    let mut conditions = Conditions::new(sql.dialect());
    if let Some(name) = name {
        conditions.equal("r.name", name);
    }
    crate::listing::select(sql, &SOURCE, conditions, i64::MAX, read).await
}
