//! Rounds played again: with every scheduler there is, from recordings and from the live view, bit for bit.

use quarterdeck_plugin::{Kind, Meter, Runtime, RuntimeOptions, builtin};
use quarterdeck_store::schedule::UsageRow;

use super::*;
use crate::schedule::compare::{Decisions, Difference, Fate, RoundMetrics};
use crate::schedule::record::{self, Recording};
use crate::schedule::{Facts, Pseudonyms, REPLAY_FUEL, Recordings};

/// Random numbers that are the same in each run (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }

    fn slots(&mut self, cpu: u64, mem: u64, gpu: u64) -> Json {
        json!({
            "cpu": self.roll(cpu).to_string(),
            "mem": self.roll(mem).to_string(),
            "cuda.device": self.roll(gpu).to_string(),
        })
    }
}

/// A group of some hundred sessions: single and multi-node, pinned, private, early, waiting for others; owners with loose,
/// tight and senseless limits; agents that are full, lost, closed or of another architecture.
fn generated(seed: u64, tight: bool) -> Frame {
    let mut dice = Dice(seed);
    let owners = 2 + dice.roll(8);
    let agent_count = 10 + dice.roll(30);
    let mut sessions = Vec::new();
    for i in 0..(150 + dice.roll(150)) {
        let kernels = if dice.one_in(4) { 2 + dice.roll(3) } else { 1 };
        let pin = dice.one_in(12).then(|| format!("secret-agent-{}", dice.roll(agent_count + 2)));
        let kernels = (0..kernels)
            .map(|_| {
                let mut row = kernel(&dice.slots(6, 16, 3), &json!({}));
                row.image = format!("secret-registry/image:{}", dice.roll(5));
                row.architecture = if dice.one_in(10) { "aarch64" } else { "x86_64" }.to_owned();
                row.designated_agent = pin.clone().map(AgentId);
                row
            })
            .collect();
        let mut row = session(i as usize, SessionStatus::Pending, kernels);
        row.name = format!("secret-session-{i}");
        row.access_key = AccessKey(format!("SECRETKEY{}", dice.roll(owners)));
        row.domain_name = "secret-domain".to_owned();
        row.priority = dice.roll(3) as i64;
        row.expected_ms = dice.one_in(2).then(|| dice.roll(100_000) as i64);
        row.is_private = dice.one_in(15);
        if dice.one_in(3) {
            row.cluster_mode = ClusterMode::MultiNode;
        }
        if dice.one_in(5) {
            row.session_type = SessionType::Batch;
            row.starts_at = Some(NOW.plus_millis(dice.roll(2) as i64 * 2 - 1));
        }
        if dice.one_in(9) {
            row.dependencies = vec![Dependency {
                id: SessionId(Uuid::from_u128(0xdead_0000 + u128::from(i))),
                name: format!("secret-dependency-{i}"),
                result: if dice.one_in(2) { SessionResult::Success } else { SessionResult::Undefined },
            }];
        }
        sessions.push(row);
    }
    for i in 0..dice.roll(60) {
        let mut row = session(10_000 + i as usize, SessionStatus::Running, vec![]);
        let held = dice.slots(4, 8, 2);
        let mut on = kernel(&held, &held);
        on.agent_id = Some(AgentId(format!("secret-agent-{}", dice.roll(agent_count))));
        row.kernels = vec![on];
        row.access_key = AccessKey(format!("SECRETKEY{}", dice.roll(owners)));
        row.domain_name = "secret-domain".to_owned();
        sessions.push(row);
    }
    sessions.sort_by_key(|s| (s.created_at, s.id));
    let mut agents: Vec<AgentRow> = (0..agent_count)
        .map(|i| {
            let arch = if dice.one_in(6) { "aarch64" } else { "x86_64" };
            let mut row = agent(&format!("secret-agent-{i}"), arch, &dice.slots(40, 90, 9), &dice.slots(5, 9, 2));
            row.scaling_group = "secret-group".to_owned();
            row.schedulable = !dice.one_in(8);
            row.status = if dice.one_in(9) { AgentStatus::Lost } else { AgentStatus::Alive };
            row
        })
        .collect();
    agents.sort_by(|a, b| a.id.cmp(&b.id));
    let mut queue = queue(sessions, agents);
    queue.domains[0].holder = "secret-domain".to_owned();
    if tight {
        for owner in &mut queue.owners {
            owner.total_resource_slots = match dice.roll(6) {
                0 => json!({"cpu": "NaN"}).to_string(),
                1 => json!({}).to_string(),
                _ => dice.slots(60, 120, 9).to_string(),
            };
            owner.max_concurrent_sessions = dice.roll(20) as i64;
            owner.max_concurrent_sftp_sessions = dice.roll(3) as i64;
            owner.counted = (dice.roll(4) as i64, dice.roll(2) as i64);
        }
        queue.projects[0].total_resource_slots = json!({"cpu": "150"}).to_string();
        queue.domains[0].total_resource_slots = json!({"mem": "400"}).to_string();
        queue.usage = vec![UsageRow {
            access_key: AccessKey("SECRETKEY0".to_owned()),
            project_id: PROJECT.to_string(),
            domain_name: "secret-domain".to_owned(),
            is_private: false,
            sessions: 2,
        }];
        for (scope, holder) in [("keypair", "SECRETKEY1"), ("domain", "secret-domain")] {
            queue.occupancy.push(OccupancyRow {
                scope: scope.to_owned(),
                holder: holder.to_owned(),
                slot: "cpu".to_owned(),
                amount: dice.roll(20_000) as i64,
            });
        }
    }
    Frame::build("secret-group", NOW, types(), queue)
}

