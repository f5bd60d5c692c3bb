//! The storages that there are: the embedded one, and the storage proxies of the configuration tree.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use parking_lot::Mutex;
use quarterdeck_model::vfolder::split_host;
use quarterdeck_storage::{Embedded, FsUsage, Proxy, ProxySettings, Storage, Volume};

use crate::config::ConfigCache;
use crate::error::{Error, Result};

/// How long it is believed how full a volume is.
const USAGE_AGE: Duration = Duration::from_secs(60);
/// How long a storage is waited for when all are asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// The server's own storage.
#[derive(Clone, Debug)]
pub struct StorageSettings {
    /// What folder hosts call it.
    pub proxy: String,
    /// The storage.
    pub storage: Embedded,
}

/// What this host knows about storages.
#[derive(Debug)]
pub(crate) struct Storages {
    embedded: Option<StorageSettings>,
    config: Arc<ConfigCache>,
    proxies: Mutex<HashMap<String, (ProxySettings, Arc<Proxy>)>>,
    usage: Mutex<HashMap<String, (Instant, FsUsage)>>,
}

/// A volume and where it is offered.
#[derive(Clone, Debug)]
pub(crate) struct Offered {
    /// `<proxy>:<volume>`
    pub(crate) host: String,
    pub(crate) volume: Volume,
    pub(crate) storage: Arc<dyn Storage>,
}

impl Storages {
    pub(crate) fn new(embedded: Option<StorageSettings>, config: Arc<ConfigCache>) -> Self {
        Self { embedded, config, proxies: Mutex::default(), usage: Mutex::default() }
    }

    /// The server's own storage.
    pub(crate) fn embedded(&self) -> Option<&Embedded> {
        self.embedded.as_ref().map(|e| &e.storage)
    }

    /// The storage of a name. One of the configuration tree takes the place of the server's own.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<dyn Storage>> {
        if let Some(settings) = self.proxy_settings(name) {
            let mut proxies = self.proxies.lock();
            if let Some((known, proxy)) = proxies.get(name)
                && *known == settings
            {
                return Ok(Arc::clone(proxy) as Arc<dyn Storage>);
            }
            let proxy = Arc::new(Proxy::new(settings.clone()));
            proxies.insert(name.to_owned(), (settings, Arc::clone(&proxy)));
            return Ok(proxy);
        }
        match &self.embedded {
            Some(embedded) if embedded.proxy == name => Ok(Arc::new(embedded.storage.clone())),
            _ => Err(Error::invalid(format!("There is no such storage proxy: {name}"))),
        }
    }

    fn proxy_settings(&self, name: &str) -> Option<ProxySettings> {
        let key = |part: &str| self.config.value(&format!("volumes/proxies/{}/{part}", crate::config::quote(name)));
        let manager_api = key("manager_api")?;
        Some(ProxySettings {
            name: name.to_owned(),
            client_api: key("client_api").unwrap_or_else(|| manager_api.clone()),
            secret: key("secret").unwrap_or_default(),
            ssl_verify: key("ssl_verify").is_none_or(|text| crate::config::is_true(&text)),
            manager_api,
        })
    }

    /// The storage of a folder host.
    pub(crate) fn of_host(&self, host: &str) -> Result<Arc<dyn Storage>> {
        self.get(split_host(host).0)
    }

    async fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match self.config.prefix("volumes/proxies").await {
            serde_json::Value::Object(proxies) => proxies
                .into_iter()
                .filter(|(name, p)| !name.is_empty() && p.is_object())
                .map(|(name, _)| name)
                .collect(),
            _ => Vec::new(),
        };
        names.retain(|name| self.proxy_settings(name).is_some());
        if let Some(embedded) = &self.embedded
            && !names.contains(&embedded.proxy)
        {
            names.push(embedded.proxy.clone());
        }
        names
    }

    /// Every volume of every storage that answers, by host.
    pub(crate) async fn volumes(&self) -> Vec<Offered> {
        let asked = self.names().await.into_iter().map(|name| async move {
            let storage = self.get(&name)?;
            let volumes = tokio::time::timeout(PATIENCE, storage.volumes())
                .await
                .unwrap_or_else(|_| Err(quarterdeck_storage::Error::Unreachable("no answer in time".to_owned())))?;
            let offered = move |volume: Volume| Offered {
                host: format!("{name}:{}", volume.name),
                volume,
                storage: Arc::clone(&storage),
            };
            Ok::<Vec<Offered>, Error>(volumes.into_iter().map(offered).collect())
        });
        let mut all = BTreeMap::new();
        for answer in join_all(asked).await {
            match answer {
                Ok(volumes) => all.extend(volumes.into_iter().map(|v| (v.host.clone(), v))),
                // One that is away must not hide the others.
                Err(error) => tracing::warn!(%error, "a storage is left out"),
            }
        }
        all.into_values().collect()
    }

    /// How full a volume is, or was a moment ago.
    pub(crate) async fn fs_usage(&self, offered: &Offered) -> Result<FsUsage> {
        if let Some((at, usage)) = self.usage.lock().get(&offered.host)
            && at.elapsed() < USAGE_AGE
        {
            return Ok(*usage);
        }
        let usage = offered.storage.fs_usage(&offered.volume.name).await?;
        self.usage.lock().insert(offered.host.clone(), (Instant::now(), usage));
        Ok(usage)
    }

    /// In which scaling groups a storage offers file servers of its own.
    pub(crate) fn sftp_scaling_groups(&self, host: &str) -> Vec<String> {
        let (name, _) = split_host(host);
        let groups = self.config.value(&format!("volumes/proxies/{}/sftp_scaling_groups", crate::config::quote(name)));
        let groups = groups.unwrap_or_default();
        groups.split(',').map(str::trim).filter(|g| !g.is_empty()).map(str::to_owned).collect()
    }
}
