//! Read models: rows as lists and object graphs show them, joined and counted by the database.
//!
//! Every function here takes a constant number of statements, however many rows it answers with;
//! the functions that take a slice of keys answer for all of them at once.

pub mod agents;
pub mod containers;
pub mod keypairs;
pub mod legacy_sessions;
pub mod sessions;
pub mod users;
pub mod vfolders;

#[cfg(test)]
mod tests;

use quarterdeck_model::Timestamp;

use crate::{Result, Row};

/// A required instant.
fn instant(row: &Row, column: &str) -> Result<Timestamp> {
    Ok(Timestamp(row.get(column)?))
}

/// An instant that may be missing.
fn instant_opt(row: &Row, column: &str) -> Result<Option<Timestamp>> {
    Ok(row.get::<Option<i64>>(column)?.map(Timestamp))
}

/// Session statuses, in the order by which they sort.
pub(crate) const SESSION_STATUS: &[(&str, &str)] = &[
    ("PENDING", "PENDING"),
    ("SCHEDULED", "SCHEDULED"),
    ("PULLING", "PULLING"),
    ("PREPARING", "PREPARING"),
    ("RUNNING", "RUNNING"),
    ("RESTARTING", "RESTARTING"),
    ("RUNNING_DEGRADED", "RUNNING_DEGRADED"),
    ("TERMINATING", "TERMINATING"),
    ("TERMINATED", "TERMINATED"),
    ("ERROR", "ERROR"),
    ("CANCELLED", "CANCELLED"),
];

/// Kernel statuses, in the order by which they sort.
pub(crate) const KERNEL_STATUS: &[(&str, &str)] = &[
    ("PENDING", "PENDING"),
    ("SCHEDULED", "SCHEDULED"),
    ("PREPARING", "PREPARING"),
    ("BUILDING", "BUILDING"),
    ("PULLING", "PULLING"),
    ("RUNNING", "RUNNING"),
    ("RESTARTING", "RESTARTING"),
    ("RESIZING", "RESIZING"),
    ("SUSPENDED", "SUSPENDED"),
    ("TERMINATING", "TERMINATING"),
    ("TERMINATED", "TERMINATED"),
    ("ERROR", "ERROR"),
    ("CANCELLED", "CANCELLED"),
];

/// Agent statuses, in the order by which they sort.
pub(crate) const AGENT_STATUS: &[(&str, &str)] =
    &[("ALIVE", "ALIVE"), ("LOST", "LOST"), ("RESTARTING", "RESTARTING"), ("TERMINATED", "TERMINATED")];
