//! Sessions as old clients know them: their main kernels.

use async_graphql::{ComplexObject, Context, ID, Object, SimpleObject};
use quarterdeck_control::store::listing::Listing;
use quarterdeck_control::store::lists::legacy_sessions::{self, LegacySessionItem, Scope};
use quarterdeck_control::{Error, scope};
use quarterdeck_model::{AccessKey, KernelId};
use serde_json::{Value as Json, json};

use super::agents::{amount, mebibytes};
use super::containers::{Place, live_stat, metric};
use super::fault::{Answer, Maybe, maybe};
use super::pages::pages;
use super::scalars::{BigInt, DateTime, JsonString, UuidText};
use super::{caller, control, input};

/// A session's main kernel.
#[derive(SimpleObject)]
#[graphql(complex, rename_fields = "snake_case")]
pub(crate) struct LegacyComputeSession {
    id: Option<ID>,
    tag: Option<String>,
    sess_id: Option<String>,
    sess_type: Option<String>,
    session_name: Option<String>,
    session_type: Option<String>,
    role: Option<String>,
    image: Option<String>,
    architecture: Option<String>,
    registry: Option<String>,
    domain_name: Option<String>,
    group_name: Option<String>,
    group_id: Option<UuidText>,
    scaling_group: Option<String>,
    user_uuid: Option<UuidText>,
    access_key: Option<String>,
    status: Option<String>,
    status_changed: Option<DateTime>,
    status_info: Option<String>,
    created_at: Option<DateTime>,
    terminated_at: Option<DateTime>,
    startup_command: Option<String>,
    result: Option<String>,
    service_ports: Option<JsonString>,
    occupied_slots: Option<JsonString>,
    /// Always empty.
    occupied_shares: Option<JsonString>,
    /// Never given.
    mounts: Option<Vec<Option<Vec<Option<String>>>>>,
    resource_opts: Option<JsonString>,
    num_queries: Maybe<BigInt>,
    user_email: Option<String>,
    lang: Option<String>,
    mem_slot: Option<i32>,
    cpu_slot: Option<f64>,
    gpu_slot: Option<f64>,
    tpu_slot: Option<f64>,
    #[graphql(skip)]
    key: KernelId,
    #[graphql(skip)]
    stored_stat: Option<Json>,
    #[graphql(skip)]
    place: Place,
}

impl From<LegacySessionItem> for LegacyComputeSession {
    fn from(row: LegacySessionItem) -> Self {
        Self {
            id: Some(ID(row.id.to_string())),
            tag: row.tag,
            sess_id: Some(row.session_name.clone()),
            sess_type: Some(row.kind.to_string()),
            session_name: Some(row.session_name),
            session_type: Some(row.kind.to_string()),
            role: Some(row.cluster_role),
            lang: Some(row.image.clone()),
            image: Some(row.image),
            architecture: Some(row.architecture),
            registry: Some(row.registry),
            domain_name: Some(row.domain_name),
            group_name: Some(row.group_name),
            group_id: Some(UuidText(row.project_id.0)),
            scaling_group: Some(row.scaling_group),
            user_uuid: Some(UuidText(row.user_id.0)),
            user_email: Some(row.user_email),
            access_key: Some(row.access_key.0),
            status: Some(row.status.to_string()),
            status_changed: Some(row.status_changed.into()),
            status_info: row.status_info,
            created_at: Some(row.created_at.into()),
            terminated_at: row.terminated_at.map(Into::into),
            startup_command: row.startup_command,
            result: Some(row.result.to_string()),
            service_ports: row.service_ports.map(JsonString),
            occupied_shares: Some(JsonString(json!({}))),
            mounts: None,
            resource_opts: Some(JsonString(row.resource_opts)),
            num_queries: BigInt::safe(row.num_queries),
            mem_slot: Some(mebibytes(&row.occupied_slots)),
            cpu_slot: Some(amount(&row.occupied_slots, "cpu")),
            gpu_slot: Some(amount(&row.occupied_slots, "cuda.device")),
            tpu_slot: Some(amount(&row.occupied_slots, "tpu.device")),
            occupied_slots: Some(JsonString(row.occupied_slots)),
            key: row.id,
            stored_stat: row.last_stat,
            place: Place { agent: row.agent_id.map(|id| id.0), addr: None, container: row.container_id },
        }
    }
}

impl LegacyComputeSession {
    /// What the agent measures now, or did last.
    async fn stat(&self, ctx: &Context<'_>) -> Answer<Option<Json>> {
        Ok(live_stat(ctx, self.key).await?.or_else(|| self.stored_stat.clone()))
    }

    async fn bytes(&self, ctx: &Context<'_>, path: &[&str]) -> Maybe<BigInt> {
        match self.stat(ctx).await {
            Ok(stat) => BigInt::safe(metric(stat.as_ref(), path) as i64),
            Err(fault) => Some(Err(fault)),
        }
    }
}

