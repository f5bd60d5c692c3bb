//! The kernels of a new session: what each asks for.

use quarterdeck_model::request::{self, LegacyRequest, RequestError};
use quarterdeck_model::slots::{self, SlotKind, SlotMap};
use quarterdeck_model::{AgentId, ClusterMode, KernelId, KernelRole};
use quarterdeck_store::images::ImageRow;
use quarterdeck_store::kernels::NewKernel;
use quarterdeck_store::occupancy::Units;
use quarterdeck_store::sessions::NewSession;
use serde_json::{Value, json};

use super::CreateSession;
use crate::Control;
use crate::error::{Error, Result};

/// A new session's kernels, and what they ask for together.
pub(super) struct KernelSet {
    pub(super) kernels: Vec<NewKernel>,
    pub(super) total: Value,
}

/// Builds the kernels: one `main`, the rest `sub`, all alike.
pub(super) fn build(
    control: &Control,
    request: &CreateSession,
    image: &ImageRow,
    role: KernelRole,
    designated: &[AgentId],
) -> Result<KernelSet> {
    let config = &request.config;
    if let Some(label) = image.labels.get("ai.backend.service-ports") {
        quarterdeck_model::image::service_ports(label).map_err(Error::invalid)?;
    }
    let types = control.config_tree().slot_types();
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
    let asked = request::kernel_request(config.resources.as_ref(), &legacy, &image.resources, &types, &shmem);
    let asked = asked.map_err(|error| match error {
        RequestError::Refused(text) => Error::invalid(text),
        RequestError::Image(error) => Error::Internal(format!("image {}: {error}", image.name)),
    })?;
    let held = units(&asked.requested, &types.iter().map(|(name, kind)| (name.clone(), *kind)).collect::<Vec<_>>())?;
    let mut opts = config.resource_opts.clone();
    opts.insert("shmem".to_owned(), json!(asked.shmem));
    let labels: Value = json!(image.labels);
    let requested = asked.requested.to_json();

    let mut total = SlotMap::new();
    let mut kernels = Vec::with_capacity(request.cluster_size as usize);
    for idx in 0..request.cluster_size {
        total = total.add(&asked.requested).map_err(|e| Error::invalid(e.to_string()))?;
        let main = idx == 0;
        // With one agent for a whole session each kernel is pinned to it.
        let pinned = match request.cluster_mode {
            ClusterMode::SingleNode => designated.first(),
            ClusterMode::MultiNode => designated.get(idx as usize),
        };
        kernels.push(NewKernel {
            id: KernelId::new(),
            cluster_role: if main { "main" } else { "sub" },
            cluster_idx: if main { 1 } else { i64::from(idx) },
            local_rank: i64::from(idx),
            cluster_hostname: if main { "main1".to_owned() } else { format!("sub{idx}") },
            kernel_role: role,
            image: image.name.clone(),
            architecture: image.architecture.clone(),
            registry: image.registry.clone(),
            image_labels: labels.clone(),
            designated_agent: pinned.cloned(),
            requested_slots: requested.clone(),
            held: held.clone(),
            resource_opts: Value::Object(opts.clone()),
            environ: json!([]),
            preopen_ports: if main { json!(config.preopen_ports) } else { json!([]) },
        });
    }
    Ok(KernelSet { kernels, total: total.to_json() })
}

/// As the books count it; what is infinite is more than any agent has.
fn units(requested: &SlotMap, types: &[(String, SlotKind)]) -> Result<Units> {
    let amounts = slots::units(requested, types).map_err(|e| Error::invalid(e.to_string()))?;
    let cells = types.iter().zip(amounts).filter(|(_, amount)| *amount != 0);
    Ok(cells.map(|((name, _), amount)| (name.clone(), i64::try_from(amount).unwrap_or(i64::MAX))).collect())
}

/// Writes the session's variables to its kernels, as they list them.
pub(super) fn set_environment(session: &mut NewSession) {
    let list: Vec<_> = session
        .environ
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| Value::String(format!("{name}={}", value.as_str().unwrap_or_default())))
        .collect();
    for kernel in &mut session.kernels {
        kernel.environ = Value::Array(list.clone());
    }
}
