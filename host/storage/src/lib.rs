//! Where folders' files are: volumes in local directories, or behind a storage proxy of the reference's.
//!
//! One trait, [`Storage`], with two implementations: [`Embedded`], which keeps folders in directories of this host and
//! confines every path to its folder, and [`Proxy`], which asks a storage proxy over its manager's API
//! (`spec/storage-proxy.md`). Who may do what is decided elsewhere; nothing here knows users.

mod embedded;
mod error;
mod proxy;
mod token;

use async_trait::async_trait;
use quarterdeck_model::vfolder::FolderPath;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

pub use embedded::{Archive, Embedded, EmbeddedSettings, OpenFile, Opened, Receipt, Upload, UploadError};
pub use error::{Error, Problem, Result};
pub use proxy::{Proxy, ProxySettings};
pub use token::{DownloadClaims, TokenError, UploadClaims};

/// A volume that a storage offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// What kind of file system serves it.
    pub backend: String,
    /// Where it is on the storage's hosts.
    pub path: String,
    /// A part of the path that some kinds need.
    #[serde(default)]
    pub fsprefix: String,
    /// What it can do.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

/// A folder on a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The volume's name.
    pub volume: String,
    /// The folder.
    pub folder: FolderPath,
}

/// How full a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsUsage {
    /// All bytes.
    pub capacity_bytes: u64,
    /// Those that are taken.
    pub used_bytes: u64,
}

/// What a folder holds; −1 when counting took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Files, directories and links.
    pub file_count: i64,
    /// Bytes.
    pub used_bytes: i64,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// `FILE`, `DIRECTORY` or `SYMLINK`.
    #[serde(rename = "type")]
    pub kind: String,
    /// More about it.
    pub stat: Stat,
}

/// What the file system says about an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// `st_mode` with the type's bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// When its inode changed, ISO 8601.
    pub created: String,
    /// When its content changed, ISO 8601.
    pub modified: String,
}

/// Bytes that a folder, and all folders of its owner together, may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The folder.
    pub folder: Option<u64>,
    /// The owner's quota scope.
    pub scope: Option<u64>,
}

/// Whether there is room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is, as far as the storage can tell.
    Enough,
    /// The folder would hold more than it may.
    FolderFull,
    /// Its owner's folders together would.
    OwnerFull,
}

/// What folders need of a storage. Paths of files are relative to the folder's root and `/`-separated.
#[async_trait]
pub trait Storage: Send + Sync + std::fmt::Debug {
    /// The volumes that there are.
    async fn volumes(&self) -> Result<Vec<Volume>>;

    /// How the hardware below a volume is.
    async fn hardware(&self, volume: &str) -> Result<Json>;

    /// How fast it is, `{"metric": {…}}`.
    async fn performance(&self, volume: &str) -> Result<Json>;

    /// How full it is.
    async fn fs_usage(&self, volume: &str) -> Result<FsUsage>;

    /// Makes a folder and, when missing, the quota scope that it is in.
    async fn create(&self, place: &Place) -> Result<()>;

    /// Removes a folder with everything in it; one that isn't there is fine.
    async fn delete(&self, place: &Place) -> Result<()>;

    /// Copies a folder to a place where there is none.
    async fn duplicate(&self, from: &Place, to: &Place) -> Result<()>;

    /// The absolute path of a folder's root on the hosts that mount it; `subpath` is only checked.
    async fn mount_path(&self, place: &Place, subpath: &str) -> Result<String>;

    /// What a folder holds.
    async fn usage(&self, place: &Place) -> Result<Usage>;

    /// How many bytes a folder holds.
    async fn used_bytes(&self, place: &Place) -> Result<i64>;

    /// The folder's quota, as the storage tells it; `limit` is what the caller's books say.
    async fn quota(&self, place: &Place, limit: i64) -> Result<Json>;

    /// Sets the folder's quota in bytes.
    async fn set_quota(&self, place: &Place, bytes: i64) -> Result<()>;

    /// Makes a directory.
    async fn mkdir(&self, place: &Place, path: &str, parents: bool, exist_ok: bool) -> Result<()>;

    /// What a directory holds.
    async fn list(&self, place: &Place, path: &str) -> Result<Vec<Entry>>;

    /// Gives a file or directory another name where it is.
    async fn rename(&self, place: &Place, path: &str, new_name: &str) -> Result<()>;

    /// Moves a file or directory: onto a file, into a directory, or to a new name.
    async fn move_file(&self, place: &Place, from: &str, to: &str) -> Result<()>;

    /// Removes files and, if `recursive`, directories.
    async fn remove(&self, place: &Place, paths: &[String], recursive: bool) -> Result<()>;

    /// The content of a small file.
    async fn fetch(&self, place: &Place, path: &str) -> Result<Vec<u8>>;

    /// A token that lets its bearer upload one file of `size` bytes.
    async fn upload_token(&self, place: &Place, path: &str, size: u64, limits: Limits) -> Result<String>;

    /// A token that lets its bearer download a file or directory.
    async fn download_token(&self, place: &Place, path: &str, archive: bool) -> Result<String>;

    /// Whether a folder and its owner may hold `size` bytes more. A storage that can't tell what an owner's folders hold
    /// together judges by the folder alone.
    async fn room(&self, place: &Place, size: u64, limits: Limits) -> Result<Room>;

    /// Tidies up what was left behind.
    async fn maintain(&self) -> Result<()>;

    /// The base address at which clients reach it; none for the server's own.
    fn client_api(&self) -> Option<&str>;
}
