//! Whose turn it is by fair shares, on bare numbers.
//!
//! Within a round shares only grow: what was placed stays. So a heap whose entries are looked at again when they come
//! up gives the right order without ever being searched: an entry with an outdated share goes back with the right one.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use serde::Deserialize;

/// Whose shares decide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// First the projects', then within the project the owners'.
    #[default]
    ProjectThenOwner,
    /// The projects' alone; within one the oldest session is next.
    Project,
    /// The owners' alone.
    Owner,
}

/// An owner or a project.
#[derive(Debug, Clone)]
pub struct Holder {
    /// What it has held on average of late, by slot.
    pub past: Vec<f64>,
    /// What it holds, by slot.
    pub held: Vec<u64>,
    /// What it is owed in proportion to others; more than 0.
    pub weight: f64,
}

/// A session that waits. Sessions are listed oldest first.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// Position of its owner.
    pub owner: usize,
    /// Position of its project.
    pub project: usize,
    /// Larger is more important, among the sessions of its owner.
    pub priority: i32,
    /// It has waited so long that it comes before all others.
    pub promoted: bool,
}

/// A share. Never NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Share(f64);

impl Eq for Share {}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A share, the session that would be next (older ones have smaller numbers), and whose they are.
type Entry = Reverse<(Share, usize, usize)>;

/// The members of a group with sessions that wait.
#[derive(Debug, Default)]
struct Group {
    queues: BTreeMap<usize, VecDeque<usize>>,
    heap: BinaryHeap<Entry>,
}

/// The order of a round.
#[derive(Debug)]
pub struct Shares {
    by: By,
    history_weight: f64,
    total: Vec<u64>,
    owners: Vec<Holder>,
    projects: Vec<Holder>,
    waiting: Vec<Waiting>,
    promoted: VecDeque<usize>,
    /// By project, or one for all.
    groups: BTreeMap<usize, Group>,
    heap: BinaryHeap<Entry>,
}

impl Shares {
    /// Sorts the sessions that wait. `total` is what the scaling group has, by slot.
    pub fn new(
        by: By,
        history_weight: f64,
        total: Vec<u64>,
        owners: Vec<Holder>,
        projects: Vec<Holder>,
        waiting: Vec<Waiting>,
    ) -> Self {
        let mut shares = Shares {
            by,
            history_weight,
            total,
            owners,
            projects,
            waiting,
            promoted: VecDeque::new(),
            groups: BTreeMap::new(),
            heap: BinaryHeap::new(),
        };
        let mut rest: Vec<usize> = Vec::with_capacity(shares.waiting.len());
        for (row, session) in shares.waiting.iter().enumerate() {
            if session.promoted { shares.promoted.push_back(row) } else { rest.push(row) }
        }
        // Stable: the oldest of equals stays first.
        rest.sort_by_key(|row| Reverse(shares.waiting[*row].priority));
        for row in rest {
            let (group, member) = shares.place_of(row);
            shares.groups.entry(group).or_default().queues.entry(member).or_default().push_back(row);
        }
        let groups: Vec<usize> = shares.groups.keys().copied().collect();
        for group in groups {
            let members: Vec<usize> = shares.groups[&group].queues.keys().copied().collect();
            members.into_iter().for_each(|member| shares.offer_member(group, member));
            shares.offer_group(group);
        }
        shares
    }

    /// Group and member that a session counts for.
    fn place_of(&self, row: usize) -> (usize, usize) {
        let session = &self.waiting[row];
        match self.by {
            By::ProjectThenOwner => (session.project, session.owner),
            By::Project => (session.project, 0),
            By::Owner => (0, session.owner),
        }
    }

    fn group_share(&self, group: usize) -> Share {
        match self.by {
            By::Owner => Share(0.0),
            By::Project | By::ProjectThenOwner => self.share(self.projects.get(group)),
        }
    }

    fn member_share(&self, member: usize) -> Share {
        match self.by {
            By::Project => Share(0.0),
            By::Owner | By::ProjectThenOwner => self.share(self.owners.get(member)),
        }
    }

    fn share(&self, holder: Option<&Holder>) -> Share {
        let Some(holder) = holder else { return Share(0.0) };
        let dominant = |amount: &dyn Fn(usize) -> f64| {
            let slots = self.total.iter().enumerate().filter(|(_, total)| **total > 0);
            slots.map(|(slot, total)| amount(slot) / *total as f64).fold(0.0, f64::max)
        };
        let past = dominant(&|slot| holder.past.get(slot).copied().unwrap_or(0.0));
        let now = dominant(&|slot| holder.held.get(slot).copied().unwrap_or(0) as f64);
        Share((self.history_weight * past + (1.0 - self.history_weight) * now) / holder.weight)
    }

