//! Revisions, the steps of their lives, and the history of bindings.
#![allow(clippy::unwrap_used, missing_docs)]

use quarterdeck_model::Timestamp;
use quarterdeck_model::policy::{BindingMode, FailurePolicy, LifeStep, PluginKind, RevisionStatus, StepStatus, Target};
use quarterdeck_store::plugins::steps::{self, StepRow};
use quarterdeck_store::plugins::{self, BindingRow, HistoryRow, Place, RevisionRow};
use quarterdeck_store::testing::databases;
use serde_json::json;

fn revision(digest: &str, at: i64) -> RevisionRow {
    RevisionRow {
        digest: digest.to_owned(),
        name: String::new(),
        version: String::new(),
        kind: None,
        summary: String::new(),
        info: json!({}),
        size_bytes: 4,
        builtin: false,
        status: RevisionStatus::Incoming,
        status_reason: None,
        uploaded_by: "a@b".to_owned(),
        uploaded_at: Timestamp(at),
    }
}

fn known(digest: &str, name: &str, kind: PluginKind) -> RevisionRow {
    RevisionRow {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        kind: Some(kind),
        status: RevisionStatus::Ready,
        ..revision(digest, 1)
    }
}

fn step(digest: &str, step: LifeStep, status: StepStatus) -> StepRow {
    StepRow {
        id: 0,
        digest: digest.to_owned(),
        step,
        status,
        host: "h".to_owned(),
        at: Timestamp(7),
        duration_us: (status != StepStatus::Running).then_some(5),
        actor: "a@b".to_owned(),
        reason: None,
    }
}

fn binding(kind: PluginKind, plugin: &str, digest: &str, target: Target) -> BindingRow {
    BindingRow {
        id: format!("{plugin}-{target}"),
        kind,
        plugin: plugin.to_owned(),
        target,
        digest: digest.to_owned(),
        config: json!({}),
        position: None,
        mode: BindingMode::Live,
        failure_policy: FailurePolicy::FailClosed,
        bound_by: "a@b".to_owned(),
        bound_at: Timestamp(1),
    }
}

fn entry(action: &str, target: &Target, now: Option<Place>, before: Option<Place>) -> HistoryRow {
    HistoryRow {
        id: 0,
        at: Timestamp(3),
        actor: "a@b".to_owned(),
        action: action.to_owned(),
        kind: PluginKind::Hook,
        plugin: now.as_ref().or(before.as_ref()).unwrap().plugin.clone(),
        target: target.clone(),
        now,
        before,
        reason: None,
    }
}

fn place(digest: &str) -> Place {
    Place {
        plugin: "guard".to_owned(),
        digest: Some(digest.to_owned()),
        config: json!({"a": 1}),
        position: Some(-3),
        failure_policy: FailurePolicy::FailOpen,
    }
}

#[tokio::test]
async fn a_revision_comes_in_step_by_step() {
    for db in databases().await {
        let mut tx = db.store.begin().await.unwrap();
        assert!(plugins::insert_revision(&mut tx, &revision("d1", 10), b"\0asm").await.unwrap());
        assert!(!plugins::insert_revision(&mut tx, &revision("d1", 10), b"\0asm").await.unwrap());
        let uploaded = steps::record_step(&mut tx, &step("d1", LifeStep::Uploaded, StepStatus::Ok)).await.unwrap();
        let verified = steps::record_step(&mut tx, &step("d1", LifeStep::Verified, StepStatus::Running)).await.unwrap();
        assert!(verified > uploaded);
        tx.commit().await.unwrap();

        let mut sql = db.store.reader();
        let latest = steps::latest(&mut sql).await.unwrap();
        assert_eq!((latest["d1"].step, latest["d1"].status), (LifeStep::Verified, StepStatus::Running));
        assert_eq!(latest["d1"].duration_us, None);

        let mut tx = db.store.begin().await.unwrap();
        assert!(steps::end_step(&mut tx, verified, StepStatus::Ok, 9, None).await.unwrap());
        assert!(!steps::end_step(&mut tx, verified, StepStatus::Failed, 9, None).await.unwrap(), "ended once");
        assert!(plugins::introduce_revision(&mut tx, &known("d1", "guard", PluginKind::Hook)).await.unwrap());
        assert!(!plugins::introduce_revision(&mut tx, &known("d1", "other", PluginKind::Hook)).await.unwrap());
        assert!(!plugins::fail_revision(&mut tx, "d1", "too late").await.unwrap());
        tx.commit().await.unwrap();
        let row = plugins::revision(&mut sql, "d1").await.unwrap().unwrap();
        assert_eq!((row.name.as_str(), row.kind, row.status), ("guard", Some(PluginKind::Hook), RevisionStatus::Ready));
        let seen: Vec<_> = steps::of_revision(&mut sql, "d1").await.unwrap().into_iter().map(|s| s.step).collect();
        assert_eq!(seen, [LifeStep::Uploaded, LifeStep::Verified]);
    }
}

