//! How often a key pair may ask: counts over the last 900 seconds, kept in memory.
//!
//! A request is refused when more than `limit` requests, refused ones included, arrived in the window
//! that ends with it. Up to [`EXACT`] requests the instants themselves are kept, and of these only the
//! latest `limit`: older ones can't change any decision, so hammering costs no memory. Above that,
//! counts per second are kept; a request may then count up to one second longer than it should.
//! Either way a key pair costs a few kilobytes at most, whatever its limit.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use parking_lot::Mutex;

/// The window, in seconds.
pub const WINDOW_SECONDS: u64 = 900;
const WINDOW_MS: u64 = WINDOW_SECONDS * 1000;
/// Limits up to this one are counted by instants.
const EXACT: i64 = 1024;
const SHARDS: usize = 64;
/// A shard looks for key pairs that went silent at most this often.
const SWEEP_MS: u64 = 60_000;

/// The windows of all key pairs.
#[derive(Debug)]
pub struct RateLimiter {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Shard {
    windows: HashMap<Box<str>, Window>,
    swept_at: u64,
}

#[derive(Debug)]
struct Window {
    newest: u64,
    hits: Hits,
}

#[derive(Debug)]
enum Hits {
    Instants(VecDeque<u64>),
    Seconds { counts: VecDeque<(u64, u64)>, total: u64 },
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl RateLimiter {
    /// Counts a request at `now_ms` (of a clock that never goes back) and answers how many requests
    /// are left, or `None` when this one is too many.
    pub fn count(&self, access_key: &str, limit: i64, now_ms: u64) -> Option<i64> {
        let shard = usize::try_from(self.hasher.hash_one(access_key) % SHARDS as u64).unwrap_or(0);
        let mut shard = self.shards[shard].lock();
        let window = match shard.windows.get_mut(access_key) {
            Some(window) => window,
            None => {
                shard.sweep(now_ms);
                let window = Window { newest: now_ms, hits: Hits::Instants(VecDeque::new()) };
                shard.windows.entry(access_key.into()).or_insert(window)
            }
        };
        // Another core may have read its clock later and come here first.
        let now_ms = now_ms.max(window.newest);
        window.newest = now_ms;
        let count = window.hits.add(limit, now_ms);
        (count <= limit).then(|| limit - count)
    }

    /// How many key pairs are kept.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().windows.len()).sum()
    }
}

impl Shard {
    fn sweep(&mut self, now_ms: u64) {
        if now_ms >= self.swept_at + SWEEP_MS {
            self.swept_at = now_ms;
            self.windows.retain(|_, window| window.newest + WINDOW_MS > now_ms);
        }
    }
}

impl Hits {
    /// Counts one more and answers the window's count, which may be any number above `limit` when it is above.
    fn add(&mut self, limit: i64, now_ms: u64) -> i64 {
        self.suit(limit);
        match self {
            Self::Instants(instants) => {
                while instants.front().is_some_and(|at| at + WINDOW_MS <= now_ms) {
                    instants.pop_front();
                }
                let count = i64::try_from(instants.len()).unwrap_or(i64::MAX).saturating_add(1);
                instants.push_back(now_ms);
                while i64::try_from(instants.len()).is_ok_and(|kept| kept > limit.max(0)) {
                    instants.pop_front();
                }
                count
            }
            Self::Seconds { counts, total } => {
                let second = now_ms / 1000;
                while let Some((_, count)) = counts.pop_front_if(|(at, _)| *at + WINDOW_SECONDS < second) {
                    *total -= count;
                }
                *total += 1;
                add_to_second(counts, second);
                i64::try_from(*total).unwrap_or(i64::MAX)
            }
        }
    }

