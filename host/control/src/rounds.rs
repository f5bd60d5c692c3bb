//! The flight recorder's rounds: looking at them, taking them along, playing them again.

use std::sync::Arc;

use quarterdeck_model::policy::PluginKind;
use quarterdeck_plugin::{Meter, Plugin};
use quarterdeck_store::plugins as revisions;
use quarterdeck_store::rounds::{self, Filter, RoundRow};
use serde::Serialize;
use serde_json::{Map, Value as Json};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};
use crate::principal::Principal;
use crate::schedule::{
    Change, Changes, Decisions, Difference, Fate, Pseudonyms, Reason, RecordedBooks, RecordedPlugin, Recording, Replay,
    RoundMetrics,
};
use crate::{Control, plugins, secrets};

/// Rounds that one page, one export or one look may have at most.
pub const MAX_ROUNDS: i64 = 1000;
/// Fuel that one replay may be given at most.
pub const MAX_FUEL: u64 = 10 * crate::schedule::REPLAY_FUEL;
/// Changes that a comparison lists at most.
pub const MAX_CHANGES: usize = 1000;
/// Replays that run at once; further ones wait.
const REPLAYS: usize = 2;
/// Replays that run or wait; further ones are turned away.
const REPLAYS_WAITING: usize = 16;
/// Where the key to this site's pseudonyms is kept.
const PSEUDONYM_KEY: &str = "rounds.pseudonym-key";

/// Turns replays away when there are too many.
#[derive(Debug)]
pub struct Replays {
    running: Semaphore,
    waiting: Semaphore,
}

impl Default for Replays {
    fn default() -> Self {
        Self { running: Semaphore::new(REPLAYS), waiting: Semaphore::new(REPLAYS_WAITING) }
    }
}

fn superadmin(caller: &Principal) -> Result<()> {
    if caller.is_superadmin() {
        Ok(())
    } else {
        Err(Error::InsufficientPrivilege("Only superadmins may look at recorded rounds.".to_owned()))
    }
}

fn no_such_round(id: i64) -> Error {
    Error::not_found_msg("round", format!("the ring holds no round {id}"))
}

fn not_recorded(id: i64) -> Error {
    let why = format!("round {id} was not recorded, or is so old that only its summary is left");
    Error::not_found_msg("recording", why)
}

/// Rounds of the ring, newest first; at most `limit` (see [`MAX_ROUNDS`]) of them.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::Store`].
pub async fn list(control: &Control, caller: &Principal, filter: &Filter, limit: i64) -> Result<Vec<RoundRow>> {
    superadmin(caller)?;
    Ok(rounds::list(&mut control.store().reader(), filter, limit.clamp(1, MAX_ROUNDS)).await?)
}

/// A round with everything that is known of it.
#[derive(Debug)]
pub struct Shown {
    /// Its summary.
    pub row: RoundRow,
    /// Its recording, if there is one.
    pub recording: Option<Arc<Recording>>,
}

/// One round.
///
/// # Errors
/// [`Error::NotFound`], [`Error::InsufficientPrivilege`], and [`Error::InvalidParams`] for a recording in another format.
pub async fn show(control: &Control, caller: &Principal, id: i64) -> Result<Shown> {
    superadmin(caller)?;
    let row = rounds::get(&mut control.store().reader(), id).await?.ok_or_else(|| no_such_round(id))?;
    let recording = match row.bytes {
        Some(_) => read(control, id).await?.map(Arc::new),
        None => None,
    };
    Ok(Shown { row, recording })
}

/// The recording of a round.
async fn read(control: &Control, id: i64) -> Result<Option<Recording>> {
    let Some(bytes) = rounds::recording(&mut control.store().reader(), id).await? else { return Ok(None) };
    blocking(move || {
        let mut recording = Recording::from_bytes(&bytes)?;
        recording.id = Some(id);
        Ok(Some(recording))
    })
    .await
}

/// Reading and playing recordings takes processor time, which the runtime's own threads haven't got.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::Internal(format!("work on a round broke off: {e}")))?
}

async fn recording(control: &Control, id: i64) -> Result<Recording> {
    match read(control, id).await? {
        Some(recording) => Ok(recording),
        None if rounds::get(&mut control.store().reader(), id).await?.is_some() => Err(not_recorded(id)),
        None => Err(no_such_round(id)),
    }
}

