//! The guards of a round's commit: whatever was decided, the rows decide.
#![allow(clippy::unwrap_used, missing_docs)]

use quarterdeck_model::{AccessKey, AgentId, KernelId, SessionId, Timestamp};
use quarterdeck_store::occupancy::{self, Scope};
use quarterdeck_store::schedule::{self, Account, Commit, Placed, PlacedKernel, StaleReason};
use quarterdeck_store::testing::TestDb;
use quarterdeck_store::{Sql, Stmt, Store};

const PROJECT: &str = "00000000-0000-4000-8000-000000000001";
const AT: Timestamp = Timestamp(1_700_000_000_000_000);

/// A group with the agents `i-1` and `i-2` (4 cpu each) and an owner who may hold `quota` cpu.
async fn world(db: &TestDb, quota: &str, max_sessions: i64) {
    let mut tx = db.store.begin().await.unwrap();
    let script = [
        "INSERT INTO domains (name, created_at, modified_at) VALUES ('default', 0, 0)",
        "INSERT INTO projects (id, name, domain_name, created_at, modified_at)
         VALUES ('00000000-0000-4000-8000-000000000001', 'default', 'default', 0, 0)",
        "INSERT INTO users (id, email, status, created_at, modified_at, domain_name, role)
         VALUES ('00000000-0000-4000-8000-000000000002', 'u@example.org', 'active', 0, 0, 'default', 'user')",
        "INSERT INTO scaling_groups (name, created_at, driver, scheduler) VALUES ('sg', 0, 'static', 'fifo')",
        "INSERT INTO agents (id, status, scaling_group, addr, architecture, version, runtime, first_contact, last_seen,
            credential, host_secret)
         VALUES ('i-1', 'ALIVE', 'sg', 'a1', 'x86_64', '1', 'synthetic', 0, 0, '', ''),
                ('i-2', 'ALIVE', 'sg', 'a2', 'x86_64', '1', 'synthetic', 0, 0, '', '')",
        "INSERT INTO agent_slots (agent_id, slot, capacity) VALUES ('i-1', 'cpu', 4000), ('i-2', 'cpu', 4000)",
    ];
    for sql in script {
        tx.execute(Stmt::new(sql)).await.unwrap();
    }
    tx.execute(
        Stmt::new(
            "INSERT INTO keypair_resource_policies (name, created_at, default_for_unspecified, total_resource_slots,
                max_concurrent_sessions, max_containers_per_session, max_vfolder_count, max_vfolder_size, idle_timeout)
             VALUES ('default', 0, 'UNLIMITED', $1, $2, 100, 10, 0, 0)",
        )
        .bind(format!("{{\"cpu\":\"{quota}\"}}"))
        .bind(max_sessions),
    )
    .await
    .unwrap();
    tx.execute(Stmt::new(
        "INSERT INTO keypairs (access_key, secret_key, user_id, user_email, is_active, is_admin, resource_policy,
            created_at, rate_limit)
         VALUES ('A', 'x', '00000000-0000-4000-8000-000000000002', 'u@example.org', TRUE, FALSE, 'default', 0, 1000)",
    ))
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

