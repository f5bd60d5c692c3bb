//! Hostile and broken components: core modules written by hand, wrapped by the tool that every tool chain uses. They are
//! checked in under `tests/fixtures`, for other crates' tests as well; `UPDATE_FIXTURES=1` writes them anew.

use std::path::{Path, PathBuf};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// What a component does, as the bodies of its functions.
pub struct Body {
    pub name: &'static str,
    pub world: &'static str,
    pub describe: &'static str,
    pub start: &'static str,
    pub open: &'static str,
    pub propose: &'static str,
    pub settle: &'static str,
    pub explain: &'static str,
    pub traits: &'static str,
    pub check: &'static str,
    pub handle: &'static str,
    /// Linear memory at start, in pages.
    pub pages: u64,
}

const WELL: Body = Body {
    name: "hostile",
    world: "scheduler",
    describe: "(i32.const 1024)",
    start: "",
    // An ok with a new round.
    open: "(i32.store8 (i32.const 600) (i32.const 0))
           (i32.store (i32.const 604) (call $new (i32.const 7))) (i32.const 600)",
    // The empty list.
    propose: "(i32.const 640)",
    settle: "",
    explain: "(i32.const 640)",
    traits: "(i32.const 1280)",
    // An ok with as many exempt sessions as the tick has.
    check: "(i32.store8 (i32.const 600) (i32.const 0))
            (i32.store (i32.const 604) (call $zeroes (i32.mul (i32.load offset=8 (local.get 0)) (i32.const 40))))
            (i32.store (i32.const 608) (i32.load offset=8 (local.get 0))) (i32.const 600)",
    // An ok with `allow`.
    handle: "(i32.const 640)",
    pages: 2,
};

const LOOP: &str = "(loop $for_ever (br $for_ever)) unreachable";
const TRAP: &str = "unreachable";

