//! How kernels and agents begin and end.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use common::{Rig, runs, spec, text, until};
use quarterdeck_agent::{AgentOptions, Error, IsolationMode, RuntimeKind};
use quarterdeck_rpc::pb::report::Event;
use quarterdeck_rpc::{CallError, pb};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn batch_sessions_tell_how_they_ended() {
    let mut rig = Rig::start(RuntimeKind::Process).await;
    let cases = [
        ("echo working; echo \"$GREETING\" > out; cat out .config/rc", 0, "task-done", 0),
        ("echo oops >&2; exit 5", 0, "task-failed", 5),
        ("sleep 1000", 200, "task-timeout", -2),
    ];
    for (command, timeout_ms, reason, code) in cases {
        let mut kernel = spec("python");
        kernel.startup_command = command.into();
        kernel.timeout_ms = timeout_ms;
        kernel.environ.insert("GREETING".into(), "good day".into());
        kernel.bootstrap_script = "echo bootstrapped; exit 3\n".into();
        kernel.internal_data =
            json!({"dotfiles": [{"path": ".config/rc", "perm": "644", "data": "dot\n"}, {"path": "../x", "data": ""}]})
                .to_string();
        let id = kernel.kernel_id.clone();
        rig.create(kernel, "BATCH").await;
        assert_eq!(rig.batch_finished(&id).await, (reason.to_owned(), code));
        let log = rig.log(&id).await;
        assert!(log.contains("bootstrapped\n") && log.contains("script failed with exit code 3"), "{log}");
        assert!(log.contains("leads out of the work directory"), "{log}");
        if code == 0 {
            assert!(log.contains("working\ngood day\ndot\n"), "{log}");
            assert_eq!(text(&rig.run_code(&id, "print(open('out').read())").await, "stdout"), "good day\n\n");
        }
        assert!(rig.destroy(&id).await.is_empty());
        let end = rig.terminated(&id).await;
        assert_eq!(end.reason, "user-requested");
        assert!(String::from_utf8(end.log).unwrap().starts_with("[agent]"));
        let stat: Value = serde_json::from_str(&end.last_stat).unwrap();
        assert_eq!(stat["cpu_used"]["unit_hint"], "msec");
        assert!(stat["mem"]["current"].is_string());
    }
    let mut kernel = spec("python");
    kernel.startup_command = "sleep 1000".into();
    let id = kernel.kernel_id.clone();
    rig.create(kernel, "BATCH").await;
    rig.event(&id, |event| matches!(event, Event::Execution(change) if change.running).then_some(())).await;
    rig.destroy(&id).await;
    assert_eq!(rig.batch_finished(&id).await, ("task-cancelled".to_owned(), -2));
    rig.stop().await;
}

/// Starts processes that try to stay: one ignores signals, one leaves for a session of its own.
const STAYERS: &str = "import subprocess\n\
    a = subprocess.Popen(['sh', '-c', 'trap \"\" TERM HUP; while :; do sleep 1; done'])\n\
    b = subprocess.Popen(['setsid', 'sh', '-c', 'sleep 1000; :'])\n\
    print(os.getpid() if 'os' in dir() else __import__('os').getpid(), a.pid, b.pid)";

async fn stayers(rig: &Rig, kernel: &str) -> Vec<u32> {
    let printed = text(&rig.run_code(kernel, STAYERS).await, "stdout");
    let pids: Vec<u32> = printed.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| runs(*pid)));
    pids
}

/// Whoever throws away session and environment is known by its parent, or by where it works.
#[tokio::test]
async fn an_empty_environment_hides_nobody() {
    let mut rig = Rig::open().await;
    let kernel = rig.kernel("shell").await;
    let code = "setsid env -i sleep 1000 & echo $!; (setsid env -i sleep 1000 & echo $!); \
                (cd /; setsid env -i sh -c 'sleep 1000; :' & echo $!; sleep 2) & wait $!; echo";
    let printed = text(&rig.run_code(&kernel, code).await, "stdout");
    let pids: Vec<u32> = printed.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3, "{printed}");
    let unmarked = |pid: &u32| std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| environ.is_empty());
    until("all of them to have nothing", || pids.iter().all(unmarked).then_some(())).await;
    rig.destroy(&kernel).await;
    rig.terminated(&kernel).await;
    assert!(!pids.iter().any(|pid| runs(*pid)), "{pids:?}");
    rig.stop().await;
}

