//! Configuration of the server: flags over environment over file over defaults.
//!
//! Flags and environment are read by clap (each flag names its variable); this module reads the
//! file and knows the defaults. Live site settings are not here but in the configuration tree.

pub(crate) mod check;
pub(crate) mod schema;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use quarterdeck_control::signatures::{SignatureSettings, TrustedKey};
use quarterdeck_control::storage::{Embedded, EmbeddedSettings};
use quarterdeck_control::vfolders::StorageSettings;
use serde::Deserialize;

/// Where the API listens unless told otherwise.
pub(crate) const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);
/// Where agents call unless told otherwise.
pub(crate) const DEFAULT_RPC_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6021);

/// What `config example` prints; a test reads it back.
pub(crate) const EXAMPLE: &str = r#"# Quarterdeck server configuration. Every key is optional; the values shown are the defaults.
# Precedence: command line flag > environment variable > this file > default.

# Where the REST and GraphQL API listens.              (--listen, QUARTERDECK_LISTEN)
listen = "127.0.0.1:8081"

# Where agents reach the server.                       (--rpc-listen, QUARTERDECK_RPC_LISTEN)
rpc_listen = "127.0.0.1:6021"

# Where the embedded app proxy serves model services.  (--app-proxy-listen, QUARTERDECK_APP_PROXY_LISTEN)
# Scaling groups use it whose `wsproxy_addr` is `embedded`. Without it, this server serves none.
# app_proxy_listen = "0.0.0.0:8082"

# Under which address clients reach it.                (--app-proxy-url, QUARTERDECK_APP_PROXY_URL)
# app_proxy_url = "https://services.example.org"

# sqlite://PATH or postgres://…                        (--database, QUARTERDECK_DATABASE)
# Without it: a SQLite file in the data directory.
# database = "postgres://quarterdeck@db.example.org/quarterdeck"

# Database file, compiled plugins.                     (--data-dir, QUARTERDECK_DATA_DIR)
# data_dir = "/var/lib/quarterdeck"

# PostgreSQL: so many connections at most, 2 to 1000. All hosts together must fit the server's max_connections.
database_connections = 16

# SQLite: flush to disk at each commit, to survive power cuts and not only crashes.
sync_full = false

# `text` or `json`.                                    (--log-format, QUARTERDECK_LOG_FORMAT)
log_format = "text"

# Names this host in its status, in locks and in logs; default: a random name at each start.
#                                                      (--node-id, QUARTERDECK_NODE_ID)
# node_id = "i-manager1"

# Threads that serve requests, 1 to 1024; default: one for each CPU.
# worker_threads = 8

# An agent that was silent for this long is lost, 1 to 86400.
heartbeat_timeout_seconds = 40.0

# How often running sessions are judged for idleness, 0.1 to 3600.
idle_interval_seconds = 15.0

# Proxies whose X-Forwarded-For header counts.
trusted_proxies = ["127.0.0.0/8", "::1/128"]

# Logins, sign-ups and other unsigned POSTs allowed to one client address within 15 minutes.
anonymous_rate_limit = 1000

# Hide agents and container ids from everybody but superadmins.
hide_agents = false

# The image of sessions that import images (POST /image/import).
importer_image = "lablup/importer:manylinux2010"

# Keep so many of each group's newest scheduling rounds (snapshot, proposals, verdicts) for replay; 0 = summaries only.
# `config/rounds/{keep,max-bytes,mode}` of the shared configuration change the bounds while the server runs.
recorded_rounds = 200

# Components in this directory come in by themselves; `name.toml` beside `name.wasm` says whom it serves.
#                                                      (--plugin-dir, QUARTERDECK_PLUGIN_DIR)
# plugin_dir = "/etc/quarterdeck/plugins"

# `required`: only components signed by a trusted key are taken. Without it, the configuration tree decides
# (config/plugins/signatures); with it, `plugin_trusted_keys` must be given here too.
# plugin_signatures = "required"

# Where clients send and fetch the files of folders; below /storage where the API listens, unless told otherwise.
#                                                      (--storage-listen, QUARTERDECK_STORAGE_LISTEN)
# storage_listen = "127.0.0.1:6023"

# The address of that for clients which don't come by the name under which they reach the API.
#                                                      (--storage-url, QUARTERDECK_STORAGE_URL)
# storage_url = "https://files.example.org"

# Folders on volumes of this server. Folder hosts are `local:volume1` and the like; a storage proxy of that name in the
# shared configuration (volumes/proxies/NAME) takes their place.
[storage]
proxy = "local"
# How long a client may use a permission to send or fetch a file.
token_lifetime_seconds = 86400
# Bytes of one file that is sent.
max_upload_bytes = 107374182400
# Entries of a directory that are listed; 0 = all.
listed_entries = 1000

