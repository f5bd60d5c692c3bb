//! Built-in policies beyond the reference's, as the host runs them.

use quarterdeck_plugin::hooks::{Event, Verdict};
use quarterdeck_plugin::scheduling::{ClusterMode, Outcome, Proposal, Snapshot};
use quarterdeck_plugin::types::{Column, ColumnData, SessionKind};
use quarterdeck_plugin::{Call, subject};
use serde_json::{Value, json};

use crate::common::{Books, Builder, Pending, builtin, map};

/// Where sessions were placed, in the order of the turns.
fn placed(policy: &str, config: &Value, snapshot: &Snapshot) -> Vec<(u32, Vec<u32>)> {
    let plugin = builtin(policy);
    let config = config.to_string();
    plugin.check_config(&config).unwrap_or_else(|problems| panic!("{config}: {problems:?}"));
    let trace = plugin.schedule(&Call::new(config), snapshot, &mut Books::of(snapshot)).unwrap();
    trace
        .proposals
        .into_iter()
        .filter_map(|(proposal, outcome)| match proposal {
            Proposal::Place(placement) => {
                assert_eq!(outcome, Outcome::Accepted, "{policy} proposed what can't be");
                Some((placement.session, placement.agents))
            }
            Proposal::Defer(_) => None,
        })
        .collect()
}

fn turns(policy: &str, config: &Value, snapshot: &Snapshot) -> Vec<u32> {
    placed(policy, config, snapshot).into_iter().map(|(session, _)| session).collect()
}

fn integers(name: &str, values: &[u64]) -> Column {
    Column { name: name.to_owned(), data: ColumnData::Integers(values.to_vec()) }
}

fn texts(name: &str, values: &[&str]) -> Column {
    Column { name: name.to_owned(), data: ColumnData::Texts(values.iter().map(|text| (*text).to_owned()).collect()) }
}

fn of_owners(owners: &[u32]) -> Builder {
    let mut builder = Builder::new(&["cpu"]).agent(&[("cpu", 100_000)], &[]);
    for owner in owners {
        builder = builder.session(&[("cpu", 10_000)], 0);
        builder.pending.last_mut().unwrap().owner = *owner;
    }
    builder
}

#[test]
fn fair_share_goes_by_history_and_names() {
    let mut snapshot = of_owners(&[0, 0, 1, 1]).build();
    // Without a history the shares of the round decide.
    assert_eq!(turns("fair-share", &json!({"by": "owner"}), &snapshot), [0, 2, 1, 3]);
    let usage = Column { name: "usage".to_owned(), data: ColumnData::Decimals(vec![50_000.0, 0.0]) };
    snapshot.owners.more = vec![usage, texts("name", &["AKGREEDY", "AKMODEST"])];
    assert_eq!(turns("fair-share", &json!({"by": "owner", "history_weight": 1}), &snapshot), [2, 3, 0, 1]);
    // Who is owed a hundred times as much hasn't had much yet.
    let weights = json!({"by": "owner", "history_weight": 1, "owner_weights": {"AKGREEDY": 100}});
    assert_eq!(turns("fair-share", &weights, &snapshot), [2, 3, 0, 1], "nothing is less than nothing");
    snapshot.owners.more[0].data = ColumnData::Decimals(vec![50_000.0, 1000.0]);
    assert_eq!(turns("fair-share", &weights, &snapshot), [0, 1, 2, 3]);
    snapshot.pending.waiting_ms[3] = 86_400_000;
    assert_eq!(turns("fair-share", &weights, &snapshot), [3, 0, 1, 2]);
    let wrong = json!({"owner_weights": {"X": 0}}).to_string();
    assert!(builtin("fair-share").check_config(&wrong).is_err());
}

