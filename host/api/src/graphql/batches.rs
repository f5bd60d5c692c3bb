//! What the resolvers of one request look up is gathered into batches, without a clock.
//!
//! One task polls all resolvers of a request. When they have been polled and none was woken meanwhile, each waits for
//! something outside, and nobody is left who could add a key: what was asked for until then is looked up, one batch for
//! each kind of key. What a batch brings may have others asked for; those wait until all batches under way are back, so
//! that keys of one level of the document stay together however long each batch takes. Hence a list costs the same
//! number of statements whatever its length and however busy the machine is.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::hash::Hash;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::{BoxFuture, JoinAll, join_all, poll_fn};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use quarterdeck_control::Error;
use tokio::task::JoinHandle;

use super::fault::{Answer, Fault};

/// What things are looked up by.
pub(crate) trait Key: Clone + Eq + Hash + Send + Sync + 'static {}

impl<T: Clone + Eq + Hash + Send + Sync + 'static> Key for T {}

/// Looks up many things of a kind at once.
pub(crate) trait Loader<K: Key>: Send + Sync + 'static {
    /// What hangs on a key.
    type Value: Clone + Send + 'static;

    /// What hangs on each of these; keys on which nothing hangs may be left out.
    fn load(&self, keys: &[K]) -> impl Future<Output = Answer<HashMap<K, Self::Value>>> + Send;
}

/// The look-ups of one request. They are done as long as [`Batches::drive`] runs, for resolvers that it polls.
pub(crate) struct Batches<L> {
    loaders: Arc<L>,
    /// What was asked for since the last batches began, by the kind of key.
    asked: Mutex<HashMap<TypeId, Box<dyn Batch<L>>>>,
}

/// A batch, whatever its keys are.
trait Batch<L>: Any + Send {
    fn look_up(self: Box<Self>, loaders: Arc<L>) -> BoxFuture<'static, ()>;
}

/// The keys of a batch, and who waits for each.
struct Asked<L: Loader<K>, K: Key>(HashMap<K, Vec<Reply<L::Value>>>);

type Reply<V> = oneshot::Sender<Answer<Option<V>>>;

impl<L: Loader<K>, K: Key> Batch<L> for Asked<L, K> {
    fn look_up(self: Box<Self>, loaders: Arc<L>) -> BoxFuture<'static, ()> {
        let Self(asked) = *self;
        async move {
            let keys: Vec<K> = asked.keys().cloned().collect();
            let mut found = loaders.load(&keys).await;
            for (key, mut replies) in asked {
                let answer = match &mut found {
                    Ok(found) => Ok(found.remove(&key)),
                    Err(fault) => Err(fault.clone()),
                };
                // Who no longer waits needn't know.
                let last = replies.pop();
                for reply in replies {
                    let _ = reply.send(answer.clone());
                }
                if let Some(last) = last {
                    let _ = last.send(answer);
                }
            }
        }
        .boxed()
    }
}