# Directories for folders, by volume; agents must see them under the same path, hosts of one database share them.
# Without the table: `volume1` in the data directory. With an empty one: none.
# [storage.volumes]
# volume1 = "/var/lib/quarterdeck/volumes/volume1"

# Whose signatures count, by name (public keys of minisign or `quarterdeck plugin keygen`). Without it, the
# configuration tree has them (config/plugins/trusted-keys/NAME).
# [plugin_trusted_keys]
# release = "RWQIBwYFBAMCAYqwCX80sCrOh0OgXaSjKsGT6fqfko+Kv+/FeLXq40vY"
"#;

/// The file's keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileSettings {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) rpc_listen: Option<SocketAddr>,
    pub(crate) app_proxy_listen: Option<SocketAddr>,
    pub(crate) app_proxy_url: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) database_connections: Option<u32>,
    pub(crate) sync_full: Option<bool>,
    pub(crate) node_id: Option<String>,
    pub(crate) worker_threads: Option<usize>,
    pub(crate) log_format: Option<LogFormat>,
    pub(crate) heartbeat_timeout_seconds: Option<f64>,
    pub(crate) idle_interval_seconds: Option<f64>,
    pub(crate) trusted_proxies: Option<Vec<String>>,
    pub(crate) anonymous_rate_limit: Option<u32>,
    pub(crate) hide_agents: Option<bool>,
    pub(crate) importer_image: Option<String>,
    pub(crate) recorded_rounds: Option<u32>,
    pub(crate) plugin_dir: Option<PathBuf>,
    pub(crate) plugin_signatures: Option<SignatureMode>,
    pub(crate) plugin_trusted_keys: Option<BTreeMap<String, String>>,
    pub(crate) storage_listen: Option<SocketAddr>,
    pub(crate) storage_url: Option<String>,
    pub(crate) storage: Option<FileStorage>,
}

/// The file's table of the server's own storage.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileStorage {
    pub(crate) proxy: Option<String>,
    pub(crate) token_lifetime_seconds: Option<u64>,
    pub(crate) max_upload_bytes: Option<u64>,
    pub(crate) listed_entries: Option<usize>,
    pub(crate) volumes: Option<BTreeMap<String, PathBuf>>,
}

/// Whether components must be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SignatureMode {
    /// They needn't.
    Off,
    /// By a trusted key.
    Required,
}

impl FileSettings {
    /// What the file says about signatures of components.
    pub(crate) fn signatures(&self) -> anyhow::Result<SignatureSettings> {
        let keys = self
            .plugin_trusted_keys
            .as_ref()
            .map(|keys| keys.iter().map(|(name, key)| TrustedKey::new(name, key)).collect::<Result<Vec<_>, _>>());
        let keys = keys.transpose().map_err(|reason| anyhow::anyhow!("plugin_trusted_keys: {reason}"))?;
        let required = self.plugin_signatures.map(|mode| mode == SignatureMode::Required);
        // Keys of the tree would let everybody who can write there decide whom this server trusts.
        if required == Some(true) && keys.as_ref().is_none_or(Vec::is_empty) {
            bail!("plugin_signatures = \"required\" needs keys in plugin_trusted_keys");
        }
        Ok(SignatureSettings { required, keys })
    }

    /// Reads a file; an empty configuration without one.
    pub(crate) fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let named = || format!("configuration file {}", path.display());
        let text = std::fs::read_to_string(path).with_context(named)?;
        let faults = check::text(&text);
        if !faults.is_empty() {
            let list: Vec<String> = faults.iter().map(ToString::to_string).collect();
            bail!("{}: {}", named(), list.join("; "));
        }
        toml::from_str(&text).with_context(named)
    }
}

