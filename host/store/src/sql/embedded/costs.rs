//! What statements cost, as far as they ran before.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A statement that takes no longer is short, in microseconds: it runs where it is asked for. A task that doesn't give way
/// for so long is no harm to the others of its thread.
const SHORT: u32 = 500;

/// A run that took longer, in microseconds, counts in full at once: it wasn't just one that had to wait for a processor, so
/// the statement's parameters decide what it costs, and the next ones may be like these.
const OUTLIER: u32 = 8 * SHORT;

/// What a single run counts as at most, in microseconds: the statement is known as a short one again after some fifteen
/// short runs.
const MOST: u32 = 64 * SHORT;

/// How many statements are told apart, as a power of two: so many more than the host has that hardly two of them fall
/// together. Those would share an estimate, and the longer one could run in place.
const BITS: u32 = 14;

/// Moving estimates of what each statement takes, in microseconds; 0 where none is known.
#[derive(Debug)]
pub(super) struct Costs(Box<[AtomicU32]>);

/// Where a statement's estimate is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(usize);

impl Default for Costs {
    fn default() -> Self {
        Self((0..1 << BITS).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Costs {
    /// Where the estimate of the statement with this text is kept.
    pub(super) fn slot(text: &str) -> Slot {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(ODD);
        let mut words = text.as_bytes().chunks_exact(8);
        let mut hash = text.len() as u64;
        for word in &mut words {
            hash = mix(hash, u64::from_le_bytes(word.try_into().expect("a chunk has the size that was asked for")));
        }
        for byte in words.remainder() {
            hash = mix(hash, u64::from(*byte));
        }
        // The upper bits depend on all the others.
        Slot(usize::try_from(hash >> (u64::BITS - BITS)).expect("a few bits fit"))
    }

    /// Whether it is known to be short.
    pub(super) fn is_short(&self, slot: Slot) -> bool {
        (1..=SHORT).contains(&self.0[slot.0].load(Ordering::Relaxed))
    }

    /// It ran once more, for so long.
    pub(super) fn learn(&self, slot: Slot, took: Duration) {
        let took = u32::try_from(took.as_micros()).unwrap_or(MOST).clamp(1, MOST);
        let estimate = &self.0[slot.0];
        // Two at the same time may lose one of them: it's an estimate.
        let known = match estimate.load(Ordering::Relaxed) {
            0 => took,
            before if took > OUTLIER => took.max(before),
            before => ((3 * before + took) / 4).max(1),
        };
        estimate.store(known, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_or_long_is_not_short() {
        let (costs, slot) = (Costs::default(), Costs::slot("SELECT 1"));
        assert_ne!(slot, Costs::slot("SELECT 2"));
        assert!(!costs.is_short(slot));
        costs.learn(slot, Duration::ZERO);
        assert!(costs.is_short(slot), "what takes less than can be told is known, too");
        costs.learn(slot, Duration::from_micros(90));
        assert!(costs.is_short(slot));
        costs.learn(slot, Duration::from_millis(3));
        costs.learn(slot, Duration::from_micros(20));
        costs.learn(slot, Duration::from_micros(20));
        assert!(costs.is_short(slot), "it may have waited for a processor");
        costs.learn(slot, Duration::from_secs(5000));
        for _ in 0..10 {
            costs.learn(slot, Duration::from_micros(20));
            assert!(!costs.is_short(slot));
        }
        for _ in 0..10 {
            costs.learn(slot, Duration::from_micros(20));
        }
        assert!(costs.is_short(slot), "long ago counts less");
    }
}
