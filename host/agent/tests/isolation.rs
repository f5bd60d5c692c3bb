//! Kernels that try to get out, to see others, and to take more than they may; and what reaches them.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Rig, isolated, spec, started, text, until};
use quarterdeck_agent::{AgentOptions, RuntimeKind};
use quarterdeck_rpc::pb::report::Event;
use quarterdeck_rpc::{CallError, pb};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

/// The processes of the node that have that in their command line.
fn processes(word: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(word))
    })
    .collect()
}

#[tokio::test]
async fn a_kernel_sees_nothing_of_the_agent_and_of_others() {
    let Some(mut rig) = isolated().await else { return };
    let home = rig.state.path().join("i-test").canonicalize().unwrap();
    until("the agent's credential", || home.join("credential").exists().then_some(())).await;
    let one = rig.kernel("python").await;
    let other = rig.kernel("python").await;
    rig.run_code(&one, "open('secret', 'w').write('mine')\nimport subprocess\np = subprocess.Popen(['sleep', '4242'])")
        .await;
    let code = format!(
        "import os, socket\n\
         def tried(f):\n\
         \x20   try:\n\
         \x20       return f()\n\
         \x20   except Exception as error:\n\
         \x20       return type(error).__name__\n\
         home = {:?}\n\
         print(tried(lambda: open(home + '/credential').read()))\n\
         print(tried(lambda: os.listdir(home)))\n\
         print(tried(lambda: open(home + '/kernels/{one}/work/secret').read()))\n\
         print(sorted(p for p in os.listdir('/proc') if p.isdigit() and b'4242' in open(f'/proc/{{p}}/cmdline', 'rb').read()))\n\
         print(len([p for p in os.listdir('/proc') if p.isdigit()]) < 10, os.getuid(), os.getcwd())\n\
         print(tried(lambda: open('/etc/shadow').read()))\n\
         for path in ['/usr/x', '/etc/x', '/x', '/run/quarterdeck/x', '/proc/sys/kernel/core_pattern', '/sys/x']:\n\
         \x20   print(tried(lambda: open(path, 'w').write('x')))\n\
         print(tried(lambda: os.kill(1, 9)), tried(lambda: open('/proc/1/mem', 'rb')))\n\
         print(tried(lambda: os.setuid(0)), tried(lambda: os.unshare(0x10000000) if hasattr(os, 'unshare') else os.chroot('/')))\n\
         print(socket.gethostname(), sorted(name for _, name in socket.if_nameindex()))\n\
         print(tried(lambda: open('/tmp/mine', 'w').write('x')), tried(lambda: open('/dev/shm/mine', 'w').write('x')))",
        home.display().to_string()
    );
    let result = rig.run_code(&other, &code).await;
    let printed = text(&result, "stdout");
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 16, "{result}");
    for line in &lines[..3] {
        assert!(["FileNotFoundError", "PermissionError", "NotADirectoryError"].contains(line), "{printed}");
    }
    assert_eq!(lines[3..5], ["[]", "True 1000 /home/work"], "{printed}");
    for line in &lines[5..12] {
        assert!(["FileNotFoundError", "PermissionError", "OSError"].contains(line), "{printed}");
    }
    // Killing the first process has no effect: it isn't told of such signals.
    assert_eq!(lines[12], "None PermissionError", "{printed}");
    // There is no such user to become.
    assert_eq!(lines[13], "OSError PermissionError", "{printed}");
    assert_eq!(lines[14..16], ["main1 ['lo']", "1 1"], "{printed}");
    let rights = text(&rig.run_code(&other, "print(open('/proc/self/status').read())").await, "stdout");
    let field = |name: &str| rights.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 0, "{set}");
    }
    // No rights over namespaces of its own, either.
    let code = "import subprocess\nprint(subprocess.run(['unshare', '-Ur', 'true'], capture_output=True).returncode)";
    assert_ne!(text(&rig.run_code(&other, code).await, "stdout"), "0\n");
    assert_eq!(text(&rig.run_code(&one, "print(open('secret').read())").await, "stdout"), "mine\n");
    rig.stop().await;
}