    fn offer_member(&mut self, group: usize, member: usize) {
        let share = self.member_share(member);
        if let Some(group) = self.groups.get_mut(&group)
            && let Some(front) = group.queues.get(&member).and_then(VecDeque::front)
        {
            group.heap.push(Reverse((share, *front, member)));
        }
    }

    fn offer_group(&mut self, group: usize) {
        let share = self.group_share(group);
        if let Some(Reverse((_, next, _))) = self.groups.get(&group).and_then(|group| group.heap.peek()) {
            self.heap.push(Reverse((share, *next, group)));
        }
    }

    /// The session whose turn it is. Each comes once.
    pub fn next(&mut self) -> Option<usize> {
        if let Some(row) = self.promoted.pop_front() {
            return Some(row);
        }
        let group = loop {
            let Reverse((share, _, group)) = self.heap.pop()?;
            if share == self.group_share(group) {
                break group;
            }
            self.offer_group(group);
        };
        let member = loop {
            let Reverse((share, _, member)) = self.groups.get_mut(&group)?.heap.pop()?;
            if share == self.member_share(member) {
                break member;
            }
            self.offer_member(group, member);
        };
        let row = self.groups.get_mut(&group)?.queues.get_mut(&member)?.pop_front()?;
        self.offer_member(group, member);
        self.offer_group(group);
        Some(row)
    }

