//! Recordings of rounds: what a policy was shown, what it proposed, what it was told.

use quarterdeck_model::Timestamp;
use quarterdeck_plugin::scheduling::{Outcome, Proposal, Snapshot};
use serde::{Deserialize, Serialize};

use super::books::Exchange;
use super::frame::Frame;
use crate::error::{Error, Result};
use crate::policies::Bound;

/// Version of the form of recordings.
pub const FORMAT: u32 = 1;

/// Everything needed to run a round again and compare.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recording {
    /// The form: [`FORMAT`].
    pub format: u32,
    /// The scaling group.
    pub scaling_group: String,
    /// When the round began.
    pub at: Timestamp,
    /// The policy that was asked.
    pub plugin: RecordedPlugin,
    /// What it was shown.
    pub snapshot: Snapshot,
    /// Ids of the rows of `snapshot.pending`.
    pub sessions: Vec<String>,
    /// Ids of the rows of `snapshot.agents`.
    pub agents: Vec<String>,
    /// What it proposed and was told, chunk by chunk.
    pub steps: Vec<Step>,
    /// `ok`, or how the policy failed.
    pub outcome: String,
}

/// The policy of a [`Recording`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordedPlugin {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the component.
    pub digest: String,
    /// Its configuration, JSON.
    pub config: String,
}

/// One chunk of proposals and the verdicts on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// What the policy proposed.
    pub proposals: Vec<Proposal>,
    /// What it was told.
    pub outcomes: Vec<Outcome>,
}

impl Recording {
    pub(crate) fn new(frame: &Frame, bound: &Bound, snapshot: Snapshot, steps: Vec<Exchange>, outcome: &str) -> Self {
        Self {
            format: FORMAT,
            scaling_group: frame.group.clone(),
            at: frame.now,
            plugin: RecordedPlugin {
                name: bound.plugin.info.name.clone(),
                version: bound.plugin.info.version.clone(),
                digest: bound.plugin.digest.clone(),
                config: bound.config.clone(),
            },
            snapshot,
            sessions: frame.pending.iter().map(|s| s.row.id.to_string()).collect(),
            agents: frame.agents.iter().map(|a| a.id.to_string()).collect(),
            steps: steps.into_iter().map(|(proposals, outcomes)| Step { proposals, outcomes }).collect(),
            outcome: outcome.to_owned(),
        }
    }

    /// As stored: compressed JSON.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let broken = |e: &dyn std::fmt::Display| Error::Internal(format!("a round can't be recorded: {e}"));
        let json = serde_json::to_vec(self).map_err(|e| broken(&e))?;
        zstd::bulk::compress(&json, 3).map_err(|e| broken(&e))
    }

    /// Reads what [`Recording::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`Error::Internal`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let broken = |e: &dyn std::fmt::Display| Error::Internal(format!("a recording can't be read: {e}"));
        let json = zstd::stream::decode_all(bytes).map_err(|e| broken(&e))?;
        serde_json::from_slice(&json).map_err(|e| broken(&e))
    }
}
