//! Uploads in pieces (`spec/storage-proxy.md` §4.2).
//!
//! Bytes are appended to a file of the upload's own until it has its size; then that file takes its place at once. What
//! was written when a connection or this process broke off stays, and the upload goes on from there.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use bytes::Bytes;
use cap_std::fs::{Dir, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use quarterdeck_model::vfolder::FolderPath;
use tokio::task::JoinHandle;

use super::{Embedded, FILE_MODE, Inner, UPLOADS, below_root, confined, files, make_dir};
use crate::error::{Error, Result};
use crate::token::UploadClaims;
use crate::{Limits, Place, Room};

/// Bytes that are gathered before they are written.
const BATCH: u64 = 1 << 20;

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Bytes that are stored.
    pub offset: u64,
    /// Bytes that there will be.
    pub length: u64,
}

/// Why a piece isn't taken.
#[derive(Debug)]
pub enum UploadError {
    /// It isn't the next one.
    Offset(Receipt),
    /// Somebody else is sending one.
    Busy,
    /// There is more of it than was announced.
    TooLong(Receipt),
    /// Anything else.
    Storage(Error),
}

impl From<Error> for UploadError {
    fn from(error: Error) -> Self {
        Self::Storage(error)
    }
}

/// A piece that is being taken.
#[derive(Debug)]
pub struct Upload {
    storage: Embedded,
    claims: UploadClaims,
    target: String,
    /// Locked for this piece alone.
    file: Arc<File>,
    begun_at: u64,
    stored: u64,
    /// What is being written while more comes in, and how much it is.
    writing: Option<(u64, JoinHandle<std::io::Result<()>>)>,
    waiting: Vec<Bytes>,
    waiting_bytes: u64,
}

fn place_of(claims: &UploadClaims) -> Result<Place> {
    let folder: FolderPath = claims.vfid.parse().map_err(|why| Error::parameter("vfid", why))?;
    Ok(Place { volume: claims.volume.clone(), folder })
}

/// Makes the file of an upload and, when nothing will come, the file that it is for.
pub(super) fn begin(inner: &Inner, place: &Place, claims: &UploadClaims) -> Result<()> {
    let dir = inner.folder(place)?;
    let told = |error: &std::io::Error| Error::os(error, &[&claims.relpath]);
    let usage = super::fs_usage(&inner.volume(&place.volume)?.path)?;
    if claims.size > usage.capacity_bytes.saturating_sub(usage.used_bytes) {
        return Err(told(&std::io::Error::from_raw_os_error(nix::libc::ENOSPC)));
    }
    // Links on the way are followed here already, so that nobody waits for an upload that can't end.
    if let Some((parent, _)) = claims.relpath.rsplit_once('/')
        && let Err(error) = dir.metadata(parent)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(told(&error));
    }
    make_dir(&dir, UPLOADS).map_err(|e| told(&e))?;
    let session = format!("{UPLOADS}/{}", claims.session);
    create(&dir, &session).map_err(|e| told(&e))?;
    if claims.size == 0 {
        let empty = format!("{session}-empty");
        create(&dir, &empty).map_err(|e| told(&e))?;
        put(&dir, &empty, &claims.relpath)?;
    }
    Ok(())
}

fn create(dir: &Dir, path: &str) -> std::io::Result<()> {
    let file = dir.open_with(path, OpenOptions::new().write(true).create_new(true))?.into_std();
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(FILE_MODE))
}

/// Moves a whole file to its place, making the directories above it.
fn put(dir: &Dir, from: &str, target: &str) -> Result<()> {
    let told = |error: std::io::Error| Error::os(&error, &[target]);
    if let Some((parent, _)) = target.rsplit_once('/') {
        files::make_all(dir, parent).map_err(told)?;
    }
    dir.rename(from, dir, target).map_err(told)
}

/// The file of an upload, if it is still there.
fn session_file(dir: &Dir, session: &str) -> Result<File> {
    let path = format!("{UPLOADS}/{session}");
    let is_file = dir.symlink_metadata(&path).is_ok_and(|m| m.is_file());
    if !is_file || !session.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::no_session());
    }
    // Sessions see the file: what they put in its place is neither waited for nor written to.
    let options = OpenOptions::new().append(true).custom_flags(nix::libc::O_NONBLOCK).clone();
    let file = dir.open_with(&path, &options).map_err(|_| Error::no_session())?.into_std();
    if file.metadata().is_ok_and(|m| m.is_file()) { Ok(file) } else { Err(Error::no_session()) }
}

impl Embedded {
    /// How far an upload is.
    ///
    /// # Errors
    /// When there is no such upload, or none any more.
    pub async fn receipt(&self, claims: &UploadClaims) -> Result<Receipt> {
        let place = place_of(claims)?;
        let (session, length) = (claims.session.clone(), claims.size);
        self.blocking(move |inner| {
            let dir = inner.folder(&place).map_err(|_| Error::no_session())?;
            let file = session_file(&dir, &session)?;
            Ok(Receipt { offset: file.metadata().map_err(|e| Error::io(&e))?.len(), length })
        })
        .await
    }

