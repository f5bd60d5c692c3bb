//! The contract of `wit/` as Rust types.
//!
//! One combined world for all three kinds, so that they share their types; which of its exports a component really has
//! is found out when it is loaded.
#![allow(missing_docs, clippy::large_futures, clippy::or_fun_call, clippy::unwrap_used)]

wasmtime::component::bindgen!({
    path: "../../wit",
    inline: "
        package quarterdeck:embedding;
        world policies {
            import quarterdeck:policy/host@0.1.0;
            export quarterdeck:policy/plugin@0.1.0;
            export quarterdeck:policy/scheduling@0.1.0;
            export quarterdeck:policy/idling@0.1.0;
            export quarterdeck:policy/hooks@0.1.0;
        }
    ",
    world: "quarterdeck:embedding/policies",
    imports: { default: trappable },
    additional_derives: [Clone, PartialEq, serde::Serialize, serde::Deserialize],
});
