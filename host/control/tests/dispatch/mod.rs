//! Databases from `dispatch` vectors, and what becomes of them.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]

mod overrides;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use quarterdeck_control::{Control, Settings, schedule};
use quarterdeck_model::{Clock, KernelId, SessionId, Timestamp};
use quarterdeck_store::testing::TestDb;
use quarterdeck_store::{Sql, Stmt};
use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

pub use overrides::expected;

const IMAGE: &str = "reg.x/stable/python:3.9";

/// A database and the host that schedules in it.
pub struct Scenario {
    control: Control,
    clock: Arc<AtomicI64>,
    names: BTreeMap<String, String>,
    created: BTreeMap<String, i64>,
    last_event: i64,
    // Last: it goes when nothing uses it any more.
    _db: TestDb,
}

fn texts(map: &Json) -> Json {
    map.clone()
}

/// A slot map in contract units.
pub fn units(map: &Json) -> BTreeMap<String, i64> {
    let scale = |name: &str| if name == "mem" { 1.0 } else { 1000.0 };
    let amount = |v: &Json| v.as_str().map_or_else(|| v.as_f64().unwrap(), |t| t.parse::<f64>().unwrap());
    map.as_object().unwrap().iter().map(|(k, v)| (k.clone(), (amount(v) * scale(k)) as i64)).collect()
}

fn statuses_user_occupying(status: &str) -> bool {
    !["PENDING", "TERMINATING", "TERMINATED", "CANCELLED"].contains(&status)
}

/// One runtime for all scenarios: components are compiled once.
fn plugins() -> quarterdeck_plugin::Runtime {
    static RUNTIME: std::sync::OnceLock<quarterdeck_plugin::Runtime> = std::sync::OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            quarterdeck_plugin::Runtime::new(quarterdeck_plugin::RuntimeOptions {
                compiler: quarterdeck_plugin::Compiler::InProcess,
                ..Default::default()
            })
            .unwrap()
        })
        .clone()
}

