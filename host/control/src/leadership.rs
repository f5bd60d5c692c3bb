//! Which loops this host leads: with several hosts on one database each loop has one leader.
//!
//! Two leaders for a moment do no harm, since every step is guarded by the state it expects; they
//! would only do the same work twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use quarterdeck_store::Store;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

/// How often this host tries to lead what nobody leads.
const CAMPAIGN_EVERY: Duration = Duration::from_secs(1);

/// The leaderships of this host.
#[derive(Debug)]
pub struct Leadership {
    locks: Mutex<quarterdeck_store::locks::Leadership>,
    /// The loops that this host would lead.
    wanted: parking_lot::Mutex<BTreeSet<&'static str>>,
    led: ArcSwap<BTreeSet<String>>,
    changed: Notify,
}

impl Leadership {
    pub(crate) fn new(store: &Store) -> Self {
        Self {
            locks: Mutex::new(store.leadership()),
            wanted: parking_lot::Mutex::default(),
            led: ArcSwap::default(),
            changed: Notify::new(),
        }
    }

    /// Makes this host campaign for that loop from now on.
    pub(crate) fn want(&self, name: &'static str) {
        self.wanted.lock().insert(name);
    }

    /// The loops that this host leads.
    pub fn all_led(&self) -> Arc<BTreeSet<String>> {
        self.led.load_full()
    }

    /// Whether this host leads that loop.
    pub fn leads(&self, name: &str) -> bool {
        self.led.load().contains(name)
    }

    /// Resolves when this host leads that loop.
    pub(crate) async fn led(&self, name: &str) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.leads(name) {
                return;
            }
            changed.await;
        }
    }

    /// Resolves when this host no longer leads that loop.
    pub(crate) async fn lost(&self, name: &str) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.leads(name) {
                return;
            }
            changed.await;
        }
    }

    async fn campaign(&self) {
        let wanted: Vec<_> = self.wanted.lock().iter().copied().collect();
        let led = match self.locks.lock().await.campaign(&wanted).await {
            Ok(led) => led,
            Err(error) => {
                tracing::warn!(%error, "leadership is lost: the database can't be reached");
                BTreeSet::new()
            }
        };
        if **self.led.load() != led {
            tracing::info!(loops = ?led, "this host leads");
            self.led.store(Arc::new(led));
            self.changed.notify_waiters();
        }
    }

    /// Campaigns until `shutdown`, then gives up everything.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        let mut timer = tokio::time::interval(CAMPAIGN_EVERY);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = timer.tick() => self.campaign().await,
            }
        }
    }

    /// Gives up everything, so that another host takes over at once.
    pub(crate) async fn resign(&self) {
        self.locks.lock().await.resign().await;
        self.led.store(Arc::default());
        self.changed.notify_waiters();
    }
}