impl FileStorage {
    /// The server's own storage, if it has volumes. `secret` signs its tokens, `url` is what clients are told.
    pub(crate) fn open(
        self,
        data_dir: &Path,
        secret: String,
        url: Option<String>,
    ) -> anyhow::Result<Option<StorageSettings>> {
        let default = || BTreeMap::from([("volume1".to_owned(), data_dir.join("volumes/volume1"))]);
        let volumes = self.volumes.unwrap_or_else(default);
        if volumes.is_empty() {
            return Ok(None);
        }
        let is_name = |name: &str| !name.is_empty() && !name.contains([':', '/']);
        let proxy = self.proxy.unwrap_or_else(|| "local".to_owned());
        if let Some(name) = volumes.keys().chain([&proxy]).find(|name| !is_name(name)) {
            bail!("[storage] {name:?} can't be a name");
        }
        let lifetime = self.token_lifetime_seconds.unwrap_or(86_400);
        anyhow::ensure!(
            (1..=31_536_000).contains(&lifetime),
            "token_lifetime_seconds: {lifetime} is not within 1…31536000"
        );
        let settings = EmbeddedSettings {
            volumes,
            secret,
            token_lifetime: Duration::from_secs(lifetime),
            max_upload_size: self.max_upload_bytes.unwrap_or(100 << 30),
            scandir_limit: self.listed_entries.unwrap_or(1_000),
            client_api: url,
        };
        Ok(Some(StorageSettings { proxy, storage: Embedded::open(settings).context("[storage]")? }))
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// Sends log lines to standard error. `RUST_LOG` chooses what is logged (default `info`).
pub(crate) fn init_logging(format: LogFormat) {
    use std::io::IsTerminal as _;

    use tracing_subscriber::EnvFilter;
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn,tower=warn,h2=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Colours are for terminals; in files they hide words from those who search for them.
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    // A second initialisation can only happen in tests and changes nothing.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// The directory for the database file and compiled plugins.
pub(crate) fn data_dir(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(dir) = given {
        return Ok(dir);
    }
    if let Some(dir) = std::env::var_os("XDG_DATA_HOME").filter(|d| !d.is_empty()) {
        return Ok(PathBuf::from(dir).join("quarterdeck"));
    }
    match std::env::var_os("HOME").filter(|d| !d.is_empty()) {
        Some(home) => Ok(PathBuf::from(home).join(".local/share/quarterdeck")),
        None => bail!("no data directory: give --data-dir, or set HOME"),
    }
}

/// The database's URL: the one given, or a file in the data directory (which is made if missing).
pub(crate) fn database_url(given: Option<String>, data_dir: Option<PathBuf>) -> anyhow::Result<String> {
    if let Some(url) = given {
        return Ok(url);
    }
    let dir = data_dir_made(data_dir)?;
    Ok(format!("sqlite://{}", dir.join("quarterdeck.sqlite").display()))
}

/// The data directory, made with access for its owner alone when missing.
pub(crate) fn data_dir_made(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let dir = data_dir(given)?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("data directory {}", dir.display()))?;
    Ok(dir)
}

/// Files that are made from here on, such as the database with everybody's secrets, are for their owner alone. To be called
/// while there is one thread.
pub(crate) fn keep_files_private() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
}

/// Keeps other processes of the same user, such as kernels, from reading this one's memory and environment.
pub(crate) fn keep_memory_private() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "other processes of this user can read this one's memory");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_example_is_valid_and_shows_the_defaults() {
        let example: FileSettings = toml::from_str(EXAMPLE).unwrap();
        assert_eq!(example.listen, Some(DEFAULT_LISTEN));
        assert_eq!(example.rpc_listen, Some(DEFAULT_RPC_LISTEN));
        assert_eq!(example.log_format, Some(LogFormat::default()));
        let dir = tempfile::tempdir().unwrap();
        let opened = example.storage.unwrap().open(dir.path(), "secret".to_owned(), None).unwrap().unwrap();
        let default = FileStorage::default().open(dir.path(), "secret".to_owned(), None).unwrap().unwrap();
        assert_eq!(format!("{:?}", opened.storage.settings()), format!("{:?}", default.storage.settings()));
        assert_eq!((opened.proxy, default.proxy), ("local".to_owned(), "local".to_owned()));
    }

    #[test]
    fn required_signatures_need_keys() {
        let read = |text: &str| toml::from_str::<FileSettings>(text).unwrap().signatures();
        let example = EXAMPLE.replace("# plugin_signatures", "plugin_signatures").replace("# [plugin", "[plugin");
        let whole = read(&example.replace("# release =", "release =")).unwrap();
        assert_eq!((whole.required, whole.keys.unwrap()[0].id.as_str()), (Some(true), "0102030405060708"));
        assert!(read(&example).unwrap_err().to_string().contains("needs keys"));
        assert!(read("plugin_signatures = \"required\"").unwrap_err().to_string().contains("needs keys"));
        let wrong = read("[plugin_trusted_keys]\na = \"RW\"").unwrap_err().to_string();
        assert!(wrong.contains("`a` is no minisign public key"), "{wrong}");
        assert_eq!(read("plugin_signatures = \"off\"").unwrap().required, Some(false));
        let neither = read("").unwrap();
        assert!(neither.required.is_none() && neither.keys.is_none());
    }

    #[test]
    fn unknown_keys_are_errors() {
        let error = toml::from_str::<FileSettings>("lisen = \"127.0.0.1:1\"").unwrap_err();
        assert!(error.to_string().contains("lisen"), "{error}");
    }
}
