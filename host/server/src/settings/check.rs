//! Whether the server would take a configuration file: every fault, with its line and key.

use std::path::Path;

use anyhow::Context as _;

use super::{EXAMPLE, FileSettings, schema};

/// What a value must be beyond its type.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// A number from … to …
    Range(f64, f64),
    /// One of these.
    Words(&'static [&'static str]),
    /// A list of networks.
    Networks,
    /// Not blank.
    Text,
}

/// The rules, by key.
pub(super) const RULES: &[(&str, Rule)] = &[
    ("database_connections", Rule::Range(2.0, 1000.0)),
    ("worker_threads", Rule::Range(1.0, 1024.0)),
    ("heartbeat_timeout_seconds", Rule::Range(1.0, 86_400.0)),
    ("idle_interval_seconds", Rule::Range(0.1, 3_600.0)),
    ("log_format", Rule::Words(&["text", "json"])),
    ("plugin_signatures", Rule::Words(&["off", "required"])),
    ("trusted_proxies", Rule::Networks),
    ("node_id", Rule::Text),
];

/// What is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Counted from 1.
    pub(crate) line: usize,
    /// The key, when one is at fault.
    pub(crate) key: Option<String>,
    /// What is wrong.
    pub(crate) text: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: {key}: {}", self.line, self.text),
            None => write!(f, "{}: {}", self.line, self.text),
        }
    }
}

/// The faults of a file.
pub(crate) fn file(path: &Path) -> anyhow::Result<Vec<Fault>> {
    Ok(text(&std::fs::read_to_string(path).with_context(|| path.display().to_string())?))
}

/// The faults of a file's text, in the order of its lines.
pub(crate) fn text(text: &str) -> Vec<Fault> {
    let at = |error: &toml::de::Error| error.span().map_or(1, |span| line_of(text, span.start));
    let table: toml::Table = match toml::from_str(text) {
        Ok(table) => table,
        Err(error) => return vec![Fault { line: at(&error), key: None, text: error.message().to_owned() }],
    };
    let known = schema::keys(EXAMPLE);
    let mut faults = Vec::new();
    for key in table.keys().filter(|key| !known.contains(key)) {
        faults.push(fault(text, key, "there is no such key".to_owned()));
    }
    for (key, rule) in RULES {
        if let Some(broken) = table.get(*key).and_then(|value| broken(*rule, value)) {
            faults.push(fault(text, key, broken));
        }
    }
    if faults.is_empty() {
        match toml::from_str::<FileSettings>(text) {
            Err(error) => {
                let line = at(&error);
                let key = text
                    .lines()
                    .nth(line - 1)
                    .and_then(|line| line.split_once('='))
                    .map(|(key, _)| key.trim().to_owned());
                faults.push(Fault { line, key, text: error.message().to_owned() });
            }
            Ok(settings) => {
                if let Err(error) = settings.signatures() {
                    faults.push(fault(text, "plugin_signatures", error.to_string()));
                }
            }
        }
    }
    faults.sort_by_key(|fault| fault.line);
    faults
}

/// What is wrong with a value; types are looked at elsewhere.
fn broken(rule: Rule, value: &toml::Value) -> Option<String> {
    match rule {
        Rule::Range(least, most) => {
            let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64))?;
            (!(least..=most).contains(&number)).then(|| format!("{number} is not within {least}…{most}"))
        }
        Rule::Words(words) => {
            let word = value.as_str()?;
            (!words.contains(&word)).then(|| format!("`{word}` is none of {}", words.join(", ")))
        }
        Rule::Networks => {
            let mut texts = value.as_array()?.iter().filter_map(toml::Value::as_str);
            texts.find(|text| text.parse::<ipnet::IpNet>().is_err()).map(|text| format!("`{text}` is no network"))
        }
        Rule::Text => value.as_str().is_some_and(|text| text.trim().is_empty()).then(|| "it is blank".to_owned()),
    }
}

fn fault(text: &str, key: &str, reason: String) -> Fault {
    let begins = |line: &str| {
        let line = line.trim_start().trim_start_matches('[').trim_start_matches(['"', '\'']);
        line.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', '=', '.', ']', '\t', '"', '\'']))
    };
    let line = text.lines().position(begins).map_or(1, |at| at + 1);
    Fault { line, key: Some(key.to_owned()), text: reason }
}

fn line_of(text: &str, byte: usize) -> usize {
    text.as_bytes()[..byte.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(file: &str) -> Vec<String> {
        text(file).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_is_told_with_line_and_key() {
        assert_eq!(told(EXAMPLE), Vec::<String>::new());
        assert_eq!(told(""), Vec::<String>::new());
        let file = "lisen = \"x\"\n\nheartbeat_timeout_seconds = 0\ntrusted_proxies = [\"10.0.0.0/8\", \"all\"]\n[colours]\na = 1\n";
        assert_eq!(
            told(file),
            [
                "1: lisen: there is no such key",
                "3: heartbeat_timeout_seconds: 0 is not within 1…86400",
                "4: trusted_proxies: `all` is no network",
                "5: colours: there is no such key",
            ]
        );
        assert_eq!(told("log_format = \"xml\""), ["1: log_format: `xml` is none of text, json"]);
        assert_eq!(told("\nlisten = \"here\"")[0].split(':').take(2).collect::<Vec<_>>(), ["2", " listen"]);
        assert_eq!(told("hide_agents = 1")[0].split(':').take(2).collect::<Vec<_>>(), ["1", " hide_agents"]);
        assert!(told("a = 1\nb = = 2")[0].starts_with("2: "));
        let unsigned = told("# signed\nplugin_signatures = \"required\"");
        assert!(
            unsigned[0].starts_with("2: plugin_signatures: ") && unsigned[0].contains("needs keys"),
            "{unsigned:?}"
        );
    }

    #[test]
    fn every_rule_is_about_a_key() {
        let known = schema::keys(EXAMPLE);
        assert!(RULES.iter().all(|(key, _)| known.iter().any(|k| k == key)));
    }
}
