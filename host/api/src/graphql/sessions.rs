//! Sessions.

use async_graphql::{ComplexObject, Context, ID, Object, SimpleObject};
use quarterdeck_control::store::listing::Listing;
use quarterdeck_control::store::lists::containers::ContainerItem;
use quarterdeck_control::store::lists::sessions::{self, Scope, SessionItem};
use quarterdeck_control::{Error, scope};
use quarterdeck_model::slots::SlotMap;
use quarterdeck_model::{AccessKey, SessionId};
use serde_json::{Map, Value as Json, json};

use super::containers::ComputeContainer;
use super::fault::{Answer, Maybe, list, maybe};
use super::loaders::{CommitOf, DependenciesOf, IdleChecksOf, KernelsOf};
use super::pages::pages;
use super::scalars::{BigInt, DateTime, JsonString, UuidText, int};
use super::{caller, control, input, loader};

/// What somebody computes in.
#[derive(SimpleObject)]
#[graphql(complex, rename_fields = "snake_case")]
pub(crate) struct ComputeSession {
    id: Option<ID>,
    session_id: Option<UuidText>,
    main_kernel_id: Option<UuidText>,
    tag: Option<String>,
    name: Option<String>,
    #[graphql(name = "type")]
    kind: Option<String>,
    main_kernel_role: Option<String>,
    image: Option<String>,
    architecture: Option<String>,
    registry: Option<String>,
    /// Never given.
    cluster_template: Option<String>,
    cluster_mode: Option<String>,
    cluster_size: Maybe<i32>,
    domain_name: Option<String>,
    group_name: Option<String>,
    group_id: Option<UuidText>,
    user_email: Option<String>,
    full_name: Option<String>,
    user_id: Option<UuidText>,
    access_key: Option<String>,
    /// Never given.
    created_user_email: Option<String>,
    /// Never given.
    created_user_id: Option<UuidText>,
    status: Option<String>,
    status_changed: Option<DateTime>,
    status_info: Option<String>,
    status_data: Option<JsonString>,
    status_history: Option<JsonString>,
    created_at: Option<DateTime>,
    terminated_at: Option<DateTime>,
    starts_at: Option<DateTime>,
    startup_command: Option<String>,
    result: Option<String>,
    scaling_group: Option<String>,
    service_ports: Option<JsonString>,
    mounts: Option<Vec<Option<String>>>,
    vfolder_mounts: Option<Vec<Option<String>>>,
    num_queries: Maybe<BigInt>,
    #[graphql(skip)]
    key: SessionId,
    #[graphql(skip)]
    is_dead: bool,
}

/// The texts under `name` in a list of mounts.
fn of_mounts(mounts: &Json, name: &str) -> Vec<Option<String>> {
    let mounts = mounts.as_array().map(Vec::as_slice).unwrap_or_default();
    mounts.iter().filter_map(|m| m.get(name)?.as_str()).map(|text| Some(text.to_owned())).collect()
}

/// Each mount as the text of its document.
fn documents(mounts: &Json) -> Vec<Option<String>> {
    mounts.as_array().into_iter().flatten().map(|mount| Some(mount.to_string())).collect()
}

impl From<SessionItem> for ComputeSession {
    fn from(row: SessionItem) -> Self {
        let main = row.main;
        Self {
            id: Some(ID(row.id.to_string())),
            session_id: Some(UuidText(row.id.0)),
            main_kernel_id: main.as_ref().map(|m| UuidText(m.id.0)),
            main_kernel_role: main.as_ref().map(|m| m.role.to_string()),
            image: main.as_ref().map(|m| m.image.clone()),
            architecture: main.as_ref().map(|m| m.architecture.clone()),
            registry: main.as_ref().map(|m| m.registry.clone()),
            service_ports: main.and_then(|m| m.service_ports).map(JsonString),
            tag: row.tag,
            name: Some(row.name),
            kind: Some(row.kind.to_string()),
            cluster_template: None,
            cluster_mode: Some(row.cluster_mode.to_string()),
            cluster_size: int(row.cluster_size),
            domain_name: Some(row.domain_name),
            group_name: Some(row.group_name),
            group_id: Some(UuidText(row.project_id.0)),
            user_email: Some(row.user_email),
            full_name: row.full_name,
            user_id: Some(UuidText(row.user_id.0)),
            access_key: Some(row.access_key.0),
            created_user_email: None,
            created_user_id: None,
            status: Some(row.status.to_string()),
            status_changed: Some(row.status_changed.into()),
            status_info: row.status_info,
            status_data: row.status_data.map(JsonString),
            status_history: Some(JsonString(row.status_history)),
            created_at: Some(row.created_at.into()),
            terminated_at: row.terminated_at.map(Into::into),
            starts_at: row.starts_at.map(Into::into),
            startup_command: row.startup_command,
            result: Some(row.result.to_string()),
            scaling_group: Some(row.scaling_group),
            mounts: Some(of_mounts(&row.vfolder_mounts, "name")),
            vfolder_mounts: Some(documents(&row.vfolder_mounts)),
            num_queries: BigInt::safe(row.num_queries),
            key: row.id,
            is_dead: row.status.is_dead(),
        }
    }
}

impl ComputeSession {
    async fn kernels(&self, ctx: &Context<'_>) -> Answer<Vec<ContainerItem>> {
        Ok(loader(ctx).load_one(KernelsOf(self.key)).await?.unwrap_or_default())
    }