/// Every built-in scheduler and the examples, with configurations that they take.
fn schedulers() -> Vec<(Arc<Plugin>, String)> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Runtime::new(RuntimeOptions::default()).unwrap());
    let example =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/rust/best-fit/target/wasm32-wasip2/release/best_fit.wasm");
    let example = std::fs::read(example).expect("`cargo xtask guests` builds the examples");
    let components = builtin::all().iter().map(|b| b.wasm).chain([example.as_slice()]);
    let plugins = components.map(|wasm| runtime.load_blocking(wasm).unwrap()).filter(|p| p.kind == Kind::Scheduler);
    plugins
        .flat_map(|plugin| {
            let configs = ["{}", r#"{"skip_blocked":true}"#].into_iter();
            let fine = configs.filter(|config| plugin.check_config(config).is_ok()).map(str::to_owned);
            fine.map(|config| (Arc::clone(&plugin), config)).collect::<Vec<_>>()
        })
        .collect()
}

/// A live round with its recording, after its journey through the stored form.
fn live(frame: &Frame, plugin: &Plugin, config: &str, meter: Meter) -> Recording {
    let mut call = Call::new(config);
    call.seed = 42;
    call.meter = meter;
    let snapshot = snapshot::columns(frame, 7, call.seed, &plugin.info.columns);
    let mut books = Books::new(frame);
    let (trace, result) = plugin.schedule_traced(&call, &snapshot, &mut books);
    result.unwrap();
    let (decisions, steps) = books.close();
    let exposure = Exposure {
        plugin: RecordedPlugin::of(plugin, config),
        call: RecordedCall { seed: call.seed, ..RecordedCall::default() },
        snapshot: snapshot.clone(),
        snapshot_time: Duration::ZERO,
        steps,
        trace,
        outcome: "ok".to_owned(),
        fallback: None,
    };
    let recording = exposure.develop(frame);
    let recording = Recording::from_bytes(&recording.to_bytes().unwrap()).unwrap();
    // What the policy was shown can be shown again, and what the users were told can be told again.
    assert_eq!(recording.snapshot_for(&plugin.info.columns), snapshot);
    let mut again = RecordedBooks::new(&recording).into_inner();
    for step in &recording.steps {
        assert_eq!(again.judge(&step.proposals), step.outcomes);
    }
    let (repeated, _) = again.close();
    assert_eq!(format!("{repeated:?}"), format!("{decisions:?}"));
    recording
}