/// A process that throws away all that tells whose it is, and doesn't end when asked to.
fn hidden(word: &str) -> String {
    format!("(cd /; setsid env -i sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1; done; : {word}' &) ")
}

#[tokio::test]
async fn nothing_of_a_kernel_stays_however_it_hides() {
    let Some(mut rig) = isolated().await else { return };
    let kernel = rig.kernel("shell").await;
    let word = uuid::Uuid::new_v4().simple().to_string();
    rig.run_code(&kernel, &hidden(&word)).await;
    until("the hidden process", || (!processes(&word).is_empty()).then_some(())).await;
    rig.destroy(&kernel).await;
    rig.terminated(&kernel).await;
    assert_eq!(processes(&word), [] as [u32; 0]);
    rig.stop().await;
}

const CHILD: &str = "QUARTERDECK_TEST_CHILD_AGENT";

/// Not a test of its own: the agent process that the next one kills.
#[tokio::test]
async fn child_agent() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let arguments: Vec<String> = serde_json::from_str(&arguments).unwrap();
    loop {
        let dir = arguments[1].clone().into();
        let mut options = AgentOptions::new(&arguments[0], common::TOKEN, RuntimeKind::Process, dir);
        options.id = Some("i-test".into());
        options.process.sandbox_program = Some(env!("CARGO_BIN_EXE_quarterdeck-sandbox").into());
        match quarterdeck_agent::run(options, CancellationToken::new()).await {
            // The agent before this one lets go of its directory when the last of its tasks is over.
            Err(error) if format!("{error:?}").starts_with("Busy") => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            outcome => return outcome.unwrap(),
        }
    }
}