async fn enqueue(store: &Store, n: usize) -> Vec<(SessionId, KernelId)> {
    let mut tx = store.begin().await.unwrap();
    let mut out = Vec::new();
    for i in 0..n {
        let (session, kernel) = (SessionId::new(), KernelId::new());
        tx.execute(
            Stmt::new(
                "INSERT INTO sessions (id, creation_id, name, session_type, cluster_mode, cluster_size, domain_name,
                    project_id, user_id, access_key, scaling_group, status, created_at, status_changed)
                 VALUES ($1, 'c', $2, 'INTERACTIVE', 'single-node', 1, 'default', $3,
                    '00000000-0000-4000-8000-000000000002', 'A', 'sg', 'PENDING', $4, $4)",
            )
            .bind(session.to_string())
            .bind(session.to_string())
            .bind(PROJECT)
            .bind(i as i64),
        )
        .await
        .unwrap();
        tx.execute(
            Stmt::new(
                "INSERT INTO kernels (id, session_id, cluster_role, cluster_idx, local_rank, cluster_hostname, image,
                    architecture, registry, status, status_changed, created_at, requested_slots, occupied_slots)
                 VALUES ($1, $2, 'main', 1, 0, 'main1', 'reg/py:3', 'x86_64', 'reg', 'PENDING', 0, 0, '{\"cpu\":\"1\"}', '{}')",
            )
            .bind(kernel.to_string())
            .bind(session.to_string()),
        )
        .await
        .unwrap();
        out.push((session, kernel));
    }
    tx.commit().await.unwrap();
    out
}

/// A round that places each session with 1 cpu on its agent, decided on the rows as they are now.
async fn round(store: &Store, placements: &[((SessionId, KernelId), &str)], limit: i64, sessions: i64) -> Commit {
    let mut tx = store.begin_read().await.unwrap();
    let queue = schedule::load(&mut tx, "sg").await.unwrap();
    tx.rollback().await.unwrap();
    let account = |scope, holder: &str, fingerprint: String, limit, sessions| Account {
        scope,
        holder: holder.to_owned(),
        fingerprint,
        limit: vec![limit],
        sessions: (sessions, i64::MAX),
    };
    Commit {
        at: AT,
        slots: vec!["cpu".to_owned()],
        placed: placements
            .iter()
            .enumerate()
            .map(|(i, ((session, kernel), agent))| Placed {
                order: i as u32,
                id: *session,
                access_key: AccessKey::from("A"),
                project: PROJECT.to_owned(),
                domain: "default".to_owned(),
                is_private: false,
                kernels: vec![PlacedKernel { id: *kernel, agent: AgentId::from(*agent), held: vec![1000] }],
            })
            .collect(),
        records: Vec::new(),
        cancelled: Vec::new(),
        accounts: vec![
            account(Scope::Keypair, "A", queue.owners[0].fingerprint(), limit, sessions),
            account(Scope::Project, PROJECT, queue.projects[0].fingerprint(), i64::MAX, i64::MAX),
            account(Scope::Domain, "default", queue.domains[0].fingerprint(), i64::MAX, i64::MAX),
        ],
        recount: Vec::new(),
    }
}

async fn write(store: &Store, commit: &Commit) -> schedule::Committed {
    let mut tx = store.begin().await.unwrap();
    let committed = schedule::commit(&mut tx, commit).await.unwrap();
    tx.commit().await.unwrap();
    committed
}

/// The counters as they are, and as they would be if counted anew.
async fn books(store: &Store) -> Vec<String> {
    let mut sql = store.reader();
    let mut out = Vec::new();
    for sql_text in [
        "SELECT agent_id AS a, slot AS b, occupied AS n FROM agent_slots WHERE occupied <> 0 ORDER BY agent_id, slot",
        "SELECT scope AS a, holder AS b, amount AS n FROM occupancy WHERE amount <> 0 ORDER BY scope, holder, slot",
        "SELECT access_key AS a, access_key AS b, sessions AS n FROM concurrency WHERE sessions <> 0 ORDER BY access_key",
    ] {
        for row in sql.fetch_all(Stmt::new(sql_text)).await.unwrap() {
            let (a, b, n): (String, String, i64) =
                (row.get("a").unwrap(), row.get("b").unwrap(), row.get("n").unwrap());
            out.push(format!("{a} {b} {n}"));
        }
    }
    out
}

