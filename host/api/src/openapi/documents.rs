//! The documents of our own API, as `/openapi.json` describes them. Handlers write them down as JSON.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

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
    /// `scheduler`, `idle-checker` or `hook`.
    pub kind: String,
    /// One line about it.
    pub summary: String,
    /// What else it says about itself: `config_schema`, `columns`, `events`.
    pub info: Value,
    /// Bytes of the component.
    pub size_bytes: i64,
    /// Shipped with the host.
    pub builtin: bool,
    /// `ready`, `suspended` or `failed`.
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
}

/// Which binding to end.
#[derive(Debug, ToSchema)]
pub struct UnbindRequest {
    /// The plugin's name.
    pub plugin: String,
    /// Whom it serves.
    pub target: Target,
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
    /// The plugin that served until here.
    pub previous_plugin: Option<String>,
    /// Its component.
    pub previous: Option<String>,
    /// Its configuration.
    pub previous_config: Option<Value>,
    /// Why.
    pub reason: Option<String>,
}

/// All stored components.
#[derive(Debug, ToSchema)]
pub struct PluginList {
    /// Newest first within kind and name.
    pub plugins: Vec<Revision>,
}
