//! Virtual folders: their names, what may be done with them, and where they appear in sessions.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::ids::VfolderId;
use crate::session::{HOME, is_reserved_path};
use crate::status::vocabulary;

vocabulary! {
    /// Where a folder stands (`spec/vfolder.md` §4).
    FolderStatus {
        /// In use.
        Ready = "ready",
        /// Not used.
        Performing = "performing",
        /// It is being copied.
        Cloning = "cloning",
        /// It is being removed.
        Deleting = "deleting",
        /// Not used.
        Mounted = "mounted",
    }
    /// What a folder is for; sessions learn it.
    UsageMode {
        /// Anything.
        General = "general",
        /// A model and its definition.
        Model = "model",
        /// Data.
        Data = "data",
    }
    /// What somebody may do with a folder's content; each member includes those before it.
    FolderPermission {
        /// Read.
        ReadOnly = "ro",
        /// Read and write.
        ReadWrite = "rw",
        /// Read, write, and delete the folder itself.
        RwDelete = "wd",
    }
    /// Whose a folder is.
    OwnershipType {
        /// A user's.
        User = "user",
        /// A project's.
        Group = "group",
    }
    /// What became of an invitation.
    InvitationState {
        /// Nothing yet.
        Pending = "pending",
        /// The invitee has the folder.
        Accepted = "accepted",
        /// The invitee doesn't want it.
        Rejected = "rejected",
        /// The inviter changed their mind.
        Canceled = "canceled",
    }
    /// What may be granted on a folder host (`spec/vfolder.md` §2.3).
    HostPermission {
        /// Make folders.
        Create = "create-vfolder",
        /// Rename folders, change their options and quotas.
        Modify = "modify-vfolder",
        /// Delete folders.
        Delete = "delete-vfolder",
        /// Have them in sessions.
        MountInSession = "mount-in-session",
        /// Put files there.
        UploadFile = "upload-file",
        /// Get files from there.
        DownloadFile = "download-file",
        /// Offer folders to others.
        InviteOthers = "invite-others",
        /// Give members of a project permissions of their own.
        SetUserPerm = "set-user-specific-permission",
    }
}

impl HostPermission {
    /// The constant's name, as messages show it.
    pub const fn constant(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Modify => "MODIFY",
            Self::Delete => "DELETE",
            Self::MountInSession => "MOUNT_IN_SESSION",
            Self::UploadFile => "UPLOAD_FILE",
            Self::DownloadFile => "DOWNLOAD_FILE",
            Self::InviteOthers => "INVITE_OTHERS",
            Self::SetUserPerm => "SET_USER_PERM",
        }
    }
}

/// What a status lets be done (`spec/vfolder.md` §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderAccess {
    /// Look at it.
    Readable,
    /// Change it.
    Updatable,
    /// Remove it.
    Deletable,
}

impl FolderAccess {
    /// Whether a folder in that status may be treated so.
    pub fn admits(self, status: FolderStatus) -> bool {
        match self {
            Self::Readable => true,
            Self::Updatable => matches!(status, FolderStatus::Ready | FolderStatus::Mounted),
            Self::Deletable => status == FolderStatus::Ready,
        }
    }
}

/// Longest name of a folder, in characters.
pub const MAX_NAME: usize = 64;

/// Whether a folder may be called so, as far as form goes: letters, digits, `.`, `_` and `-` within, letters and digits
/// at the ends, with one dot before it all if need be.
pub fn is_name(name: &str) -> bool {
    name.chars().count() <= MAX_NAME && crate::names::is_slug(name.strip_prefix('.').unwrap_or(name))
}

/// Whether the system keeps a name for itself.
pub fn is_reserved_name(name: &str) -> bool {
    is_reserved_path(name)
}

/// Whether a folder appears in every session of those who have it.
pub fn is_dot_folder(name: &str) -> bool {
    name.starts_with('.')
}

/// Proxy and volume of a folder host, which are joined by its first colon.
pub fn split_host(host: &str) -> (&str, &str) {
    host.split_once(':').unwrap_or((host, ""))
}

/// Where a folder lies on its volume: in which quota scope, and under which id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FolderPath {
    /// 32 hexadecimal digits of the owner's id.
    pub scope: String,
    /// The folder.
    pub id: VfolderId,
}

impl std::fmt::Display for FolderPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.scope, self.id.0.simple())
    }
}

