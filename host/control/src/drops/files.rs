//! Looking at a watched directory: which components lie in it, whether anybody still writes them, what they hold.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::settings::MAX_SETTINGS_BYTES;
use crate::plugins::MAX_COMPONENT_BYTES;
use crate::signatures::MAX_SIGNATURE_BYTES;

/// Components that one directory may hold.
pub(super) const MAX_FILES: usize = 256;
/// Bytes of a file's name.
const MAX_NAME: usize = 128;

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A component's file with its companions, as they stood at one look.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Found {
    component: Option<(PathBuf, Stamp)>,
    settings: Option<(PathBuf, Stamp)>,
    signature: Option<(PathBuf, Stamp)>,
    /// What keeps one of them from being read.
    pub(super) fault: Option<String>,
}

/// What a component's file and its companions hold.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) component: Vec<u8>,
    pub(super) settings: Option<String>,
    pub(super) signature: Option<Vec<u8>>,
    /// SHA-256 of the component.
    pub(super) digest: String,
    /// SHA-256 over all of it.
    pub(super) all: String,
}

/// The components in a directory by the names of their files, and whether there were more than are looked at.
///
/// # Errors
/// When the directory can't be read.
pub(super) fn look(dir: &Path) -> std::io::Result<(BTreeMap<String, Found>, bool)> {
    let dir = dir.canonicalize()?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir)? {
        // Names that aren't UTF-8 are nobody's plugin.
        names.extend(entry?.file_name().into_string().ok().filter(|name| is_component(name)));
        if names.len() > 16 * MAX_FILES {
            break;
        }
    }
    names.sort_unstable();
    let too_many = names.len() > MAX_FILES;
    names.truncate(MAX_FILES);
    let found = names.into_iter().filter_map(|name| {
        let found = inspect(&dir, &name);
        // Gone since it was listed.
        (found.component.is_some() || found.fault.is_some()).then_some((name, found))
    });
    Ok((found.collect(), too_many))
}

/// Whether a name is one of a component: hidden and temporary files aren't.
pub(super) fn is_component(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".wasm") else { return false };
    !stem.is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with('.')
        && !name.chars().any(char::is_control)
        && ![".part", ".partial", ".tmp", ".crdownload", "~"].iter().any(|end| stem.ends_with(end))
}

fn inspect(dir: &Path, name: &str) -> Found {
    let stem = name.strip_suffix(".wasm").unwrap_or(name);
    let mut found = Found::default();
    let mut one = |name: &str, limit: u64| match stamp(dir, name, limit) {
        Ok(stamp) => stamp,
        Err(fault) => {
            found.fault.get_or_insert(fault);
            None
        }
    };
    let component = one(name, MAX_COMPONENT_BYTES as u64);
    let settings = one(&format!("{stem}.toml"), MAX_SETTINGS_BYTES);
    let signature = one(&format!("{name}.minisig"), MAX_SIGNATURE_BYTES as u64);
    Found { component, settings, signature, ..found }
}

/// Where a file really lies and how it stands; nothing when there is none.
fn stamp(dir: &Path, name: &str, limit: u64) -> Result<Option<(PathBuf, Stamp)>, String> {
    let told = |error: std::io::Error| format!("{name} can't be read: {error}");
    let path = match dir.join(name).canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(told(error)),
    };
    // Links within the directory are how some tools swap files at once; whatever lies outside isn't this directory's.
    if !path.starts_with(dir) {
        return Err(format!("{name} is a link that leaves the directory"));
    }
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(told(error)),
    };
    if !metadata.is_file() {
        return Err(format!("{name} is no regular file"));
    }
    if metadata.len() > limit {
        return Err(format!("{name} has {} bytes; {limit} are allowed", metadata.len()));
    }
    Ok(Some((path, Stamp::of(&metadata))))
}

impl Found {
    /// Reads all of it; nothing when it isn't any longer what was found: then it is looked at again.
    ///
    /// # Errors
    /// What keeps it from being read.
    pub(super) fn read(&self) -> Result<Option<Content>, String> {
        let Some((path, stamp)) = &self.component else { return Ok(None) };
        let Some(component) = read(path, stamp)? else { return Ok(None) };
        let mut companions = [None, None];
        for (place, companion) in companions.iter_mut().zip([&self.settings, &self.signature]) {
            let Some((path, stamp)) = companion else { continue };
            match read(path, stamp)? {
                Some(bytes) => *place = Some(bytes),
                None => return Ok(None),
            }
        }
        let [settings, signature] = companions;
        let mut all = Sha256::new();
        for part in [Some(&component), settings.as_ref(), signature.as_ref()] {
            // Lengths tell parts apart, and one that isn't there from an empty one.
            all.update(part.map_or(u64::MAX, |bytes| bytes.len() as u64).to_be_bytes());
            all.update(part.map_or(&[][..], Vec::as_slice));
        }
        let settings = settings
            .map(|bytes| String::from_utf8(bytes).map_err(|_| "the settings aren't text".to_owned()))
            .transpose()?;
        let digest = quarterdeck_plugin::digest(&component);
        Ok(Some(Content { component, settings, signature, digest, all: crate::hex::hex(&all.finalize()) }))
    }
}

