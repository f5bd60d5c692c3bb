//! Folders in directories of this host, laid out as the reference's storage proxy does (`spec/storage-proxy.md` §5).
//!
//! Everything below a volume is reached through directory handles of `cap-std`: whatever a path or a link says, the
//! operating system is never asked for something outside of the folder. Blocking calls run on threads for that.

mod download;
mod files;
mod quota;
mod tree;
mod upload;
mod zip;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, PermissionsExt as _};
use quarterdeck_model::vfolder::{self, FolderPath};
use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::token::{DownloadClaims, TokenError, UploadClaims, sign, verify};
use crate::{Entry, FsUsage, Limits, Place, Room, Storage, Usage, Volume};

pub use download::{Archive, OpenFile, Opened};
pub use upload::{Receipt, Upload, UploadError};

/// Where uploads are kept until they are whole; clients neither see nor reach it.
const UPLOADS: &str = ".upload";
/// Where copies are made before they appear, and where folders go before they are removed.
const WORK: &str = ".quarterdeck";
/// Directories are open for everybody to read, as the reference makes them: who gets there is decided above.
const DIR_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
/// Files that are read as a whole are at most so large.
const FETCH_LIMIT: u64 = 16 << 20;

/// How the embedded storage is set up.
#[derive(Clone, Debug)]
pub struct EmbeddedSettings {
    /// Volume → directory, which is made when missing.
    pub volumes: BTreeMap<String, PathBuf>,
    /// Signs tokens.
    pub secret: String,
    /// How long tokens hold.
    pub token_lifetime: Duration,
    /// Bytes of one upload at most.
    pub max_upload_size: u64,
    /// Entries of a listing at most; 0 = any number.
    pub scandir_limit: usize,
    /// The base address that clients are told, when it isn't the API's own.
    pub client_api: Option<String>,
}

/// Folders in directories of this host. Cheap to clone.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    settings: EmbeddedSettings,
    volumes: BTreeMap<String, VolumeDir>,
    counts: quota::Counts,
}

struct VolumeDir {
    path: PathBuf,
    dir: Dir,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").field("volumes", &self.inner.settings.volumes).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the volumes.
    ///
    /// # Errors
    /// When a directory can't be made or opened.
    pub fn open(settings: EmbeddedSettings) -> std::io::Result<Self> {
        let mut volumes = BTreeMap::new();
        for (name, path) in &settings.volumes {
            let told = |error: std::io::Error| {
                std::io::Error::new(error.kind(), format!("volume {name} ({}): {error}", path.display()))
            };
            std::fs::create_dir_all(path).map_err(told)?;
            let path = path.canonicalize().map_err(told)?;
            let dir = Dir::open_ambient_dir(&path, ambient_authority()).map_err(told)?;
            if !dir.exists("version.txt") {
                dir.write("version.txt", "3").map_err(told)?;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(DIR_MODE)).map_err(told)?;
            }
            volumes.insert(name.clone(), VolumeDir { path, dir });
        }
        Ok(Self { inner: Arc::new(Inner { settings, volumes, counts: quota::Counts::default() }) })
    }

    /// How it is set up.
    pub fn settings(&self) -> &EmbeddedSettings {
        &self.inner.settings
    }

    /// Reads a token for an upload.
    ///
    /// # Errors
    /// What is wrong with it, as clients are told.
    pub fn read_upload_token(&self, token: &str) -> Result<UploadClaims, TokenError> {
        verify(&self.inner.settings.secret, token, "upload", now())
    }

    /// Reads a token for a download.
    ///
    /// # Errors
    /// What is wrong with it, as clients are told.
    pub fn read_download_token(&self, token: &str) -> Result<DownloadClaims, TokenError> {
        verify(&self.inner.settings.secret, token, "download", now())
    }

    fn expiry(&self) -> i64 {
        now().saturating_add(i64::try_from(self.inner.settings.token_lifetime.as_secs()).unwrap_or(i64::MAX))
    }

    /// Runs blocking work on a thread for that.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .unwrap_or_else(|error| Err(Error::Failed(format!("the storage's work broke off: {error}"))))
    }

    /// As [`Embedded::blocking`], within a folder.
    async fn within<T: Send + 'static>(
        &self,
        place: &Place,
        work: impl FnOnce(&Dir) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = place.clone();
        self.blocking(move |inner| work(&inner.folder(&place)?)).await
    }
}

fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