    /// A session was placed: its owner and its project hold more.
    pub fn placed(&mut self, row: usize, requested: &[u64]) {
        let Some(session) = self.waiting.get(row).copied() else { return };
        for holder in [self.owners.get_mut(session.owner), self.projects.get_mut(session.project)].into_iter().flatten()
        {
            holder.held.iter_mut().zip(requested).for_each(|(held, more)| *held = held.saturating_add(*more));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder(past: f64, held: u64, weight: f64) -> Holder {
        Holder { past: vec![past], held: vec![held], weight }
    }

    fn waiting(owner: usize, project: usize) -> Waiting {
        Waiting { owner, project, priority: 0, promoted: false }
    }

    /// Everything is placed; the order of the turns.
    fn order(mut shares: Shares, requested: u64) -> Vec<usize> {
        std::iter::from_fn(|| {
            let row = shares.next()?;
            shares.placed(row, &[requested]);
            Some(row)
        })
        .collect()
    }

    #[test]
    fn who_had_least_of_late_is_next() {
        let owners = vec![holder(40.0, 0, 1.0), holder(10.0, 0, 1.0), holder(0.0, 30, 1.0)];
        let sessions = vec![waiting(0, 0), waiting(1, 0), waiting(2, 0)];
        let shares = |history: f64| {
            Shares::new(By::Owner, history, vec![100], owners.clone(), vec![holder(0.0, 0, 1.0)], sessions.clone())
        };
        assert_eq!(order(shares(1.0), 1), [2, 1, 0]);
        assert_eq!(order(shares(0.0), 1), [0, 1, 2]);
        assert_eq!(order(shares(0.5), 1), [1, 2, 0]);
    }

    #[test]
    fn projects_come_before_owners() {
        let owners = vec![holder(0.0, 0, 1.0), holder(50.0, 0, 1.0), holder(10.0, 0, 1.0)];
        let projects = vec![holder(60.0, 0, 1.0), holder(20.0, 0, 1.0)];
        let sessions = vec![waiting(0, 0), waiting(1, 1), waiting(2, 1)];
        let shares = |by| Shares::new(by, 1.0, vec![100], owners.clone(), projects.clone(), sessions.clone());
        assert_eq!(order(shares(By::ProjectThenOwner), 1), [2, 1, 0]);
        assert_eq!(order(shares(By::Project), 1), [1, 2, 0]);
        assert_eq!(order(shares(By::Owner), 1), [0, 2, 1]);
    }

    #[test]
    fn placements_of_the_round_count_and_weights_divide() {
        let owners = vec![holder(0.0, 0, 2.0), holder(0.0, 0, 1.0)];
        let sessions = vec![waiting(0, 0); 6].into_iter().chain(vec![waiting(1, 0); 3]).collect();
        let shares = Shares::new(By::Owner, 0.0, vec![100], owners, vec![holder(0.0, 0, 1.0)], sessions);
        let turns: Vec<usize> = order(shares, 10).into_iter().map(|row| usize::from(row >= 6)).collect();
        assert_eq!(turns, [0, 1, 0, 0, 1, 0, 0, 1, 0]);
    }

    #[test]
    fn priorities_sort_an_owners_own_sessions() {
        let mut sessions = vec![waiting(0, 0), waiting(0, 0), waiting(1, 0)];
        sessions[1].priority = 5;
        let owners = vec![holder(0.0, 0, 1.0), holder(10.0, 0, 1.0)];
        let shares = Shares::new(By::Owner, 1.0, vec![100], owners, vec![holder(0.0, 0, 1.0)], sessions);
        assert_eq!(order(shares, 1), [1, 0, 2]);
    }

    /// A round with one place for each of `free` sessions.
    fn placed_in(round: Shares, free: usize) -> Vec<usize> {
        let mut shares = round;
        let mut placed = Vec::new();
        while placed.len() < free {
            let Some(row) = shares.next() else { break };
            shares.placed(row, &[1]);
            placed.push(row);
        }
        placed
    }

    proptest! {
        /// Whatever the shares, each session has its turn exactly once.
        #[test]
        fn everybody_has_one_turn(
            sessions in prop::collection::vec((0..5_usize, 0..3_usize, -3..3_i32, prop::bool::weighted(0.1)), 0..60),
            past in prop::collection::vec(0.0..100.0_f64, 8),
            by in prop::sample::select(vec![By::Owner, By::Project, By::ProjectThenOwner]),
            history in 0.0..=1.0_f64,
        ) {
            let sessions: Vec<Waiting> = sessions
                .into_iter()
                .map(|(owner, project, priority, promoted)| Waiting { owner, project, priority, promoted })
                .collect();
            let owners = past[..5].iter().map(|past| holder(*past, 0, 1.0)).collect();
            let projects = past[5..].iter().map(|past| holder(*past, 0, 1.0)).collect();
            let count = sessions.len();
            let mut turns = order(Shares::new(by, history, vec![100], owners, projects, sessions), 3);
            turns.sort_unstable();
            prop_assert_eq!(turns, (0..count).collect::<Vec<_>>());
        }

        /// In every turn the group chosen has the smallest share, and so has the member within it.
        #[test]
        fn the_smallest_share_is_next(
            sessions in prop::collection::vec((0..6_usize, 0..3_usize), 1..60),
            past in prop::collection::vec(0.0..50.0_f64, 9),
            requested in prop::collection::vec(1..30_u64, 60),
        ) {
            let owners: Vec<Holder> = past[..6].iter().map(|past| holder(*past, 0, 1.0)).collect();
            let projects: Vec<Holder> = past[6..].iter().map(|past| holder(*past, 0, 1.0)).collect();
            let sessions: Vec<Waiting> = sessions.into_iter().map(|(owner, project)| waiting(owner, project)).collect();
            let mut left: Vec<usize> = (0..sessions.len()).collect();
            let mut shares = Shares::new(By::ProjectThenOwner, 0.5, vec![100], owners, projects, sessions.clone());
            while let Some(row) = shares.next() {
                let least = left.iter().map(|row| shares.group_share(sessions[*row].project)).min().unwrap();
                prop_assert_eq!(shares.group_share(sessions[row].project), least);
                let own = left.iter().filter(|other| sessions[**other].project == sessions[row].project);
                let least = own.map(|row| shares.member_share(sessions[*row].owner)).min().unwrap();
                prop_assert_eq!(shares.member_share(sessions[row].owner), least);
                left.retain(|other| *other != row);
                shares.placed(row, &[requested[row]]);
            }
            prop_assert!(left.is_empty());
        }

        /// One owner's old session among a stream of sessions of newcomers, who always have had less: it is served once
        /// it has waited long enough, whatever its owner had before.
        #[test]
        fn nobody_starves(past in 0.0..1e6_f64, promote_after in 1..40_usize, free in 1..4_usize) {
            let mut served_after = None;
            for waited in 0..100_usize {
                // Owner 0 waits; each round brings as many newcomers as there are places.
                let mut owners = vec![holder(past, 0, 1.0)];
                owners.extend((0..free).map(|_| holder(0.0, 0, 1.0)));
                let mut sessions = vec![Waiting { promoted: waited >= promote_after, ..waiting(0, 0) }];
                sessions.extend((0..free).map(|newcomer| waiting(newcomer + 1, 0)));
                let shares = Shares::new(By::Owner, 1.0, vec![100], owners, vec![holder(0.0, 0, 1.0)], sessions);
                if placed_in(shares, free).contains(&0) {
                    served_after = Some(waited);
                    break;
                }
            }
            prop_assert!(served_after.is_some_and(|waited| waited <= promote_after));
        }
    }
}
