//! Kernels in containers of a real engine. Without one, these tests say that they were skipped.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Rig, spec, text, until};
use quarterdeck_agent::{AgentOptions, RuntimeKind};
use quarterdeck_rpc::pb::report::Event;
use quarterdeck_rpc::{TerminalOutput, pb};
use quarterdeck_tests::engine::{docker, make_image, socket, try_overlay};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

const IMAGE: &str = "quarterdeck.test/python:local";
/// An image made of this node's own Python and a few programs.
async fn image(socket: &Path) {
    static MADE: OnceCell<()> = OnceCell::const_new();
    MADE.get_or_init(|| async { make_image(socket, Path::new("python3"), &[IMAGE]).unwrap() }).await;
}

fn options(rig: &Rig, socket: &Path, id: &str) -> AgentOptions {
    let mut options = rig.options(RuntimeKind::Docker);
    options.id = Some(id.into());
    options.docker.socket = Some(socket.to_owned());
    options
}

async fn start(id: &str) -> Option<(Rig, PathBuf)> {
    let socket = socket()?;
    image(&socket).await;
    let mut rig = Rig::without_agent().await;
    let options = options(&rig, &socket, id);
    rig.run(options).await;
    Some((rig, socket))
}

fn contained(runtime_type: &str) -> pb::KernelSpec {
    let mut spec = spec(runtime_type);
    let image = spec.image.as_mut().unwrap();
    image.canonical = IMAGE.into();
    image.is_local = true;
    spec.slots.push(pb::Slot { name: "mem".into(), kind: "bytes".into(), amount: 256 << 20 });
    spec
}

async fn started(rig: &Rig, spec: pb::KernelSpec, kind: &str) -> (String, pb::Started) {
    let id = spec.kernel_id.clone();
    rig.create(spec, kind).await;
    let started = has_started(rig, &id).await;
    (id, started)
}

/// Waits for a kernel that was asked for.
async fn has_started(rig: &Rig, id: &str) -> pb::Started {
    rig.event(id, |event| match event {
        Event::Started(started) => Some(started.clone()),
        Event::StartFailed(failed) => panic!("{failed:?}"),
        _ => None,
    })
    .await
}

/// Why a kernel that was asked for doesn't start.
async fn why_not(rig: &Rig, id: &str) -> String {
    rig.event(id, |event| match event {
        Event::StartFailed(failed) => Some(failed.message.clone()),
        _ => None,
    })
    .await
}

fn containers(socket: &Path, kernel_id: &str) -> String {
    docker(socket, &["ps", "-aq", "--filter", &format!("label=quarterdeck.kernel={kernel_id}")]).unwrap()
}

