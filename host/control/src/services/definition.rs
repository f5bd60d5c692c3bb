//! How a model is served: the file in its folder that says so.

use quarterdeck_model::service::{DEFINITION_FILES, Definition, LONGEST_DEFINITION, ServiceDefinition};
use quarterdeck_store::vfolders::VfolderRow;

use crate::error::{Error, Result};
use crate::{Control, vfolders};

/// The definition in a model's folder; `None` when there is none, and images serve by themselves.
///
/// # Errors
/// [`Error::InvalidParams`] that names what is wrong with it; [`Error::Storage`].
pub(super) async fn of_folder(control: &Control, folder: &VfolderRow) -> Result<Option<ServiceDefinition>> {
    for name in DEFINITION_FILES {
        if let Some(text) = vfolders::files::fetch(control, folder, name).await? {
            return read(name, &text).map(Some);
        }
    }
    Ok(None)
}

fn read(name: &str, text: &[u8]) -> Result<ServiceDefinition> {
    let refused = |fault: String| Error::InvalidParams {
        msg: format!("The model's definition can't be used. {name}: {fault}"),
        data: Some(serde_json::json!({ "model": fault })),
    };
    if text.len() > LONGEST_DEFINITION {
        return Err(refused(format!("longer than {LONGEST_DEFINITION} bytes")));
    }
    let definition: Definition = serde_yaml_ng::from_slice(text).map_err(|error| refused(error.to_string()))?;
    definition.service().map_err(refused)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn definitions_are_yaml() {
        let service = read(
            "model-definition.yaml",
            b"models:\n- name: m\n  model_path: /models\n  service:\n    start_command: [python, serve.py]\n    port: 8080\n    health_check: {path: /, max_retries: 2}\n",
        )
        .unwrap();
        assert_eq!((service.port, service.health_check.unwrap().max_retries), (8080, 2));
        let bad = |text: &[u8]| match read("model-definition.yaml", text) {
            Err(Error::InvalidParams { msg, .. }) => msg,
            other => panic!("{other:?}"),
        };
        assert!(bad(b"models: [").contains("model-definition.yaml"));
        assert!(bad(b"models:\n- {name: m, service: {port: 1}}\n").contains("start_command"));
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: [*a,*a,*a,*a,*a,*a]\nmodels: []\n";
        assert!(bad(bomb.as_bytes()).contains("none of them"));
        assert!(bad(&[b' '; LONGEST_DEFINITION + 1]).contains("longer"));
    }
}