#[test]
fn every_scheduler_decides_the_same_each_time() {
    let mut seen = BTreeMap::new();
    let schedulers = schedulers();
    assert!(schedulers.len() > 5);
    for seed in 0..4 {
        let frame = generated(seed, seed % 2 == 1);
        assert!(frame.pending.len() > 100);
        for (plugin, config) in &schedulers {
            let name = &plugin.info.name;
            let recording = live(&frame, plugin, config, Meter::Epoch);
            let decided = recording.decisions();
            for fate in &decided.fates {
                *seen.entry(fate.word()).or_insert(0) += 1;
            }

            let by_time = recording.replay(plugin, config, Meter::Epoch);
            assert_eq!(by_time.steps, recording.steps, "{name}, seed {seed}");
            let by_fuel = recording.replay(plugin, config, Meter::Fuel(REPLAY_FUEL));
            assert_eq!(by_fuel.outcome, "ok", "{name}");
            assert_eq!(by_fuel.steps, recording.steps, "{name}, seed {seed}");
            assert!(recording.difference(&by_fuel).is_empty());
            assert!(by_fuel.fuel_used.is_some_and(|fuel| fuel > 0));
            let again = recording.replay(plugin, config, Meter::Fuel(REPLAY_FUEL));
            assert_eq!(again, by_fuel, "{name}, seed {seed}: not the same at the same cost");
            // The live round, metered, costs what its replay does.
            let metered = live(&frame, plugin, config, Meter::Fuel(REPLAY_FUEL));
            assert_eq!(metered.steps, by_fuel.steps);
            assert_eq!((metered.call.fuel_used, metered.call.peak_memory), (by_fuel.fuel_used, by_fuel.peak_memory));
            assert_eq!(RoundMetrics::of(&decided, &recording.snapshot), recording.difference(&by_fuel).right);
        }
    }
    // All of it happened, and often.
    assert!(["deferred", "placed", "refused", "untouched"].iter().all(|word| seen[word] > 100), "{seen:?}");
}

#[test]
fn other_policies_decide_otherwise_and_the_numbers_tell() {
    let schedulers = schedulers();
    let (fifo, config) = schedulers.iter().find(|(p, c)| p.info.name == "fifo" && c.contains("skip")).unwrap();
    let (best_fit, _) = schedulers.iter().find(|(p, _)| p.info.name == "best-fit").unwrap();
    let recording = live(&generated(2, false), fifo, config, Meter::Epoch);
    let replay = recording.replay(best_fit, "{}", Meter::Fuel(REPLAY_FUEL));
    let difference = recording.difference(&replay);
    assert!(!difference.is_empty());
    let changes = difference.changes();
    assert!(changes.moved > 0, "{changes:?}");
    let counted = changes.moved + changes.only_left + changes.only_right + changes.reasons;
    assert_eq!(counted as usize, difference.sessions.len());
    let (left, right) = (&difference.left, &difference.right);
    assert_eq!(
        i64::from(right.placed) - i64::from(left.placed),
        i64::from(changes.only_right) - i64::from(changes.only_left)
    );
    assert_eq!(left.placed_waited_ms + left.left_waited_ms, right.placed_waited_ms + right.left_waited_ms);
    for m in [left, right] {
        assert_eq!(m.placed + m.deferred + m.refused + m.untouched, m.pending);
        assert!((0.0..=1.0).contains(&m.fragmentation) && m.fairness > 0.0 && m.fairness <= 1.0);
    }
    // A policy that runs dry decided nothing.
    let dry = recording.replay(best_fit, "{}", Meter::Fuel(1000));
    assert!(dry.outcome.starts_with("fuel: "), "{}", dry.outcome);
    assert_eq!(recording.difference(&dry).right.untouched, recording.snapshot.pending.count);
}

#[test]
fn metrics_are_what_they_say() {
    let big = session(0, SessionStatus::Pending, vec![kernel(&json!({"cpu": "4"}), &json!({}))]);
    let mut small = session(1, SessionStatus::Pending, vec![kernel(&json!({"cpu": "1"}), &json!({}))]);
    small.access_key = AccessKey::from("B");
    let two = ["i-1", "i-2"].map(|id| agent(id, "x86_64", &json!({"cpu": "6"}), &json!({})));
    let frame = frame(queue(vec![big, small], two.to_vec()));
    let snapshot = snapshot::columns(&frame, 1, 1, &[]);
    let place = |session, agent| Proposal::Place(Placement { session, agents: vec![agent] });
    let together = [place(0, 0), place(1, 0)];
    let apart = [place(0, 0), place(1, 1)];
    let decide = |proposals: &[Proposal]| Decisions::of(2, proposals.iter().map(|p| (p, &Outcome::Accepted)));
    let difference = Difference::between(&decide(&together), &decide(&apart), &snapshot);
    assert_eq!(difference.changes().moved, 1);
    assert_eq!(difference.order_parts_at, None);
    let (left, right) = (&difference.left, &difference.right);
    assert_eq!((left.agents_touched, right.agents_touched), (1, 2));
    // 5 of 12 processors are taken either way; together they leave 1 and 6, apart 2 and 5: one request of 4 fits.
    assert_eq!((left.used[0].slot.as_str(), left.used[0].share), ("cpu", 5.0 / 12.0));
    assert_eq!((left.fits, left.fits_pooled, right.fits), (1, 1, 1));
    // Shares of 4/12 and 1/12.
    assert!((left.fairness - 25.0 / 34.0).abs() < 1e-12);
    assert_eq!(left.placed_waited_ms, 100_000 + 99_999);
    let reversed = [apart[1].clone(), apart[0].clone()];
    assert_eq!(Difference::between(&decide(&apart), &decide(&reversed), &snapshot).order_parts_at, Some(0));
}

