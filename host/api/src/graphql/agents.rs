//! Agents, for superadmins in full and for everybody in short.

use async_graphql::{ComplexObject, Context, ID, InputObject, Object, SimpleObject};
use quarterdeck_control::agents as use_cases;
use quarterdeck_control::store::listing::Listing;
use quarterdeck_control::store::lists::agents::{self, AgentItem, Scope};
use quarterdeck_model::{AgentId, AgentStatus};
use serde_json::{Map, Value as Json, json};

use super::containers::{ComputeContainer, metric};
use super::fault::{Answer, Maybe, list, maybe};
use super::loaders::{KernelsOn, OccupiedOn, StatOfAgent};
use super::pages::pages;
use super::payload::{Allowed, Payload, change, payloads};
use super::scalars::{DateTime, JsonString};
use super::scope::superadmin;
use super::{caller, control, input, loader};

/// A machine that runs kernels.
#[derive(SimpleObject)]
#[graphql(complex, rename_fields = "snake_case")]
pub(crate) struct Agent {
    id: Option<ID>,
    status: Option<String>,
    status_changed: Option<DateTime>,
    region: Option<String>,
    scaling_group: Option<String>,
    schedulable: Option<bool>,
    available_slots: Option<JsonString>,
    addr: Option<String>,
    architecture: Option<String>,
    first_contact: Option<DateTime>,
    lost_at: Option<DateTime>,
    version: Option<String>,
    compute_plugins: Option<JsonString>,
    hardware_metadata: Option<JsonString>,
    auto_terminate_abusing_kernel: Option<bool>,
    local_config: Option<JsonString>,
    mem_slots: Option<i32>,
    cpu_slots: Option<f64>,
    gpu_slots: Option<f64>,
    tpu_slots: Option<f64>,
    #[graphql(skip)]
    key: AgentId,
}

/// The amount of one slot in a stored map.
pub(crate) fn amount(slots: &Json, name: &str) -> f64 {
    match slots.get(name) {
        Some(Json::String(text)) => text.parse().unwrap_or_default(),
        Some(Json::Number(number)) => number.as_f64().unwrap_or_default(),
        _ => 0.0,
    }
}

/// Memory in MiB.
pub(crate) fn mebibytes(slots: &Json) -> i32 {
    // `as` clamps, which is what a field of 32 bits can do best.
    (amount(slots, "mem") / f64::from(1 << 20)) as i32
}

/// What an agent that is alive reported of its hardware: one entry for each kind of device, with its slots.
fn hardware(row: &AgentItem) -> Option<Json> {
    if row.status != AgentStatus::Alive {
        return None;
    }
    let slots = row.available_slots.as_object().into_iter().flatten();
    let mut devices: Map<String, Json> = Map::new();
    for (slot, amount) in slots {
        let device = slot.split('.').next().unwrap_or(slot);
        let entry = devices.entry(device).or_insert_with(|| {
            let mut metadata = row.compute_plugins.get(device).cloned().unwrap_or_default();
            if !metadata.is_object() {
                metadata = json!({});
            }
            json!({ "status": "healthy", "status_info": null, "metadata": metadata })
        });
        entry["metadata"][slot] = amount.clone();
    }
    Some(Json::Object(devices))
}

impl From<AgentItem> for Agent {
    fn from(row: AgentItem) -> Self {
        let hardware_metadata = hardware(&row).map(JsonString);
        let available = &row.available_slots;
        let mut local_config =
            json!({ "agent": { "auto_terminate_abusing_kernel": row.auto_terminate_abusing_kernel } });
        if let Some(until) = row.cooldown_until {
            // Clients know no field for it; this one may hold anything.
            local_config["agent"]["cooldown"] = json!({ "until": until.iso(), "reason": row.cooldown_reason });
        }
        Self {
            id: Some(ID(row.id.to_string())),
            status: Some(row.status.to_string()),
            status_changed: row.status_changed.map(Into::into),
            region: Some(row.region),
            scaling_group: Some(row.scaling_group),
            schedulable: Some(row.schedulable),
            mem_slots: Some(mebibytes(available)),
            cpu_slots: Some(amount(available, "cpu")),
            gpu_slots: Some(amount(available, "cuda.device")),
            tpu_slots: Some(amount(available, "tpu.device")),
            available_slots: Some(JsonString(row.available_slots)),
            addr: Some(row.addr),
            architecture: Some(row.architecture),
            first_contact: Some(row.first_contact.into()),
            lost_at: row.lost_at.map(Into::into),
            version: Some(row.version),
            compute_plugins: Some(JsonString(row.compute_plugins)),
            hardware_metadata,
            auto_terminate_abusing_kernel: Some(row.auto_terminate_abusing_kernel),
            local_config: Some(JsonString(local_config)),
            key: row.id,
        }
    }
}

