//! Words about policy plugins: what kinds there are, whom they serve, how they stand.

use crate::status::vocabulary;

vocabulary! {
    /// What a plugin decides; one world of the contract each.
    PluginKind {
        /// Which session next, on which agents.
        Scheduler = "scheduler",
        /// When a session is idle.
        IdleChecker = "idle-checker",
        /// Whether something may happen, at the documented events.
        Hook = "hook",
    }
    /// Whom a binding serves.
    TargetKind {
        /// One scaling group (schedulers).
        ScalingGroup = "scaling-group",
        /// One domain (hooks and idle checkers).
        Domain = "domain",
        /// Everybody (hooks and idle checkers).
        Everywhere = "everywhere",
    }
    /// Whether a binding decides or only watches.
    BindingMode {
        /// Its decisions count.
        Live = "live",
        /// It sees what the live one sees; only differences are kept.
        Shadow = "shadow",
    }
    /// What a failing hook means.
    FailurePolicy {
        /// The operation is refused.
        FailClosed = "fail-closed",
        /// The operation goes on.
        FailOpen = "fail-open",
    }
    /// How a stored revision stands.
    RevisionStatus {
        /// May serve.
        Ready = "ready",
        /// Failed too often in a row; doesn't serve until bound again.
        Suspended = "suspended",
        /// Never loaded.
        Failed = "failed",
    }
}

/// Whom a binding serves: a kind and, unless everybody, a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The kind.
    pub kind: TargetKind,
    /// The scaling group's or domain's name; empty for [`TargetKind::Everywhere`].
    pub name: String,
}

impl Target {
    /// One scaling group.
    pub fn scaling_group(name: impl Into<String>) -> Self {
        Self { kind: TargetKind::ScalingGroup, name: name.into() }
    }
    /// One domain.
    pub fn domain(name: impl Into<String>) -> Self {
        Self { kind: TargetKind::Domain, name: name.into() }
    }
    /// Everybody.
    pub fn everywhere() -> Self {
        Self { kind: TargetKind::Everywhere, name: String::new() }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            TargetKind::Everywhere => f.write_str("everywhere"),
            kind => write!(f, "{kind} {}", self.name),
        }
    }
}
