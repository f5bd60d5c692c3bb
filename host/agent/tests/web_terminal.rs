//! The terminal that the agent serves to browsers itself, by its page's protocol.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Rig, isolated, spec, started, until};
use futures::{SinkExt as _, StreamExt as _};
use quarterdeck_agent::RuntimeKind;
use quarterdeck_rpc::pb;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

async fn request(rig: &Rig, kernel: &str, service: &str) -> pb::StartServiceResponse {
    let request = pb::StartServiceRequest { kernel_id: kernel.into(), service: service.into(), ..Default::default() };
    rig.agent().start_service(request).await.unwrap()
}

/// The whole way of a browser: the page, its script, the web socket, and the end.
async fn play(rig: &Rig, service: &str) {
    let mut kernel = spec("shell");
    let labels = &mut kernel.image.as_mut().unwrap().labels;
    labels.insert("ai.backend.service-ports".into(), "terminal:http:8081".into());
    let id = kernel.kernel_id.clone();
    rig.create(kernel, "INTERACTIVE").await;
    let ports: Value = serde_json::from_str(&started(rig, &id).await.service_ports).unwrap();
    let port = ports.as_array().unwrap().iter().find(|port| port["name"] == service).unwrap().clone();
    let (inner, offered) = (port["container_ports"][0].as_u64().unwrap(), port["host_ports"][0].as_u64().unwrap());
    assert_eq!(request(rig, &id, service).await.status, "started");
    assert_eq!(request(rig, &id, service).await.status, "running");

    for (path, word) in [("/", "<script src=\"terminal.js\">"), ("/terminal.js", "class Screen")] {
        let mut stream = rig.agent().connect_port(&id, u16::try_from(inner).unwrap()).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        assert!(page.starts_with("HTTP/1.0 200 OK") && page.contains("content-security-policy"), "{page}");
        assert!(page.contains(word), "{page}");
    }

    let url = format!("ws://127.0.0.1:{offered}/ws");
    let mut foreign = url.as_str().into_client_request().unwrap();
    foreign.headers_mut().insert("origin", "http://evil.example".parse().unwrap());
    match tokio_tungstenite::connect_async(foreign).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 403),
        other => panic!("{other:?}"),
    }
    let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    let resize = json!({"resize": {"rows": 33, "columns": 101}}).to_string();
    socket.send(Message::text(resize)).await.unwrap();
    socket.send(Message::text("not a word of the protocol")).await.unwrap();
    let ask = r#"until [ "$(stty size)" = "33 "101 ]; do sleep 0.02; done; stty size; echo $((6*7))-$HOSTNAME"#;
    socket.send(Message::text(json!({"input": format!("{ask}\r")}).to_string())).await.unwrap();
    let mut shown = String::new();
    while !(shown.contains("33 101") && shown.contains("42-")) {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => shown.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} after {shown}"),
        }
    }
    // The shell's end is the conversation's.
    socket.send(Message::binary(b"exit\r".to_vec())).await.unwrap();
    while !matches!(socket.next().await, Some(Ok(Message::Close(_))) | None) {}
    // And so is the service's.
    let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    rig.agent().shutdown_service(&id, service).await.unwrap();
    while !matches!(socket.next().await, Some(Ok(Message::Close(_)) | Err(_)) | None) {}
    assert_eq!(request(rig, &id, service).await.status, "started");
    rig.destroy(&id).await;
    rig.terminated(&id).await;
    let there = || std::net::TcpStream::connect(("127.0.0.1", u16::try_from(offered).unwrap())).is_ok();
    until("the port's end", || (!there()).then_some(())).await;
}

fn has_ttyd() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("ttyd").is_file());
    if found {
        eprintln!("skipped: this node has ttyd, which is taken instead");
    }
    found
}

#[tokio::test]
async fn a_browser_has_a_terminal_in_a_sandbox() {
    if has_ttyd() {
        return;
    }
    let Some(mut rig) = isolated().await else { return };
    play(&rig, "ttyd").await;
    play(&rig, "terminal").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_browser_has_a_terminal_without_a_sandbox() {
    if has_ttyd() {
        return;
    }
    let mut rig = Rig::open().await;
    play(&rig, "ttyd").await;
    rig.stop().await;
    let mut rig = Rig::without_agent().await;
    let mut options = rig.options(RuntimeKind::Process);
    options.process.network = quarterdeck_agent::Network::Host;
    rig.run(options).await;
    play(&rig, "ttyd").await;
    rig.stop().await;
}

/// What the page makes of what programs write.
#[test]
fn the_screen_understands_programs() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/process/services/terminal.js");
    let test = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/terminal_screen.js");
    match std::process::Command::new("node").arg(test).arg(source).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("skipped: no Node.js here ({error})"),
    }
}
