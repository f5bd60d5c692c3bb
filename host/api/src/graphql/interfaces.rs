//! The two interfaces of the contract. No field answers with one of them, so they exist in the
//! schema only: for introspection and for fragments.

use std::borrow::Cow;

use async_graphql::parser::types::Field;
use async_graphql::registry::{Deprecation, MetaField, MetaType, MetaTypeId, Registry};
use async_graphql::{
    ContextSelectionSet, EmptySubscription, ObjectType, OutputType, Positioned, SchemaBuilder, ServerResult, Value,
};

use super::{agents, containers, endpoints, keypairs, legacy_sessions, sessions, storage, users, vfolders};

/// The schema builder with the interfaces.
pub(crate) fn register<Q: ObjectType + 'static, M: ObjectType + 'static>(
    builder: SchemaBuilder<Q, M, EmptySubscription>,
) -> SchemaBuilder<Q, M, EmptySubscription> {
    builder.register_output_type::<Item>().register_output_type::<PaginatedList>()
}

fn field(name: &str, ty: &str) -> (String, MetaField) {
    let meta = MetaField {
        name: name.to_owned(),
        description: None,
        args: Default::default(),
        ty: ty.to_owned(),
        deprecation: Deprecation::NoDeprecated,
        cache_control: Default::default(),
        external: false,
        requires: None,
        provides: None,
        visible: None,
        shareable: false,
        inaccessible: false,
        tags: Vec::new(),
        override_from: None,
        compute_complexity: None,
        directive_invocations: Vec::new(),
        requires_scopes: Vec::new(),
    };
    (name.to_owned(), meta)
}

macro_rules! interface {
    ($(#[$doc:meta])* $name:ident { $($field:literal : $ty:literal),+ } for $($object:ty),+ $(; with $other:ty)?) => {
        $(#[$doc])*
        struct $name;

        impl OutputType for $name {
            fn type_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn create_type_info(registry: &mut Registry) -> String {
                registry.create_output_type::<Self, _>(MetaTypeId::Interface, |registry| {
                    $(<$other as OutputType>::create_type_info(registry);)?
                    let mut possible_types = async_graphql::indexmap::IndexSet::new();
                    $(
                        <$object as OutputType>::create_type_info(registry);
                        let object = <$object as OutputType>::type_name();
                        registry.add_implements(&object, stringify!($name));
                        possible_types.insert(object.into_owned());
                    )+
                    MetaType::Interface {
                        name: stringify!($name).to_owned(),
                        description: None,
                        fields: [$(field($field, $ty)),+].into_iter().collect(),
                        possible_types,
                        extends: false,
                        keys: None,
                        visible: None,
                        inaccessible: false,
                        tags: Vec::new(),
                        rust_typename: Some(std::any::type_name::<Self>()),
                        directive_invocations: Vec::new(),
                        requires_scopes: Vec::new(),
                    }
                })
            }

            async fn resolve(&self, _: &ContextSelectionSet<'_>, _: &Positioned<Field>) -> ServerResult<Value> {
                Ok(Value::Null)
            }
        }
    };
}

interface! {
    /// Whatever lists consist of.
    Item { "id": "ID" } for
        agents::Agent, agents::AgentSummary, containers::ComputeContainer, endpoints::Endpoint,
        endpoints::Routing, keypairs::KeyPair,
        legacy_sessions::LegacyComputeSession, sessions::ComputeSession, storage::StorageVolume, users::User,
        vfolders::VirtualFolder, vfolders::VirtualFolderPermission
}

interface! {
    /// One page of something.
    PaginatedList { "items": "[Item]!", "total_count": "Int!" } for
        agents::AgentList, agents::AgentSummaryList, containers::ComputeContainerList, endpoints::EndpointList,
        endpoints::RoutingList, keypairs::KeyPairList,
        legacy_sessions::LegacyComputeSessionList, sessions::ComputeSessionList, storage::StorageVolumeList, users::UserList,
        vfolders::VirtualFolderList, vfolders::VirtualFolderPermissionList
    ; with Item
}
