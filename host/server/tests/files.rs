//! What the commands leave on the disk.
#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// The database holds secret keys, whatever the user's mask and the directory's mode are.
#[test]
fn the_database_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    for command in ["db migrate", "agent-token new"] {
        let line = format!("umask 022; exec \"$0\" {command} --data-dir \"$1\"");
        let output = Command::new("/bin/sh")
            .args(["-c", &line, env!("CARGO_BIN_EXE_quarterdeck")])
            .arg(&data)
            .env_remove("QUARTERDECK_DATABASE")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let files: Vec<_> = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty());
        for file in files {
            let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{command}: {} has mode {mode:o}", file.display());
        }
        for file in std::fs::read_dir(&data).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
}
