//! Look-ups of many requests, gathered into few statements.
//!
//! A look-up costs little more for many keys than for one: most of it is the way to the database and back. So whoever
//! asks while others are being answered waits for the next turn, which is for all who wait by then. Nothing is kept: what
//! is answered was read after it was asked for.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::error::Result;

/// Keys of one turn at most.
const BATCH: usize = 256;

/// Those who wait for look-ups of one kind.
pub(crate) struct Gather<K, V>(Arc<Mutex<State<K, V>>>);

struct State<K, V> {
    waiting: HashMap<K, Vec<oneshot::Sender<Option<V>>>>,
    /// Whether a turn is under way.
    busy: bool,
}

impl<K, V> Default for Gather<K, V> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { waiting: HashMap::new(), busy: false })))
    }
}

impl<K: Clone + Eq + Hash + Send + 'static, V: Clone + Send + 'static> Gather<K, V> {
    /// What hangs on a key, if anything. `load` looks up several; all who use one `Gather` have the same.
    ///
    /// # Errors
    /// Those of `load`, asked for this key alone.
    pub(crate) async fn get<L, F>(&self, key: K, load: L) -> Result<Option<V>>
    where
        L: Fn(Vec<K>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<HashMap<K, V>>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let begins = {
            let mut state = self.0.lock();
            state.waiting.entry(key.clone()).or_default().push(reply);
            !std::mem::replace(&mut state.busy, true)
        };
        if begins {
            // In a task of its own: who asked may go away, others wait for it.
            tokio::spawn(take_turns(Turn { state: self.0.clone(), ended: false }, load.clone()));
        }
        match answer.await {
            Ok(value) => Ok(value),
            // Whatever was wrong with all of them together: this one's own answer, or error.
            Err(_) => Ok(load(vec![key.clone()]).await?.remove(&key)),
        }
    }
}

/// The turns, one after the other, as long as anybody waits.
struct Turn<K, V> {
    state: Arc<Mutex<State<K, V>>>,
    ended: bool,
}

impl<K: Clone + Eq + Hash, V> Turn<K, V> {
    /// Those who wait by now; the turns end when there is nobody.
    fn next(&mut self) -> HashMap<K, Vec<oneshot::Sender<Option<V>>>> {
        let mut state = self.state.lock();
        if state.waiting.len() > BATCH {
            let keys: Vec<K> = state.waiting.keys().take(BATCH).cloned().collect();
            return keys.iter().filter_map(|key| state.waiting.remove_entry(key)).collect();
        }
        if state.waiting.is_empty() {
            state.busy = false;
            self.ended = true;
        }
        std::mem::take(&mut state.waiting)
    }
}

impl<K, V> Drop for Turn<K, V> {
    fn drop(&mut self) {
        if !self.ended {
            // It broke off. Who waits looks for itself.
            let mut state = self.state.lock();
            state.busy = false;
            state.waiting.clear();
        }
    }
}

async fn take_turns<K, V, L, F>(mut turn: Turn<K, V>, load: L)
where
    K: Clone + Eq + Hash,
    V: Clone,
    L: Fn(Vec<K>) -> F,
    F: Future<Output = Result<HashMap<K, V>>>,
{
    loop {
        // Whoever is about to ask comes along.
        tokio::task::yield_now().await;
        let batch = turn.next();
        if batch.is_empty() {
            return;
        }
        let Ok(mut values) = load(batch.keys().cloned().collect()).await else { continue };
        for (key, replies) in batch {
            let value = values.remove(&key);
            for reply in replies {
                // Who no longer waits needn't know.
                let _ = reply.send(value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::Error;

    /// Waits for the end of the turns.
    async fn ended(gather: &Gather<u32, u32>) {
        let quiet = async {
            while gather.0.lock().busy {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), quiet).await.unwrap();
    }

    #[tokio::test]
    async fn who_waits_is_answered_together_and_a_failure_is_its_own() {
        let gather = Gather::<u32, u32>::default();
        let (loads, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let load = {
            let (loads, open) = (loads.clone(), open.clone());
            move |keys: Vec<u32>| {
                let (loads, open) = (loads.clone(), open.clone());
                async move {
                    loads.fetch_add(1, Ordering::Relaxed);
                    open.acquire().await.unwrap().forget();
                    match keys.contains(&13) {
                        true => Err(Error::invalid("13")),
                        false => Ok(keys.into_iter().filter(|key| *key != 7).map(|key| (key, key * 10)).collect()),
                    }
                }
            }
        };
        let asked = (0..100u32).map(|at| gather.get(at % 10, load.clone()));
        let all = tokio::join!(join_all(asked), async {
            // Nobody is answered before all have asked.
            tokio::task::yield_now().await;
            open.add_permits(1000);
        });
        for (at, answer) in (0..).zip(all.0) {
            assert_eq!(answer.unwrap(), Some(at % 10).filter(|key| *key != 7).map(|key| key * 10));
        }
        assert!(loads.load(Ordering::Relaxed) <= 2, "{loads:?}");
        let answers = join_all([12, 13, 14].map(|key| gather.get(key, load.clone()))).await;
        assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
        ended(&gather).await;
    }

    #[tokio::test]
    async fn nobody_waits_for_a_turn_that_broke_off() {
        let gather = Gather::<u32, u32>::default();
        let first = Arc::new(AtomicUsize::new(0));
        let load = move |keys: Vec<u32>| {
            let first = first.clone();
            async move {
                assert!(first.fetch_add(1, Ordering::Relaxed) > 0, "as if it broke off");
                Ok(keys.into_iter().map(|key| (key, key)).collect())
            }
        };
        let answers = join_all((0..5).map(|key| gather.get(key, load.clone()))).await;
        assert_eq!(answers.into_iter().map(|answer| answer.unwrap().unwrap()).sum::<u32>(), 10);
        ended(&gather).await;
    }
}