impl Scenario {
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Lets time pass.
    pub fn advance(&self, seconds: i64) {
        self.clock.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    pub async fn build(db: TestDb, input: &Json) -> Self {
        let now = Timestamp::now();
        let mut tx = db.store.begin().await.unwrap();
        let policy = &input["policies"]["default"];
        let policy_text = |key: &str, default: Json| policy.get(key).cloned().unwrap_or(default);
        let run = |sql: &'static str| Stmt::new(sql);
        tx.execute(run("INSERT INTO config (name, value) VALUES ('config/resource_slots/cuda.device', 'count')"))
            .await
            .unwrap();
        tx.execute(run("UPDATE revisions SET revision = revision + 1")).await.unwrap();
        for (scheduler, options) in input["global_scheduler_config"].as_object().into_iter().flatten() {
            for (key, value) in options.as_object().unwrap() {
                let name = format!("config/plugins/scheduler/{scheduler}/{key}");
                let stmt =
                    run("INSERT INTO config (name, value) VALUES ($1, $2)").bind(name).bind(value.as_str().unwrap());
                tx.execute(stmt).await.unwrap();
            }
        }
        tx.execute(
            run("INSERT INTO domains (name, created_at, modified_at, total_resource_slots) VALUES ('default', 0, 0, $1)")
                .bind(input["domain"].get("total_resource_slots").cloned().unwrap_or_else(|| json!({}))),
        )
        .await
        .unwrap();
        let project = Uuid::new_v4().to_string();
        tx.execute(
            run("INSERT INTO projects (id, name, domain_name, created_at, modified_at, total_resource_slots)
                 VALUES ($1, 'default', 'default', 0, 0, $2)")
            .bind(&project)
            .bind(input["group"].get("total_resource_slots").cloned().unwrap_or_else(|| json!({}))),
        )
        .await
        .unwrap();
        tx.execute(
            run("INSERT INTO keypair_resource_policies (name, created_at, default_for_unspecified, total_resource_slots,
                    max_concurrent_sessions, max_concurrent_sftp_sessions, max_containers_per_session, max_vfolder_count,
                    max_vfolder_size, idle_timeout) VALUES ('default', 0, $1, $2, $3, $4, 100, 10, 0, 0)")
            .bind(policy_text("default_for_unspecified", json!("UNLIMITED")).as_str().unwrap())
            .bind(policy_text("total_resource_slots", json!({})))
            .bind(policy_text("max_concurrent_sessions", json!(30)).as_i64().unwrap())
            .bind(policy_text("max_concurrent_sftp_sessions", json!(1)).as_i64().unwrap()),
        )
        .await
        .unwrap();
        let user = Uuid::new_v4().to_string();
        tx.execute(
            run("INSERT INTO users (id, email, status, created_at, modified_at, domain_name, role)
                 VALUES ($1, 'u@example.org', 'active', 0, 0, 'default', 'user')")
            .bind(&user),
        )
        .await
        .unwrap();
        let sessions = input["sessions"].as_array().unwrap();
        let mut keys: Vec<&str> = sessions.iter().map(|s| s["access_key"].as_str().unwrap_or("A")).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            tx.execute(
                run("INSERT INTO keypairs (access_key, secret_key, user_id, user_email, is_active, is_admin,
                        resource_policy, created_at, rate_limit)
                     VALUES ($1, 'x', $2, 'u@example.org', TRUE, FALSE, 'default', 0, 1000)")
                .bind(key)
                .bind(&user),
            )
            .await
            .unwrap();
            let counter = input["redis"][format!("keypair.concurrency_used.{key}")].as_str().unwrap_or("0");
            tx.execute(
                run("INSERT INTO concurrency (access_key, sessions, private_sessions) VALUES ($1, $2, 0)")
                    .bind(key)
                    .bind(counter.parse::<i64>().unwrap()),
            )
            .await
            .unwrap();
        }
        let mut groups = input["scaling_groups"].as_object().cloned().unwrap_or_default();
        groups.entry("sg").or_insert_with(|| json!({}));
        for (name, group) in &groups {
            tx.execute(
                run("INSERT INTO scaling_groups (name, created_at, driver, scheduler, scheduler_opts)
                     VALUES ($1, 0, 'static', $2, $3)")
                .bind(name)
                .bind(group["scheduler"].as_str().unwrap_or("fifo"))
                .bind(group.get("scheduler_opts").cloned().unwrap_or_else(|| json!({}))),
            )
            .await
            .unwrap();
        }
        for agent in input["agents"].as_array().unwrap() {
            let id = agent["id"].as_str().unwrap();
            tx.execute(
                run("INSERT INTO agents (id, status, scaling_group, schedulable, addr, architecture, version, runtime,
                        available_slots, first_contact, last_seen, credential, host_secret)
                     VALUES ($1, $2, $3, $4, $5, $6, '1', 'synthetic', $7, 0, 0, '', '')")
                .bind(id)
                .bind(agent["status"].as_str().unwrap_or("ALIVE"))
                .bind(agent["scaling_group"].as_str().unwrap_or("sg"))
                .bind(agent["schedulable"].as_bool().unwrap_or(true))
                .bind(format!("tcp://{id}:6001"))
                .bind(agent["arch"].as_str().unwrap_or("x86_64"))
                .bind(texts(&agent["available"])),
            )
            .await
            .unwrap();
            let occupied = agent.get("occupied").map(units).unwrap_or_default();
            for (slot, capacity) in units(&agent["available"]) {
                tx.execute(
                    run("INSERT INTO agent_slots (agent_id, slot, capacity, occupied) VALUES ($1, $2, $3, $4)")
                        .bind(id)
                        .bind(&slot)
                        .bind(capacity)
                        .bind(occupied.get(&slot).copied().unwrap_or(0)),
                )
                .await
                .unwrap();
            }
        }
        let mut names = BTreeMap::new();
        let mut created = BTreeMap::new();
        let mut held: BTreeMap<(&str, String, String), i64> = BTreeMap::new();
        let ids: BTreeMap<&str, SessionId> =
            sessions.iter().map(|s| (s["id"].as_str().unwrap(), SessionId::new())).collect();
        for (index, session) in sessions.iter().enumerate() {
            let name = session["id"].as_str().unwrap();
            let id = ids[name].to_string();
            names.insert(id.clone(), name.to_owned());
            let age = session["age"].as_f64().unwrap_or(100.0 - index as f64);
            let at = now.plus_millis((age * -1000.0) as i64);
            created.insert(id.clone(), at.0);
            let status = session["status"].as_str().unwrap_or("PENDING");
            let key = session["access_key"].as_str().unwrap_or("A");
            let private = session["role"] == "SYSTEM";
            let kernels = session["kernels"].as_array().cloned().unwrap_or_else(|| {
                vec![json!({"slots": session["requested_slots"], "agent": session["agent"], "arch": session["arch"]})]
            });
            tx.execute(
                run("INSERT INTO sessions (id, creation_id, name, session_type, cluster_mode, cluster_size, is_private,
                        domain_name, project_id, user_id, access_key, scaling_group, status, status_data, result,
                        created_at, status_changed, starts_at, requested_slots)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, 'default', $8, $9, $10, $11, $12, $13, $14, $15, $15, $16, '{}')")
                .bind(&id)
                .bind(name)
                .bind(name)
                .bind(session["type"].as_str().unwrap_or("interactive").to_uppercase())
                .bind(session["cluster_mode"].as_str().unwrap_or("single-node"))
                .bind(kernels.len() as i64)
                .bind(private)
                .bind(&project)
                .bind(&user)
                .bind(key)
                .bind(session["scaling_group"].as_str().unwrap_or("sg"))
                .bind(status)
                .bind(session.get("status_data").map(Json::to_string))
                .bind(session["result"].as_str().unwrap_or("undefined").to_uppercase())
                .bind(at.0)
                .bind(session["starts_in"].as_f64().map(|s| now.plus_millis((s * 1000.0) as i64).0)),
            )
            .await
            .unwrap();
            for (rank, kernel) in kernels.iter().enumerate() {
                let amounts = units(&kernel["slots"]);
                if statuses_user_occupying(status) && !private {
                    for (scope, holder) in [("keypair", key), ("project", project.as_str()), ("domain", "default")] {
                        for (slot, amount) in &amounts {
                            *held.entry((scope, holder.to_owned(), slot.clone())).or_default() += amount;
                        }
                    }
                }
                tx.execute(
                    run("INSERT INTO kernels (id, session_id, cluster_role, cluster_idx, local_rank, cluster_hostname,
                            kernel_role, image, architecture, registry, status, status_changed, created_at,
                            designated_agent, requested_slots, occupied_slots, held)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'reg.x', $10, $11, $11, $12, $13, $14, $15)")
                    .bind(KernelId::new().to_string())
                    .bind(&id)
                    .bind(if rank == 0 { "main" } else { "sub" })
                    .bind(if rank == 0 { 1_i64 } else { rank as i64 })
                    .bind(rank as i64)
                    .bind(format!("k{rank}"))
                    .bind(session["role"].as_str().unwrap_or("COMPUTE"))
                    .bind(IMAGE)
                    .bind(kernel["arch"].as_str().unwrap_or("x86_64"))
                    .bind(status)
                    .bind(at.0)
                    .bind(kernel["agent"].as_str())
                    .bind(texts(&kernel["slots"]))
                    .bind(if status == "PENDING" { json!({}) } else { texts(&kernel["slots"]) })
                    .bind(if status == "PENDING" { json!({}) } else { json!(amounts) }),
                )
                .await
                .unwrap();
            }
        }
        for session in sessions {
            for dependency in session["depends_on"].as_array().into_iter().flatten() {
                tx.execute(
                    run("INSERT INTO session_dependencies (session_id, depends_on) VALUES ($1, $2)")
                        .bind(ids[session["id"].as_str().unwrap()].to_string())
                        .bind(ids[dependency.as_str().unwrap()].to_string()),
                )
                .await
                .unwrap();
            }
        }
        for ((scope, holder, slot), amount) in held {
            tx.execute(
                run("INSERT INTO occupancy (scope, holder, slot, amount) VALUES ($1, $2, $3, $4)")
                    .bind(scope)
                    .bind(holder)
                    .bind(slot)
                    .bind(amount),
            )
            .await
            .unwrap();
        }
        tx.commit().await.unwrap();

        let clock = Arc::new(AtomicI64::new(now.0));
        let settings = Settings { round_ring: 5, ..Settings::default() };
        let control = Control::with_clock(db.store.clone(), plugins(), settings, Clock::Manual(Arc::clone(&clock)))
            .await
            .unwrap();
        Self { control, clock, names, created, last_event: 0, _db: db }
    }

    /// Runs a pass over all groups; the state afterwards, in the form of the vectors.
    pub async fn tick(&mut self) -> Json {
        self.clock.fetch_add(1_000_000, Ordering::SeqCst);
        schedule::tick(&self.control).await.unwrap();
        let mut sql = self.control.store().reader();

        let mut agents = Map::new();
        for row in sql.fetch_all(Stmt::new("SELECT id FROM agents")).await.unwrap() {
            agents.insert(row.get::<String>("id").unwrap(), json!({}));
        }
        for row in sql.fetch_all(Stmt::new("SELECT agent_id, slot, occupied FROM agent_slots")).await.unwrap() {
            let slot: String = row.get("slot").unwrap();
            let amount = row.get::<i64>("occupied").unwrap();
            let amount = if slot == "mem" { amount } else { amount / 1000 };
            agents[&row.get::<String>("agent_id").unwrap()][slot] = json!(amount.to_string());
        }
        let mut redis = Map::new();
        for row in sql.fetch_all(Stmt::new("SELECT * FROM concurrency")).await.unwrap() {
            let key: String = row.get("access_key").unwrap();
            let text = |column: &str| json!(row.get::<i64>(column).unwrap().to_string());
            redis.insert(format!("keypair.concurrency_used.{key}"), text("sessions"));
            redis.insert(format!("keypair.sftp_concurrency_used.{key}"), text("private_sessions"));
        }
        let mut events = Vec::new();
        let stmt = Stmt::new("SELECT id, name, session_id, reason FROM events WHERE id > $1 ORDER BY id")
            .bind(self.last_event);
        for row in sql.fetch_all(stmt).await.unwrap() {
            self.last_event = row.get("id").unwrap();
            let name: String = row.get("name").unwrap();
            let session = self.names[&row.get::<String>("session_id").unwrap()].clone();
            events.push(match name.as_str() {
                "session_cancelled" => json!([name, session, row.get::<String>("reason").unwrap()]),
                _ => json!([name, session]),
            });
        }
        let mut sessions = Map::new();
        for row in sql.fetch_all(Stmt::new("SELECT * FROM sessions")).await.unwrap() {
            let id: String = row.get("id").unwrap();
            let state = json!({
                "status": row.get::<String>("status").unwrap(),
                "status_info": row.get::<Option<String>>("status_info").unwrap(),
                "status_data": self.masked(row.json_opt("status_data").unwrap()),
                "scaling_group": row.get::<String>("scaling_group").unwrap(),
                "terminated": row.get::<Option<i64>>("terminated_at").unwrap().is_some(),
                "kernels": [],
            });
            sessions.insert(self.names[&id].clone(), state);
        }
        for row in sql.fetch_all(Stmt::new("SELECT * FROM kernels ORDER BY session_id, local_rank")).await.unwrap() {
            let session: String = row.get("session_id").unwrap();
            let text = |column: &str| row.get::<Option<String>>(column).unwrap();
            let state = json!({
                "agent": text("agent_id").or_else(|| text("designated_agent")),
                "agent_addr": text("agent_addr"),
                "status": text("status"),
                "status_info": text("status_info"),
                "status_data": self.masked(row.json_opt("status_data").unwrap()),
                "status_changed": row.get::<i64>("status_changed").unwrap() != self.created[&session],
                "terminated": row.get::<Option<i64>>("terminated_at").unwrap().is_some(),
            });
            sessions[&self.names[&session]]["kernels"].as_array_mut().unwrap().push(state);
        }
        json!({"agents": agents, "events": events, "redis": redis, "sessions": sessions})
    }

    /// Times and ids as the vectors write them.
    fn masked(&self, data: Option<Json>) -> Option<Json> {
        let mut data = data?;
        if let Some(last_try) = data.pointer_mut("/scheduler/last_try") {
            let text = last_try.as_str().unwrap();
            assert!(text.len() == 32 && text.ends_with("+00:00"), "{text}");
            *last_try = json!("<time>");
        }
        let mut text = data.to_string();
        for (id, name) in &self.names {
            text = text.replace(id, name);
        }
        Some(serde_json::from_str(&text).unwrap())
    }

    /// No agent holds more than it did at first or has; the history tells of every change.
    pub async fn check_books(&self) {
        let mut sql = self.control.store().reader();
        let stmt = Stmt::new(
            "SELECT s.id FROM sessions s WHERE s.status IN ('SCHEDULED', 'CANCELLED') AND s.status_changed <> s.created_at
             AND NOT EXISTS (SELECT 1 FROM history h WHERE h.session_id = s.id AND h.kernel_id IS NULL AND h.status = s.status)",
        );
        assert!(sql.fetch_all(stmt).await.unwrap().is_empty(), "a change without history");
        let stmt = Stmt::new("SELECT agent_id FROM agent_slots WHERE occupied > capacity");
        assert!(sql.fetch_all(stmt).await.unwrap().is_empty(), "an agent is oversubscribed");
    }
}

/// Whether two amounts, or the absence of one, are the same.
fn amount(map: &Json, slot: &str) -> f64 {
    map.get(slot).and_then(Json::as_str).map_or(0.0, |t| t.parse().unwrap())
}

/// Where `got` is not what the vector wants.
pub fn differences(want: &Json, got: &Json) -> Vec<String> {
    let mut out = Vec::new();
    for (id, slots) in want["agents"].as_object().unwrap() {
        for slot in ["cpu", "mem", "cuda.device"] {
            let (want, got) = (amount(slots, slot), amount(&got["agents"][id], slot));
            if want != got {
                out.push(format!("agent {id} {slot}: want {want}, got {got}"));
            }
        }
    }
    let events = |state: &Json| -> Vec<Json> {
        // Groups are served side by side: order is only told within one. No vector has two sessions in
        // one group and another group whose events could come in between, so sorting is fair there.
        let mut list: Vec<Json> =
            state["events"].as_array().unwrap().iter().filter(|e| e[0] != "do_prepare").cloned().collect();
        let groups: std::collections::BTreeSet<String> =
            state["sessions"].as_object().unwrap().values().map(|s| s["scaling_group"].to_string()).collect();
        if groups.len() > 1 {
            list.sort_by_key(Json::to_string);
        }
        list
    };
    let (want_events, got_events) = (events(want), events(got));
    if want_events != got_events {
        out.push(format!("events: want {want_events:?}, got {got_events:?}"));
    }
    for (key, got) in got["redis"].as_object().unwrap() {
        let want = want["redis"].get(key).and_then(Json::as_str).unwrap_or("0");
        if got != want {
            out.push(format!("{key}: want {want}, got {got}"));
        }
    }
    for (name, want) in want["sessions"].as_object().unwrap() {
        let got = &got["sessions"][name];
        compare(&format!("session {name}"), want, got, &mut out);
    }
    out
}

fn compare(path: &str, want: &Json, got: &Json, out: &mut Vec<String>) {
    match (want, got) {
        (Json::Object(want), Json::Object(got)) => {
            for key in want.keys().chain(got.keys().filter(|k| !want.contains_key(*k))) {
                let null = Json::Null;
                let (w, g) = (want.get(key).unwrap_or(&null), got.get(key).unwrap_or(&null));
                compare(&format!("{path}.{key}"), w, g, out);
            }
        }
        (Json::Array(want), Json::Array(got)) if want.len() == got.len() => {
            for (i, (w, g)) in want.iter().zip(got).enumerate() {
                compare(&format!("{path}[{i}]"), w, g, out);
            }
        }
        (Json::String(any), Json::String(_)) if any == overrides::ANY => {}
        _ if want == got => {}
        _ => out.push(format!("{path}: want {want}, got {got}")),
    }
}
