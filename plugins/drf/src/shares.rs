//! Whose turn it is, on bare columns.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// A dominant share: the bits of a number that is neither negative nor NaN. They are in the order of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u64);

impl Share {
    const NONE: Share = Share(0);
}

/// An owner, with its pending sessions as a list through [`Shares::behind`].
#[derive(Debug, Clone)]
struct Owner {
    share: Share,
    /// What its sessions hold; kept up to date only where placements add up.
    held: Vec<u64>,
    /// Its oldest pending session whose turn has not been, or [`NONE`].
    next: u32,
}

const NONE: u32 = u32::MAX;

/// Share, session and owner: the smallest is next.
type Turn = (Share, u32, u32);

/// The owners' shares and turns.
#[derive(Debug)]
pub struct Shares {
    slots: usize,
    /// What the group has, of each slot.
    total: Vec<f64>,
    accumulate: bool,
    owners: Vec<Owner>,
    /// For each pending session the next younger one of the same owner.
    behind: Vec<u32>,
    /// Share, oldest session and owner of each owner with a turn to come, except the current one. An entry that doesn't
    /// say what is true of its owner any more is skipped when its time comes.
    heap: BinaryHeap<Reverse<Turn>>,
    /// Whose turn it is. It goes back into the heap with its next session.
    current: Option<u32>,
    /// What owners were before they were changed since the mark.
    before: Vec<(u32, Share, Vec<u64>)>,
    marked: bool,
}

impl Shares {
    /// `owner` has the owner of each pending session, oldest first; `running` the owner of each running one and the matrix
    /// of what they hold.
    pub fn new(total: Vec<u64>, accumulate: bool, owner: &[u32], running: (&[u32], &[u64])) -> Self {
        let slots = total.len();
        let total: Vec<f64> = total.into_iter().map(|total| total as f64).collect();
        let count = owner.iter().chain(running.0).max().map_or(0, |last| *last as usize + 1);
        let mut owners = vec![Owner { share: Share::NONE, held: vec![0; slots], next: NONE }; count];
        let mut behind = vec![NONE; owner.len()];
        for (session, owner) in owner.iter().enumerate().rev() {
            let owner = &mut owners[*owner as usize];
            behind[session] = owner.next;
            owner.next = session as u32;
        }
        for (row, owner) in running.0.iter().enumerate() {
            add(&mut owners[*owner as usize].held, &running.1[row * slots..][..slots]);
        }
        let mut heap = BinaryHeap::with_capacity(count);
        for (index, owner) in owners.iter_mut().enumerate().filter(|(_, owner)| owner.next != NONE) {
            owner.share = dominant_share(&owner.held, &total);
            heap.push(Reverse((owner.share, owner.next, index as u32)));
        }
        Shares { slots, total, accumulate, owners, behind, heap, current: None, before: Vec::new(), marked: false }
    }

    /// The session whose turn is next.
    pub fn next(&mut self) -> Option<usize> {
        let mut own = self.current.take().and_then(|index| self.turn_of(index));
        loop {
            // The owner whose turn it was stands in line again: pushing and popping are one walk through the heap.
            let (share, session, index) = match (own.take(), self.heap.peek_mut()) {
                (Some(own), Some(mut first)) if first.0 < own => std::mem::replace(&mut *first, Reverse(own)).0,
                (Some(own), _) => own,
                (None, Some(first)) => PeekMut::pop(first).0,
                (None, None) => return None,
            };
            let owner = &mut self.owners[index as usize];
            if owner.next != session || owner.share != share {
                continue;
            }
            owner.next = self.behind[session as usize];
            self.current = Some(index);
            return Some(session as usize);
        }
    }

    /// The next turn of an owner, if it has sessions to come.
    fn turn_of(&self, index: u32) -> Option<Turn> {
        let owner = &self.owners[index as usize];
        (owner.next != NONE).then_some((owner.share, owner.next, index))
    }

    fn queue(&mut self, index: u32) {
        if let Some(turn) = self.turn_of(index) {
            self.heap.push(Reverse(turn));
        }
    }

    /// A session of that owner was placed.
    pub fn placed(&mut self, owner: usize, requested: &[u64]) {
        let index = owner as u32;
        let owner = &mut self.owners[owner];
        if self.marked {
            let held = if self.accumulate { owner.held.clone() } else { Vec::new() };
            self.before.push((index, owner.share, held));
        }
        let share = if self.accumulate {
            add(&mut owner.held, &requested[..self.slots]);
            dominant_share(&owner.held, &self.total)
        } else {
            dominant_share(requested, &self.total)
        };
        owner.share = owner.share.max(share);
        // The current one enters the heap at the next turn; others are there under a share that isn't theirs any more.
        if self.current != Some(index) {
            self.queue(index);
        }
    }

    /// What is placed from here on may be taken back.
    pub fn mark(&mut self) {
        self.marked = true;
        self.before.clear();
    }

    /// Nothing was placed since the mark.
    pub fn take_back(&mut self) {
        while let Some((index, share, held)) = self.before.pop() {
            let owner = &mut self.owners[index as usize];
            owner.share = share;
            if self.accumulate {
                owner.held = held;
            }
            if self.current != Some(index) {
                self.queue(index);
            }
        }
        self.marked = false;
    }
}

fn add(sum: &mut [u64], amounts: &[u64]) {
    for (sum, amount) in sum.iter_mut().zip(amounts) {
        *sum = sum.saturating_add(*amount);
    }
}

/// The sum over the agents that take sessions.
pub fn total(slots: usize, schedulable: &[bool], capacity: &[u64]) -> Vec<u64> {
    let mut total = vec![0; slots];
    for (agent, _) in schedulable.iter().enumerate().filter(|(_, schedulable)| **schedulable) {
        add(&mut total, &capacity[agent * slots..][..slots]);
    }
    total
}

fn dominant_share(amounts: &[u64], total: &[f64]) -> Share {
    let mut largest = 0.0;
    for (amount, total) in amounts.iter().zip(total) {
        // Most requests are for few of the slots.
        if *amount > 0 && *total > 0.0 {
            let part = *amount as f64 / *total;
            // Neither is NaN, which `f64::max` would have to make sure of.
            if part > largest {
                largest = part;
            }
        }
    }
    Share(largest.to_bits())
}
