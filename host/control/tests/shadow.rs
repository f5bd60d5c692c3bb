//! Policies that watch: beside a live scheduler, hooks and idle checkers, with the built-in policies as candidates.
#![allow(clippy::unwrap_used, missing_docs)]

mod lab;

use lab::{ADMIN, Lab, USER, eventually, request};
use quarterdeck_control::dry_run::dry_run;
use quarterdeck_control::enqueue::CreateSession;
use quarterdeck_control::plugins::{self, BindRequest};
use quarterdeck_control::shadow::{self, Figures, Summary};
use quarterdeck_control::{Control, Error, idle};
use quarterdeck_model::SessionStatus;
use quarterdeck_model::policy::{BindingMode, FailurePolicy, LifeStep, Target};
use quarterdeck_store::plugins as rows;
use quarterdeck_store::testing::databases;
use serde_json::{Value, json};

fn wants(name: &str, cpus: u32) -> CreateSession {
    let mut request = request(name);
    request.enqueue_only = true;
    request.config.resources = Some(json!({"cpu": cpus, "mem": "512m"}));
    request
}

fn group() -> Target {
    Target::scaling_group("default")
}

fn binding(plugin: &str, target: Target, config: Value) -> BindRequest {
    BindRequest {
        plugin: plugin.to_owned(),
        target,
        config: Some(config),
        position: None,
        failure_policy: FailurePolicy::FailClosed,
    }
}

async fn watch(lab: &Lab, plugin: &str, target: Target, config: Value) {
    let admin = lab.who(ADMIN).await;
    shadow::bind(&lab.control, &admin, binding(plugin, target, config)).await.unwrap();
}

async fn only(lab: &Lab) -> Summary {
    let mut all = shadow::list(&lab.control, &*lab.who(ADMIN).await).await.unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

async fn reach(lab: &Lab, what: &str, wanted: impl Fn(&Figures) -> bool) -> Figures {
    eventually(what, async || wanted(&Figures::of(&only(lab).await.totals))).await;
    Figures::of(&only(lab).await.totals)
}

async fn scheduler(control: &Control) -> String {
    rows::group_scheduler(&mut control.store().reader(), "default").await.unwrap().unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_watches_and_is_promoted() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let admin = lab.who(ADMIN).await;
        // Two sessions and room for one: the live policy takes the older, the candidate the newer.
        let older = lab.create(wants("older-one", 3)).await.session_id;
        let newer = lab.create(wants("newer-one", 3)).await.session_id;
        watch(&lab, "lifo", group(), json!({})).await;
        let refused = shadow::promote(&lab.control, &admin, "lifo", &group(), false).await;
        assert!(matches!(refused, Err(Error::InvalidParams { .. })), "it has seen nothing");
        let _agent = lab.agent("i-1", 4).await;
        lab.reaches(older, SessionStatus::Running).await;
        let figures = reach(&lab, "a difference to be kept", |f| f.only_candidate == 1).await;
        assert_eq!((figures.only_live, figures.elsewhere, figures.failed), (1, 0, 0), "{figures:?}");
        assert!(figures.latency_ratio.is_some_and(|ratio| ratio > 0.0), "{figures:?}");
        assert_eq!(lab.status(newer).await, SessionStatus::Pending, "it only watches");
        let (summary, runs) = shadow::runs(&lab.control, &admin, "lifo", None, 10).await.unwrap();
        assert_eq!(runs.len(), 1, "what was decided alike is not kept");
        let details = shadow::details(&runs[0]).unwrap();
        let fates: Vec<_> = details["sessions"].as_array().unwrap().iter().map(|s| (&s["name"], &s["live"])).collect();
        let placed = json!({"fate": "placed", "agents": ["i-1"]});
        assert_eq!(fates[0], (&json!("older-one"), &placed), "{details}");
        assert_eq!(details["sessions"][1]["candidate"], placed, "{details}");
        let seen = rows::steps::of_revision(&mut lab.control.store().reader(), &summary.binding.digest).await.unwrap();
        assert!(seen.iter().any(|step| step.step == LifeStep::Shadow));

        // Bound again it begins anew.
        watch(&lab, "lifo", group(), json!({})).await;
        let again = only(&lab).await;
        assert_ne!(again.binding.id, summary.binding.id);
        assert_eq!(Figures::of(&again.totals).only_candidate, 0);

        let done = shadow::promote(&lab.control, &admin, "lifo", &group(), true).await.unwrap();
        assert_eq!(done.now.unwrap().name, "lifo");
        assert!(done.before.unwrap().starts_with("fifo@"));
        assert_eq!(scheduler(&lab.control).await, "lifo");
        assert!(shadow::list(&lab.control, &admin).await.unwrap().is_empty());
        let bindings = rows::bindings(&mut lab.control.store().reader()).await.unwrap();
        assert!(bindings.iter().all(|b| b.mode == BindingMode::Live));
        plugins::rollback(&lab.control, &admin, None, &group()).await.unwrap();
        assert_eq!(scheduler(&lab.control).await, "fifo");

        // Nobody but superadmins.
        let user = lab.who(USER).await;
        assert!(matches!(shadow::list(&lab.control, &user).await, Err(Error::InsufficientPrivilege(_))));
        let refused = shadow::promote(&lab.control, &user, "lifo", &group(), true).await;
        assert!(matches!(refused, Err(Error::InsufficientPrivilege(_))));
        let gone = shadow::unbind(&lab.control, &admin, "lifo", &group()).await;
        assert!(matches!(gone, Err(Error::NotFound { .. })));
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_watches_without_a_veto() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let (admin, user) = (lab.who(ADMIN).await, lab.who(USER).await);
        watch(&lab, "admission-limits", Target::everywhere(), json!({"max_per_session": {"cpu": 2}})).await;
        // What is only thought of is no event.
        dry_run(&lab.control, &user, &wants("thought-of", 3), false).await.unwrap();
        lab.create(wants("small-one", 1)).await;
        lab.create(wants("large-one", 3)).await;
        let figures = reach(&lab, "two events to be seen", |f| f.seen >= 2).await;
        assert_eq!((figures.seen, figures.only_candidate, figures.only_live), (2, 1, 0), "{figures:?}");
        assert_eq!(figures.agreement, Some(0.5));
        let (_, runs) = shadow::runs(&lab.control, &admin, "admission-limits", None, 10).await.unwrap();
        let details = shadow::details(&runs[0]).unwrap();
        assert_eq!(details["live"], json!({"verdict": "allowed"}));
        assert_eq!(details["candidate"]["verdict"], "denied", "{details}");

        // Promoted it has one.
        shadow::promote(&lab.control, &admin, "admission-limits", &Target::everywhere(), false).await.unwrap();
        let refused = quarterdeck_control::enqueue::create(&lab.control, &user, wants("too-large", 3)).await;
        assert!(matches!(refused, Err(Error::RejectedByHook { .. })));
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_checker_watches_without_ending_anything() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let _agent = lab.agent("i-1", 4).await;
        let runs = lab.create(request("runs-on")).await.session_id;
        watch(&lab, "network_timeout", Target::everywhere(), json!({"threshold": "10m"})).await;
        idle::tick(&lab.control).await.unwrap();
        let figures = reach(&lab, "a tick to be seen", |f| f.seen >= 1).await;
        assert_eq!((figures.failed, figures.agreement), (0, Some(1.0)), "{figures:?}");
        assert_eq!(lab.status(runs).await, SessionStatus::Running);
        lab.stop().await;
    }
}