/// Every component of the collection.
pub const ALL: &[Body] = &[
    Body { name: "well-behaved", ..WELL },
    Body { name: "loops-at-start", start: "(loop $for_ever (br $for_ever))", ..WELL },
    Body { name: "loops-in-describe", describe: LOOP, ..WELL },
    Body { name: "loops-in-open", open: LOOP, ..WELL },
    Body { name: "loops-in-propose", propose: LOOP, ..WELL },
    Body { name: "loops-in-settle", propose: ONE_DEFERRAL, settle: "(loop $for_ever (br $for_ever))", ..WELL },
    Body { name: "loops-in-explain", explain: LOOP, ..WELL },
    Body { name: "loops-in-check", world: "idle-checker", check: LOOP, ..WELL },
    Body { name: "loops-in-handle", world: "hook", handle: LOOP, ..WELL },
    Body { name: "traps-in-describe", describe: TRAP, ..WELL },
    Body { name: "traps-in-open", open: TRAP, ..WELL },
    Body { name: "traps-in-propose", propose: TRAP, ..WELL },
    Body { name: "traps-in-check", world: "idle-checker", check: TRAP, ..WELL },
    Body { name: "traps-in-handle", world: "hook", handle: TRAP, ..WELL },
    Body { name: "recurses", propose: "(call $deeper (i32.const 0))", ..WELL },
    Body { name: "allocates-4-gib", propose: "(drop (memory.grow (i32.const 65535))) (i32.const 640)", ..WELL },
    Body { name: "starts-with-2-gib", pages: 32768, ..WELL },
    // A list with more elements than the memory has bytes.
    Body {
        name: "huge-list",
        propose: "(i32.store (i32.const 656) (i32.const 640))
        (i32.store (i32.const 660) (i32.const 2147483647)) (i32.const 656)",
        ..WELL
    },
    // A million deferrals that share one text of a hundred thousand bytes: tiny in the guest, vast in the host.
    Body {
        name: "amplifies",
        propose: "
        (local $list i32) (local $at i32) (local $end i32)
        (local.set $list (call $zeroes (i32.const 20000000)))
        (local.set $at (local.get $list))
        (local.set $end (i32.add (local.get $list) (i32.const 20000000)))
        (loop $next
            (i32.store8 (local.get $at) (i32.const 1))
            (i32.store offset=12 (local.get $at) (i32.const 1))
            (i32.store offset=16 (local.get $at) (i32.const 100000))
            (local.set $at (i32.add (local.get $at) (i32.const 20)))
            (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
        (i32.store (i32.const 656) (local.get $list))
        (i32.store (i32.const 660) (i32.const 1000000)) (i32.const 656)",
        ..WELL
    },
    Body { name: "bad-pointer", propose: "(i32.const -4)", ..WELL },
    Body {
        name: "bad-variant",
        propose: "(i32.store8 (i32.const 672) (i32.const 9))
        (i32.store (i32.const 656) (i32.const 672)) (i32.store (i32.const 660) (i32.const 1)) (i32.const 656)",
        ..WELL
    },
    Body {
        name: "nonsense-session",
        propose: "(i32.store8 (i32.const 672) (i32.const 1))
        (i32.store (i32.const 676) (i32.const 99999))
        (i32.store (i32.const 656) (i32.const 672)) (i32.store (i32.const 660) (i32.const 1)) (i32.const 656)",
        ..WELL
    },
    Body {
        name: "nonsense-agent",
        propose: "(i32.store8 (i32.const 672) (i32.const 0))
        (i32.store (i32.const 676) (i32.const 0))
        (i32.store (i32.const 680) (i32.const 704)) (i32.store (i32.const 684) (i32.const 1))
        (i32.store (i32.const 704) (i32.const 99999))
        (i32.store (i32.const 656) (i32.const 672)) (i32.store (i32.const 660) (i32.const 1)) (i32.const 656)",
        ..WELL
    },
    Body {
        name: "too-few-agents",
        propose: "(i32.store8 (i32.const 672) (i32.const 0))
        (i32.store (i32.const 676) (i32.const 0))
        (i32.store (i32.const 656) (i32.const 672)) (i32.store (i32.const 660) (i32.const 1)) (i32.const 656)",
        ..WELL
    },
    Body { name: "repeats-itself", propose: ONE_DEFERRAL, ..WELL },
    Body {
        name: "too-many-proposals",
        propose: "
        (i32.store (i32.const 656) (call $zeroes (i32.const 20000)))
        (i32.store (i32.const 660) (i32.const 1000)) (i32.const 656)",
        ..WELL
    },
    // One row too few for the tick.
    Body {
        name: "too-few-findings",
        world: "idle-checker",
        check: "(i32.store8 (i32.const 600) (i32.const 0))
        (i32.store (i32.const 604) (i32.const 0)) (i32.store (i32.const 608) (i32.const 0)) (i32.const 600)",
        ..WELL
    },
    // Traps when any session was enqueued at 666.
    Body {
        name: "poisoned",
        world: "idle-checker",
        check: "
        (local $at i32) (local $left i32)
        (local.set $at (i32.load offset=28 (local.get 0)))
        (local.set $left (i32.load offset=32 (local.get 0)))
        (block $done
            (loop $next
                (br_if $done (i32.eqz (local.get $left)))
                (if (i64.eq (i64.load (local.get $at)) (i64.const 666)) (then unreachable))
                (local.set $at (i32.add (local.get $at) (i32.const 8)))
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                (br $next)))
        (i32.store8 (i32.const 600) (i32.const 0))
        (i32.store (i32.const 604) (call $zeroes (i32.mul (i32.load offset=8 (local.get 0)) (i32.const 40))))
        (i32.store (i32.const 608) (i32.load offset=8 (local.get 0))) (i32.const 600)",
        ..WELL
    },
    Body {
        name: "floods-the-log",
        propose: "(local $left i32)
        (local.set $left (i32.const 20000))
        (loop $next
            (call $log (i32.const 1) (i32.const 1088) (i32.const 7) (i32.const 0) (i32.const 0))
            (local.set $left (i32.sub (local.get $left) (i32.const 1)))
            (br_if $next (local.get $left)))
        (i32.const 640)",
        ..WELL
    },
    // A patch that is no JSON: `reply` with some text of zero bytes.
    Body {
        name: "nonsense-patch",
        world: "hook",
        handle: "
        (i32.store8 (i32.const 700) (i32.const 0))
        (i32.store8 (i32.const 704) (i32.const 1))
        (i32.store8 (i32.const 708) (i32.const 1))
        (i32.store (i32.const 712) (i32.const 1088)) (i32.store (i32.const 716) (i32.const 7)) (i32.const 700)",
        ..WELL
    },
    Body { name: "Not-A-Name", ..WELL },
];

const ONE_DEFERRAL: &str = "(i32.store8 (i32.const 672) (i32.const 1))
    (i32.store (i32.const 676) (i32.const 0)) (i32.store8 (i32.const 680) (i32.const 1))
    (i32.store (i32.const 656) (i32.const 672)) (i32.store (i32.const 660) (i32.const 1)) (i32.const 656)";

/// The component of that name.
pub fn component(name: &str) -> Vec<u8> {
    let path = fixtures().join(format!("{name}.wasm"));
    let body = ALL.iter().find(|body| body.name == name).unwrap();
    let built = build(body);
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, &built).unwrap();
    }
    let kept = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(kept == built, "{} is out of date; run the tests with UPDATE_FIXTURES=1", path.display());
    kept
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn build(body: &Body) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")).unwrap();
    let world = resolve.select_world(&[package], Some(body.world)).unwrap();
    let mut module = wat::parse_str(text(body)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

fn text(body: &Body) -> String {
    let (mut resource, mut own) = ("(func $new (param i32) (result i32) unreachable)".to_owned(), String::new());
    let package = "quarterdeck:policy";
    let mut import = String::new();
    match body.world {
        "scheduler" => {
            let i = format!("{package}/scheduling@0.1.0");
            resource = String::new();
            import = format!(r#"(import "[export]{i}" "[resource-new]round" (func $new (param i32) (result i32)))"#);
            own = format!(
                r#"(func (export "{i}#[static]round.open") (param i32) (result i32) {})
                   (func (export "{i}#[method]round.propose") (param i32 i32) (result i32) {})
                   (func (export "{i}#[method]round.settle") (param i32 i32 i32) {})
                   (func (export "{i}#[method]round.explain") (param i32 i32 i32) (result i32) {})"#,
                body.open, body.propose, body.settle, body.explain
            );
        }
        "idle-checker" => {
            let i = format!("{package}/idling@0.1.0");
            own = format!(
                r#"(func (export "{i}#traits") (result i32) {})
                   (func (export "{i}#check") (param i32) (result i32) {})"#,
                body.traits, body.check
            );
        }
        _ => {
            let i = format!("{package}/hooks@0.1.0");
            own += &format!(
                r#"(func (export "{i}#handle")
                     (param i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) {})"#,
                body.handle
            );
        }
    }
    let (name, events) = (body.name, u32::from(body.world == "hook"));
    let data = |values: &[u32]| {
        values.iter().flat_map(|value| value.to_le_bytes()).map(|byte| format!("\\{byte:02x}")).collect::<String>()
    };
    // Name, version, summary, schema, columns and events of `describe`: pointers and lengths.
    let info = data(&[1104, name.len() as u32, 1096, 5, 0, 0, 0, 0, 0, 0, 1232, events]);
    let event = data(&[1240, 19]);
    // Reason, remaining, metrics, history of `traits`.
    let traits = data(&[1088, 7, 0, 0, 0, 0, 0, 0]);
    let start =
        if body.start.is_empty() { String::new() } else { format!("(func $start {}) (start $start)", body.start) };
    format!(
        r#"(module
            {import}
            (import "{package}/host@0.1.0" "log" (func $log (param i32 i32 i32 i32 i32)))
            (memory (export "memory") {pages})
            (global $heap (mut i32) (i32.const 65536))
            {resource}
            (func $zeroes (param $size i32) (result i32) (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
                (global.set $heap (i32.add (local.get $at) (local.get $size)))
                (block $fits
                    (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
                    (drop (memory.grow (i32.add (i32.div_u (local.get $size) (i32.const 65536)) (i32.const 1)))))
                (local.get $at))
            (func $deeper (param i32) (result i32)
                (i32.add (call $deeper (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (call $zeroes (local.get 3)))
            (func (export "{package}/plugin@0.1.0#describe") (result i32) {describe})
            (func (export "{package}/plugin@0.1.0#check-config") (param i32 i32) (result i32) (i32.const 640))
            {own}
            {start}
            (data (i32.const 1024) "{info}")
            (data (i32.const 1088) "hostile")
            (data (i32.const 1096) "1.0.0")
            (data (i32.const 1104) "{name}")
            (data (i32.const 1232) "{event}")
            (data (i32.const 1240) "PRE_ENQUEUE_SESSION")
            (data (i32.const 1280) "{traits}"))"#,
        describe = body.describe,
        pages = body.pages,
    )
}
