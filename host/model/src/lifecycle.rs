//! Which status may follow which, what counts as occupying, and how a session follows its kernels.
//!
//! The tables are the union of the reference's maps and the paths that it performs without asking
//! them (`spec/lifecycle.md` §2): PREPARING → CANCELLED when a start fails, forced termination, …
//! Nothing else in the host decides about a change of status.

use crate::status::{KernelStatus, SessionStatus};

impl SessionStatus {
    /// Ended; never changes again.
    pub fn is_dead(self) -> bool {
        matches!(self, Self::Terminated | Self::Cancelled)
    }

    /// Holds resources of agents.
    pub fn occupies_agent(self) -> bool {
        !matches!(self, Self::Pending | Self::Terminated | Self::Cancelled)
    }

    /// Counts against its user's limits.
    pub fn occupies_user(self) -> bool {
        self.occupies_agent() && self != Self::Terminating
    }

    /// The number by which statuses are sorted.
    pub fn code(self) -> i64 {
        match self {
            Self::Pending => 0,
            Self::Scheduled => 5,
            Self::Pulling => 9,
            Self::Preparing => 10,
            Self::Running => 30,
            Self::Restarting => 31,
            Self::RunningDegraded => 32,
            Self::Terminating => 40,
            Self::Terminated => 41,
            Self::Error => 42,
            Self::Cancelled => 43,
        }
    }
}

impl KernelStatus {
    /// Ended; never changes again.
    pub fn is_dead(self) -> bool {
        matches!(self, Self::Terminated | Self::Cancelled)
    }

    /// Holds resources of its agent.
    pub fn occupies_agent(self) -> bool {
        !matches!(self, Self::Pending | Self::Terminated | Self::Cancelled)
    }

    /// Counts against its user's limits.
    pub fn occupies_user(self) -> bool {
        self.occupies_agent() && self != Self::Terminating
    }

    /// The number by which statuses are sorted.
    pub fn code(self) -> i64 {
        match self {
            Self::Pending => 0,
            Self::Scheduled => 5,
            Self::Preparing => 10,
            Self::Building => 20,
            Self::Pulling => 21,
            Self::Running => 30,
            Self::Restarting => 31,
            Self::Resizing => 32,
            Self::Suspended => 33,
            Self::Terminating => 40,
            Self::Terminated => 41,
            Self::Error => 42,
            Self::Cancelled => 43,
        }
    }
}

/// Whether a session may go from one status to another.
pub fn session_can(from: SessionStatus, to: SessionStatus) -> bool {
    use SessionStatus as S;
    match from {
        S::Terminated | S::Cancelled => false,
        _ if from == to => false,
        // A session never goes back to the queue.
        _ if to == S::Pending => false,
        S::Pending => to != S::Terminated,
        // A start that fails cancels the session; a forced end terminates it.
        S::Scheduled | S::Pulling | S::Preparing => !(to == S::Scheduled && from != S::Pending),
        S::Running => matches!(to, S::Restarting | S::RunningDegraded | S::Terminating | S::Terminated | S::Error),
        S::Restarting | S::RunningDegraded => !matches!(to, S::Scheduled | S::Cancelled),
        S::Terminating => matches!(to, S::Terminated | S::Error),
        // Only destroying helps.
        S::Error => matches!(to, S::Terminating | S::Terminated),
    }
}

/// Whether a kernel may go from one status to another.
pub fn kernel_can(from: KernelStatus, to: KernelStatus) -> bool {
    use KernelStatus as K;
    match from {
        K::Terminated | K::Cancelled => false,
        _ if from == to => false,
        _ if to == K::Pending => false,
        K::Pending => to != K::Terminated,
        K::Scheduled | K::Preparing | K::Building | K::Pulling => to != K::Scheduled,
        K::Restarting | K::Resizing | K::Suspended => !matches!(to, K::Scheduled | K::Cancelled),
        K::Running => matches!(to, K::Restarting | K::Resizing | K::Terminating | K::Terminated | K::Error),
        K::Terminating => matches!(to, K::Terminated | K::Error),
        // A start that failed on its agent is cancelled with its session.
        K::Error => matches!(to, K::Terminating | K::Terminated | K::Cancelled),
    }
}

/// The role of the kernel that a session's status follows.
pub const MAIN: &str = "main";

