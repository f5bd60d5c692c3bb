//! The table itself.

use super::guest::{Body, DEEPER, HOOK, IDLE, LOOP, LOOP_UNIT, ONE_DEFERRAL, TRAP, WELL, component};
use super::{Case, Ends, Make, World, bytes};

/// Every hostile component.
pub fn all() -> Vec<Case> {
    let mut cases = outsides();
    cases.extend(bombs());
    cases.extend(introductions());
    cases.extend(schemas());
    cases.extend(configurations());
    cases.extend(schedulers());
    cases.extend(schedulers_answers());
    cases.extend(idle_checkers());
    cases.extend(hooks());
    cases.extend(resources());
    cases
}

fn made(
    name: &'static str,
    ends: Ends,
    kind: &'static str,
    reason: &'static str,
    make: impl Fn() -> Vec<u8> + Send + Sync + 'static,
) -> Case {
    Case { name, world: World::Hook, ends, kind, reason, make: Make::Bytes(Box::new(make)) }
}

fn guest(name: &'static str, ends: Ends, kind: &'static str, reason: &'static str, body: Body) -> Case {
    Case { name, world: body.world, ends, kind, reason, make: Make::Guest(Box::new(body)) }
}

/// A text for the length of the tests.
fn kept(text: impl Into<String>) -> &'static str {
    Box::leak(text.into().into_boxed_str())
}