/// What a file holds, if it is the one that was found and nobody wrote to it meanwhile.
fn read(path: &Path, stamp: &Stamp) -> Result<Option<Vec<u8>>, String> {
    let told = |error: std::io::Error| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} can't be read: {error}")
    };
    // A pipe or a link in its place since the look must neither be followed nor waited for.
    let flags = (nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK).bits();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(told(error)),
    };
    let same = |file: &File| Ok::<_, String>(Stamp::of(&file.metadata().map_err(told)?) == *stamp);
    if !same(&file)? {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size).unwrap_or(0));
    (&file).take(stamp.size + 1).read_to_end(&mut bytes).map_err(told)?;
    Ok((bytes.len() as u64 == stamp.size && same(&file)?).then_some(bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        look(dir).unwrap().0.into_keys().collect()
    }

    #[test]
    fn only_whole_visible_components_count() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["a.wasm", "b.wasm.part", ".c.wasm", "d.part.wasm", "e.tmp.wasm", "f~.wasm", ".wasm", "g.toml", "h.WASM"]
        {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(dir.path().join("i.wasm")).unwrap();
        assert_eq!(names(dir.path()), ["a.wasm", "i.wasm"]);
        let (found, _) = look(dir.path()).unwrap();
        assert_eq!(found["i.wasm"].fault.as_deref(), Some("i.wasm is no regular file"));
        assert!(look(&dir.path().join("nowhere")).is_err());
    }

    #[test]
    fn links_stay_inside() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("x.wasm"), "secret").unwrap();
        symlink(outside.path().join("x.wasm"), dir.path().join("out.wasm")).unwrap();
        symlink(outside.path().join("gone.wasm"), dir.path().join("dangling.wasm")).unwrap();
        std::fs::create_dir(dir.path().join("..data")).unwrap();
        std::fs::write(dir.path().join("..data/in.wasm"), "fine").unwrap();
        symlink("..data/in.wasm", dir.path().join("in.wasm")).unwrap();
        let (found, _) = look(dir.path()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["in.wasm", "out.wasm"]);
        assert_eq!(found["out.wasm"].fault.as_deref(), Some("out.wasm is a link that leaves the directory"));
        assert!(found["out.wasm"].read().unwrap().is_none());
        assert_eq!(found["in.wasm"].read().unwrap().unwrap().component, b"fine");
    }

    #[test]
    fn what_changes_after_the_look_is_looked_at_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        file("a.wasm", "one");
        let (before, _) = look(dir.path()).unwrap();
        let first = before["a.wasm"].read().unwrap().unwrap();
        assert_eq!(first.digest, quarterdeck_plugin::digest(b"one"));
        file("a.wasm", "another");
        assert!(before["a.wasm"].read().unwrap().is_none());
        std::fs::remove_file(dir.path().join("a.wasm")).unwrap();
        assert!(before["a.wasm"].read().unwrap().is_none());

        // Companions belong to it.
        let mut contents = vec![first.all];
        file("a.wasm", "one");
        for (name, text) in [("a.toml", ""), ("a.toml", "x"), ("a.wasm.minisig", "x")] {
            file(name, text);
            let content = look(dir.path()).unwrap().0["a.wasm"].read().unwrap().unwrap();
            assert!(!contents.contains(&content.all));
            contents.push(content.all);
        }
    }

    #[test]
    fn sizes_and_numbers_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let large = File::create(dir.path().join("large.wasm")).unwrap();
        large.set_len(MAX_COMPONENT_BYTES as u64 + 1).unwrap();
        std::fs::write(dir.path().join("ok.wasm"), "x").unwrap();
        std::fs::write(dir.path().join("ok.toml"), vec![b'#'; 65 << 10]).unwrap();
        let (found, _) = look(dir.path()).unwrap();
        assert!(found["large.wasm"].fault.as_ref().unwrap().contains("are allowed"));
        assert!(found["ok.wasm"].fault.as_ref().unwrap().starts_with("ok.toml has"));
        for n in 0..MAX_FILES {
            std::fs::write(dir.path().join(format!("n{n}.wasm")), "x").unwrap();
        }
        let (found, too_many) = look(dir.path()).unwrap();
        assert!(too_many && found.len() == MAX_FILES);
    }
}