    /// Changes the way of counting when an administrator moved the limit across the border.
    fn suit(&mut self, limit: i64) {
        match self {
            Self::Instants(instants) if limit > EXACT => {
                let mut counts = VecDeque::new();
                for at in instants.iter() {
                    add_to_second(&mut counts, at / 1000);
                }
                let total = instants.len() as u64;
                *self = Self::Seconds { counts, total };
            }
            Self::Seconds { counts, .. } if limit <= EXACT => {
                let keep = usize::try_from(limit).unwrap_or(0);
                let mut instants = VecDeque::new();
                for &(second, count) in counts.iter().rev() {
                    for _ in 0..count {
                        if instants.len() == keep {
                            break;
                        }
                        instants.push_front(second * 1000 + 999);
                    }
                }
                *self = Self::Instants(instants);
            }
            _ => {}
        }
    }
}

fn add_to_second(counts: &mut VecDeque<(u64, u64)>, second: u64) {
    match counts.back_mut() {
        Some((at, count)) if *at == second => *count += 1,
        _ => counts.push_back((second, 1)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn remaining_goes_down_by_one() {
        let limiter = RateLimiter::default();
        assert_eq!(limiter.count("a", 77, 0), Some(76));
        assert_eq!(limiter.count("a", 77, 1), Some(75));
        assert_eq!(limiter.count("b", 50, 1), Some(49));
    }

    #[test]
    fn refused_requests_count_too() {
        let limiter = RateLimiter::default();
        assert_eq!(limiter.count("a", 2, 0), Some(1));
        assert_eq!(limiter.count("a", 2, 0), Some(0));
        for at in 1..=10 {
            assert_eq!(limiter.count("a", 2, at * 100_000), None, "hammering keeps it blocked");
        }
        assert_eq!(limiter.count("a", 2, 1_000_000 + WINDOW_MS), Some(1));
    }

    #[test]
    fn a_limit_of_nothing_refuses_everything() {
        let limiter = RateLimiter::default();
        for limit in [0, -1, i64::MIN] {
            assert_eq!(limiter.count("a", limit, 0), None);
        }
    }

    #[test]
    fn large_limits_cost_no_more_than_small_ones() {
        let limiter = RateLimiter::default();
        for at in 0..2_000_000_u64 {
            limiter.count("big", 10_000_000, at);
            limiter.count("small", 100, at);
        }
        for shard in &limiter.shards {
            for window in shard.lock().windows.values() {
                match &window.hits {
                    Hits::Instants(kept) => assert!(kept.len() <= 100),
                    Hits::Seconds { counts, .. } => assert!(counts.len() <= 901),
                }
            }
        }
        assert!(limiter.count("big", 10_000_000, 2_000_000).unwrap() >= 10_000_000 - 902_000);
    }

    #[test]
    fn limits_may_change() {
        let limiter = RateLimiter::default();
        for _ in 0..10 {
            limiter.count("a", 20, 5000);
        }
        assert_eq!(limiter.count("a", 5000, 6000), Some(4989));
        assert_eq!(limiter.count("a", 20, 7000), Some(8));
        assert_eq!(limiter.count("a", 5, 8000), None);
    }

    #[test]
    fn silent_keys_are_forgotten() {
        let limiter = RateLimiter::default();
        for key in 0..1000 {
            limiter.count(&format!("k{key}"), 10, 0);
        }
        assert_eq!(limiter.len(), 1000);
        for key in 1000..3000 {
            limiter.count(&format!("k{key}"), 10, WINDOW_MS + SWEEP_MS);
        }
        assert!(limiter.len() <= 2000 + 10);
    }

    proptest! {
        /// Small limits decide as a list of all instants would.
        #[test]
        fn exact_for_small_limits(limit in 0_i64..20, gaps in prop::collection::vec(0_u64..120_000, 1..200)) {
            let limiter = RateLimiter::default();
            let (mut all, mut now) = (Vec::new(), 0);
            for gap in gaps {
                now += gap;
                all.push(now);
                let count = i64::try_from(all.iter().filter(|at| **at + WINDOW_MS > now).count()).unwrap();
                let expected = (count <= limit).then_some(limit - count);
                prop_assert_eq!(limiter.count("k", limit, now), expected);
            }
        }
    }
}
