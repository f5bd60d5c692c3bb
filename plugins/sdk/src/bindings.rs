//! The generated types of the contract. One piece per interface, so that every kind of component is made of the same
//! `plugin` and one of the others.
#![allow(missing_docs, clippy::all)]

/// What all policies have in common.
pub mod base {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package quarterdeck:sdk-base;
            world base {
                import quarterdeck:policy/types@0.1.0;
                import quarterdeck:policy/host@0.1.0;
                export quarterdeck:policy/plugin@0.1.0;
            }
        ",
        world: "quarterdeck:sdk-base/base",
        pub_export_macro: true,
        default_bindings_module: "quarterdeck_sdk::bindings::base",
        runtime_path: "quarterdeck_sdk::wit_bindgen::rt",
        additional_derives: [PartialEq, Clone],
        generate_all,
    });
}

/// `scheduling`.
pub mod scheduling {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package quarterdeck:sdk-scheduling;
            world scheduling-only {
                export quarterdeck:policy/scheduling@0.1.0;
            }
        ",
        world: "quarterdeck:sdk-scheduling/scheduling-only",
        pub_export_macro: true,
        default_bindings_module: "quarterdeck_sdk::bindings::scheduling",
        runtime_path: "quarterdeck_sdk::wit_bindgen::rt",
        additional_derives: [PartialEq, Clone],
        with: { "quarterdeck:policy/types@0.1.0": quarterdeck_sdk::bindings::base::quarterdeck::policy::types },
        generate_all,
    });
}

/// `idling`.
pub mod idling {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package quarterdeck:sdk-idling;
            world idling-only {
                export quarterdeck:policy/idling@0.1.0;
            }
        ",
        world: "quarterdeck:sdk-idling/idling-only",
        pub_export_macro: true,
        default_bindings_module: "quarterdeck_sdk::bindings::idling",
        runtime_path: "quarterdeck_sdk::wit_bindgen::rt",
        additional_derives: [PartialEq, Clone],
        with: { "quarterdeck:policy/types@0.1.0": quarterdeck_sdk::bindings::base::quarterdeck::policy::types },
        generate_all,
    });
}

/// `hooks`.
pub mod hooks {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package quarterdeck:sdk-hooks;
            world hooks-only {
                export quarterdeck:policy/hooks@0.1.0;
            }
        ",
        world: "quarterdeck:sdk-hooks/hooks-only",
        pub_export_macro: true,
        default_bindings_module: "quarterdeck_sdk::bindings::hooks",
        runtime_path: "quarterdeck_sdk::wit_bindgen::rt",
        additional_derives: [PartialEq, Clone],
        generate_all,
    });
}