/// Ids of the recorded rounds that `filter` lets through, oldest first.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::Store`].
pub async fn recorded(control: &Control, caller: &Principal, filter: Filter, limit: i64) -> Result<Vec<i64>> {
    let rows = list(control, caller, &Filter { recorded: true, ..filter }, limit).await?;
    Ok(rows.into_iter().rev().map(|row| row.id).collect())
}

/// Whether all these rounds are there with a recording.
///
/// # Errors
/// [`Error::NotFound`] for the first that isn't, [`Error::InsufficientPrivilege`], [`Error::Store`].
pub async fn all_recorded(control: &Control, caller: &Principal, ids: &[i64]) -> Result<()> {
    superadmin(caller)?;
    let mut sql = control.store().reader();
    for id in ids {
        match rounds::get(&mut sql, *id).await? {
            Some(row) if row.bytes.is_some() => {}
            Some(_) => return Err(not_recorded(*id)),
            None => return Err(no_such_round(*id)),
        }
    }
    Ok(())
}

/// How recordings are exported.
#[derive(Debug, Default)]
pub struct Export {
    key: Option<Vec<u8>>,
    compress: bool,
}

impl Export {
    /// With names, or with this site's pseudonyms for them; plain, or each line as a frame of zstd (frames in a row are
    /// one stream).
    ///
    /// # Errors
    /// [`Error::InsufficientPrivilege`], [`Error::Store`].
    pub async fn begin(control: &Control, caller: &Principal, pseudonymise: bool, compress: bool) -> Result<Self> {
        superadmin(caller)?;
        if !pseudonymise {
            return Ok(Self { key: None, compress });
        }
        let key = secrets::of(control.store(), PSEUDONYM_KEY).await?;
        Ok(Self { key: Some(key.into_bytes()), compress })
    }

    /// A recorded round as one line of JSON, with its line end; `None` when the ring has dropped it meanwhile, or when it
    /// has another format.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Internal`].
    pub async fn line(&self, control: &Control, id: i64) -> Result<Option<Vec<u8>>> {
        let mut recording = match read(control, id).await {
            Ok(Some(recording)) => recording,
            Ok(None) => return Ok(None),
            // An export of many must not end at one that an older release wrote.
            Err(Error::InvalidParams { msg, .. }) => {
                tracing::info!(round = id, msg, "a recording is left out of an export");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if let Some(key) = &self.key {
            let mut pseudonyms = Pseudonyms::new(key);
            for plugin in
                [Some(&recording.plugin), recording.fallback.as_ref().map(|f| &f.plugin)].into_iter().flatten()
            {
                if let Some(row) = revisions::revision(&mut control.store().reader(), &plugin.digest).await? {
                    pseudonyms.allow_words_of(&row.info["config_schema"]);
                }
            }
            pseudonyms.hide(&mut recording);
        }
        let compress = self.compress;
        let line = blocking(move || {
            let broken = |e: &dyn std::fmt::Display| Error::Internal(format!("a recording can't be exported: {e}"));
            let mut line = serde_json::to_vec(&recording).map_err(|e| broken(&e))?;
            line.push(b'\n');
            if compress { zstd::bulk::compress(&line, 3).map_err(|e| broken(&e)) } else { Ok(line) }
        });
        line.await.map(Some)
    }
}

/// A policy that is to play a round.
#[derive(Clone, Debug, Default)]
pub struct Candidate {
    /// `NAME`, `NAME@VERSION`, or the first 8 or more digits of a digest; `None`: the round's own.
    pub plugin: Option<String>,
    /// Its configuration; `None`: the round's own for its own plugin, and none for others.
    pub config: Option<Map<String, Json>>,
}

/// One side of a comparison.
#[derive(Clone, Debug)]
pub enum Side {
    /// What was decided then.
    Recorded,
    /// What a policy decides now.
    Candidate(Candidate),
}

/// Decisions about a round, and where they come from.
#[derive(Clone, Debug, Serialize)]
pub struct Take {
    /// The policy and its configuration.
    pub plugin: RecordedPlugin,
    /// How it went, unless these are the recorded decisions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    #[serde(skip)]
    decisions: Decisions,
}

/// Two takes of one round.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// The round.
    pub id: Option<i64>,
    /// The scaling group.
    pub scaling_group: String,
    /// What is compared.
    pub left: Take,
    /// With what.
    pub right: Take,
    /// Whether both decided the same about every session, in the same order.
    pub same: bool,
    /// How many sessions fare differently.
    pub counts: Changes,
    /// The first turn at which another session had it.
    pub order_parts_at: Option<u32>,
    /// What the left decisions come to.
    pub left_metrics: RoundMetrics,
    /// What the right decisions come to.
    pub right_metrics: RoundMetrics,
    /// The sessions that fare differently, by name; at most [`MAX_CHANGES`].
    pub changes: Vec<NamedChange>,
    /// How many more there are.
    pub left_out: usize,
}

impl Compared {
    /// Compares two takes of `recording`. Their steps are dropped: many comparisons fit into memory, many rounds don't.
    pub fn new(recording: &Recording, mut left: Take, mut right: Take) -> Self {
        let difference = Difference::between(&left.decisions, &right.decisions, &recording.snapshot);
        for take in [&mut left, &mut right] {
            take.decisions = Decisions::default();
            if let Some(replay) = &mut take.replay {
                replay.steps = Vec::new();
            }
        }
        Self {
            id: recording.id,
            scaling_group: recording.scaling_group.clone(),
            same: difference.is_empty(),
            counts: difference.changes(),
            order_parts_at: difference.order_parts_at,
            changes: difference.sessions.iter().take(MAX_CHANGES).map(|c| NamedChange::of(recording, c)).collect(),
            left_out: difference.sessions.len().saturating_sub(MAX_CHANGES),
            left_metrics: difference.left,
            right_metrics: difference.right,
            left,
            right,
        }
    }
}

impl Take {
    /// What was decided then.
    pub fn recorded(recording: &Recording) -> Self {
        let plugin = recording.fallback.as_ref().map_or(&recording.plugin, |fallback| &fallback.plugin);
        Self { plugin: plugin.clone(), replay: None, decisions: recording.decisions() }
    }

