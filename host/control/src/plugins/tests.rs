#![allow(clippy::unwrap_used)]
//! Lives of plugins on both databases, without agents and loops.

use std::sync::{Arc, OnceLock};

use quarterdeck_model::policy::{BindingMode, FailurePolicy, LifeStep, PluginKind, RevisionStatus, StepStatus, Target};
use quarterdeck_plugin::{Compiler, Failure, Runtime, RuntimeOptions, builtin};
use quarterdeck_store::plugins::steps;
use quarterdeck_store::plugins::{self as rows, BindingRow};
use quarterdeck_store::revisions;
use quarterdeck_store::rounds::{self, Filter};
use quarterdeck_store::testing::{self, TestDb};
use serde_json::{Value as Json, json};

use super::*;
use crate::policies::Bound;
use crate::{Settings, seed};

fn runtime() -> Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let options = || RuntimeOptions { compiler: Compiler::InProcess, ..RuntimeOptions::default() };
    RUNTIME.get_or_init(|| Runtime::new(options()).unwrap()).clone()
}

async fn seeded() -> Vec<TestDb> {
    let seed: Json = serde_json::from_str(include_str!("../../../../tests/conformance/seed.json")).unwrap();
    let databases = testing::databases().await;
    for db in &databases {
        seed::load(&db.store, &seed).await.unwrap();
    }
    databases
}

/// A host on a database; several may share one.
async fn host(db: &TestDb, name: &str) -> Control {
    let settings = Settings { node_id: name.to_owned(), round_ring: 100_000, ..Settings::default() };
    Control::new(db.store.clone(), runtime(), settings).await.unwrap()
}

async fn admin(control: &Control) -> Arc<Principal> {
    let credential = control.identity().credential("AKIACONFADMIN0000001").await.unwrap().unwrap();
    Arc::clone(&credential.principal)
}

/// A built-in policy under another digest: a section that means nothing is added.
fn variant(name: &str, tag: &str) -> Upload {
    let mut component = builtin::get(name).unwrap().wasm.to_vec();
    let section = [&[4][..], b"note", tag.as_bytes()].concat();
    component.push(0);
    component.push(u8::try_from(section.len()).unwrap());
    component.extend(section);
    Upload { component: component.into(), signature: None }
}

async fn pushed(control: &Control, name: &str, tag: &str) -> String {
    push(control, &*admin(control).await, variant(name, tag)).await.unwrap().revision.digest
}

fn request(plugin: &str, target: Target) -> BindRequest {
    BindRequest {
        plugin: plugin.to_owned(),
        target,
        config: None,
        position: None,
        failure_policy: FailurePolicy::FailClosed,
    }
}

fn group() -> Target {
    Target::scaling_group("default")
}

async fn bound(control: &Control, plugin: &str, target: Target) {
    bind(control, &*admin(control).await, request(plugin, target)).await.unwrap();
}

/// What serves the default group by the books: the scheduler's name, and the pinned revision.
async fn serves(control: &Control) -> (String, Option<String>) {
    let mut sql = control.store().reader();
    let (name, _) = rows::group_scheduler(&mut sql, "default").await.unwrap().unwrap();
    let live = rows::bindings(&mut sql).await.unwrap().into_iter().find(|b| b.target == group() && b.plugin == name);
    (name, live.map(|b| b.digest))
}

async fn fail(control: &Control, digest: &str, times: usize) {
    let bound = Bound {
        plugin: control.policies().plugin(digest).await.unwrap(),
        config: "{}".to_owned(),
        binding_id: None,
        target: group(),
        fail_open: false,
    };
    for _ in 0..times {
        let failure = Failure::Trap { export: "propose", reason: "unreachable".to_owned() };
        control.policies().failed(&bound, &failure).await;
    }
}

async fn words(control: &Control, digest: &str) -> Vec<(LifeStep, StepStatus)> {
    let steps = steps::of_revision(&mut control.store().reader(), digest).await.unwrap();
    steps.into_iter().map(|s| (s.step, s.status)).collect()
}

#[test]
fn references_name_a_version_or_a_digest() {
    assert_eq!(split_reference("fifo"), ("fifo", None));
    assert_eq!(split_reference("fifo@1.2.0"), ("fifo", Some("1.2.0")));
    let digest = "0123456789abcdef";
    assert!(is_digest_of("01234567", digest));
    assert!(is_digest_of("sha256:0123456789ABCDEF", digest));
    assert!(!is_digest_of("0123456", digest), "too short to be meant");
    assert!(!is_digest_of("fifo", digest));
}

