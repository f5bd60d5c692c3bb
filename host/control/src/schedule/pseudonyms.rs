//! Recordings without names, to be shown to others.
//!
//! Names of scaling groups, sessions, agents, owners, projects and domains become pseudonyms: the same name under the same
//! key always the same one, so that a series of rounds still tells who came back. Every other text that people or their
//! programs wrote goes the same way or is dropped. What stays: amounts and times, names of slots, architectures and
//! optional columns, the policy's own name, version and digest, the names of its counters, and in its configuration the
//! words of its own schema.

use std::collections::{HashMap, HashSet};

use hmac::{Hmac, KeyInit as _, Mac as _};
use quarterdeck_plugin::scheduling::Proposal;
use quarterdeck_plugin::types::ColumnData;
use serde_json::{Map, Value as Json};
use sha2::Sha256;

use super::facts::AccountFacts;
use super::record::{RecordedPlugin, Recording, Step};

/// Replaces names by pseudonyms, always in the same way.
pub struct Pseudonyms {
    key: Vec<u8>,
    known: HashMap<String, String>,
    vocabulary: HashSet<String>,
}

impl std::fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pseudonyms").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl Pseudonyms {
    /// Pseudonyms under a key. Who has the key can tell whether a pseudonym stands for a name that they guess; nobody can
    /// read a name from it.
    pub fn new(key: &[u8]) -> Self {
        Self { key: key.to_vec(), known: HashMap::new(), vocabulary: HashSet::new() }
    }

    /// Words of a policy's configuration schema: names of options and the values they choose from. They tell nothing
    /// about the site.
    pub fn allow_words_of(&mut self, schema: &Json) {
        match schema {
            Json::Array(values) => values.iter().for_each(|value| self.allow_words_of(value)),
            Json::Object(map) => {
                for (key, value) in map {
                    match (key.as_str(), value) {
                        ("properties", Json::Object(properties)) => {
                            self.vocabulary.extend(properties.keys().cloned());
                        }
                        ("enum", Json::Array(choices)) => {
                            self.vocabulary.extend(choices.iter().filter_map(Json::as_str).map(str::to_owned));
                        }
                        ("const", Json::String(only)) => {
                            self.vocabulary.insert(only.clone());
                        }
                        _ => {}
                    }
                    self.allow_words_of(value);
                }
            }
            _ => {}
        }
    }

    /// What a text becomes. The empty text stands for nothing and stays.
    fn word(&self, kind: &str, text: &str) -> String {
        if text.is_empty() {
            return String::new();
        }
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(kind.as_bytes());
        mac.update(&[0]);
        mac.update(text.as_bytes());
        let digest = mac.finalize().into_bytes();
        format!("{kind}-{}", crate::hex::hex(&digest[..8]))
    }

    /// As [`Pseudonyms::word`], and remembered: wherever the whole text stands in a configuration or a column, it
    /// becomes the same.
    fn name(&mut self, kind: &str, text: &mut String) {
        let word = self.word(kind, text);
        if !text.is_empty() {
            self.known.insert(std::mem::take(text), word.clone());
        }
        *text = word;
    }

    /// A text that may or may not be a name.
    fn text(&self, text: &str) -> String {
        self.known.get(text).cloned().unwrap_or_else(|| self.word("text", text))
    }

    fn accounts(&mut self, kind: &str, accounts: &mut [AccountFacts]) {
        for account in accounts {
            self.name(kind, &mut account.id);
            if let Some(problem) = &mut account.problem {
                *problem = "unspecified".to_owned();
            }
        }
    }

    /// Takes the names out of a recording.
    pub fn hide(&mut self, recording: &mut Recording) {
        self.known.clear();
        let facts = &mut recording.facts;
        self.name("group", &mut recording.scaling_group);
        for session in &mut facts.sessions {
            self.name("session", &mut session.id);
            self.name("session", &mut session.name);
            for waiting in &mut session.waits_for {
                self.name("session", &mut waiting.id);
                self.name("session", &mut waiting.name);
            }
        }
        for agent in &mut facts.agents {
            self.name("agent", &mut agent.id);
        }
        for kernel in &mut facts.kernels {
            self.name("image", &mut kernel.image);
            if let Some(pin) = &mut kernel.missing_pin {
                self.name("agent", pin);
            }
        }
        self.accounts("owner", &mut facts.owners);
        self.accounts("project", &mut facts.projects);
        self.accounts("domain", &mut facts.domains);
        for malformed in &mut facts.malformed {
            self.name("session", &mut malformed.id);
            malformed.problem = "unspecified".to_owned();
        }
        for column in &mut facts.columns {
            if let ColumnData::Texts(texts) = &mut column.column.data {
                texts.iter_mut().for_each(|text| *text = self.text(text));
            }
        }
        self.plugin(&mut recording.plugin);
        silence(&mut recording.steps);
        if let Some(fallback) = &mut recording.fallback {
            self.plugin(&mut fallback.plugin);
            silence(&mut fallback.steps);
        }
        recording.outcome = label(&recording.outcome).to_owned();
        // What a policy logs may name anything; how much it logged is kept.
        let journal = &mut recording.journal;
        journal.dropped = journal.dropped.saturating_add(u32::try_from(journal.lines.len()).unwrap_or(u32::MAX));
        journal.lines.clear();
    }

    fn plugin(&self, plugin: &mut RecordedPlugin) {
        let config: Json = serde_json::from_str(&plugin.config).unwrap_or(Json::Null);
        plugin.config = self.config(config).to_string();
    }

    /// Numbers and switches stay, and words of the schema; names get their pseudonyms, other texts are hidden.
    fn config(&self, value: Json) -> Json {
        match value {
            Json::String(text) => Json::String(self.option(&text)),
            Json::Array(values) => values.into_iter().map(|value| self.config(value)).collect(),
            Json::Object(map) => {
                let pairs = map.into_iter().map(|(key, value)| (self.option(&key), self.config(value)));
                Json::Object(pairs.collect::<Map<_, _>>())
            }
            other => other,
        }
    }

    fn option(&self, text: &str) -> String {
        match self.known.get(text) {
            None if self.vocabulary.contains(text) => text.to_owned(),
            _ => self.text(text),
        }
    }
}

/// The word before the colon of an outcome.
fn label(outcome: &str) -> &str {
    outcome.split_once(':').map_or(outcome, |(label, _)| label)
}

/// Drops what a policy wrote for users.
fn silence(steps: &mut [Step]) {
    for proposal in steps.iter_mut().flat_map(|step| &mut step.proposals) {
        if let Proposal::Defer(deferral) = proposal {
            deferral.detail.clear();
        }
    }
}
