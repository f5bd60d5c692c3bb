//! Compiled code on disk.
//!
//! Loading compiled code means running it with the host's rights, so only files that this host wrote are loaded: the
//! directory belongs to this user alone, and beside each file lies an authentication code made with a key that never
//! leaves the directory. Whatever doesn't match is deleted and compiled again.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use rand::TryRng;
use sha2::{Digest, Sha256};

use crate::LoadError;

const KEY_FILE: &str = "key";
const KEY_BYTES: usize = 32;

/// A directory of compiled code.
pub(crate) struct Cache {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
    /// Present when nobody asked for a lasting cache: the directory goes with the process.
    _temporary: Option<tempfile::TempDir>,
}

/// SHA-256 in lower-case hexadecimal digits, the name of a plugin everywhere.
pub fn digest(wasm: &[u8]) -> String {
    hex(&Sha256::digest(wasm))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Cache {
    pub(crate) fn open(dir: Option<&Path>) -> Result<Cache, LoadError> {
        let open = || -> io::Result<Cache> {
            let (dir, temporary) = match dir {
                Some(dir) => {
                    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
                    (dir.canonicalize()?, None)
                }
                None => {
                    let temporary = tempfile::Builder::new().prefix("quarterdeck-plugins-").tempdir()?;
                    (temporary.path().to_owned(), Some(temporary))
                }
            };
            make_private(&dir)?;
            let key = key(&dir)?;
            Ok(Cache { dir, key, _temporary: temporary })
        };
        open().map_err(|error| LoadError::Host(format!("the cache of compiled plugins can't be used: {error}")))
    }

    /// Path of the compiled code `name`, if it is there and genuine.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        let (code, seal) = (self.dir.join(format!("{name}.cwasm")), self.dir.join(format!("{name}.mac")));
        let expected = fs::read(&seal).ok()?;
        let mut file = File::open(&code).ok()?;
        match self.mac(name, &mut file).map(|mac| mac.verify_slice(&expected)) {
            Ok(Ok(())) => Some(code),
            _ => {
                tracing::warn!(file = %code.display(), "compiled plugin is not as this host wrote it; compiling again");
                self.remove(name);
                None
            }
        }
    }

    /// Forgets compiled code that turned out to be unusable.
    pub(crate) fn remove(&self, name: &str) {
        for extension in ["cwasm", "mac"] {
            let _ = fs::remove_file(self.dir.join(format!("{name}.{extension}")));
        }
    }

    /// Fills a new file by `write` and keeps it as `name`. The file appears under its name complete or not at all.
    pub(crate) fn keep(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> Result<(), LoadError>,
    ) -> Result<PathBuf, LoadError> {
        let host = |error: io::Error| LoadError::Host(format!("compiled code can't be kept: {error}"));
        let mut draft =
            tempfile::Builder::new().prefix(".draft-").suffix(".cwasm").tempfile_in(&self.dir).map_err(host)?;
        write(draft.as_file_mut())?;
        draft.as_file().sync_all().map_err(host)?;
        let mut written = File::open(draft.path()).map_err(host)?;
        let mac = self.mac(name, &mut written).map_err(host)?.finalize().into_bytes();
        let mut seal =
            tempfile::Builder::new().prefix(".draft-").suffix(".mac").tempfile_in(&self.dir).map_err(host)?;
        seal.write_all(&mac).map_err(host)?;
        let path = self.dir.join(format!("{name}.cwasm"));
        draft.persist(&path).map_err(|error| host(error.error))?;
        seal.persist(self.dir.join(format!("{name}.mac"))).map_err(|error| host(error.error))?;
        Ok(path)
    }

    /// Keeps a component itself, for a second compilation with other metering.
    pub(crate) fn keep_source(&self, digest: &str, wasm: &[u8]) -> Result<(), LoadError> {
        let path = self.source_path(digest);
        if fs::metadata(&path).is_ok_and(|found| found.len() == wasm.len() as u64) {
            return Ok(());
        }
        let keep = || -> io::Result<()> {
            let mut draft = tempfile::Builder::new().prefix(".draft-").suffix(".wasm").tempfile_in(&self.dir)?;
            draft.write_all(wasm)?;
            draft.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        keep().map_err(|error| LoadError::Host(format!("the component can't be kept: {error}")))
    }

    /// A component that was kept, if it still has its digest.
    pub(crate) fn source(&self, digest: &str) -> Result<Vec<u8>, LoadError> {
        let wasm = fs::read(self.source_path(digest))
            .map_err(|error| LoadError::Host(format!("the component is not in the cache any more: {error}")))?;
        if self::digest(&wasm) != digest {
            return Err(LoadError::Host("the component in the cache was changed".to_owned()));
        }
        Ok(wasm)
    }

    fn source_path(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.wasm"))
    }

    /// Over the name as well, so that genuine files can't be swapped.
    fn mac(&self, name: &str, file: &mut File) -> io::Result<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("a key may have any length");
        mac.update(name.as_bytes());
        mac.update(&[0]);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(mac),
                count => mac.update(&buffer[..count]),
            }
        }
    }
}

