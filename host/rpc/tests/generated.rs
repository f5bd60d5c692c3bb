//! Keeps the checked-in code equal to what the `.proto` says.
//! `QUARTERDECK_REGENERATE=1 cargo test -p quarterdeck-rpc generated` rewrites it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

const FILE: &str = "quarterdeck.agent.v1.rs";

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = root.join("proto");
    let out = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(["agent.proto"], [&proto]).unwrap();
    let mut config = tonic_prost_build::Config::new();
    // Ordered maps: equal messages have equal bytes.
    config.btree_map(["."]);
    // Their own are in `src/redacted.rs`.
    config.skip_debug(["quarterdeck.agent.v1.KernelSpec"]);
    tonic_prost_build::configure()
        .out_dir(out.path())
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(descriptors, config)
        .unwrap();
    let fresh = fs::read_to_string(out.path().join(FILE)).unwrap();
    let kept = root.join("src/generated").join(FILE);
    if std::env::var_os("QUARTERDECK_REGENERATE").is_some() {
        fs::write(&kept, &fresh).unwrap();
    }
    assert!(
        fs::read_to_string(&kept).unwrap_or_default() == fresh,
        "src/generated is not what proto/agent.proto says: run this test with QUARTERDECK_REGENERATE=1"
    );
}
