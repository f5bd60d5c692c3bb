//! Streams between host and kernels: files on their way in and out, archives, terminals.

use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quarterdeck_rpc::{limits, pb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::error::Failure;
use crate::runtime::{Runtime, TerminalInput};
use crate::user_files::{Incoming, UserFiles};

/// What a stream of answers is.
pub(crate) type Answers<T> = ReceiverStream<Result<T, Status>>;

/// Chunks on their way to or from the disk.
const WAY: usize = 4;
/// How often the host hears that an archive is being made.
const ALIVE: Duration = Duration::from_secs(2);

/// Runs what waits for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|panic| Failure::Refused(panic.to_string()))?
}

/// Takes a user's file in.
pub(crate) async fn upload(runtime: &dyn Runtime, mut parts: Streaming<pb::UploadFileRequest>) -> Result<(), Status> {
    use pb::upload_file_request::Part;
    let first = parts.message().await?.and_then(|first| first.part);
    let Some(Part::Head(head)) = first else { return Err(Status::invalid_argument("the first message has no head")) };
    if head.size > limits::MAX_UPLOAD {
        return Err(Status::invalid_argument("the file is larger than what is taken in"));
    }
    let files = runtime.files(&head.kernel_id)?;
    let (chunks, mut data) = mpsc::channel::<Vec<u8>>(WAY);
    let written = tokio::spawn(blocking(move || {
        let mut incoming: Incoming = files.create(&head.path, head.size)?;
        while let Some(chunk) = data.blocking_recv() {
            incoming.write(&chunk)?;
        }
        incoming.finish()
    }));
    while let Some(message) = parts.message().await? {
        let Some(Part::Data(chunk)) = message.part else { break };
        if chunks.send(chunk).await.is_err() {
            break;
        }
    }
    drop(chunks);
    written.await.map_err(|panic| Status::internal(panic.to_string()))??;
    Ok(())
}

