//! Dotfiles: small files that their owner's sessions find in their home.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Most dotfiles of one owner.
pub const MAX_ENTRIES: usize = 100;
/// Most bytes of an owner's dotfiles, packed.
pub const MAX_PACKED: usize = 65_536;
/// Most characters of one.
pub const MAX_DATA: usize = 65_536;

/// Paths that the system keeps for itself.
const RESERVED: &[&str] = &[".terminfo", ".jupyter", ".ssh", ".ssh/authorized_keys", ".local", ".config"];

/// A dotfile. The field's order is that of the packed form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dotfile {
    /// Relative to the home.
    pub path: String,
    /// Permissions: three octal digits.
    pub perm: String,
    /// Its content.
    pub data: String,
}

impl Dotfile {
    /// The SHA-256 of its content, in 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        Sha256::digest(self.data.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whether the system keeps this path for itself.
pub fn is_reserved(path: &str) -> bool {
    RESERVED.contains(&path)
}

/// Whether these are three octal digits.
pub fn is_permission(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|b| (b'0'..=b'7').contains(&b))
}

/// The files as one MessagePack array of maps, the form in which they are stored and measured.
pub fn pack(files: &[Dotfile]) -> Vec<u8> {
    rmp_serde::to_vec_named(files).expect("texts can always be packed")
}

/// Reads what [`pack`] wrote.
///
/// # Errors
/// What is wrong with the bytes.
pub fn unpack(bytes: &[u8]) -> Result<Vec<Dotfile>, String> {
    rmp_serde::from_slice(bytes).map_err(|e| e.to_string())
}

/// What a session gets of its key pair's, project's and domain's dotfiles: of several with one path
/// the first owner's, and the files of the first owner last.
pub fn merged(owners: impl IntoIterator<Item = Vec<Dotfile>>) -> Vec<Dotfile> {
    let mut files: Vec<Dotfile> = Vec::new();
    for file in owners.into_iter().flatten() {
        if !files.iter().any(|f| f.path == file.path) {
            files.push(file);
        }
    }
    files.reverse();
    files
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file(path: &str, data: &str) -> Dotfile {
        Dotfile { path: path.into(), perm: "644".into(), data: data.into() }
    }

    #[test]
    fn packing_is_what_others_wrote() {
        let files = vec![file(".a", "1")];
        let bytes = pack(&files);
        // A list of one map with three text entries.
        assert_eq!(bytes, b"\x91\x83\xa4path\xa2.a\xa4perm\xa3644\xa4data\xa11");
        assert_eq!(unpack(&bytes).unwrap(), files);
        assert!(unpack(b"nonsense").is_err());
    }

    #[test]
    fn the_first_owner_wins_and_comes_last() {
        let merged = merged([vec![file(".a", "key")], vec![file(".b", "project")], vec![file(".a", "domain")]]);
        assert_eq!(merged, [file(".b", "project"), file(".a", "key")]);
    }

    #[test]
    fn words() {
        assert!(is_permission("644") && !is_permission("0644") && !is_permission("648") && !is_permission("r--"));
        assert!(is_reserved(".ssh") && !is_reserved(".ssh/config"));
    }
}
