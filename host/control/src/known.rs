//! Answers from the rows of one area, kept in memory until the area changes.
//!
//! Every transaction that changes an area raises the area's number ([`quarterdeck_store::revisions`]). What is kept stands
//! with the number that was known before it was read: once a higher one is known, it counts as missing. A host that makes
//! a change learns its number before it answers, the others when they hear of it.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::error::Result;

/// The number of an area's last change that this host knows of.
#[derive(Debug, Default)]
pub(crate) struct Revision(AtomicI64);

impl Revision {
    fn get(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }

    /// Notes that the area has come to this number.
    pub(crate) fn reached(&self, number: i64) {
        self.0.fetch_max(number, Ordering::AcqRel);
    }
}

/// The answers to one kind of question.
pub(crate) struct Known<K, V> {
    /// Question → the number that was known before the answer was read, and the answer.
    answers: moka::sync::Cache<K, (i64, V)>,
}

impl<K, V> std::fmt::Debug for Known<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").finish_non_exhaustive()
    }
}

impl<K, V> Known<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Keeps answers that `weigh` `most` together, at most.
    pub(crate) fn new(most: u64, weigh: fn(&V) -> u32) -> Self {
        let answers = moka::sync::Cache::builder().max_capacity(most).weigher(move |_: &K, (_, v)| weigh(v)).build();
        Self { answers }
    }

    /// The answer to a question; it is read from the database unless it is known.
    ///
    /// # Errors
    /// What `read` fails with.
    pub(crate) async fn get<Q>(
        &self,
        revision: &Revision,
        question: &Q,
        read: impl Future<Output = Result<V>>,
    ) -> Result<V>
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + Hash + Eq + ?Sized,
    {
        // Taken before the read: a change that commits meanwhile raises it and this answer is stale.
        let number = revision.get();
        if let Some((read_under, answer)) = self.answers.get(question)
            && read_under == number
        {
            return Ok(answer);
        }
        let answer = read.await?;
        self.answers.insert(question.to_owned(), (number, answer.clone()));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn answers_are_known_until_their_area_changes() {
        let (revision, known) = (Revision::default(), Known::<String, u32>::new(10, |_| 1));
        let ask = async |answer: u32| known.get(&revision, "what", async { Ok(answer) }).await.unwrap();
        assert_eq!(ask(1).await, 1);
        assert_eq!(ask(2).await, 1);
        revision.reached(5);
        assert_eq!(ask(3).await, 3);
        revision.reached(4);
        assert_eq!(ask(4).await, 3, "numbers don't fall");
    }

    #[tokio::test]
    async fn what_was_read_while_its_area_changed_is_read_again() {
        let (revision, known) = (Revision::default(), Known::<String, u32>::new(10, |_| 1));
        let before = async {
            revision.reached(1);
            Ok(1)
        };
        assert_eq!(known.get(&revision, "what", before).await.unwrap(), 1);
        assert_eq!(known.get(&revision, "what", async { Ok(2) }).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn failures_are_not_kept_and_memory_is_bounded() {
        let (revision, known) = (Revision::default(), Known::<u32, u32>::new(100, |_| 10));
        let failed = known.get(&revision, &1, async { Err(crate::Error::Internal("no".to_owned())) }).await;
        assert!(failed.is_err());
        assert_eq!(known.get(&revision, &1, async { Ok(1) }).await.unwrap(), 1);
        for i in 0..1_000 {
            known.get(&revision, &i, async { Ok(i) }).await.unwrap();
        }
        known.answers.run_pending_tasks();
        assert!(known.answers.weighted_size() <= 100);
    }
}