#[tokio::test]
async fn destroying_a_kernel_leaves_nothing() {
    let mut rig = Rig::open().await;
    let kernel = rig.kernel("python").await;
    // Creating again changes nothing.
    let mut again = spec("python");
    again.kernel_id = kernel.clone();
    rig.create(again, "INTERACTIVE").await;
    rig.run_code(&kernel, "state = 1").await;
    let pids = stayers(&rig, &kernel).await;
    let home = rig.state.path().join("i-test");
    assert!(home.join("kernels").join(&kernel).join("work").is_dir());
    assert!(rig.destroy(&kernel).await.is_empty());
    assert!(rig.destroy(&kernel).await.is_empty());
    assert_eq!(rig.terminated(&kernel).await.reason, "user-requested");
    assert!(pids.iter().all(|pid| !runs(*pid)), "{pids:?}");
    assert!(!home.join("kernels").join(&kernel).exists());
    until("the remains to go", || std::fs::read_dir(home.join("ended")).unwrap().next().is_none().then_some(())).await;
    let ghost = uuid::Uuid::new_v4().to_string();
    assert_eq!(rig.destroy(&ghost).await, [ghost]);
    rig.stop().await;
    let notes = rig.host.notes.lock();
    let ends = notes.reports.iter().filter(|report| matches!(report.event, Some(Event::Terminated(_)))).count();
    assert_eq!(ends, 1);
    assert!(!notes.reports.iter().any(|report| matches!(report.event, Some(Event::StartFailed(_)))));
}

#[tokio::test]
async fn a_kernel_that_takes_too_much_memory_is_ended() {
    let mut rig = Rig::start(RuntimeKind::Process).await;
    let mut kernel = spec("python");
    kernel.slots.push(pb::Slot { name: "mem".into(), kind: "bytes".into(), amount: 64 << 20 });
    let id = kernel.kernel_id.clone();
    rig.create(kernel, "INTERACTIVE").await;
    rig.event(&id, |event| matches!(event, Event::Started(_)).then_some(())).await;
    let result = rig.execute(&id, "", "query", "b = b'x' * (200 << 20)\nwhile True: pass", 60_000).await;
    assert_eq!(result["status"], "finished");
    let end = rig.terminated(&id).await;
    assert_eq!((end.reason.as_str(), end.exit_code), ("out-of-memory", 137));
    assert!(String::from_utf8(end.log).unwrap().contains("out of memory"));
    let stat: Value = serde_json::from_str(&end.last_stat).unwrap();
    assert_eq!(stat["mem"]["capacity"], (64 << 20).to_string());
    rig.stop().await;
}

#[tokio::test]
async fn heartbeats_carry_kernels_and_statistics() {
    let mut rig = Rig::start(RuntimeKind::Process).await;
    let kernel = rig.kernel("python").await;
    rig.run_code(&kernel, "sum(range(3_000_000))").await;
    let (beat, stat) = until("statistics", || {
        let notes = rig.host.notes.lock();
        notes.heartbeats.iter().rev().find_map(|(_, beat)| {
            let stat: Value = serde_json::from_str(&beat.kernel_stats.first()?.stat).unwrap();
            (stat["mem"]["current"] != "0" && stat["cpu_used"]["current"] != "0").then(|| (beat.clone(), stat))
        })
    })
    .await;
    assert_eq!((beat.kernels[0].kernel_id.as_str(), beat.kernels[0].state.as_str()), (kernel.as_str(), "running"));
    assert!(stat["cpu_used"]["current"].as_str().unwrap().parse::<f64>().unwrap() > 0.0, "{stat}");
    let node: Value = serde_json::from_str(&beat.node_stat).unwrap();
    assert!(node["node"]["mem"]["current"].is_string() && node["devices"].is_object());
    assert_eq!(beat.slots.iter().map(|slot| slot.name.as_str()).collect::<Vec<_>>(), ["cpu", "mem"]);
    rig.stop().await;
}

