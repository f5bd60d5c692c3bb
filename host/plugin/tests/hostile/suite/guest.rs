//! Components from core modules written by hand, wrapped by the tool that every tool chain uses.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::World;

/// What a component does, as the bodies of its functions.
///
/// Memory: results lie at 600 and above, the description at 1024, the heap begins at 64 KiB. `$zeroes` gives so many bytes
/// of it.
#[derive(Clone, Copy)]
pub struct Body {
    pub world: World,
    /// What it calls itself; the name in the table when this is empty.
    pub name: &'static str,
    /// Further members of the world, in WIT.
    pub imports: &'static str,
    /// Further fields of the module: imports, functions, tables.
    pub fields: &'static str,
    pub describe: &'static str,
    pub schema: &'static str,
    pub version: &'static str,
    pub events: u32,
    pub start: &'static str,
    pub realloc: &'static str,
    pub check_config: &'static str,
    pub open: &'static str,
    pub propose: &'static str,
    pub settle: &'static str,
    pub explain: &'static str,
    pub dropped: &'static str,
    pub traits: &'static str,
    pub check: &'static str,
    pub handle: &'static str,
    /// Linear memory at start, in pages.
    pub pages: u64,
    /// Behaves in the calls that it is served with while its configuration is empty.
    pub disguised: bool,
}

/// A policy of each kind that does nothing, and nothing wrong.
pub const WELL: Body = Body {
    world: World::Scheduler,
    name: "",
    imports: "",
    fields: "",
    describe: "(i32.const 1024)",
    schema: "",
    version: "1.0.0",
    events: 0,
    start: "",
    realloc: "(call $zeroes (local.get 3))",
    check_config: "(i32.const 640)",
    // An ok with a new round.
    open: "(i32.store8 (i32.const 600) (i32.const 0))
           (i32.store (i32.const 604) (call $new (i32.const 7))) (i32.const 600)",
    // The empty list.
    propose: "(i32.const 640)",
    settle: "",
    explain: "(i32.const 640)",
    dropped: "",
    traits: "(i32.const 1280)",
    // An ok with as many exempt sessions as the tick has.
    check: EXEMPT,
    // An ok with `allow`.
    handle: "(i32.const 640)",
    pages: 2,
    disguised: false,
};

/// As [`WELL`], an idle checker.
pub const IDLE: Body = Body { world: World::IdleChecker, ..WELL };

/// As [`WELL`], a hook.
pub const HOOK: Body = Body { world: World::Hook, events: 1, ..WELL };

pub const LOOP: &str = "(loop $for_ever (br $for_ever)) unreachable";
pub const LOOP_UNIT: &str = "(loop $for_ever (br $for_ever))";
pub const TRAP: &str = "unreachable";
pub const DEEPER: &str = "(call $deeper (i32.const 0))";

const EXEMPT: &str = "(i32.store8 (i32.const 600) (i32.const 0))
    (i32.store (i32.const 604) (call $zeroes (i32.mul (i32.load offset=8 (local.get 0)) (i32.const 40))))
    (i32.store (i32.const 608) (i32.load offset=8 (local.get 0))) (i32.const 600)";

/// Defers session 0, again and again.
pub const ONE_DEFERRAL: &str = "(i32.store8 (i32.const 672) (i32.const 1))
    (i32.store (i32.const 676) (i32.const 0)) (i32.store8 (i32.const 680) (i32.const 1))
    (i32.store (i32.const 656) (i32.const 672)) (i32.store (i32.const 660) (i32.const 1)) (i32.const 656)";

/// The component of a body that calls itself `name`.
pub fn component(name: &str, body: &Body) -> Vec<u8> {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join("wit")).find(|dir| dir.is_dir());
    let mut resolve = Resolve::default();
    resolve.push_path(wit.expect("the contract lies at the root of the repository")).expect("the contract");
    resolve.push_str("wasi.wit", WASI).expect("interfaces that nobody serves");
    let world = match body.world {
        World::Scheduler => "scheduler",
        World::IdleChecker => "idle-checker",
        World::Hook => "hook",
    };
    let text = format!(
        "package quarterdeck:hostile; world hostile {{ include quarterdeck:policy/{world}@0.1.0; {} }}",
        body.imports
    );
    let package = resolve.push_str("hostile.wit", &text).expect("the world");
    let world = resolve.select_world(&[package], Some("hostile")).expect("the world was just made");
    let mut module = wat::parse_str(module(name, body)).unwrap_or_else(|error| panic!("{name}: {error}"));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("metadata");
    let mut encoder = ComponentEncoder::default().module(&module).expect("a module").validate(true);
    encoder.encode().unwrap_or_else(|error| panic!("{name}: {error:#}"))
}

/// What tool chains know and this host doesn't serve, or serves as an empty world, as far as the suite uses it.
const WASI: &str = "
    package quarterdeck:nothing;
    package wasi:io@0.2.6 {
        interface error { resource error; }
        interface streams {
            use error.{error};
            variant stream-error { last-operation-failed(error), closed }
            resource output-stream { write-zeroes: func(len: u64) -> result<_, stream-error>; }
        }
    }
    package wasi:cli@0.2.6 {
        interface exit { exit: func(status: result); }
        interface stdout { use wasi:io/streams@0.2.6.{output-stream}; get-stdout: func() -> output-stream; }
    }
    package wasi:random@0.2.6 {
        interface random { get-random-bytes: func(len: u64) -> list<u8>; }
    }
    package wasi:sockets@0.2.6 { interface network { connect: func(host: string); } }
    package wasi:http@0.2.6 { interface outgoing-handler { handle: func(url: string); } }
    package wasi:keyvalue@0.2.0 { interface store { open: func(name: string); } }
    package evil:host@1.0.0 { interface shell { run: func(command: string); } }