#[tokio::test]
async fn a_component_comes_in_by_steps_and_is_taken_in_once() {
    for db in seeded().await {
        let control = host(&db, "h").await;
        let admin = admin(&control).await;
        let three = [(); 3].map(|()| push(&control, &admin, variant("fifo", "a")));
        let pushed: Vec<Pushed> = futures::future::try_join_all(three).await.unwrap();
        assert_eq!(pushed.iter().filter(|p| p.created).count(), 1, "the others wait for the first");
        let one = pushed.iter().find(|p| p.created).unwrap();
        let revision = &one.revision;
        assert_eq!((revision.name.as_str(), revision.status), ("fifo", RevisionStatus::Ready));
        assert_eq!((revision.kind, revision.uploaded_by.as_str()), (Some(PluginKind::Scheduler), "admin@conf.test"));
        let seen: Vec<_> = one.steps.iter().map(|s| s.step).collect();
        assert_eq!(seen, LifeStep::ADMISSION);
        for step in &one.steps {
            assert_eq!((step.status, step.host.as_str()), (StepStatus::Ok, "h"), "{step:?}");
            assert_eq!((step.actor.as_str(), &step.reason), ("admin@conf.test", &None));
            assert!(step.duration_us.is_some(), "{step:?}");
        }
        let views = list(&control, &admin).await.unwrap();
        let stage = |digest: &str| views.iter().find(|v| v.revision.digest == digest).unwrap().stage;
        assert_eq!(stage(&revision.digest), LifeStep::SelfTested, "it serves nobody");
        let builtin = quarterdeck_plugin::digest(builtin::get("fifo").unwrap().wasm);
        assert_eq!(stage(&builtin), LifeStep::Active, "the group names it");
    }
}

#[tokio::test]
async fn what_fails_is_kept_with_its_reason_and_never_bound() {
    for db in seeded().await {
        let control = host(&db, "h").await;
        let admin = admin(&control).await;
        let upload = || Upload { component: b"\0asm\x01\0\0\0".as_slice().into(), signature: None };
        for round in 1..=2 {
            let Err(Error::InvalidParams { msg, data }) = push(&control, &admin, upload()).await else { panic!() };
            assert!(msg.contains("core module"), "{msg}");
            let digest = data.unwrap()["digest"].as_str().unwrap().to_owned();
            let seen = inspect(&control, &admin, &digest).await.unwrap();
            assert_eq!(seen.revisions.len(), 1);
            let view = &seen.revisions[0];
            assert_eq!((view.stage, view.revision.kind), (LifeStep::Failed, None));
            assert!(view.revision.status_reason.as_ref().unwrap().contains("core module"));
            let failed: Vec<_> = view.steps.iter().filter(|s| s.status == StepStatus::Failed).collect();
            assert_eq!(failed.len(), round, "it may be tried again");
            assert_eq!(failed[0].step, LifeStep::Verified);
            assert!(failed[0].reason.as_ref().unwrap().contains("core module"));
            let refused = bind(&control, &admin, request(&digest, group())).await.unwrap_err().to_string();
            assert!(refused.contains("core module"), "{refused}");
        }
        assert_eq!(serves(&control).await.0, "fifo");
    }
}

#[tokio::test]
async fn what_breaks_in_its_self_test_never_serves() {
    for db in seeded().await {
        drop(host(&db, "registers").await);
        // A host on which no guest has room to begin.
        let limits = quarterdeck_plugin::Limits { memory_bytes: 1 << 16, ..quarterdeck_plugin::Limits::default() };
        let options = RuntimeOptions { compiler: Compiler::InProcess, limits, ..RuntimeOptions::default() };
        let narrow = Runtime::new(options).unwrap();
        let control = Control::new(db.store.clone(), narrow, Settings::default()).await.unwrap();
        let admin = admin(&control).await;
        let upload = variant("fifo", "narrow");
        let digest = quarterdeck_plugin::digest(&upload.component);
        let refused = push(&control, &admin, upload).await.unwrap_err().to_string();
        assert!(refused.contains("self-test") && refused.contains("65536 allowed"), "{refused}");
        assert!(control.runtime().get(&digest).is_none(), "nobody comes by it");
        let steps = words(&control, &digest).await;
        assert_eq!(steps[2..], [(LifeStep::Compiled, StepStatus::Ok), (LifeStep::SelfTested, StepStatus::Failed)]);
        let row = rows::revision(&mut control.store().reader(), &digest).await.unwrap().unwrap();
        assert_eq!((row.kind, row.status), (Some(PluginKind::Scheduler), RevisionStatus::Failed), "as far as it came");
    }
}

