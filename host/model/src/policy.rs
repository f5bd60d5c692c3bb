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
    /// What became of a file in a watched directory.
    DropState {
        /// It is stored, and bound if its settings say so.
        Ok = "ok",
        /// It isn't fit; it is tried again now and then.
        Refused = "refused",
        /// Somebody is at it, or it is still being written.
        Waiting = "waiting",
    }
    /// How a stored revision stands.
    RevisionStatus {
        /// Its first steps are under way; may not serve yet.
        Incoming = "incoming",
        /// May serve.
        Ready = "ready",
        /// Failed too often; doesn't serve until bound again.
        Suspended = "suspended",
        /// Failed one of its first steps; never serves.
        Failed = "failed",
    }
    /// The life of a revision: the names of its steps, and of how far it has come.
    LifeStep {
        /// Its bytes have arrived.
        Uploaded = "uploaded",
        /// Its outside fits the contract, and its signature the site's rules.
        Verified = "verified",
        /// It was compiled, within limits.
        Compiled = "compiled",
        /// It described itself and answered what every policy must be able to answer, twice alike.
        SelfTested = "self-tested",
        /// It watches beside the one that decides.
        Shadow = "shadow",
        /// It decides for somebody.
        Active = "active",
        /// It decided for somebody and no longer does.
        Retired = "retired",
        /// It failed one of its first steps.
        Failed = "failed",
        /// It failed too often while it decided.
        Suspended = "suspended",
    }
    /// How a step of a revision's life went.
    StepStatus {
        /// It is under way.
        Running = "running",
        /// It went well.
        Ok = "ok",
        /// It ended the revision's way.
        Failed = "failed",
    }
}

impl LifeStep {
    /// What every revision goes through before it may serve, in order.
    pub const ADMISSION: &'static [Self] = &[Self::Uploaded, Self::Verified, Self::Compiled, Self::SelfTested];

    /// Whether it belongs to [`LifeStep::ADMISSION`]: taken once, where the others come and go with bindings.
    pub fn is_admission(self) -> bool {
        Self::ADMISSION.contains(&self)
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
