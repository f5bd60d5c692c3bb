//! The shared configuration tree, kept in memory whole.

pub mod known;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use quarterdeck_model::slots::{self, SlotKind, SlotTypes};
use quarterdeck_store::{Store, config, revisions};
use serde_json::{Map, Value as Json, json};

use crate::Control;
use crate::error::{Error, Result};

/// Where slot types are kept that are not built in.
const SLOT_TYPES: &str = "config/resource_slots";

/// Leaves that one update may write.
const MAX_LEAVES: usize = 16;

#[derive(Debug, Default)]
struct Tree {
    values: BTreeMap<String, String>,
    slot_types: Arc<SlotTypes>,
}

/// The tree in memory.
#[derive(Debug)]
pub struct ConfigCache {
    store: Store,
    revision: AtomicI64,
    tree: ArcSwap<Tree>,
}

impl ConfigCache {
    /// Reads the tree.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn open(store: Store) -> Result<Self> {
        let cache = Self { store, revision: AtomicI64::new(-1), tree: ArcSwap::default() };
        cache.refresh().await?;
        Ok(cache)
    }

    /// Reads the tree again if it has changed anywhere; whether it has.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn refresh(&self) -> Result<bool> {
        // Read before the tree: what changes in between is read now or at the next look.
        let revision = revisions::get(&mut self.store.reader(), revisions::CONFIG).await?;
        if revision == self.revision.load(Ordering::Acquire) {
            return Ok(false);
        }
        let values: BTreeMap<_, _> = config::all(&mut self.store.reader()).await?.into_iter().collect();
        let slot_types = Arc::new(slot_types(&values));
        // Two refreshes may cross; the older one must not win.
        let previous = self.revision.fetch_max(revision, Ordering::AcqRel);
        if previous <= revision {
            self.tree.store(Arc::new(Tree { values, slot_types }));
        }
        Ok(true)
    }

    /// The value of one key.
    pub async fn get(&self, key: &str) -> Option<String> {
        self.value(key)
    }

    /// As [`ConfigCache::get`], for callers that can't wait.
    pub fn value(&self, key: &str) -> Option<String> {
        self.tree.load().values.get(key).cloned()
    }

    /// Everything at and below a key as a nested object, its components unquoted. A value beside
    /// children is found under the empty name.
    pub async fn prefix(&self, key: &str) -> Json {
        let key = key.trim_end_matches('/');
        let tree = self.tree.load();
        let mut out = Map::new();
        for (name, value) in under(&tree.values, key) {
            let path: Vec<String> = match name {
                "" => Vec::new(),
                name => name.split('/').map(unquote).collect(),
            };
            insert(&mut out, &path, value);
        }
        Json::Object(out)
    }

    /// The kinds of slots there are: the built-in ones and those that agents or administrators added.
    pub fn slot_types(&self) -> Arc<SlotTypes> {
        Arc::clone(&self.tree.load().slot_types)
    }

    /// Writes keys over whatever they hold.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] for values that a known key can't have, [`Error::Store`].
    pub async fn set(&self, pairs: &[(String, String)]) -> Result<()> {
        known::check(pairs)?;
        let mut tx = self.store.begin().await?;
        config::set(&mut tx, pairs).await?;
        self.commit(tx).await
    }

    /// Removes a key, and with `subtree` everything below it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn delete(&self, key: &str, subtree: bool) -> Result<()> {
        let mut tx = self.store.begin().await?;
        if subtree {
            config::delete_subtree(&mut tx, key.trim_end_matches('/')).await?;
        } else {
            config::delete(&mut tx, key).await?;
        }
        self.commit(tx).await
    }

    /// Adds slot types that agents report. Writes only when there is a new one: heartbeats are frequent.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn register_slot_types(&self, reported: &SlotTypes) -> Result<()> {
        let known = self.slot_types();
        let new: Vec<(String, String)> = reported
            .iter()
            .filter(|(name, _)| !known.contains_key(*name))
            .map(|(name, kind)| (format!("{SLOT_TYPES}/{}", quote(name)), kind.to_string()))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.begin().await?;
        config::set_absent(&mut tx, &new).await?;
        self.commit(tx).await
    }

    async fn commit(&self, mut tx: quarterdeck_store::Tx) -> Result<()> {
        revisions::bump(&mut tx, revisions::CONFIG).await?;
        tx.commit().await?;
        self.refresh().await?;
        Ok(())
    }
}

/// The rest of the name and the value of `key` and of every key below it.
fn under<'a>(values: &'a BTreeMap<String, String>, key: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    values.range(key.to_owned()..).take_while(move |(name, _)| name.starts_with(key)).filter_map(
        move |(name, value)| match name[key.len()..].split_at_checked(1) {
            None => Some(("", value.as_str())),
            Some(("/", rest)) => Some((rest, value.as_str())),
            Some(_) => None,
        },
    )
}