#[test]
fn backfill_keeps_the_place_of_the_first_in_line() {
    let mut builder = Builder::new(&["cpu"]).agent(&[("cpu", 8000)], &[("cpu", 6000)]);
    builder = builder.session(&[("cpu", 8000)], 0).session(&[("cpu", 1000)], 0).session(&[("cpu", 1000)], 0);
    builder = builder.session(&[("cpu", 1000)], 0);
    builder.running.push((0, map(&[("cpu", 6000)])));
    let mut snapshot = builder.build();
    // What runs has a kernel on the agent.
    snapshot.kernels.count += 1;
    snapshot.kernels.architecture.push(0);
    snapshot.kernels.requested.push(6000);
    snapshot.kernels.held.push(6000);
    snapshot.kernels.agent.push(Some(0));
    let first = snapshot.kernels.count - 1;
    snapshot.running.first_kernel = vec![first, first + 1];
    snapshot.running.more = vec![integers("expected-ms", &[100_000]), integers("ran-ms", &[40_000])];
    // The large one can start in a minute; the second runs for too long, the third says nothing, the last is short.
    snapshot.pending.more = vec![integers("expected-ms", &[0, 60_001, 0, 60_000])];
    assert_eq!(turns("backfill", &json!({}), &snapshot), [3]);
    // Sessions that say nothing may be taken to be short.
    assert_eq!(turns("backfill", &json!({"assume_s": 50}), &snapshot), [2, 3]);
    snapshot.pending.priority = vec![0, 1, 0, 0];
    assert_eq!(turns("backfill", &json!({}), &snapshot)[0], 1);
    let explanation =
        builtin("backfill").explain(&Call::default(), &snapshot, &mut Books::of(&snapshot), 2, 5).unwrap();
    assert!(explanation.candidates[0].why.contains("kept"), "{explanation:?}");
}

#[test]
fn spread_pack_does_as_the_kind_of_session_says() {
    let mut builder = Builder::new(&["cpu"]).agent(&[("cpu", 8000)], &[("cpu", 4000)]).agent(&[("cpu", 8000)], &[]);
    for _ in 0..2 {
        builder = builder.session(&[("cpu", 1000)], 0);
    }
    let mut snapshot = builder.build();
    snapshot.pending.kind = vec![SessionKind::Interactive, SessionKind::Batch];
    assert_eq!(placed("spread-pack", &json!({}), &snapshot), [(0, vec![1]), (1, vec![1])]);
    let mixed = json!({"strategies": {"batch": "pack"}});
    assert_eq!(placed("spread-pack", &mixed, &snapshot), [(0, vec![1]), (1, vec![0])]);
    assert_eq!(placed("spread-pack", &json!({"strategy": "pack"}), &snapshot), [(0, vec![0]), (1, vec![0])]);
}

#[test]
fn spread_pack_keeps_groups_apart() {
    let mut builder = Builder::new(&["cpu"]).agent(&[("cpu", 8000)], &[]).agent(&[("cpu", 8000)], &[("cpu", 2000)]);
    for _ in 0..4 {
        builder = builder.session(&[("cpu", 1000)], 0);
    }
    let mut snapshot = builder.build();
    snapshot.pending.more = vec![texts("tag", &["web", "web", "web", ""])];
    let config = json!({"strategy": "pack", "keep_apart": "tag", "strictness": "require"});
    // The third has no agent of its own, and lets the one behind it pass.
    assert_eq!(placed("spread-pack", &config, &snapshot), [(0, vec![1]), (1, vec![0]), (3, vec![1])]);
    let config = json!({"strategy": "pack", "keep_apart": "tag"});
    assert_eq!(placed("spread-pack", &config, &snapshot), [(0, vec![1]), (1, vec![0]), (2, vec![1]), (3, vec![1])]);
    // Those of one owner alike; all of these are.
    let config = json!({"strategy": "pack", "keep_apart": "owner", "strictness": "require"});
    assert_eq!(placed("spread-pack", &config, &snapshot), [(0, vec![1]), (1, vec![0])]);

    let kernel = || (map(&[("cpu", 1000)]), "x86_64".to_owned(), None);
    let twins = vec![kernel(), kernel()];
    let mode = ClusterMode::MultiNode;
    builder.pending = vec![Pending { kernels: twins, mode, retries: 0, waiting_ms: 0, owner: 0 }];
    let snapshot = builder.build();
    assert_eq!(placed("spread-pack", &json!({"strategy": "pack"}), &snapshot), [(0, vec![1, 0])]);
    let together = json!({"strategy": "pack", "spread_kernels": false});
    assert_eq!(placed("spread-pack", &together, &snapshot), [(0, vec![1, 1])]);
}