    /// What a policy decides now, metered by `fuel`. Takes as long as that lasts.
    pub fn replayed(recording: &Recording, plugin: &Plugin, config: &str, fuel: u64) -> Self {
        let replay = recording.replay(plugin, config, Meter::Fuel(fuel));
        Self { plugin: RecordedPlugin::of(plugin, config), decisions: replay.decisions(), replay: Some(replay) }
    }
}

/// Plays a round once more and compares. The policy's decisions are checked by the books of the recording; nothing is
/// written.
///
/// # Errors
/// [`Error::NotFound`] for an unknown round or policy, [`Error::InvalidParams`] for a configuration that the policy
/// refuses, [`Error::Unavailable`] when too many replays wait already. A policy that fails is an answer, not an error.
pub async fn compare(
    control: &Control,
    caller: &Principal,
    id: i64,
    left: Side,
    right: Side,
    fuel: u64,
) -> Result<Compared> {
    superadmin(caller)?;
    let replays = control.replays();
    let too_many = |_| Error::Unavailable("too many replays are waiting already; try again later".to_owned());
    let _waiting = replays.waiting.try_acquire().map_err(too_many)?;
    let recording = recording(control, id).await?;
    let left = resolve(control, &recording, left).await?;
    let right = resolve(control, &recording, right).await?;
    let _running =
        replays.running.acquire().await.map_err(|e| Error::Internal(format!("replays can't be counted: {e}")))?;
    blocking(move || {
        let take = |side: Option<(Arc<Plugin>, String)>| match side {
            None => Take::recorded(&recording),
            Some((plugin, config)) => Take::replayed(&recording, &plugin, &config, fuel),
        };
        let (left, right) = (take(left), take(right));
        Ok(Compared::new(&recording, left, right))
    })
    .await
}

/// The policy of a side with its configuration; `None`: the recorded decisions.
async fn resolve(control: &Control, recording: &Recording, side: Side) -> Result<Option<(Arc<Plugin>, String)>> {
    let Side::Candidate(candidate) = side else { return Ok(None) };
    let reference = candidate.plugin.as_deref().unwrap_or(&recording.plugin.digest);
    let (revision, kind) = plugins::find(&mut control.store().reader(), reference).await?;
    if kind != PluginKind::Scheduler {
        return Err(Error::invalid(format!("{} is no scheduler: it can't play a round.", revision.name)));
    }
    let config = match candidate.config {
        Some(config) => Json::Object(config).to_string(),
        None if revision.name == recording.plugin.name => recording.plugin.config.clone(),
        None => "{}".to_owned(),
    };
    let plugin = control.policies().plugin(&revision.digest).await?;
    let checked = Arc::clone(&plugin);
    blocking(move || {
        checked.check_config(&config).map_err(|objection| {
            Error::invalid(format!("{} refuses the configuration: {objection}", checked.info.name))
        })?;
        Ok(Some((checked, config)))
    })
    .await
}

/// A session's fate, with names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedFate {
    /// `untouched`, `placed`, `deferred` or `refused`.
    pub fate: &'static str,
    /// The agents of a placed session, one per kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
    /// What was lacking, or why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl std::fmt::Display for NamedFate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.fate)?;
        if !self.agents.is_empty() {
            write!(f, " on {}", self.agents.join(", "))?;
        }
        self.why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

/// A session that fares differently, with names.
#[derive(Clone, Debug, Serialize)]
pub struct NamedChange {
    /// The session's id.
    pub session: String,
    /// Its name.
    pub name: String,
    /// On the left.
    pub left: NamedFate,
    /// On the right.
    pub right: NamedFate,
}

/// What became of a session of a recorded round, and what its user was told.
#[derive(Clone, Debug, Serialize)]
pub struct NamedDecision {
    /// The session's id.
    pub session: String,
    /// Its name.
    pub name: String,
    /// Its owner's access key.
    pub owner: String,
    /// What became of it.
    #[serde(flatten)]
    pub fate: NamedFate,
    /// The host's words; missing for untouched sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

fn named(recording: &Recording, fate: &Fate) -> NamedFate {
    let agent = |row: &u32| recording.facts.agents.get(*row as usize).map_or_else(String::new, |a| a.id.clone());
    let (agents, why) = match fate {
        Fate::Untouched => (Vec::new(), None),
        Fate::Placed(agents) => (agents.iter().map(agent).collect(), None),
        Fate::Deferred(lack) => (Vec::new(), Some(kebab(&format!("{lack:?}")))),
        Fate::Refused(refusal) => (Vec::new(), Some(kebab(&format!("{refusal:?}")))),
    };
    NamedFate { fate: fate.word(), agents, why }
}

/// The contract's spelling of a case: its `Debug` form is `Lack::NoRoom` or `NoRoom`.
fn kebab(case: &str) -> String {
    let word = case.rsplit("::").next().unwrap_or(case);
    let mut out = String::with_capacity(word.len() + 4);
    for (i, c) in word.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

impl NamedChange {
    fn of(recording: &Recording, change: &Change) -> Self {
        let session = &recording.facts.sessions[change.session as usize];
        Self {
            session: session.id.clone(),
            name: session.name.clone(),
            left: named(recording, &change.left),
            right: named(recording, &change.right),
        }
    }
}

/// What was decided in a recorded round, in the order of the turns and then of the rows, with the host's reasons.
pub fn decisions(recording: &Recording) -> Vec<NamedDecision> {
    use quarterdeck_plugin::Judge as _;
    let decisions = recording.decisions();
    let steps = recording.fallback.as_ref().map_or(&recording.steps, |fallback| &fallback.steps);
    let mut books = RecordedBooks::new(recording);
    for step in steps {
        books.judge(&step.proposals);
    }
    let mut reasons: std::collections::HashMap<u32, Reason> =
        books.reasons().into_iter().map(|reason| (reason.session, reason)).collect();
    let untouched = (0..decisions.fates.len()).filter(|row| decisions.fates[*row] == Fate::Untouched);
    let rows: Vec<u32> = decisions.order.iter().copied().chain(untouched.map(|row| row as u32)).collect();
    rows.into_iter()
        .map(|row| {
            let facts = &recording.facts.sessions[row as usize];
            let owner = recording.snapshot.pending.owner[row as usize] as usize;
            NamedDecision {
                session: facts.id.clone(),
                name: facts.name.clone(),
                owner: recording.facts.owners[owner].id.clone(),
                fate: named(recording, &decisions.fates[row as usize]),
                reason: reasons.remove(&row),
            }
        })
        .collect()
}

/// What the decisions of a recorded round come to.
pub fn metrics(recording: &Recording) -> RoundMetrics {
    RoundMetrics::of(&recording.decisions(), &recording.snapshot)
}
