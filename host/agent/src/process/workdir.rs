//! The directories of an agent and its kernels:
//! `kernels/<id>/{work,tmp,…}` while a kernel lives, `ended/<id>-…` until the host knows of its end.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;
use quarterdeck_model::Timestamp;
use quarterdeck_rpc::pb;
use serde::{Deserialize, Serialize};

use super::files;
use super::procfs::{Scanner, end_all};
use crate::error::Error;
use crate::user_files::IN_CONTAINER;

const KERNEL: &str = "kernel.json";
const END: &str = "end.json";
/// Work directories of kernels that restart.
const KEPT: &str = "kept";
/// A kernel that hasn't come back for so long doesn't.
const KEPT_FOR_MS: i64 = 24 * 3_600_000;

/// The reason of an end that is followed by a new start.
pub(super) const RESTARTING: &str = "restarting";

/// The directory of one agent.
pub(super) struct Home {
    root: PathBuf,
    _lock: Flock<fs::File>,
}

#[derive(Serialize, Deserialize)]
struct Identity {
    kernel_id: String,
    session_id: String,
}

#[derive(Serialize, Deserialize)]
struct End {
    reason: String,
    exit_code: i32,
    last_stat: String,
}

/// A kernel of an earlier start of this agent, whose end the host may not know.
pub(super) struct Leftover {
    pub(super) kernel_id: String,
    pub(super) session_id: String,
    pub(super) end: pb::Terminated,
    pub(super) remains: PathBuf,
}

impl Home {
    /// Opens (and makes) the directory; refuses one that a living agent uses.
    pub(super) fn open(root: PathBuf) -> Result<Self, Error> {
        for dir in ["kernels", "ended", KEPT] {
            let path = root.join(dir);
            fs::create_dir_all(&path).map_err(Error::io(format!("making {}", path.display())))?;
        }
        private(&root).map_err(Error::io(format!("protecting {}", root.display())))?;
        // The work directory of each kernel is given to programs as it is.
        let root = fs::canonicalize(&root).map_err(Error::io(format!("resolving {}", root.display())))?;
        let path = root.join("lock");
        let file = fs::File::create(&path).map_err(Error::io(format!("making {}", path.display())))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| Error::Busy(root.clone()))?;
        Ok(Self { root, _lock: lock })
    }

    /// Ends what an earlier start of this agent left behind, and answers it. Kills processes: not for an async worker.
    pub(super) fn sweep(&self) -> Vec<Leftover> {
        self.sweep_but(&[])
    }

    /// As [`Home::sweep`], but for kernels that go on.
    pub(super) fn sweep_but(&self, living: &[String]) -> Vec<Leftover> {
        let scanner = self.scanner();
        for dir in entries(&self.root.join("kernels")) {
            let Some(identity) = read_json::<Identity>(&dir.join(KERNEL)) else {
                let _ = fs::remove_dir_all(&dir);
                continue;
            };
            if living.contains(&identity.kernel_id) {
                continue;
            }
            // The lifeline has ended nearly all of them already.
            end_all(&identity.kernel_id, Vec::new(), Duration::ZERO, &scanner);
            let end = pb::Terminated { reason: "agent-restart".into(), exit_code: 137, ..Default::default() };
            if let Err(error) = self.retire(&dir, &end) {
                tracing::warn!(kernel = identity.kernel_id, %error, "can't clear a kernel's directory");
            }
        }
        for kept in entries(&self.root.join(KEPT)) {
            let since = kept.metadata().map_or(0, |kept| kept.ctime());
            if Timestamp::now().millis() - since.saturating_mul(1000) > KEPT_FOR_MS {
                let _ = fs::remove_dir_all(kept);
            }
        }
        let mut leftovers = Vec::new();
        for remains in entries(&self.root.join("ended")) {
            let identity = read_json::<Identity>(&remains.join(KERNEL));
            let (Some(identity), Some(end)) = (identity, read_json::<End>(&remains.join(END))) else {
                let _ = fs::remove_dir_all(&remains);
                continue;
            };
            let End { reason, exit_code, last_stat } = end;
            let end = pb::Terminated { reason, exit_code, log: Vec::new(), last_stat };
            let Identity { kernel_id, session_id } = identity;
            leftovers.push(Leftover { kernel_id, session_id, end, remains });
        }
        leftovers
    }

    /// What finds the processes of this agent's kernels.
    pub(super) fn scanner(&self) -> Mutex<Scanner> {
        Mutex::new(Scanner::new(self.root.join("kernels")))
    }

    /// The agent's directory.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a kernel.
    pub(super) fn kernel(&self, kernel_id: &str) -> PathBuf {
        self.root.join("kernels").join(kernel_id)
    }

    /// Makes the directories of a kernel.
    pub(super) fn make(&self, kernel_id: &str, session_id: &str) -> io::Result<PathBuf> {
        let dir = self.kernel(kernel_id);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        for part in ["work", "tmp", "run"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let kept = self.root.join(KEPT).join(kernel_id);
        if kept.is_dir() {
            fs::remove_dir(dir.join("work"))?;
            fs::rename(kept, dir.join("work"))?;
        }
        private(&dir)?;
        let identity = Identity { kernel_id: kernel_id.to_owned(), session_id: session_id.to_owned() };
        files::write(&dir.join(KERNEL), &serde_json::to_vec(&identity)?)?;
        Ok(dir)
    }

    /// A kernel restarts: what its user has in its work directory waits for it.
    pub(super) fn keep(&self, dir: &Path) -> io::Result<()> {
        let kept = self.root.join(KEPT).join(dir.file_name().unwrap_or_default());
        if kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        fs::rename(dir.join("work"), kept)
    }

    /// A kernel doesn't come back.
    pub(super) fn discard(&self, kernel_id: &str) {
        let _ = fs::remove_dir_all(self.root.join(KEPT).join(kernel_id));
    }

    /// A kernel ended: its files go, its log stays until the host has it. Answers where.
    pub(super) fn retire(&self, dir: &Path, end: &pb::Terminated) -> io::Result<PathBuf> {
        for part in ["work", "tmp", "run"] {
            let _ = fs::remove_dir_all(dir.join(part));
        }
        let end = End { reason: end.reason.clone(), exit_code: end.exit_code, last_stat: end.last_stat.clone() };
        files::write(&dir.join(END), &serde_json::to_vec(&end)?)?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let remains = self.root.join("ended").join(format!("{name}-{}", uuid::Uuid::new_v4().simple()));
        fs::rename(dir, &remains)?;
        Ok(remains)
    }
}