#[tokio::test]
async fn what_failed_is_kept_within_bounds_and_may_come_again() {
    for db in databases().await {
        let kept = i64::from(plugins::FAILED_KEPT);
        let mut tx = db.store.begin().await.unwrap();
        for number in 0..kept + 3 {
            let digest = format!("d{number:03}");
            plugins::insert_revision(&mut tx, &revision(&digest, number), b"\0asm").await.unwrap();
            steps::record_step(&mut tx, &step(&digest, LifeStep::Verified, StepStatus::Running)).await.unwrap();
            steps::break_off(&mut tx, &digest, "no").await.unwrap();
            assert!(plugins::fail_revision(&mut tx, &digest, "no component").await.unwrap());
        }
        tx.commit().await.unwrap();
        let mut sql = db.store.reader();
        let rows = plugins::revisions(&mut sql).await.unwrap();
        assert_eq!(rows.len() as i64, kept);
        assert!(rows.iter().all(|r| r.kind.is_none() && r.status == RevisionStatus::Failed));
        assert!(plugins::revision(&mut sql, "d002").await.unwrap().is_none(), "the oldest are gone");
        assert_eq!(steps::of_revision(&mut sql, "d002").await.unwrap(), [], "and their steps");
        assert_eq!(steps::of_revision(&mut sql, "d003").await.unwrap()[0].reason.as_deref(), Some("no"));
        assert_eq!(plugins::component(&mut sql, "d003").await.unwrap().unwrap(), b"");

        let mut tx = db.store.begin().await.unwrap();
        assert!(plugins::retry_revision(&mut tx, "d003", "c@d", Timestamp(1000), b"\0asm").await.unwrap());
        assert!(!plugins::retry_revision(&mut tx, "d003", "c@d", Timestamp(1000), b"\0asm").await.unwrap());
        assert_eq!(plugins::stranded(&mut tx, Timestamp(1000)).await.unwrap(), [""; 0]);
        assert_eq!(plugins::stranded(&mut tx, Timestamp(1001)).await.unwrap(), ["d003"]);
        tx.commit().await.unwrap();
        let row = plugins::revision(&mut sql, "d003").await.unwrap().unwrap();
        assert_eq!((row.status, row.status_reason, row.uploaded_by.as_str()), (RevisionStatus::Incoming, None, "c@d"));
    }
}

#[tokio::test]
async fn steps_are_bounded_and_bindings_drive_no_admission_out() {
    for db in databases().await {
        let mut tx = db.store.begin().await.unwrap();
        for digest in ["d1", "d2"] {
            plugins::insert_revision(&mut tx, &revision(digest, 1), b"\0asm").await.unwrap();
            steps::record_step(&mut tx, &step(digest, LifeStep::Uploaded, StepStatus::Ok)).await.unwrap();
        }
        for _ in 0..steps::KEPT {
            steps::record_step(&mut tx, &step("d1", LifeStep::Active, StepStatus::Ok)).await.unwrap();
            steps::record_step(&mut tx, &step("d1", LifeStep::Retired, StepStatus::Ok)).await.unwrap();
        }
        tx.commit().await.unwrap();
        let mut sql = db.store.reader();
        let rows = steps::of_revision(&mut sql, "d1").await.unwrap();
        assert_eq!(rows.len() as u32, steps::KEPT + 1);
        assert_eq!(rows[0].step, LifeStep::Uploaded);
        assert_eq!(rows.last().unwrap().step, LifeStep::Retired);
        assert_eq!(steps::of_revision(&mut sql, "d2").await.unwrap().len(), 1);

        let mut tx = db.store.begin().await.unwrap();
        let long = StepRow { reason: Some("ä".repeat(5000)), ..step("d2", LifeStep::Verified, StepStatus::Failed) };
        steps::record_step(&mut tx, &long).await.unwrap();
        let kept = steps::of_revision(&mut tx, "d2").await.unwrap()[1].reason.clone().unwrap();
        assert!(kept.len() <= 4096 && kept.chars().all(|c| c == 'ä'));
    }
}