#[test]
fn recordings_of_other_formats_and_with_holes_are_refused() {
    let (plugin, config) = &schedulers()[0];
    let recording = live(&generated(0, true), plugin, config, Meter::Epoch);
    let json = serde_json::to_value(&recording).unwrap();
    let read = |json: &Json| Recording::from_json(json.to_string().as_bytes()).map(drop).map_err(|e| e.to_string());
    assert_eq!(read(&json), Ok(()));
    let mut old = json.clone();
    old["format"] = json!(1);
    assert!(read(&old).unwrap_err().contains("has format 1; this release replays format 2"));
    let mut broken = 0;
    for (pointer, value) in [
        ("/snapshot/agents/count", json!(10_000)),
        ("/snapshot/pending/owner/0", json!(10_000)),
        ("/snapshot/pending/first_kernel/1", json!(0)),
        ("/snapshot/pending/requested", json!([1, 2])),
        ("/snapshot/kernels/agent/0", json!(10_000)),
        ("/snapshot/kernels/architecture/0", json!(9)),
        ("/snapshot/owners/limit", json!([])),
        ("/facts/sessions", json!([])),
        ("/facts/kernels", json!([])),
        ("/facts/agents", json!([])),
        ("/stale", json!([10_000])),
        ("/steps/0/outcomes", json!([])),
        ("/steps/0/proposals/0", json!({"Place": {"session": 0, "agents": [10_000]}})),
        ("/steps/0/proposals/0", json!({"Place": {"session": 10_000, "agents": [0]}})),
    ] {
        let mut changed = json.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        let problem = read(&changed).unwrap_err();
        assert!(problem.starts_with("the recording makes no sense"), "{pointer}: {problem}");
        broken += 1;
    }
    assert_eq!(broken, 14);

    // Files: one a line, compressed or not.
    let mut line = serde_json::to_vec(&recording).unwrap();
    line.extend_from_slice(b"\n\n");
    let file = [line.as_slice(), line.as_slice()].concat();
    let frames = [zstd::bulk::compress(&line, 1).unwrap(), zstd::bulk::compress(&line, 1).unwrap()].concat();
    for bytes in [file, frames] {
        let read: Vec<Recording> = Recordings::new(bytes.as_slice()).unwrap().map(|r| r.unwrap()).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[1].steps, recording.steps);
    }
    assert!(Recordings::new(b"{\"format\": 1}".as_slice()).unwrap().next().unwrap().is_err());
}

