//! Model services and the routes to their sessions.

use async_graphql::{ComplexObject, Context, ID, Object, SimpleObject};
use quarterdeck_control::store::endpoints::{self, EndpointRow, EndpointScope, RouteRow, RouteScope};
use quarterdeck_control::store::listing::{Listing, Page};
use quarterdeck_control::{Error, Principal, scope};
use quarterdeck_model::slots::SlotMap;
use quarterdeck_model::{ClusterMode, EndpointId, ProjectId, RouteId, UserId};
use serde_json::{Value as Json, json};

use super::fault::{Answer, Maybe, maybe};
use super::loaders::RoutesOf;
use super::pages::pages;
use super::scalars::{JsonString, UuidText, int};
use super::{caller, control, input, loader};

/// A model service.
#[derive(SimpleObject)]
#[graphql(complex, rename_fields = "snake_case")]
pub(crate) struct Endpoint {
    id: Option<ID>,
    endpoint_id: Option<UuidText>,
    image: Option<String>,
    domain: Option<String>,
    project: Option<String>,
    resource_group: Option<String>,
    resource_slots: Option<JsonString>,
    url: Option<String>,
    model: Option<UuidText>,
    // So it is called on the wire.
    model_mount_destiation: Option<String>,
    created_user: Option<UuidText>,
    session_owner: Option<UuidText>,
    tag: Option<String>,
    startup_command: Option<String>,
    bootstrap_script: Option<String>,
    callback_url: Option<String>,
    environ: Option<JsonString>,
    name: Option<String>,
    resource_opts: Option<JsonString>,
    desired_session_count: Maybe<i32>,
    cluster_mode: Option<String>,
    cluster_size: Maybe<i32>,
    open_to_public: Option<bool>,
    #[graphql(skip)]
    key: EndpointId,
}

/// Slots as all answers have them: plain decimals, memory in bytes. A service keeps them as they were asked for.
fn amounts(slots: Json) -> Json {
    SlotMap::from_user_input(&slots, None).map_or(slots, |amounts| amounts.to_json())
}

impl From<EndpointRow> for Endpoint {
    fn from(row: EndpointRow) -> Self {
        let mode = match row.cluster_mode {
            ClusterMode::SingleNode => "SINGLE_NODE",
            ClusterMode::MultiNode => "MULTI_NODE",
        };
        Self {
            id: Some(ID(row.id.to_string())),
            endpoint_id: Some(UuidText(row.id.0)),
            image: Some(row.image),
            domain: Some(row.domain_name),
            project: Some(row.project_id.to_string()),
            resource_group: Some(row.scaling_group),
            resource_slots: Some(JsonString(amounts(row.resource_slots))),
            url: row.url,
            model: row.model.map(|id| UuidText(id.0)),
            model_mount_destiation: Some(row.model_mount_destination),
            created_user: Some(UuidText(row.created_user.0)),
            session_owner: Some(UuidText(row.session_owner.0)),
            tag: row.tag,
            startup_command: row.startup_command,
            bootstrap_script: row.bootstrap_script,
            callback_url: row.callback_url,
            environ: Some(JsonString(json!(row.environ))),
            name: Some(row.name),
            resource_opts: Some(JsonString(row.resource_opts)),
            desired_session_count: int(row.desired_session_count),
            cluster_mode: Some(mode.to_owned()),
            cluster_size: int(row.cluster_size),
            open_to_public: Some(row.open_to_public),
            key: row.id,
        }
    }
}

#[ComplexObject(rename_fields = "snake_case", rename_args = "snake_case")]
impl Endpoint {
    async fn routings(&self, ctx: &Context<'_>) -> Maybe<Vec<Option<Routing>>> {
        maybe(async {
            let routes = loader(ctx).load_one(RoutesOf(self.key)).await?.unwrap_or_default();
            Ok(Some(routes.into_iter().map(|row| Some(row.into())).collect()))
        })
        .await
    }
}

/// A route to a session of a model service.
#[derive(SimpleObject)]
#[graphql(rename_fields = "snake_case")]
pub(crate) struct Routing {
    id: Option<ID>,
    routing_id: Option<UuidText>,
    endpoint: Option<String>,
    session: Option<UuidText>,
    status: Option<String>,
    traffic_ratio: Option<f64>,
}

