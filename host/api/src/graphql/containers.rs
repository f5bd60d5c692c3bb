//! Kernels.

use async_graphql::{ComplexObject, Context, ID, Object, SimpleObject};
use quarterdeck_control::scope;
use quarterdeck_control::store::listing::Listing;
use quarterdeck_control::store::lists::containers::{self, ContainerItem, Scope};
use quarterdeck_model::{AccessKey, KernelId, SessionId};
use serde_json::Value as Json;

use super::fault::{Answer, Maybe, maybe};
use super::loaders::StatOfKernel;
use super::pages::pages;
use super::scalars::{DateTime, JsonString, UuidText, int};
use super::{caller, control, input, loader};

/// One kernel of a session.
#[derive(SimpleObject)]
#[graphql(complex, rename_fields = "snake_case")]
pub(crate) struct ComputeContainer {
    id: Option<ID>,
    idx: Maybe<i32>,
    role: Option<String>,
    hostname: Option<String>,
    cluster_idx: Maybe<i32>,
    local_rank: Maybe<i32>,
    cluster_role: Option<String>,
    cluster_hostname: Option<String>,
    session_id: Option<UuidText>,
    image: Option<String>,
    architecture: Option<String>,
    registry: Option<String>,
    status: Option<String>,
    status_changed: Option<DateTime>,
    status_info: Option<String>,
    status_data: Option<JsonString>,
    created_at: Option<DateTime>,
    terminated_at: Option<DateTime>,
    starts_at: Option<DateTime>,
    resource_opts: Option<JsonString>,
    occupied_slots: Option<JsonString>,
    #[graphql(skip)]
    key: KernelId,
    #[graphql(skip)]
    stored_stat: Option<Json>,
    #[graphql(skip)]
    place: Place,
}

/// Where something runs: hidden from users where the host is told so.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) agent: Option<String>,
    pub(crate) addr: Option<String>,
    pub(crate) container: Option<String>,
}

impl Place {
    /// This place, if the caller may know it.
    pub(crate) fn visible(&self, ctx: &Context<'_>) -> Option<&Self> {
        (caller(ctx).is_superadmin() || !control(ctx).settings().hide_agents).then_some(self)
    }
}

impl From<ContainerItem> for ComputeContainer {
    fn from(row: ContainerItem) -> Self {
        Self {
            id: Some(ID(row.id.to_string())),
            idx: int(row.cluster_idx),
            role: Some(row.cluster_role.clone()),
            hostname: Some(row.cluster_hostname.clone()),
            cluster_idx: int(row.cluster_idx),
            local_rank: int(row.local_rank),
            cluster_role: Some(row.cluster_role),
            cluster_hostname: Some(row.cluster_hostname),
            session_id: Some(UuidText(row.session_id.0)),
            image: Some(row.image),
            architecture: Some(row.architecture),
            registry: Some(row.registry),
            status: Some(row.status.to_string()),
            status_changed: Some(row.status_changed.into()),
            status_info: row.status_info,
            status_data: row.status_data.map(JsonString),
            created_at: Some(row.created_at.into()),
            terminated_at: row.terminated_at.map(Into::into),
            starts_at: row.starts_at.map(Into::into),
            resource_opts: Some(JsonString(row.resource_opts)),
            occupied_slots: Some(JsonString(row.occupied_slots)),
            key: row.id,
            stored_stat: row.last_stat,
            place: Place { agent: row.agent_id.map(|id| id.0), addr: row.agent_addr, container: row.container_id },
        }
    }
}

#[ComplexObject(rename_fields = "snake_case", rename_args = "snake_case")]
impl ComputeContainer {
    /// Misuse is not reported in this release.
    async fn abusing_report(&self) -> Option<JsonString> {
        None
    }

    /// What its agent measures now.
    async fn live_stat(&self, ctx: &Context<'_>) -> Maybe<JsonString> {
        maybe(async { Ok(live_stat(ctx, self.key).await?.map(JsonString)) }).await
    }

    /// What its agent measured last.
    async fn last_stat(&self, ctx: &Context<'_>) -> Maybe<JsonString> {
        maybe(async {
            let stat = live_stat(ctx, self.key).await?;
            Ok(stat.or_else(|| self.stored_stat.clone()).map(JsonString))
        })
        .await
    }

    async fn agent(&self, ctx: &Context<'_>) -> Option<&str> {
        self.place.visible(ctx)?.agent.as_deref()
    }

    async fn agent_addr(&self, ctx: &Context<'_>) -> Option<&str> {
        self.place.visible(ctx)?.addr.as_deref()
    }

    async fn container_id(&self, ctx: &Context<'_>) -> Option<&str> {
        self.place.visible(ctx)?.container.as_deref()
    }
}

pages!(ComputeContainerList of ComputeContainer);

/// What can be asked about kernels.
#[derive(Default)]
pub(crate) struct ContainerQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl ContainerQueries {
    async fn compute_container(&self, ctx: &Context<'_>, id: UuidText) -> Maybe<ComputeContainer> {
        maybe(async {
            let caller = caller(ctx);
            let asked = scope::Scope::for_list(caller, None, None, caller.access_key.as_str())?;
            let scope = Scope {
                id: Some(KernelId(id.0)),
                domain: asked.domain,
                access_key: asked.user_key.map(AccessKey),
                ..Scope::default()
            };
            let rows = containers::select(&mut control(ctx).store().reader(), &scope).await?;
            Ok(rows.into_iter().next().map(Into::into))
        })
        .await
    }

    #[allow(clippy::too_many_arguments, reason = "the contract's")]
    async fn compute_container_list(
        &self,
        ctx: &Context<'_>,
        limit: i32,
        offset: i32,
        filter: Option<String>,
        order: Option<String>,
        session_id: ID,
        role: Option<String>,
    ) -> Maybe<ComputeContainerList> {
        maybe(async {
            let caller = caller(ctx);
            let asked = scope::Scope::for_list(caller, None, None, caller.access_key.as_str())?;
            let scope = Scope {
                sessions: Some(vec![SessionId(input::uuid(&session_id)?)]),
                domain: asked.domain,
                access_key: asked.user_key.map(AccessKey),
                role,
                ..Scope::default()
            };
            let listing =
                Listing::parse(containers::FIELDS, filter.as_deref(), order.as_deref(), limit.into(), offset.into())?;
            Ok(Some(containers::page(&mut control(ctx).store().reader(), &scope, &listing).await?.into()))
        })
        .await
    }
}

/// What a kernel's agent measures now.
pub(crate) async fn live_stat(ctx: &Context<'_>, kernel: KernelId) -> Answer<Option<Json>> {
    loader(ctx).load_one(StatOfKernel(kernel)).await
}

/// A number in statistics: the last of `path` may be a text of digits.
pub(crate) fn metric(stat: Option<&Json>, path: &[&str]) -> f64 {
    let value = stat.and_then(|stat| path.iter().try_fold(stat, |at, key| at.get(key)));
    match value {
        Some(Json::Number(number)) => number.as_f64().unwrap_or_default(),
        Some(Json::String(text)) => text.parse().unwrap_or_default(),
        _ => 0.0,
    }
}
