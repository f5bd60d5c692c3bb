//! Folders behind a storage proxy of the reference's, asked over its manager's API (`spec/storage-proxy.md` §2 and §3).
//!
//! Its parameters travel as a JSON object in the body of every method. Of its answers only the status' class and whether
//! there is a JSON body matter.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use quarterdeck_outgoing::{Certificates, Client, Reach, Request, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Problem, Result};
use crate::{Entry, FsUsage, Limits, Place, Room, Storage, Usage, Volume};

/// Answers are at most so large.
const ANSWER_LIMIT: usize = 64 << 20;
/// How long an ordinary answer may take. Copying and removing folders have no limit: they take as long as they take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a storage proxy is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// Its name, the part of a folder host before the colon.
    pub name: String,
    /// Base address for us.
    pub manager_api: String,
    /// Base address for clients.
    pub client_api: String,
    /// What we prove ourselves with.
    pub secret: String,
    /// Whether its certificate has to be good.
    pub ssl_verify: bool,
}

/// A storage proxy.
pub struct Proxy {
    settings: ProxySettings,
    client: Client,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("name", &self.settings.name).field("at", &self.settings.manager_api).finish()
    }
}

impl Proxy {
    /// A storage proxy; nothing is asked yet.
    pub fn new(settings: ProxySettings) -> Self {
        let certificates = if settings.ssl_verify { Certificates::Checked } else { Certificates::Unchecked };
        // Storages are the site's own: they may be anywhere.
        Self { settings, client: Client::new(Reach::Anywhere, certificates) }
    }

    /// Asks with the usual time limit.
    async fn ask(&self, method: Method, path: &str, parameters: Option<Json>) -> Result<Bytes> {
        self.ask_within(PATIENCE, method, path, parameters).await
    }

    async fn ask_within(
        &self,
        patience: Duration,
        method: Method,
        path: &str,
        parameters: Option<Json>,
    ) -> Result<Bytes> {
        let unreachable =
            |error: &dyn std::fmt::Display| Error::Unreachable(format!("{}: {error}", self.settings.name));
        let url = format!("{}{path}", self.settings.manager_api.trim_end_matches('/'));
        let url: Url = url.parse().map_err(|e| unreachable(&e))?;
        let body = parameters.map(|p| p.to_string()).unwrap_or_default();
        let request = Request::new(method, url, body)
            .and_then(|request| request.header("x-backendai-storage-auth-token", &self.settings.secret))
            .and_then(|request| request.header("content-type", "application/json"))
            .map_err(|e| unreachable(&e))?;
        let request = request.within(patience).at_most(ANSWER_LIMIT);
        let response = self.client.send(request).await.map_err(|e| unreachable(&e))?;
        if (200..300).contains(&response.status()) {
            return Ok(response.body().clone());
        }
        Err(refusal(&response))
    }

    async fn read<T: DeserializeOwned>(&self, method: Method, path: &str, parameters: Option<Json>) -> Result<T> {
        let body = self.ask(method, path, parameters).await?;
        serde_json::from_slice(&body)
            .map_err(|error| Error::Failed(format!("Storage proxy answered something unexpected: {error}")))
    }

    async fn done(&self, path: &str, parameters: Json) -> Result<()> {
        self.ask(Method::POST, path, Some(parameters)).await.map(drop)
    }
}

/// What an answer that is no success comes to (`spec/vfolder.md` §1.1).
fn refusal(response: &Response) -> Error {
    if let Ok(Json::Object(mut document)) = serde_json::from_slice::<Json>(response.body()) {
        let msg = match document.remove("msg") {
            Some(Json::String(msg)) => Some(msg),
            _ => None,
        };
        return Error::Refused(Problem { status: response.status(), msg, data: document });
    }
    let told = format!("Storage proxy responded with {} {}", response.status(), response.reason());
    Error::Failed(told.trim_end().to_owned())
}

/// The parameters that name a folder.
fn named(place: &Place) -> Map<String, Json> {
    let mut parameters = Map::new();
    parameters.insert("volume".to_owned(), place.volume.as_str().into());
    parameters.insert("vfid".to_owned(), place.folder.to_string().into());
    parameters
}

/// A folder's parameters with others.
fn with(place: &Place, more: Json) -> Json {
    let mut parameters = named(place);
    if let Json::Object(more) = more {
        parameters.extend(more);
    }
    Json::Object(parameters)
}

/// An original proxy doesn't look where paths lead; whoever asks it has to.
fn confined(path: &str, parameter: &str) -> Result<()> {
    if path.starts_with('/') {
        return Err(Error::parameter(parameter, "expected relative path but the value is absolute"));
    }
    match quarterdeck_model::vfolder::normalized(path) {
        Some(_) if !path.contains('\0') => Ok(()),
        _ => Err(Error::parameter(parameter, "the path leads out of the folder")),
    }
}

#[derive(Deserialize)]
struct Volumes {
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
struct Items {
    items: Vec<Entry>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

#[derive(Deserialize)]
struct UsedBytes {
    used_bytes: i64,
}

#[derive(Deserialize)]
struct MountPath {
    path: String,
}

#[async_trait]
impl Storage for Proxy {
    async fn volumes(&self) -> Result<Vec<Volume>> {
        Ok(self.read::<Volumes>(Method::GET, "/volumes", None).await?.volumes)
    }

    async fn hardware(&self, volume: &str) -> Result<Json> {
        self.read(Method::GET, "/volume/hwinfo", Some(json!({ "volume": volume }))).await
    }

    async fn performance(&self, volume: &str) -> Result<Json> {
        self.read(Method::GET, "/volume/performance-metric", Some(json!({ "volume": volume }))).await
    }