/// The status that a session's kernels (role, status) add up to; `None` without a main kernel.
pub fn derive<R: AsRef<str>>(kernels: &[(R, KernelStatus)]) -> Option<SessionStatus> {
    let main = kernels.iter().find(|(role, _)| role.as_ref() == MAIN).map(|(_, status)| *status)?;
    let siblings = || kernels.iter().filter(|(role, _)| role.as_ref() != MAIN).map(|(_, status)| *status);
    Some(match mapped(main) {
        SessionStatus::Running => running(siblings()),
        SessionStatus::Terminated if siblings().any(|s| s == KernelStatus::Terminating) => SessionStatus::Terminating,
        SessionStatus::Terminated if siblings().any(|s| s == KernelStatus::Error) => SessionStatus::Error,
        status => status,
    })
}

/// What a running main kernel's siblings make of the session: one that isn't ready yet holds it
/// back, one that is gone degrades it.
fn running(siblings: impl Iterator<Item = KernelStatus>) -> SessionStatus {
    let mut status = SessionStatus::Running;
    for sibling in siblings {
        match sibling {
            KernelStatus::Pulling => return SessionStatus::Pulling,
            KernelStatus::Scheduled | KernelStatus::Preparing => return SessionStatus::Preparing,
            KernelStatus::Terminating | KernelStatus::Error => status = SessionStatus::RunningDegraded,
            _ => {}
        }
    }
    status
}

fn mapped(kernel: KernelStatus) -> SessionStatus {
    match kernel {
        KernelStatus::Pending => SessionStatus::Pending,
        KernelStatus::Scheduled => SessionStatus::Scheduled,
        KernelStatus::Preparing | KernelStatus::Building => SessionStatus::Preparing,
        KernelStatus::Pulling => SessionStatus::Pulling,
        KernelStatus::Running | KernelStatus::Resizing => SessionStatus::Running,
        KernelStatus::Restarting => SessionStatus::Restarting,
        KernelStatus::Suspended | KernelStatus::Error => SessionStatus::Error,
        KernelStatus::Terminating => SessionStatus::Terminating,
        KernelStatus::Terminated => SessionStatus::Terminated,
        KernelStatus::Cancelled => SessionStatus::Cancelled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_is_for_ever() {
        for to in SessionStatus::ALL {
            assert!(!session_can(SessionStatus::Terminated, *to) && !session_can(SessionStatus::Cancelled, *to));
            assert!(!session_can(*to, SessionStatus::Pending), "{to} must not go back to the queue");
            assert!(!session_can(*to, *to));
        }
        for to in KernelStatus::ALL {
            assert!(!kernel_can(KernelStatus::Terminated, *to) && !kernel_can(KernelStatus::Cancelled, *to));
            assert!(!kernel_can(*to, KernelStatus::Pending));
        }
    }

    #[test]
    fn every_live_status_can_end() {
        for from in SessionStatus::ALL.iter().filter(|s| !s.is_dead()) {
            assert!(
                [SessionStatus::Terminating, SessionStatus::Terminated, SessionStatus::Cancelled]
                    .iter()
                    .any(|to| session_can(*from, *to)),
                "{from} is a dead end"
            );
        }
    }

    #[test]
    fn starts_fail_and_are_forced() {
        assert!(session_can(SessionStatus::Preparing, SessionStatus::Cancelled));
        assert!(session_can(SessionStatus::Scheduled, SessionStatus::Preparing));
        assert!(session_can(SessionStatus::Preparing, SessionStatus::Terminated));
        assert!(!session_can(SessionStatus::Preparing, SessionStatus::Scheduled));
        assert!(!session_can(SessionStatus::Running, SessionStatus::Cancelled));
        assert!(!session_can(SessionStatus::Terminating, SessionStatus::Running));
    }

    #[test]
    fn a_session_follows_its_main_kernel() {
        use KernelStatus as K;
        assert_eq!(derive::<&str>(&[]), None);
        assert_eq!(derive(&[("sub", K::Running)]), None);
        assert_eq!(derive(&[("main", K::Running), ("sub", K::Running)]), Some(SessionStatus::Running));
        assert_eq!(derive(&[("main", K::Running), ("sub", K::Preparing)]), Some(SessionStatus::Preparing));
        assert_eq!(derive(&[("main", K::Running), ("sub", K::Error)]), Some(SessionStatus::RunningDegraded));
        assert_eq!(derive(&[("main", K::Terminated), ("sub", K::Terminating)]), Some(SessionStatus::Terminating));
        assert_eq!(derive(&[("main", K::Terminated), ("sub", K::Running)]), Some(SessionStatus::Terminated));
    }
}
