//! Whatever happens to sessions in whatever order, the counters are what the rows add up to.
#![allow(clippy::unwrap_used, missing_docs)]

mod rows;

use quarterdeck_model::{
    AgentId, ClusterMode, KernelId, KernelRole, KernelStatus, SessionId, SessionStatus, SessionType, Timestamp,
};
use quarterdeck_store::kernels::NewKernel;
use quarterdeck_store::occupancy::{self, Units};
use quarterdeck_store::sessions::{self, NewSession};
use quarterdeck_store::testing::databases;
use quarterdeck_store::work::{Ended, Started, Work};
use quarterdeck_store::{Sql, Stmt, Store, events, history, kernels};
use serde_json::json;

use self::rows::{PROJECT, USERS};

/// Two agents besides what sessions need anyway.
async fn populate(store: &Store) {
    rows::populate(store).await;
    let mut tx = store.begin().await.unwrap();
    for agent in ["i-1", "i-2"] {
        let stmt = Stmt::new(
            "INSERT INTO agents (id, status, scaling_group, addr, architecture, version, runtime, first_contact, last_seen, \
             credential, host_secret) VALUES ($1, 'ALIVE', 'g', 'a', 'x86_64', '1', 'synthetic', 0, 0, 'c', 's')",
        );
        tx.execute(stmt.bind(agent)).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// Reproducible choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % sides as u64) as usize
    }
}

fn new_session(dice: &mut Dice, number: usize) -> NewSession {
    let user = dice.roll(2);
    let size = 1 + dice.roll(3);
    let kernel = |i: usize, cpu: i64| NewKernel {
        id: KernelId::new(),
        cluster_role: if i == 0 { "main" } else { "sub" }.to_owned(),
        cluster_idx: i.max(1) as i64,
        local_rank: i as i64,
        cluster_hostname: format!("k{i}"),
        kernel_role: KernelRole::Compute,
        image: "r/n:t".into(),
        architecture: "x86_64".into(),
        registry: "r".into(),
        image_labels: json!({}),
        designated_agent: None,
        requested_slots: json!({"cpu": cpu.to_string()}),
        held: Units::from([("cpu".to_owned(), cpu * 1000), ("mem".to_owned(), 1 << 20)]),
        resource_opts: json!({}),
        environ: json!([]),
        bootstrap_script: None,
        preopen_ports: json!([]),
    };
    let cpu = 1 + dice.roll(4) as i64;
    NewSession {
        id: SessionId::new(),
        creation_id: number.to_string(),
        name: format!("session-{number}"),
        session_type: SessionType::Interactive,
        priority: 0,
        expected_ms: None,
        timeout_ms: None,
        builds_images: false,
        cluster_mode: ClusterMode::SingleNode,
        is_private: dice.roll(5) == 0,
        domain_name: "d".into(),
        project_id: PROJECT.parse().unwrap(),
        user_id: USERS[user].parse().unwrap(),
        access_key: format!("AK{user}").into(),
        scaling_group: "g".into(),
        tag: None,
        created_at: Timestamp(number as i64),
        starts_at: None,
        startup_command: None,
        bootstrap_script: None,
        callback_url: None,
        environ: json!({}),
        use_host_network: false,
        requested_slots: json!({"cpu": (cpu * size as i64).to_string()}),
        kernels: (0..size).map(|i| kernel(i, cpu)).collect(),
        dependencies: vec![],
        dotfiles: vec![],
        vfolder_mounts: vec![],
        route: None,
    }
}

async fn books(store: &Store) -> Vec<String> {
    let mut lines = Vec::new();
    for sql in [
        "SELECT agent_id AS a, slot AS b, occupied AS n FROM agent_slots WHERE occupied <> 0 ORDER BY 1, 2",
        "SELECT scope || ' ' || holder AS a, slot AS b, amount AS n FROM occupancy WHERE amount <> 0 ORDER BY 1, 2",
        "SELECT access_key AS a, 'sessions' AS b, sessions * 1000 + private_sessions AS n FROM concurrency \
          WHERE sessions <> 0 OR private_sessions <> 0 ORDER BY 1",
    ] {
        for row in store.reader().fetch_all(Stmt::new(sql)).await.unwrap() {
            let text = |name: &str| row.get::<String>(name).unwrap();
            lines.push(format!("{} {} {}", text("a"), text("b"), row.get::<i64>("n").unwrap()));
        }
    }
    lines
}

