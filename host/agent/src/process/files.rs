//! Files where a kernel's programs may have put something else: a pipe nobody writes to, a link, a directory.
//! They run as the agent's own user, so nothing keeps them from that; the agent must not wait for ever because of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;

/// The agent's own notes are small.
const MOST: u64 = 1024 * 1024;

/// Opens a regular file for reading; whatever else is there is an error at once.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// Reads a small regular file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    open(path)?.take(MOST).read_to_end(&mut data)?;
    Ok(data)
}

/// Makes a file in place of whatever is there.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => fs::remove_dir_all(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Follows no link and opens nothing that exists: what comes in between is an error.
    OpenOptions::new().create_new(true).write(true).open(path)
}

/// Writes a file that only this user reads, whole or not at all.
pub(crate) fn write_secret(path: &Path, data: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = create(&new)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(data)?;
    fs::rename(new, path)
}

/// Writes a file in place of whatever is there.
pub(crate) fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    create(path)?.write_all(data)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_anything_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
        fs::create_dir_all(path("dir").join("x")).unwrap();
        fs::write(path("other"), b"untouched").unwrap();
        std::os::unix::fs::symlink(path("other"), path("link")).unwrap();
        for name in ["pipe", "dir", "link", "absent"] {
            assert!(read(&path(name)).is_err(), "{name}");
            write(&path(name), name.as_bytes()).unwrap();
            assert_eq!(read(&path(name)).unwrap(), name.as_bytes());
        }
        assert_eq!(read(&path("other")).unwrap(), b"untouched");
    }
}