#[tokio::test]
async fn code_files_services_and_limits() {
    let Some((mut rig, socket)) = start("i-docker").await else { return };
    let about = rig.host.notes.lock().registers[0].clone();
    assert_eq!((about.runtime.as_str(), about.runtime_types.as_slice()), ("docker", &["*".to_owned()][..]));
    assert!(about.slots.iter().any(|slot| slot.name == "cpu" && slot.amount >= 1000));

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hello"), "from the folder").unwrap();
    let mut spec = contained("python");
    spec.mounts.push(pb::Mount {
        name: "data".into(),
        source: folder.path().display().to_string(),
        target: "/home/work/data".into(),
        read_only: true,
    });
    spec.environ.insert("MINE".into(), "1".into());
    spec.resource_opts = json!({"shmem": 32 << 20}).to_string();
    spec.bootstrap_script = "echo booted > booted".into();
    spec.preopen_ports = vec![8123];
    let labels = &mut spec.image.as_mut().unwrap().labels;
    labels.insert("ai.backend.service-ports".into(), "web:http:8000".into());
    let serve = json!({"command": ["python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "{port}"]});
    labels.insert("quarterdeck.service.web".into(), serve.to_string());
    let (kernel, about) = started(&rig, spec, "INTERACTIVE").await;
    assert_eq!(about.container_id.len(), 64);
    let info: Value = serde_json::from_str(&about.runtime_info).unwrap();
    assert_eq!((&info["runtime"], &info["language"]), (&json!("docker"), &json!("python")));

    let code = "import os, sys, pwd\nprint(os.getuid(), pwd.getpwuid(os.getuid()).pw_dir, os.getcwd(), os.uname().nodename)\n\
                print(os.environ['MINE'], os.environ['FROM_IMAGE'], open('data/hello').read(), open('booted').read().strip())\n\
                print(os.statvfs('/dev/shm').f_blocks * os.statvfs('/dev/shm').f_frsize >> 20)\n\
                print([l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'CapBnd', 'NoNewPrivs'))])";
    let result = rig.run_code(&kernel, code).await;
    let expected = "1000 /home/work /home/work main1\n1 yes from the folder booted\n32\n['0000000000000000', '0000000000000000', '1']\n";
    assert_eq!(text(&result, "stdout"), expected, "{result}");
    let result = rig.run_code(&kernel, "open('data/x', 'w')").await;
    assert!(text(&result, "stderr").contains("Read-only file system"), "{result}");
    // Order is kept between what code and what its programs print.
    let result = rig.run_code(&kernel, "print('one')\nos.system('echo two')\nprint('three')\nNone").await;
    assert_eq!(text(&result, "stdout"), "one\ntwo\nthree\n");
    let result = rig.run_code(&kernel, "x = 41\nx + 1").await;
    assert_eq!(text(&result, "stdout"), "42\n");

    // An interrupt reaches the code, and nothing else.
    let asked =
        rig.execute(&kernel, "long", "query", "import time\nprint('go', flush=True)\ntime.sleep(600)", 500).await;
    assert_eq!(asked["status"], "continued");
    rig.agent().interrupt(&kernel).await.unwrap();
    let mut result = asked;
    while result["status"] == "continued" {
        result = rig.execute(&kernel, "long", "continue", "", 2000).await;
    }
    assert_ne!(result["exitCode"], 0, "{result}");
    assert_eq!(text(&rig.run_code(&kernel, "x").await, "stdout"), "41\n");

    // Files that come in are the user's.
    let files = rig.agent();
    files.upload(&kernel, "up/loaded.txt", b"abc").await.unwrap();
    let code = "import os\nprint(os.stat('up').st_uid, os.stat('up/loaded.txt').st_uid, open('up/loaded.txt').read())";
    assert_eq!(text(&rig.run_code(&kernel, code).await, "stdout"), "1000 1000 abc\n");

    // A service on the container's own loopback, through the agent and on a port of the node.
    let request = pb::StartServiceRequest { kernel_id: kernel.clone(), service: "web".into(), ..Default::default() };
    let answer = rig.agent().start_service(request).await.unwrap();
    assert_eq!(answer.status, "started", "{answer:?}");
    let ports: Value = serde_json::from_str(&about.service_ports).unwrap();
    let web = ports.as_array().unwrap().iter().find(|port| port["name"] == "web").unwrap();
    let page = fetch(web["host_ports"][0].as_u64().unwrap()).await;
    assert!(page.contains("booted"), "{page}");

    // The agent's own web terminal listens in the container.
    let request = pb::StartServiceRequest { kernel_id: kernel.clone(), service: "ttyd".into(), ..Default::default() };
    assert_eq!(rig.agent().start_service(request).await.unwrap().status, "started");
    let ttyd = ports.as_array().unwrap().iter().find(|port| port["name"] == "ttyd").unwrap();
    let page = fetch(ttyd["host_ports"][0].as_u64().unwrap()).await;
    assert!(page.contains("<html"), "{page}");

    // What it uses is measured, and what it may not use it doesn't get.
    until("statistics", || {
        let notes = rig.host.notes.lock();
        let beat = &notes.heartbeats.last()?.1;
        let stat: Value = serde_json::from_str(&beat.kernel_stats.first()?.stat).unwrap();
        let memory: f64 = stat["mem"]["current"].as_str()?.parse().unwrap();
        (memory > 1e6 && stat["mem"]["capacity"] == "268435456").then_some(())
    })
    .await;
    assert!(rig.log(&kernel).await.contains("three"));

    assert!(rig.destroy(&kernel).await.is_empty());
    let end = rig.terminated(&kernel).await;
    assert_eq!(end.reason, "user-requested");
    assert!(String::from_utf8_lossy(&end.log).contains("three"));
    until("the container's removal", || containers(&socket, &kernel).is_empty().then_some(())).await;
    until("the kernel to be forgotten", || {
        let notes = rig.host.notes.lock();
        notes.heartbeats.last()?.1.kernels.is_empty().then_some(())
    })
    .await;
    assert_eq!(rig.destroy(&kernel).await, [kernel]);
    rig.stop().await;
}

async fn fetch(port: u64) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}

/// Reads what a terminal shows until `text` is there.
async fn shows(output: &mut TerminalOutput, text: &str) {
    let mut shown = String::new();
    let read = async {
        while let Some(data) = output.next().await.unwrap() {
            shown.push_str(&String::from_utf8_lossy(&data));
            if shown.contains(text) {
                return true;
            }
        }
        false
    };
    let found = tokio::time::timeout(Duration::from_secs(60), read).await;
    assert!(found.unwrap_or_default(), "{text:?} isn't in {shown:?}");
}

#[tokio::test]
async fn batch_sessions_terminals_and_memory() {
    let Some((mut rig, socket)) = start("i-docker-batch").await else { return };
    let mut batch = contained("shell");
    batch.startup_command = "echo working; exit 3".into();
    let (kernel, _) = started(&rig, batch, "BATCH").await;
    assert_eq!(rig.batch_finished(&kernel).await, ("task-failed".to_owned(), 3));
    assert!(rig.log(&kernel).await.contains("working"), "an end is told when all that was printed is in the log");
    rig.destroy(&kernel).await;

    let (kernel, about) = started(&rig, contained("bash"), "INTERACTIVE").await;
    assert!(about.runtime_info.contains("\"bash\""), "{}", about.runtime_info);
    let result = rig.run_code(&kernel, "cd /tmp; A=5; echo $A; false").await;
    assert_eq!((text(&result, "stdout").as_str(), &result["exitCode"]), ("5\n", &json!(1)));
    assert_eq!(text(&rig.run_code(&kernel, "pwd; echo $A").await, "stdout"), "/tmp\n5\n");

    let (input, mut output) = rig.agent().terminal(&kernel).await.unwrap().split();
    // The size reaches the shell when the engine has passed it on.
    assert!(input.resize(40, 100).await);
    let ask = b"until [ \"$(stty size)\" = '40 100' ]; do sleep 0.1; done; echo done-$((20+1)) $TERM\r";
    assert!(input.type_in(ask.to_vec()).await);
    shows(&mut output, "done-21 xterm-256color").await;
    assert!(input.type_in(b"exit\r".to_vec()).await);
    let ended = async { while output.next().await.unwrap().is_some() {} };
    tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap();

    let (greedy, _) = started(&rig, contained("python"), "INTERACTIVE").await;
    rig.execute(&greedy, "eat", "query", "a = bytearray(900 << 20)", 1).await;
    let end = rig.terminated(&greedy).await;
    assert!(["out-of-memory", "self-terminated"].contains(&end.reason.as_str()), "{end:?}");

    let mut missing = contained("python");
    missing.image.as_mut().unwrap().canonical = "quarterdeck.test/nothing:1".into();
    let id = missing.kernel_id.clone();
    rig.create(missing, "INTERACTIVE").await;
    let why = why_not(&rig, &id).await;
    assert!(why.contains("quarterdeck.test/nothing:1"), "{why}");
    rig.stop().await;
    until("the containers' removal", || containers(&socket, &kernel).is_empty().then_some(())).await;
}

#[tokio::test]
async fn kernels_of_a_session_find_each_other() {
    let Some((mut rig, socket)) = start("i-docker-cluster").await else { return };
    let (mut first, mut second) = (contained("python"), contained("python"));
    for (spec, name, role) in [(&mut first, "main1", "main"), (&mut second, "sub1", "sub")] {
        spec.cluster_hostname = name.into();
        spec.cluster_role = role.into();
    }
    let request = |mode: &str, kernels: Vec<pb::KernelSpec>| pb::CreateKernelsRequest {
        session_id: uuid::Uuid::new_v4().to_string(),
        session_name: "cluster".into(),
        session_type: "INTERACTIVE".into(),
        cluster_mode: mode.into(),
        cluster_size: 2,
        access_key: "AKIATEST".into(),
        kernels,
    };
    // As long as all of them are here, they need no more for several nodes than for one.
    for mode in ["single-node", "multi-node"] {
        let ids = [uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string()];
        (first.kernel_id, second.kernel_id) = (ids[0].clone(), ids[1].clone());
        rig.agent().create_kernels(request(mode, vec![first.clone(), second.clone()])).await.unwrap();
        talk(&rig, &ids).await;
    }

    // With others elsewhere it takes a network of a swarm.
    let ids = [uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string()];
    (first.kernel_id, second.kernel_id) = (ids[0].clone(), ids[1].clone());
    let session = request("multi-node", Vec::new());
    let part = |kernel| pb::CreateKernelsRequest { kernels: vec![kernel], ..session.clone() };
    if docker(&socket, &["info", "--format", "{{.Swarm.ControlAvailable}}"]).unwrap().trim() != "true" {
        rig.agent().create_kernels(part(first)).await.unwrap();
        let why = why_not(&rig, &ids[0]).await;
        assert!(why.contains("swarm"), "{why}");
    } else if let Err(error) = try_overlay(&socket, IMAGE) {
        eprintln!("SKIPPED: containers don't find each other on this engine's overlay networks: {error:#}");
    } else {
        rig.agent().create_kernels(part(first)).await.unwrap();
        rig.agent().create_kernels(part(second)).await.unwrap();
        talk(&rig, &ids).await;
    }
    rig.stop().await;
}

/// Waits for two kernels, and has the first call the second by its name.
async fn talk(rig: &Rig, ids: &[String; 2]) {
    for id in ids {
        has_started(rig, id).await;
    }
    let serve = "import socket\ns = socket.create_server(('0.0.0.0', 5000))\nprint(s.accept()[0].recv(9))";
    rig.execute(&ids[1], "serve", "query", serve, 300).await;
    // A swarm passes new names around; that takes a moment.
    let call = "import socket, time\nend = time.time() + 30\nwhile True:\n    try:\n        \
                socket.create_connection(('sub1', 5000), 10).sendall(b'hello')\n        break\n    except OSError:\n        \
                if time.time() > end: raise\n        time.sleep(0.1)";
    let result = rig.run_code(&ids[0], call).await;
    assert_eq!(result["exitCode"], 0, "{result}");
    let heard = rig.execute(&ids[1], "serve", "continue", "", 5000).await;
    assert!(text(&heard, "stdout").contains("hello"), "{heard}");
}

/// Plays an agent in a process of its own, which the test below kills.
#[tokio::test]
#[ignore = "started by another test"]
async fn an_agent_to_be_killed() {
    let Ok(arguments) = std::env::var("QUARTERDECK_TEST_DOCKER_AGENT") else { return };
    let (server, state, socket) = {
        let arguments: Vec<&str> = arguments.split('|').collect();
        (arguments[0].to_owned(), PathBuf::from(arguments[1]), PathBuf::from(arguments[2]))
    };
    let mut options = AgentOptions::new(server, common::TOKEN, RuntimeKind::Docker, state);
    options.id = Some("i-docker-restart".into());
    options.docker.socket = Some(socket);
    quarterdeck_agent::run(options, tokio_util::sync::CancellationToken::new()).await.unwrap();
}

/// A process that doesn't outlive the test.
struct Killed(std::process::Child);

impl Killed {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tokio::test]
async fn kernels_outlive_their_agent_and_are_found_again() {
    let Some(socket) = socket() else { return };
    image(&socket).await;
    let mut rig = Rig::without_agent().await;
    let arguments = format!("{}|{}|{}", rig.server, rig.state.path().display(), socket.display());
    let agent = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "an_agent_to_be_killed"])
        .env("QUARTERDECK_TEST_DOCKER_AGENT", arguments)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut agent = Killed(agent);
    rig.registered(1).await;
    let mut spec = contained("python");
    let labels = &mut spec.image.as_mut().unwrap().labels;
    labels.insert("ai.backend.service-ports".into(), "web:http:8000".into());
    let serve = json!({"command": ["python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "{port}"]});
    labels.insert("quarterdeck.service.web".into(), serve.to_string());
    let (kernel, about) = started(&rig, spec, "INTERACTIVE").await;
    let request = pb::StartServiceRequest { kernel_id: kernel.clone(), service: "web".into(), ..Default::default() };
    assert_eq!(rig.agent().start_service(request).await.unwrap().status, "started");
    rig.run_code(&kernel, "kept = 'remembered'").await;
    let (gone, _) = started(&rig, contained("python"), "INTERACTIVE").await;
    let code = "import time\nfor n in range(40):\n    print(n, flush=True)\n    time.sleep(0.1)\nprint('the end')";
    rig.execute(&kernel, "across", "query", code, 300).await;
    agent.kill();
    // What happens to a container meanwhile is noticed.
    docker(&socket, &["rm", "-f", &format!("quarterdeck-{gone}")]).unwrap();

    let options = options(&rig, &socket, "i-docker-restart");
    rig.run(options).await;
    rig.registered(2).await;
    assert_eq!(rig.terminated(&gone).await.reason, "agent-restart");
    // The run went on, and is still the same.
    let mut shown = String::new();
    loop {
        let result = rig.execute(&kernel, "across", "continue", "", 2000).await;
        shown.push_str(&text(&result, "stdout"));
        if result["status"] == "finished" {
            assert_eq!(result["exitCode"], 0, "{result}");
            break;
        }
    }
    assert!(shown.ends_with("the end\n"), "{shown}");
    assert_eq!(text(&rig.run_code(&kernel, "kept").await, "stdout"), "'remembered'\n");
    let ports: Value = serde_json::from_str(&about.service_ports).unwrap();
    let web = ports.as_array().unwrap().iter().find(|port| port["name"] == "web").unwrap();
    let port = web["host_ports"][0].as_u64().unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(30), fetch(port)).await.unwrap().contains("200"));
    rig.destroy(&kernel).await;
    assert_eq!(rig.terminated(&kernel).await.reason, "user-requested");
    until("the container's removal", || containers(&socket, &kernel).is_empty().then_some(())).await;
    rig.stop().await;
}