#[ComplexObject(rename_fields = "snake_case", rename_args = "snake_case")]
impl LegacyComputeSession {
    async fn live_stat(&self, ctx: &Context<'_>) -> Maybe<JsonString> {
        maybe(async { Ok(live_stat(ctx, self.key).await?.map(JsonString)) }).await
    }

    async fn last_stat(&self, ctx: &Context<'_>) -> Maybe<JsonString> {
        maybe(async { Ok(self.stat(ctx).await?.map(JsonString)) }).await
    }

    async fn cpu_using(&self, ctx: &Context<'_>) -> Maybe<f64> {
        maybe(async { Ok(Some(metric(self.stat(ctx).await?.as_ref(), &["cpu_util", "pct"]))) }).await
    }

    async fn cpu_used(&self, ctx: &Context<'_>) -> Maybe<BigInt> {
        self.bytes(ctx, &["cpu_used", "current"]).await
    }

    async fn mem_max_bytes(&self, ctx: &Context<'_>) -> Maybe<BigInt> {
        self.bytes(ctx, &["mem", "stats.max"]).await
    }

    async fn mem_cur_bytes(&self, ctx: &Context<'_>) -> Maybe<BigInt> {
        self.bytes(ctx, &["mem", "current"]).await
    }

    async fn net_rx_bytes(&self, ctx: &Context<'_>) -> Maybe<BigInt> {
        self.bytes(ctx, &["net_rx", "stats.rate"]).await
    }

    async fn net_tx_bytes(&self, ctx: &Context<'_>) -> Maybe<BigInt> {
        self.bytes(ctx, &["net_tx", "stats.rate"]).await
    }

    async fn io_read_bytes(&self, ctx: &Context<'_>) -> Maybe<BigInt> {
        self.bytes(ctx, &["io_read", "current"]).await
    }

    async fn io_write_bytes(&self, ctx: &Context<'_>) -> Maybe<BigInt> {
        self.bytes(ctx, &["io_write", "current"]).await
    }

    async fn io_max_scratch_size(&self, ctx: &Context<'_>) -> Maybe<BigInt> {
        self.bytes(ctx, &["io_scratch_size", "stats.max"]).await
    }

    async fn io_cur_scratch_size(&self, ctx: &Context<'_>) -> Maybe<BigInt> {
        self.bytes(ctx, &["io_scratch_size", "current"]).await
    }

    async fn agent(&self, ctx: &Context<'_>) -> Option<&str> {
        self.place.visible(ctx)?.agent.as_deref()
    }

    async fn container_id(&self, ctx: &Context<'_>) -> Option<&str> {
        self.place.visible(ctx)?.container.as_deref()
    }
}

pages!(LegacyComputeSessionList of LegacyComputeSession);

/// What can be asked about sessions in the old form.
#[derive(Default)]
pub(crate) struct LegacySessionQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl LegacySessionQueries {
    #[allow(clippy::too_many_arguments, reason = "the contract's")]
    async fn legacy_compute_session_list(
        &self,
        ctx: &Context<'_>,
        limit: i32,
        offset: i32,
        order_key: Option<String>,
        order_asc: Option<bool>,
        domain_name: Option<String>,
        group_id: Option<String>,
        access_key: Option<String>,
        status: Option<String>,
    ) -> Maybe<LegacyComputeSessionList> {
        maybe(async {
            let caller = caller(ctx);
            let own = caller.access_key.as_str();
            let asked = scope::Scope::for_list(caller, domain_name.as_deref(), access_key.as_deref(), own)?;
            let scope = Scope {
                domain: asked.domain,
                access_key: asked.user_key.map(AccessKey),
                project: input::project(group_id)?,
                statuses: status.map(|s| input::words(&s)).transpose()?,
                live: None,
            };
            let order = order_key.map(|key| format!("{}{key}", if order_asc.unwrap_or(true) { '+' } else { '-' }));
            let listing = Listing::parse(legacy_sessions::FIELDS, None, order.as_deref(), limit.into(), offset.into())?;
            Ok(Some(legacy_sessions::page(&mut control(ctx).store().reader(), &scope, &listing).await?.into()))
        })
        .await
    }

    async fn legacy_compute_session(
        &self,
        ctx: &Context<'_>,
        sess_id: String,
        domain_name: Option<String>,
        access_key: Option<String>,
    ) -> Maybe<LegacyComputeSession> {
        maybe(async {
            let caller = caller(ctx);
            let own = caller.access_key.as_str();
            let asked = scope::Scope::for_list(caller, domain_name.as_deref(), access_key.as_deref(), own)?;
            let scope = Scope {
                domain: asked.domain,
                access_key: asked.user_key.map(AccessKey),
                live: Some(sess_id),
                ..Scope::default()
            };
            let mut rows = legacy_sessions::select(&mut control(ctx).store().reader(), &scope, 2).await?;
            if rows.len() > 1 {
                return Err(Error::TooManyKernels.into());
            }
            Ok(rows.pop().map(Into::into))
        })
        .await
    }
}