impl From<RouteRow> for Routing {
    fn from(row: RouteRow) -> Self {
        Self {
            id: Some(ID(row.id.to_string())),
            routing_id: Some(UuidText(row.id.0)),
            endpoint: row.endpoint_url,
            session: Some(UuidText(row.session.0)),
            status: Some(row.status.shown()),
            traffic_ratio: Some(row.traffic_ratio),
        }
    }
}

pages!(EndpointList of Endpoint, RoutingList of Routing);

/// The domain and owner that a caller's look at services is confined to.
fn confined(caller: &Principal, domain: Option<&str>) -> Answer<(Option<String>, Option<UserId>)> {
    let own = caller.user_id.to_string();
    let scope = scope::Scope::for_list(caller, domain, None, &own)?;
    let owner = scope.user_key.map(|_| caller.user_id);
    Ok((scope.domain, owner))
}

/// What can be asked about model services.
#[derive(Default)]
pub(crate) struct EndpointQueries;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl EndpointQueries {
    async fn endpoint(&self, ctx: &Context<'_>, endpoint_id: UuidText) -> Maybe<Endpoint> {
        maybe(async {
            let (domain, owner) = confined(caller(ctx), None)?;
            let scope =
                EndpointScope { id: Some(EndpointId(endpoint_id.0)), domain, owner, ..EndpointScope::default() };
            let row = endpoints::select(&mut control(ctx).store().reader(), &scope).await?.pop();
            Ok(Some(row.ok_or_else(|| Error::not_found("endpoint"))?.into()))
        })
        .await
    }

    #[allow(clippy::too_many_arguments, reason = "the contract's")]
    async fn endpoint_list(
        &self,
        ctx: &Context<'_>,
        limit: i32,
        offset: i32,
        #[graphql(name = "filter")] _filter: Option<String>,
        #[graphql(name = "order")] _order: Option<String>,
        domain_name: Option<String>,
        group_id: Option<String>,
        access_key: Option<String>,
        project: Option<UuidText>,
    ) -> Maybe<EndpointList> {
        maybe(async {
            let caller = caller(ctx);
            let (domain, mut owner) = confined(caller, domain_name.as_deref())?;
            let sql = &mut control(ctx).store().reader();
            if let Some(key) = access_key {
                // A key pair stands for its user, whose services may be asked for as far as the caller sees them.
                let Some(credential) = control(ctx).identity().credential(&key).await? else {
                    return Ok(Some(Page { items: Vec::<EndpointRow>::new(), total: 0 }.into()));
                };
                let user = credential.principal.user_id;
                if owner.is_some_and(|own| own != user) {
                    return Err(Error::Forbidden(String::new()).into());
                }
                owner = Some(user);
            }
            let project = match project {
                Some(id) => Some(ProjectId(id.0)),
                None => input::project(group_id)?,
            };
            let scope = EndpointScope { domain, owner, project, ..EndpointScope::default() };
            let listing = Listing::parse(&[], None, None, limit.into(), offset.into())?;
            Ok(Some(endpoints::page(sql, &scope, &listing).await?.into()))
        })
        .await
    }

    async fn routing(&self, ctx: &Context<'_>, routing_id: UuidText) -> Maybe<Routing> {
        maybe(async {
            let (domain, owner) = confined(caller(ctx), None)?;
            let scope = RouteScope { id: Some(RouteId(routing_id.0)), domain, owner, ..RouteScope::default() };
            let row = endpoints::select_routes(&mut control(ctx).store().reader(), &scope).await?.pop();
            Ok(Some(row.ok_or_else(|| Error::not_found("routing"))?.into()))
        })
        .await
    }

    async fn routing_list(
        &self,
        ctx: &Context<'_>,
        limit: i32,
        offset: i32,
        #[graphql(name = "filter")] _filter: Option<String>,
        #[graphql(name = "order")] _order: Option<String>,
        endpoint_id: Option<UuidText>,
    ) -> Maybe<RoutingList> {
        maybe(async {
            let (domain, owner) = confined(caller(ctx), None)?;
            let endpoint = endpoint_id.map(|id| EndpointId(id.0));
            let scope = RouteScope { endpoint, domain, owner, ..RouteScope::default() };
            let listing = Listing::parse(&[], None, None, limit.into(), offset.into())?;
            Ok(Some(endpoints::route_page(&mut control(ctx).store().reader(), &scope, &listing).await?.into()))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_plain() {
        assert_eq!(amounts(json!({"cpu": 1, "mem": "1g"})), json!({"cpu": "1", "mem": "1073741824"}));
        assert_eq!(amounts(json!({"cpu": "many"})), json!({"cpu": "many"}));
    }
}
