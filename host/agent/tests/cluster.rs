//! Kernels of one session on one node: they reach each other by name, each with its own ports, and nobody else does.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Rig, isolated, spec, started, text};
use quarterdeck_agent::RuntimeKind;
use quarterdeck_agent::doctor::Verdict;
use quarterdeck_rpc::pb;
use serde_json::{Value, json};

/// Creates a session of kernels with these names; their ids, when they run.
async fn session(rig: &Rig, names: &[&str], keys: &Value) -> Vec<String> {
    let hosts: Vec<Value> = names.iter().map(|name| json!({"hostname": name, "address": "127.0.0.1"})).collect();
    let kernels = names.iter().map(|name| {
        let mut kernel = spec("python");
        kernel.cluster_hostname = (*name).into();
        kernel.internal_data = json!({"cluster": {"hosts": hosts, "ssh_keypair": keys}}).to_string();
        kernel.environ.insert("BACKENDAI_CLUSTER_HOSTS".into(), names.join(","));
        kernel
    });
    let kernels: Vec<pb::KernelSpec> = kernels.collect();
    let ids: Vec<String> = kernels.iter().map(|kernel| kernel.kernel_id.clone()).collect();
    let request = pb::CreateKernelsRequest {
        session_id: uuid::Uuid::new_v4().to_string(),
        session_name: "a-cluster".into(),
        session_type: "INTERACTIVE".into(),
        cluster_mode: "single-node".into(),
        cluster_size: u32::try_from(names.len()).unwrap(),
        access_key: "AKIATEST".into(),
        kernels,
    };
    rig.agent().create_kernels(request).await.unwrap();
    for id in &ids {
        started(rig, id).await;
    }
    ids
}

/// An agent whose kernels share networks; nothing where the node doesn't allow it.
async fn sharing() -> Option<Rig> {
    let mut rig = isolated().await?;
    let kernel = rig.kernel("shell").await;
    let info: Value = serde_json::from_str(&started(&rig, &kernel).await.runtime_info).unwrap();
    let told = info["isolation"]["cluster_network"].as_str().unwrap();
    if !told.starts_with("kernels of a session") {
        eprintln!("skipped: kernels of a session can't share a network on this node: {told}");
        rig.stop().await;
        return None;
    }
    Some(rig)
}

const SERVE: &str = "import http.server, socket, threading\n\
    class Answer(http.server.BaseHTTPRequestHandler):\n\
    \x20   def do_GET(self):\n\
    \x20       self.send_response(200); self.end_headers()\n\
    \x20       self.wfile.write(f'{socket.gethostname()} to {self.client_address[0]}'.encode())\n\
    \x20   def log_message(self, *parts): pass\n\
    server = http.server.HTTPServer(('', 8000), Answer)\n\
    threading.Thread(target=server.serve_forever, daemon=True).start()";
const FETCH: &str = "import urllib.request\n\
    def fetch(name):\n\
    \x20   try:\n\
    \x20       return urllib.request.urlopen(f'http://{name}:8000', timeout=10).read().decode()\n\
    \x20   except OSError as error:\n\
    \x20       return str(error)\n";

/// What the node itself finds at the first kernel's address; nothing when there is nobody.
fn asked_from_the_node() -> String {
    use std::io::{Read as _, Write as _};
    let patience = std::time::Duration::from_secs(1);
    let address = std::net::SocketAddr::from(([10, 83, 0, 1], 8000));
    let Ok(mut stream) = std::net::TcpStream::connect_timeout(&address, patience) else { return String::new() };
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut answer = String::new();
    let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").and_then(|()| stream.read_to_string(&mut answer));
    answer
}

