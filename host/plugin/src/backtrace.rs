//! Where a guest trapped, in its own words: names of functions are bytes that a stranger chose.
//!
//! The runtime's own way to show a backtrace is not used: it spells out C++ names too, and a short one can stand for
//! gigabytes.

use std::fmt::Write;

use wasmtime::WasmBacktrace;

use crate::journal::presentable;

/// Innermost functions that are shown.
const FRAMES: usize = 12;

/// Bytes of a function's name.
const NAME_BYTES: usize = 160;

/// Names longer than this are shown as they are, cut.
const MANGLED_BYTES: usize = 1024;

/// The trap, and the functions that were running, innermost first.
pub(crate) fn told(trap: &str, error: &wasmtime::Error) -> String {
    let mut text = presentable(trap, 200);
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return text };
    let frames = backtrace.frames();
    for (position, frame) in frames.iter().take(FRAMES).enumerate() {
        text.push_str(if position == 0 { " in " } else { " < " });
        match frame.func_name() {
            Some(name) => text.push_str(&presentable(&readable(name), NAME_BYTES)),
            None => {
                let _ = write!(text, "function {}", frame.func_index());
            }
        }
    }
    if frames.len() > FRAMES {
        text.push_str(" < …");
    }
    text
}

/// A Rust name as it was written, without its hash; any other as it is.
fn readable(name: &str) -> String {
    if name.len() > MANGLED_BYTES {
        return name.to_owned();
    }
    let Ok(name_of_rust) = rustc_demangle::try_demangle(name) else { return name.to_owned() };
    let mut bounded = Bounded(String::new());
    let _ = write!(bounded, "{name_of_rust:#}");
    bounded.0
}

/// Text that stops growing: compressed names of Rust can get long as well.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        if self.0.len() + text.len() > MANGLED_BYTES {
            return Err(std::fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn rust_names_are_readable_and_others_left_alone() {
        assert_eq!(readable("_ZN15quarterdeck_drf4open17h0123456789abcdefE"), "quarterdeck_drf::open");
        assert_eq!(readable("_ZN3foo3barEv_is_no_rust"), "_ZN3foo3barEv_is_no_rust");
        assert_eq!(readable("cabi_realloc"), "cabi_realloc");
    }
}
