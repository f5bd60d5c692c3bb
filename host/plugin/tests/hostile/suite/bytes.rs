//! Components put together from bytes: what no tool makes.

/// A section of a module or a component.
fn section(id: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![id];
    out.extend(leb(payload.len()));
    out.extend_from_slice(payload);
    out
}

fn leb(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

/// Looks like a hook from outside, and has nothing inside.
pub fn shell() -> Vec<u8> {
    text(
        r#"(instance $empty)
           (export "quarterdeck:policy/plugin@0.1.0" (instance $empty))
           (export "quarterdeck:policy/hooks@0.1.0" (instance $empty))"#,
    )
}

/// A component in text.
pub fn text(inside: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {inside})")).unwrap_or_else(|error| panic!("{error}"))
}

/// The [`shell`] with a core module in it.
pub fn with_module(module: &[u8]) -> Vec<u8> {
    let mut out = shell();
    out.extend(section(1, module));
    out
}

/// The [`shell`] with a custom section of so many bytes.
pub fn with_custom(of: Vec<u8>, size: usize) -> Vec<u8> {
    let mut payload = vec![4];
    payload.extend_from_slice(b"bomb");
    payload.resize(size, 0);
    let mut out = of;
    out.extend(section(0, &payload));
    out
}

/// A module of one function type, and functions with these bodies (after the locals).
fn functions(count: usize, body: &[u8], locals: &[u8]) -> Vec<u8> {
    let mut out = b"\0asm\x01\0\0\0".to_vec();
    // Type 0: i32 -> i32.
    out.extend(section(1, &[1, 0x60, 1, 0x7f, 1, 0x7f]));
    let mut declared = leb(count);
    declared.extend(std::iter::repeat_n(0, count));
    out.extend(section(3, &declared));
    let mut function = locals.to_vec();
    function.extend_from_slice(body);
    let mut code = leb(count);
    for _ in 0..count {
        code.extend(leb(function.len()));
        code.extend_from_slice(&function);
    }
    out.extend(section(10, &code));
    out
}

/// A few functions that take a compiler long: loops within branches over thousands of values that live at once.
pub fn compile_bomb() -> Vec<u8> {
    let mut body = Vec::new();
    // A thousand values on the stack, a loop that uses a local on its way, and so on: registers for all of it at once.
    for _ in 0..120 {
        for _ in 0..600 {
            // local.get 0; i32.const 3; i32.mul; local.tee 0
            body.extend_from_slice(&[0x20, 0, 0x41, 3, 0x6c, 0x22, 0]);
        }
        // loop; local.get 0; br_if 0; end
        body.extend_from_slice(&[0x03, 0x40, 0x20, 0, 0x0d, 0, 0x0b]);
        // i32.xor
        body.extend(std::iter::repeat_n(0x73, 599));
        // local.set 0
        body.extend_from_slice(&[0x21, 0]);
    }
    // local.get 0; end
    body.extend_from_slice(&[0x20, 0, 0x0b]);
    with_module(&functions(40, &body, &[0]))
}

/// Type errors in its code: its outline is fine.
pub fn wrong_code() -> Vec<u8> {
    // i64.const 1; end, where an i32 is due.
    with_module(&functions(1, &[0x42, 1, 0x0b], &[0]))
}

/// More locals than any function has.
pub fn many_locals() -> Vec<u8> {
    let mut locals = vec![1];
    locals.extend(leb(4_000_000_000));
    locals.push(0x7f);
    with_module(&functions(1, &[0x20, 0, 0x0b], &locals))
}

/// Components within one another, `depth` deep, around a hook's outside.
pub fn nested(depth: usize) -> Vec<u8> {
    let mut inner = b"\0asm\x0d\0\x01\0".to_vec();
    for _ in 0..depth {
        let mut outer = b"\0asm\x0d\0\x01\0".to_vec();
        outer.extend(section(4, &inner));
        inner = outer;
    }
    let mut out = shell();
    out.extend(section(4, &inner));
    out
}

/// Each component instantiates the one before it twice.
pub fn doubling_instances(levels: usize) -> Vec<u8> {
    let mut inside = String::from("(component $c0 (core module $m) (core instance (instantiate $m)))");
    for level in 1..=levels {
        let before = level - 1;
        inside += &format!(
            "(component $c{level} (alias outer $top $c{before} (component $c)) \
             (instance (instantiate $c)) (instance (instantiate $c)))"
        );
    }
    let text = format!(
        r#"(component $top {inside} (instance (instantiate $c{levels}))
           (instance $empty)
           (export "quarterdeck:policy/plugin@0.1.0" (instance $empty))
           (export "quarterdeck:policy/hooks@0.1.0" (instance $empty)))"#
    );
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// A type in a type, `depth` deep.
pub fn deep_type(depth: usize) -> Vec<u8> {
    let mut types = String::from("(type $t0 (list u8))");
    for level in 1..=depth {
        types += &format!("(type $t{level} (list $t{}))", level - 1);
    }
    let mut inside = format!("{types} (type $f (func (param \"x\" $t{depth})))");
    inside += r#"(import "quarterdeck:policy/host@0.1.0" (instance (alias outer 1 $f (type $g)) (export "deep" (func (type $g)))))
        (instance $empty)
        (export "quarterdeck:policy/plugin@0.1.0" (instance $empty))
        (export "quarterdeck:policy/hooks@0.1.0" (instance $empty))"#;
    text(&inside)
}

/// Each type is a tuple of the one before it, twice.
pub fn doubling_type(levels: usize) -> Vec<u8> {
    let mut types = String::from("(type $t0 (tuple u8 u8))");
    for level in 1..=levels {
        types += &format!("(type $t{level} (tuple $t{0} $t{0}))", level - 1);
    }
    let mut out = types;
    out += r#"(instance $empty)
        (export "quarterdeck:policy/plugin@0.1.0" (instance $empty))
        (export "quarterdeck:policy/hooks@0.1.0" (instance $empty))"#;
    text(&out)
}

/// So many instances of a module with a table and a memory of its own.
pub fn crowd(instances: usize, module: &str) -> Vec<u8> {
    let mut inside = format!("(core module $m {module})");
    for _ in 0..instances {
        inside += "(core instance (instantiate $m))";
    }
    inside += r#"(instance $empty)
        (export "quarterdeck:policy/plugin@0.1.0" (instance $empty))
        (export "quarterdeck:policy/hooks@0.1.0" (instance $empty))"#;
    text(&inside)
}

/// Bytes without a meaning, the same every time.
pub fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