/// Whatever there is to place, no policy asks an agent for more than it has, and each session has one turn.
#[test]
fn all_schedulers_respect_capacity() {
    let mut state = 11_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let skip = json!({"skip_blocked": true, "hold_after_s": 0.5});
    for round in 0..30 {
        let mut builder = Builder::new(&["cpu", "mem", "cuda.device"]);
        for _ in 0..1 + random(8) {
            let capacity = [("cpu", 2000 * random(5)), ("mem", 4 * random(4)), ("cuda.device", 1000 * random(3))];
            builder = builder.agent(&capacity, &[("cpu", 700 * random(3))]);
        }
        for _ in 0..random(40) {
            let mode = if random(4) == 0 { ClusterMode::MultiNode } else { ClusterMode::SingleNode };
            let kernels = (0..1 + random(3))
                .map(|_| {
                    let requested = [("cpu", 500 * random(4)), ("mem", random(4)), ("cuda.device", 1000 * random(2))];
                    (map(&requested), "x86_64".to_owned(), None)
                })
                .collect();
            builder.pending.push(Pending {
                kernels,
                mode,
                retries: 0,
                waiting_ms: random(1000),
                owner: random(4) as u32,
            });
        }
        let mut snapshot = builder.build();
        let count = snapshot.pending.count as usize;
        snapshot.pending.more =
            vec![integers("expected-ms", &(0..count).map(|_| random(3) * 1000).collect::<Vec<_>>())];
        for (policy, config) in [
            ("fifo", &skip),
            ("lifo", &skip),
            ("drf", &skip),
            ("mof", &skip),
            ("fair-share", &skip),
            ("spread-pack", &skip),
            ("backfill", &json!({})),
        ] {
            let plugin = builtin(policy);
            let trace = plugin.schedule(&Call::new(config.to_string()), &snapshot, &mut Books::of(&snapshot)).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for (proposal, outcome) in &trace.proposals {
                assert!(seen.insert(subject(proposal)), "{policy} in round {round}");
                assert_eq!(*outcome, Outcome::Accepted, "{policy} in round {round}: {proposal:?}");
            }
        }
    }
}

/// What a hook says: nothing, a patch, or the rule that a denial names.
fn verdict(hook: &str, config: &Value, name: &str, at: &str, body: &Value) -> Value {
    let plugin = builtin(hook);
    let config = config.to_string();
    plugin.check_config(&config).unwrap_or_else(|problems| panic!("{config}: {problems:?}"));
    assert!(plugin.listens_to(name));
    let at_ms = humantime(at);
    let event = Event { name: name.to_owned(), at_ms, utc_offset_s: 3600, actor: None, body: body.to_string() };
    match plugin.handle(&Call::new(config), &event).unwrap() {
        Verdict::Allow => Value::Null,
        Verdict::Reply(reply) => serde_json::from_str(&reply.patch.unwrap()).unwrap(),
        Verdict::Deny(denial) => json!(denial.fields.into_iter().find(|(name, _)| name == "rule").unwrap().1),
    }
}

/// Milliseconds since the epoch of a day of November 2026 and a time, `24 09:30`.
fn humantime(text: &str) -> i64 {
    let numbers: Vec<i64> = text.split([' ', ':']).map(|part| part.parse().unwrap()).collect();
    // 2026-11-01 is day 20758.
    ((20_757 + numbers[0]) * 86_400 + numbers[1] * 3600 + numbers[2] * 60) * 1000
}

fn password(config: &Value, params: &Value) -> Value {
    let body = json!({"params": params, "user": {"email": "anna@example.org"}});
    verdict("password-format", config, "VERIFY_PASSWORD_FORMAT", "24 12:00", &body)
}

#[test]
fn passwords_have_a_format() {
    assert_eq!(password(&json!({}), &json!({"password": "g00d-enough"})), Value::Null);
    assert_eq!(password(&json!({}), &json!({"password": "short1"})), "min_length");
    // A change gives both; the new one counts.
    let change = json!({"old_password": "g00d-enough", "new_password": "no-digits", "new_password2": "no-digits"});
    assert_eq!(password(&json!({}), &change), "require");
    assert_eq!(password(&json!({}), &json!({"new_password": "anna-2026-11"})), "allow_user_name");
    let same =
        json!({"domain": "d", "username": "x", "current_password": "g00d-enough", "new_password": "g00d-enough"});
    assert_eq!(password(&json!({}), &same), "allow_old");
    assert_eq!(password(&json!({"min_kinds": 4}), &json!({"password": "g00d-enough"})), "min_kinds");
    let contradiction = json!({"min_length": 9, "max_length": 8}).to_string();
    assert_eq!(
        builtin("password-format").check_config(&contradiction).unwrap_err().problems()[0].pointer,
        "/max_length"
    );
}

fn request(image: &str, role: &str) -> Value {
    json!({
        "session": {"type": "interactive", "scaling_group": "default", "starts_at": null,
                    "kernels": [{"image": image, "slots": {"cpu": "2"}}]},
        "owner": {"domain": "uni", "project": "lab", "role": role, "email": "s@uni.edu"},
        "usage": {"project": {"sessions": 3, "pending": 2, "slots": {"cpu": "7"}},
                  "owner_in_project": {"sessions": 1, "pending": 1}},
    })
}