async fn assert_books_are_true(store: &Store) {
    let kept = books(store).await;
    let mut tx = store.begin().await.unwrap();
    occupancy::recalculate(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(kept, books(store).await, "counters differ from a recomputation");
}

#[tokio::test]
async fn a_round_is_written_whole() {
    for db in quarterdeck_store::testing::databases().await {
        world(&db, "Infinity", 0).await;
        let sessions = enqueue(&db.store, 3).await;
        let commit = round(&db.store, &[(sessions[0], "i-1"), (sessions[1], "i-2")], i64::MAX, i64::MAX).await;
        let committed = write(&db.store, &commit).await;
        assert_eq!(committed.placed, [sessions[0].0, sessions[1].0]);
        assert!(committed.stale.is_empty());
        let mut sql = db.store.reader();
        let stmt = Stmt::new(
            "SELECT s.status, s.status_history, k.status AS kernel_status, k.agent_addr, k.held FROM sessions s
             JOIN kernels k ON k.session_id = s.id WHERE s.id = $1",
        );
        let row = sql.fetch_one(stmt.bind(sessions[1].0.to_string())).await.unwrap();
        let text = |name: &str| row.get::<String>(name).unwrap();
        assert_eq!((text("status"), text("kernel_status")), ("SCHEDULED".to_owned(), "SCHEDULED".to_owned()));
        assert_eq!((text("agent_addr").as_str(), text("held").as_str()), ("a2", "{\"cpu\":1000}"));
        let history: serde_json::Value = row.json("status_history").unwrap();
        assert_eq!(history["SCHEDULED"], AT.iso());
        let count = sql.fetch_one(Stmt::new("SELECT COUNT(*) AS n FROM history")).await.unwrap();
        assert_eq!(count.get::<i64>("n").unwrap(), 4);
        assert_books_are_true(&db.store).await;
    }
}

#[tokio::test]
async fn what_changed_since_the_snapshot_is_left_out() {
    let changes: [(&str, StaleReason); 6] = [
        ("UPDATE sessions SET status = 'CANCELLED' WHERE id = (SELECT MIN(id) FROM sessions)", StaleReason::Session),
        ("UPDATE agents SET status = 'LOST' WHERE id = 'i-1'", StaleReason::Agent),
        ("UPDATE agent_slots SET occupied = 3500 WHERE agent_id = 'i-1'", StaleReason::Agent),
        ("DELETE FROM agent_slots WHERE agent_id = 'i-1'", StaleReason::Agent),
        ("UPDATE keypair_resource_policies SET total_resource_slots = '{\"cpu\":\"0\"}'", StaleReason::Account),
        ("UPDATE domains SET total_resource_slots = '{\"cpu\":\"0\"}'", StaleReason::Account),
    ];
    for (change, reason) in changes {
        for db in quarterdeck_store::testing::databases().await {
            world(&db, "Infinity", 0).await;
            let mut sessions = enqueue(&db.store, 2).await;
            sessions.sort();
            let commit = round(&db.store, &[(sessions[0], "i-1"), (sessions[1], "i-2")], i64::MAX, i64::MAX).await;
            let mut tx = db.store.begin().await.unwrap();
            tx.execute(Stmt::new(change)).await.unwrap();
            tx.commit().await.unwrap();
            let committed = write(&db.store, &commit).await;
            assert_eq!(committed.stale[0], (sessions[0].0, reason), "{change}");
            // The other one goes through, unless the change concerns both.
            let both = reason == StaleReason::Account;
            assert_eq!(committed.placed.len(), usize::from(!both), "{change}");
        }
    }
}

#[tokio::test]
async fn a_decision_beyond_capacity_quota_or_concurrency_is_never_written() {
    for db in quarterdeck_store::testing::databases().await {
        world(&db, "6", 0).await;
        let sessions = enqueue(&db.store, 9).await;
        // A policy and books gone mad: all on one agent.
        let all: Vec<_> = sessions.iter().map(|s| (*s, "i-1")).collect();
        let commit = round(&db.store, &all, 6000, i64::MAX).await;
        let committed = write(&db.store, &commit).await;
        assert_eq!(committed.placed.len(), 4);
        assert!(committed.stale.iter().all(|(_, reason)| *reason == StaleReason::Agent));
        // The rest on the other one, where the quota ends first.
        let rest: Vec<_> = sessions[4..].iter().map(|s| (*s, "i-2")).collect();
        let committed = write(&db.store, &round(&db.store, &rest, 6000, i64::MAX).await).await;
        assert_eq!(committed.placed.len(), 2);
        assert!(committed.stale.iter().all(|(_, reason)| *reason == StaleReason::Account));
        assert_books_are_true(&db.store).await;

        let more = enqueue(&db.store, 2).await;
        let commit = round(&db.store, &[(more[0], "i-2"), (more[1], "i-2")], i64::MAX, 7).await;
        let committed = write(&db.store, &commit).await;
        assert_eq!((committed.placed.len(), committed.stale.len()), (1, 1));
        assert_books_are_true(&db.store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hosts_that_schedule_the_same_sessions_at_once_never_oversubscribe() {
    for db in quarterdeck_store::testing::databases().await {
        world(&db, "7", 0).await;
        let sessions = enqueue(&db.store, 12).await;
        let plans: Vec<Commit> = futures::future::join_all((0..6).map(|host| {
            let (store, sessions) = (db.store.clone(), sessions.clone());
            async move {
                let agent = |i: usize| if (i + host).is_multiple_of(2) { "i-1" } else { "i-2" };
                let plan: Vec<_> = sessions.iter().enumerate().map(|(i, s)| (*s, agent(i))).collect();
                round(&store, &plan, 7000, i64::MAX).await
            }
        }))
        .await;
        let writers = plans.into_iter().map(|plan| {
            let store = db.store.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let mut tx = store.begin().await.unwrap();
                    match schedule::commit(&mut tx, &plan).await {
                        Ok(committed) => {
                            tx.commit().await.unwrap();
                            return committed;
                        }
                        Err(error) => assert!(error.is_transient(), "{error}"),
                    }
                }
                panic!("twenty collisions in a row");
            })
        });
        let mut placed = Vec::new();
        for writer in futures::future::join_all(writers).await {
            placed.extend(writer.unwrap().placed);
        }
        let count = placed.len();
        placed.sort();
        placed.dedup();
        assert_eq!(count, placed.len(), "a session was placed twice");
        assert_eq!(count, 7, "the quota is the bound");
        assert_books_are_true(&db.store).await;
        let over = Stmt::new("SELECT 1 AS n FROM agent_slots WHERE occupied > capacity");
        assert!(db.store.reader().fetch_all(over).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn recounts_see_what_they_waited_for() {
    let Some(db) = quarterdeck_store::testing::postgres().await else { return };
    world(&db, "Infinity", 0).await;
    let sessions = enqueue(&db.store, 2).await;
    let first = round(&db.store, &[(sessions[0], "i-1")], i64::MAX, i64::MAX).await;
    assert_eq!(write(&db.store, &first).await.placed.len(), 1);
    let second = round(&db.store, &[(sessions[1], "i-1")], i64::MAX, i64::MAX).await;
    let mut open = db.store.begin().await.unwrap();
    assert_eq!(schedule::commit(&mut open, &second).await.unwrap().placed.len(), 1);
    let store = db.store.clone();
    let counting = tokio::spawn(async move {
        let mut tx = store.begin().await.unwrap();
        occupancy::recount(&mut tx, &["A".into()]).await.unwrap();
        tx.commit().await.unwrap();
    });
    let waiting =
        "SELECT COUNT(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let begun = std::time::Instant::now();
    while db.store.reader().fetch_one(Stmt::new(waiting)).await.unwrap().get::<i64>("n").unwrap() == 0 {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60));
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    open.commit().await.unwrap();
    counting.await.unwrap();
    assert!(books(&db.store).await.contains(&"A A 2".to_owned()), "{:?}", books(&db.store).await);
    assert_books_are_true(&db.store).await;
}
