//! Closed vocabularies of the wire: statuses, types, roles.

macro_rules! vocabulary {
    ($($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every member, in the order of declaration (which is the sort order).
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// How it is written on the wire and in the database.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl std::str::FromStr for $name {
            type Err = $crate::status::UnknownWord;
            fn from_str(s: &str) -> Result<Self, $crate::status::UnknownWord> {
                match s {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::status::UnknownWord { vocabulary: stringify!($name), word: s.to_owned() }),
                }
            }
        }
    )+};
}
pub(crate) use vocabulary;

/// A text that is not in a closed vocabulary.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{word}' is not a valid {vocabulary}")]
pub struct UnknownWord {
    /// The vocabulary's type name.
    pub vocabulary: &'static str,
    /// The text.
    pub word: String,
}

vocabulary! {
    /// Where a background task stands.
    TaskStatus {
        /// Somebody works on it.
        Started = "started",
        /// It did what it was to do.
        Done = "done",
        /// It was stopped.
        Cancelled = "cancelled",
        /// It couldn't, or its host was lost.
        Failed = "failed",
    }
    /// Where a session stands.
    SessionStatus {
        /// Waits for a place.
        Pending = "PENDING",
        /// Has a place on the books.
        Scheduled = "SCHEDULED",
        /// An agent fetches its image.
        Pulling = "PULLING",
        /// Agents create its kernels.
        Preparing = "PREPARING",
        /// In use.
        Running = "RUNNING",
        /// Its kernels are being restarted.
        Restarting = "RESTARTING",
        /// In use, but a sub-kernel is missing.
        RunningDegraded = "RUNNING_DEGRADED",
        /// Agents destroy its kernels.
        Terminating = "TERMINATING",
        /// Ended.
        Terminated = "TERMINATED",
        /// Broken; still holds its resources until destroyed.
        Error = "ERROR",
        /// Ended before it ran.
        Cancelled = "CANCELLED",
    }
    /// Where a kernel stands.
    KernelStatus {
        /// Waits for a place.
        Pending = "PENDING",
        /// Has a place on the books.
        Scheduled = "SCHEDULED",
        /// Being created.
        Preparing = "PREPARING",
        /// Not used.
        Building = "BUILDING",
        /// Its image is being fetched.
        Pulling = "PULLING",
        /// In use.
        Running = "RUNNING",
        /// Being restarted.
        Restarting = "RESTARTING",
        /// Not used.
        Resizing = "RESIZING",
        /// Not used.
        Suspended = "SUSPENDED",
        /// Being destroyed.
        Terminating = "TERMINATING",
        /// Ended.
        Terminated = "TERMINATED",
        /// Broken.
        Error = "ERROR",
        /// Ended before it ran.
        Cancelled = "CANCELLED",
    }
    /// Whether an agent can be used.
    AgentStatus {
        /// Sends heartbeats.
        Alive = "ALIVE",
        /// Its heartbeats stopped.
        Lost = "LOST",
        /// Said that it restarts.
        Restarting = "RESTARTING",
        /// Said that it shuts down.
        Terminated = "TERMINATED",
    }
    /// What a session is for (upper case, as GraphQL and the database write it).
    SessionType {
        /// A person works in it.
        Interactive = "INTERACTIVE",
        /// Runs one command.
        Batch = "BATCH",
        /// Serves a model.
        Inference = "INFERENCE",
    }
    /// How a batch session ended.
    SessionResult {
        /// Not known (yet).
        Undefined = "UNDEFINED",
        /// Exit code 0.
        Success = "SUCCESS",
        /// Anything else.
        Failure = "FAILURE",
    }
    /// Whether a session's kernels share one agent.
    ClusterMode {
        /// All kernels on one agent.
        SingleNode = "single-node",
        /// Kernels may spread.
        MultiNode = "multi-node",
    }
    /// What an image is for, by its label `ai.backend.role`.
    KernelRole {
        /// Computing.
        Compute = "COMPUTE",
        /// Serving models.
        Inference = "INFERENCE",
        /// The system's own sessions (file transfer and the like).
        System = "SYSTEM",
    }
    /// What a user may do.
    UserRole {
        /// Everything.
        Superadmin = "superadmin",
        /// Everything within a domain.
        Admin = "admin",
        /// What concerns the user's own things.
        User = "user",
        /// Reading.
        Monitor = "monitor",
    }
    /// Whether a user's account is in use.
    UserStatus {
        /// In use.
        Active = "active",
        /// Switched off.
        Inactive = "inactive",
        /// Deleted (softly).
        Deleted = "deleted",
        /// Waits for its e-mail to be verified.
        BeforeVerification = "before-verification",
    }
    /// What a policy means by slots that it doesn't mention.
    DefaultForUnspecified {
        /// None of them.
        Limited = "LIMITED",
        /// Any amount of them.
        Unlimited = "UNLIMITED",
    }
}
