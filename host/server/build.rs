//! Embeds what `plugin new` makes projects of: the templates, the contract and the sources of the SDK.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = here.join("../..").canonicalize().expect("the crate lies two levels below the root");
    println!("cargo::rerun-if-changed=build.rs");
    let mut code = String::new();
    for (name, folder) in [("TEMPLATES", "templates"), ("WIT", "wit"), ("SDK", "plugins/sdk")] {
        let folder = root.join(folder);
        let mut files = Vec::new();
        collect(&folder, &mut files);
        files.sort();
        let _ = writeln!(code, "const {name}: &[(&str, &str)] = &[");
        for file in files {
            let path = file.strip_prefix(&folder).expect("it was found there").display().to_string();
            let _ = writeln!(code, "    ({path:?}, include_str!({:?})),", file.display().to_string());
        }
        code.push_str("];\n");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("templates.rs"), code).expect("cargo's folder can be written to");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    println!("cargo::rerun-if-changed={}", folder.display());
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // What tools leave behind is nobody's source.
        if ["target", "node_modules", "__pycache__", "dist"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}
