//! `/stream/session/{s}/…`: websockets into running sessions, and which applications they have.

mod execute;
pub(super) mod proxy;
mod terminal;

use axum::extract::FromRequestParts as _;
use axum::extract::ws::{CloseFrame, Message, WebSocketUpgrade};
use quarterdeck_control::sessions;

use crate::call::{Answer, Call, ok};
use crate::route::Access::Auth;
use crate::route::Gate::Reads;
use crate::route::{Route, get};
use crate::wire::{BAD_REQUEST, Problem};

/// The largest message taken in, in bytes.
const MAX_MESSAGE: usize = 16 << 20;
/// All is done.
const NORMAL: u16 = 1000;
/// The session, or the server, went away.
const GOING_AWAY: u16 = 1001;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        get("/stream/session/{session}/apps", Auth, Reads, apps),
        get("/stream/session/{session}/pty", Auth, Reads, terminal::pty),
        get("/stream/session/{session}/httpproxy", Auth, Reads, proxy::proxy),
        get("/stream/session/{session}/tcpproxy", Auth, Reads, proxy::proxy),
        get("/stream/session/{session}/execute", Auth, Reads, execute::execute),
    ]
}

async fn apps(call: Call) -> Answer {
    let caller = call.caller()?;
    ok(&sessions::apps(call.control(), &caller, call.arg(0)).await?)
}

/// What makes a websocket of the request; a problem when it isn't meant to be one.
async fn upgrade(call: &mut Call) -> Result<WebSocketUpgrade, Problem> {
    let upgrade = WebSocketUpgrade::from_request_parts(&mut call.parts, &()).await;
    upgrade.map(|upgrade| upgrade.max_message_size(MAX_MESSAGE)).map_err(|_| Problem::new(BAD_REQUEST))
}

/// The message that closes a websocket for a reason.
fn close(code: u16, reason: &'static str) -> Message {
    Message::Close(Some(CloseFrame { code, reason: reason.into() }))
}
