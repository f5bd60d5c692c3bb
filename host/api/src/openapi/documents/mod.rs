//! The documents of our own API, as `/openapi.json` describes them. Handlers write them down as JSON.

mod audit;
mod explain;
mod rounds;
mod shadow;

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

pub use audit::{Audit, AuditEntry};
pub use explain::{DryRun, DryRunRequest, PlacedKernel, Position, Why};
pub use rounds::{Candidate, Compared, DiffRequest, ReplayRequest, Round, Rounds};
pub use shadow::{Figures, PromoteRequest, Rested, Shadow, ShadowRun, ShadowRuns, Shadows};

/// What went wrong (RFC 9457).
#[derive(Debug, ToSchema)]
pub struct Problem {
    /// A URL that names the kind of problem.
    pub r#type: String,
    /// The kind of problem in words.
    pub title: String,
    /// What went wrong with this request.
    pub msg: Option<String>,
    /// More for programs. For refused parameters: field (or JSON pointer) to what is wrong with it.
    pub data: Option<Value>,
}

/// Whether the process answers.
#[derive(Debug, ToSchema)]
pub struct Alive {
    /// Always true.
    pub alive: bool,
}

/// Whether to send requests to this host.
#[derive(Debug, ToSchema)]
pub struct Ready {
    /// Nothing keeps it from its work.
    pub ready: bool,
    /// What does, in words for operators.
    pub faults: Vec<String>,
    /// Plugins that don't serve as they should; by itself that keeps no host from its work.
    pub plugins: Vec<Trouble>,
}

/// A plugin that doesn't serve as it should.
#[derive(Debug, ToSchema)]
pub struct Trouble {
    /// The plugin.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// Its component.
    pub digest: String,
    /// Whom it should serve.
    pub target: Target,
    /// What serves in its place, if anything.
    pub instead: Option<String>,
    /// Why.
    pub reason: String,
    /// Whether operations are refused for want of it.
    pub blocks: bool,
}

/// Whom a plugin serves.
#[derive(Debug, ToSchema)]
pub struct Target {
    /// `scaling-group`, `domain` or `everywhere`.
    pub kind: String,
    /// The scaling group's or domain's name; left out for everybody.
    pub name: Option<String>,
}

/// A stored component.
#[derive(Debug, ToSchema)]
pub struct Revision {
    /// Lower-case hexadecimal SHA-256 of the component.
    pub digest: String,
    /// The plugin's own name.
    pub name: String,
    /// Its semantic version.
    pub version: String,
    /// `scheduler`, `idle-checker` or `hook`; nothing before it is verified.
    pub kind: Option<String>,
    /// One line about it.
    pub summary: String,
    /// What else it says about itself: `config_schema`, `columns`, `events`.
    pub info: Value,
    /// Bytes of the component.
    pub size_bytes: i64,
    /// Shipped with the host.
    pub builtin: bool,
    /// `incoming`, `ready`, `suspended` or `failed`.
    pub status: String,
    /// Why it doesn't serve.
    pub status_reason: Option<String>,
    /// E-mail address, or `host`.
    pub uploaded_by: String,
    /// When.
    pub uploaded_at: String,
    /// Whom it serves. In lists and inspections.
    pub bindings: Option<Vec<Binding>>,
    /// Failures in a row on the answering host. In lists and inspections.
    pub failures: Option<u32>,
    /// Its last calls on the answering host. In lists and inspections.
    pub recent: Option<Recent>,
    /// How far it has come: the step that is under way, or the last. In lists and inspections.
    pub stage: Option<String>,
    /// Whom it serves without a binding, by its name alone. In lists and inspections.
    pub by_name: Option<Vec<Target>>,
    /// Whose signature it bears. In lists and inspections.
    pub signature: Option<Signature>,
    /// The steps of its life, oldest first. In inspections.
    pub steps: Option<Vec<Step>>,
}

/// How calls of a plugin went.
#[derive(Debug, ToSchema)]
pub struct Recent {
    /// How many there were.
    pub calls: u32,
    /// How many of them failed.
    pub failed: u32,
}

/// A step in the life of a component.
#[derive(Debug, ToSchema)]
pub struct Step {
    /// Orders the steps.
    pub id: i64,
    /// `uploaded`, `verified`, `compiled`, `self-tested`, `shadow`, `active`, `retired` or `suspended`.
    pub step: String,
    /// `running`, `ok` or `failed`.
    pub status: String,
    /// The host that took it.
    pub host: String,
    /// When it began.
    pub at: String,
    /// How long it took; nothing while it runs.
    pub duration_ms: Option<f64>,
    /// E-mail address, or what acted.
    pub actor: String,
    /// Why it failed, or what is to be known about it.
    pub reason: Option<String>,
}

/// A plugin revision that serves somebody.
#[derive(Debug, ToSchema)]
pub struct Binding {
    /// Its id.
    pub id: String,
    /// Whom it serves.
    pub target: Target,
    /// The configuration.
    pub config: BTreeMap<String, Value>,
    /// Place in the order of calls; by name without one.
    pub order: Option<i64>,
    /// `live` or `shadow`.
    pub mode: String,
    /// Hooks: `fail-closed` or `fail-open`.
    pub failure_policy: String,
    /// E-mail address, or what bound it.
    pub bound_by: String,
    /// When.
    pub bound_at: String,
}