/// What an agent's kernels hold: slot → decimal text.
async fn occupied(ctx: &Context<'_>, agent: &AgentId) -> Answer<Json> {
    Ok(loader(ctx).load_one(OccupiedOn(agent.clone())).await?.unwrap_or_else(|| json!({})))
}

/// How an agent does.
async fn stat(ctx: &Context<'_>, agent: &AgentId) -> Answer<Option<Json>> {
    loader(ctx).load_one(StatOfAgent(agent.clone())).await
}

#[ComplexObject(rename_fields = "snake_case", rename_args = "snake_case")]
impl Agent {
    async fn occupied_slots(&self, ctx: &Context<'_>) -> Maybe<JsonString> {
        maybe(async { Ok(Some(JsonString(occupied(ctx, &self.key).await?))) }).await
    }

    async fn used_mem_slots(&self, ctx: &Context<'_>) -> Maybe<i32> {
        maybe(async { Ok(Some(mebibytes(&occupied(ctx, &self.key).await?))) }).await
    }

    async fn used_cpu_slots(&self, ctx: &Context<'_>) -> Maybe<f64> {
        maybe(async { Ok(Some(amount(&occupied(ctx, &self.key).await?, "cpu"))) }).await
    }

    async fn used_gpu_slots(&self, ctx: &Context<'_>) -> Maybe<f64> {
        maybe(async { Ok(Some(amount(&occupied(ctx, &self.key).await?, "cuda.device"))) }).await
    }

    async fn used_tpu_slots(&self, ctx: &Context<'_>) -> Maybe<f64> {
        maybe(async { Ok(Some(amount(&occupied(ctx, &self.key).await?, "tpu.device"))) }).await
    }

    /// What the agent measured last; `null` when no host has heard of it lately.
    async fn live_stat(&self, ctx: &Context<'_>) -> Maybe<JsonString> {
        maybe(async { Ok(stat(ctx, &self.key).await?.map(JsonString)) }).await
    }

    async fn cpu_cur_pct(&self, ctx: &Context<'_>) -> Maybe<f64> {
        maybe(async { Ok(Some(metric(stat(ctx, &self.key).await?.as_ref(), &["node", "cpu_util", "pct"]))) }).await
    }

    async fn mem_cur_bytes(&self, ctx: &Context<'_>) -> Maybe<f64> {
        maybe(async { Ok(Some(metric(stat(ctx, &self.key).await?.as_ref(), &["node", "mem", "current"]))) }).await
    }

    async fn compute_containers(
        &self,
        ctx: &Context<'_>,
        status: Option<String>,
    ) -> Maybe<Vec<Option<ComputeContainer>>> {
        maybe(async {
            let statuses = status.map(|s| input::words(&s)).transpose()?;
            let rows = loader(ctx).load_one(KernelsOn(self.key.clone(), statuses)).await?.unwrap_or_default();
            Ok(Some(list(rows)))
        })
        .await
    }
}

/// What everybody may know of an agent that they may use.
#[derive(SimpleObject)]
#[graphql(complex, rename_fields = "snake_case")]
pub(crate) struct AgentSummary {
    id: Option<ID>,
    status: Option<String>,
    scaling_group: Option<String>,
    schedulable: Option<bool>,
    available_slots: Option<JsonString>,
    architecture: Option<String>,
    #[graphql(skip)]
    key: AgentId,
}

impl From<AgentItem> for AgentSummary {
    fn from(row: AgentItem) -> Self {
        Self {
            id: Some(ID(row.id.to_string())),
            status: Some(row.status.to_string()),
            scaling_group: Some(row.scaling_group),
            schedulable: Some(row.schedulable),
            available_slots: Some(JsonString(row.available_slots)),
            architecture: Some(row.architecture),
            key: row.id,
        }
    }
}

#[ComplexObject(rename_fields = "snake_case", rename_args = "snake_case")]
impl AgentSummary {
    async fn occupied_slots(&self, ctx: &Context<'_>) -> Maybe<JsonString> {
        maybe(async { Ok(Some(JsonString(occupied(ctx, &self.key).await?))) }).await
    }
}

pages!(AgentList of Agent, AgentSummaryList of AgentSummary);

fn scope(scaling_group: Option<String>, status: Option<String>) -> Answer<Scope> {
    Ok(Scope {
        id: None,
        scaling_groups: scaling_group.map(|g| vec![g]),
        statuses: status.map(|s| input::words(&s)).transpose()?,
    })
}