/// One random step of one session.
fn step(dice: &mut Dice, work: &mut Work, id: SessionId) {
    let kernels: Vec<KernelId> = work.kernels_of(id).iter().map(|k| k.id).collect();
    let Some(kernel) = kernels.get(dice.roll(kernels.len())).copied() else { return };
    match dice.roll(8) {
        0 | 1 => {
            for kernel in &kernels {
                let agent: AgentId = if dice.roll(2) == 0 { "i-1".into() } else { "i-2".into() };
                work.place(*kernel, &agent, "addr");
                work.set_kernel(*kernel, KernelStatus::Scheduled, Some("scheduled"), Some(json!({})));
            }
            work.derive(id, Some("scheduled"));
        }
        2 => {
            for kernel in &kernels {
                work.set_kernel(*kernel, KernelStatus::Preparing, Some(""), None);
            }
            work.derive(id, None);
        }
        3 => {
            for kernel in &kernels {
                if work.set_kernel(*kernel, KernelStatus::Running, None, None) {
                    let units = Units::from([("cpu".to_owned(), dice.roll(5) as i64 * 500), ("gpu".to_owned(), 1000)]);
                    let shown = json!({"cpu": "1"});
                    work.started(*kernel, Started { allocated: Some((units, shown)), ..Started::default() });
                }
            }
            work.derive(id, None);
        }
        4 => {
            let any = KernelStatus::ALL[dice.roll(KernelStatus::ALL.len())];
            work.set_kernel(kernel, any, None, None);
        }
        5 => {
            let any = SessionStatus::ALL[dice.roll(SessionStatus::ALL.len())];
            work.set_session(id, any, None, None);
        }
        6 => {
            work.end_kernel(kernel, "because", Ended { exit_code: Some(1), ..Ended::default() });
            work.derive(id, Some("because"));
        }
        _ => {
            work.set_session(id, SessionStatus::Terminating, Some("user-requested"), None);
            for kernel in kernels {
                work.set_kernel(kernel, KernelStatus::Terminating, Some("user-requested"), None);
            }
        }
    }
}