#[tokio::test]
async fn what_a_fallen_host_left_is_given_up_and_may_come_again() {
    for db in seeded().await {
        let control = host(&db, "h").await;
        let upload = variant("lifo", "stranded");
        let digest = quarterdeck_plugin::digest(&upload.component);
        let long_ago = control.clock().now().plus_millis(-3_600_000);
        let row = RevisionRow {
            digest: digest.clone(),
            name: String::new(),
            version: String::new(),
            kind: None,
            summary: String::new(),
            info: json!({}),
            size_bytes: 1,
            builtin: false,
            status: RevisionStatus::Incoming,
            status_reason: None,
            uploaded_by: "a@b".to_owned(),
            uploaded_at: long_ago,
        };
        let mut tx = control.store().begin().await.unwrap();
        rows::insert_revision(&mut tx, &row, &upload.component).await.unwrap();
        let running = control.policies().step(&digest, LifeStep::Compiled, StepStatus::Running, long_ago, "a@b");
        steps::record_step(&mut tx, &running).await.unwrap();
        tx.commit().await.unwrap();

        assert_eq!(tidy(&control).await.unwrap(), 1);
        assert_eq!(tidy(&control).await.unwrap(), 0);
        assert_eq!(words(&control, &digest).await, [(LifeStep::Compiled, StepStatus::Failed)]);
        let again = push(&control, &*admin(&control).await, upload).await.unwrap();
        assert!(again.created);
        assert_eq!((again.revision.name.as_str(), again.steps.len()), ("lifo", 5));
    }
}

#[tokio::test]
async fn a_used_up_budget_brings_the_last_good_one_back_and_at_last_the_built_in() {
    for db in seeded().await {
        let (one, two) = (host(&db, "one").await, host(&db, "two").await);
        let good = pushed(&one, "drf", "good").await;
        let bad = pushed(&one, "lifo", "bad").await;
        bound(&one, &good, group()).await;
        bound(&one, &bad, group()).await;
        // Another configuration of the bad one isn't another revision.
        bound(&one, &bad, group()).await;
        two.policies().refresh().await.unwrap();
        fail(&one, &bad, 4).await;
        assert_eq!(serves(&one).await, ("lifo".to_owned(), Some(bad.clone())));
        assert!(one.policies().troubles().is_empty());

        // Both hosts come to the same end, and it is written once.
        tokio::join!(fail(&one, &bad, 1), fail(&two, &bad, 5));
        assert_eq!(serves(&one).await, ("drf".to_owned(), Some(good.clone())));
        let history = rows::history(&mut one.store().reader(), PluginKind::Scheduler, &group(), 10).await.unwrap();
        let actions: Vec<_> = history.iter().map(|h| h.action.as_str()).collect();
        assert_eq!(actions, ["suspend", "bind", "bind", "bind"]);
        assert!(history[0].reason.as_ref().unwrap().contains("failed 5 times in a row"), "{:?}", history[0]);
        let suspensions = words(&one, &bad).await.into_iter().filter(|(step, _)| *step == LifeStep::Suspended).count();
        assert_eq!(suspensions, 1);
        assert_eq!(words(&one, &good).await.last().unwrap().0, LifeStep::Active);
        for control in [&one, &two] {
            control.policies().refresh().await.unwrap();
            let troubles = control.policies().troubles();
            assert_eq!(troubles.len(), 1, "{troubles:?}");
            let told = &troubles[0];
            assert_eq!((told.plugin.as_str(), &told.digest, &told.target), ("lifo", &bad, &group()));
            assert!(told.instead.as_ref().unwrap().starts_with("drf@") && !told.blocks, "{told:?}");
        }

        // The next one falls, too: nothing good is left but the built-in.
        fail(&two, &good, 5).await;
        assert_eq!(serves(&two).await.0, "fifo");
        let builtin = quarterdeck_plugin::digest(builtin::get("fifo").unwrap().wasm);
        fail(&two, &builtin, 10).await;
        assert_eq!(serves(&two).await.0, "fifo", "there is nothing behind it");

        // Bound again, it has a whole budget, everywhere.
        bound(&one, &bad, group()).await;
        two.policies().refresh().await.unwrap();
        assert!(two.policies().troubles().is_empty(), "somebody has seen to it");
        fail(&two, &bad, 4).await;
        assert_eq!(serves(&one).await, ("lifo".to_owned(), Some(bad.clone())));
    }
}