#[tokio::test]
async fn history_keeps_all_that_a_binding_was_made_of() {
    for db in databases().await {
        let target = Target::domain("d");
        let mut tx = db.store.begin().await.unwrap();
        plugins::record(&mut tx, &entry("bind", &target, Some(place("d1")), None)).await.unwrap();
        plugins::record(&mut tx, &entry("shadow", &target, Some(place("d2")), None)).await.unwrap();
        plugins::record(&mut tx, &entry("unbind", &target, None, Some(place("d1")))).await.unwrap();
        tx.commit().await.unwrap();
        let mut sql = db.store.reader();
        let rows = plugins::history(&mut sql, PluginKind::Hook, &target, 10).await.unwrap();
        let actions: Vec<_> = rows.iter().map(|h| h.action.as_str()).collect();
        assert_eq!(actions, ["unbind", "bind"], "watching changes nothing that serves");
        assert_eq!((&rows[0].now, rows[0].before.as_ref()), (&None, Some(&place("d1"))));
        assert_eq!((rows[1].now.as_ref(), &rows[1].before), (Some(&place("d1")), &None));
        assert_eq!(plugins::history_of(&mut sql, &["guard"], 10).await.unwrap().len(), 3);
        assert_eq!(plugins::history_of(&mut sql, &["other"], 10).await.unwrap().len(), 0);
    }
}

#[tokio::test]
async fn a_demotion_is_told_until_somebody_changes_the_place() {
    for db in databases().await {
        let mut sql = db.store.reader();
        let (here, there) = (Target::domain("d"), Target::everywhere());
        let mut tx = db.store.begin().await.unwrap();
        for target in [&here, &there] {
            let suspended = HistoryRow {
                reason: Some("failed".to_owned()),
                ..entry("suspend", target, Some(place("d1")), Some(place("d2")))
            };
            plugins::record(&mut tx, &suspended).await.unwrap();
        }
        tx.commit().await.unwrap();
        assert_eq!(plugins::demotions(&mut sql, 10).await.unwrap().len(), 2);
        let mut tx = db.store.begin().await.unwrap();
        let other = Place { plugin: "another".to_owned(), ..place("d9") };
        plugins::record(&mut tx, &entry("bind", &here, Some(other), None)).await.unwrap();
        plugins::record(&mut tx, &entry("bind", &there, Some(place("d3")), Some(place("d1")))).await.unwrap();
        tx.commit().await.unwrap();
        let left = plugins::demotions(&mut sql, 10).await.unwrap();
        assert_eq!(left.len(), 1, "another hook at the same target changes nothing about this one");
        assert_eq!((&left[0].target, left[0].reason.as_deref()), (&here, Some("failed")));
    }
}

#[tokio::test]
async fn a_group_has_one_live_scheduler() {
    for db in databases().await {
        let group = Target::scaling_group("g");
        let mut tx = db.store.begin().await.unwrap();
        for name in ["one", "two"] {
            plugins::insert_revision(&mut tx, &known(name, name, PluginKind::Scheduler), b"\0asm").await.unwrap();
            for target in [&group, &Target::scaling_group("h")] {
                let row = binding(PluginKind::Scheduler, name, name, target.clone());
                plugins::upsert_binding(&mut tx, &row).await.unwrap();
            }
        }
        let watching = BindingRow {
            id: "s".to_owned(),
            mode: BindingMode::Shadow,
            ..binding(PluginKind::Scheduler, "one", "one", group.clone())
        };
        plugins::upsert_binding(&mut tx, &watching).await.unwrap();
        let gone = plugins::delete_bindings_but(&mut tx, PluginKind::Scheduler, &group, "two").await.unwrap();
        assert_eq!(gone.iter().map(|b| b.plugin.as_str()).collect::<Vec<_>>(), ["one"]);
        let left = plugins::bindings(&mut tx).await.unwrap();
        let here: Vec<_> = left.iter().filter(|b| b.target == group).map(|b| (b.plugin.as_str(), b.mode)).collect();
        assert_eq!(here, [("one", BindingMode::Shadow), ("two", BindingMode::Live)]);
        assert_eq!(left.len(), 4);
    }
}
