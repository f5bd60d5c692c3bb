//! The ring of rounds: bounded by number and by bytes, and found again by what is asked for.
#![allow(clippy::unwrap_used, missing_docs)]

use quarterdeck_model::Timestamp;
use quarterdeck_store::Store;
use quarterdeck_store::rounds::{self, Filter, NewRecording, NewRound};

fn round(group: &str, plugin: &str, outcome: &str, at: i64) -> NewRound {
    NewRound {
        scaling_group: group.to_owned(),
        at: Timestamp(at),
        plugin: plugin.to_owned(),
        version: "1.0.0".to_owned(),
        digest: "d".to_owned(),
        outcome: outcome.to_owned(),
        pending: 3,
        placed: 1,
        deferred: 1,
        refused: 1,
        stale: 0,
        duration_us: 7,
    }
}

async fn append(store: &Store, new: &NewRound, keep: i64) -> i64 {
    let mut tx = store.begin().await.unwrap();
    let id = rounds::append(&mut tx, new, keep).await.unwrap();
    tx.commit().await.unwrap();
    id
}

async fn record(store: &Store, round: i64, size: usize, max_bytes: i64) {
    let mut tx = store.begin().await.unwrap();
    rounds::keep_recording(&mut tx, &NewRecording { round, bytes: vec![7; size] }, max_bytes).await.unwrap();
    tx.commit().await.unwrap();
}

async fn ids(store: &Store, filter: Filter) -> Vec<i64> {
    rounds::list(&mut store.reader(), &filter, 100).await.unwrap().into_iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn the_oldest_rounds_go_first() {
    for db in quarterdeck_store::testing::databases().await {
        let store = &db.store;
        let other = append(store, &round("other", "fifo", "ok", 0), 3).await;
        let mut all = Vec::new();
        for at in 0..5 {
            let id = append(store, &round("sg", "fifo", "ok", at), 3).await;
            record(store, id, 10, 1000).await;
            all.push(id);
        }
        let of_group = |recorded| Filter { scaling_group: Some("sg".to_owned()), recorded, ..Filter::default() };
        assert_eq!(ids(store, of_group(false)).await, [all[4], all[3], all[2]], "newest first, three of them");
        assert_eq!(ids(store, of_group(true)).await.len(), 3, "recordings go with their rounds");
        assert!(ids(store, Filter::default()).await.contains(&other), "groups have rings of their own");

        // 30 bytes are there; with 15 more, two of the old ones must go. Their summaries stay.
        record(store, all[0], 10, 1000).await;
        let newest = append(store, &round("sg", "fifo", "ok", 9), 10).await;
        record(store, newest, 15, 30).await;
        assert_eq!(ids(store, of_group(true)).await, [newest, all[4]]);
        assert_eq!(ids(store, of_group(false)).await, [newest, all[4], all[3], all[2]]);
        let mut sql = store.reader();
        assert_eq!(rounds::recording(&mut sql, newest).await.unwrap(), Some(vec![7; 15]));
        assert_eq!(rounds::recording(&mut sql, all[3]).await.unwrap(), None);
        assert_eq!(rounds::get(&mut sql, newest).await.unwrap().unwrap().bytes, Some(15));
        assert_eq!(rounds::get(&mut sql, all[3]).await.unwrap().unwrap().bytes, None);
        assert!(rounds::get(&mut sql, all[0]).await.unwrap().is_none());
        assert_eq!(rounds::recording(&mut sql, all[0]).await.unwrap(), None, "a round that is gone gets no recording");
    }
}

#[tokio::test]
async fn rounds_are_found_by_what_is_asked_for() {
    for db in quarterdeck_store::testing::databases().await {
        let store = &db.store;
        let mut all = Vec::new();
        for (plugin, outcome) in [("fifo", "ok"), ("drf", "trap: unreachable"), ("drf", "trapped"), ("drf", "ok")] {
            all.push(append(store, &round("sg", plugin, outcome, all.len() as i64), 100).await);
        }
        let outcome = |word: &str| Filter { outcome: Some(word.to_owned()), ..Filter::default() };
        assert_eq!(ids(store, outcome("trap")).await, [all[1]]);
        assert_eq!(ids(store, outcome("trap: unreachable")).await, [all[1]]);
        assert_eq!(ids(store, outcome("failed")).await, [all[2], all[1]]);
        assert_eq!(ids(store, outcome("ok")).await, [all[3], all[0]]);
        assert_eq!(ids(store, outcome("%")).await, [0_i64; 0]);
        let plugin = Filter { plugin: Some("drf".to_owned()), before: Some(all[3]), ..Filter::default() };
        assert_eq!(ids(store, plugin).await, [all[2], all[1]]);
        let since = Filter { since: Some(Timestamp(2)), ..Filter::default() };
        assert_eq!(ids(store, since).await, [all[3], all[2]]);
    }
}
