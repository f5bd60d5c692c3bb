//! The rules for passwords.

use serde::Deserialize;

/// Names shorter than this occur in words by chance.
const SHORTEST_NAME: usize = 3;

/// A kind of characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A lower-case letter.
    Lower,
    /// An upper-case letter.
    Upper,
    /// Any letter, also of scripts without cases.
    Letter,
    /// A digit.
    Digit,
    /// Anything else, blanks too.
    Special,
}

impl Kind {
    fn is(self, c: char) -> bool {
        match self {
            Kind::Lower => c.is_lowercase(),
            Kind::Upper => c.is_uppercase(),
            Kind::Letter => c.is_alphabetic(),
            Kind::Digit => c.is_numeric(),
            Kind::Special => !c.is_alphanumeric(),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Kind::Lower => "a lower-case letter",
            Kind::Upper => "an upper-case letter",
            Kind::Letter => "a letter",
            Kind::Digit => "a digit",
            Kind::Special => "a character that is neither letter nor digit",
        }
    }
}

/// Options.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Characters at least.
    pub min_length: usize,
    /// Characters at most.
    pub max_length: usize,
    /// Kinds that must occur.
    pub require: Vec<Kind>,
    /// How many kinds must occur.
    pub min_kinds: usize,
    /// How often a character may follow itself; 0 = no limit.
    pub max_repeated: usize,
    /// Whether names of the user may occur.
    pub allow_user_name: bool,
    /// Whether it may be the old one.
    pub allow_old: bool,
    /// Texts that must not occur.
    pub forbidden: Vec<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            min_length: 8,
            max_length: 256,
            require: vec![Kind::Letter, Kind::Digit],
            min_kinds: 0,
            max_repeated: 0,
            allow_user_name: false,
            allow_old: false,
            forbidden: Vec::new(),
        }
    }
}

impl Rules {
    /// The first rule that a password breaks, with a reason that doesn't repeat it.
    pub fn fault(&self, password: &str, old: Option<&str>, names: &[&str]) -> Option<(&'static str, String)> {
        let length = password.chars().count();
        if length < self.min_length {
            return Some(("min_length", format!("The password must have at least {} characters.", self.min_length)));
        }
        if length > self.max_length {
            return Some(("max_length", format!("The password may have at most {} characters.", self.max_length)));
        }
        if let Some(kind) = self.require.iter().find(|kind| !password.chars().any(|c| kind.is(c))) {
            return Some(("require", format!("The password must contain {}.", kind.words())));
        }
        let kinds = [Kind::Lower, Kind::Upper, Kind::Digit, Kind::Special];
        if kinds.iter().filter(|kind| password.chars().any(|c| kind.is(c))).count() < self.min_kinds {
            let wanted = self.min_kinds;
            let reason = format!(
                "The password must mix at least {wanted} of lower-case letters, upper-case letters, digits and others."
            );
            return Some(("min_kinds", reason));
        }
        if self.max_repeated > 0 && longest_run(password) > self.max_repeated {
            let reason =
                format!("No character of the password may occur more than {} times in a row.", self.max_repeated);
            return Some(("max_repeated", reason));
        }
        if !self.allow_old && old == Some(password) {
            return Some(("allow_old", "The new password must differ from the old one.".to_owned()));
        }
        let folded = password.to_lowercase();
        if !self.allow_user_name && names.iter().any(|name| names_its_user(&folded, name)) {
            return Some(("allow_user_name", "The password must not contain the name of its user.".to_owned()));
        }
        if self.forbidden.iter().any(|word| folded.contains(&word.to_lowercase())) {
            return Some(("forbidden", "The password contains a word that is too easy to guess.".to_owned()));
        }
        None
    }
}

fn longest_run(text: &str) -> usize {
    let (mut longest, mut run, mut last) = (0, 0, None);
    for c in text.chars() {
        run = if last == Some(c) { run + 1 } else { 1 };
        last = Some(c);
        longest = longest.max(run);
    }
    longest
}

/// Whether a folded password contains a name: the whole of it, or what stands before the `@` of an address.
fn names_its_user(password: &str, name: &str) -> bool {
    let name = name.to_lowercase();
    let local = name.split('@').next().unwrap_or_default();
    [name.as_str(), local].iter().any(|part| part.chars().count() >= SHORTEST_NAME && password.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(rules: &Rules, password: &str) -> Option<&'static str> {
        rules.fault(password, Some("old-Passw0rd"), &["anna@example.org", "Anna Berg"]).map(|(rule, _)| rule)
    }

    #[test]
    fn the_first_broken_rule_is_told() {
        let strict = Rules {
            min_kinds: 3,
            max_repeated: 2,
            forbidden: vec!["Quarter".to_owned()],
            max_length: 20,
            ..Rules::default()
        };
        assert_eq!(rule(&strict, "short1"), Some("min_length"));
        assert_eq!(rule(&strict, "a-much-longer-text-than-20"), Some("max_length"));
        assert_eq!(rule(&strict, "without-digits"), Some("require"));
        assert_eq!(rule(&strict, "12345678"), Some("require"));
        assert_eq!(rule(&strict, "onlylower1"), Some("min_kinds"));
        assert_eq!(rule(&strict, "Three111ones"), Some("max_repeated"));
        assert_eq!(rule(&strict, "old-Passw0rd"), Some("allow_old"));
        assert_eq!(rule(&strict, "xxANNA-2025"), Some("allow_user_name"));
        assert_eq!(rule(&strict, "my-qUARTER-4"), Some("forbidden"));
        assert_eq!(rule(&strict, "Str0ng-enough"), None);
        let open = Rules { require: Vec::new(), allow_user_name: true, allow_old: true, ..Rules::default() };
        assert_eq!(rule(&open, "anna anna"), None);
        assert_eq!(rule(&open, "old-Passw0rd"), None);
    }

    #[test]
    fn reasons_keep_the_password_to_themselves() {
        for password in ["hunter2", "x".repeat(300).as_str(), "anna-hunter-2222"] {
            let (_, reason) = Rules::default().fault(password, None, &["anna@x.org"]).unwrap();
            assert!(!reason.contains(password), "{reason}");
        }
    }

    #[test]
    fn letters_of_any_script_count() {
        assert_eq!(Rules::default().fault("비밀번호는안전하게1", None, &[]), None);
    }
}