impl std::str::FromStr for FolderPath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scope, id) = text.split_once('/').ok_or("a folder's path is <scope>/<id>")?;
        let id = uuid::Uuid::parse_str(id).map_err(|_| "the id is no UUID")?;
        if !is_scope(scope) {
            return Err("the quota scope is malformed");
        }
        Ok(Self { scope: scope.to_owned(), id: VfolderId(id) })
    }
}

/// Whether a text can name a quota scope: `^[A-Za-z0-9]+(?:[_-][A-Za-z0-9]+)*$`, 64 characters at most.
pub fn is_scope(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.split(['_', '-']).all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// A folder in a session, as it is stored with the session (`spec/session.md` §3.7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderMount {
    /// The folder's name.
    pub name: String,
    /// `<quota scope>/<id>`.
    pub vfid: String,
    /// The part of it that is mounted; `.` is all.
    pub vfsubpath: String,
    /// Where that part is on the agents.
    pub host_path: String,
    /// Where it appears in kernels.
    pub kernel_path: String,
    /// What kernels may do there.
    pub mount_perm: FolderPermission,
    /// What the folder is for.
    pub usage_mode: UsageMode,
}

/// One entry of a request's `mounts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRequest {
    /// The entry as the request says it.
    pub text: String,
    /// The folder's name.
    pub name: String,
    /// The wanted part of it, normalised; `.` is all.
    pub subpath: String,
    /// Where it is wanted, if the request says so.
    pub target: Option<String>,
}

/// A relative path without `.` and `..`; `None` when it leads above its beginning. Nothing is written `.`.
pub fn normalized(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
}

/// An absolute path without `.` and `..`, as seen from the root.
fn normalized_absolute(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Whether `inner` is `outer` or lies below it.
pub fn is_within(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || outer.ends_with('/'))
}

/// Reads the mounts that a request wants, before anybody looks for the folders (`spec/vfolder.md` §10, 2 and 3).
///
/// # Errors
/// A sentence for the user.
pub fn read_mounts(mounts: &[String], map: &IndexMap<String, String>) -> Result<Vec<MountRequest>, String> {
    let mut requests: Vec<MountRequest> = Vec::with_capacity(mounts.len());
    for text in mounts {
        if requests.iter().any(|r| r.text == *text) {
            continue;
        }
        let (name, rest) = text.split_once('/').unwrap_or((text, ""));
        let outside = || format!("The subpath '{rest}' should designate a subdirectory of the vfolder '{name}'.");
        if name.is_empty() || name == "." || name == ".." || rest.contains('\0') {
            return Err(outside());
        }
        let subpath = normalized(rest).ok_or_else(outside)?;
        let target = map.get(text).map(|place| {
            if place.starts_with('/') {
                normalized_absolute(place)
            } else {
                normalized_absolute(&format!("{HOME}/{place}"))
            }
        });
        requests.push(MountRequest { text: text.clone(), name: name.to_owned(), subpath, target });
    }
    let source = |r: &MountRequest| if r.subpath == "." { r.name.clone() } else { format!("{}/{}", r.name, r.subpath) };
    for (index, one) in requests.iter().enumerate() {
        for other in &requests[index + 1..] {
            let (a, b) = (source(one), source(other));
            if is_within(&a, &b) || is_within(&b, &a) {
                return Err(format!("VFolder source path '{}' overlaps with '{}'", one.text, other.text));
            }
        }
    }
    Ok(requests)
}

/// Where a folder appears in kernels when nobody says otherwise.
pub fn default_target(name: &str) -> String {
    if name == ".linuxbrew" { "/home/linuxbrew/.linuxbrew".to_owned() } else { format!("{HOME}/{name}") }
}