    /// Begins to take a piece. `offset` is where the sender thinks it belongs, `length` how much it says it is.
    ///
    /// # Errors
    /// [`UploadError`].
    pub async fn upload(
        &self,
        claims: UploadClaims,
        directory: Option<&str>,
        offset: Option<u64>,
        length: Option<u64>,
    ) -> Result<Upload, UploadError> {
        let place = place_of(&claims)?;
        let target = match directory {
            Some(directory) => {
                let directory = confined(directory, "dst_dir")?;
                below_root(&format!("{directory}/{}", claims.relpath), "dst_dir")?
            }
            None => below_root(&claims.relpath, "relpath")?,
        };
        let session = claims.session.clone();
        let opened = self.blocking(move |inner| {
            let dir = inner.folder(&place).map_err(|_| Error::no_session())?;
            let file = session_file(&dir, &session)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(Error::io(&error)),
            }
            // Between opening and locking, somebody else may have ended the upload: then this is its target by now.
            let meta = file.metadata().map_err(|e| Error::io(&e))?;
            let named = dir.symlink_metadata(format!("{UPLOADS}/{session}")).map_err(|_| Error::no_session())?;
            if named.ino() != meta.ino() {
                return Err(Error::no_session());
            }
            Ok(Some((file, meta.len())))
        });
        let Some((file, stored)) = opened.await? else { return Err(UploadError::Busy) };
        let receipt = Receipt { offset: stored, length: claims.size };
        if offset.is_some_and(|offset| offset != stored) {
            return Err(UploadError::Offset(receipt));
        }
        if length.is_some_and(|length| stored.saturating_add(length) > claims.size) {
            return Err(UploadError::TooLong(receipt));
        }
        Ok(Upload {
            storage: self.clone(),
            claims,
            target,
            file: Arc::new(file),
            begun_at: stored,
            stored,
            writing: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
        })
    }
}

impl Upload {
    /// Takes bytes. When there are more than announced, the whole piece is undone.
    ///
    /// # Errors
    /// [`UploadError::TooLong`], or the disk's.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), UploadError> {
        let under_way = self.writing.as_ref().map_or(0, |(bytes, _)| *bytes);
        let total = self.stored + under_way + self.waiting_bytes + bytes.len() as u64;
        if total > self.claims.size {
            self.settle().await?;
            let (file, length) = (Arc::clone(&self.file), self.begun_at);
            self.waiting.clear();
            self.storage.blocking(move |_| file.set_len(length).map_err(|e| Error::io(&e))).await?;
            return Err(UploadError::TooLong(Receipt { offset: self.begun_at, length: self.claims.size }));
        }
        self.waiting_bytes += bytes.len() as u64;
        self.waiting.push(bytes);
        if self.waiting_bytes >= BATCH {
            self.flush().await?;
        }
        Ok(())
    }

    /// Begins to write what waits, after what is being written: one batch is on its way to the disk while the next one
    /// comes over the network.
    async fn flush(&mut self) -> Result<()> {
        self.settle().await?;
        let (file, batch) = (Arc::clone(&self.file), std::mem::take(&mut self.waiting));
        let written = move || batch.iter().try_for_each(|part| (&*file).write_all(part));
        self.writing = Some((std::mem::take(&mut self.waiting_bytes), tokio::task::spawn_blocking(written)));
        Ok(())
    }

    /// Waits until what is being written is.
    async fn settle(&mut self) -> Result<()> {
        if let Some((bytes, written)) = self.writing.take() {
            let written = written.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            written.map_err(|e| Error::io(&e))?;
            self.stored += bytes;
        }
        Ok(())
    }

    /// Keeps what came before the sender fell silent.
    ///
    /// # Errors
    /// The disk's.
    pub async fn break_off(mut self) -> Result<()> {
        self.flush().await?;
        self.settle().await
    }

    /// Ends the piece and, when it was the last one, the upload.
    ///
    /// # Errors
    /// The disk's, and when the folder or its owner would hold more than they may.
    pub async fn finish(mut self) -> Result<Receipt, UploadError> {
        self.flush().await?;
        self.settle().await?;
        let receipt = Receipt { offset: self.stored, length: self.claims.size };
        if self.stored < self.claims.size {
            return Ok(receipt);
        }
        let place = place_of(&self.claims)?;
        let Self { storage, claims, target, file, .. } = self;
        storage
            .blocking(move |inner| {
                let dir = inner.folder(&place).map_err(|_| Error::no_session())?;
                check_limits(inner, &place, &claims)?;
                put(&dir, &format!("{UPLOADS}/{}", claims.session), &target)?;
                inner.counts.add(&place, claims.size);
                drop(file);
                let _ = dir.remove_dir(UPLOADS);
                Ok(())
            })
            .await?;
        Ok(receipt)
    }
}

/// Whether a folder and its owner may hold one more file.
fn check_limits(inner: &Inner, place: &Place, claims: &UploadClaims) -> Result<()> {
    let limits = Limits { folder: claims.folder_limit, scope: claims.scope_limit };
    match inner.room(place, claims.size, limits)? {
        Room::Enough => Ok(()),
        Room::FolderFull => Err(Error::too_large("The folder's quota is exceeded")),
        Room::OwnerFull => Err(Error::too_large("The quota of the folder's owner is exceeded")),
    }
}
