//! `/stream/session/{s}/pty`: a terminal, in JSON.

use std::time::Duration;

use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use quarterdeck_control::connections::Connection;
use quarterdeck_control::sessions::{self, TerminalInput, TerminalOutput};
use quarterdeck_control::{Control, Principal};
use serde_json::{Value, json};

use super::{GOING_AWAY, close, upgrade};
use crate::call::{Answer, Call};

/// How long the last keys of a client that left may be on their way.
const LAST_KEYS: Duration = Duration::from_secs(2);
/// Everything is well.
const NORMAL: u16 = 1000;
/// The terminal can't be reached any more.
const FAILED: u16 = 1011;

/// What a client says on a terminal's websocket.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Keys(Vec<u8>),
    Resize {
        rows: u32,
        columns: u32,
    },
    Restart,
    /// A sign of life, or something that means nothing here.
    Nothing,
}

fn understand(text: &str) -> Said {
    let Ok(message) = serde_json::from_str::<Value>(text) else { return Said::Nothing };
    let cells = |name: &str| {
        let number = &message[name];
        let number = number.as_u64().or_else(|| number.as_str()?.parse().ok())?;
        u32::try_from(number).ok().filter(|number| (1..=9999).contains(number))
    };
    match message["type"].as_str() {
        Some("stdin") => {
            let keys = message["chars"].as_str().and_then(|chars| STANDARD.decode(chars).ok());
            keys.map_or(Said::Nothing, Said::Keys)
        }
        Some("resize") => match (cells("rows"), cells("cols")) {
            (Some(rows), Some(columns)) => Said::Resize { rows, columns },
            _ => Said::Nothing,
        },
        Some("restart") => Said::Restart,
        _ => Said::Nothing,
    }
}

/// Attaches a websocket to the session's terminal. Whoever comes again finds the shell that was left.
pub(super) async fn pty(mut call: Call) -> Answer {
    let caller = call.caller()?;
    let session = call.arg(0).to_owned();
    sessions::require_session(call.control(), &caller, &session).await?;
    let upgrade = upgrade(&mut call).await?;
    let control = call.control().clone();
    let attached = sessions::terminal(&control, &caller, &session).await?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        serve(&control, &caller, attached, socket).await;
    }))
}

/// Why a client isn't served any more.
enum Left {
    Client,
    Restart,
    Shell,
    Unreachable,
    Session,
}

async fn serve(control: &Control, caller: &Principal, attached: sessions::Terminal, socket: WebSocket) {
    let session = attached.session;
    let (mut sink, mut stream) = socket.split();
    let (mut link, mut connection) = (attached.link, attached.connection);
    let goodbye = loop {
        let (input, mut output) = link.split();
        let left = tokio::select! {
            left = typed(&mut stream, &input, &connection) => left,
            left = shown(&mut sink, &mut output) => left,
            () = sessions::until_ending(control, session) => Left::Session,
        };
        match left {
            Left::Client => {
                // What was typed last is on its way: the terminal has it when it lets go.
                drop(input);
                let rest = async { while let Ok(Some(_)) = output.next().await {} };
                let _ = tokio::time::timeout(LAST_KEYS, rest).await;
                break Message::Close(None);
            }
            Left::Shell => break close(NORMAL, "the shell ended"),
            Left::Unreachable => break close(FAILED, "the terminal can't be reached"),
            Left::Session => break close(GOING_AWAY, "the session ends"),
            Left::Restart => {
                let again = async {
                    sessions::restart(control, caller, &session.to_string()).await?;
                    sessions::terminal(control, caller, &session.to_string()).await
                };
                match again.await {
                    Ok(terminal) => (link, connection) = (terminal.link, terminal.connection),
                    Err(error) => {
                        tracing::info!(%session, %error, "a session wasn't restarted from its terminal");
                        break close(FAILED, "the session can't be restarted");
                    }
                }
            }
        }
    };
    let _ = sink.send(goodbye).await;
}

/// Takes what the client says to the terminal.
async fn typed(stream: &mut SplitStream<WebSocket>, input: &TerminalInput, connection: &Connection) -> Left {
    while let Some(Ok(message)) = stream.next().await {
        connection.seen();
        let text = match message {
            Message::Text(text) => text,
            Message::Close(_) => break,
            _ => continue,
        };
        match understand(&text) {
            // When it takes nothing any more, what is shown tells why.
            Said::Keys(keys) => drop(input.type_in(keys).await),
            Said::Resize { rows, columns } => drop(input.resize(rows, columns).await),
            Said::Restart => return Left::Restart,
            Said::Nothing => {}
        }
    }
    Left::Client
}

/// Takes what the terminal shows to the client. A client that reads slowly slows the terminal down.
async fn shown(sink: &mut SplitSink<WebSocket, Message>, output: &mut TerminalOutput) -> Left {
    loop {
        match output.next().await {
            Ok(Some(data)) => {
                let message = json!({"type": "out", "data": STANDARD.encode(data)});
                if sink.send(Message::Text(Utf8Bytes::from(message.to_string()))).await.is_err() {
                    return Left::Client;
                }
            }
            Ok(None) => return Left::Shell,
            Err(error) => {
                tracing::debug!(%error, "a terminal broke off");
                return Left::Unreachable;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_say() {
        assert_eq!(understand(r#"{"type":"stdin","chars":"bHMK"}"#), Said::Keys(b"ls\n".to_vec()));
        assert_eq!(understand(r#"{"type":"resize","rows":40,"cols":120}"#), Said::Resize { rows: 40, columns: 120 });
        assert_eq!(understand(r#"{"type":"restart"}"#), Said::Restart);
        for nothing in [
            r#"{"type":"ping"}"#,
            r#"{"type":"dance"}"#,
            r#"{"type":"stdin"}"#,
            r#"{"type":"stdin","chars":"%"}"#,
            r#"{"type":"resize","rows":0,"cols":1}"#,
            r#"{"type":"resize","rows":1}"#,
            "[]",
            "not json",
            "",
        ] {
            assert_eq!(understand(nothing), Said::Nothing, "{nothing}");
        }
    }
}