    async fn fs_usage(&self, volume: &str) -> Result<FsUsage> {
        self.read(Method::GET, "/folder/fs-usage", Some(json!({ "volume": volume }))).await
    }

    async fn create(&self, place: &Place) -> Result<()> {
        let scope = json!({"volume": place.volume, "qsid": place.folder.scope, "options": null});
        // One that is there already is answered with 500: whether it is fine shows in the next call.
        match self.done("/quota-scope", scope).await {
            Ok(()) | Err(Error::Failed(_) | Error::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        self.done("/folder/create", with(place, json!({ "options": null }))).await
    }

    async fn delete(&self, place: &Place) -> Result<()> {
        self.ask_within(Duration::MAX, Method::POST, "/folder/delete", Some(Json::Object(named(place)))).await.map(drop)
    }

    async fn duplicate(&self, from: &Place, to: &Place) -> Result<()> {
        let scope = json!({"volume": to.volume, "qsid": to.folder.scope, "options": null});
        match self.done("/quota-scope", scope).await {
            Ok(()) | Err(Error::Failed(_) | Error::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        let parameters = json!({
            "src_volume": from.volume, "src_vfid": from.folder.to_string(),
            "dst_volume": to.volume, "dst_vfid": to.folder.to_string(), "options": null,
        });
        self.ask_within(Duration::MAX, Method::POST, "/folder/clone", Some(parameters)).await.map(drop)
    }

    async fn mount_path(&self, place: &Place, subpath: &str) -> Result<String> {
        let parameters = with(place, json!({ "subpath": subpath }));
        Ok(self.read::<MountPath>(Method::GET, "/folder/mount", Some(parameters)).await?.path)
    }

    async fn usage(&self, place: &Place) -> Result<Usage> {
        self.read(Method::GET, "/folder/usage", Some(Json::Object(named(place)))).await
    }

    async fn used_bytes(&self, place: &Place) -> Result<i64> {
        let parameters = Some(Json::Object(named(place)));
        Ok(self.read::<UsedBytes>(Method::GET, "/folder/used-bytes", parameters).await?.used_bytes)
    }

    async fn quota(&self, place: &Place, _: i64) -> Result<Json> {
        self.read(Method::GET, "/volume/quota", Some(Json::Object(named(place)))).await
    }

    async fn set_quota(&self, place: &Place, bytes: i64) -> Result<()> {
        let parameters = with(place, json!({ "size_bytes": bytes }));
        self.ask(Method::PATCH, "/volume/quota", Some(parameters)).await.map(drop)
    }

    async fn mkdir(&self, place: &Place, path: &str, parents: bool, exist_ok: bool) -> Result<()> {
        confined(path, "relpath")?;
        let parameters = json!({ "relpath": path, "parents": parents, "exist_ok": exist_ok });
        self.done("/folder/file/mkdir", with(place, parameters)).await
    }

    async fn list(&self, place: &Place, path: &str) -> Result<Vec<Entry>> {
        confined(path, "relpath")?;
        let parameters = Some(with(place, json!({ "relpath": path })));
        Ok(self.read::<Items>(Method::POST, "/folder/file/list", parameters).await?.items)
    }

    async fn rename(&self, place: &Place, path: &str, new_name: &str) -> Result<()> {
        confined(path, "relpath")?;
        if new_name.contains('/') || matches!(new_name, "" | "." | "..") {
            return Err(Error::parameter("new_name", "it must be a single name"));
        }
        self.done("/folder/file/rename", with(place, json!({ "relpath": path, "new_name": new_name }))).await
    }

    async fn move_file(&self, place: &Place, from: &str, to: &str) -> Result<()> {
        confined(from, "src_relpath")?;
        confined(to, "dst_relpath")?;
        self.done("/folder/file/move", with(place, json!({ "src_relpath": from, "dst_relpath": to }))).await
    }

    async fn remove(&self, place: &Place, paths: &[String], recursive: bool) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        paths.iter().try_for_each(|path| confined(path, "relpaths"))?;
        self.done("/folder/file/delete", with(place, json!({ "relpaths": paths, "recursive": recursive }))).await
    }

    async fn fetch(&self, place: &Place, path: &str) -> Result<Vec<u8>> {
        confined(path, "relpath")?;
        let content =
            self.ask(Method::POST, "/folder/file/fetch", Some(with(place, json!({ "relpath": path })))).await?;
        Ok(content.to_vec())
    }

    async fn upload_token(&self, place: &Place, path: &str, size: u64, _: Limits) -> Result<String> {
        confined(path, "relpath")?;
        let parameters = Some(with(place, json!({ "relpath": path, "size": size })));
        Ok(self.read::<Token>(Method::POST, "/folder/file/upload", parameters).await?.token)
    }

    async fn download_token(&self, place: &Place, path: &str, archive: bool) -> Result<String> {
        confined(path, "relpath")?;
        let parameters = json!({ "relpath": path, "archive": archive, "unmanaged_path": null });
        Ok(self.read::<Token>(Method::POST, "/folder/file/download", Some(with(place, parameters))).await?.token)
    }

    async fn room(&self, place: &Place, size: u64, limits: Limits) -> Result<Room> {
        let Some(limit) = limits.folder else { return Ok(Room::Enough) };
        let used = u64::try_from(self.used_bytes(place).await?).unwrap_or_default();
        Ok(if used.saturating_add(size) > limit { Room::FolderFull } else { Room::Enough })
    }

    async fn maintain(&self) -> Result<()> {
        Ok(())
    }

    fn client_api(&self) -> Option<&str> {
        Some(&self.settings.client_api)
    }
}