/// The scaling groups whose agents the caller may know.
async fn reachable(ctx: &Context<'_>) -> Answer<Vec<String>> {
    if control(ctx).settings().hide_agents {
        return Err(quarterdeck_control::Error::not_found("agent").into());
    }
    let caller = caller(ctx);
    let mut sql = control(ctx).store().reader();
    Ok(agents::reachable_groups(&mut sql, &caller.domain, caller.user_id, &caller.access_key).await?)
}

/// What can be asked about agents.
#[derive(Default)]
pub(crate) struct AgentQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl AgentQueries {
    async fn agent(&self, ctx: &Context<'_>, agent_id: String) -> Maybe<Agent> {
        maybe(async {
            superadmin(ctx)?;
            let scope = Scope { id: Some(AgentId(agent_id)), ..Scope::default() };
            let rows = agents::select(&mut control(ctx).store().reader(), &scope).await?;
            Ok(rows.into_iter().next().map(Into::into))
        })
        .await
    }

    async fn agents(
        &self,
        ctx: &Context<'_>,
        scaling_group: Option<String>,
        status: Option<String>,
    ) -> Maybe<Vec<Option<Agent>>> {
        maybe(async {
            superadmin(ctx)?;
            let scope = scope(scaling_group, status)?;
            Ok(Some(list(agents::select(&mut control(ctx).store().reader(), &scope).await?)))
        })
        .await
    }

    #[allow(clippy::too_many_arguments, reason = "the contract's")]
    async fn agent_list(
        &self,
        ctx: &Context<'_>,
        limit: i32,
        offset: i32,
        filter: Option<String>,
        order: Option<String>,
        scaling_group: Option<String>,
        status: Option<String>,
    ) -> Maybe<AgentList> {
        maybe(async {
            superadmin(ctx)?;
            let scope = scope(scaling_group, status)?;
            let listing =
                Listing::parse(agents::FIELDS, filter.as_deref(), order.as_deref(), limit.into(), offset.into())?;
            Ok(Some(agents::page(&mut control(ctx).store().reader(), &scope, &listing).await?.into()))
        })
        .await
    }

    async fn agent_summary(&self, ctx: &Context<'_>, agent_id: String) -> Maybe<AgentSummary> {
        maybe(async {
            let groups = reachable(ctx).await?;
            let scope = Scope { id: Some(AgentId(agent_id)), scaling_groups: Some(groups), statuses: None };
            let rows = agents::select(&mut control(ctx).store().reader(), &scope).await?;
            Ok(rows.into_iter().next().map(Into::into))
        })
        .await
    }

    #[allow(clippy::too_many_arguments, reason = "the contract's")]
    async fn agent_summary_list(
        &self,
        ctx: &Context<'_>,
        limit: i32,
        offset: i32,
        filter: Option<String>,
        order: Option<String>,
        scaling_group: Option<String>,
        status: Option<String>,
    ) -> Maybe<AgentSummaryList> {
        maybe(async {
            let groups = reachable(ctx).await?;
            let mut scope = scope(scaling_group, status)?;
            // Naming a scaling group shows no user more than the user may reach.
            scope.scaling_groups = Some(match scope.scaling_groups {
                None => groups,
                Some(asked) if caller(ctx).is_superadmin() => asked,
                Some(asked) => asked.into_iter().filter(|g| groups.contains(g)).collect(),
            });
            let listing = Listing::parse(
                agents::SUMMARY_FIELDS,
                filter.as_deref(),
                order.as_deref(),
                limit.into(),
                offset.into(),
            )?;
            Ok(Some(agents::page(&mut control(ctx).store().reader(), &scope, &listing).await?.into()))
        })
        .await
    }
}

payloads!(ModifyAgent);

/// What may be changed about an agent.
#[derive(InputObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct ModifyAgentInput {
    schedulable: Option<bool>,
    scaling_group: Option<String>,
}

/// What can be changed about agents.
#[derive(Default)]
pub(crate) struct AgentMutations;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl AgentMutations {
    async fn modify_agent(&self, ctx: &Context<'_>, id: String, props: ModifyAgentInput) -> Maybe<ModifyAgent> {
        change(ctx, "modify_agent", Allowed::Superadmin, async {
            let change = use_cases::ModifyAgent { schedulable: props.schedulable, scaling_group: props.scaling_group };
            use_cases::modify(control(ctx), &AgentId(id), &change).await?;
            Ok(ModifyAgent::success())
        })
        .await
    }
}
