//! Amounts, folder hosts and labels as people write them on a command line.

use clap::Args;
use quarterdeck_model::vfolder::HostPermission;
use serde_json::{Map, Value as Json};

/// `cpu=4,mem=8g` or a JSON object; `none` for no entries.
pub(super) fn slots(text: &str) -> Result<Json, String> {
    match text.trim() {
        "none" | "" => return Ok(Json::Object(Map::new())),
        json if json.starts_with('{') => return object(json),
        _ => {}
    }
    let mut out = Map::new();
    for part in text.split(',') {
        let (name, amount) = part.split_once('=').ok_or_else(|| format!("`{part}` is not SLOT=AMOUNT"))?;
        let (name, amount) = (name.trim(), amount.trim());
        if name.is_empty() || amount.is_empty() {
            return Err(format!("`{part}` is not SLOT=AMOUNT"));
        }
        out.insert(name.to_owned(), Json::from(amount));
    }
    Ok(Json::Object(out))
}

/// A JSON object.
pub(super) fn object(text: &str) -> Result<Json, String> {
    match serde_json::from_str(text) {
        Ok(Json::Object(map)) => Ok(Json::Object(map)),
        Ok(_) => Err("a JSON object is expected".to_owned()),
        Err(error) => Err(format!("no JSON: {error}")),
    }
}

/// `NAME=VALUE`
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

/// `SLOT=LEAST:MOST`; either may be missing.
pub(super) fn limit(text: &str) -> Result<(String, Option<String>, Option<String>), String> {
    let (slot, range) = pair(text).map_err(|_| format!("`{text}` is not SLOT=LEAST:MOST"))?;
    let (least, most) = range.split_once(':').unwrap_or((&range, ""));
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok((slot, some(least), some(most)))
}

/// Who may do what on which folder hosts.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct HostArgs {
    /// A folder host and what is allowed there, `HOST=PERMISSION,…` or `HOST=all`; may be repeated. All hosts are replaced
    #[arg(long = "vfolder-host", value_name = "HOST=PERMISSIONS", value_parser = pair)]
    hosts: Vec<(String, String)>,
    /// No folder hosts
    #[arg(long, conflicts_with = "hosts")]
    no_vfolder_hosts: bool,
}

impl HostArgs {
    /// The object that the rules check; `None` when nothing was said.
    pub(super) fn take(self) -> Option<Json> {
        if self.hosts.is_empty() && !self.no_vfolder_hosts {
            return None;
        }
        let all = || HostPermission::ALL.iter().map(|p| p.as_str()).collect();
        let hosts = self.hosts.into_iter().map(|(host, permissions)| {
            let list: Vec<&str> = match permissions.as_str() {
                "all" => all(),
                "" => Vec::new(),
                some => some.split(',').map(str::trim).collect(),
            };
            let list = Json::from(list);
            (host, list)
        });
        Some(Json::Object(hosts.collect()))
    }
}

/// What can be said of domains and of projects.
#[derive(Debug, Args)]
pub(super) struct Facts {
    /// For people
    #[arg(long, value_name = "TEXT")]
    pub(super) description: Option<String>,
    /// Whether it is in use
    #[arg(long, value_name = "BOOL")]
    pub(super) active: Option<bool>,
    /// Limits of all its sessions together, e.g. cpu=100,mem=1t; `none` for no limits
    #[arg(long, value_name = "SLOTS", value_parser = slots)]
    pub(super) slots: Option<Json>,
    #[command(flatten)]
    pub(super) hosts: HostArgs,
    /// The id in somebody else's system
    #[arg(long, value_name = "ID")]
    pub(super) integration_id: Option<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts() {
        assert_eq!(slots("cpu=4, mem=8g").unwrap(), json!({"cpu": "4", "mem": "8g"}));
        assert_eq!(slots("{\"cpu\": 4}").unwrap(), json!({"cpu": 4}));
        assert_eq!(slots("none").unwrap(), json!({}));
        for bad in ["cpu", "cpu=", "=4", "{\"cpu\": 4", "[]"] {
            assert!(slots(bad).is_err(), "{bad}");
        }
        assert_eq!(limit("cpu=1:4").unwrap(), ("cpu".into(), Some("1".into()), Some("4".into())));
        assert_eq!(limit("cpu=:4").unwrap(), ("cpu".into(), None, Some("4".into())));
        assert_eq!(limit("mem=1g").unwrap(), ("mem".into(), Some("1g".into()), None));
        assert!(limit("mem").is_err());
    }

    #[test]
    fn hosts() {
        let host = |text: &str| HostArgs { hosts: vec![pair(text).unwrap()], no_vfolder_hosts: false }.take().unwrap();
        assert_eq!(host("local:v1=upload-file,download-file"), json!({"local:v1": ["upload-file", "download-file"]}));
        assert_eq!(host("local:v1=all")["local:v1"].as_array().unwrap().len(), 8);
        assert_eq!(HostArgs { hosts: vec![], no_vfolder_hosts: true }.take(), Some(json!({})));
        assert_eq!(HostArgs::default().take(), None);
    }
}
