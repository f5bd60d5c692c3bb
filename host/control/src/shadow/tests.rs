#![allow(clippy::unwrap_used)]
//! The queues in which rounds, ticks and events wait for those who watch.

use quarterdeck_plugin::{Compiler, Runtime, RuntimeOptions};
use quarterdeck_store::testing;
use tokio::sync::Semaphore;

use super::*;
use crate::Settings;

/// Tells what it was told, and takes its time.
struct Slow {
    told: mpsc::Sender<i64>,
    gate: Arc<Semaphore>,
}

impl Shown for Slow {
    async fn play(self, _: &Control, _: &mut Ledger, skipped: i64) {
        self.told.send(skipped).await.unwrap();
        self.gate.acquire().await.unwrap().forget();
    }
}

#[tokio::test]
async fn who_finds_the_queue_full_goes_on_and_is_counted() {
    let db = testing::sqlite().await;
    let runtime = Runtime::new(RuntimeOptions { compiler: Compiler::InProcess, ..RuntimeOptions::default() }).unwrap();
    let control = Control::new(db.store.clone(), runtime, Settings::default()).await.unwrap();
    let (told, mut heard) = mpsc::channel(8);
    let gate = Arc::new(Semaphore::new(0));
    let lane = Lane::open(Arc::downgrade(&control.inner), 2);
    let offer = || lane.offer(Slow { told: told.clone(), gate: Arc::clone(&gate) });
    offer();
    assert_eq!(heard.recv().await, Some(0), "it is being played");
    for _ in 0..5 {
        offer();
    }
    gate.add_permits(3);
    assert_eq!(heard.recv().await, Some(3), "two of five found room");
    assert_eq!(heard.recv().await, Some(0), "each is counted once");
}