#[tokio::test]
async fn bindings_of_schedulers_that_serve_no_more_are_left_alone_and_cleared() {
    for db in seeded().await {
        let control = host(&db, "h").await;
        let old = pushed(&control, "lifo", "old").await;
        // As an earlier release left them.
        let leftover = BindingRow {
            id: "left".to_owned(),
            kind: PluginKind::Scheduler,
            plugin: "lifo".to_owned(),
            target: group(),
            digest: old.clone(),
            config: json!({}),
            position: None,
            mode: BindingMode::Live,
            failure_policy: FailurePolicy::FailClosed,
            bound_by: "a@b".to_owned(),
            bound_at: control.clock().now(),
        };
        let mut tx = control.store().begin().await.unwrap();
        rows::upsert_binding(&mut tx, &leftover).await.unwrap();
        revisions::bump(&mut tx, revisions::BINDINGS).await.unwrap();
        tx.commit().await.unwrap();
        control.policies().refresh().await.unwrap();

        fail(&control, &old, 5).await;
        assert_eq!(serves(&control).await.0, "fifo", "the group had another scheduler");
        let mut sql = control.store().reader();
        let history = rows::history(&mut sql, PluginKind::Scheduler, &group(), 10).await.unwrap();
        assert!(history.is_empty(), "nothing has changed there: {history:?}");

        bound(&control, "drf", group()).await;
        let live: Vec<_> = rows::bindings(&mut sql).await.unwrap().into_iter().map(|b| b.plugin).collect();
        assert_eq!(live, ["drf"], "a group has one scheduler");
    }
}

#[tokio::test]
async fn an_unbinding_that_is_rolled_back_brings_all_of_the_binding_back() {
    for db in seeded().await {
        let control = host(&db, "h").await;
        let admin = admin(&control).await;
        let target = Target::domain("default");
        let config = json!({"max_cluster_size": 3});
        let whole = BindRequest {
            config: Some(config.clone()),
            position: Some(-7),
            failure_policy: FailurePolicy::FailOpen,
            ..request("admission-limits", target.clone())
        };
        bind(&control, &admin, whole).await.unwrap();
        unbind(&control, &admin, "admission-limits", &target).await.unwrap();
        assert_eq!(rows::bindings(&mut control.store().reader()).await.unwrap().len(), 0);
        rollback(&control, &admin, Some(PluginKind::Hook), &target).await.unwrap();
        let back = rows::bindings(&mut control.store().reader()).await.unwrap().remove(0);
        assert_eq!((back.position, back.failure_policy, &back.config), (Some(-7), FailurePolicy::FailOpen, &config));
        // And undone: it is gone again.
        let gone = rollback(&control, &admin, Some(PluginKind::Hook), &target).await.unwrap();
        assert!(gone.now.is_none());
        assert_eq!(rows::bindings(&mut control.store().reader()).await.unwrap().len(), 0);
    }
}

fn session() -> crate::enqueue::CreateSession {
    use crate::enqueue::{CreateSession, SessionConfig};
    CreateSession {
        name: "waits".to_owned(),
        image: "python".to_owned(),
        architecture: Some("x86_64".to_owned()),
        kind: quarterdeck_model::SessionType::Interactive,
        project: "default".to_owned(),
        domain: "default".to_owned(),
        cluster_size: 1,
        cluster_mode: quarterdeck_model::ClusterMode::SingleNode,
        config: SessionConfig { resources: Some(json!({"cpu": 1, "mem": "512m"})), ..SessionConfig::default() },
        tag: None,
        enqueue_only: true,
        max_wait_s: 0,
        starts_at: None,
        reuse: false,
        startup_command: None,
        bootstrap_script: None,
        dependencies: Vec::new(),
        callback_url: None,
        owner_access_key: None,
        priority: None,
        expected_duration_s: None,
        timeout_s: None,
        builds_images: false,
        nodes: Vec::new(),
        endpoint: None,
    }
}