/// What is seen from outside, before anything is compiled.
fn outsides() -> Vec<Case> {
    use Ends::Verified;
    let refused = |name, reason, make: fn() -> Vec<u8>| made(name, Verified, "not-a-component", reason, make);
    let against = |name, reason, inside: &'static str| {
        made(name, Verified, "contract", reason, move || bytes::text(&format!("(instance $empty) {inside}")))
    };
    // Imported and called: tools leave out what isn't.
    let import = |name, reason, interface: &'static str, function: &'static str| {
        let body = Body {
            imports: kept(format!("import {interface};")),
            fields: kept(format!(r#"(import "{interface}" "{function}" (func $out (param i32 i32)))"#)),
            propose: "(call $out (i32.const 1088) (i32.const 7)) (i32.const 640)",
            ..WELL
        };
        guest(name, Verified, "forbidden-import", reason, body)
    };
    vec![
        refused("empty-file", "not a WebAssembly component", Vec::new),
        refused("random-bytes", "not a WebAssembly component", || bytes::noise(100_000)),
        refused("a-text", "not a WebAssembly component", || b"<!doctype html><title>404</title>".to_vec()),
        refused("truncated", "unexpected end-of-file", || {
            let whole = component("truncated", &WELL);
            whole[..whole.len() * 2 / 3].to_vec()
        }),
        refused("random-tail", "not a WebAssembly component", || [bytes::shell(), bytes::noise(5000)].concat()),
        refused("core-module", "it is a core module", || wat::parse_str("(module)").expect("a module")),
        refused("nested-too-deep", "nested more than 32 deep", || bytes::nested(20_000)),
        against("no-exports", "doesn't export `quarterdeck:policy/plugin", ""),
        against(
            "another-world",
            "doesn't export `quarterdeck:policy/plugin",
            r#"(export "wasi:cli/run@0.2.6" (instance $empty))"#,
        ),
        against(
            "no-kind",
            "none of `scheduling`, `idling` and `hooks`",
            r#"(export "quarterdeck:policy/plugin@0.1.0" (instance $empty))"#,
        ),
        against(
            "two-worlds",
            "more than one of",
            r#"(export "quarterdeck:policy/plugin@0.1.0" (instance $empty))
               (export "quarterdeck:policy/hooks@0.1.0" (instance $empty))
               (export "quarterdeck:policy/scheduling@0.1.0" (instance $empty))"#,
        ),
        against(
            "wrong-version",
            "`quarterdeck:policy/plugin@0.2.0`; this host serves version ^0.1.0",
            r#"(export "quarterdeck:policy/plugin@0.2.0" (instance $empty))
               (export "quarterdeck:policy/hooks@0.2.0" (instance $empty))"#,
        ),
        against(
            "unknown-interface",
            "which is not a policy's",
            r#"(export "quarterdeck:policy/root-shell@0.1.0" (instance $empty))"#,
        ),
        made("names-without-types", Verified, "contract", "does not have export `describe`", bytes::shell),
        import("imports-sockets", "`wasi:sockets/network@0.2.6`", "wasi:sockets/network@0.2.6", "connect"),
        import("imports-http", "`wasi:http/outgoing-handler@0.2.6`", "wasi:http/outgoing-handler@0.2.6", "handle"),
        import("imports-keyvalue", "`wasi:keyvalue/store@0.2.0`", "wasi:keyvalue/store@0.2.0", "open"),
        import("imports-a-shell", "`evil:host/shell@1.0.0`", "evil:host/shell@1.0.0", "run"),
        made("imports-a-function", Verified, "forbidden-import", "`system`", || {
            bytes::text(r#"(import "system" (func (param "command" string)))"#)
        }),
        made("imports-the-third-wasi", Verified, "forbidden-import", "`wasi:cli/environment@0.3.0`", || {
            bytes::text(r#"(import "wasi:cli/environment@0.3.0" (instance))"#)
        }),
        made("giant-name", Verified, "contract", "a name of 90022 bytes", || {
            bytes::text(&format!(r#"(import "wasi:cli/stdin@0.2.6+a{}" (instance))"#, "b".repeat(90_000)))
        }),
        made("thousands-of-imports", Verified, "contract", "imports more than 256 things", || {
            let import = |n| format!(r#"(import "wasi:cli/stdin@0.2.{n}" (instance))"#);
            bytes::text(&(0..3000).map(import).collect::<String>())
        }),
        made("too-large", Verified, "too-large", "67108864 are allowed", || {
            bytes::with_custom(bytes::shell(), 64 << 20)
        }),
    ]
}

/// What a compiler is to choke on.
fn bombs() -> Vec<Case> {
    use Ends::Compiled;
    let bomb = |name, reason, make: fn() -> Vec<u8>| made(name, Compiled, "compile", reason, make);
    vec![
        bomb("compile-bomb", "it took ", bytes::compile_bomb),
        bomb("wrong-code", "type mismatch", bytes::wrong_code),
        bomb("many-locals", "too many locals", bytes::many_locals),
        bomb("doubling-instances", "memory allocation of", || bytes::doubling_instances(40)),
        bomb("deep-type", "nesting is too deep", || bytes::deep_type(5000)),
        bomb("doubling-type", "type size", || bytes::doubling_type(40)),
        bomb("crowd-of-instances", "core module instances", || bytes::crowd(41, "")),
        bomb("crowd-of-memories", "memories", || bytes::crowd(9, "(memory 1)")),
        bomb("crowd-of-tables", "tables", || bytes::crowd(14, "(table 1 funcref) (table 1 funcref) (table 1 funcref)")),
        guest(
            "starts-with-2-gib",
            Compiled,
            "compile",
            "minimum byte size of 2147483648",
            Body { pages: 32768, ..WELL },
        ),
        guest(
            "starts-with-a-huge-table",
            Compiled,
            "compile",
            "minimum element size of 10000000",
            Body { fields: "(table $huge 10000000 funcref)", ..IDLE },
        ),
        // The table's own control: nothing is wrong with this one.
        guest("well-behaved", Ends::Nowhere, "", "", WELL),
        Case {
            make: Make::Bytes(Box::new(|| bytes::with_custom(component("custom-section-bomb", &HOOK), 48 << 20))),
            ..guest("custom-section-bomb", Ends::Nowhere, "", "", HOOK)
        },
    ]
}

/// Start functions and `describe`, of all worlds.
fn introductions() -> Vec<Case> {
    use Ends::SelfTested;
    let ends = |name, kind, reason, body| guest(name, SelfTested, kind, reason, body);
    let odd = |name, reason, body| guest(name, SelfTested, "description", reason, body);
    let set = |offset: u32, at: &str, len: u32| {
        kept(format!(
            "(i32.store (i32.const {offset}) {at}) (i32.store (i32.const {}) (i32.const {len})) (i32.const 1024)",
            offset + 4
        ))
    };
    vec![
        ends("loops-at-start", "timeout", "`instantiate` took longer than", Body { start: LOOP_UNIT, ..WELL }),
        ends("loops-at-start-idle", "timeout", "`instantiate` took longer than", Body { start: LOOP_UNIT, ..IDLE }),
        ends("loops-at-start-hook", "timeout", "`instantiate` took longer than", Body { start: LOOP_UNIT, ..HOOK }),
        ends(
            "traps-at-start",
            "trap",
            "`instantiate` trapped: wasm trap: wasm `unreachable`",
            Body { start: TRAP, ..WELL },
        ),
        ends(
            "grows-at-start",
            "memory",
            "bytes of memory, more than the 67108864 allowed",
            Body { start: "(loop $more (drop (memory.grow (i32.const 16))) (br $more))", ..WELL },
        ),
        ends(
            "starts-with-100-mib",
            "memory",
            "`instantiate` wanted 104857600 bytes of memory",
            Body { pages: 1600, ..WELL },
        ),
        ends(
            "memories-add-up",
            "memory",
            "`instantiate` wanted 67239936 bytes of memory",
            Body { fields: "(memory $second 512) (memory $third 512)", ..HOOK },
        ),
        ends("loops-in-describe", "timeout", "`describe` took longer than", Body { describe: LOOP, ..WELL }),
        ends("loops-in-describe-idle", "timeout", "`describe` took longer than", Body { describe: LOOP, ..IDLE }),
        ends("loops-in-describe-hook", "timeout", "`describe` took longer than", Body { describe: LOOP, ..HOOK }),
        ends("traps-in-describe", "trap", "`describe` trapped", Body { describe: TRAP, ..WELL }),
        ends(
            "exits-in-describe",
            "trap",
            "the plugin exited with status 1",
            Body {
                imports: "import wasi:cli/exit@0.2.6;",
                fields: r#"(import "wasi:cli/exit@0.2.6" "exit" (func $exit (param i32)))"#,
                describe: "(call $exit (i32.const 1)) (i32.const 1024)",
                ..IDLE
            },
        ),
        ends(
            "points-out-of-memory",
            "output",
            "`describe` answered against the contract",
            Body { describe: "(i32.const -4)", ..HOOK },
        ),
        ends(
            "name-is-no-text",
            "output",
            "utf-8",
            Body { describe: "(i32.store8 (i32.const 1104) (i32.const 255)) (i32.const 1024)", ..HOOK },
        ),
        odd("Not-A-Name", "its name `Not-A-Name` is not", WELL),
        odd("no-version", "its version `one` is not a semantic one", Body { version: "one", ..WELL }),
        odd(
            "endless-summary",
            "longer than 1000 characters",
            Body { describe: set(1040, "(call $zeroes (i32.const 100000))", 100_000), ..WELL },
        ),
        ends(
            "summary-of-20-mib",
            "output",
            "more than the 8388608 bytes allowed at a time",
            Body { describe: set(1040, "(call $zeroes (i32.const 20000000))", 20_000_000), ..WELL },
        ),
        ends(
            "a-billion-columns",
            "output",
            "out of bounds of memory",
            Body { describe: set(1056, "(i32.const 640)", 1_000_000_000), ..WELL },
        ),
        odd(
            "hundreds-of-columns",
            "more than 64 columns",
            Body { describe: set(1056, "(call $zeroes (i32.const 16000))", 1000), ..WELL },
        ),
        odd(
            "impossible-column",
            "which can't exist",
            Body { describe: set(1056, "(call $zeroes (i32.const 16))", 1), ..WELL },
        ),
        odd("scheduler-of-events", "which only hooks receive", Body { events: 1, ..WELL }),
        odd("hook-of-nothing", "names no event", Body { events: 0, ..HOOK }),
    ]
}

/// Schemas of configurations: applied with the host's rights.
fn schemas() -> Vec<Case> {
    let schema = |name, reason, schema| guest(name, Ends::SelfTested, "description", reason, Body { schema, ..HOOK });
    let doubling: String = (0..60)
        .map(|n| format!(r##""d{n}":{{"allOf":[{{"$ref":"#/$defs/d{0}"}},{{"$ref":"#/$defs/d{0}"}}]}},"##, n + 1))
        .collect();
    vec![
        schema("schema-is-no-json", "is not JSON", "{"),
        schema("schema-is-none", "is none", r#"{"type": 5}"#),
        schema("schema-without-end", "refers to itself", r##"{"$ref": "#"}"##),
        schema(
            "schema-doubles",
            "unfolds to more than 20000 values",
            kept(format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{doubling}"d60":{{}}}}}}"##)),
        ),
        schema("schema-is-deep", "recursion limit", kept(format!("{}{}", r#"{"not":"#.repeat(5000), "}".repeat(5000)))),
        schema(
            "schema-of-patterns",
            "regular expressions",
            kept(format!(r#"{{"allOf":[{}{{}}]}}"#, r#"{"pattern":"(a{9}){9}"},"#.repeat(2000))),
        ),
        schema("schema-fetches", "which is not in it", r#"{"$ref": "http://169.254.169.254/latest/meta-data"}"#),
    ]
}

/// `check-config`, of all worlds.
fn configurations() -> Vec<Case> {
    let ends = |name, kind, reason, body| guest(name, Ends::CheckConfig, kind, reason, body);
    vec![
        ends("loops-in-check-config", "config", "`check-config` took longer than", Body { check_config: LOOP, ..WELL }),
        ends(
            "loops-in-check-config-idle",
            "config",
            "`check-config` took longer than",
            Body { check_config: LOOP, ..IDLE },
        ),
        ends(
            "loops-in-check-config-hook",
            "config",
            "`check-config` took longer than",
            Body { check_config: LOOP, ..HOOK },
        ),
        ends("traps-in-check-config", "config", "`check-config` trapped", Body { check_config: TRAP, ..HOOK }),
        ends("loops-in-realloc", "config", "`check-config` took longer than", Body { realloc: LOOP, ..WELL }),
        ends("reallocates-nowhere", "config", "realloc", Body { realloc: "(i32.const -16)", ..WELL }),
        ends(
            "thousand-problems",
            "config",
            "",
            Body {
                check_config: "(i32.store8 (i32.const 600) (i32.const 1))
                    (i32.store (i32.const 604) (call $zeroes (i32.const 16000)))
                    (i32.store (i32.const 608) (i32.const 1000)) (i32.const 600)",
                ..WELL
            },
        ),
    ]
}

/// Loops, traps and hunger in a round.
fn schedulers() -> Vec<Case> {
    let ends = |name, export, kind, reason, body| guest(name, Ends::Called(export), kind, reason, body);
    let nowhere = |name, body| guest(name, Ends::Nowhere, "", "", body);
    let grow = "(loop $more (drop (memory.grow (i32.const 1))) (br $more)) unreachable";
    vec![
        ends("loops-in-open", "open", "timeout", "`open` took longer than", Body { open: LOOP, ..WELL }),
        ends("loops-in-propose", "propose", "timeout", "`propose` took longer than", Body { propose: LOOP, ..WELL }),
        ends("loops-in-settle", "settle", "timeout", "`settle` took longer than", Body { propose: ONE_DEFERRAL, settle: LOOP_UNIT, ..WELL }),
        ends("loops-in-explain", "explain", "timeout", "`explain` took longer than", Body { explain: LOOP, ..WELL }),
        ends(
            "loops-after-propose",
            "propose",
            "timeout",
            "`propose` took longer than",
            Body {
                fields: r#"(func (export "cabi_post_quarterdeck:policy/scheduling@0.1.0#[method]round.propose") (param i32)
                    (loop $for_ever (br $for_ever)))"#,
                ..WELL
            },
        ),
        // A round is over with its instance: nothing of it is asked to clean up.
        nowhere("loops-in-drop", Body { dropped: LOOP_UNIT, ..WELL }),
        nowhere("traps-in-drop", Body { dropped: TRAP, ..WELL }),
        ends("traps-in-open", "open", "trap", "`open` trapped: wasm trap: wasm `unreachable`", Body { open: TRAP, ..WELL }),
        ends("traps-in-propose", "propose", "trap", "`propose` trapped", Body { propose: TRAP, ..WELL }),
        ends("traps-in-settle", "settle", "trap", "`settle` trapped", Body { propose: ONE_DEFERRAL, settle: TRAP, ..WELL }),
        ends("traps-in-explain", "explain", "trap", "`explain` trapped", Body { explain: TRAP, ..WELL }),
        ends("divides-by-zero", "propose", "trap", "divide by zero", Body { propose: "(i32.div_u (i32.const 1) (i32.const 0))", ..WELL }),
        ends("reads-out-of-memory", "propose", "trap", "out of bounds memory access", Body { propose: "(i32.load (i32.const -8))", ..WELL }),
        ends("recurses", "propose", "trap", "call stack exhausted in deeper < deeper", Body { propose: DEEPER, ..WELL }),
        ends("allocates-4-gib", "propose", "memory", "more than the 67108864 allowed", Body { propose: "(drop (memory.grow (i32.const 65535))) (i32.const 640)", ..WELL }),
        ends("grows-by-pages", "propose", "memory", "`propose` wanted 67174400 bytes of memory", Body { propose: grow, ..WELL }),
        ends(
            "grows-a-table",
            "propose",
            "memory",
            "table elements, more than the 60000 allowed",
            Body { propose: "(loop $more (drop (table.grow $table (ref.null func) (i32.const 1000))) (br $more)) unreachable", ..WELL },
        ),
        ends(
            "leaks-rounds",
            "propose",
            "memory",
            "`propose` wanted 257 handles, more than the 256 allowed",
            Body { propose: "(loop $more (drop (call $new (i32.const 1))) (br $more)) unreachable", ..WELL },
        ),
        ends("fails-to-open", "open", "guest-error", "`open` reported: ", Body {
            open: "(i32.store8 (i32.const 600) (i32.const 1)) (i32.store (i32.const 604) (call $zeroes (i32.const 5000000)))
                (i32.store (i32.const 608) (i32.const 5000000)) (i32.const 600)",
            ..WELL
        }),
        ends("opens-nothing", "open", "output", "handle", Body {
            open: "(i32.store8 (i32.const 600) (i32.const 0)) (i32.store (i32.const 604) (i32.const 77)) (i32.const 600)",
            ..WELL
        }),
        ends("floods-the-log", "propose", "timeout", "`propose` took longer than", Body {
            propose: "(loop $more (call $log (i32.const 3) (i32.const 1088) (i32.const 7) (i32.const 0) (i32.const 0)) (br $more)) unreachable",
            ..WELL
        }),
        ends("logs-megabytes", "propose", "timeout", "`propose` took longer than", Body {
            propose: "(local $at i32) (local.set $at (call $zeroes (i32.const 8000000)))
                (loop $more (call $log (i32.const 3) (local.get $at) (i32.const 8000000) (i32.const 0) (i32.const 0)) (br $more)) unreachable",
            ..WELL
        }),
        nowhere("logs-a-little-too-much", Body {
            propose: "(local $left i32) (local.set $left (i32.const 20000))
                (loop $next
                    (call $log (i32.const 1) (i32.const 1088) (i32.const 7) (i32.const 0) (i32.const 0))
                    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                    (br_if $next (local.get $left)))
                (i32.const 640)",
            ..WELL
        }),
        // Twenty thousand counters with names of three letters.
        nowhere("floods-the-counters", Body {
            propose: "(local $left i32) (local.set $left (i32.const 20000))
                (loop $next
                    (i32.store8 (i32.const 720) (i32.add (i32.const 97) (i32.rem_u (local.get $left) (i32.const 26))))
                    (i32.store8 (i32.const 721) (i32.add (i32.const 97) (i32.rem_u (i32.div_u (local.get $left) (i32.const 26)) (i32.const 26))))
                    (i32.store8 (i32.const 722) (i32.add (i32.const 97) (i32.rem_u (i32.div_u (local.get $left) (i32.const 676)) (i32.const 26))))
                    (call $count (i32.const 720) (i32.const 3) (i64.const -1))
                    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                    (br_if $next (local.get $left)))
                (i32.const 640)",
            ..WELL
        }),
        // The configuration again and again, and the memory of each answer is used anew.
        ends("spams-for-configuration", "propose", "timeout", "`propose` took longer than", Body {
            propose: "(loop $more (global.set $heap (i32.const 65536)) (call $config (i32.const 720)) (br $more)) unreachable",
            ..WELL
        }),
        ends("dies-with-many-words", "propose", "trap", "the plugin panicked at AAAAAAAAAA", Body {
            propose: "(local $at i32) (local.set $at (call $zeroes (i32.const 4000000)))
                (memory.fill (local.get $at) (i32.const 65) (i32.const 4000000))
                (memory.copy (local.get $at) (i32.const 760) (i32.const 23))
                (call $log (i32.const 3) (local.get $at) (i32.const 4000000) (i32.const 0) (i32.const 0)) unreachable",
            fields: r#"(data (i32.const 760) "the plugin panicked at ")"#,
            ..WELL
        }),
        // Names of functions that unfold to gigabytes when they are spelled out.
        ends("traps-with-a-long-name", "propose", "trap", "`propose` trapped", Body {
            propose: "(call $\"_Z1f1AIS_S_E\") unreachable",
            fields: kept(format!("(func $\"_Z1f1AIS_S_E\" (call $\"{0}\")) (func $\"{0}\" unreachable)", unfolding_name())),
            ..WELL
        }),
    ]
}

/// A mangled C++ name in which each template refers twice to the one before it.
fn unfolding_name() -> String {
    let mut name = String::from("_Z1fI1AEvT_");
    // 1BI1AS0_E, 1BIS1_S1_E and so on: substitutions are counted in base 36.
    let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut last = "S_".to_owned();
    for level in 0..40_usize {
        name += &format!("1BI{last}{last}E");
        let index = level * 2 + 2;
        last = if index < 36 {
            format!("S{}_", digits[index] as char)
        } else {
            format!("S{}{}_", digits[index / 36] as char, digits[index % 36] as char)
        };
    }
    name
}

/// What a round answers.
fn schedulers_answers() -> Vec<Case> {
    let ends = |name, reason, propose| guest(name, Ends::Called("propose"), "output", reason, Body { propose, ..WELL });
    let explains =
        |name, reason, explain| guest(name, Ends::Called("explain"), "output", reason, Body { explain, ..WELL });
    let list = "(i32.store (i32.const 656) (i32.const 672)) (i32.store (i32.const 660) (i32.const 1)) (i32.const 656)";
    let place = |session: u32, agents: &str, count: u32| {
        kept(format!(
            "(i32.store8 (i32.const 672) (i32.const 0)) (i32.store (i32.const 676) (i32.const {session}))
             (i32.store (i32.const 680) {agents}) (i32.store (i32.const 684) (i32.const {count})) {list}"
        ))
    };
    vec![
        // A list with more elements than the memory has bytes.
        ends("huge-list", "out of bounds of memory", "(i32.store (i32.const 656) (i32.const 640)) (i32.store (i32.const 660) (i32.const 2147483647)) (i32.const 656)"),
        // A million deferrals that share one text of a hundred thousand bytes: tiny in the guest, vast in the host.
        ends(
            "amplifies",
            "more than the 8388608 bytes allowed at a time",
            "(local $list i32) (local $at i32) (local $end i32)
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
        ),
        ends("bad-pointer", "out of bounds of memory", "(i32.const -4)"),
        ends("crooked-pointer", "not aligned", "(i32.const 641)"),
        ends("bad-variant", "unexpected discriminant: 9", kept(format!("(i32.store8 (i32.const 672) (i32.const 9)) {list}"))),
        ends(
            "text-is-no-text",
            "utf-8",
            kept(format!(
                "(i32.store8 (i32.const 672) (i32.const 1)) (i32.store8 (i32.const 740) (i32.const 255))
                 (i32.store (i32.const 684) (i32.const 740)) (i32.store (i32.const 688) (i32.const 1)) {list}"
            )),
        ),
        ends("nonsense-session", "pending session 99999 of 2", place(99_999, "(i32.const 704)", 1)),
        ends("nonsense-agent", "agent 99999 of 1", kept(format!("(i32.store (i32.const 704) (i32.const 99999)) {}", place(0, "(i32.const 704)", 1)))),
        ends("too-few-agents", "has 1 kernels and was given 0 agents", place(0, "(i32.const 704)", 0)),
        ends("too-many-agents", "has 1 kernels and was given 500000 agents", place(0, "(call $zeroes (i32.const 2000000))", 500_000)),
        ends("repeats-itself", "proposed twice", ONE_DEFERRAL),
        ends(
            "too-many-proposals",
            "1000 proposals where at most 64",
            "(i32.store (i32.const 656) (call $zeroes (i32.const 20000)))
            (i32.store (i32.const 660) (i32.const 1000)) (i32.const 656)",
        ),
        ends(
            "endless-detail",
            "has 100000 bytes; 4096 are allowed",
            kept(format!(
                "(i32.store8 (i32.const 672) (i32.const 1)) (i32.store (i32.const 684) (call $zeroes (i32.const 100000)))
                 (i32.store (i32.const 688) (i32.const 100000)) {list}"
            )),
        ),
        // Scores of NaN and infinity: shown as 0.
        guest("scores-nan-and-infinity", Ends::Nowhere, "", "", Body {
            explain: "(i32.store (i32.const 656) (i32.const 0)) (i32.store (i32.const 660) (i32.const 0))
                (i32.store (i32.const 664) (i32.const 680)) (i32.store (i32.const 668) (i32.const 2))
                (f64.store (i32.const 688) (f64.const nan)) (f64.store (i32.const 712) (f64.const -inf)) (i32.const 656)",
            ..WELL
        }),
        explains(
            "nonsense-candidate",
            "candidate agent 99999 of 1",
            "(i32.store (i32.const 664) (i32.const 680)) (i32.store (i32.const 668) (i32.const 1))
             (i32.store (i32.const 680) (i32.const 99999)) (i32.const 656)",
        ),
        explains(
            "too-many-candidates",
            "candidates where at most",
            "(i32.store (i32.const 664) (call $zeroes (i32.const 240000))) (i32.store (i32.const 668) (i32.const 10000)) (i32.const 656)",
        ),
        explains(
            "endless-explanation",
            "the summary has 100000 bytes",
            "(i32.store (i32.const 656) (call $zeroes (i32.const 100000))) (i32.store (i32.const 660) (i32.const 100000)) (i32.const 656)",
        ),
    ]
}

/// Idle checkers.
fn idle_checkers() -> Vec<Case> {
    let ends = |name, export, kind, reason, body| guest(name, Ends::Called(export), kind, reason, body);
    let answers = |name, reason, check| ends(name, "check", "output", reason, Body { check, ..IDLE });
    let traits = |name, reason, traits| ends(name, "traits", "output", reason, Body { traits, ..IDLE });
    // As many findings as asked for, all exempt; then something is done to the first.
    let first = |change: &str| {
        kept(format!(
            "(local $list i32)
             (local.set $list (call $zeroes (i32.mul (i32.load offset=8 (local.get 0)) (i32.const 40))))
             {change}
             (i32.store8 (i32.const 600) (i32.const 0)) (i32.store (i32.const 604) (local.get $list))
             (i32.store (i32.const 608) (i32.load offset=8 (local.get 0))) (i32.const 600)"
        ))
    };
    let report = |fill: u32, size: u32| {
        first(&format!(
            "(i32.store offset=32 (local.get $list) (call $zeroes (i32.const {size})))
             (memory.fill (i32.load offset=32 (local.get $list)) (i32.const {fill}) (i32.const {size}))
             (i32.store offset=36 (local.get $list) (i32.const {size}))"
        ))
    };
    vec![
        ends("loops-in-traits", "traits", "timeout", "`traits` took longer than", Body { traits: LOOP, ..IDLE }),
        ends("traps-in-traits", "traits", "trap", "`traits` trapped", Body { traits: TRAP, ..IDLE }),
        ends("loops-in-check", "check", "timeout", "`check` took longer than", Body { check: LOOP, ..IDLE }),
        ends("traps-in-check", "check", "trap", "`check` trapped", Body { check: TRAP, ..IDLE }),
        ends("recurses-in-check", "check", "trap", "call stack exhausted", Body { check: DEEPER, ..IDLE }),
        ends(
            "allocates-in-check",
            "check",
            "memory",
            "bytes of memory",
            Body { check: "(drop (memory.grow (i32.const 65000))) (i32.const 640)", ..IDLE },
        ),
        ends(
            "check-fails",
            "check",
            "guest-error",
            "`check` reported: ",
            Body {
                check: "(i32.store8 (i32.const 600) (i32.const 1)) (i32.store (i32.const 604) (i32.const 1088))
                (i32.store (i32.const 608) (i32.const 7)) (i32.const 600)",
                ..IDLE
            },
        ),
        answers(
            "too-few-findings",
            "0 answers for 2 sessions",
            "(i32.store8 (i32.const 600) (i32.const 0)) (i32.store (i32.const 604) (i32.const 0))
             (i32.store (i32.const 608) (i32.const 0)) (i32.const 600)",
        ),
        answers(
            "findings-on-strangers",
            "1000 answers for 2 sessions",
            "(i32.store8 (i32.const 600) (i32.const 0)) (i32.store (i32.const 604) (call $zeroes (i32.const 40000)))
             (i32.store (i32.const 608) (i32.const 1000)) (i32.const 600)",
        ),
        answers(
            "bad-state",
            "unexpected discriminant: 200",
            first("(i32.store8 offset=8 (local.get $list) (i32.const 200))"),
        ),
        // A remaining time is a whole number: the bits of a NaN are one that is far beyond a thousand years.
        answers(
            "nan-is-left",
            "session 0 has 9221120237041090560 ms left",
            first(
                "(i32.store8 offset=16 (local.get $list) (i32.const 1)) (f64.store offset=24 (local.get $list) (f64.const nan))",
            ),
        ),
        answers(
            "eternity-is-left",
            "session 0 has -9223372036854775808 ms left",
            first(
                "(i32.store8 offset=16 (local.get $list) (i32.const 1)) (i64.store offset=24 (local.get $list) (i64.const -9223372036854775808))",
            ),
        ),
        answers("report-is-no-json", "the report on session 0 is not JSON", report(65, 10)),
        answers("report-is-deep", "recursion limit", report(91, 4000)),
        answers("endless-report", "the report on session 0 has 1000000 bytes", report(65, 1_000_000)),
        // Errors of single sessions leave the others judged; their texts are cut.
        guest(
            "endless-errors",
            Ends::Nowhere,
            "",
            "",
            Body {
                check: first(
                    "(i32.store8 (local.get $list) (i32.const 1))
                 (i32.store offset=8 (local.get $list) (call $zeroes (i32.const 5000000)))
                 (i32.store offset=12 (local.get $list) (i32.const 5000000))",
                ),
                ..IDLE
            },
        ),
        traits(
            "reason-is-no-name",
            "the reason ` ` is not",
            "(i32.store8 (i32.const 1088) (i32.const 27)) (i32.store (i32.const 1284) (i32.const 1)) (i32.const 1280)",
        ),
        traits(
            "history-of-a-century",
            "a week is allowed",
            "(i64.store (i32.const 1304) (i64.const 3155760000000)) (i32.const 1280)",
        ),
        traits(
            "thousands-of-metrics",
            "more than 64 metrics",
            "(i32.store (i32.const 1292) (call $zeroes (i32.const 40000))) (i32.store (i32.const 1296) (i32.const 5000)) (i32.const 1280)",
        ),
    ]
}

/// Hooks.
fn hooks() -> Vec<Case> {
    let ends = |name, kind, reason, body| guest(name, Ends::Called("handle"), kind, reason, body);
    let answers = |name, reason, handle| ends(name, "output", reason, Body { handle, ..HOOK });
    // A patch of so many equal characters.
    let patch = |fill: u32, size: u32| {
        kept(format!(
            "(i32.store8 (i32.const 700) (i32.const 0)) (i32.store8 (i32.const 704) (i32.const 1))
             (i32.store8 (i32.const 708) (i32.const 1)) (i32.store (i32.const 712) (call $zeroes (i32.const {size})))
             (memory.fill (i32.load (i32.const 712)) (i32.const {fill}) (i32.const {size}))
             (i32.store (i32.const 716) (i32.const {size})) (i32.const 700)"
        ))
    };
    let deny = |text: u32, fields: u32| {
        kept(format!(
            "(i32.store8 (i32.const 700) (i32.const 0)) (i32.store8 (i32.const 704) (i32.const 2))
             (i32.store (i32.const 708) (call $zeroes (i32.const {text}))) (i32.store (i32.const 712) (i32.const {text}))
             (i32.store (i32.const 716) (call $zeroes (i32.const {}))) (i32.store (i32.const 720) (i32.const {fields})) (i32.const 700)",
            fields * 16
        ))
    };
    vec![
        ends("loops-in-handle", "timeout", "`handle` took longer than", Body { handle: LOOP, ..HOOK }),
        ends("traps-in-handle", "trap", "`handle` trapped", Body { handle: TRAP, ..HOOK }),
        ends("recurses-in-handle", "trap", "call stack exhausted", Body { handle: DEEPER, ..HOOK }),
        ends(
            "allocates-in-handle",
            "memory",
            "bytes of memory",
            Body { handle: "(drop (memory.grow (i32.const 65000))) (i32.const 640)", ..HOOK },
        ),
        ends(
            "handle-fails",
            "guest-error",
            "`handle` reported: hostile",
            Body {
                handle: "(i32.store8 (i32.const 700) (i32.const 1)) (i32.store (i32.const 704) (i32.const 1088))
                (i32.store (i32.const 708) (i32.const 7)) (i32.const 700)",
                ..HOOK
            },
        ),
        answers("nonsense-patch", "the patch is not JSON", patch(65, 7)),
        answers("patch-is-a-number", "the patch is not a JSON object", patch(49, 9)),
        answers("patch-is-deep", "recursion limit", patch(91, 200_000)),
        answers("endless-patch", "the patch has 5000000 bytes", patch(65, 5_000_000)),
        answers("endless-denial", "the reason has 1000000 bytes; 4096 are allowed", deny(1_000_000, 0)),
        answers("thousands-of-fields", "5000 fields; 32 are allowed", deny(10, 5000)),
        // A patch of something that no event has: whether it is taken is for those who know the event.
        guest(
            "unknown-patch",
            Ends::Nowhere,
            "",
            "",
            Body {
                fields: r#"(data (i32.const 760) "{\"owner\":{\"role\":\"superadmin\"}}")"#,
                handle: "(i32.store8 (i32.const 700) (i32.const 0)) (i32.store8 (i32.const 704) (i32.const 1))
                (i32.store8 (i32.const 708) (i32.const 1)) (i32.store (i32.const 712) (i32.const 760))
                (i32.store (i32.const 716) (i32.const 31)) (i32.const 700)",
                ..HOOK
            },
        ),
    ]
}

/// What the empty world of WASI is misused for.
fn resources() -> Vec<Case> {
    let ends = |name, kind, reason, body| guest(name, Ends::Called("handle"), kind, reason, body);
    let exit = r#"(import "wasi:cli/exit@0.2.6" "exit" (func $exit (param i32)))"#;
    let streams = r#"(import "wasi:cli/stdout@0.2.6" "get-stdout" (func $stdout (result i32)))
        (import "wasi:io/streams@0.2.6" "[method]output-stream.write-zeroes" (func $write (param i32 i64 i32)))"#;
    let uses_streams = "import wasi:cli/stdout@0.2.6; import wasi:io/streams@0.2.6;";
    vec![
        ends(
            "exits",
            "trap",
            "the plugin exited with status 1",
            Body {
                imports: "import wasi:cli/exit@0.2.6;",
                fields: exit,
                handle: "(call $exit (i32.const 1)) unreachable",
                ..HOOK
            },
        ),
        ends(
            "exits-well",
            "trap",
            "the plugin exited with status 0",
            Body {
                imports: "import wasi:cli/exit@0.2.6;",
                fields: exit,
                handle: "(call $exit (i32.const 0)) unreachable",
                ..HOOK
            },
        ),
        ends(
            "leaks-streams",
            "memory",
            "handles, more than the 256 allowed",
            Body {
                imports: uses_streams,
                fields: streams,
                handle: "(loop $more (drop (call $stdout)) (br $more)) unreachable",
                ..HOOK
            },
        ),
        ends(
            "writes-a-terabyte",
            "output",
            "more zeroes than",
            Body {
                imports: uses_streams,
                fields: streams,
                handle: "(call $write (call $stdout) (i64.const 1099511627776) (i32.const 740)) unreachable",
                ..HOOK
            },
        ),
        ends(
            "wants-a-gigabyte-of-dice",
            "output",
            "exceeds limit 65536",
            Body {
                imports: "import wasi:random/random@0.2.6;",
                fields: r#"(import "wasi:random/random@0.2.6" "get-random-bytes" (func $random (param i64 i32)))"#,
                handle: "(call $random (i64.const 1073741824) (i32.const 740)) unreachable",
                ..HOOK
            },
        ),
        ends(
            "throws-dice-for-ever",
            "timeout",
            "`handle` took longer than",
            Body {
                imports: "import wasi:random/random@0.2.6;",
                fields: r#"(import "wasi:random/random@0.2.6" "get-random-bytes" (func $random (param i64 i32)))"#,
                handle: "(loop $more (global.set $heap (i32.const 65536)) (call $random (i64.const 60000) (i32.const 740)) (br $more)) unreachable",
                ..HOOK
            },
        ),
        ends(
            "forges-a-stream",
            "output",
            "unknown handle index",
            Body {
                imports: uses_streams,
                fields: streams,
                handle: "(call $write (i32.const 12345) (i64.const 1) (i32.const 740)) unreachable",
                ..HOOK
            },
        ),
    ]
}
