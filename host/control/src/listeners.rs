//! Connections that stay open: how many somebody, and everybody together, may have on this host.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quarterdeck_model::AccessKey;

use crate::error::{Error, Result};

/// Event streams of one key pair.
const OF_ONE: usize = 100;
/// Event streams of all.
const OF_ALL: usize = 5_000;

/// Who has how many.
#[derive(Clone, Debug, Default)]
pub struct Listeners(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_key: HashMap<AccessKey, usize>,
}

/// One connection; it counts until this is dropped.
#[derive(Debug)]
pub struct Open {
    counts: Arc<Mutex<Counts>>,
    key: AccessKey,
}

impl Listeners {
    /// Counts one more.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when that is too many.
    pub fn open(&self, key: &AccessKey) -> Result<Open> {
        let mut counts = self.0.lock();
        if counts.all >= OF_ALL {
            return Err(Error::Overloaded("This host has too many event streams open."));
        }
        let own = counts.by_key.entry(key.clone()).or_default();
        if *own >= OF_ONE {
            return Err(Error::Overloaded("You have too many event streams open."));
        }
        *own += 1;
        counts.all += 1;
        Ok(Open { counts: Arc::clone(&self.0), key: key.clone() })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        counts.all -= 1;
        if let Some(own) = counts.by_key.get_mut(&self.key) {
            *own -= 1;
            if *own == 0 {
                counts.by_key.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn closed_connections_make_room() {
        let (listeners, key, other) = (Listeners::default(), AccessKey("A".into()), AccessKey("B".into()));
        let mut open: Vec<_> = (0..OF_ONE).map(|_| listeners.open(&key).unwrap()).collect();
        assert!(listeners.open(&key).is_err());
        drop(listeners.open(&other).unwrap());
        open.pop();
        open.push(listeners.open(&key).unwrap());
        drop(open);
        assert!(listeners.0.lock().by_key.is_empty());
        assert_eq!(listeners.0.lock().all, 0);
    }
}
