//! Files and directories on their way out. Threads are held for one piece at a time, not for a client's patience.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::Stream;
use futures::stream::unfold;
use quarterdeck_model::vfolder::FolderPath;
use tokio::task::JoinHandle;

use super::zip::Walk;
use super::{Embedded, confined, files};
use crate::Place;
use crate::error::{Error, Result};
use crate::token::DownloadClaims;

/// Bytes that are read at once.
const PIECE: usize = 512 << 10;

/// What a token led to.
#[derive(Debug)]
pub enum Opened {
    /// A file.
    File(OpenFile),
    /// A directory, as an archive.
    Archive(Archive),
}

/// A file that can be read.
#[derive(Debug)]
pub struct OpenFile {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was changed last.
    pub modified: SystemTime,
    file: Arc<File>,
}

/// A directory that can be read as an archive.
#[derive(Debug)]
pub struct Archive {
    /// The archive's name.
    pub name: String,
    walk: Box<Walk>,
}

impl Embedded {
    /// Opens what a token names. `directory` goes between the folder's root and the path.
    ///
    /// # Errors
    /// For what isn't there or leads out of the folder, and for directories unless an archive is wanted.
    pub async fn open_download(
        &self,
        claims: &DownloadClaims,
        directory: Option<&str>,
        archive: bool,
    ) -> Result<Opened> {
        let folder: FolderPath = claims.vfid.parse().map_err(|why| Error::parameter("vfid", why))?;
        let place = Place { volume: claims.volume.clone(), folder };
        let path = match directory {
            Some(directory) => {
                format!("{}/{}", confined(directory, "dst_dir").map_err(|_| Error::no_file())?, claims.relpath)
            }
            None => claims.relpath.clone(),
        };
        let path = confined(&path, "relpath").map_err(|_| Error::no_file())?;
        self.within(&place, move |dir| {
            // A link that leads out is as good as no file.
            let meta = dir.metadata(&path).map_err(|_| Error::no_file())?;
            let last = path.rsplit('/').next().unwrap_or_default();
            if meta.is_dir() {
                if !archive {
                    return Err(Error::not_a_file());
                }
                let root = dir.open_dir(&path).map_err(|_| Error::no_file())?;
                let name = if last == "." { "folder.zip".to_owned() } else { format!("{last}.zip") };
                return Ok(Opened::Archive(Archive { name, walk: Box::new(Walk::new(root)) }));
            }
            if !meta.is_file() {
                return Err(Error::not_a_file());
            }
            let file = files::open(dir, &path).map_err(|_| Error::no_file())?;
            let meta = file.metadata().map_err(|e| Error::io(&e))?;
            let modified = meta.modified().map_err(|e| Error::io(&e))?;
            Ok(Opened::File(OpenFile { name: last.to_owned(), size: meta.len(), modified, file: Arc::new(file) }))
        })
        .await
        .map_err(|error| match error {
            // Neither the folder nor the volume is told from the file.
            Error::Refused(problem) if problem.status == 404 => Error::no_file(),
            error => error,
        })
    }
}

impl OpenFile {
    /// Begins to read the next piece of `left` bytes from `at` on; how long it will be.
    fn read(&self, at: u64, left: u64) -> Option<(u64, JoinHandle<std::io::Result<Bytes>>)> {
        let wanted = left.min(PIECE as u64);
        if wanted == 0 {
            return None;
        }
        let file = Arc::clone(&self.file);
        let read = move || {
            let mut piece = Vec::with_capacity(PIECE);
            (&*file).seek(SeekFrom::Start(at))?;
            (&*file).take(wanted).read_to_end(&mut piece)?;
            if piece.len() as u64 == wanted {
                return Ok(Bytes::from(piece));
            }
            // Shorter by now: a length was promised, so the connection has to break.
            Err(std::io::ErrorKind::UnexpectedEof.into())
        };
        Some((wanted, tokio::task::spawn_blocking(read)))
    }

    /// `length` bytes from `start` on.
    pub fn stream(self, start: u64, length: u64) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        let first = (self.read(start, length), start, length);
        unfold((self, first), |(file, (piece, at, left))| async move {
            let (size, piece) = piece?;
            let piece = piece.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            let (at, left) = (at + size, if piece.is_ok() { left - size } else { 0 });
            // The next one is read while this one is sent.
            let next = (file.read(at, left), at, left);
            Some((piece, (file, next)))
        })
    }
}

impl Archive {
    /// The archive, made on the way.
    pub fn stream(self) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        unfold(Some(self.walk), |walk| async move {
            let mut walk = walk?;
            let step = blocking(move || {
                let mut piece = Vec::with_capacity(PIECE + PIECE / 8);
                let more = walk.step(&mut piece, PIECE)?;
                Ok((Bytes::from(piece), more.then_some(walk)))
            })
            .await;
            match step {
                Ok((piece, walk)) => Some((Ok(piece), walk)),
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}
