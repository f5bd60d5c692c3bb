//! The programs of a kernel that run in its container, noted where a later start of the agent finds them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::process::files;

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What the engine calls it.
    pub(super) exec: String,
    /// Its number in the container.
    pub(super) pid: i32,
    /// It has a standard input.
    pub(super) stdin: bool,
    /// When it began, in milliseconds since 1970.
    pub(super) since: i64,
    /// What it is for.
    pub(super) role: String,
}

/// The programs of one kernel.
pub(super) struct Programs {
    dir: PathBuf,
    known: Mutex<BTreeMap<u64, Record>>,
}

impl Programs {
    /// Those that are noted in that directory, which is made when it isn't there.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let id = path.file_stem().and_then(|name| name.to_str()?.parse().ok());
            let record = files::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
            if let (Some(id), Some(record)) = (id, record) {
                known.insert(id, record);
            }
        }
        Ok(Self { dir: dir.to_owned(), known: Mutex::new(known) })
    }

    /// The highest number that was given.
    pub(super) fn last(&self) -> u64 {
        self.known.lock().last_key_value().map_or(0, |(id, _)| *id)
    }

    pub(super) fn all(&self) -> Vec<(u64, Record)> {
        self.known.lock().iter().map(|(id, record)| (*id, record.clone())).collect()
    }

    pub(super) fn get(&self, id: u64) -> Option<Record> {
        self.known.lock().get(&id).cloned()
    }

    pub(super) fn role(&self, id: u64) -> Option<String> {
        self.known.lock().get(&id).map(|record| record.role.clone())
    }

    pub(super) fn add(&self, id: u64, record: Record) -> io::Result<()> {
        self.write(id, &record)?;
        self.known.lock().insert(id, record);
        Ok(())
    }

    /// Notes what a program is for. One that ended meanwhile stays forgotten.
    pub(super) fn set_role(&self, id: u64, role: &str) {
        let mut known = self.known.lock();
        let Some(record) = known.get_mut(&id) else { return };
        role.clone_into(&mut record.role);
        if let Err(error) = self.write(id, record) {
            tracing::warn!(%error, role, "a program won't be known again after a restart");
        }
    }

    pub(super) fn remove(&self, id: u64) {
        let mut known = self.known.lock();
        known.remove(&id);
        let _ = fs::remove_file(self.path(id));
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    fn write(&self, id: u64, record: &Record) -> io::Result<()> {
        files::write_secret(&self.path(id), &serde_json::to_vec(record)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn programs_are_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let record = |exec: &str| Record { exec: exec.into(), pid: 7, stdin: true, since: 1, role: String::new() };
        let programs = Programs::open(dir.path()).unwrap();
        for id in [1, 2, 10] {
            programs.add(id, record("e")).unwrap();
        }
        programs.set_role(10, "repl");
        programs.remove(2);
        programs.set_role(2, "late");
        fs::write(dir.path().join("11.json"), "{half").unwrap();
        let again = Programs::open(dir.path()).unwrap();
        assert_eq!(again.last(), 10);
        assert_eq!(again.all(), [(1, record("e")), (10, Record { role: "repl".into(), ..record("e") })]);
        assert_eq!(again.role(10).as_deref(), Some("repl"));
    }
}
