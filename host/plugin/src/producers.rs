//! What a component was made with, by its own account.

use wasmparser::{KnownCustom, Parser, Payload, ProducersFieldValue};

/// Field (`language`, `processed-by`, `sdk`), name and version of everything that took part in making a component and
/// says so, without repetitions. Nothing of it is vouched for.
pub fn producers(wasm: &[u8]) -> Vec<(String, String, String)> {
    let mut found: Vec<(String, String, String)> = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let Ok(payload) = payload else { break };
        let Payload::CustomSection(section) = payload else { continue };
        let KnownCustom::Producers(fields) = section.as_known() else { continue };
        for field in fields.into_iter().flatten() {
            for ProducersFieldValue { name, version } in field.values.into_iter().flatten() {
                let entry = [field.name, name, version].map(|text| crate::journal::presentable(text, 100));
                let entry: (String, String, String) = entry.into();
                if found.len() < 64 && !found.contains(&entry) {
                    found.push(entry);
                }
            }
        }
    }
    found
}