/// Sends a user's file, or an archive of it.
pub(crate) async fn download(
    runtime: &dyn Runtime,
    request: pb::DownloadFileRequest,
) -> Result<Answers<pb::DownloadFileResponse>, Status> {
    let files = runtime.files(&request.kernel_id)?;
    let (to, answers) = mpsc::channel(WAY);
    let opened = blocking(move || match request.archive {
        true => {
            let tar = files.tar(&request.path, request.limit)?;
            let size = tar.len() as u64;
            Ok((Box::new(std::io::Cursor::new(tar)) as Box<dyn std::io::Read + Send>, size))
        }
        false => {
            let (file, size) = files.read(&request.path)?;
            if size > request.limit {
                return Err(Failure::Refused(format!("{:?} is larger than what is sent", request.path)));
            }
            Ok((Box::new(file) as Box<dyn std::io::Read + Send>, size))
        }
    });
    let (mut content, size) = opened.await?;
    tokio::task::spawn_blocking(move || {
        if to.blocking_send(Ok(pb::DownloadFileResponse { size, data: Vec::new() })).is_err() {
            return;
        }
        let mut left = size;
        while left > 0 {
            let mut chunk = Vec::with_capacity(limits::CHUNK);
            let read = content.by_ref().take(left.min(limits::CHUNK as u64)).read_to_end(&mut chunk);
            let answer = match read {
                Ok(0) => Err(Status::aborted("the file became shorter while it was read")),
                Ok(_) => {
                    left -= chunk.len() as u64;
                    Ok(pb::DownloadFileResponse { size: 0, data: chunk })
                }
                Err(error) => Err(Status::aborted(error.to_string())),
            };
            let failed = answer.is_err();
            if to.blocking_send(answer).is_err() || failed {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(answers))
}

/// Lists a directory. What is wrong with the path is told in the answer.
pub(crate) async fn list(
    runtime: &dyn Runtime,
    request: pb::ListFilesRequest,
) -> Result<pb::ListFilesResponse, Status> {
    let files = runtime.files(&request.kernel_id)?;
    let listed = tokio::task::spawn_blocking(move || files.list(&request.path));
    let listed = listed.await.map_err(|panic| Status::internal(panic.to_string()))?;
    Ok(match listed {
        Ok(files) => pb::ListFilesResponse { files: files.to_string(), errors: String::new() },
        Err(failure) => pb::ListFilesResponse { files: "[]".into(), errors: failure.to_string() },
    })
}

/// Archives of work directories, below one directory of the node.
#[derive(Debug)]
pub(crate) struct Commits {
    dir: PathBuf,
    under_way: Arc<Mutex<std::collections::HashSet<String>>>,
}

/// A commit under way; when it is dropped, the kernel's next one may begin.
struct UnderWay(Arc<Mutex<std::collections::HashSet<String>>>, String);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Commits {
    /// Archives go below that directory.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, under_way: Arc::default() }
    }

    /// Archives a kernel's work directory. One at a time for each kernel; it ends when the host goes away.
    pub(crate) fn commit(
        &self,
        runtime: &dyn Runtime,
        request: pb::CommitRequest,
    ) -> Result<Answers<pb::CommitResponse>, Status> {
        let path = Path::new(&request.path);
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_plain || path.file_name().is_none() {
            return Err(Status::invalid_argument("the archive's path leads elsewhere"));
        }
        let target = self.dir.join(path);
        let files = runtime.files(&request.kernel_id)?;
        if !self.under_way.lock().insert(request.kernel_id.clone()) {
            return Err(Failure::Refused("the kernel is being committed".into()).into());
        }
        let under_way = UnderWay(self.under_way.clone(), request.kernel_id);
        let (to, answers) = mpsc::channel(1);
        tokio::spawn(archive(files, target, to, under_way));
        Ok(ReceiverStream::new(answers))
    }
}

async fn archive(
    files: UserFiles,
    target: PathBuf,
    to: mpsc::Sender<Result<pb::CommitResponse, Status>>,
    under_way: UnderWay,
) {
    let progress = Arc::new(Mutex::new(pb::CommitResponse::default()));
    let (seen, host) = (progress.clone(), to.clone());
    let mut work = tokio::task::spawn_blocking(move || {
        seen.lock().total_bytes = files.size()?;
        files.commit(&target, |done| {
            seen.lock().done_bytes = done;
            !host.is_closed()
        })
    });
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            () = tokio::time::sleep(ALIVE) => {
                // A slow reader misses some of it; one that is gone is noticed by the work itself.
                let now = *progress.lock();
                let _ = to.try_send(Ok(now));
            }
        }
    };
    drop(under_way);
    let last = match outcome {
        Ok(Ok(())) => {
            let total_bytes = progress.lock().total_bytes;
            Ok(pb::CommitResponse { done_bytes: total_bytes, total_bytes, done: true })
        }
        Ok(Err(error)) => Err(Status::failed_precondition(format!("the archive can't be made: {error}"))),
        Err(panic) => Err(Status::internal(panic.to_string())),
    };
    let _ = to.send(last).await;
}

/// Attaches the host to a kernel's terminal.
pub(crate) async fn terminal(
    runtime: &dyn Runtime,
    mut input: Streaming<pb::TerminalRequest>,
) -> Result<Answers<pb::TerminalResponse>, Status> {
    use pb::terminal_request::Input;
    let first = input.message().await?.and_then(|first| first.input);
    let Some(Input::Open(open)) = first else {
        return Err(Status::invalid_argument("the first message opens nothing"));
    };
    let mut attachment = runtime.terminal(&open.kernel_id).await?;
    let (to, answers) = mpsc::channel(WAY);
    tokio::spawn(async move {
        let typed = async {
            while let Ok(Some(message)) = input.message().await {
                let input = match message.input {
                    Some(Input::Data(data)) => TerminalInput::Data(data),
                    Some(Input::Resize(size)) => {
                        let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
                        TerminalInput::Resize { rows: cells(size.rows), columns: cells(size.columns) }
                    }
                    _ => continue,
                };
                if attachment.input.send(input).await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        let shown = async {
            while let Some(data) = attachment.output.recv().await {
                if to.send(Ok(pb::TerminalResponse { data, exited: false })).await.is_err() {
                    return;
                }
            }
            let _ = to.send(Ok(pb::TerminalResponse { data: Vec::new(), exited: true })).await;
        };
        // When the host stops typing it has gone.
        tokio::select! {
            () = typed => {}
            () = shown => {}
        }
    });
    Ok(ReceiverStream::new(answers))
}
