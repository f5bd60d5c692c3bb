//! `/stream/session/{s}/execute`: runs code and streams what it prints.

use std::collections::VecDeque;
use std::time::Duration;

use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use quarterdeck_control::{Control, Principal, sessions};
use serde_json::{Value, json};

use super::{NORMAL, close, upgrade};
use crate::call::{Answer, Call};

/// How long output is gathered before a message goes out.
const FLUSH: Duration = Duration::from_millis(200);
/// Messages that are kept until they are asked for; a client that says more isn't heard.
const MOST_EARLY: usize = 16;
/// Bytes of such a message at most.
const LONGEST_EARLY: usize = 64 << 10;

/// Runs code and streams what it prints.
pub(super) async fn execute(mut call: Call) -> Answer {
    let caller = call.caller()?;
    let session = call.arg(0).to_owned();
    sessions::require_session(call.control(), &caller, &session).await?;
    let upgrade = upgrade(&mut call).await?;
    let (control, major) = (call.control().clone(), call.version().major);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let early = VecDeque::new();
        let mut run = Run { control, caller: (*caller).clone(), session, major, socket, early };
        if run.stream().await.is_none() {
            // The client went away in the middle: what it started has no reader any more.
            let _ = sessions::interrupt(&run.control, &run.caller, &run.session).await;
        }
        let _ = run.socket.send(close(NORMAL, "")).await;
    }))
}

struct Run {
    control: Control,
    caller: Principal,
    session: String,
    major: u32,
    socket: WebSocket,
    /// What the client said before it was asked.
    early: VecDeque<String>,
}

impl Run {
    /// Until the run has ended; `None` when the client left before.
    async fn stream(&mut self) -> Option<()> {
        let text = self.text().await?;
        let (mode, code, options) = match request(&text) {
            Ok(request) => request,
            Err(problem) => return self.fail(&format!("Invalid API parameters: {problem}")).await,
        };
        let mut next = json!({"runId": null, "mode": mode, "code": code, "options": options});
        loop {
            let asked = sessions::execute_within(&self.control, &self.caller, &self.session, self.major, next, FLUSH);
            let mut result = tokio::select! {
                result = asked => match result {
                    Ok(result) => result,
                    Err(error) => return self.fail(&format!("BackendError: {error}")).await,
                },
                () = gone(&mut self.socket, &mut self.early) => return None,
            };
            let run_id = result.as_object_mut().and_then(|r| r.remove("runId")).unwrap_or(Value::Null);
            let status = result["status"].as_str().unwrap_or_default().to_owned();
            self.send(&result).await?;
            next = match status.as_str() {
                "finished" | "exec-timeout" => return Some(()),
                "waiting-input" => json!({"runId": run_id, "mode": "input", "code": self.text().await?}),
                _ => json!({"runId": run_id, "mode": "continue", "code": ""}),
            };
        }
    }

    async fn fail(&mut self, msg: &str) -> Option<()> {
        self.send(&json!({"status": "error", "msg": msg})).await
    }

    async fn send(&mut self, document: &Value) -> Option<()> {
        let text = Utf8Bytes::from(document.to_string());
        self.socket.send(Message::Text(text)).await.ok()
    }

    /// The next text message.
    async fn text(&mut self) -> Option<String> {
        if let Some(text) = self.early.pop_front() {
            return Some(text);
        }
        loop {
            match self.socket.recv().await?.ok()? {
                Message::Text(text) => return Some(text.to_string()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }
}

/// Waits until the client leaves, and keeps what it says meanwhile for when input is asked for.
async fn gone(socket: &mut WebSocket, early: &mut VecDeque<String>) {
    while let Some(Ok(message)) = socket.recv().await {
        match message {
            Message::Text(text) if early.len() < MOST_EARLY && text.len() <= LONGEST_EARLY => {
                early.push_back(text.to_string())
            }
            Message::Close(_) => return,
            _ => {}
        }
    }
}

fn request(text: &str) -> Result<(String, String, Value), &'static str> {
    let document: Value = serde_json::from_str(text).map_err(|_| "the message is no JSON")?;
    let mode = document["mode"].as_str().unwrap_or_default();
    if !matches!(mode, "query" | "batch") {
        return Err("mode must be query or batch");
    }
    let code = document["code"].as_str().unwrap_or_default();
    let options = document.get("options").filter(|o| o.is_object()).cloned().unwrap_or_else(|| json!({}));
    Ok((mode.to_owned(), code.to_owned(), options))
}
