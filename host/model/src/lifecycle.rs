//! Which status may follow which, what counts as occupying, and how a session follows its kernels.
//!
//! The tables are the union of the reference's maps and the paths that it performs without asking
//! them (`spec/lifecycle.md` §2): PREPARING → CANCELLED when a start fails, forced termination, … One is
//! this host's own: PREPARING → PENDING, when no agent could be told.
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
        // There is one way back to the queue: its agents couldn't be told of it.
        _ if to == S::Pending => from == S::Preparing,
        S::Pending => to != S::Terminated,
        // A start that fails cancels the session; a forced end terminates it.
        S::Scheduled | S::Pulling | S::Preparing => to != S::Scheduled,
        S::Running => matches!(to, S::Restarting | S::Terminating | S::Terminated | S::Error),
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
        // With its session, as long as its agent doesn't know it.
        _ if to == K::Pending => from == K::Preparing,
        K::Pending => to != K::Terminated,
        // A forced end terminates what never ran.
        K::Scheduled | K::Preparing | K::Building | K::Pulling | K::Restarting | K::Resizing | K::Suspended => {
            to != K::Scheduled
        }
        // What has run is terminated, not cancelled, also when its siblings fail to start: it used resources.
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dead_is_for_ever() {
        for to in SessionStatus::ALL {
            assert!(!session_can(SessionStatus::Terminated, *to) && !session_can(SessionStatus::Cancelled, *to));
            let untold = *to == SessionStatus::Preparing;
            assert_eq!(session_can(*to, SessionStatus::Pending), untold, "{to} must not go back to the queue");
            assert!(!session_can(*to, *to));
        }
        for to in KernelStatus::ALL {
            assert!(!kernel_can(KernelStatus::Terminated, *to) && !kernel_can(KernelStatus::Cancelled, *to));
            assert_eq!(kernel_can(*to, KernelStatus::Pending), *to == KernelStatus::Preparing);
        }
    }

    /// The reference's maps (`spec/lifecycle.md` §2.1, §2.2), written as what they exclude or name.
    fn session_map(from: SessionStatus) -> Vec<SessionStatus> {
        use SessionStatus as S;
        let except = |not: &[S]| S::ALL.iter().copied().filter(|s| !not.contains(s)).collect();
        match from {
            S::Pending => except(&[S::Pending, S::Terminated]),
            S::Scheduled => except(&[S::Scheduled, S::Pending, S::Terminated, S::Cancelled]),
            S::Pulling => except(&[S::Pulling, S::Pending, S::Scheduled, S::Terminating, S::Terminated, S::Cancelled]),
            S::Preparing => except(&[S::Preparing, S::Pending, S::Scheduled, S::Terminated, S::Cancelled]),
            S::Running => vec![S::Restarting, S::Terminating, S::Terminated, S::Error],
            S::Restarting => except(&[S::Restarting, S::Pending, S::Scheduled, S::Terminated, S::Cancelled]),
            S::RunningDegraded => except(&[S::RunningDegraded, S::Pending, S::Scheduled, S::Terminated, S::Cancelled]),
            S::Terminating => vec![S::Terminated, S::Error],
            S::Terminated | S::Error | S::Cancelled => vec![],
        }
    }

    fn kernel_map(from: KernelStatus) -> Vec<KernelStatus> {
        use KernelStatus as K;
        match from {
            K::Pending => K::ALL.iter().copied().filter(|s| !matches!(s, K::Pending | K::Terminated)).collect(),
            K::Running => vec![K::Restarting, K::Resizing, K::Terminating, K::Terminated, K::Error],
            K::Terminating => vec![K::Terminated, K::Error],
            K::Terminated | K::Error | K::Cancelled => vec![],
            from => {
                let not = [from, K::Pending, K::Scheduled, K::Terminated];
                K::ALL.iter().copied().filter(|s| !not.contains(s)).collect()
            }
        }
    }

    /// The maps and the unchecked paths (§2.3, §6) together, and nothing else.
    #[test]
    fn the_tables_are_the_maps_and_the_paths_beside_them() {
        use {KernelStatus as K, SessionStatus as S};
        let starting = [S::Scheduled, S::Pulling, S::Preparing];
        let beside = |from: S, to: S| match to {
            S::Cancelled => starting.contains(&from),
            S::Terminated => starting.contains(&from) || matches!(from, S::Restarting | S::RunningDegraded | S::Error),
            S::Terminating => matches!(from, S::Pulling | S::Error),
            S::Pending => from == S::Preparing,
            _ => false,
        };
        for from in S::ALL {
            for to in S::ALL {
                let expected = session_map(*from).contains(to) || beside(*from, *to);
                assert_eq!(session_can(*from, *to), expected, "{from} -> {to}");
            }
        }
        let beside = |from: K, to: K| match to {
            K::Cancelled => from == K::Error,
            K::Terminated => !matches!(from, K::Pending | K::Cancelled | K::Terminated),
            K::Terminating => from == K::Error,
            K::Pending => from == K::Preparing,
            _ => false,
        };
        for from in K::ALL {
            for to in K::ALL {
                let expected = kernel_map(*from).contains(to) || beside(*from, *to);
                assert_eq!(kernel_can(*from, *to), expected, "{from} -> {to}");
            }
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

    fn kernels() -> impl Strategy<Value = Vec<(&'static str, KernelStatus)>> {
        let status = || prop::sample::select(KernelStatus::ALL);
        (status(), prop::collection::vec(status(), 0..6), any::<prop::sample::Index>()).prop_map(|(main, subs, at)| {
            let mut all: Vec<_> = subs.into_iter().map(|s| ("sub", s)).collect();
            all.insert(at.index(all.len() + 1), ("main", main));
            all
        })
    }

    proptest! {
        #[test]
        fn derived_statuses_are_consistent(kernels in kernels()) {
            let derived = derive(&kernels).expect("there is a main kernel");
            let main = kernels.iter().find(|k| k.0 == "main").expect("there is one").1;
            // Whoever runs alone runs; a session without siblings is what its main kernel is.
            if !matches!(main, KernelStatus::Running | KernelStatus::Resizing | KernelStatus::Terminated) {
                prop_assert_eq!(Some(derived), derive(&[("main", main)]));
            }
            // It is over only when its main kernel is, and runs only when its main kernel does.
            if derived.is_dead() {
                prop_assert!(main.is_dead());
            }
            if matches!(derived, SessionStatus::Running | SessionStatus::RunningDegraded) {
                prop_assert!(matches!(main, KernelStatus::Running | KernelStatus::Resizing));
            }
            // The order of the siblings doesn't matter when none of them is on its way up.
            let settled = |s: &KernelStatus| !matches!(s, KernelStatus::Pulling | KernelStatus::Preparing | KernelStatus::Scheduled);
            if kernels.iter().all(|(_, s)| settled(s)) {
                let mut turned = kernels.clone();
                turned.reverse();
                prop_assert_eq!(derive(&turned), Some(derived));
            }
            // Alike kernels make a session of the same name, where there is one.
            if kernels.iter().all(|(_, s)| *s == main)
                && let Ok(same) = main.as_str().parse::<SessionStatus>()
            {
                prop_assert_eq!(derived, same);
            }
        }

        #[test]
        fn walks_end_in_dead_statuses_for_good(steps in prop::collection::vec(prop::sample::select(KernelStatus::ALL), 1..30)) {
            let (mut at, mut died) = (KernelStatus::Pending, None);
            for to in steps {
                if kernel_can(at, to) {
                    prop_assert_eq!(died, None, "left {}", at);
                    // What holds an agent's resources goes back to holding none by ending, or before the agent knew it.
                    let untold = at == KernelStatus::Preparing && to == KernelStatus::Pending;
                    prop_assert!(!at.occupies_agent() || to.occupies_agent() || to.is_dead() || untold);
                    at = to;
                    died = at.is_dead().then_some(at);
                }
            }
        }
    }
}