/// Refuses directories of other users and closes our own to them.
fn make_private(dir: &Path) -> io::Result<()> {
    let found = fs::metadata(dir)?;
    let me = nix::unistd::geteuid().as_raw();
    if found.uid() != me {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} belongs to user {}, not to user {me} that this process runs as", dir.display(), found.uid()),
        ));
    }
    if found.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The key of the directory, made at its first use.
fn key(dir: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let path = dir.join(KEY_FILE);
    for _ in 0..2 {
        match fs::read(&path) {
            Ok(bytes) => {
                if let Ok(key) = bytes.try_into() {
                    return Ok(key);
                }
                fs::remove_file(&path)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut key = [0; KEY_BYTES];
        rand::rngs::SysRng.try_fill_bytes(&mut key).map_err(io::Error::other)?;
        // Several processes may start at once: the first to link its key in wins, the others read that one.
        let draft = dir.join(format!(".key-{}", hex(&key[..8])));
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?.write_all(&key)?;
        let linked = fs::hard_link(&draft, &path);
        fs::remove_file(&draft)?;
        match linked {
            Ok(()) => return Ok(key),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the key of the cache can't be read"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn keep(cache: &Cache, name: &str, content: &[u8]) -> PathBuf {
        cache.keep(name, |file| file.write_all(content).map_err(|error| LoadError::Host(error.to_string()))).unwrap()
    }

    #[test]
    fn what_was_kept_is_found_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = keep(&Cache::open(Some(dir.path())).unwrap(), "a", b"code");
        assert_eq!(Cache::open(Some(dir.path())).unwrap().find("a"), Some(path));
    }

    #[test]
    fn a_changed_file_is_not_found_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(dir.path())).unwrap();
        let path = keep(&cache, "a", b"code");
        fs::write(&path, b"evil").unwrap();
        assert_eq!(cache.find("a"), None);
        assert!(!path.exists());
    }

    #[test]
    fn genuine_files_can_not_be_swapped() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(dir.path())).unwrap();
        keep(&cache, "a", b"one");
        keep(&cache, "b", b"two");
        for extension in ["cwasm", "mac"] {
            fs::copy(dir.path().join(format!("a.{extension}")), dir.path().join(format!("b.{extension}"))).unwrap();
        }
        assert_eq!(cache.find("b"), None);
    }

    #[test]
    fn the_directory_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("deep/er");
        fs::create_dir_all(&inner).unwrap();
        fs::set_permissions(&inner, Permissions::from_mode(0o755)).unwrap();
        Cache::open(Some(&inner)).unwrap();
        assert_eq!(fs::metadata(&inner).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(inner.join(KEY_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