#[tokio::test]
async fn kernels_of_a_session_reach_each_other_and_nobody_else_does() {
    let Some(mut rig) = sharing().await else { return };
    let keys = json!({"public_key": "pub", "private_key": "priv"});
    let ours = session(&rig, &["main1", "sub1", "sub2"], &keys).await;
    // The same port in each, without a collision.
    for kernel in &ours {
        rig.run_code(kernel, SERVE).await;
    }
    let code = format!("{FETCH}print([fetch(name) for name in ['main1', 'sub1', 'sub2']])");
    let told = rig.run_code(&ours[0], &code).await;
    assert_eq!(
        text(&told, "stdout"),
        "['main1 to 10.83.0.1', 'sub1 to 10.83.0.1', 'sub2 to 10.83.0.1']\n",
        "{told}\n{}",
        rig.log(&ours[0]).await
    );
    let code = format!("{FETCH}print(fetch('main1'))\nimport os\nprint(os.environ['QUARTERDECK_CLUSTER_ADDRESSES'])");
    let told = text(&rig.run_code(&ours[2], &code).await, "stdout");
    assert_eq!(told, "main1 to 10.83.0.3\nmain1=10.83.0.1,sub1=10.83.0.2,sub2=10.83.0.3\n");

    // Another session has the same names and addresses for its own kernels, and a kernel alone has none.
    let theirs = session(&rig, &["main1", "sub1"], &keys).await;
    let code = format!("{FETCH}print(fetch('main1'), '|', fetch('10.83.0.2'), '|', fetch('10.83.0.3'))");
    let told = text(&rig.run_code(&theirs[0], &code).await, "stdout");
    assert_eq!(told.matches("Connection refused").count(), 2, "{told}");
    assert_eq!(told.matches("No route to host").count() + told.matches("timed out").count(), 1, "{told}");
    let alone = rig.kernel("python").await;
    let code = format!("{FETCH}print(fetch('10.83.0.1'))");
    let told = text(&rig.run_code(&alone, &code).await, "stdout");
    assert!(told.contains("Network is unreachable"), "{told}");
    // Nor does the node itself, whatever it may find at that address.
    assert!(!asked_from_the_node().contains("main1 to"));

    // One that goes takes nothing of the others' network with it.
    rig.destroy(&ours[1]).await;
    rig.terminated(&ours[1]).await;
    let code = format!("{FETCH}print(fetch('sub2'))");
    assert_eq!(text(&rig.run_code(&ours[0], &code).await, "stdout"), "sub2 to 10.83.0.1\n");
    rig.stop().await;
}

#[tokio::test]
async fn kernels_of_a_session_trust_each_other() {
    let Some(mut rig) = sharing().await else { return };
    let has = |path: &str| std::path::Path::new(path).exists();
    if !["/usr/sbin/sshd", "/usr/local/sbin/sshd"].into_iter().any(has) || !has("/usr/bin/ssh") {
        eprintln!("skipped: this node has no OpenSSH server or client");
        return rig.stop().await;
    }
    let pair = rig.state.path().join("pair");
    let mut keygen = tokio::process::Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&pair);
    assert!(keygen.status().await.unwrap().success());
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let keys = json!({"private_key": read(&pair), "public_key": read(&pair.with_extension("pub"))});
    let kernels = session(&rig, &["main1", "sub1"], &keys).await;
    let code = "import subprocess\n\
                done = subprocess.run(['ssh', '-o', 'BatchMode=yes', 'sub1', 'hostname; pwd'], capture_output=True, text=True)\n\
                print(done.stdout, done.stderr)";
    let told = text(&rig.run_code(&kernels[0], code).await, "stdout");
    assert!(told.starts_with("sub1\n/home/work\n"), "{told}\n{}", rig.log(&kernels[1]).await);
    rig.stop().await;
}

#[tokio::test]
async fn the_doctor_tells_what_kernels_have() {
    let Some(mut rig) = sharing().await else { return };
    let mut options = rig.options(RuntimeKind::Process).process;
    let verdict = async |options: &quarterdeck_agent::ProcessOptions, name: &str| {
        let findings =
            quarterdeck_agent::doctor::examine(options, &quarterdeck_agent::DockerOptions::default(), rig.state.path())
                .await
                .unwrap();
        findings.into_iter().find(|finding| finding.name == name).unwrap()
    };
    assert_eq!(verdict(&options, "cluster-network").await.verdict, Verdict::Ok);
    options.all_system_calls = true;
    options.network = quarterdeck_agent::Network::Host;
    let network = verdict(&options, "cluster-network").await;
    assert_eq!((network.verdict, network.fix.is_some()), (Verdict::Missing, true));
    let filter = verdict(&options, "seccomp").await;
    assert_eq!((filter.verdict, filter.detail.as_str()), (Verdict::Missing, "the operator wants none"));
    rig.stop().await;
}

/// Where kernels have the node's network, they are told so.
#[tokio::test]
async fn without_isolation_nothing_is_promised() {
    let mut rig = Rig::open().await;
    let kernels = session(&rig, &["main1", "sub1"], &json!({"public_key": "pub", "private_key": "priv"})).await;
    let code = "import os\nprint(open(os.path.expanduser('~/.cluster/hosts')).read())";
    assert_eq!(text(&rig.run_code(&kernels[0], code).await, "stdout"), "127.0.0.1 main1\n127.0.0.1 sub1\n\n");
    rig.stop().await;
    let mut rig = Rig::without_agent().await;
    let mut options = rig.options(RuntimeKind::Process);
    options.process.network = quarterdeck_agent::Network::Host;
    rig.run(options).await;
    let kernel = rig.kernel("shell").await;
    let info: Value = serde_json::from_str(&started(&rig, &kernel).await.runtime_info).unwrap();
    if info["isolation"]["missing"].is_null() {
        assert_eq!(info["isolation"]["cluster_network"], "kernels have the node's network, as was asked for");
    }
    rig.stop().await;
}
