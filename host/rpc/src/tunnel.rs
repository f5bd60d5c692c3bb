//! One TCP connection to a kernel's port, carried by a call: the caller's end, and the agent's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::limits::PORT_CHUNK;
use crate::pb;
use crate::pb::port_data::Kind;

/// Messages that wait for a slow reader.
const WAITING: usize = 8;
/// How long the last bytes of a caller that went away may be on their way.
const LINGER: Duration = Duration::from_secs(5);

/// A connection to a port of a kernel: bytes both ways. Shutting it down closes the caller's side only; dropping it
/// closes both, once what was written has gone out.
#[derive(Debug)]
pub struct PortStream {
    near: DuplexStream,
    _kept: oneshot::Sender<()>,
}

/// The caller's messages, the first of which opens the connection.
pub(crate) fn opening(kernel_id: &str, port: u16) -> (mpsc::Sender<pb::PortData>, ReceiverStream<pb::PortData>) {
    let (outgoing, messages) = mpsc::channel(WAITING);
    let open = pb::OpenPort { kernel_id: kernel_id.to_owned(), port: port.into() };
    // There is room: it is the first.
    let _ = outgoing.try_send(pb::PortData { kind: Some(Kind::Open(open)) });
    (outgoing, ReceiverStream::new(messages))
}

impl PortStream {
    pub(crate) fn new(outgoing: mpsc::Sender<pb::PortData>, incoming: Streaming<pb::PortData>) -> Self {
        let (near, far) = tokio::io::duplex(4 * PORT_CHUNK);
        let (kept, gone) = oneshot::channel();
        tokio::spawn(async move {
            let (reader, writer) = tokio::io::split(far);
            let to_kernel = send(reader, outgoing, |message| message);
            let from_kernel = receive(incoming, writer);
            tokio::pin!(to_kernel, from_kernel);
            tokio::select! {
                () = &mut from_kernel => return,
                () = &mut to_kernel => {}
            }
            tokio::select! {
                () = &mut from_kernel => {}
                // Ending the call would take back what is still on its way.
                _ = gone => drop(tokio::time::timeout(LINGER, from_kernel).await),
            }
        });
        Self { near, _kept: kept }
    }
}

impl AsyncRead for PortStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_read(cx, buf)
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(cx)
    }
}

/// The message that opens a connection: which kernel, which port.
///
/// # Errors
/// `INVALID_ARGUMENT` when the first message is another, or the port is none.
pub async fn opened(incoming: &mut Streaming<pb::PortData>) -> Result<(String, u16), Status> {
    let Some(pb::PortData { kind: Some(Kind::Open(open)) }) = incoming.message().await? else {
        return Err(Status::invalid_argument("the first message has to open a port"));
    };
    match u16::try_from(open.port) {
        Ok(port) if port > 0 => Ok((open.kernel_id, port)),
        _ => Err(Status::invalid_argument(format!("{} is no port", open.port))),
    }
}

/// Carries a connection of the agent's for a caller; the answer's messages.
pub fn carry(connection: TcpStream, incoming: Streaming<pb::PortData>) -> ReceiverStream<Result<pb::PortData, Status>> {
    let (outgoing, messages) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let (reader, writer) = connection.into_split();
        let caller = outgoing.clone();
        let to_caller = send(reader, outgoing, Ok);
        let from_caller = receive(incoming, writer);
        tokio::pin!(to_caller, from_caller);
        tokio::select! {
            () = &mut to_caller => return,
            () = caller.closed() => return,
            () = &mut from_caller => {}
        }
        tokio::select! {
            () = to_caller => {}
            () = caller.closed() => {}
        }
    });
    ReceiverStream::new(messages)
}

/// Reads until the end and sends what comes.
async fn send<T>(mut from: impl AsyncRead + Unpin, to: mpsc::Sender<T>, wrap: impl Fn(pb::PortData) -> T) {
    let mut buffer = vec![0; PORT_CHUNK];
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        let message = pb::PortData { kind: Some(Kind::Data(buffer[..size].to_vec())) };
        if to.send(wrap(message)).await.is_err() {
            return;
        }
    }
}

/// Writes what comes, and closes at the end.
async fn receive(mut from: Streaming<pb::PortData>, mut to: impl AsyncWrite + Unpin) {
    while let Ok(Some(message)) = from.message().await {
        if let Some(Kind::Data(data)) = message.kind
            && to.write_all(&data).await.is_err()
        {
            return;
        }
    }
    let _ = to.shutdown().await;
}
