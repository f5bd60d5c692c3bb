//! Names of domains and projects.

/// Whether a name is a slug: ASCII letters, digits, `.`, `_` and `-`, with a letter or digit at both ends.
pub fn is_slug(name: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_alphanumeric();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|b| edge(b) || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::is_slug;

    #[test]
    fn slugs() {
        assert!(["a", "a.b-c_d", "0x9"].into_iter().all(is_slug));
        assert!(!["", "-a", "a.", "a b", "ä"].into_iter().any(is_slug));
    }
}