fn insert(object: &mut Map<String, Json>, path: &[String], value: &str) {
    let (name, rest) = match path {
        [] => {
            object.insert(String::new(), Json::from(value));
            return;
        }
        [name, rest @ ..] => (name, rest),
    };
    match (object.get_mut(name), rest) {
        (None, []) => {
            object.insert(name.clone(), Json::from(value));
        }
        (Some(Json::Object(child)), rest) => insert(child, rest, value),
        (leaf, rest) => {
            let mut child = Map::new();
            if let Some(leaf) = leaf {
                child.insert(String::new(), leaf.take());
            }
            insert(&mut child, rest, value);
            object.insert(name.clone(), Json::Object(child));
        }
    }
}

fn slot_types(values: &BTreeMap<String, String>) -> SlotTypes {
    let mut types = slots::intrinsic();
    for (name, value) in under(values, SLOT_TYPES) {
        match value.parse::<SlotKind>() {
            Ok(kind) if !name.is_empty() => {
                // The built-in ones mean what they mean.
                types.entry(unquote(name)).or_insert(kind);
            }
            _ => tracing::warn!(name, value, "the configuration names an unknown kind of slot"),
        }
    }
    types
}

/// One component of a key as it is stored: everything but unreserved characters percent-encoded.
pub fn quote(component: &str) -> String {
    let mut out = String::with_capacity(component.len());
    for byte in component.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The inverse of [`quote`]; what is no encoding stays as it is.
pub fn unquote(component: &str) -> String {
    let bytes = component.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let encoded = (byte == b'%').then(|| component.get(at + 1..at + 3)).flatten();
        match encoded
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Keys and values of an update: a text for the key itself, or an object whose leaves go below it.
///
/// # Errors
/// [`Error::InvalidParams`] for more leaves than one update may write, or other kinds of values.
pub fn flatten(key: &str, value: &Json) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    flatten_into(key, value, &mut out)?;
    if out.iter().any(|(key, value)| key.contains('\0') || value.contains('\0')) {
        return Err(Error::invalid("Keys and values must not contain NUL characters."));
    }
    if out.len() > MAX_LEAVES {
        return Err(Error::invalid("Too large update! Split into smaller key-value pair sets."));
    }
    Ok(out)
}

fn flatten_into(key: &str, value: &Json, out: &mut Vec<(String, String)>) -> Result<()> {
    match value {
        Json::String(text) => out.push((key.to_owned(), text.clone())),
        Json::Object(children) => {
            for (name, child) in children {
                let key = if name.is_empty() { key.to_owned() } else { format!("{key}/{}", quote(name)) };
                flatten_into(&key, child, out)?;
            }
        }
        Json::Null => return Err(Error::invalid(format!("The value of {key} is null: delete the key instead."))),
        other => out.push((key.to_owned(), other.to_string())),
    }
    Ok(())
}

/// Slot → kind, as clients read it.
pub fn resource_slots(control: &Control) -> Json {
    let types = control.config_tree().slot_types();
    Json::Object(types.iter().map(|(name, kind)| (name.clone(), Json::from(kind.to_string()))).collect())
}

/// What people are shown about slots.
pub fn resource_slot_details() -> Json {
    let entry = |slot: &str, description: &str, name: &str, unit: &str, binary: bool, digits: u32, icon: &str| {
        json!({
            "slot_name": slot, "description": description, "human_readable_name": name, "display_unit": unit,
            "number_format": {"binary": binary, "round_length": digits}, "display_icon": icon,
        })
    };
    json!({
        "cpu": entry("cpu", "CPU", "CPU", "Core", false, 0, "cpu"),
        // Clients know memory under this slot name here, and only here.
        "mem": entry("ram", "Memory", "RAM", "GiB", true, 0, "cpu"),
        "cuda.device": entry("cuda.device", "CUDA-capable GPU", "GPU", "GPU", false, 0, "gpu1"),
        "cuda.shares": entry("cuda.shares", "CUDA-capable GPU (fractional)", "fGPU", "fGPU", false, 2, "gpu1"),
        "rocm.device": entry("rocm.device", "ROCm-capable GPU", "GPU", "GPU", false, 0, "gpu2"),
        "tpu.device": entry("tpu.device", "TPU device", "TPU", "GPU", false, 0, "tpu"),
    })
}

/// The kinds of folders that are switched on.
pub async fn vfolder_types(control: &Control) -> Vec<String> {
    match control.config_tree().prefix("volumes/_types").await {
        Json::Object(types) if types.keys().any(|name| !name.is_empty()) => {
            types.into_iter().map(|(name, _)| name).filter(|name| !name.is_empty()).collect()
        }
        _ => vec!["user".to_owned()],
    }
}

/// Registry → URL.
pub async fn docker_registries(control: &Control) -> BTreeMap<String, String> {
    let Json::Object(registries) = control.config_tree().prefix("config/docker/registry").await else {
        return BTreeMap::new();
    };
    registries
        .into_iter()
        .filter_map(|(name, entry)| {
            let url = match &entry {
                Json::String(url) => url,
                Json::Object(entry) => entry.get("")?.as_str()?,
                _ => return None,
            };
            Some((name, with_path(url)))
        })
        .collect()
}

/// A URL with at least `/` for a path.
fn with_path(url: &str) -> String {
    match url.split_once("://") {
        Some((_, rest)) if !rest.contains('/') => format!("{url}/"),
        _ => url.to_owned(),
    }
}

/// Whether a value means yes.
pub(crate) fn is_true(value: &str) -> bool {
    matches!(value.trim().to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on" | "t" | "y")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use quarterdeck_store::testing;

    use super::*;

    #[test]
    fn quoting_round_trips() {
        for text in ["", "plain", "cr.example.com/path:80", "ä%2F", "100%", "a~b_c-d.e"] {
            assert_eq!(unquote(&quote(text)), text);
        }
        assert_eq!(quote("a/b:c"), "a%2Fb%3Ac");
        assert_eq!(unquote("100%zz%4"), "100%zz%4");
    }

    #[test]
    fn updates_are_flattened_and_limited() {
        let pairs = flatten("k", &json!({"": "own", "a/b": {"c": 5}})).unwrap();
        assert_eq!(pairs, [("k".into(), "own".into()), ("k/a%2Fb/c".into(), "5".into())]);
        assert_eq!(flatten("k", &json!("")).unwrap(), [("k".into(), String::new())]);
        let leaves = |n: usize| Json::Object((0..n).map(|i| (i.to_string(), json!("x"))).collect());
        assert_eq!(flatten("k", &leaves(16)).unwrap().len(), 16);
        assert!(matches!(flatten("k", &leaves(17)), Err(Error::InvalidParams { .. })));
    }

    #[tokio::test]
    async fn the_tree_is_cached_and_follows_changes_from_elsewhere() {
        for db in testing::databases().await {
            let cache = ConfigCache::open(db.store.clone()).await.unwrap();
            let other = ConfigCache::open(db.store.clone()).await.unwrap();
            let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
            cache
                .set(&[
                    pair("config/docker/registry/cr.x%2Fp", "http://x"),
                    pair("config/docker/registry/cr.x%2Fp/username", "u"),
                    pair("config/dockerx", "no"),
                    pair("config/resource_slots/cuda.device", "count"),
                ])
                .await
                .unwrap();
            let refused = cache.set(&[pair("config/dockery", "no"), pair("config/resource_slots/bad", "colour")]).await;
            assert!(matches!(refused, Err(Error::InvalidParams { .. })));
            assert_eq!(cache.get("config/dockery").await, None, "nothing is half-written");
            assert_eq!(
                cache.prefix("config/docker").await,
                json!({"registry": {"cr.x/p": {"": "http://x", "username": "u"}}})
            );
            assert_eq!(cache.prefix("config/docker/registry/cr.x%2Fp/username").await, json!({"": "u"}));
            assert_eq!(cache.prefix("nothing").await, json!({}));
            assert_eq!(cache.prefix("config/docker/").await, cache.prefix("config/docker").await);
            assert_eq!(cache.prefix("/").await, json!({}), "the root isn't listed");
            assert_eq!(cache.get("config/dockerx").await.as_deref(), Some("no"));
            let names: Vec<_> = cache.slot_types().keys().cloned().collect();
            assert_eq!(names, ["cpu", "mem", "cuda.device"]);

            assert_eq!(other.get("config/dockerx").await, None);
            assert!(other.refresh().await.unwrap());
            assert!(!other.refresh().await.unwrap());
            assert_eq!(other.get("config/dockerx").await.as_deref(), Some("no"));

            cache.delete("config/docker/registry/cr.x%2Fp", false).await.unwrap();
            assert_eq!(cache.prefix("config/docker/registry").await, json!({"cr.x/p": {"username": "u"}}));
            cache.delete("config", true).await.unwrap();
            assert_eq!(cache.prefix("config").await, json!({}));
        }
    }

    #[tokio::test]
    async fn reported_slot_types_are_added_once() {
        let db = testing::sqlite().await;
        let cache = ConfigCache::open(db.store.clone()).await.unwrap();
        let mut reported = SlotTypes::default();
        reported.insert("tpu.device".to_owned(), SlotKind::Count);
        cache.register_slot_types(&reported).await.unwrap();
        let revision = revisions::get(&mut db.store.reader(), revisions::CONFIG).await.unwrap();
        cache.register_slot_types(&reported).await.unwrap();
        assert_eq!(revisions::get(&mut db.store.reader(), revisions::CONFIG).await.unwrap(), revision);
        assert_eq!(cache.get("config/resource_slots/tpu.device").await.as_deref(), Some("count"));
        assert!(cache.slot_types().contains_key("tpu.device"));
    }
}
