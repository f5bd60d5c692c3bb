//! The first process of sandboxes, for this crate's own tests: elsewhere the agent's own binary is it.

fn main() -> std::process::ExitCode {
    quarterdeck_agent::sandbox::main()
}
