//! Imports of foreign images: a batch session builds one that sessions can start from (`spec/config.md` §8).

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use indexmap::IndexMap;
use quarterdeck_model::image::ImageRef;
use quarterdeck_model::{ClusterMode, SessionType};
use quarterdeck_store::{kernels, projects};
use serde_json::json;
use uuid::Uuid;

use crate::Control;
use crate::enqueue::{self, CreateSession, SessionConfig};
use crate::error::{Error, Result};
use crate::principal::Principal;
use crate::scaling_groups;

/// What builds images: run by the session in its image for imports.
const BUILD_COMMAND: &str = "/root/build-image.sh";
/// Variables by which programs learn how many processors they have.
pub const CPU_COUNT_VARIABLES: [&str; 3] = ["NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"];

/// What is to be built.
#[derive(Clone, Debug)]
pub struct ImportImage {
    /// The foreign image.
    pub source: String,
    /// What the new one is called.
    pub target: String,
    /// For which processors; the host's own when `None`.
    pub architecture: Option<String>,
    /// The project of the session that builds it.
    pub project: String,
    /// Where that session runs.
    pub scaling_group: String,
    /// What people call it.
    pub brand: String,
    /// `ubuntu` or `centos`
    pub distro: &'static str,
    /// Cores that its sessions need.
    pub least_cpu: i64,
    /// Bytes of memory that they need.
    pub least_memory: u64,
    /// Bytes of shared memory that they get unless they ask for others.
    pub shared_memory: u64,
    /// Accelerators that it can use.
    pub accelerators: Vec<String>,
    /// The interpreter's kind.
    pub runtime_type: &'static str,
    /// Where the interpreter is.
    pub runtime_path: String,
    /// Its services: name, protocol, ports.
    pub services: Vec<(String, &'static str, Vec<u16>)>,
}

/// The session that builds an image.
#[derive(Clone, Debug)]
pub struct Import {
    /// Its name.
    pub session: String,
    /// Its kernel's id, by which its log is found.
    pub task: String,
}

/// What the form of an import may offer its user.
#[derive(Clone, Debug)]
pub struct Choices {
    /// Names of the projects in use of the caller's domain.
    pub projects: Vec<String>,
    /// Names of the scaling groups that the caller may use.
    pub scaling_groups: Vec<String>,
}

/// What the caller can choose from.
///
/// # Errors
/// [`Error::Store`].
pub async fn choices(control: &Control, caller: &Principal) -> Result<Choices> {
    let rows = projects::list(&mut control.store().reader(), Some(&caller.domain), None, Some(true)).await?;
    let groups = scaling_groups::allowed(control, &caller.domain, None, &caller.access_key).await?;
    Ok(Choices {
        projects: rows.into_iter().map(|project| project.name).collect(),
        scaling_groups: groups.into_iter().map(|group| group.name).collect(),
    })
}

/// Enqueues the session that builds an image.
///
/// # Errors
/// [`Error::InvalidParams`] for names that are none, or a project that isn't the caller's; those of
/// [`enqueue::create`].
pub async fn start(control: &Control, caller: &Principal, import: ImportImage) -> Result<Import> {
    let mut reader = control.store().reader();
    let project = projects::by_name(&mut reader, &caller.domain, &import.project).await?.filter(|p| p.is_active);
    let project = project.ok_or_else(|| Error::invalid("Invalid domain or group."))?;
    if !projects::is_member(&mut reader, project.id, caller.user_id).await? {
        return Err(Error::invalid("You do not belong to the given group."));
    }
    let reference = |text: &str| ImageRef::parse(text).map_err(|error| Error::invalid(error.to_string()));
    let (source, target) = (reference(&import.source)?, reference(&import.target)?);
    if import.runtime_path.chars().any(char::is_control) || import.brand.chars().any(char::is_control) {
        return Err(Error::invalid("The runtime path and the brand must not have control characters."));
    }
    let environ = [
        ("SRC_IMAGE", source.canonical()),
        ("TARGET_IMAGE", target.canonical()),
        ("RUNTIME_PATH", import.runtime_path.clone()),
        ("BUILD_SCRIPT", STANDARD.encode(script(&import, &source.canonical()))),
    ];
    let name = format!("image-import-{}", &Uuid::new_v4().simple().to_string()[..8]);
    let request = CreateSession {
        name,
        image: control.settings().importer_image.clone(),
        architecture: import.architecture,
        kind: SessionType::Batch,
        project: import.project,
        domain: caller.domain.clone(),
        cluster_size: 1,
        cluster_mode: ClusterMode::SingleNode,
        config: SessionConfig {
            environ: environ.map(|(name, value)| (name.to_owned(), value)).into_iter().collect::<IndexMap<_, _>>(),
            scaling_group: Some(import.scaling_group),
            resources: Some(json!({"cpu": "1", "mem": "2g"})),
            ..SessionConfig::default()
        },
        tag: None,
        enqueue_only: true,
        max_wait_s: 0,
        starts_at: None,
        reuse: false,
        startup_command: Some(BUILD_COMMAND.to_owned()),
        bootstrap_script: None,
        dependencies: Vec::new(),
        callback_url: None,
        owner_access_key: None,
        priority: None,
        expected_duration_s: None,
        timeout_s: None,
        builds_images: true,
        endpoint: None,
        nodes: Vec::new(),
    };
    let created = enqueue::create(control, caller, request).await?;
    let kernels = kernels::of_sessions(&mut control.store().reader(), &[created.session_id]).await?;
    let task = kernels.first().map_or_else(|| created.session_id.to_string(), |kernel| kernel.id.to_string());
    Ok(Import { session: created.name, task })
}

/// The build file of the new image: the foreign one, with what notebooks need and the labels that sessions need.
fn script(import: &ImportImage, source: &str) -> String {
    let python = quoted(&import.runtime_path);
    let packages = match import.distro {
        "centos" => "yum install -y ca-certificates && yum clean all",
        _ => {
            "apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*"
        }
    };
    let services: Vec<_> = import
        .services
        .iter()
        .map(|(name, protocol, ports)| {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            let ports = if let [port] = &ports[..] { port.clone() } else { format!("[{}]", ports.join(",")) };
            format!("{name}:{protocol}:{ports}")
        })
        .collect();
    let labels = [
        ("ai.backend.kernelspec", "1".to_owned()),
        ("ai.backend.brand", import.brand.clone()),
        ("ai.backend.features", "batch query uid-match user-input".to_owned()),
        ("ai.backend.base-distro", import.distro.to_owned()),
        ("ai.backend.runtime-type", import.runtime_type.to_owned()),
        ("ai.backend.runtime-path", import.runtime_path.clone()),
        ("ai.backend.envs.corecount", CPU_COUNT_VARIABLES.join(",")),
        ("ai.backend.accelerators", import.accelerators.join(",")),
        ("ai.backend.resource.min.cpu", import.least_cpu.to_string()),
        ("ai.backend.resource.min.mem", import.least_memory.to_string()),
        ("ai.backend.resource.preferred.shmem", import.shared_memory.to_string()),
        ("ai.backend.service-ports", services.join(",")),
    ];
    let mut text = format!("FROM {source}\nUSER root\nRUN {packages}\n");
    let _ = writeln!(text, "RUN {python} -m pip install --no-cache-dir ipykernel ipywidgets jupyter jupyterlab");
    let _ = writeln!(text, "RUN {python} -m ipykernel install --prefix=/usr/local");
    for (name, value) in labels {
        let _ = writeln!(text, "LABEL {name}={}", quoted(&value));
    }
    text.push_str("WORKDIR /home/work\n");
    text
}

/// A text in double quotes, as build files and shells read it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_files_have_what_was_asked_for_and_no_more() {
        let import = ImportImage {
            source: "x".to_owned(),
            target: "y".to_owned(),
            architecture: None,
            project: "default".to_owned(),
            scaling_group: "default".to_owned(),
            brand: "Say \"$HOME\"".to_owned(),
            distro: "ubuntu",
            least_cpu: 2,
            least_memory: 64 << 20,
            shared_memory: 64 << 20,
            accelerators: vec!["cuda".to_owned()],
            runtime_type: "python",
            runtime_path: "/usr/bin/python3".to_owned(),
            services: vec![("jupyter".to_owned(), "http", vec![8080]), ("x".to_owned(), "tcp", vec![1, 2])],
        };
        let text = script(&import, "cr.example.org/a/b:1");
        assert!(text.starts_with("FROM cr.example.org/a/b:1\nUSER root\nRUN apt-get"), "{text}");
        for line in [
            r#"LABEL ai.backend.brand="Say \"\$HOME\"""#,
            r#"LABEL ai.backend.service-ports="jupyter:http:8080,x:tcp:[1,2]""#,
            r#"LABEL ai.backend.resource.min.mem="67108864""#,
            r#"RUN "/usr/bin/python3" -m pip install --no-cache-dir ipykernel ipywidgets jupyter jupyterlab"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