#[test]
fn images_are_allowed_by_rules() {
    let config = json!({"rules": [
        {"effect": "deny", "images": ["*:latest"]},
        {"effect": "allow", "images": ["cr/python:*"], "projects": ["uni/*"], "roles": ["user"]},
    ]});
    let ask = |image| verdict("allowed-images", &config, "PRE_ENQUEUE_SESSION", "24 12:00", &request(image, "user"));
    assert_eq!(ask("cr/python:3.12"), Value::Null);
    assert_eq!(ask("cr/python:latest"), "rules/0");
    assert_eq!(ask("cr/julia:1"), "otherwise");
    let wrong = json!({"rules": [{"effect": "maybe", "images": ["*"]}]}).to_string();
    assert!(builtin("allowed-images").check_config(&wrong).unwrap_err().problems()[0].pointer.starts_with("/rules/0"));
}

#[test]
fn projects_have_quotas() {
    let ask = |config: Value, role| {
        verdict("project-quotas", &config, "PRE_ENQUEUE_SESSION", "24 12:00", &request("x", role))
    };
    assert_eq!(ask(json!({"default": {"max_sessions": 6, "max_pending": 3}}), "user"), Value::Null);
    assert_eq!(ask(json!({"projects": {"lab": {"max_sessions": 5}}}), "user"), "max_sessions");
    assert_eq!(ask(json!({"projects": {"lab": {"max_sessions": 5}}, "exempt_roles": ["admin"]}), "admin"), Value::Null);
    assert_eq!(ask(json!({"default": {"max_sessions_per_owner": 2}}), "user"), "max_sessions_per_owner");
    assert_eq!(ask(json!({"default": {"max_slots": {"cpu": 8}}}), "user"), "max_slots");
    let wrong = json!({"projects": {"a/b": {"max_slots": {"mem": "much"}}}}).to_string();
    assert_eq!(
        builtin("project-quotas").check_config(&wrong).unwrap_err().problems()[0].pointer,
        "/projects/a~1b/max_slots/mem"
    );
}

#[test]
fn sessions_start_in_working_hours() {
    let ask = |config: &Value, at, body: &Value| verdict("working-hours", config, "PRE_ENQUEUE_SESSION", at, body);
    let plain = request("x", "user");
    // The site is an hour east of UTC; the 24th is a Tuesday, the 28th a Saturday.
    let office = json!({"hours": {"weekdays": ["09:00-18:00"]}, "exempt_roles": ["superadmin"]});
    assert_eq!(ask(&office, "24 08:00", &plain), Value::Null);
    assert_eq!(ask(&office, "24 07:59", &plain), "hours");
    assert_eq!(ask(&office, "28 12:00", &plain), "hours");
    assert_eq!(ask(&office, "28 12:00", &request("x", "superadmin")), Value::Null);
    let mut reserved = plain.clone();
    reserved["session"]["starts_at"] = json!("2026-11-30T10:00:00+00:00");
    assert_eq!(ask(&office, "28 12:00", &reserved), Value::Null);
    let zone = json!({"hours": {"weekdays": ["09:00-18:00"]}, "time_zone": "EST5EDT,M3.2.0,M11.1.0"});
    assert_eq!(ask(&zone, "24 13:59", &plain), "hours");
    assert_eq!(ask(&zone, "24 14:00", &plain), Value::Null);
    let zone = json!({"hours": {"weekdays": ["09:00-18:00"]}, "time_zone": "Asia/Seoul"});
    assert_eq!(ask(&zone, "24 00:00", &plain), Value::Null);
    assert_eq!(ask(&zone, "24 09:00", &plain), "hours");

    let mut later = office.clone();
    later["outside"] = json!({"priority": -100});
    assert_eq!(ask(&later, "28 12:00", &plain), json!({"session": {"priority": -100}}));
    later["outside"] = json!({"scaling_group": "night"});
    later["concerned"] = json!({"types": ["batch"]});
    assert_eq!(ask(&later, "28 12:00", &plain), Value::Null);
    let mut batch = plain;
    batch["session"]["type"] = json!("batch");
    assert_eq!(ask(&later, "28 12:00", &batch), json!({"session": {"scaling_group": "night"}}));
    for (wrong, pointer) in [
        (json!({"hours": {"daily": ["09:00-29:00"]}}), "/hours/daily/0"),
        (json!({"time_zone": "Europe/Berlyn"}), "/time_zone"),
        (json!({"closed": ["02-30"]}), "/closed/0"),
    ] {
        assert_eq!(
            builtin("working-hours").check_config(&wrong.to_string()).unwrap_err().problems()[0].pointer,
            pointer
        );
    }
}
