//! What shadow bindings saw: sums and a bounded ring, gone with their binding.
#![allow(clippy::unwrap_used, missing_docs)]

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{BindingMode, FailurePolicy, PluginKind, RevisionStatus, Target};
use quarterdeck_store::plugins::{self, BindingRow, RevisionRow};
use quarterdeck_store::shadow::{self, Run, Totals};
use quarterdeck_store::testing::databases;
use serde_json::json;

fn revision() -> RevisionRow {
    RevisionRow {
        digest: "d".to_owned(),
        name: "candidate".to_owned(),
        version: "1.0.0".to_owned(),
        kind: Some(PluginKind::Scheduler),
        summary: String::new(),
        info: json!({}),
        size_bytes: 1,
        builtin: false,
        status: RevisionStatus::Ready,
        status_reason: None,
        uploaded_by: "a@b".to_owned(),
        uploaded_at: Timestamp(1),
    }
}

fn binding() -> BindingRow {
    BindingRow {
        id: "b".to_owned(),
        kind: PluginKind::Scheduler,
        plugin: "candidate".to_owned(),
        target: Target::scaling_group("g"),
        digest: "d".to_owned(),
        config: json!({}),
        position: None,
        mode: BindingMode::Shadow,
        failure_policy: FailurePolicy::FailClosed,
        bound_by: "a@b".to_owned(),
        bound_at: Timestamp(1),
    }
}

fn run(at: i64) -> Run {
    Run {
        round: Some(at),
        at,
        outcome: "ok".to_owned(),
        elsewhere: 1,
        live_us: 10,
        candidate_us: 20,
        live_fragmentation: 0.5,
        details: Some(vec![1, 2, 3]),
        ..Run::default()
    }
}

#[tokio::test]
async fn sums_grow_and_the_ring_does_not() {
    for db in databases().await {
        let mut tx = db.store.begin().await.unwrap();
        plugins::insert_revision(&mut tx, &revision(), b"x").await.unwrap();
        plugins::upsert_binding(&mut tx, &binding()).await.unwrap();
        shadow::begin(&mut tx, "b", Timestamp(1)).await.unwrap();
        tx.commit().await.unwrap();
        for at in 1..=5 {
            let mut more = Totals { binding: "b".to_owned(), skipped: 1, ..Totals::default() };
            more.count(&run(at), false);
            let mut tx = db.store.begin().await.unwrap();
            assert!(shadow::add(&mut tx, &more, &[run(at)], 3).await.unwrap());
            tx.commit().await.unwrap();
        }
        let mut reader = db.store.reader();
        let totals = shadow::totals(&mut reader, "b").await.unwrap().unwrap();
        assert_eq!((totals.seen, totals.skipped, totals.sums.elsewhere, totals.sums.candidate_us), (5, 5, 5, 100));
        assert_eq!((totals.last_at, totals.sums.live_fragmentation, totals.rested.clone()), (Some(5), 2.5, None));
        let kept = shadow::runs(&mut reader, "b", None, 10).await.unwrap();
        assert_eq!(kept.iter().map(|r| r.run.clone()).collect::<Vec<_>>(), [run(5), run(4), run(3)]);
        assert_eq!(shadow::runs(&mut reader, "b", Some(kept[1].id), 10).await.unwrap(), kept[2..]);

        let rested = Some((Timestamp(9), "failed".to_owned()));
        let more = Totals { binding: "b".to_owned(), failed_in_a_row: 5, rested: rested.clone(), ..Totals::default() };
        let mut tx = db.store.begin().await.unwrap();
        shadow::add(&mut tx, &more, &[], 3).await.unwrap();
        let gone = Totals { binding: "none".to_owned(), ..Totals::default() };
        assert!(!shadow::add(&mut tx, &gone, &[run(1)], 3).await.unwrap());
        tx.commit().await.unwrap();
        let totals = shadow::all(&mut reader).await.unwrap().remove(0);
        assert_eq!((totals.rested, totals.failed_in_a_row, totals.last_at), (rested, 5, Some(5)));

        let mut tx = db.store.begin().await.unwrap();
        let target = Target::scaling_group("g");
        plugins::delete_binding(&mut tx, PluginKind::Scheduler, "candidate", &target, BindingMode::Shadow)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert!(shadow::all(&mut reader).await.unwrap().is_empty());
        assert!(shadow::runs(&mut reader, "b", None, 10).await.unwrap().is_empty());
    }
}