/// The directories in which a folder lies: its scope's, those of the first two bytes of its id, and its own.
fn steps(folder: &FolderPath) -> [String; 4] {
    let hex = folder.id.0.simple().to_string();
    [folder.scope.clone(), hex[..2].to_owned(), hex[2..4].to_owned(), hex[4..].to_owned()]
}

/// How many levels below its scope's directory a folder lies.
const BELOW_SCOPE: usize = 3;

/// Where a folder lies below its volume.
fn relative(folder: &FolderPath) -> PathBuf {
    steps(folder).iter().collect()
}

impl Inner {
    fn volume(&self, name: &str) -> Result<&VolumeDir> {
        self.volumes.get(name).ok_or_else(|| Error::no_volume(name))
    }

    /// The root of a folder.
    fn folder(&self, place: &Place) -> Result<Dir> {
        let volume = self.volume(&place.volume)?;
        volume.dir.open_dir(relative(&place.folder)).map_err(|_| Error::no_folder())
    }

    /// The directory that is to hold a folder's root, made when missing.
    fn parent(&self, place: &Place) -> Result<Dir> {
        let mut dir = self.volume(&place.volume)?.dir.try_clone().map_err(|e| Error::io(&e))?;
        for step in &steps(&place.folder)[..3] {
            make_dir(&dir, step).map_err(|e| Error::io(&e))?;
            dir = dir.open_dir(step).map_err(|e| Error::io(&e))?;
        }
        Ok(dir)
    }

    /// The volume's directory for what is under way.
    fn work(&self, volume: &str) -> Result<Dir> {
        let volume = self.volume(volume)?;
        make_dir(&volume.dir, WORK).and_then(|()| volume.dir.open_dir(WORK)).map_err(|e| Error::io(&e))
    }

    /// Takes the two directories above a folder away when nothing else is in them.
    fn prune(&self, place: &Place) {
        let Ok(volume) = self.volume(&place.volume) else { return };
        let [scope, first, second, _] = steps(&place.folder);
        for path in [format!("{scope}/{first}/{second}"), format!("{scope}/{first}")] {
            if volume.dir.remove_dir(path).is_err() {
                return;
            }
        }
    }
}