#[tokio::test]
async fn counters_equal_recomputation_after_anything() {
    for db in databases().await {
        populate(&db.store).await;
        let mut dice = Dice(20_261_124);
        let mut ids = Vec::new();
        for round in 0..40 {
            let new: Vec<_> = (0..dice.roll(4)).map(|i| new_session(&mut dice, round * 10 + i)).collect();
            let mut tx = db.store.begin().await.unwrap();
            if !new.is_empty() {
                sessions::enqueue(&mut tx, &new).await.unwrap();
            }
            ids.extend(new.iter().map(|s| s.id));
            let mut work = Work::open(&mut tx, ids.iter().copied(), Timestamp(round as i64)).await.unwrap();
            for id in &ids {
                for _ in 0..dice.roll(3) {
                    step(&mut dice, &mut work, *id);
                }
            }
            work.flush(&mut tx).await.unwrap();
            if dice.roll(10) == 0 {
                tx.rollback().await.unwrap();
                ids.retain(|id| !new.iter().any(|s| s.id == *id));
            } else {
                tx.commit().await.unwrap();
            }
            let before = books(&db.store).await;
            let mut tx = db.store.begin().await.unwrap();
            occupancy::recalculate(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
            assert_eq!(before, books(&db.store).await, "round {round}");
            // Those of some holders, too, whatever they were before.
            let mut tx = db.store.begin().await.unwrap();
            for text in [
                "UPDATE agent_slots SET occupied = occupied + 7",
                "UPDATE occupancy SET amount = amount + 7",
                "UPDATE concurrency SET sessions = sessions + 7, private_sessions = 7",
            ] {
                tx.execute(Stmt::new(text)).await.unwrap();
            }
            let concerned = occupancy::Concerned {
                agents: ["i-1".into(), "i-2".into()].into(),
                keys: ["AK0".into(), "AK1".into()].into(),
                projects: [PROJECT.parse().unwrap()].into(),
                domains: ["d".to_owned()].into(),
            };
            occupancy::recalculate_of(&mut tx, &concerned).await.unwrap();
            tx.commit().await.unwrap();
            assert_eq!(before, books(&db.store).await, "round {round}, holder by holder");
        }
        assert!(ids.len() > 20);
    }
}

#[tokio::test]
async fn two_transactions_that_each_end_a_kernel_end_the_session() {
    for db in databases().await {
        populate(&db.store).await;
        let mut session = new_session(&mut Dice(1), 1);
        session.kernels.truncate(1);
        let mut sub = session.kernels[0].clone();
        (sub.id, sub.cluster_role) = (KernelId::new(), "sub".to_owned());
        session.kernels.push(sub);
        let (id, kernels) = (session.id, [session.kernels[0].id, session.kernels[1].id]);
        let mut tx = db.store.begin().await.unwrap();
        sessions::enqueue(&mut tx, &[session]).await.unwrap();
        let mut work = Work::open(&mut tx, [id], Timestamp(1)).await.unwrap();
        for kernel in kernels {
            assert!(work.place(kernel, &"i-1".into(), "a"));
            assert!(work.set_kernel(kernel, KernelStatus::Scheduled, None, None));
            assert!(work.set_kernel(kernel, KernelStatus::Running, None, None));
            assert!(work.set_kernel(kernel, KernelStatus::Terminating, None, None));
        }
        assert!(work.set_session(id, SessionStatus::Scheduled, None, None));
        assert!(work.set_session(id, SessionStatus::Terminating, None, None));
        work.flush(&mut tx).await.unwrap();
        tx.commit().await.unwrap();

        let end = |kernel: KernelId| {
            let store = db.store.clone();
            async move {
                let mut tx = store.begin().await.unwrap();
                let mut work = Work::open(&mut tx, [id], Timestamp(2)).await.unwrap();
                assert!(work.end_kernel(kernel, "done", Ended { log: Some("a\0b".into()), ..Ended::default() }));
                work.derive(id, Some("done"));
                work.kernel_event("kernel_terminated", kernel, "done", Some(0));
                work.flush(&mut tx).await.unwrap();
                tx.commit().await.unwrap();
            }
        };
        tokio::join!(end(kernels[0]), end(kernels[1]));
        let mut reader = db.store.reader();
        let row = sessions::get(&mut reader, id).await.unwrap().unwrap();
        assert_eq!((row.status, row.status_info.as_deref()), (SessionStatus::Terminated, Some("done")));
        assert!(row.terminated_at.is_some());
        assert_eq!(kernels::log(&mut reader, kernels[0]).await.unwrap().as_deref(), Some("a\u{fffd}b"));
        assert!(books(&db.store).await.is_empty());
        let entries = history::of_session(&mut reader, id).await.unwrap();
        assert_eq!(entries.iter().filter(|e| e.status == "TERMINATED").count(), 3);
        let log = events::after(&mut reader, 0, 10).await.unwrap();
        assert_eq!(log.iter().filter(|e| e.name == "kernel_terminated" && e.exit_code == Some(0)).count(), 2);
        assert!(log.iter().all(|e| e.cluster_role.is_some()));
    }
}

#[tokio::test]
async fn names_of_live_sessions_are_unique_and_dead_ones_are_not() {
    for db in databases().await {
        populate(&db.store).await;
        let mut first = new_session(&mut Dice(3), 1);
        first.access_key = "AK0".into();
        let second = NewSession { id: SessionId::new(), kernels: vec![], ..first.clone() };
        let mut tx = db.store.begin().await.unwrap();
        sessions::enqueue(&mut tx, std::slice::from_ref(&first)).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = db.store.begin().await.unwrap();
        assert!(sessions::enqueue(&mut tx, std::slice::from_ref(&second)).await.unwrap_err().violation().is_some());
        tx.rollback().await.unwrap();
        let wanted = [(first.access_key.clone(), first.name.clone()), ("AK1".into(), first.name.clone())];
        let taken = sessions::taken_names(&mut db.store.reader(), &wanted).await.unwrap();
        assert_eq!(taken, wanted[..1]);

        let mut tx = db.store.begin().await.unwrap();
        let mut work = Work::open(&mut tx, [first.id], Timestamp(9)).await.unwrap();
        assert!(work.set_session(first.id, SessionStatus::Cancelled, Some("user-requested"), None));
        work.flush(&mut tx).await.unwrap();
        let third = NewSession { kernels: new_session(&mut Dice(4), 2).kernels, ..second };
        sessions::enqueue(&mut tx, std::slice::from_ref(&third)).await.unwrap();
        tx.commit().await.unwrap();
        let mut reader = db.store.reader();
        let live = sessions::find(&mut reader, &first.access_key, &first.name, false).await.unwrap();
        assert_eq!(live.iter().map(|s| s.id).collect::<Vec<_>>(), [third.id]);
        let by_id = sessions::find(&mut reader, &first.access_key, &first.id.to_string(), true).await.unwrap();
        assert_eq!((by_id.len(), by_id[0].id), (1, first.id));

        // Somebody named a session like another one's id: an id comes first.
        let mut named = NewSession { name: third.id.to_string(), ..new_session(&mut Dice(5), 3) };
        named.access_key = first.access_key.clone();
        let mut tx = db.store.begin().await.unwrap();
        sessions::enqueue(&mut tx, std::slice::from_ref(&named)).await.unwrap();
        tx.commit().await.unwrap();
        let references =
            [first.name.clone(), third.id.to_string(), named.id.to_string(), first.id.to_string(), "\0'".into()];
        let wanted: Vec<_> = references.into_iter().map(|reference| (first.access_key.clone(), reference)).collect();
        let meant = [Some(third.id), Some(third.id), Some(named.id), None, None];
        let foreign = ("AK1".into(), first.name.clone());
        let together = sessions::find_live(&mut reader, &[&wanted[..], std::slice::from_ref(&foreign)].concat()).await;
        let together = together.unwrap();
        assert_eq!(wanted.iter().map(|key| together.get(key).map(|row| row.id)).collect::<Vec<_>>(), meant);
        assert!(!together.contains_key(&foreign));
        for (wanted, meant) in wanted.iter().zip(meant) {
            let alone = sessions::find_live(&mut reader, std::slice::from_ref(wanted)).await.unwrap();
            assert_eq!(alone.get(wanted).map(|row| row.id), meant);
        }
    }
}

#[tokio::test]
async fn what_is_under_way_takes_nobodys_place() {
    for db in databases().await {
        populate(&db.store).await;
        let mut dice = Dice(7);
        let new: Vec<_> = (0..6).map(|i| new_session(&mut dice, i)).collect();
        let ids: Vec<_> = new.iter().map(|s| s.id).collect();
        let mut tx = db.store.begin().await.unwrap();
        sessions::enqueue(&mut tx, &new).await.unwrap();
        for (i, id) in ids.iter().enumerate() {
            let mut work = Work::open(&mut tx, [*id], Timestamp(i as i64)).await.unwrap();
            assert!(work.set_session(*id, SessionStatus::Preparing, None, None));
            work.flush(&mut tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        let mut reader = db.store.reader();
        let mut due = async |under_way: &[SessionId]| -> Vec<SessionId> {
            let due = sessions::due(&mut reader, &[SessionStatus::Preparing], Timestamp(9), 2, under_way).await;
            due.unwrap().into_iter().map(|(id, _)| id).collect()
        };
        assert_eq!(due(&[]).await, ids[..2]);
        assert_eq!(due(&ids[..3]).await, ids[3..5]);
        assert_eq!(due(&ids).await, []);
    }
}