/// What a push did.
#[derive(Debug, ToSchema)]
pub struct Pushed {
    /// The component as it is stored.
    pub revision: Revision,
    /// Whether it is new here.
    pub created: bool,
    /// The steps of its life, oldest first.
    pub steps: Vec<Step>,
}

/// What to bind to whom.
#[derive(Debug, ToSchema)]
pub struct BindRequest {
    /// `NAME`, `NAME@VERSION`, or 8 or more digits of a digest.
    pub plugin: String,
    /// Whom it shall serve.
    pub target: Target,
    /// Its configuration, valid under the plugin's schema; without one, what the same plugin had there before.
    pub config: Option<BTreeMap<String, Value>>,
    /// Place in the order of calls; by name without one.
    pub order: Option<i32>,
    /// Hooks: `fail-closed` (default) or `fail-open`.
    pub failure_policy: Option<String>,
    /// `live` (default), or `shadow`: it watches and decides nothing.
    pub mode: Option<String>,
}

/// Which binding to end.
#[derive(Debug, ToSchema)]
pub struct UnbindRequest {
    /// The plugin's name.
    pub plugin: String,
    /// Whom it serves.
    pub target: Target,
    /// `live` (default) or `shadow`.
    pub mode: Option<String>,
}

/// Where to go back.
#[derive(Debug, ToSchema)]
pub struct RollbackRequest {
    /// Whom the change concerned.
    pub target: Target,
    /// `scheduler`, `idle-checker` or `hook`, where several kinds are bound.
    pub kind: Option<String>,
}

/// What a change of a binding did.
#[derive(Debug, ToSchema)]
pub struct Switched {
    /// What serves now; nothing after an unbinding.
    pub now: Option<Revision>,
    /// What served before, as `NAME@VERSION`.
    pub before: Option<String>,
}

/// Everything about a plugin.
#[derive(Debug, ToSchema)]
pub struct Inspection {
    /// Its stored components, newest first.
    pub revisions: Vec<Revision>,
    /// What happened to it, newest first.
    pub history: Vec<HistoryEntry>,
}

/// A change of a binding.
#[derive(Debug, ToSchema)]
pub struct HistoryEntry {
    /// When.
    pub at: String,
    /// E-mail address, or what acted.
    pub actor: String,
    /// `bind`, `unbind`, `rollback`, `suspend`, …
    pub action: String,
    /// The plugin's kind.
    pub kind: String,
    /// The plugin.
    pub plugin: String,
    /// Whom it concerns.
    pub target: Target,
    /// The component that serves from here on.
    pub digest: Option<String>,
    /// Its configuration.
    pub config: Option<Value>,
    /// Its place in the order of calls.
    pub order: Option<i64>,
    /// What its failure means.
    pub failure_policy: Option<String>,
    /// The plugin that served until here.
    pub previous_plugin: Option<String>,
    /// Its component.
    pub previous: Option<String>,
    /// Its configuration.
    pub previous_config: Option<Value>,
    /// Its place in the order of calls.
    pub previous_order: Option<i64>,
    /// What its failure meant.
    pub previous_failure_policy: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// All stored components.
#[derive(Debug, ToSchema)]
pub struct PluginList {
    /// Newest first within kind and name.
    pub plugins: Vec<Revision>,
}

/// What became of the files in the watched directories.
#[derive(Debug, ToSchema)]
pub struct Drops {
    /// Newest first.
    pub drops: Vec<Drop>,
}

/// A component's file in the watched directory of a host.
#[derive(Debug, ToSchema)]
pub struct Drop {
    /// The host.
    pub host: String,
    /// Its directory.
    pub directory: String,
    /// The file's name.
    pub file: String,
    /// Lower-case hexadecimal SHA-256 of the component, once it was read.
    pub digest: Option<String>,
    /// `NAME@VERSION`, once it is known.
    pub plugin: Option<String>,
    /// `ok`, `refused` (tried again now and then, and at once when the file changes) or `waiting`.
    pub state: String,
    /// Why it was refused or waits.
    pub reason: Option<String>,
    /// The binding that the settings beside it ask for.
    pub binding: Option<DropBinding>,
    /// When it came to that.
    pub at: String,
}

/// A binding that a settings file asks for.
#[derive(Debug, ToSchema)]
pub struct DropBinding {
    /// Whom the component shall serve.
    pub target: Target,
    /// `live` or `shadow`.
    pub mode: String,
    /// Whether the binding ends when the file goes away.
    pub unbind_on_removal: bool,
}

/// Whose signature a component bears.
#[derive(Debug, ToSchema)]
pub struct Signature {
    /// What the site calls the key.
    pub key: String,
    /// The key's id, 16 upper-case hex digits.
    pub key_id: String,
    /// What the signer vouches for beside the component.
    pub comment: String,
    /// When it was checked.
    pub checked_at: String,
}
