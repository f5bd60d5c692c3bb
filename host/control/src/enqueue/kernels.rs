//! The kernels of a new session: what each asks for.

use std::sync::Arc;

use indexmap::IndexMap;
use quarterdeck_model::request::{self, KernelRequest, LegacyRequest, RequestError};
use quarterdeck_model::slots::{self, SlotKind, SlotMap, SlotTypes};
use quarterdeck_model::{AgentId, ClusterMode, KernelId};
use quarterdeck_store::images::ImageRow;
use quarterdeck_store::kernels::NewKernel;
use quarterdeck_store::occupancy::Units;
use quarterdeck_store::sessions::NewSession;
use serde_json::{Value, json};

use super::{CreateSession, Parties};
use crate::Control;
use crate::error::{Error, Result};

/// A new session's kernels, and what they ask for together.
pub(super) struct KernelSet {
    pub(super) kernels: Vec<NewKernel>,
    pub(super) total: Value,
}

/// Kernels that are alike, but for their names.
pub(super) struct Part {
    role: String,
    replicas: u32,
    image: Arc<ImageRow>,
    resources: Option<Value>,
    environ: IndexMap<String, String>,
    bootstrap_script: Option<String>,
}

/// Which kernels a request comes to, the main one first.
pub(super) async fn plan(control: &Control, request: &CreateSession, parties: &Parties) -> Result<Vec<Part>> {
    if request.nodes.is_empty() {
        let alike = |role: &str, replicas| Part {
            role: role.to_owned(),
            replicas,
            image: Arc::clone(&parties.image),
            resources: request.config.resources.clone(),
            environ: IndexMap::new(),
            bootstrap_script: None,
        };
        let mut parts = vec![alike("main", 1)];
        if request.cluster_size > 1 {
            parts.push(alike("sub", request.cluster_size - 1));
        }
        return Ok(parts);
    }
    let mut parts = Vec::with_capacity(request.nodes.len());
    for node in &request.nodes {
        let architecture = node.architecture.as_deref().unwrap_or(std::env::consts::ARCH);
        let image = control.arrivals().facts().image(control, &node.image, architecture).await?;
        parties.grounds.check_registry(&image)?;
        parts.push(Part {
            role: node.role.clone(),
            replicas: node.replicas,
            image,
            resources: node.resources.clone(),
            environ: node.environ.clone(),
            bootstrap_script: node.bootstrap_script.clone(),
        });
    }
    Ok(parts)
}

/// Builds the kernels, numbered within their roles.
pub(super) fn build(
    control: &Control,
    request: &CreateSession,
    plan: &[Part],
    designated: &[AgentId],
) -> Result<KernelSet> {
    let types = control.config_tree().slot_types();
    let types_by_name: Vec<_> = types.iter().map(|(name, kind)| (name.clone(), *kind)).collect();
    let mut total = SlotMap::new();
    let mut kernels = Vec::with_capacity(request.cluster_size as usize);
    for part in plan {
        let asked = asked(request, part, &types)?;
        let held = units(&asked.requested, &types_by_name)?;
        let mut opts = request.config.resource_opts.clone();
        opts.insert("shmem".to_owned(), json!(asked.shmem));
        let requested = asked.requested.to_json();
        for replica in 1..=part.replicas {
            total = total.add(&asked.requested).map_err(|e| Error::invalid(e.to_string()))?;
            let rank = kernels.len();
            // With one agent for a whole session each kernel is pinned to it.
            let pinned = match request.cluster_mode {
                ClusterMode::SingleNode => designated.first(),
                ClusterMode::MultiNode => designated.get(rank),
            };
            kernels.push(NewKernel {
                id: KernelId::new(),
                cluster_role: part.role.clone(),
                cluster_idx: i64::from(replica),
                local_rank: i64::try_from(rank).unwrap_or(i64::MAX),
                cluster_hostname: format!("{}{replica}", part.role),
                kernel_role: quarterdeck_model::image::role(&part.image.labels),
                image: part.image.name.clone(),
                architecture: part.image.architecture.clone(),
                registry: part.image.registry.clone(),
                image_labels: json!(part.image.labels),
                designated_agent: pinned.cloned(),
                requested_slots: requested.clone(),
                held: held.clone(),
                resource_opts: Value::Object(opts.clone()),
                environ: listed(part.environ.iter().map(|(name, value)| (name.as_str(), value.as_str()))),
                bootstrap_script: part.bootstrap_script.clone(),
                preopen_ports: if rank == 0 { json!(request.config.preopen_ports) } else { json!([]) },
            });
        }
    }
    Ok(KernelSet { kernels, total: total.to_json() })
}

/// What each kernel of a part asks for.
fn asked(request: &CreateSession, part: &Part, types: &SlotTypes) -> Result<KernelRequest> {
    let (config, image) = (&request.config, &part.image);
    if let Some(label) = image.labels.get("ai.backend.service-ports") {
        quarterdeck_model::image::service_ports(label).map_err(Error::invalid)?;
    }
    let shmem = match config.resource_opts.get("shmem") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => image
            .labels
            .get("ai.backend.resource.preferred.shmem")
            .map_or_else(|| request::DEFAULT_SHMEM.to_owned(), Clone::clone),
        Some(other) => other.to_string(),
    };
    let legacy = LegacyRequest {
        cores: config.instance_cores.map(|n| json!(n)),
        memory: config.instance_memory.clone(),
        gpus: config.instance_gpus.map(|n| json!(n)),
        tpus: config.instance_tpus.map(|n| json!(n)),
    };
    let asked = request::kernel_request(part.resources.as_ref(), &legacy, &image.resources, types, &shmem);
    asked.map_err(|error| match error {
        RequestError::Refused(text) => Error::invalid(text),
        RequestError::Image(error) => Error::Internal(format!("image {}: {error}", image.name)),
    })
}

/// As the books count it; what is infinite is more than any agent has.
fn units(requested: &SlotMap, types: &[(String, SlotKind)]) -> Result<Units> {
    let amounts = slots::units(requested, types).map_err(|e| Error::invalid(e.to_string()))?;
    let cells = types.iter().zip(amounts).filter(|(_, amount)| *amount != 0);
    Ok(cells.map(|((name, _), amount)| (name.clone(), i64::try_from(amount).unwrap_or(i64::MAX))).collect())
}

/// Variables as kernels list them.
fn listed<'e>(environ: impl Iterator<Item = (&'e str, &'e str)>) -> Value {
    environ.map(|(name, value)| Value::String(format!("{name}={value}"))).collect()
}

/// Writes the session's variables to its kernels, before those of their own.
pub(super) fn set_environment(session: &mut NewSession) {
    let common = session.environ.as_object().into_iter().flatten();
    let common = listed(common.map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default())));
    for kernel in &mut session.kernels {
        let own = std::mem::replace(&mut kernel.environ, common.clone());
        if let (Value::Array(all), Value::Array(own)) = (&mut kernel.environ, own) {
            all.extend(own);
        }
    }
}
