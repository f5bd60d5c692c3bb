//! `WWW-Authenticate: Bearer …`: where tokens are to be had.

use url::Url;

/// Who gives tokens, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) realm: Url,
    pub(super) service: String,
}

impl Challenge {
    /// Reads a header's value; `None` when it asks for something else than a token.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, String::new());
        for (name, value) in parameters(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = value.parse().ok().filter(|url: &Url| matches!(url.scheme(), "http" | "https")),
                "service" => service = value,
                _ => {}
            }
        }
        Some(Self { realm: realm?, service })
    }
}

/// `name=value` and `name="quoted, value"`, joined by commas.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut rest = text.trim();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted_text(quoted),
            None => {
                let (value, next) = after.split_once(',').unwrap_or((after, ""));
                (value.trim().to_owned(), next)
            }
        };
        out.push((name.trim().trim_start_matches(',').trim().to_owned(), value));
        rest = next.trim_start_matches([',', ' ']);
    }
    out
}

/// The text up to the closing quote, and what follows it.
fn quoted_text(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn challenges_are_read() {
        let read = |text: &str| Challenge::parse(text).map(|c| (c.realm.to_string(), c.service));
        let some = |realm: &str, service: &str| Some((realm.to_owned(), service.to_owned()));
        assert_eq!(
            read(r#"Bearer realm="https://auth.example.org/token",service="reg, \"x\"",scope="a:b:c,d""#),
            some("https://auth.example.org/token", "reg, \"x\"")
        );
        assert_eq!(read("bearer service=s, realm=http://h/t"), some("http://h/t", "s"));
        for none in
            ["Basic realm=\"x\"", "Bearer", "Bearer realm=\"file:///x\"", "Bearer service=\"s\"", "", "Bearer \"="]
        {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
