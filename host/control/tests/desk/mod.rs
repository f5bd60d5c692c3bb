//! A host over the seed of the conformance suite, on every database there is here, and who may call it.

use std::sync::{Arc, OnceLock};

use quarterdeck_control::store::testing::{self, TestDb};
use quarterdeck_control::{Control, Principal, Settings, seed};
use quarterdeck_plugin::{Compiler, Runtime, RuntimeOptions};
use serde_json::Value as Json;

/// An access key of the seed.
pub const ADMIN: &str = "AKIACONFADMIN0000001";
/// An access key of the seed.
pub const DOMAIN_ADMIN: &str = "AKIACONFDADMIN000002";
/// An access key of the seed.
pub const USER: &str = "AKIACONFUSER00000003";

/// One runtime for all tests: components are compiled once.
fn plugins() -> Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            Runtime::new(RuntimeOptions { compiler: Compiler::InProcess, ..RuntimeOptions::default() }).unwrap()
        })
        .clone()
}

/// Hosts, each on a database of its own.
pub async fn controls() -> Vec<(TestDb, Control)> {
    let seed: Json = serde_json::from_str(include_str!("../../../../tests/conformance/seed.json")).unwrap();
    let mut out = Vec::new();
    for db in testing::databases().await {
        seed::load(&db.store, &seed).await.unwrap();
        let control = Control::new(db.store.clone(), plugins(), Settings::default()).await.unwrap();
        control.identity().refresh().await.unwrap();
        out.push((db, control));
    }
    out
}

/// The owner of a key pair.
pub async fn who(control: &Control, access_key: &str) -> Arc<Principal> {
    Arc::clone(&control.identity().credential(access_key).await.unwrap().unwrap().principal)
}
