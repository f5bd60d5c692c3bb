//! Sessions from the request to their end, with the real loops and agents that keep books only.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "lifecycle/creation.rs"]
mod creation;
mod lab;

use std::collections::HashSet;
use std::time::Duration;

use lab::{ADMIN, FakeAgent, Lab, Manner, USER, eventually, request};
use quarterdeck_control::enqueue::{self, CreateSession};
use quarterdeck_control::sessions::ServiceRequest;
use quarterdeck_control::{Error, connections, sessions};
use quarterdeck_model::{AgentStatus, KernelStatus, SessionId, SessionResult, SessionStatus, SessionType};
use quarterdeck_rpc::pb;
use quarterdeck_rpc::pb::host_server::Host;
use quarterdeck_rpc::pb::report::Event;
use quarterdeck_store::testing::databases;
use quarterdeck_store::work::Work;
use quarterdeck_store::{Sql as _, Stmt, agents, events, history, idle, kernels, sessions as rows};
use serde_json::json;

async fn kernel_of(lab: &Lab, id: SessionId) -> kernels::KernelRow {
    kernels::of_sessions(&mut lab.control.store().reader(), &[id]).await.unwrap().remove(0)
}

async fn session(lab: &Lab, id: SessionId) -> rows::SessionRow {
    rows::get(&mut lab.control.store().reader(), id).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_runs_works_and_ends() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let agent = lab.agent("i-1", 4).await;
        let user = lab.who(USER).await;
        let mut wanted = request("first-one");
        wanted.config.environ.insert("FOO".into(), "bar".into());
        wanted.config.environ.insert("QUARTERDECK_PRIORITY".into(), "7".into());
        let made = lab.create(wanted).await;
        assert_eq!((made.status.as_str(), made.created), ("RUNNING", true));
        assert_eq!(made.service_ports, json!([{"name": "sshd", "protocol": "tcp", "ports": [2200]}]));
        assert_eq!(session(&lab, made.session_id).await.priority, 7);
        let kernel = kernel_of(&lab, made.session_id).await;
        let environ = agent.environ(&kernel.id.to_string());
        assert_eq!((environ["FOO"].as_str(), environ["BACKENDAI_CLUSTER_HOST"].as_str()), ("bar", "main1"));
        assert!(!environ.contains_key("QUARTERDECK_PRIORITY"));
        assert_eq!(lab.books().await.len(), 2 + 6 + 1, "{:?}", lab.books().await);
        lab.check_books().await;

        let info = sessions::info(&lab.control, &user, "first-one").await.unwrap();
        assert_eq!(info["status"], "RUNNING");
        assert_eq!(info["runtimeInfo"]["runtime"], "synthetic");
        assert_eq!(info["idleChecks"]["session_lifetime"]["remaining_time_type"], "expire_after");
        let run = json!({"mode": "query", "runId": null, "code": "print(1)"});
        let result = sessions::execute(&lab.control, &user, "first-one", 6, run).await.unwrap();
        assert_eq!((result["status"].as_str(), &result["files"]), (Some("finished"), &json!([])));
        assert_eq!(result["console"], json!([["stdout", "print(1)"]]));
        assert_eq!(session(&lab, made.session_id).await.num_queries, 1);
        assert_eq!(sessions::logs(&lab.control, &user, "first-one", None).await.unwrap(), "so far");
        sessions::interrupt(&lab.control, &user, "first-one").await.unwrap();
        sessions::rename(&lab.control, &user, "first-one", "other-name").await.unwrap();
        assert!(matches!(sessions::info(&lab.control, &user, "first-one").await, Err(Error::NotFound { .. })));

        let again = lab.create(CreateSession { name: "other-name".into(), ..request("x") }).await;
        assert_eq!((again.session_id, again.created), (made.session_id, false));
        let answer = sessions::destroy(&lab.control, &user, "other-name", None, false, false).await.unwrap();
        let stats = json!({"mem": {"current": "1", "unit_hint": "bytes"}, "version": 2, "status": "terminated"});
        assert_eq!(answer, json!({ "stats": stats }));
        let row = session(&lab, made.session_id).await;
        assert_eq!((row.status, row.status_info.as_deref()), (SessionStatus::Terminated, Some("user-requested")));
        assert_eq!(
            row.status_history.as_object().unwrap().keys().map(String::as_str).collect::<HashSet<_>>(),
            HashSet::from(["PENDING", "SCHEDULED", "PREPARING", "RUNNING", "TERMINATING", "TERMINATED"])
        );
        let id = made.session_id.to_string();
        assert_eq!(sessions::logs(&lab.control, &user, &id, None).await.unwrap(), "hello\u{fffd}\n");
        assert_eq!(kernel_of(&lab, made.session_id).await.exit_code, Some(137));
        assert!(lab.books().await.is_empty(), "{:?}", lab.books().await);

        let entries = history::of_session(&mut lab.control.store().reader(), made.session_id).await.unwrap();
        let own: Vec<_> = entries.iter().filter(|e| e.kernel.is_none()).map(|e| e.status.as_str()).collect();
        assert_eq!(own, ["PENDING", "SCHEDULED", "PREPARING", "RUNNING", "TERMINATING", "TERMINATED"]);
        let log = events::after(&mut lab.control.store().reader(), 0, 100).await.unwrap();
        let names: Vec<_> = log.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "session_enqueued",
                "session_scheduled",
                "session_preparing",
                "kernel_preparing",
                "kernel_started",
                "session_started",
                "session_terminating",
                "kernel_terminating",
                "kernel_terminated",
                "session_terminated"
            ]
        );
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_cancels_the_session() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let agent = lab.agent("i-1", 4).await;
        agent.behaves(Manner::Fails);
        let made = lab.create(request("fails")).await;
        assert_eq!(made.status, "CANCELLED");
        let row = session(&lab, made.session_id).await;
        assert_eq!((row.status, row.status_info.as_deref()), (SessionStatus::Cancelled, Some("failed-to-start")));
        assert_eq!(row.status_data.unwrap()["error"]["name"], "NoInterpreter");

        agent.behaves(Manner::Refuses);
        let made = lab.create(request("refused")).await;
        assert_eq!(made.status, "CANCELLED");
        assert!(lab.books().await.is_empty());
        let user = lab.who(USER).await;
        let gone = sessions::destroy(&lab.control, &user, "refused", None, false, false).await;
        assert!(matches!(gone, Err(Error::NotFound { .. })));
        // The name is free again.
        agent.behaves(Manner::Works);
        assert_eq!(lab.create(request("refused")).await.status, "RUNNING");
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_agent_does_not_swallow_the_queue() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let _crashed = lab.crashed_agent("i-1", 64).await;
        let wanted = CreateSession { enqueue_only: true, cluster_size: 2, ..request("patient") };
        let id = lab.create(wanted).await.session_id;
        let back = async || {
            let entries = history::of_session(&mut lab.control.store().reader(), id).await.unwrap();
            let back = |e: &&history::Entry| e.status == "PENDING" && e.reason.as_deref() == Some("agent-unreachable");
            entries.iter().filter(back).count() == 3
        };
        eventually("the session and its kernels to be back in the queue", back).await;
        assert_eq!((lab.status(id).await, session(&lab, id).await.attempts), (SessionStatus::Pending, 0));
        assert_eq!(kernel_of(&lab, id).await.agent_id, None);
        assert!(lab.books().await.is_empty(), "{:?}", lab.books().await);
        let row = agents::get(&mut lab.control.store().reader(), &"i-1".into()).await.unwrap().unwrap();
        assert!(row.cooldown_until.unwrap() > lab.control.clock().now());
        assert!(row.cooldown_reason.unwrap().contains("The agent i-1 can't be reached"));

        // Others take what it can't, and it is spared for now.
        let agent = lab.agent("i-2", 4).await;
        lab.reaches(id, SessionStatus::Running).await;
        assert_eq!(kernel_of(&lab, id).await.agent_id, Some("i-2".into()));
        assert_eq!(lab.create(request("next")).await.status, "RUNNING");
        assert_eq!(agent.kernels().len(), 3);
        lab.check_books().await;
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_under_way_goes_on_after_a_restart_of_the_host() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let agent = lab.agent("i-1", 8).await;
        agent.behaves(Manner::Forgets);
        let starting = lab.create(CreateSession { enqueue_only: true, ..request("starting") }).await.session_id;
        eventually("the agent to be asked", async || !agent.created().is_empty()).await;
        agent.behaves(Manner::Works);
        let ending = lab.create(request("ending")).await.session_id;
        agent.ends(false);
        let user = lab.who(USER).await;
        let control = lab.control.clone();
        let call = tokio::spawn(async move {
            let _ = sessions::destroy(&control, &user, "ending", None, false, false).await;
        });
        lab.reaches(ending, SessionStatus::Terminating).await;
        let waiting = lab.create(CreateSession { enqueue_only: true, ..request("waiting") }).await.session_id;
        lab.stop().await;
        call.abort();

        let lab = Lab::on(&db.store, lab::settings()).await;
        agent.moves_to(&lab);
        agent.ends(true);
        lab.reaches(starting, SessionStatus::Running).await;
        lab.reaches(ending, SessionStatus::Terminated).await;
        lab.reaches(waiting, SessionStatus::Running).await;
        assert_eq!(agent.kernels().len(), 2);
        lab.check_books().await;
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_count_once_and_only_from_the_right_agent() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let agent = lab.agent("i-1", 4).await;
        let id = lab.create(request("once")).await.session_id;
        let kernel = kernel_of(&lab, id).await.id.to_string();
        let session_id = id.to_string();
        let before = events::newest(&mut lab.control.store().reader()).await.unwrap();

        let creating = agent.next_report(&session_id, &kernel, Event::Creating(pb::Creating {}));
        let first = agent.send(vec![creating.clone()]).await;
        let second = agent.send(vec![creating.clone()]).await;
        assert_eq!((first.acknowledged, second.acknowledged), (creating.seq, creating.seq));
        let after = events::newest(&mut lab.control.store().reader()).await.unwrap();
        assert_eq!(after, before + 1);

        let other = lab.agent("i-2", 4).await;
        let ended = Event::Terminated(pb::Terminated::default());
        assert!(other.send_as("not this boot", vec![]).await.unwrap().register_again);
        other.report(&session_id, &kernel, ended.clone()).await;
        assert_eq!(lab.status(id).await, SessionStatus::Running);

        // Rubbish harms nobody, and is acknowledged: it would come again for ever.
        let rubbish = agent.next_report("x", "not an id", ended.clone());
        assert_eq!(agent.send(vec![rubbish.clone()]).await.acknowledged, rubbish.seq);
        agent.report(&session_id, &kernel, ended).await;
        lab.reaches(id, SessionStatus::Terminated).await;
        assert!(lab.books().await.is_empty());
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_join_with_a_token_and_an_existing_group_only() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let agent = lab.agent("i-1", 4).await;
        let request = |message: pb::RegisterRequest| quarterdeck_rpc::metadata::request(message, "i-1", "").unwrap();
        let second = agent.host().register(request(agent.registration("default"))).await.unwrap_err();
        assert_eq!(second.code(), tonic::Code::AlreadyExists, "a token takes no living agent's place");
        agent.boot().await;
        let other = pb::RegisterRequest { agent_id: "i-2".into(), ..agent.registration("nowhere") };
        let group = agent.host().register(request(other)).await.unwrap_err();
        assert_eq!(group.code(), tonic::Code::FailedPrecondition);
        let token = pb::RegisterRequest { join_token: "wrong".into(), ..agent.registration("default") };
        let refused = agent.host().register(request(token)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        let beat = quarterdeck_rpc::metadata::request(pb::HeartbeatRequest::default(), "i-1", "wrong").unwrap();
        assert_eq!(agent.host().heartbeat(beat).await.unwrap_err().code(), tonic::Code::Unauthenticated);
        let beat = quarterdeck_rpc::metadata::request(pb::HeartbeatRequest::default(), "i-unknown", "x").unwrap();
        assert!(agent.host().heartbeat(beat).await.unwrap().into_inner().register_again);
        assert!(!agent.heartbeat().await.register_again);
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_bring_both_sides_together() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let agent = lab.agent("i-1", 8).await;
        let lives = lab.create(request("lives")).await.session_id;
        let vanishes = lab.create(request("vanishes")).await.session_id;
        let kernel = kernel_of(&lab, vanishes).await.id.to_string();
        // The agent loses one kernel, and has one that nobody asked for.
        agent.forgets_all();
        let (kept, session_id) = (kernel_of(&lab, lives).await.id.to_string(), lives.to_string());
        let stray = uuid::Uuid::new_v4().to_string();
        agent.adopt(&kept, &session_id);
        agent.adopt(&stray, &uuid::Uuid::new_v4().to_string());
        eventually("both sides to agree", async || {
            agent.heartbeat().await;
            lab.status(vanishes).await == SessionStatus::Terminated && agent.kernels() == [kept.clone()]
        })
        .await;
        let row = session(&lab, vanishes).await;
        assert_eq!(row.status_info.as_deref(), Some("self-terminated"));
        assert!(!agent.kernels().contains(&kernel));
        assert_eq!(lab.status(lives).await, SessionStatus::Running);
        lab.check_books().await;
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_agents_say_harms_nobody_else() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let agent = lab.agent("i-1", 8).await;
        let other = lab.agent("i-2", 8).await;
        agent.behaves(Manner::Forgets);
        other.behaves(Manner::Forgets);
        let id = lab.create(CreateSession { enqueue_only: true, ..request("modest") }).await.session_id;
        lab.reaches(id, SessionStatus::Preparing).await;
        let row = kernel_of(&lab, id).await;
        let (kernel, session_id) = (row.id.to_string(), id.to_string());
        let (mine, foreign) = if row.agent_id == Some("i-1".into()) { (&agent, &other) } else { (&other, &agent) };
        let reserved = lab.books().await;

        // It got more than was reserved for it, it says, and something that nobody knows.
        let slot = |name: &str, amount| pb::Slot { name: name.into(), kind: "count".into(), amount };
        let Event::Started(started) = FakeAgent::started_event() else { unreachable!() };
        let allocated = vec![slot("cpu", u64::MAX), slot("mem", 512 << 20), slot("warp\0", 9), slot("warp", 9)];
        let started = pb::Started { allocated, kernel_host: "10.0.0.1\0\u{1b}[2J".into(), ..started };
        mine.report(&session_id, &kernel, Event::Started(started)).await;
        lab.reaches(id, SessionStatus::Running).await;
        assert_eq!(lab.books().await, reserved);
        lab.check_books().await;

        // It tells how its own kernels do, as long as they are.
        let stat = |text: &str| vec![pb::KernelStat { kernel_id: kernel.clone(), stat: text.into() }];
        mine.adopt(&kernel, &session_id);
        let live = || lab.control.live().kernel_stat(row.id);
        foreign.heartbeat_with(stat(r#"{"cpu": "stolen"}"#)).await;
        assert_eq!(live(), None);
        mine.heartbeat_with(stat(r#"{"cpu": "1"}"#)).await;
        foreign.heartbeat_with(stat(r#"{"cpu": "stolen"}"#)).await;
        assert_eq!(live(), Some(json!({"cpu": "1"})));
        let reason = "over\0 and\u{1b}[2J out\n".to_owned();
        let ended = Event::Terminated(pb::Terminated { reason, ..pb::Terminated::default() });
        mine.report(&session_id, &kernel, ended).await;
        lab.reaches(id, SessionStatus::Terminated).await;
        assert_eq!(session(&lab, id).await.status_info.as_deref(), Some("over and[2J out"));
        assert_eq!(kernel_of(&lab, id).await.last_stat, Some(json!({"cpu": "1"})));
        mine.heartbeat_with(stat(r#"{"cpu": "2"}"#)).await;
        assert_eq!(live(), None);
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_sessions_end_with_their_command() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let agent = lab.agent("i-1", 8).await;
        for (exit_code, reason, result) in
            [(0, "task-done", SessionResult::Success), (3, "task-failed", SessionResult::Failure)]
        {
            let id = lab
                .create(CreateSession {
                    kind: SessionType::Batch,
                    startup_command: Some("true".into()),
                    ..request(&format!("batch-{exit_code}"))
                })
                .await
                .session_id;
            let kernel = kernel_of(&lab, id).await.id.to_string();
            let event = Event::BatchFinished(pb::BatchFinished { reason: reason.into(), exit_code });
            agent.report(&id.to_string(), &kernel, event).await;
            lab.reaches(id, SessionStatus::Terminated).await;
            let row = session(&lab, id).await;
            assert_eq!((row.result, row.exit_code), (result, Some(i64::from(exit_code))));
            assert_eq!(row.status_info.as_deref(), Some("task-finished"));
        }
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_may_end_before_the_last_kernel_starts() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let agent = lab.agent("i-1", 8).await;
        agent.behaves(Manner::Forgets);
        // The last news comes from the agent, or nobody was there to act on it.
        for by_report in [true, false] {
            let wanted = CreateSession {
                kind: SessionType::Batch,
                startup_command: Some("true".into()),
                cluster_size: 2,
                enqueue_only: true,
                ..request(&format!("quick-{by_report}"))
            };
            let id = lab.create(wanted).await.session_id;
            lab.reaches(id, SessionStatus::Preparing).await;
            let mut reader = lab.control.store().reader();
            let all = kernels::of_sessions(&mut reader, &[id]).await.unwrap();
            let (main, sub) = if all[0].cluster_role == "main" { (&all[0], &all[1]) } else { (&all[1], &all[0]) };
            let (session_id, sub_id) = (id.to_string(), sub.id);
            agent.report(&session_id, &main.id.to_string(), FakeAgent::started_event()).await;
            let event = Event::BatchFinished(pb::BatchFinished { reason: "task-done".into(), exit_code: 0 });
            agent.report(&session_id, &main.id.to_string(), event).await;
            assert_eq!(lab.status(id).await, SessionStatus::Preparing);
            if by_report {
                agent.report(&session_id, &sub_id.to_string(), FakeAgent::started_event()).await;
            } else {
                let mut tx = lab.control.store().begin().await.unwrap();
                let mut work = Work::open(&mut tx, [id], lab.control.clock().now()).await.unwrap();
                work.set_kernel(sub_id, KernelStatus::Running, None, None);
                assert_eq!(work.derive(id, None), Some(SessionStatus::Running));
                work.flush(&mut tx).await.unwrap();
                tx.commit().await.unwrap();
            }
            lab.reaches(id, SessionStatus::Terminated).await;
            assert_eq!(session(&lab, id).await.result, SessionResult::Success);
        }
        lab.check_books().await;
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_a_lost_agent_end_by_force_and_it_may_come_back() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let agent = lab.agent("i-1", 8).await;
        let user = lab.who(USER).await;
        let id = lab.create(request("on-lost")).await.session_id;
        let now = lab.control.clock().now();
        agents::set_status(&mut lab.control.store().reader(), &["i-1".into()], AgentStatus::Lost, now).await.unwrap();
        sessions::destroy(&lab.control, &user, "on-lost", None, true, false).await.unwrap();
        assert_eq!(lab.status(id).await, SessionStatus::Terminated);
        assert!(lab.books().await.is_empty());
        eventually("the agent to be alive, and without the kernel", async || {
            agent.heartbeat().await;
            let row = agents::get(&mut lab.control.store().reader(), &"i-1".into()).await.unwrap().unwrap();
            row.status == AgentStatus::Alive && agent.kernels().is_empty()
        })
        .await;
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_left_is_not_called_back_by_an_older_heartbeat() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let _agent = lab.agent("i-1", 8).await;
        let mut reader = lab.control.store().reader();
        let now = lab.control.clock().now();
        for (status, since, back) in [
            (AgentStatus::Terminated, -1, false),
            (AgentStatus::Terminated, 1, true),
            (AgentStatus::Restarting, -1, false),
            (AgentStatus::Restarting, 1, true),
            (AgentStatus::Lost, -1, true),
        ] {
            agents::set_status(&mut reader, &["i-1".into()], AgentStatus::Alive, now).await.unwrap();
            agents::set_status(&mut reader, &["i-1".into()], status, now).await.unwrap();
            let seen = [("i-1".into(), now.plus_micros(since))];
            let revived = agents::revive(&mut reader, &seen, now).await.unwrap();
            assert_eq!(!revived.is_empty(), back, "{status} {since}");
            let row = agents::get(&mut reader, &"i-1".into()).await.unwrap().unwrap();
            assert_eq!(row.status == AgentStatus::Alive, back);
        }
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_session_runs_again() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let agent = lab.agent("i-1", 8).await;
        let user = lab.who(USER).await;
        let made = lab.create(CreateSession { cluster_size: 2, ..request("again") }).await;
        assert_eq!(made.status, "RUNNING");
        sessions::restart(&lab.control, &user, "again").await.unwrap();
        assert_eq!(lab.status(made.session_id).await, SessionStatus::Running);
        assert_eq!((agent.kernels().len(), agent.created().len()), (2, 4));
        lab.check_books().await;
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_taken_once_however_many_ask() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let user = lab.who(USER).await;
        let ask = |i: usize| {
            let (control, user) = (lab.control.clone(), user.clone());
            async move {
                let name = if i.is_multiple_of(2) { "the-same".to_owned() } else { format!("another-{i}") };
                let request = CreateSession { enqueue_only: true, ..request(&name) };
                enqueue::create(&control, &user, request).await.unwrap()
            }
        };
        let all = futures::future::join_all((0..40).map(ask)).await;
        assert_eq!(all.iter().filter(|c| c.created).count(), 21);
        let same: HashSet<_> = all.iter().filter(|c| c.name == "the-same").map(|c| c.session_id).collect();
        assert_eq!(same.len(), 1);
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_refused() {
    let db = quarterdeck_store::testing::sqlite().await;
    let lab = Lab::new(&db).await;
    let (user, admin) = (lab.who(USER).await, lab.who(ADMIN).await);
    let refusal = async |caller: &_, request: CreateSession| match enqueue::create(&lab.control, caller, request).await
    {
        Err(error @ Error::NotFound { .. }) => format!("{error:?}"),
        Err(error) => error.to_string(),
        Ok(created) => panic!("{created:?}"),
    };
    let base = || CreateSession { enqueue_only: true, ..request("nonsense") };
    let with = |change: &dyn Fn(&mut CreateSession)| {
        let mut request = base();
        change(&mut request);
        request
    };
    for (request, part) in [
        (with(&|r| r.kind = SessionType::Batch), "Batch sessions must have a non-empty startup command."),
        (with(&|r| r.starts_at = Some("1h".into())), "starts_at should be used only for batch"),
        (with(&|r| r.config.agent_list = Some(vec![])), "manually assign agents"),
        (with(&|r| r.config.resources = Some(json!({"warp.core": 1}))), "warp.core"),
        (with(&|r| r.config.resources = Some(json!({"cpu": 1, "mem": "1m"}))), "smaller than the minimum"),
        (with(&|r| r.cluster_size = 5), "more than 4 containers"),
        (with(&|r| r.config.mounts = vec!["data".into()]), "no accessible vfolders"),
        (with(&|r| r.config.scaling_group = Some("nowhere".into())), "does not exist"),
        (with(&|r| r.dependencies = vec!["unknown-one".into()]), "dependency list"),
        (with(&|r| r.domain = "elsewhere".into()), "domain"),
        (with(&|r| r.project = "nobodys".into()), "Invalid group"),
        (with(&|r| r.image = "cr.example.com/none/nope:1".into()), "environment image"),
        (with(&|r| r.startup_command = Some("a\0b".into())), "NUL"),
        (with(&|r| drop(r.config.environ.insert("QUARTERDECK_PRIORITY".into(), "x".into()))), "QUARTERDECK_PRIORITY"),
    ] {
        let text = refusal(&user, request).await;
        assert!(text.contains(part), "{part}: {text}");
    }
    let unknown = with(&|r| r.config.agent_list = Some(vec!["i-x".into()]));
    assert!(refusal(&admin, unknown).await.contains("No such agent: i-x"));
    assert!(lab.books().await.is_empty());
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_sessions_end_at_once_and_dependents_with_them() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let user = lab.who(USER).await;
        let first = lab.create(CreateSession { enqueue_only: true, ..request("first") }).await;
        let after = |name: &str, on: &str| CreateSession {
            enqueue_only: true,
            dependencies: vec![on.to_owned()],
            ..request(name)
        };
        let second = lab.create(after("second", "first")).await;
        let third = lab.create(after("third", &second.session_id.to_string())).await;
        let timeout = lab.create(CreateSession { max_wait_s: 1, ..request("slow") }).await;
        assert_eq!(timeout.status, "TIMEOUT");
        let all = sessions::destroy(&lab.control, &user, "first", None, false, true).await.unwrap();
        assert_eq!(all, json!([{"status": "terminated"}, {"status": "terminated"}, {"status": "terminated"}]));
        for id in [first.session_id, second.session_id, third.session_id] {
            assert_eq!(lab.status(id).await, SessionStatus::Cancelled);
        }
        let foreign = sessions::destroy(&lab.control, &user, "slow", Some(ADMIN), false, false).await;
        assert!(matches!(foreign, Err(Error::Forbidden(_))));
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_hear_every_event_once() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let _agent: FakeAgent = lab.agent("i-1", 64).await;
        let mut events = lab.control.signals().sessions.subscribe();
        // The reader notices that somebody listens at its next look.
        let heard = async {
            loop {
                let name = format!("ping-{}", uuid::Uuid::new_v4().simple());
                lab.create(CreateSession { enqueue_only: true, ..request(&name) }).await;
                if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(300), events.recv()).await {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), Box::pin(heard)).await.unwrap();
        let id = lab.create(request("heard")).await.session_id;
        let user = lab.who(USER).await;
        sessions::destroy(&lab.control, &user, "heard", None, false, false).await.unwrap();
        let mut names = Vec::new();
        while names.last().map(String::as_str) != Some("session_terminated") {
            let event = tokio::time::timeout(Duration::from_secs(30), events.recv()).await.unwrap().unwrap();
            if event.session == id {
                assert_eq!((event.session_name.as_str(), event.access_key.as_str()), ("heard", USER));
                names.push(event.name.clone());
            }
        }
        assert_eq!(names.len(), names.iter().collect::<HashSet<_>>().len(), "{names:?}");
        assert!(names.contains(&"session_started".to_owned()));
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_host_leads_and_another_takes_over() {
    for db in databases().await {
        if db.dialect() == quarterdeck_store::Dialect::Sqlite {
            continue;
        }
        let first = Lab::new(&db).await;
        eventually("the first host to lead", async || first.control.leadership().leads("start")).await;
        let second = Lab::on(&db.store, lab::settings()).await;
        let agent = first.agent("i-1", 8).await;
        assert!(!second.control.leadership().leads("start"));
        // Either host answers; the leader works.
        let made = second.create(request("via-second")).await;
        assert_eq!(made.status, "RUNNING");
        first.stop().await;
        agent.moves_to(&second);
        eventually("the second host to lead", async || second.control.leadership().leads("start")).await;
        assert_eq!(second.create(request("after-that")).await.status, "RUNNING");
        second.check_books().await;
        second.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_connections_keep_a_session_in_use() {
    for db in databases().await {
        let lab = Lab::new(&db).await;
        let _agent = lab.agent("i-1", 4).await;
        let id = lab.create(request("connected")).await.session_id;
        lab.reaches(id, SessionStatus::Running).await;
        let control = lab.control.clone();
        let kernel = kernels::of_sessions(&mut control.store().reader(), &[id]).await.unwrap()[0].id;
        let access = async || idle::access(&mut control.store().reader(), id).await.unwrap();
        let count = async || {
            let candidates = idle::candidates(&mut control.store().reader()).await.unwrap();
            candidates.iter().find(|candidate| candidate.session_id == id).map(|candidate| candidate.connections)
        };
        eventually("the start to be noted", async || access().await.is_some()).await;
        let first = connections::open(&control, id, kernel, "jupyter").await.unwrap();
        let second = connections::open(&control, id, kernel, "terminal").await.unwrap();
        assert_eq!((access().await, count().await), (Some(None), Some(2)));
        drop(first);
        eventually("the first to be gone", async || count().await == Some(1)).await;
        assert_eq!(access().await, Some(None));
        drop(second);
        eventually("the last to be gone", async || count().await == Some(0)).await;
        assert!(matches!(access().await, Some(Some(_))));

        // One that a lost host left behind, or without traffic for too long, isn't counted; with traffic it is again.
        let quiet = connections::open(&control, id, kernel, "jupyter").await.unwrap();
        let mut tx = control.store().begin().await.unwrap();
        let past = control.clock().now().plus_millis(-600_000).0;
        tx.execute(Stmt::new("UPDATE app_connections SET seen_at = $1").bind(past)).await.unwrap();
        tx.commit().await.unwrap();
        eventually("the quiet one to be passed over", async || count().await == Some(0)).await;
        eventually("the end of use", async || matches!(access().await, Some(Some(_)))).await;
        quiet.seen();
        eventually("the traffic to be noted", async || count().await == Some(1)).await;
        drop(quiet);

        // A tunnel counts from the start of its service, whatever becomes of it.
        let user = lab.who(USER).await;
        let asked = |app: &str, port| ServiceRequest { app: app.into(), port, ..ServiceRequest::default() };
        let find = async |app: &str, port| sessions::find_service(&control, &user, "connected", asked(app, port)).await;
        let service = find("sshd", Some(2200)).await.unwrap();
        let connection = service.start(&control).await.unwrap();
        assert_eq!(count().await, Some(1));
        assert!(matches!(service.connect().await, Err(sessions::CallError::Refused(_))));
        drop(connection);
        eventually("the tunnel to be gone", async || count().await == Some(0)).await;
        assert!(matches!(find("jupyter", None).await, Err(Error::NotFound { object: "app service", .. })));
        assert!(matches!(find("sshd", Some(2201)).await, Err(Error::InvalidParams { .. })));
        sessions::shutdown_service(&control, &user, "connected", "sshd").await.unwrap();
        sessions::shutdown_service(&control, &user, "connected", "nothing").await.unwrap();
        lab.stop().await;
    }
}