/// Gives the parts of a kernel's directory that its programs see to their user. Follows no links.
pub(super) fn give(dir: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    let mut left: Vec<PathBuf> = ["work", "tmp", "run"].iter().map(|part| dir.join(part)).collect();
    while let Some(path) = left.pop() {
        std::os::unix::fs::lchown(&path, Some(uid), Some(gid))?;
        if path.symlink_metadata()?.is_dir() {
            left.extend(entries(&path));
        }
    }
    Ok(())
}

/// Writes a file below the work directory. The path may be relative, or as a container would see it; it never leaves.
pub(super) fn place(work: &Path, path: &str, data: &[u8], mode: u32) -> Result<(), String> {
    let inner = path.strip_prefix(IN_CONTAINER).map_or(path, |rest| rest.trim_start_matches('/'));
    let mut target = work.to_owned();
    for part in Path::new(inner).components() {
        match part {
            Component::Normal(name) => target.push(name),
            Component::CurDir => {}
            _ => return Err(format!("{path:?} leads out of the work directory")),
        }
        if target.is_symlink() {
            return Err(format!("{path:?} leads through a symbolic link"));
        }
    }
    let write = || -> io::Result<()> {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, data)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(mode & 0o777))
    };
    if target == work {
        return Err(format!("{path:?} names no file"));
    }
    write().map_err(|error| format!("{path:?}: {error}"))
}

fn private(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&files::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        fs::create_dir(&work).unwrap();
        place(&work, ".config/a", b"1", 0o600).unwrap();
        place(&work, "/home/work/b", b"2", 0o644).unwrap();
        assert_eq!(fs::read(work.join(".config/a")).unwrap(), b"1");
        assert_eq!(fs::read(work.join("b")).unwrap(), b"2");
        std::os::unix::fs::symlink("/tmp", work.join("out")).unwrap();
        for bad in ["../x", "/etc/x", "out/x", "a/../../x", "", "/home/work", "/home/work/../x"] {
            assert!(place(&work, bad, b"", 0o600).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_lies_in_the_work_directory_survives_a_kernels_restart() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path().to_owned()).unwrap();
        let end = pb::Terminated { reason: RESTARTING.into(), ..Default::default() };
        let first = home.make("k", "s").unwrap();
        fs::write(first.join("work/file"), "kept").unwrap();
        fs::write(first.join("tmp/file"), "gone").unwrap();
        home.keep(&first).unwrap();
        home.retire(&first, &end).unwrap();
        home.sweep();
        let second = home.make("k", "s").unwrap();
        assert_eq!(fs::read_to_string(second.join("work/file")).unwrap(), "kept");
        assert!(!second.join("tmp/file").exists());
        home.keep(&second).unwrap();
        home.retire(&second, &end).unwrap();
        home.discard("k");
        assert!(!home.make("k", "s").unwrap().join("work/file").exists());
    }

    #[test]
    fn ends_survive_a_restart_and_a_home_has_one_agent() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path().to_owned()).unwrap();
        assert!(matches!(Home::open(dir.path().to_owned()), Err(Error::Busy(_))));
        let ended = home.make("k1", "s").unwrap();
        let end = pb::Terminated { reason: "user-requested".into(), exit_code: 3, ..Default::default() };
        home.retire(&ended, &end).unwrap();
        home.make("k2", "s").unwrap();
        drop(home);
        let home = Home::open(dir.path().to_owned()).unwrap();
        let mut left: Vec<_> = home.sweep().into_iter().map(|left| (left.kernel_id, left.end.reason)).collect();
        left.sort();
        assert_eq!(left, [("k1".into(), "user-requested".into()), ("k2".to_owned(), "agent-restart".to_owned())]);
    }
}