/// Every round is decided by what was bound when it began, also where another host binds.
#[tokio::test(flavor = "multi_thread")]
async fn rounds_go_by_what_is_bound_when_they_begin() {
    for db in seeded().await {
        let (binds, decides) = (host(&db, "binds").await, host(&db, "decides").await);
        let admin = admin(&binds).await;
        // It fits nowhere, there being no agents: each pass looks at it again.
        crate::enqueue::create(&binds, &admin, session()).await.unwrap();
        decides.config_tree().set(&[("config/rounds/mode".to_owned(), "all".to_owned())]).await.unwrap();

        let stop = tokio_util::sync::CancellationToken::new();
        let passes = {
            let (control, stop) = (decides.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    let pass = crate::schedule::pass(&control, "default").await.unwrap();
                    assert_eq!(pass.skipped, None);
                }
            })
        };
        // From when to when what was bound for certain.
        let mut spans = Vec::new();
        for turn in 0..60 {
            let now = match turn % 4 {
                3 => rollback(&binds, &admin, None, &group()).await.unwrap().now,
                which => bind(&binds, &admin, request(["lifo", "drf", "fifo"][which], group())).await.unwrap().now,
            };
            let from = binds.clock().now();
            let digest = now.unwrap().digest;
            // Two whole rounds, of which the second may begin while the next change is on its way.
            let seen = |rows: Vec<rounds::RoundRow>| rows.len() == 2 && rows.iter().all(|r| r.at > from);
            while !passes.is_finished()
                && !seen(rounds::list(&mut binds.store().reader(), &Filter::default(), 2).await.unwrap())
            {
                tokio::task::yield_now().await;
            }
            spans.push((from, binds.clock().now(), digest));
        }
        stop.cancel();
        passes.await.unwrap();

        let rounds = rounds::list(&mut binds.store().reader(), &Filter::default(), 1_000_000).await.unwrap();
        assert!(rounds.iter().all(|r| r.outcome == "ok"), "{:?}", rounds.iter().find(|r| r.outcome != "ok"));
        let mut judged = 0;
        for (from, to, digest) in &spans {
            // Newest first. A round's time is taken just before it looks who decides.
            let within: Vec<_> = rounds.iter().filter(|r| r.at > *from && r.at < *to).skip(1).collect();
            for round in &within {
                assert_eq!(round.digest, *digest, "{round:?}");
            }
            judged += within.len();
        }
        assert!(judged >= spans.len(), "{judged} of {} rounds", rounds.len());
    }
}

/// Waits for what another host is told to have its effect.
async fn soon(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_hear_of_changes_that_they_never_look_for() {
    for db in seeded().await {
        // No loops run here, so nobody looks at revision numbers.
        let (one, two) = (host(&db, "one").await, host(&db, "two").await);
        let stop = tokio_util::sync::CancellationToken::new();
        let ear = tokio::spawn(crate::news::listen(two.clone(), stop.clone()));
        let mouth = tokio::spawn(crate::news::tell(one.clone(), stop.clone()));

        bind(&one, &*admin(&one).await, request("admission-limits", Target::everywhere())).await.unwrap();
        soon("the hook", async || two.policies().has_hooks("PRE_ENQUEUE_SESSION")).await;
        one.config_tree().set(&[("config/heard".to_owned(), "yes".to_owned())]).await.unwrap();
        soon("the configuration", async || two.config_tree().get("config/heard").await.as_deref() == Some("yes")).await;

        let user = "AKIACONFUSER00000003";
        assert!(two.identity().credential(user).await.unwrap().unwrap().is_active);
        let mut tx = db.store.begin().await.unwrap();
        let off = quarterdeck_store::keypairs::KeypairChanges { is_active: Some(false), ..Default::default() };
        quarterdeck_store::keypairs::update(&mut tx, user, &off).await.unwrap();
        crate::identity::commit(&one, tx).await.unwrap();
        soon("the key pair", async || !two.identity().credential(user).await.unwrap().unwrap().is_active).await;

        let superadmin = admin(&one).await;
        let groups =
            async |host: &Control| crate::scaling_groups::names_for(host, &superadmin, "default").await.unwrap();
        assert_eq!(groups(&two).await, ["default"]);
        let with = quarterdeck_store::scaling_groups::Associate::Domain("default");
        crate::scaling_groups::disassociate(&one, &superadmin, Some("default"), with).await.unwrap();
        assert!(groups(&one).await.is_empty(), "who makes a change sees it at once");
        soon("the scaling group", async || groups(&two).await.is_empty()).await;

        if db.dialect() == quarterdeck_store::Dialect::Postgres {
            one.signals().start.notify_one();
            let woken = two.signals().start.notified();
            tokio::time::timeout(std::time::Duration::from_secs(60), woken).await.expect("a loop elsewhere is woken");
            soon("each other", async || two.others().are_there()).await;
        }
        stop.cancel();
        ear.await.unwrap();
        mouth.await.unwrap();
    }
}
