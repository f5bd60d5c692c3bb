//! Holds the schema against the contract's.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use async_graphql::Positioned;
use async_graphql::parser::parse_schema;
use async_graphql::parser::types::{FieldDefinition, InputValueDefinition, TypeKind, TypeSystemDefinition};

/// A name and what it stands for: kind and interfaces for a type, type and arguments for a field.
type Facts = BTreeMap<String, String>;

fn argument(input: &InputValueDefinition) -> String {
    let default = input.default_value.as_ref().map(|v| format!(" = {}", v.node)).unwrap_or_default();
    format!("{}: {}{default}", input.name.node, input.ty.node)
}

fn add_fields(facts: &mut Facts, of: &str, fields: &[Positioned<FieldDefinition>]) {
    for field in fields {
        let arguments: BTreeSet<_> = field.node.arguments.iter().map(|a| argument(&a.node)).collect();
        let arguments: Vec<_> = arguments.into_iter().collect();
        facts.insert(
            format!("{of}.{}", field.node.name.node),
            format!("{} ({})", field.node.ty.node, arguments.join(", ")),
        );
    }
}

fn facts(sdl: &str) -> Facts {
    let mut facts = Facts::new();
    for definition in parse_schema(sdl).unwrap().definitions {
        match definition {
            TypeSystemDefinition::Schema(schema) => {
                let roots = [&schema.node.query, &schema.node.mutation, &schema.node.subscription];
                let roots: Vec<_> = roots.map(|r| r.as_ref().map(|r| r.node.to_string()).unwrap_or_default()).into();
                facts.insert("schema".to_owned(), roots.join(" "));
            }
            TypeSystemDefinition::Type(ty) => {
                let name = ty.node.name.node.to_string();
                match ty.node.kind {
                    TypeKind::Scalar => {
                        facts.insert(name, "scalar".to_owned());
                    }
                    TypeKind::Object(object) => {
                        let interfaces: BTreeSet<_> = object.implements.iter().map(|i| i.node.to_string()).collect();
                        add_fields(&mut facts, &name, &object.fields);
                        facts.insert(name, format!("object {interfaces:?}"));
                    }
                    TypeKind::Interface(interface) => {
                        add_fields(&mut facts, &name, &interface.fields);
                        facts.insert(name, "interface".to_owned());
                    }
                    TypeKind::InputObject(input) => {
                        for field in &input.fields {
                            facts.insert(format!("{name}.{}", field.node.name.node), argument(&field.node));
                        }
                        facts.insert(name, "input".to_owned());
                    }
                    TypeKind::Union(_) | TypeKind::Enum(_) => {
                        facts.insert(name, "not in the contract".to_owned());
                    }
                }
            }
            TypeSystemDefinition::Directive(_) => {}
        }
    }
    facts
}

/// What the contract has and this release doesn't: nothing.
const MISSING: &[&str] = &[];

#[test]
fn what_is_offered_is_what_the_contract_says() {
    let contract = facts(include_str!("../../../../tests/vectors/schema.graphql"));
    let ours = facts(&super::builder().finish().sdl());
    for (name, fact) in &ours {
        assert_eq!(contract.get(name), Some(fact), "{name}");
    }
    let missing: Vec<_> = contract
        .keys()
        .filter(|name| !ours.contains_key(*name))
        .map(String::as_str)
        // Fields of a type that isn't there as a whole are not listed.
        .filter(|name| name.split_once('.').is_none_or(|(ty, _)| ours.contains_key(ty)))
        .collect();
    assert_eq!(missing, MISSING);
}
