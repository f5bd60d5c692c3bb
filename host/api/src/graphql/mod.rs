//! The object graph for administrators and users: one schema, built once, behind two endpoints.
//!
//! One file a noun. Resolvers decide nothing: who sees which rows is in [`scope`], what may be
//! changed is decided by `control`, and how results of changes look is in [`payload`].

mod agents;
mod batches;
mod containers;
mod document;
mod documents;
mod domains;
mod endpoints;
mod fault;
mod groups;
mod images;
mod input;
mod interfaces;
mod keypairs;
mod legacy_sessions;
mod loaders;
mod pages;
mod payload;
mod presets;
mod resource_policies;
mod scalars;
mod scaling_groups;
mod scope;
#[cfg(test)]
mod sdl_tests;
mod sessions;
mod storage;
#[cfg(test)]
mod tests;
mod users;
mod vfolders;

use std::sync::Arc;

use async_graphql::{
    Context, EmptySubscription, MergedObject, Request, SchemaBuilder, ServerError, ValidationMode, Value as ConstValue,
};
use quarterdeck_control::{Control, Principal};
use serde_json::{Map, Value};

use batches::Batches;
use documents::Documents;
use loaders::Loaders;

/// How deep fields may nest; the usual introspection query needs 15.
const MAX_DEPTH: usize = 20;
/// How many fields an operation may have, fragments spread.
const MAX_FIELDS: usize = 4_000;

/// Everything that can be asked.
#[derive(MergedObject, Default)]
#[graphql(name = "Queries")]
pub(crate) struct Queries(
    agents::AgentQueries,
    containers::ContainerQueries,
    domains::DomainQueries,
    endpoints::EndpointQueries,
    groups::GroupQueries,
    images::ImageQueries,
    keypairs::KeyPairQueries,
    legacy_sessions::LegacySessionQueries,
    presets::PresetQueries,
    resource_policies::PolicyQueries,
    scaling_groups::ScalingGroupQueries,
    sessions::SessionQueries,
    storage::StorageQueries,
    users::UserQueries,
    vfolders::VfolderQueries,
);

/// Everything that can be changed.
#[derive(MergedObject, Default)]
#[graphql(name = "Mutations")]
pub(crate) struct Mutations(
    agents::AgentMutations,
    domains::DomainMutations,
    groups::GroupMutations,
    images::ImageMutations,
    keypairs::KeyPairMutations,
    presets::PresetMutations,
    resource_policies::PolicyMutations,
    scaling_groups::ScalingGroupMutations,
    users::UserMutations,
);

/// The schema with all that its resolvers need. Cheap to clone.
#[derive(Clone)]
pub struct Schema {
    schema: Engine,
    /// The same for documents that are known to be valid.
    unchecked: Engine,
    documents: Arc<Documents>,
    control: Control,
}

type Engine = async_graphql::Schema<Queries, Mutations, EmptySubscription>;

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schema").finish_non_exhaustive()
    }
}

/// Builds the schema; do it once.
pub fn schema(control: Control) -> Schema {
    let schema = builder().data(control.clone()).finish();
    let unchecked = builder().data(control.clone()).validation_mode(ValidationMode::Fast).finish();
    Schema { schema, unchecked, documents: Arc::new(Documents::new()), control }
}

/// The shape of the schema, without what its resolvers need.
fn builder() -> SchemaBuilder<Queries, Mutations, EmptySubscription> {
    let builder = async_graphql::Schema::build(Queries::default(), Mutations::default(), EmptySubscription);
    interfaces::register(builder).limit_depth(MAX_DEPTH).limit_complexity(MAX_FIELDS)
}

impl Schema {
    /// Runs one operation of a document, or says what is wrong with it.
    pub(crate) async fn execute(
        &self,
        caller: Arc<Principal>,
        query: String,
        operation: Option<String>,
        variables: Map<String, Value>,
    ) -> Outcome {
        let document = match self.documents.read(&query) {
            Ok(document) => document,
            Err(error) => return Outcome { errors: vec![error], data: None },
        };
        if document::is_ambiguous(document.parsed(), operation.as_deref()) {
            let message = "Must provide operation name if query contains multiple operations.";
            return Outcome { errors: vec![ServerError::new(message, None)], data: None };
        }
        if let Some(error) = document::missing_variable(document.parsed(), operation.as_deref(), &variables) {
            return Outcome { errors: vec![error], data: None };
        }
        let given = self.documents.given(operation.as_deref(), &variables);
        let is_known = document.is_valid(given);
        let batches = Arc::new(Batches::new(Loaders::new(self.control.clone())));
        let mut request = Request::new(query).variables(document::variables(variables)).data(caller);
        request = request.data(Arc::clone(&batches));
        let order = document.order(operation.as_deref());
        request.operation_name = operation;
        request.set_parsed_query(document.parsed().clone());
        let engine = if is_known { &self.unchecked } else { &self.schema };
        let mut response = batches.drive(engine.execute(request)).await;
        // What was refused before it ran has no data; what failed while it ran has a path.
        let ran = response.errors.is_empty() || response.errors.iter().any(|error| !error.path.is_empty());
        if ran && !is_known {
            document.found_valid(given);
        }
        order.arrange(&mut response.data);
        Outcome { errors: response.errors, data: ran.then_some(response.data) }
    }
}

/// What came of an operation, in the order in which it is written down.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Outcome {
    /// What went wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<ServerError>,
    /// The answer, unless the operation was refused as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<ConstValue>,
}

/// The use cases.
fn control<'a>(ctx: &Context<'a>) -> &'a Control {
    ctx.data_unchecked()
}

/// Who asks.
fn caller<'a>(ctx: &Context<'a>) -> &'a Principal {
    ctx.data_unchecked::<Arc<Principal>>()
}

/// What looks up many at once.
fn loader<'a>(ctx: &Context<'a>) -> &'a Batches<Loaders> {
    ctx.data_unchecked::<Arc<Batches<Loaders>>>()
}