/// The agent goes without a word: its end of the conversation closes, and each kernel ends with it.
#[tokio::test]
async fn kernels_end_with_their_agent() {
    let Some(mut rig) = isolated().await else { return };
    rig.stop().await;
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_agent", "--nocapture"])
        .env(CHILD, json!([rig.server, rig.state.path()]).to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    rig.registered(2).await;
    let kernel = rig.kernel("shell").await;
    let word = uuid::Uuid::new_v4().simple().to_string();
    rig.run_code(&kernel, &hidden(&word)).await;
    until("the hidden process", || (!processes(&word).is_empty()).then_some(())).await;
    child.kill().unwrap();
    child.wait().unwrap();
    until("its end", || processes(&word).is_empty().then_some(())).await;
    let options = rig.options(RuntimeKind::Process);
    rig.run(options).await;
    rig.registered(3).await;
    let end = rig.terminated(&kernel).await;
    assert_eq!((end.reason.as_str(), end.exit_code), ("agent-restart", 137));
    rig.stop().await;
}

#[tokio::test]
async fn limits_hold() {
    let Some(mut rig) = isolated().await else { return };
    let mut kernel = spec("python");
    kernel.slots.push(pb::Slot { name: "mem".into(), kind: "bytes".into(), amount: 96 << 20 });
    let id = kernel.kernel_id.clone();
    rig.create(kernel, "INTERACTIVE").await;
    started(&rig, &id).await;
    let code = "import os, resource\n\
                print(len(os.sched_getaffinity(0)) <= 1 or os.cpu_count() == 1, resource.getrlimit(resource.RLIMIT_CORE)[0])\n\
                print(resource.getrlimit(resource.RLIMIT_NPROC)[1] > 0)\n\
                resource.setrlimit(resource.RLIMIT_NPROC, (20, 20))\n\
                made = 0\n\
                try:\n\
                \x20   while made < 100:\n\
                \x20       if os.fork() == 0:\n\
                \x20           import time; time.sleep(1000)\n\
                \x20       made += 1\n\
                except BlockingIOError:\n\
                \x20   print('no more')\n";
    let printed = text(&rig.run_code(&id, code).await, "stdout");
    assert_eq!(printed, "True 0\nTrue\nno more\n");
    let result = rig.execute(&id, "", "query", "b = b'x' * (300 << 20)\nwhile True: pass", 60_000).await;
    assert_eq!(result["status"], "finished");
    let end = rig.terminated(&id).await;
    assert_eq!((end.reason.as_str(), end.exit_code), ("out-of-memory", 137));
    let stat: Value = serde_json::from_str(&end.last_stat).unwrap();
    for metric in ["cpu_used", "cpu_util", "mem", "io_read", "io_write", "io_scratch_size", "net_rx", "net_tx"] {
        assert!(stat[metric]["current"].is_string(), "{metric}: {stat}");
    }
    assert!(stat["mem"]["stats.max"].as_str().unwrap().parse::<u64>().unwrap() > 96 << 20, "{stat}");
    rig.stop().await;
}

#[tokio::test]
async fn folders_are_mounted_as_asked() {
    let Some(mut rig) = isolated().await else { return };
    let folders = tempfile::tempdir().unwrap();
    for name in ["read", "write"] {
        std::fs::create_dir(folders.path().join(name)).unwrap();
        std::fs::write(folders.path().join(name).join("here"), name).unwrap();
    }
    let mount = |name: &str, target: &str, read_only| pb::Mount {
        name: name.into(),
        source: folders.path().join(name).display().to_string(),
        target: target.into(),
        read_only,
    };
    let mut kernel = spec("python");
    kernel.mounts = vec![mount("write", "/home/work/data", false), mount("read", "/home/work/data/inner", true)];
    std::fs::create_dir(folders.path().join("write/inner")).unwrap();
    let id = kernel.kernel_id.clone();
    rig.create(kernel, "INTERACTIVE").await;
    started(&rig, &id).await;
    let code = "import os\n\
                print(open('data/here').read(), open('data/inner/here').read())\n\
                open('data/made', 'w').write('by the kernel'); os.remove('data/here')\n\
                try:\n\
                \x20   open('data/inner/made', 'w')\n\
                except OSError as error:\n\
                \x20   print(error.errno)\n\
                print(os.stat('data').st_uid)";
    assert_eq!(text(&rig.run_code(&id, code).await, "stdout"), "write read\n30\n1000\n");
    let made = folders.path().join("write/made");
    assert_eq!(std::fs::read_to_string(&made).unwrap(), "by the kernel");
    let owner = |path: &std::path::Path| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap());
    assert_eq!(owner(&made), owner(folders.path()));
    assert!(!folders.path().join("write/here").exists() && !folders.path().join("read/made").exists());

    for (target, word) in
        [("/usr/bin", "can't be mounted"), ("/home/work/../x", "can't be mounted"), ("rel", "can't be")]
    {
        let mut kernel = spec("python");
        kernel.mounts = vec![mount("read", target, true)];
        let id = kernel.kernel_id.clone();
        rig.create(kernel, "INTERACTIVE").await;
        let failed = rig
            .event(&id, |event| match event {
                Event::StartFailed(failed) => Some(failed.message.clone()),
                _ => None,
            })
            .await;
        assert!(failed.contains(word), "{failed}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn services_are_reached_through_the_agent() {
    let Some(mut rig) = isolated().await else { return };
    let mut kernel = spec("python");
    let labels = &mut kernel.image.as_mut().unwrap().labels;
    labels.insert("ai.backend.service-ports".into(), "web:http:8000,ghost:tcp:9000,broken:tcp:9001".into());
    let command = json!({"command": ["python3", "-m", "http.server", "--bind", "127.0.0.1", "{port}"]});
    labels.insert("quarterdeck.service.web".into(), command.to_string());
    labels.insert(
        "quarterdeck.service.broken".into(),
        json!({"command": ["sh", "-c", "echo why >&2; exit 3"]}).to_string(),
    );
    kernel.preopen_ports = vec![8888];
    let id = kernel.kernel_id.clone();
    rig.create(kernel, "INTERACTIVE").await;
    let ports: Value = serde_json::from_str(&started(&rig, &id).await.service_ports).unwrap();
    let named = |name: &str| ports.as_array().unwrap().iter().find(|port| port["name"] == name).unwrap().clone();
    assert_eq!(named("sshd")["container_ports"], json!([2200]));
    assert_eq!((&named("ttyd")["protocol"], &named("8888")["protocol"]), (&json!("http"), &json!("preopen")));
    let offered = named("web")["host_ports"][0].as_u64().unwrap();
    let agent = rig.agent();
    let refused = agent.connect_port(&id, 8000).await.unwrap_err();
    assert!(matches!(refused, CallError::Refused(_)), "{refused:?}");
    rig.run_code(&id, "open('page', 'w').write('through the tunnel')\nNone").await;

    let start = |service: &str| pb::StartServiceRequest {
        kernel_id: id.clone(),
        service: service.into(),
        ..Default::default()
    };
    assert_eq!(agent.start_service(start("web")).await.unwrap().status, "started");
    assert_eq!(agent.start_service(start("web")).await.unwrap().status, "running");
    let mut stream = agent.connect_port(&id, 8000).await.unwrap();
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    assert!(page.ends_with("through the tunnel"), "{page}");
    // The same on the node's own port; nothing of it is on the node's network otherwise.
    let mut direct = tokio::net::TcpStream::connect(("127.0.0.1", u16::try_from(offered).unwrap())).await.unwrap();
    direct.write_all(b"GET /page HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    direct.read_to_string(&mut page).await.unwrap();
    assert!(page.ends_with("through the tunnel"), "{page}");
    agent.shutdown_service(&id, "web").await.unwrap();
    agent.shutdown_service(&id, "unknown").await.unwrap();
    until("the service's end", || processes("http.server\08000").is_empty().then_some(())).await;

    for (service, why) in
        [("ghost", "nothing says how to start it"), ("broken", "exit code 3: why"), ("none", "no service")]
    {
        let answer = agent.start_service(start(service)).await.unwrap();
        assert_eq!(answer.status, "failed");
        assert!(answer.error.contains(why), "{answer:?}");
    }
    // What the user opens himself is reached as well.
    assert_eq!(agent.start_service(start("8888")).await.unwrap().status, "started");
    let code = "import socket, threading\n\
                listener = socket.create_server(('127.0.0.1', 8888))\n\
                def serve():\n\
                \x20   connection, _ = listener.accept()\n\
                \x20   connection.sendall(connection.recv(100).upper()); connection.close()\n\
                threading.Thread(target=serve, daemon=True).start()";
    rig.run_code(&id, code).await;
    let mut stream = agent.connect_port(&id, 8888).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "HELLO");
    rig.destroy(&id).await;
    rig.terminated(&id).await;
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", u16::try_from(offered).unwrap())).await.is_err());
    rig.stop().await;
}

#[tokio::test]
async fn ssh_lets_the_owner_in() {
    let Some(mut rig) = isolated().await else { return };
    let has = |path: &str| std::path::Path::new(path).exists();
    if !has("/usr/sbin/sshd") || !has("/usr/bin/ssh") {
        eprintln!("skipped: this node has no OpenSSH server or client");
        return rig.stop().await;
    }
    let kernel = rig.kernel("shell").await;
    let ports: Value = serde_json::from_str(&started(&rig, &kernel).await.service_ports).unwrap();
    let request = pb::StartServiceRequest { kernel_id: kernel.clone(), service: "sshd".into(), ..Default::default() };
    let answer = rig.agent().start_service(request).await.unwrap();
    assert_eq!(answer.status, "started", "{answer:?}");
    let work = rig.state.path().join("i-test/kernels").join(&kernel).join("work");
    let key = rig.state.path().join("key");
    std::fs::copy(work.join("id_container"), &key).unwrap();
    let port =
        ports.as_array().unwrap().iter().find(|port| port["name"] == "sshd").unwrap()["host_ports"][0].to_string();
    let mut ssh = tokio::process::Command::new("ssh");
    ssh.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]);
    ssh.arg("-i").arg(&key).args(["-p", &port, "work@127.0.0.1", "pwd; id -u; hostname"]);
    let output = ssh.output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "/home/work\n1000\nmain1\n",
        "{told}\n{}",
        rig.log(&kernel).await
    );
    rig.stop().await;
}

