//! `/stream/session/{s}/httpproxy` and `…/tcpproxy`: a connection to a service, in binary messages.

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use quarterdeck_control::Control;
use quarterdeck_control::connections::Connection;
use quarterdeck_control::sessions::{self, CallError, Service, ServiceRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{GOING_AWAY, close, upgrade};
use crate::call::{Answer, Call};
use crate::params::Params;
use crate::params::kinds::{int, json_object, nullable, text};

/// The service takes no connection now.
const TRY_AGAIN: u16 = 1013;
/// Something went wrong on the way to the service.
const FAILED: u16 = 1011;
/// The largest part of a connection's bytes in one message.
const CHUNK: usize = 256 * 1024;

/// What a service is asked for by: `app` (or `service`), `port`, `envs`, `arguments`.
pub(crate) fn service(params: &mut Params) -> ServiceRequest {
    let app = params.required(&["app", "service"], text);
    let port = params.optional(&["port"], None, nullable(int(1024..=65535)));
    let envs = params.optional(&["envs"], None, nullable(json_object));
    let arguments = params.optional(&["arguments"], None, nullable(json_object));
    ServiceRequest { app, port: port.and_then(|port| u16::try_from(port).ok()), arguments, envs }
}

/// A tunnel to a service of the session. The service is started first if need be.
pub(super) async fn proxy(mut call: Call) -> Answer {
    let mut params = call.params().await?;
    let asked = service(&mut params);
    params.finish()?;
    let caller = call.caller()?;
    let found = sessions::find_service(call.control(), &caller, call.arg(0), asked).await?;
    let upgrade = upgrade(&mut call).await?;
    let control = call.control().clone();
    let connection = found.start(&control).await?;
    Ok(upgrade.on_upgrade(move |socket| async move { carry(&control, &found, &connection, socket).await }))
}

/// Carries bytes both ways until one side ends. Each side is read as fast as the other takes it.
async fn carry(control: &Control, service: &Service, connection: &Connection, socket: WebSocket) {
    let (mut sink, mut stream) = socket.split();
    let port = match service.connect().await {
        Ok(port) => port,
        Err(error) => {
            tracing::debug!(session = %service.session, %error, "a service isn't reached");
            let goodbye = match error {
                CallError::Refused(_) => close(TRY_AGAIN, "the service takes no connections"),
                _ => close(FAILED, "the service can't be reached"),
            };
            let _ = sink.send(goodbye).await;
            return;
        }
    };
    let (mut reader, mut writer) = tokio::io::split(port);
    let to_service = async {
        while let Some(Ok(message)) = stream.next().await {
            // Pings count too; they are answered below us.
            connection.seen();
            match message {
                Message::Binary(data) if writer.write_all(&data).await.is_err() => {
                    // It doesn't listen any more; what it says is told to its end.
                    return std::future::pending().await;
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = writer.shutdown().await;
    };
    let from_service = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) => return Some(close(GOING_AWAY, "the service closed the connection")),
                Ok(size) => {
                    connection.seen();
                    if sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..size]))).await.is_err() {
                        return None;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection to a service broke");
                    return Some(close(FAILED, "the connection to the service broke"));
                }
            }
        }
    };
    let goodbye = tokio::select! {
        () = to_service => Some(Message::Close(None)),
        goodbye = from_service => goodbye,
        () = sessions::until_ending(control, service.session) => Some(close(GOING_AWAY, "the session ends")),
    };
    if let Some(goodbye) = goodbye {
        let _ = sink.send(goodbye).await;
    }
}