#[test]
fn scenarios_are_judged_like_rounds() {
    let (fifo, _) = schedulers().into_iter().find(|(p, _)| p.info.name == "fifo").unwrap();
    let frame = generated(3, true);
    let mut snapshot = snapshot::columns(&frame, 1, 9, &[]);
    let scenario = Recording::from_scenario("sg", snapshot.clone(), Facts::plain(&snapshot)).unwrap();
    assert_eq!((scenario.call.seed, scenario.at), (9, NOW));
    let column = &scenario.facts.columns[0];
    assert_eq!((column.table.as_str(), column.column.name.as_str()), ("pending", "eligible"));
    let replay = scenario.replay(&fifo, r#"{"skip_blocked":true}"#, Meter::Fuel(REPLAY_FUEL));
    assert_eq!(replay.outcome, "ok");
    assert!(replay.decisions().fates.iter().any(|fate| matches!(fate, Fate::Placed(_))));
    snapshot.pending.count += 1;
    let facts = Facts::plain(&snapshot);
    assert!(Recording::from_scenario("sg", snapshot, facts).is_err());
}

#[test]
fn no_name_survives_pseudonyms() {
    let (plugin, _) = schedulers().into_iter().find(|(p, _)| p.info.name == "fifo").unwrap();
    let config = r#"{"skip_blocked":true}"#;
    let mut recording = live(&generated(5, true), &plugin, config, Meter::Epoch);
    let plain = recording.decisions();
    // Wherever a name or somebody's words can stand.
    recording.plugin.config = json!({
        "skip_blocked": true, "weights": {"SECRETKEY0": 3, "secret-project": 1}, "note": "secret words", "mode": "loose",
    })
    .to_string();
    recording.outcome = "trap: `propose` trapped: secret-agent-1 unknown".to_owned();
    recording.journal.lines.push(quarterdeck_plugin::LogLine {
        level: quarterdeck_plugin::types::LogLevel::Info,
        message: "secret-session-1 waits".to_owned(),
        fields: vec![("owner".to_owned(), "SECRETKEY1".to_owned())],
    });
    recording.facts.columns.push(crate::schedule::TableColumn {
        table: "owners".to_owned(),
        column: quarterdeck_plugin::types::Column {
            name: "note".to_owned(),
            data: quarterdeck_plugin::types::ColumnData::Texts(vec![
                "SECRETKEY0".to_owned();
                recording.snapshot.owners.count as usize
            ]),
        },
    });
    recording
        .facts
        .malformed
        .push(crate::schedule::Malformed { id: "secret-malformed".to_owned(), problem: "secret problem".to_owned() });
    recording.steps.push(record::Step {
        proposals: vec![Proposal::Defer(Deferral { session: 0, lack: Lack::HeldBack, detail: "secret".to_owned() })],
        outcomes: vec![Outcome::Refused(Refusal::Malformed)],
    });
    let steps = recording.steps.clone();
    recording.fallback = Some(record::Fallback { plugin: recording.plugin.clone(), steps });
    let names: Vec<String> = {
        let facts = &recording.facts;
        let sessions = facts.sessions.iter().flat_map(|s| [s.id.clone(), s.name.clone()]);
        let waiting = facts.sessions.iter().flat_map(|s| &s.waits_for).flat_map(|w| [w.id.clone(), w.name.clone()]);
        let accounts = [&facts.owners, &facts.projects, &facts.domains].into_iter().flatten().map(|a| a.id.clone());
        let others = facts.agents.iter().map(|a| a.id.clone()).chain(facts.kernels.iter().map(|k| k.image.clone()));
        let pins = facts.kernels.iter().filter_map(|k| k.missing_pin.clone());
        sessions.chain(waiting).chain(accounts).chain(others).chain(pins).collect()
    };
    assert!(names.len() > 500);

    let hide = |key: &[u8]| {
        let mut hidden = recording.clone();
        let mut pseudonyms = Pseudonyms::new(key);
        pseudonyms.allow_words_of(&json!({
            "properties": {"skip_blocked": {}, "weights": {}, "note": {}, "mode": {"enum": ["loose", "strict"]}},
        }));
        pseudonyms.hide(&mut hidden);
        serde_json::to_string(&hidden).unwrap()
    };
    let text = hide(b"key");
    for name in &names {
        assert!(!text.contains(name.as_str()), "{name} survived");
    }
    for word in ["secret", "SECRET", "trapped"] {
        assert!(!text.contains(word), "{word} survived");
    }
    assert_eq!(text, hide(b"key"), "not stable");
    assert_ne!(text, hide(b"other key"));

    // It is still a recording, of the same decisions.
    let hidden = Recording::from_json(text.as_bytes()).unwrap();
    assert_eq!(hidden.outcome, "trap");
    assert_eq!(hidden.decisions().fates[1..], plain.fates[1..]);
    let config: Json = serde_json::from_str(&hidden.plugin.config).unwrap();
    assert_eq!((&config["skip_blocked"], &config["mode"]), (&json!(true), &json!("loose")));
    let weights = config["weights"].as_object().unwrap();
    assert!(weights.contains_key(&hidden.facts.owners[0].id), "the owner's weight is the owner's: {weights:?}");
    let replay = hidden.replay(&plugin, r#"{"skip_blocked":true}"#, Meter::Fuel(REPLAY_FUEL));
    assert_eq!(replay.decisions(), plain);
}