    /// The slots of all kernels together.
    async fn slots(&self, ctx: &Context<'_>) -> Answer<Option<JsonString>> {
        let mut sum = SlotMap::new();
        for kernel in self.kernels(ctx).await? {
            let slots = SlotMap::from_stored(&kernel.occupied_slots);
            sum = slots.and_then(|slots| sum.add(&slots)).map_err(|e| Error::Internal(format!("stored slots: {e}")))?;
        }
        Ok(Some(JsonString(sum.to_json())))
    }
}

#[ComplexObject(rename_fields = "snake_case", rename_args = "snake_case")]
impl ComputeSession {
    async fn containers(&self, ctx: &Context<'_>) -> Maybe<Vec<Option<ComputeContainer>>> {
        maybe(async { Ok(Some(list(self.kernels(ctx).await?))) }).await
    }

    async fn dependencies(&self, ctx: &Context<'_>) -> Maybe<Vec<Option<ComputeSession>>> {
        maybe(async { Ok(Some(list(loader(ctx).load_one(DependenciesOf(self.key)).await?.unwrap_or_default()))) }).await
    }

    async fn occupying_slots(&self, ctx: &Context<'_>) -> Maybe<JsonString> {
        maybe(self.slots(ctx)).await
    }

    async fn occupied_slots(&self, ctx: &Context<'_>) -> Maybe<JsonString> {
        maybe(self.slots(ctx)).await
    }

    /// Each kernel's options under its host name.
    async fn resource_opts(&self, ctx: &Context<'_>) -> Maybe<JsonString> {
        maybe(async {
            let kernels = self.kernels(ctx).await?;
            let opts: Map<_, _> = kernels.into_iter().map(|k| (k.cluster_hostname, k.resource_opts)).collect();
            Ok(Some(JsonString(Json::Object(opts))))
        })
        .await
    }

    async fn idle_checks(&self, ctx: &Context<'_>) -> Maybe<JsonString> {
        maybe(async {
            let checks = loader(ctx).load_one(IdleChecksOf(self.key)).await?;
            Ok(Some(JsonString(checks.unwrap_or_else(|| json!({})))))
        })
        .await
    }

    /// One entry a kernel; misuse is not reported in this release.
    async fn abusing_reports(&self, ctx: &Context<'_>) -> Maybe<Vec<Option<JsonString>>> {
        maybe(async { Ok(Some(self.kernels(ctx).await?.iter().map(|_| None).collect())) }).await
    }

    /// `ongoing` while its work directory is being archived; what has ended can't be.
    async fn commit_status(&self, ctx: &Context<'_>) -> Maybe<&'static str> {
        maybe(async {
            if self.is_dead {
                let msg = format!("Session (id={}) does not exist.", self.key);
                return Err(Error::not_found_msg("session", msg).into());
            }
            let is_ongoing = loader(ctx).load_one(CommitOf(self.key)).await?.unwrap_or_default();
            Ok(Some(if is_ongoing { "ongoing" } else { "ready" }))
        })
        .await
    }

    /// No requests pass through the host in this release, so none are counted.
    async fn inference_metrics(&self) -> Option<JsonString> {
        Some(JsonString(json!({ "requests": 0, "last_response_ms": 0 })))
    }
}

pages!(ComputeSessionList of ComputeSession);

/// What can be asked about sessions.
#[derive(Default)]
pub(crate) struct SessionQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl SessionQueries {
    async fn compute_session(&self, ctx: &Context<'_>, id: UuidText) -> Maybe<ComputeSession> {
        maybe(async {
            let caller = caller(ctx);
            let asked = scope::Scope::for_list(caller, None, None, caller.access_key.as_str())?;
            let scope = Scope {
                ids: Some(vec![SessionId(id.0)]),
                domain: asked.domain,
                access_keys: asked.user_key.map(|key| vec![AccessKey(key)]),
                ..Scope::default()
            };
            let rows = sessions::select(&mut control(ctx).store().reader(), &scope, 1).await?;
            Ok(rows.into_iter().next().map(Into::into))
        })
        .await
    }

    #[allow(clippy::too_many_arguments, reason = "the contract's")]
    async fn compute_session_list(
        &self,
        ctx: &Context<'_>,
        limit: i32,
        offset: i32,
        filter: Option<String>,
        order: Option<String>,
        domain_name: Option<String>,
        group_id: Option<String>,
        access_key: Option<String>,
        status: Option<String>,
    ) -> Maybe<ComputeSessionList> {
        maybe(async {
            let caller = caller(ctx);
            let own = caller.access_key.as_str();
            let asked = scope::Scope::for_list(caller, domain_name.as_deref(), access_key.as_deref(), own)?;
            let scope = Scope {
                ids: None,
                domain: asked.domain,
                project: input::project(group_id)?,
                access_keys: asked.user_key.map(|key| vec![AccessKey(key)]),
                statuses: status.map(|s| input::words(&s)).transpose()?,
            };
            let listing =
                Listing::parse(sessions::FIELDS, filter.as_deref(), order.as_deref(), limit.into(), offset.into())?;
            Ok(Some(sessions::page(&mut control(ctx).store().reader(), &scope, &listing).await?.into()))
        })
        .await
    }
}
