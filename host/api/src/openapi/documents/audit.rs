//! Documents about who changed what.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

/// A page of the audit.
#[derive(Debug, ToSchema)]
pub struct Audit {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
    /// `before` of the next page; nothing on the last.
    pub next: Option<i64>,
}

/// A change that somebody made.
#[derive(Debug, ToSchema)]
pub struct AuditEntry {
    /// Its number; later entries have greater ones.
    pub id: i64,
    /// When.
    pub at: String,
    /// By which door: `rest`, `graphql`, `cli` or `system`.
    pub via: String,
    /// Who: an e-mail address, an account at the console, or what of the host acted by itself. Nobody known for calls
    /// without signature.
    pub actor: Option<String>,
    /// The user's id.
    pub actor_id: Option<String>,
    /// The key pair that signed.
    pub access_key: Option<String>,
    /// The client's network address; for files of the plugin directory, the host.
    pub address: Option<String>,
    /// The request, as `X-Request-Id` of its answer.
    pub request_id: Option<String>,
    /// What was done: method and path of a call, the name of a mutation, or a command.
    pub action: String,
    /// To what.
    pub target: String,
    /// What was asked for, without secrets.
    pub details: Option<BTreeMap<String, Value>>,
    /// What it did to rows that the audit keeps an eye on, in order.
    pub changes: Vec<AuditChange>,
    /// How many more there were: a thousand of each transaction are kept.
    pub more_changes: u64,
}

/// What was done to one thing.
#[derive(Debug, ToSchema)]
pub struct AuditChange {
    /// `config`, `domain`, `project`, `user`, `keypair`, `resource-policy`, `scaling-group`, `resource-preset` or
    /// `plugin-binding`.
    pub kind: String,
    /// As people know it: a key, an e-mail address, an access key, a name.
    pub name: String,
    /// The fields that changed as they were, secrets as `***`; `null` when it wasn't there.
    pub before: Option<BTreeMap<String, Value>>,
    /// The same fields as they are now; `null` when it is gone.
    pub after: Option<BTreeMap<String, Value>>,
}
