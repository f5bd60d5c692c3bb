//! Resource presets: named slot maps that clients offer to people.

use serde_json::Value as Json;

use crate::changes::{self, PRESET};
use crate::error::Result;
use crate::sql::{Row, Sql, Stmt};
use crate::update::Update;

/// A preset.
#[derive(Clone, Debug, PartialEq)]
pub struct PresetRow {
    /// Its name, which identifies it.
    pub name: String,
    /// Slot → amount, decimal texts.
    pub resource_slots: Json,
    /// Bytes; `None` = unset.
    pub shared_memory: Option<i64>,
}

/// Changes to a preset; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct PresetChanges {
    /// See [`PresetRow::resource_slots`].
    pub resource_slots: Option<Json>,
    /// See [`PresetRow::shared_memory`]; `Some(None)` unsets.
    pub shared_memory: Option<Option<i64>>,
}

fn row(row: &Row) -> Result<PresetRow> {
    Ok(PresetRow {
        name: row.get("name")?,
        resource_slots: row.json("resource_slots")?,
        shared_memory: row.get("shared_memory")?,
    })
}

/// One preset.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn get<S: Sql>(sql: &mut S, name: &str) -> Result<Option<PresetRow>> {
    let stmt = Stmt::new("SELECT name, resource_slots, shared_memory FROM resource_presets WHERE name = $1").bind(name);
    sql.fetch_optional(stmt).await?.as_ref().map(row).transpose()
}

/// All presets, by name.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn list<S: Sql>(sql: &mut S) -> Result<Vec<PresetRow>> {
    let stmt = Stmt::new("SELECT name, resource_slots, shared_memory FROM resource_presets ORDER BY name");
    sql.fetch_all(stmt).await?.iter().map(row).collect()
}

/// Adds a preset.
///
/// # Errors
/// A unique violation when the name is taken.
pub async fn insert<S: Sql>(sql: &mut S, preset: &PresetRow) -> Result<()> {
    let stmt = Stmt::new("INSERT INTO resource_presets (name, resource_slots, shared_memory) VALUES ($1, $2, $3)")
        .bind(&preset.name)
        .bind(&preset.resource_slots)
        .bind(preset.shared_memory);
    changes::execute(sql, &PRESET, PRESET.row(&preset.name), stmt).await?;
    Ok(())
}

/// Changes a preset; how many there were (0 or 1), or `None` when there is nothing to change.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn update<S: Sql>(sql: &mut S, name: &str, changes: &PresetChanges) -> Result<Option<u64>> {
    let update = Update::new("resource_presets")
        .maybe("resource_slots", changes.resource_slots.as_ref())
        .maybe("shared_memory", changes.shared_memory);
    if update.is_empty() {
        return Ok(None);
    }
    update.run(sql, &PRESET, name).await.map(Some)
}

/// Removes a preset; how many there were (0 or 1).
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn delete<S: Sql>(sql: &mut S, name: &str) -> Result<u64> {
    let stmt = Stmt::new("DELETE FROM resource_presets WHERE name = $1").bind(name);
    changes::execute(sql, &PRESET, PRESET.row(name), stmt).await
}

/// One slot of an agent that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// The agent's scaling group.
    pub scaling_group: String,
    /// The agent.
    pub agent: String,
    /// The slot.
    pub slot: String,
    /// What the agent offers, in contract units.
    pub capacity: i64,
    /// What its kernels hold.
    pub occupied: i64,
}

/// The books of the agents of several scaling groups that are alive, by agent.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn room<S: Sql>(sql: &mut S, scaling_groups: &[String]) -> Result<Vec<Room>> {
    let stmt = Stmt::among(
        "SELECT a.scaling_group, a.id, s.slot, s.capacity, s.occupied FROM agents a \
         JOIN agent_slots s ON s.agent_id = a.id WHERE a.status = 'ALIVE' AND a.scaling_group IN {list} ORDER BY a.id",
        scaling_groups,
    );
    sql.fetch_all(stmt)
        .await?
        .iter()
        .map(|r| {
            Ok(Room {
                scaling_group: r.get("scaling_group")?,
                agent: r.get("id")?,
                slot: r.get("slot")?,
                capacity: r.get("capacity")?,
                occupied: r.get("occupied")?,
            })
        })
        .collect()
}

/// Scaling group and slot map of each kernel that counts against its user.
///
/// # Errors
/// [`crate::Error::Sqlx`].
pub async fn held_by_user<S: Sql>(sql: &mut S, user: quarterdeck_model::UserId) -> Result<Vec<(String, Json)>> {
    let stmt = Stmt::new(
        "SELECT s.scaling_group, k.occupied_slots FROM sessions s JOIN kernels k ON k.session_id = s.id \
         WHERE s.user_id = $1 AND s.status NOT IN ('TERMINATED', 'CANCELLED') \
         AND k.status NOT IN ('PENDING', 'TERMINATING', 'TERMINATED', 'CANCELLED')",
    )
    .bind(user.to_string());
    sql.fetch_all(stmt).await?.iter().map(|r| Ok((r.get("scaling_group")?, r.json("occupied_slots")?))).collect()
}