#[tokio::test]
async fn reports_come_once_and_in_order_however_deaf_the_host() {
    let mut rig = Rig::start(RuntimeKind::Process).await;
    rig.host.deaf_calls.store(2, Ordering::SeqCst);
    rig.host.dumb_calls.store(2, Ordering::SeqCst);
    let kernel = rig.kernel("shell").await;
    rig.host.dumb_calls.store(1, Ordering::SeqCst);
    rig.host.register_again.store(true, Ordering::SeqCst);
    rig.registered(2).await;
    rig.destroy(&kernel).await;
    rig.terminated(&kernel).await;
    rig.stop().await;
    let notes = rig.host.notes.lock();
    let sequence: Vec<u64> = notes.reports.iter().map(|report| report.seq).collect();
    assert_eq!(sequence, (1..=sequence.len() as u64).collect::<Vec<_>>());
    assert_eq!(notes.registers[0].boot_id, notes.registers[1].boot_id);
    let kinds: Vec<&str> = notes.reports.iter().map(|report| kind(report.event.as_ref().unwrap())).collect();
    assert_eq!(kinds, ["preparing", "creating", "started", "terminated"]);
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Preparing(_) => "preparing",
        Event::Pulling(_) => "pulling",
        Event::Creating(_) => "creating",
        Event::Started(_) => "started",
        Event::StartFailed(_) => "start failed",
        Event::Terminated(_) => "terminated",
        Event::BatchFinished(_) => "batch finished",
        Event::Execution(_) => "execution",
    }
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let mut rig = Rig::start(RuntimeKind::Synthetic).await;
    let about = rig.host.notes.lock().registers[0].clone();
    let client = quarterdeck_rpc::AgentClient::new();
    for (id, secret) in [("i-test", "guess"), ("i-test", ""), ("i-other", about.host_secret.as_str()), ("i-other", "")]
    {
        let answer = client.agent(&about.addr, id, secret).unwrap().interrupt("k").await;
        assert!(matches!(answer, Err(CallError::Unauthenticated(_))), "{answer:?}");
    }
    rig.stop().await;
    let rig = Rig::without_agent().await;
    let mut options = rig.options(RuntimeKind::Synthetic);
    options.token = "forged".into();
    let refused = quarterdeck_agent::run(options, CancellationToken::new()).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
}

#[tokio::test]
async fn many_synthetic_agents_share_a_process() {
    let mut rig = Rig::without_agent().await;
    let mut options = rig.options(RuntimeKind::Synthetic);
    options.count = 200;
    options.slots = Some(quarterdeck_agent::parse_slots("cpu=4,mem=8g").unwrap());
    rig.run(options).await;
    rig.registered(200).await;
    let addresses: std::collections::BTreeSet<String> =
        rig.host.notes.lock().registers.iter().map(|about| about.addr.clone()).collect();
    assert_eq!(addresses.len(), 1);
    until("a heartbeat of each", || {
        let notes = rig.host.notes.lock();
        let seen: std::collections::BTreeSet<&str> = notes.heartbeats.iter().map(|(id, _)| id.as_str()).collect();
        (seen.len() == 200).then_some(())
    })
    .await;
    let kernel = rig.kernel("anything").await;
    let refused = rig.execute_with(&kernel, "", "query", "1", 100, json!({})).await;
    assert!(matches!(&refused, Err(CallError::Refused(message)) if message.contains("runs nothing")), "{refused:?}");
    rig.destroy(&kernel).await;
    assert_eq!(rig.terminated(&kernel).await.reason, "user-requested");
    rig.stop().await;
    assert_eq!(rig.host.notes.lock().left.len(), 200);
}

const CHILD: &str = "QUARTERDECK_TEST_CHILD_AGENT";

/// Not a test of its own: the agent process that the next one kills.
#[tokio::test]
async fn child_agent() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let arguments: Vec<String> = serde_json::from_str(&arguments).unwrap();
    let mut options =
        AgentOptions::new(&arguments[0], common::TOKEN, RuntimeKind::Process, arguments[1].clone().into());
    options.id = Some("i-test".into());
    options.process.isolation = IsolationMode::None;
    quarterdeck_agent::run(options, CancellationToken::new()).await.unwrap();
}

#[tokio::test]
async fn killing_an_agent_leaves_nothing() {
    let mut rig = Rig::without_agent().await;
    let arguments = json!([rig.server, rig.state.path()]).to_string();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_agent", "--nocapture"])
        .env(CHILD, arguments)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    rig.registered(1).await;
    let kernel = rig.kernel("python").await;
    let shell = rig.kernel("shell").await;
    let pids = stayers(&rig, &kernel).await;
    let busy = rig.execute(&shell, "", "query", "echo $$; sleep 1000", 500).await;
    let sleeper: u32 = text(&busy, "stdout").trim().parse().unwrap();
    // A second agent keeps off.
    let second = quarterdeck_agent::run(rig.options(RuntimeKind::Process), CancellationToken::new()).await;
    assert!(matches!(second, Err(Error::Busy(_))), "{second:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    // The kernels' own groups end with the agent…
    for pid in [pids[0], pids[1], sleeper] {
        until("a kernel's end", || (!runs(pid)).then_some(())).await;
    }
    // …and what left them, at the latest when the agent is back. It tells the host so.
    let options = rig.options(RuntimeKind::Process);
    rig.run(options).await;
    rig.registered(2).await;
    for id in [&kernel, &shell] {
        let end = rig.terminated(id).await;
        assert_eq!((end.reason.as_str(), end.exit_code), ("agent-restart", 137));
    }
    assert!(pids.iter().all(|pid| !runs(*pid)), "{pids:?}");
    rig.stop().await;
}
