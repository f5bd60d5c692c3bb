//! What a component is, from its outermost imports and exports alone: done before anything is compiled.

use semver::{Version, VersionReq};
use wasmparser::{Encoding, Parser, Payload};

use crate::journal::presentable;
use crate::{Kind, LoadError};

/// The package that this host serves.
const PACKAGE: &str = "quarterdeck:policy";

/// Imports or exports of a component, at most. Real ones have two dozen.
const MAX_NAMES: usize = 256;

/// Bytes of a name among them.
const MAX_NAME_BYTES: usize = 256;

/// How deep components may lie within one another: those of compilers are two or three deep, and the compiler that comes
/// next recurses.
const MAX_DEPTH: usize = 32;

/// The WASI interfaces that exist, empty, because tool chains import them unasked.
const EMPTY_WASI: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/stderr",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/terminal-stderr",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/random",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
];

/// What the outside of a component says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Which world it targets.
    pub kind: Kind,
    /// Version of the contract that it was built against.
    pub contract: String,
    /// Everything that it imports, in order.
    pub imports: Vec<String>,
    /// Everything that it exports, in order.
    pub exports: Vec<String>,
}

/// Checks size, encoding, imports and exports of a component.
pub fn outline(wasm: &[u8], max_size: usize) -> Result<Outline, LoadError> {
    if wasm.len() > max_size {
        return Err(LoadError::TooLarge { size: wasm.len(), limit: max_size });
    }
    let (imports, exports) = names(wasm)?;
    for import in &imports {
        if !is_allowed(import) {
            return Err(LoadError::ForbiddenImport(import.clone()));
        }
    }
    let mut contract = None;
    let mut kinds = Vec::new();
    for export in &exports {
        let Some((name, version)) = own(export) else { continue };
        let kind = match name {
            "plugin" => None,
            "scheduling" => Some(Kind::Scheduler),
            "idling" => Some(Kind::IdleChecker),
            "hooks" => Some(Kind::Hook),
            other => {
                return Err(LoadError::Contract(format!("it exports `{PACKAGE}/{other}`, which is not a policy's")));
            }
        };
        if !is_served(version) {
            return Err(LoadError::Contract(format!("it exports `{export}`; this host serves version {}", served())));
        }
        match kind {
            Some(kind) => kinds.push(kind),
            None => contract = Some(version.to_owned()),
        }
    }
    let contract =
        contract.ok_or_else(|| LoadError::Contract(format!("it doesn't export `{PACKAGE}/plugin@{}`", served())))?;
    match kinds[..] {
        [kind] => Ok(Outline { kind, contract, imports, exports }),
        [] => Err(LoadError::Contract(
            "it exports none of `scheduling`, `idling` and `hooks`, so it is no policy".to_owned(),
        )),
        _ => Err(LoadError::Contract("it exports more than one of `scheduling`, `idling` and `hooks`".to_owned())),
    }
}

/// Names of the outermost imports and exports.
fn names(wasm: &[u8]) -> Result<(Vec<String>, Vec<String>), LoadError> {
    // The parser spreads some of its messages over many lines.
    let broken = |error: wasmparser::BinaryReaderError| {
        let words = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        LoadError::NotAComponent(presentable(&words, 500))
    };
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(broken)? {
            Payload::Version { encoding, .. } => {
                if depth == 0 && encoding == Encoding::Module {
                    return Err(LoadError::NotAComponent(
                        "it is a core module; build it for `wasm32-wasip2` or wrap it into a component".to_owned(),
                    ));
                }
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(LoadError::NotAComponent(format!("its parts are nested more than {MAX_DEPTH} deep")));
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    note(&mut imports, import.map_err(broken)?.name.name, "imports")?;
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    note(&mut exports, export.map_err(broken)?.name.name, "exports")?;
                }
            }
            _ => {}
        }
    }
    if depth != 0 {
        return Err(LoadError::NotAComponent("it ends early".to_owned()));
    }
    Ok((imports, exports))
}

/// Takes down a name that is going to be stored and shown.
fn note(names: &mut Vec<String>, name: &str, what: &str) -> Result<(), LoadError> {
    if names.len() >= MAX_NAMES {
        return Err(LoadError::Contract(format!("it {what} more than {MAX_NAMES} things")));
    }
    if name.len() > MAX_NAME_BYTES {
        let shown = presentable(name, 80);
        return Err(LoadError::Contract(format!(
            "it {what} `{shown}…`, a name of {} bytes; {MAX_NAME_BYTES} are allowed",
            name.len()
        )));
    }
    names.push(presentable(name, MAX_NAME_BYTES));
    Ok(())
}

/// Interface name and version when it is of our package.
fn own(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix(PACKAGE)?.strip_prefix('/')?;
    Some(rest.split_once('@').unwrap_or((rest, "")))
}

fn served() -> VersionReq {
    VersionReq::parse("^0.1.0").expect("a literal")
}

fn is_served(version: &str) -> bool {
    Version::parse(version).is_ok_and(|version| served().matches(&version))
}

fn is_allowed(import: &str) -> bool {
    if let Some((name, version)) = own(import) {
        return matches!(name, "host" | "types") && is_served(version);
    }
    let Some((name, version)) = import.split_once('@') else { return false };
    let second_wasi = VersionReq::parse("^0.2.0").expect("a literal");
    EMPTY_WASI.contains(&name) && Version::parse(version).is_ok_and(|version| second_wasi.matches(&version))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIMIT: usize = 1 << 20;

    #[test]
    fn a_core_module_is_told_apart_from_a_component() {
        let module = wat::parse_str("(module)").unwrap();
        assert!(outline(&module, LIMIT).unwrap_err().to_string().contains("core module"));
    }

    #[test]
    fn nested_names_do_not_count() {
        let wasm = wat::parse_str(r#"(component (component (import "wasi:sockets/tcp@0.2.0" (instance))))"#).unwrap();
        assert!(matches!(outline(&wasm, LIMIT), Err(LoadError::Contract(_))));
    }

    #[test]
    fn a_forbidden_import_is_named() {
        let wasm = wat::parse_str(r#"(component (import "wasi:sockets/tcp@0.2.0" (instance)))"#).unwrap();
        match outline(&wasm, LIMIT) {
            Err(LoadError::ForbiddenImport(name)) => assert_eq!(name, "wasi:sockets/tcp@0.2.0"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn versions_are_compared_semantically() {
        assert!(is_allowed("wasi:cli/stderr@0.2.6"));
        assert!(!is_allowed("wasi:cli/stderr@0.3.0"));
        assert!(is_allowed("quarterdeck:policy/host@0.1.7"));
        assert!(!is_allowed("quarterdeck:policy/host@0.2.0"));
        assert!(!is_allowed("quarterdeck:policy/plugin@0.1.0"));
        assert!(!is_allowed("memory"));
    }

    #[test]
    fn truncated_and_random_bytes_are_refused() {
        for bytes in [&b""[..], b"\0asm", b"\0asm\x0d\0\x01\0\xff\xff", &[0x17; 400]] {
            assert!(outline(bytes, LIMIT).is_err());
        }
    }

    #[test]
    fn size_is_checked_first() {
        assert!(matches!(outline(&[0; 11], 10), Err(LoadError::TooLarge { size: 11, limit: 10 })));
    }
}