/// Wakes the request's task, and knows whether it did.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<L: Send + Sync + 'static> Batches<L> {
    pub(crate) fn new(loaders: L) -> Self {
        Self { loaders: Arc::new(loaders), asked: Mutex::default() }
    }

    /// Looks up one thing, together with whatever else is asked for at the same time.
    pub(crate) async fn load_one<K: Key>(&self, key: K) -> Answer<Option<L::Value>>
    where
        L: Loader<K>,
    {
        let (reply, answer) = oneshot::channel();
        self.ask::<K>(key, reply);
        answer.await.unwrap_or_else(|_| Err(Fault::from(Error::Internal("a look-up broke off".to_owned()))))
    }

    fn ask<K: Key>(&self, key: K, reply: Reply<L::Value>)
    where
        L: Loader<K>,
    {
        let mut asked = self.asked.lock();
        let batch = asked.entry(TypeId::of::<K>()).or_insert_with(|| Box::new(Asked::<L, K>(HashMap::new())));
        let batch: &mut dyn Any = batch.as_mut();
        if let Some(Asked(keys)) = batch.downcast_mut::<Asked<L, K>>() {
            keys.entry(key).or_default().push(reply);
        }
    }

    /// Runs a request, and does what its resolvers have looked up.
    pub(crate) async fn drive<R: Future>(&self, request: R) -> R::Output {
        let mut request = pin!(request);
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), ..Bell::default() });
        let waker = Waker::from(Arc::clone(&bell));
        let mut under_way: Option<JoinAll<JoinHandle<()>>> = None;
        poll_fn(|cx| {
            bell.task.register(cx.waker());
            loop {
                if bell.rung.swap(false, Ordering::AcqRel) {
                    if let Poll::Ready(output) = request.as_mut().poll(&mut Context::from_waker(&waker)) {
                        return Poll::Ready(output);
                    }
                    // Resolvers that were woken while others were polled have their turn first. Whoever woke them woke
                    // this task, too.
                    if bell.rung.load(Ordering::Acquire) {
                        return Poll::Pending;
                    }
                }
                if let Some(batches) = &mut under_way {
                    // One that panicked has left its waiters an error.
                    ready!(batches.poll_unpin(cx));
                    under_way = None;
                    // What they brought may have rung.
                    continue;
                }
                let asked = mem::take(&mut *self.asked.lock());
                if asked.is_empty() {
                    return Poll::Pending;
                }
                // Tasks of their own: what a batch writes is not broken off when the client goes away.
                let begin = |batch: Box<dyn Batch<L>>| tokio::spawn(batch.look_up(Arc::clone(&self.loaders)));
                under_way = Some(join_all(asked.into_values().map(begin)));
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    /// Adds one to each key, and notes how many keys each batch had.
    #[derive(Default)]
    struct Counts {
        slow: Mutex<Vec<usize>>,
        quick: Mutex<Vec<usize>>,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    struct Slow(usize);
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    struct Quick(usize);
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    struct Fails(usize);
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    struct Panics(usize);

    impl Loader<Slow> for Counts {
        type Value = usize;

        async fn load(&self, keys: &[Slow]) -> Answer<HashMap<Slow, usize>> {
            self.slow.lock().push(keys.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(keys.iter().map(|key| (*key, key.0 + 1)).collect())
        }
    }

    impl Loader<Quick> for Counts {
        type Value = usize;

        async fn load(&self, keys: &[Quick]) -> Answer<HashMap<Quick, usize>> {
            self.quick.lock().push(keys.len());
            Ok(keys.iter().map(|key| (*key, key.0 + 1)).collect())
        }
    }

    impl Loader<Fails> for Counts {
        type Value = usize;

        async fn load(&self, keys: &[Fails]) -> Answer<HashMap<Fails, usize>> {
            Err(Fault(format!("{} keys", keys.len())))
        }
    }

    impl Loader<Panics> for Counts {
        type Value = usize;

        async fn load(&self, _keys: &[Panics]) -> Answer<HashMap<Panics, usize>> {
            panic!("a loader that breaks");
        }
    }

    /// Can go on at once, but has others go first.
    async fn step_back() {
        let mut stepped = false;
        poll_fn(|cx| {
            if mem::replace(&mut stepped, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_asked_for_in_one_sweep_is_one_batch() {
        // More rows and fields than are polled without a break.
        const ROWS: usize = 100;
        const FIELDS: usize = 50;
        let batches = Batches::new(Counts::default());
        let field = async |n: usize| {
            // Some come late to it, some have something else looked up before.
            for _ in 0..n % 7 {
                step_back().await;
            }
            if n.is_multiple_of(2) {
                let next = batches.load_one(Quick(n)).await.unwrap().unwrap();
                batches.load_one(Slow(next)).await.unwrap().unwrap()
            } else {
                let next = batches.load_one(Slow(n)).await.unwrap().unwrap();
                batches.load_one(Quick(next)).await.unwrap().unwrap()
            }
        };
        let rows = (0..ROWS).map(|row| join_all((0..FIELDS).map(move |n| row * FIELDS + n).map(field)));
        let sums = batches.drive(join_all(rows)).await;
        let expected: Vec<usize> = (0..ROWS * FIELDS).map(|n| n + 2).collect();
        assert_eq!(sums.concat(), expected);
        // One batch of each kind for either level, though the quick one of the first is back long before the slow one.
        let half = ROWS * FIELDS / 2;
        assert_eq!(*batches.loaders.quick.lock(), [half, half]);
        assert_eq!(*batches.loaders.slow.lock(), [half, half]);
    }

    #[tokio::test]
    async fn whoever_waits_for_a_key_gets_the_answer() {
        let batches = Batches::new(Counts::default());
        let same = batches.drive(join_all((0..40).map(|_| batches.load_one(Quick(1))))).await;
        assert!(same.into_iter().all(|answer| answer.unwrap() == Some(2)));
        assert_eq!(*batches.loaders.quick.lock(), [1]);
        let failed = batches.drive(join_all((0..40).map(|n| batches.load_one(Fails(n / 2))))).await;
        assert!(failed.into_iter().all(|answer| answer.unwrap_err().0 == "20 keys"));
    }

    #[tokio::test]
    async fn a_batch_that_breaks_is_an_error_and_no_others() {
        let batches = Batches::new(Counts::default());
        let both = async { futures::join!(batches.load_one(Panics(1)), batches.load_one(Slow(1))) };
        let (broken, whole) = batches.drive(both).await;
        assert!(broken.is_err());
        assert_eq!(whole.unwrap(), Some(2));
        // The request goes on with what it asks for next.
        assert_eq!(batches.drive(batches.load_one(Quick(2))).await.unwrap(), Some(3));
    }

    #[tokio::test]
    async fn what_is_asked_for_while_batches_are_under_way_has_its_turn() {
        let batches = Batches::new(Counts::default());
        let other = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            batches.load_one(Quick(5)).await.unwrap()
        };
        let (one, other) = batches.drive(async { futures::join!(batches.load_one(Slow(1)), other) }).await;
        assert_eq!((one.unwrap(), other), (Some(2), Some(6)));
    }
}