#[tokio::test]
async fn system_calls_that_nobody_needs_are_refused() {
    let Some(mut rig) = isolated().await else { return };
    let kernel = rig.kernel("python").await;
    let info: Value = serde_json::from_str(&started(&rig, &kernel).await.runtime_info).unwrap();
    if info["isolation"]["system_calls"] != "filtered" {
        eprintln!("skipped: system calls aren't filtered here: {}", info["isolation"]["system_calls"]);
        return rig.stop().await;
    }
    // Numbers of x86-64 and of all others; what fails with EPERM is refused, by the filter and not for want of rights
    // where those would say the same: keyctl, userfaultfd and the like need none.
    let code = "import ctypes, errno, os, platform, subprocess, threading, concurrent.futures\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        x86 = platform.machine() == 'x86_64'\n\
        def call(x, other, *arguments):\n\
        \x20   ctypes.set_errno(0)\n\
        \x20   libc.syscall(x if x86 else other, *arguments, 0, 0, 0)\n\
        \x20   return errno.errorcode.get(ctypes.get_errno(), 'done')\n\
        print(call(165, 40, None, b'/tmp', b'tmpfs'), call(272, 97, 0x10000000), call(272, 97, 0x20000), call(272, 97, 0x400))\n\
        print(call(250, 219, 0), call(323, 282, 0), call(321, 280, 0), call(425, 425, 1, None), call(435, 435, 0))\n\
        print(libc.mount(b'x', b'/tmp', b'tmpfs', 0, None), os.strerror(ctypes.get_errno()))\n\
        print(subprocess.run(['sh', '-c', 'echo child; unshare -m true 2>&1 | tail -1'], capture_output=True, text=True).stdout)\n\
        with concurrent.futures.ThreadPoolExecutor(8) as pool:\n\
        \x20   print(sum(pool.map(lambda n: int(subprocess.check_output(['echo', str(n)])), range(8))))\n\
        import multiprocessing\n\
        with multiprocessing.get_context('fork').Pool(2) as pool:\n\
        \x20   print(pool.map(abs, [-1, -2]))\n\
        print(open('/proc/self/status').read().split('Seccomp:')[1].split()[0])";
    let result = rig.run_code(&kernel, code).await;
    let printed = text(&result, "stdout");
    let lines: Vec<&str> = printed.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[..2], ["EPERM EPERM EPERM done", "EPERM EPERM EPERM EPERM ENOSYS"], "{result}");
    assert_eq!((lines[2], lines[3]), ("-1 Operation not permitted", "child"), "{printed}");
    assert!(lines[4].contains("not permitted"), "{printed}");
    assert_eq!(lines[5..], ["28", "[1, 2]", "2"], "{printed}");
    if std::process::Command::new("node").arg("--version").output().is_ok_and(|output| output.status.success()) {
        let node = rig.kernel("nodejs").await;
        let code = "const { Worker } = require('worker_threads')\n\
                    const { execSync } = require('child_process')\n\
                    await new Promise(done => new Worker('1', { eval: true }).on('exit', done))\n\
                    console.log(require('fs').readFileSync('/etc/hostname', 'utf8').trim(), String(execSync('echo child')).trim())";
        assert_eq!(text(&rig.run_code(&node, code).await, "stdout"), "main1 child\n");
    }
    rig.stop().await;

    let mut rig = Rig::without_agent().await;
    let mut options = rig.options(RuntimeKind::Process);
    options.process.all_system_calls = true;
    rig.run(options).await;
    let free = rig.kernel("python").await;
    let code = "print(open('/proc/self/status').read().split('Seccomp:')[1].split()[0])";
    assert_eq!(text(&rig.run_code(&free, code).await, "stdout"), "0\n");
    rig.stop().await;
}