/// Looks for mounts that would hide each other, or the system's own places.
///
/// # Errors
/// A sentence for the user.
pub fn check_targets(mounts: &[FolderMount]) -> Result<(), String> {
    for (index, one) in mounts.iter().enumerate() {
        if one.kernel_path == "/" || one.kernel_path == HOME || is_reserved_path(&one.kernel_path) {
            return Err(format!("{} is reserved for internal path.", one.kernel_path));
        }
        for other in &mounts[index + 1..] {
            if is_within(&one.kernel_path, &other.kernel_path) || is_within(&other.kernel_path, &one.kernel_path) {
                return Err(format!("VFolder mount path {} overlaps with {}", one.kernel_path, other.kernel_path));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names() {
        for good in ["a", ".a", "data-1", "x.y_z", ".local", &"x".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..a", "-a", "a-", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
        for reserved in [".ssh", ".bashrc", ".zsh_profile", "/tmp", ".terminfo"] {
            assert!(is_reserved_name(reserved), "{reserved}");
        }
        assert!(!is_reserved_name(".local"));
    }

    #[test]
    fn places() {
        let text = "9b000000000040008000000000000004/0486c0c60a58440c84899feceae17a4d";
        let place: FolderPath = text.parse().unwrap();
        assert_eq!(place.to_string(), text);
        for bad in [
            "0486c0c60a58440c84899feceae17a4d",
            "../0486c0c60a58440c84899feceae17a4d",
            "a/b",
            "_a/0486c0c60a58440c84899feceae17a4d",
        ] {
            assert!(bad.parse::<FolderPath>().is_err(), "{bad}");
        }
        assert_eq!(split_host("local:volume1"), ("local", "volume1"));
        assert_eq!(split_host("p:a:b"), ("p", "a:b"));
    }

    fn read(mounts: &[&str], map: &[(&str, &str)]) -> Result<Vec<(String, String, Option<String>)>, String> {
        let mounts: Vec<String> = mounts.iter().map(|m| (*m).to_owned()).collect();
        let map = map.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Ok(read_mounts(&mounts, &map)?.into_iter().map(|r| (r.name, r.subpath, r.target)).collect())
    }

    #[test]
    fn wanted_mounts() {
        let own =
            |name: &str, sub: &str, target: Option<&str>| (name.to_owned(), sub.to_owned(), target.map(str::to_owned));
        assert_eq!(read(&["a", "b/x/../y"], &[]).unwrap(), [own("a", ".", None), own("b", "y", None)]);
        assert_eq!(
            read(&["a", "b/x"], &[("a", "data"), ("b/x", "/data/b"), ("b", "/never")]).unwrap(),
            [own("a", ".", Some("/home/work/data")), own("b", "x", Some("/data/b"))]
        );
        assert!(read(&["a/../b"], &[]).unwrap_err().contains("should designate a subdirectory"));
        assert!(read(&["a/b/../../.."], &[]).is_err());
        assert!(read(&["a", "a/b"], &[]).unwrap_err().contains("overlaps"));
        assert!(read(&["a/b/c", "a/b"], &[]).is_err());
        assert_eq!(read(&["a/b", "a/bc"], &[]).unwrap().len(), 2);
        assert_eq!(read(&["a", "a"], &[]).unwrap().len(), 1);
    }

    fn mount(name: &str, path: &str) -> FolderMount {
        FolderMount {
            name: name.to_owned(),
            vfid: String::new(),
            vfsubpath: ".".to_owned(),
            host_path: String::new(),
            kernel_path: path.to_owned(),
            mount_perm: FolderPermission::ReadOnly,
            usage_mode: UsageMode::General,
        }
    }

    #[test]
    fn targets() {
        assert!(check_targets(&[mount("a", "/home/work/a"), mount("b", "/home/work/ab")]).is_ok());
        let nested = check_targets(&[mount("a", "/home/work/a"), mount("b", "/home/work/a/b")]);
        assert_eq!(nested.unwrap_err(), "VFolder mount path /home/work/a overlaps with /home/work/a/b");
        assert!(check_targets(&[mount("a", "/home/work/a"), mount("a", "/home/work/a")]).is_err());
        for system in ["/", "/home/work", "/etc", "/tmp"] {
            assert!(check_targets(&[mount("a", system)]).is_err(), "{system}");
        }
    }

    proptest! {
        /// Whatever is asked for, a subpath stays below its folder.
        #[test]
        fn subpaths_never_escape(text in "[a-c./]{0,24}") {
            if let Ok(requests) = read_mounts(&[text], &IndexMap::new()) {
                for request in requests {
                    prop_assert!(!request.name.contains('/') && request.name != "..");
                    prop_assert!(request.subpath == "." || request.subpath.split('/').all(|p| !matches!(p, "" | "." | "..")));
                }
            }
        }

        #[test]
        fn normalising_twice_changes_nothing(text in "[a-c./]{0,24}") {
            if let Some(once) = normalized(&text) {
                prop_assert_eq!(normalized(&once), Some(once.clone()));
            }
        }
    }
}