/// Makes a directory unless it is there.
fn make_dir(parent: &Dir, name: impl AsRef<Path>) -> std::io::Result<()> {
    match parent.create_dir(&name) {
        Ok(()) => open_to_all(parent, name.as_ref()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives a directory the mode that it would have with the usual mask: this process makes files for itself alone.
fn open_to_all(parent: &Dir, name: &Path) -> std::io::Result<()> {
    parent.set_permissions(name, cap_std::fs::Permissions::from_mode(DIR_MODE))
}

/// A path within a folder, normalised; `.` is the root.
///
/// # Errors
/// For paths that are absolute, lead out of the folder, or into what the storage keeps for itself.
fn confined(path: &str, parameter: &str) -> Result<String> {
    if path.starts_with('/') {
        return Err(Error::parameter(parameter, "expected relative path but the value is absolute"));
    }
    if path.contains('\0') || path.len() > 4_000 {
        return Err(Error::parameter(parameter, "the path can't be used"));
    }
    let normal =
        vfolder::normalized(path).ok_or_else(|| Error::parameter(parameter, "the path leads out of the folder"))?;
    if vfolder::is_within(&normal, UPLOADS) {
        return Err(Error::parameter(parameter, "the path is reserved for internal operations"));
    }
    Ok(normal)
}

/// As [`confined`], for what must not be the root itself.
fn below_root(path: &str, parameter: &str) -> Result<String> {
    match confined(path, parameter)? {
        root if root == "." => Err(Error::parameter(parameter, "the folder itself can't be used here")),
        path => Ok(path),
    }
}

#[async_trait]
impl Storage for Embedded {
    async fn volumes(&self) -> Result<Vec<Volume>> {
        let volume = |(name, volume): (&String, &VolumeDir)| Volume {
            name: name.clone(),
            backend: "vfs".to_owned(),
            path: volume.path.display().to_string(),
            fsprefix: ".".to_owned(),
            capabilities: vec!["vfolder".to_owned()],
        };
        Ok(self.inner.volumes.iter().map(volume).collect())
    }

    async fn hardware(&self, volume: &str) -> Result<Json> {
        self.inner.volume(volume)?;
        Ok(json!({"status": "healthy", "status_info": null, "metadata": {}}))
    }

    async fn performance(&self, volume: &str) -> Result<Json> {
        self.inner.volume(volume)?;
        Err(Error::unsupported())
    }

    async fn fs_usage(&self, volume: &str) -> Result<FsUsage> {
        let name = volume.to_owned();
        self.blocking(move |inner| fs_usage(&inner.volume(&name)?.path)).await
    }

    async fn create(&self, place: &Place) -> Result<()> {
        let place = place.clone();
        self.blocking(move |inner| {
            let name = &steps(&place.folder)[3];
            let parent = inner.parent(&place)?;
            parent.create_dir(name).map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => Error::folder_exists(),
                _ => Error::io(&error),
            })?;
            open_to_all(&parent, Path::new(name)).map_err(|e| Error::io(&e))
        })
        .await
    }

    async fn delete(&self, place: &Place) -> Result<()> {
        let place = place.clone();
        self.blocking(move |inner| {
            let volume = inner.volume(&place.volume)?;
            let work = inner.work(&place.volume)?;
            // It is gone at once; what breaks off afterwards is tidied up later.
            let name = format!("deleted-{}", uuid::Uuid::new_v4().simple());
            match volume.dir.rename(relative(&place.folder), &work, &name) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(Error::io(&error)),
            }
            inner.prune(&place);
            tree::remove(&work, Path::new(&name)).map_err(|e| Error::io(&e))
        })
        .await
    }

    async fn duplicate(&self, from: &Place, to: &Place) -> Result<()> {
        if from.volume != to.volume {
            return Err(Error::parameter("dst_volume", "the volumes of both folders must be the same"));
        }
        let (from, to) = (from.clone(), to.clone());
        self.blocking(move |inner| {
            let source = inner.folder(&from)?;
            let usage = tree::usage(&source, None);
            let fs = fs_usage(&inner.volume(&from.volume)?.path)?;
            let free = fs.capacity_bytes.saturating_sub(fs.used_bytes);
            if u64::try_from(usage.used_bytes).is_ok_and(|bytes| bytes > free) {
                return Err(Error::os(&std::io::Error::from_raw_os_error(nix::libc::ENOSPC), &["."]));
            }
            let work = inner.work(&to.volume)?;
            let name = format!("copy-{}", uuid::Uuid::new_v4().simple());
            let copied = make_dir(&work, &name)
                .and_then(|()| work.open_dir(&name))
                .and_then(|target| tree::copy(&source, &target))
                .map_err(|e| Error::io(&e))
                .and_then(|()| {
                    let last = &steps(&to.folder)[3];
                    let parent = inner.parent(&to)?;
                    if parent.exists(last) {
                        return Err(Error::folder_exists());
                    }
                    work.rename(&name, &parent, last).map_err(|e| Error::io(&e))
                });
            if copied.is_err() {
                let _ = tree::remove(&work, Path::new(&name));
            }
            copied
        })
        .await
    }

    async fn mount_path(&self, place: &Place, subpath: &str) -> Result<String> {
        let (place, subpath) = (place.clone(), subpath.to_owned());
        self.blocking(move |inner| {
            let told = |msg: &str, subpath: Option<&str>| {
                let mut data = serde_json::Map::new();
                data.insert("vfid".to_owned(), place.folder.to_string().into());
                if let Some(subpath) = subpath {
                    data.insert("subpath".to_owned(), subpath.into());
                }
                Error::Refused(crate::Problem { status: 400, msg: Some(msg.to_owned()), data })
            };
            let dir = inner.folder(&place).map_err(|_| told("VFolder not found", None))?;
            let invalid = || told("Invalid vfolder subpath", Some(&subpath));
            let normal = confined(&subpath, "subpath").map_err(|_| invalid())?;
            // A link on the way must not lead out; what isn't there yet may come.
            match dir.canonicalize(&normal) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(_) => return Err(invalid()),
            }
            let path = inner.volume(&place.volume)?.path.join(relative(&place.folder));
            Ok(path.display().to_string())
        })
        .await
    }

    async fn usage(&self, place: &Place) -> Result<Usage> {
        self.within(place, |dir| Ok(tree::usage(dir, Some(tree::PATIENCE)))).await
    }

    async fn used_bytes(&self, place: &Place) -> Result<i64> {
        self.within(place, |dir| Ok(tree::usage(dir, Some(tree::PATIENCE)).used_bytes)).await
    }

    async fn quota(&self, place: &Place, limit: i64) -> Result<Json> {
        self.within(place, move |_| Ok(json!({ "size_bytes": limit }))).await
    }

    async fn set_quota(&self, place: &Place, _: i64) -> Result<()> {
        // It is kept with the folder's row and comes back with each token.
        self.within(place, |_| Ok(())).await
    }

    async fn mkdir(&self, place: &Place, path: &str, parents: bool, exist_ok: bool) -> Result<()> {
        let path = confined(path, "relpath")?;
        self.within(place, move |dir| files::mkdir(dir, &path, parents, exist_ok)).await
    }

    async fn list(&self, place: &Place, path: &str) -> Result<Vec<Entry>> {
        let path = confined(path, "relpath")?;
        let limit = self.inner.settings.scandir_limit;
        self.within(place, move |dir| files::list(dir, &path, limit)).await
    }

    async fn rename(&self, place: &Place, path: &str, new_name: &str) -> Result<()> {
        let path = below_root(path, "relpath")?;
        if new_name.contains('/') || matches!(new_name, "" | "." | "..") {
            return Err(Error::parameter("new_name", "it must be a single name"));
        }
        let target = match path.rsplit_once('/') {
            Some((parent, _)) => format!("{parent}/{new_name}"),
            None => new_name.to_owned(),
        };
        let target = below_root(&target, "new_name")?;
        self.within(place, move |dir| files::rename(dir, &path, &target)).await
    }

    async fn move_file(&self, place: &Place, from: &str, to: &str) -> Result<()> {
        let (from, to) = (below_root(from, "src_relpath")?, confined(to, "dst_relpath")?);
        self.within(place, move |dir| files::move_to(dir, &from, &to)).await
    }

    async fn remove(&self, place: &Place, paths: &[String], recursive: bool) -> Result<()> {
        let paths = paths.iter().map(|p| below_root(p, "relpaths")).collect::<Result<Vec<_>>>()?;
        self.within(place, move |dir| paths.iter().try_for_each(|path| files::remove(dir, path, recursive))).await
    }

    async fn fetch(&self, place: &Place, path: &str) -> Result<Vec<u8>> {
        let path = below_root(path, "relpath")?;
        self.within(place, move |dir| files::fetch(dir, &path, FETCH_LIMIT)).await
    }

    async fn upload_token(&self, place: &Place, path: &str, size: u64, limits: Limits) -> Result<String> {
        let path = below_root(path, "relpath")?;
        if size > self.inner.settings.max_upload_size {
            return Err(Error::parameter("size", "the upload is larger than this server takes"));
        }
        let claims = UploadClaims {
            op: "upload".to_owned(),
            volume: place.volume.clone(),
            vfid: place.folder.to_string(),
            relpath: path,
            size,
            session: uuid::Uuid::new_v4().simple().to_string(),
            folder_limit: limits.folder,
            scope_limit: limits.scope,
            exp: self.expiry(),
        };
        let token = sign(&self.inner.settings.secret, &claims);
        let place = place.clone();
        self.blocking(move |inner| upload::begin(inner, &place, &claims)).await?;
        Ok(token)
    }

    async fn download_token(&self, place: &Place, path: &str, _: bool) -> Result<String> {
        let path = confined(path, "relpath")?;
        self.within(place, |_| Ok(())).await?;
        let claims = DownloadClaims {
            op: "download".to_owned(),
            volume: place.volume.clone(),
            vfid: place.folder.to_string(),
            relpath: path,
            exp: self.expiry(),
        };
        Ok(sign(&self.inner.settings.secret, &claims))
    }

    async fn room(&self, place: &Place, size: u64, limits: Limits) -> Result<Room> {
        let place = place.clone();
        self.blocking(move |inner| inner.room(&place, size, limits)).await
    }

    async fn maintain(&self) -> Result<()> {
        let age = self.inner.settings.token_lifetime;
        self.blocking(move |inner| {
            for (name, volume) in &inner.volumes {
                if let Err(error) = tree::tidy(&volume.dir, age) {
                    tracing::warn!(%error, volume = name, "what was left behind on a volume can't be tidied up");
                }
            }
            Ok(())
        })
        .await
    }

    fn client_api(&self) -> Option<&str> {
        self.inner.settings.client_api.as_deref()
    }
}

/// How full the file system below a directory is.
fn fs_usage(path: &Path) -> Result<FsUsage> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(|errno| Error::io(&errno.into()))?;
    let unit = stat.fragment_size();
    Ok(FsUsage {
        capacity_bytes: unit.saturating_mul(stat.blocks()),
        used_bytes: unit.saturating_mul(stat.blocks().saturating_sub(stat.blocks_available())),
    })
}

#[cfg(test)]
mod tests;
