//! `name.toml` beside a component: whom it shall serve, and how.
//!
//! ```toml
//! scaling_group = "default"        # or: domain = "…", or: everywhere = true
//! mode = "live"                    # or "shadow"
//! order = 10                       # hooks and idle checkers: place in the order of calls
//! failure_policy = "fail-closed"   # hooks: or "fail-open"
//! unbind_on_removal = false        # whether the binding ends when the component's file goes away
//! [config]                         # left out: what the plugin had there before
//! skip_blocked = true
//! ```

use quarterdeck_model::policy::{BindingMode, FailurePolicy, Target, TargetKind};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

/// Bytes of a settings file.
pub(super) const MAX_SETTINGS_BYTES: u64 = 64 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scaling_group: Option<String>,
    domain: Option<String>,
    everywhere: Option<bool>,
    mode: Option<String>,
    order: Option<i32>,
    failure_policy: Option<String>,
    #[serde(default)]
    unbind_on_removal: bool,
    config: Option<toml::Table>,
}

/// What a settings file asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wish {
    pub(super) target: Target,
    pub(super) mode: BindingMode,
    pub(super) position: Option<i64>,
    pub(super) failure_policy: FailurePolicy,
    pub(super) unbind_on_removal: bool,
    pub(super) config: Option<Json>,
}

impl Wish {
    /// Reads a settings file; nothing when it names nobody to serve.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub(super) fn read(text: &str) -> Result<Option<Wish>, String> {
        // The message comes with the line and a caret below; one line says enough.
        let file: File = toml::from_str(text).map_err(|e| {
            let at = e.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            format!("line {at}: {}", e.message().lines().next().unwrap_or_default())
        })?;
        let targets = [
            file.scaling_group.as_ref().map(Target::scaling_group),
            file.domain.as_ref().map(Target::domain),
            file.everywhere.filter(|&everywhere| everywhere).map(|_| Target::everywhere()),
        ];
        let mut targets = targets.into_iter().flatten();
        let target = targets.next();
        if targets.next().is_some() {
            return Err("it names more than one of `scaling_group`, `domain` and `everywhere`".to_owned());
        }
        let mode = word("mode", file.mode, BindingMode::Live)?;
        let failure_policy = word("failure_policy", file.failure_policy, FailurePolicy::FailClosed)?;
        let config = file.config.map(|table| object(&table, "config")).transpose()?;
        let Some(target) = target else {
            return match config {
                Some(_) => Err("it has a configuration but names nobody to serve".to_owned()),
                None => Ok(None),
            };
        };
        if target.name.is_empty() && target.kind != TargetKind::Everywhere {
            return Err(format!("the name of the {} is empty", target.kind));
        }
        let position = file.order.map(i64::from);
        Ok(Some(Wish { target, mode, position, failure_policy, unbind_on_removal: file.unbind_on_removal, config }))
    }
}

fn word<T: std::str::FromStr>(key: &str, given: Option<String>, default: T) -> Result<T, String> {
    match given {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| format!("`{key}` can't be `{}`", text.escape_default())),
    }
}

fn object(table: &toml::Table, place: &str) -> Result<Json, String> {
    let fields = table.iter().map(|(key, value)| Ok((key.clone(), json(value, &format!("{place}.{key}"))?)));
    Ok(Json::Object(fields.collect::<Result<Map<_, _>, String>>()?))
}

fn json(value: &toml::Value, place: &str) -> Result<Json, String> {
    Ok(match value {
        toml::Value::String(text) => Json::from(text.as_str()),
        toml::Value::Integer(number) => Json::from(*number),
        toml::Value::Boolean(flag) => Json::from(*flag),
        toml::Value::Float(number) => serde_json::Number::from_f64(*number)
            .map(Json::Number)
            .ok_or_else(|| format!("`{place}` is no number that JSON has"))?,
        // Configurations are JSON, which knows no dates: texts are what policies expect.
        toml::Value::Datetime(date) => Json::from(date.to_string()),
        toml::Value::Array(items) => {
            let items = items.iter().enumerate().map(|(index, item)| json(item, &format!("{place}.{index}")));
            Json::Array(items.collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => object(table, place)?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_whole_file_is_understood() {
        let text = "domain = \"default\"\nmode = \"shadow\"\norder = -3\nfailure_policy = \"fail-open\"\n\
                    unbind_on_removal = true\n[config]\ndays = [\"mon\", 2]\nat = 2026-01-02\nshare = 0.5\n\
                    [config.limits]\ncpu = 4\nstrict = true\n";
        let wish = Wish::read(text).unwrap().unwrap();
        assert_eq!(wish.target, Target::domain("default"));
        assert_eq!((wish.mode, wish.position, wish.unbind_on_removal), (BindingMode::Shadow, Some(-3), true));
        assert_eq!(wish.failure_policy, FailurePolicy::FailOpen);
        let config = serde_json::json!({
            "days": ["mon", 2], "at": "2026-01-02", "share": 0.5, "limits": {"cpu": 4, "strict": true},
        });
        assert_eq!(wish.config, Some(config));
    }

    #[test]
    fn little_is_enough() {
        let wish = Wish::read("scaling_group = \"g\"").unwrap().unwrap();
        assert_eq!((wish.mode, wish.position, wish.unbind_on_removal), (BindingMode::Live, None, false));
        assert_eq!((wish.failure_policy, wish.config), (FailurePolicy::FailClosed, None));
        assert_eq!(Wish::read("everywhere = true").unwrap().unwrap().target, Target::everywhere());
        for nobody in ["", "everywhere = false", "# nothing", "order = 1"] {
            assert_eq!(Wish::read(nobody), Ok(None), "{nobody}");
        }
    }

    #[test]
    fn mistakes_are_told_in_a_line() {
        for (text, reason) in [
            ("scaling_group = \"a\"\ndomain = \"b\"", "more than one"),
            ("scaling_group = \"\"", "is empty"),
            ("everywhere = true\nmode = \"both\"", "`mode` can't be `both`"),
            ("everywhere = true\nfailure_policy = \"\"", "`failure_policy`"),
            ("everywhere = true\nscalinggroup = \"a\"", "line 2: unknown field `scalinggroup`"),
            ("everywhere = true\norder = 1.5", "line 2"),
            ("everywhere = true\n[config]\na = [1, nan]", "`config.a.1` is no number"),
            ("[config]\na = 1", "names nobody"),
            ("everywhere = ", "line 1"),
        ] {
            let refusal = Wish::read(text).unwrap_err();
            assert!(refusal.contains(reason) && !refusal.contains('\n'), "{text}: {refusal}");
        }
    }
}
