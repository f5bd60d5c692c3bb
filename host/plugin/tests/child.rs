//! Compiling in a child process. This test is its own child: it has no harness that would write to standard output.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use quarterdeck_plugin::{
    COMPILE_CHILD_ARG, Call, CompileLimits, Compiler, Kind, LoadError, Meter, Runtime, RuntimeOptions, builtin,
    compile_child_main,
};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == COMPILE_CHILD_ARG) {
        return compile_child_main();
    }
    if args.first().is_some_and(|arg| arg == "sleep") {
        std::thread::sleep(Duration::from_secs(60));
        return ExitCode::FAILURE;
    }
    if args.iter().any(|arg| arg == "--list") {
        // What test runners ask first.
        if !args.iter().any(|arg| arg == "--ignored") {
            println!("child_processes: test");
        }
        return ExitCode::SUCCESS;
    }
    components_are_compiled_in_a_child();
    broken_components_are_refused_by_the_child();
    limits_hold();
    println!("test child_processes ... ok");
    ExitCode::SUCCESS
}

fn runtime(argument: &str, compile_limits: CompileLimits) -> Runtime {
    let compiler =
        Compiler::Child { program: std::env::current_exe().unwrap(), args: vec![argument.to_owned().into()] };
    Runtime::new(RuntimeOptions { compiler, compile_limits, ..RuntimeOptions::default() }).unwrap()
}

fn components_are_compiled_in_a_child() {
    let runtime = runtime(COMPILE_CHILD_ARG, CompileLimits::default());
    let plugin = runtime.load_blocking(builtin::get("session_lifetime").unwrap().wasm).unwrap();
    assert_eq!(plugin.kind, Kind::IdleChecker);
    plugin.traits(&Call::default()).unwrap();
    // Metered calls compile a second time, with other settings.
    plugin.traits(&Call { meter: Meter::Fuel(10_000_000), ..Call::default() }).unwrap();
}

fn broken_components_are_refused_by_the_child() {
    let runtime = runtime(COMPILE_CHILD_ARG, CompileLimits::default());
    // The outline is fine, the code is not.
    let wasm = wat::parse_str(
        r#"(component
            (core module (func (result i32) (i64.const 1)))
            (instance $empty)
            (export "quarterdeck:policy/plugin@0.1.0" (instance $empty))
            (export "quarterdeck:policy/hooks@0.1.0" (instance $empty)))"#,
    )
    .unwrap();
    match runtime.load_blocking(&wasm) {
        Err(LoadError::Compile(reason)) => assert!(reason.contains("type mismatch"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

fn limits_hold() {
    let wasm = builtin::get("fifo").unwrap().wasm;
    let short = CompileLimits { wall: Duration::from_millis(300), ..CompileLimits::default() };
    let started = Instant::now();
    match runtime("sleep", short).load_blocking(wasm) {
        Err(LoadError::Compile(reason)) => assert!(reason.contains("longer"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(started.elapsed() < Duration::from_secs(30));

    let small = CompileLimits { output: 4096, ..CompileLimits::default() };
    assert!(matches!(runtime(COMPILE_CHILD_ARG, small).load_blocking(wasm), Err(LoadError::Compile(_))));

    let narrow = CompileLimits { address_space: 24 << 20, ..CompileLimits::default() };
    assert!(matches!(runtime(COMPILE_CHILD_ARG, narrow).load_blocking(wasm), Err(LoadError::Compile(_))));
}