";

fn module(name: &str, body: &Body) -> String {
    // A function that is called in service, with the way that it behaves.
    let call = |export: &str, params: &[&str], answers: bool, does: &str, should: &str| {
        let result = if answers { "(result i32)" } else { "" };
        let signature = format!("(param {}) {result}", params.join(" "));
        if !body.disguised {
            return format!(r#"(func (export "{export}") {signature} {does})"#);
        }
        let arguments: String = (0..params.len()).map(|at| format!("(local.get {at})")).collect();
        format!(
            r#"(func $"bad {export}" {signature} {does})
               (func (export "{export}") {signature}
                 (if {result} (call $armed) (then (call $"bad {export}" {arguments})) (else {should})))"#
        )
    };
    let (mut resource, mut own) = ("(func $new (param i32) (result i32) unreachable)".to_owned(), String::new());
    let package = "quarterdeck:policy";
    let mut import = String::new();
    match body.world {
        World::Scheduler => {
            let i = format!("{package}/scheduling@0.1.0");
            resource = String::new();
            import = format!(r#"(import "[export]{i}" "[resource-new]round" (func $new (param i32) (result i32)))"#);
            own += &call(&format!("{i}#[static]round.open"), &["i32"], true, body.open, WELL.open);
            own += &call(&format!("{i}#[method]round.propose"), &["i32"; 2], true, body.propose, WELL.propose);
            own += &call(&format!("{i}#[method]round.settle"), &["i32"; 3], false, body.settle, WELL.settle);
            own += &call(&format!("{i}#[method]round.explain"), &["i32"; 3], true, body.explain, WELL.explain);
            own += &format!(r#"(func (export "{i}#[dtor]round") (param i32) {})"#, body.dropped);
        }
        World::IdleChecker => {
            let i = format!("{package}/idling@0.1.0");
            own += &call(&format!("{i}#traits"), &[], true, body.traits, WELL.traits);
            own += &call(&format!("{i}#check"), &["i32"], true, body.check, WELL.check);
        }
        World::Hook => {
            let i = format!("{package}/hooks@0.1.0");
            let mut params = ["i32"; 15];
            params[2] = "i64";
            own += &call(&format!("{i}#handle"), &params, true, body.handle, WELL.handle);
        }
    }
    let name = if body.name.is_empty() { name } else { body.name };
    let data = |values: &[usize]| {
        let bytes = values.iter().flat_map(|value| (*value as u32).to_le_bytes());
        bytes.map(|byte| format!("\\{byte:02x}")).collect::<String>()
    };
    let (version, schema, events) = (body.version, body.schema.replace('"', "\\\""), body.events as usize);
    // Name, version, summary, schema, columns and events of `describe`: pointers and lengths.
    let schema_at = if body.schema.is_empty() { 0 } else { 2048 };
    let info = data(&[1104, name.len(), 1340, version.len(), 0, 0, schema_at, body.schema.len(), 0, 0, 1232, events]);
    let event = data(&[1240, 19]);
    // Reason, remaining, metrics, history of `traits`.
    let traits = data(&[1088, 7, 0, 0, 0, 0, 0, 0]);
    let start =
        if body.start.is_empty() { String::new() } else { format!("(func $start {}) (start $start)", body.start) };
    format!(
        r#"(module
            {import}
            (import "{package}/host@0.1.0" "log" (func $log (param i32 i32 i32 i32 i32)))
            (import "{package}/host@0.1.0" "count" (func $count (param i32 i32 i64)))
            (import "{package}/host@0.1.0" "config" (func $config (param i32)))
            {fields}
            (memory (export "memory") {pages})
            (table $table 1 funcref)
            (global $heap (mut i32) (i32.const 65536))
            {resource}
            (func $zeroes (param $size i32) (result i32) (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
                (global.set $heap (i32.add (local.get $at) (local.get $size)))
                (block $fits
                    (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
                    (drop (memory.grow (i32.add (i32.div_u (local.get $size) (i32.const 65536)) (i32.const 1)))))
                (local.get $at))
            (func $armed (result i32)
                (call $config (i32.const 720))
                (i32.gt_u (i32.load (i32.const 724)) (i32.const 2)))
            (func $deeper (param i32) (result i32)
                (i32.add (call $deeper (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {realloc})
            (func (export "{package}/plugin@0.1.0#describe") (result i32) {describe})
            (func (export "{package}/plugin@0.1.0#check-config") (param i32 i32) (result i32) {check_config})
            {own}
            {start}
            (data (i32.const 1024) "{info}")
            (data (i32.const 1088) "hostile")
            (data (i32.const 1104) "{name}")
            (data (i32.const 1232) "{event}")
            (data (i32.const 1240) "PRE_ENQUEUE_SESSION")
            (data (i32.const 1280) "{traits}")
            (data (i32.const 1340) "{version}")
            (data (i32.const 2048) "{schema}"))"#,
        fields = body.fields,
        realloc = body.realloc,
        describe = body.describe,
        check_config = body.check_config,
        pages = body.pages,
    )
}
