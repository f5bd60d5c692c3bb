//! Image registries: which repositories, tags and images they have.
//!
//! `spec/config.md` §1.6. Docker Registry v2 with token or basic authentication, Docker Hub, and both API versions of
//! Harbor, which list repositories in their own ways and serve images as Docker's does.

mod challenge;
mod harbor;
mod manifest;
mod pages;

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;
use url::Url;

use crate::address::Reach;
use crate::client::{Client, Request, Response};
use crate::error::{Error, Result};
use crate::tls::Certificates;

use challenge::Challenge;
pub use manifest::{Image, Variant};

/// Names on one page of a listing, as asked for.
const PAGE: usize = 30;
/// Tags on one page, as asked for.
const TAG_PAGE: usize = 10;
/// How often a call that fails in passing is made.
const TRIES: u32 = 3;
/// How long is waited before the second try; twice that before the third.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait that a registry can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Tokens whose registry doesn't say last so long.
const TOKEN_LIFE: u64 = 60;
/// Redirections on the way to a blob.
const REDIRECTS: u8 = 5;

/// Where Docker Hub lists what its users have: not where its images are.
pub const HUB: &str = "https://hub.docker.com/";

/// How a registry lists what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Docker Registry v2: a catalogue.
    #[default]
    Docker,
    /// Docker Hub: by user.
    Hub,
    /// Harbor before version 2: by project.
    Harbor,
    /// Harbor: by project.
    Harbor2,
}

/// Where a registry is and how to talk to it.
#[derive(Clone)]
pub struct Registry {
    /// Its address.
    pub url: Url,
    /// How it lists what it has.
    pub kind: Kind,
    /// Who asks, if it isn't open to everybody.
    pub username: Option<String>,
    /// Their password.
    pub password: Option<String>,
    /// Docker Hub: where it lists what its users have, if not at [`HUB`].
    pub hub: Option<Url>,
    /// Harbor: the projects to look at.
    pub projects: Vec<String>,
    /// Whether its certificate counts.
    pub certificates: Certificates,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("url", &self.url.as_str())
            .field("kind", &self.kind)
            .field("projects", &self.projects)
            .finish_non_exhaustive()
    }
}

/// How it wants to be asked.
#[derive(Clone, Debug)]
enum Login {
    Open,
    Basic,
    Bearer(Challenge),
}

/// A registry that was found to be one, and how it wants to be asked.
#[derive(Debug)]
pub struct Session {
    registry: Registry,
    client: Client,
    login: Login,
    /// By scope, until when.
    tokens: Mutex<HashMap<String, (String, Instant)>>,
}

#[derive(Deserialize)]
struct Catalogue {
    repositories: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Tags {
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct HubPage {
    next: Option<String>,
    #[serde(default)]
    results: Vec<HubRepository>,
}

#[derive(Deserialize)]
struct HubRepository {
    name: String,
}

#[derive(Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: Option<String>,
    expires_in: Option<u64>,
}

/// Whether a name is one of a repository. What registries answer becomes part of addresses.
fn is_repository(name: &str) -> bool {
    let component = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    name.len() <= 255 && name.split('/').all(component)
}

/// Whether a text is a tag.
fn is_tag(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl Session {
    /// Finds out how a registry wants to be asked.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when there is none at that address.
    pub async fn open(mut registry: Registry) -> Result<Self> {
        if !registry.url.path().ends_with('/') {
            let path = format!("{}/", registry.url.path());
            registry.url.set_path(&path);
        }
        let client = Client::new(Reach::Anywhere, registry.certificates);
        let mut session = Self { registry, client, login: Login::Open, tokens: Mutex::default() };
        let answer = session.patiently(|| Request::get(session.at("v2/")?)).await?;
        session.login = match answer.status() {
            200 if session.registry.username.is_some() => Login::Basic,
            200 => Login::Open,
            401 => session.challenged(&answer)?,
            404 => {
                return Err(Error::Unsupported(format!("{} is no registry of version 2", session.registry.url)));
            }
            _ => {
                answer.success()?;
                Login::Open
            }
        };
        Ok(session)
    }

    fn challenged(&self, answer: &Response) -> Result<Login> {
        let mut basic = false;
        for header in answer.header_values("www-authenticate") {
            if let Some(challenge) = Challenge::parse(header) {
                if self.registry.url.scheme() == "https" && challenge.realm.scheme() != "https" {
                    return Err(Error::Unsupported(format!(
                        "{} wants credentials to be sent unencrypted to {}",
                        self.registry.url, challenge.realm
                    )));
                }
                return Ok(Login::Bearer(challenge));
            }
            basic |= header.trim_start().get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic"));
        }
        if basic {
            return Ok(Login::Basic);
        }
        Ok(Login::Bearer(Challenge { realm: self.at("token")?, service: "registry".to_owned() }))
    }

    /// An address below the registry's.
    fn at(&self, path: &str) -> Result<Url> {
        self.registry.url.join(path).map_err(|_| Error::Url(path.to_owned()))
    }

    /// Sends a request, again when it fails in passing.
    async fn patiently(&self, request: impl Fn() -> Result<Request>) -> Result<Response> {
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            let answer = self.client.send(request()?).await;
            let asked =
                answer.as_ref().ok().and_then(|a| a.header("retry-after")?.parse().ok().map(Duration::from_secs));
            let failure = match answer {
                Ok(answer) => match answer.clone().success() {
                    Err(error) if error.is_transient() => error,
                    _ => return Ok(answer),
                },
                Err(error) => error,
            };
            if attempt >= TRIES || !failure.is_transient() {
                return Err(failure);
            }
            tracing::debug!(error = %failure, attempt, "a registry is asked again");
            tokio::time::sleep(asked.unwrap_or(wait).min(LONGEST_WAIT)).await;
            wait *= 2;
        }
        unreachable!("the last try returns")
    }

    /// Asks the registry as it wants to be asked; the answer of a success.
    async fn ask(&self, url: &Url, scope: &str, headers: &[(&'static str, &str)], limit: usize) -> Result<Response> {
        for last in [false, true] {
            let token = match &self.login {
                // Harbor's own listings go by name and password.
                Login::Bearer(challenge) if !scope.is_empty() => self.token(challenge, scope).await?,
                _ => None,
            };
            let request = || {
                let mut request = Request::get(url.clone())?.at_most(limit).follow(REDIRECTS);
                for (name, value) in headers {
                    request = request.header(name, value)?;
                }
                Ok(match (&self.login, &token) {
                    (_, Some(token)) => request.bearer(token),
                    (Login::Open, None) => request,
                    _ => self.identified(request),
                })
            };
            let answer = self.patiently(request).await?;
            if answer.status() == 401 && token.is_some() && !last {
                // It has expired earlier than it said.
                self.tokens.lock().remove(scope);
                continue;
            }
            return answer.success();
        }
        unreachable!("the last try returns")
    }

    /// The request with the name and password of the configuration.
    fn identified(&self, request: Request) -> Request {
        match &self.registry.username {
            Some(user) => request.basic(user, self.registry.password.as_deref().unwrap_or_default()),
            None => request,
        }
    }

    async fn token(&self, challenge: &Challenge, scope: &str) -> Result<Option<String>> {
        if let Some((token, until)) = self.tokens.lock().get(scope)
            && Instant::now() < *until
        {
            return Ok(Some(token.clone()));
        }
        let mut url = challenge.realm.clone();
        url.query_pairs_mut()
            .append_pair("scope", scope)
            .append_pair("offline_token", "true")
            .append_pair("client_id", "docker")
            .append_pair("service", &challenge.service);
        let answer = self.patiently(|| Ok(self.identified(Request::get(url.clone())?))).await?.success()?;
        let Token { token, expires_in } = answer.json()?;
        if let Some(token) = &token {
            // A little less, so that it isn't about to expire when it is used.
            let life = Duration::from_secs(expires_in.unwrap_or(TOKEN_LIFE).clamp(10, 3_600) - 5);
            self.tokens.lock().insert(scope.to_owned(), (token.clone(), Instant::now() + life));
        }
        Ok(token)
    }

    /// The names of all repositories, in the registry's order; what isn't a name is left out.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn repositories(&self) -> Result<Vec<String>> {
        let names = match self.registry.kind {
            Kind::Docker => {
                let first = self.at(&format!("v2/_catalog?n={PAGE}"))?;
                let read = |page: Catalogue| page.repositories.unwrap_or_default();
                self.pages(first, "registry:catalog:*", read).await?
            }
            Kind::Hub => self.hub_repositories().await?,
            Kind::Harbor => self.harbor_repositories().await?,
            Kind::Harbor2 => self.harbor2_repositories().await?,
        };
        Ok(names.into_iter().filter(|name| is_repository(name)).collect())
    }

    /// Docker Hub lists by user, at an address of its own.
    async fn hub_repositories(&self) -> Result<Vec<String>> {
        let Some(user) = &self.registry.username else {
            return Err(Error::Unsupported("Docker Hub is listed by user: its registry needs a username".to_owned()));
        };
        let malformed = || Error::Url(format!("{HUB}v2/repositories/{user}/"));
        let mut first = self.registry.hub.clone().or_else(|| HUB.parse().ok()).ok_or_else(malformed)?;
        first.path_segments_mut().map_err(|()| malformed())?.pop_if_empty().extend(["v2", "repositories", user, ""]);
        first.query_pairs_mut().append_pair("page_size", &PAGE.to_string());
        let mut next = Some(first);
        let mut names = Vec::new();
        for _ in 0..pages::MOST {
            let Some(url) = next.take() else { break };
            let answer = self.patiently(|| Request::get(url.clone())).await?.success()?;
            let page: HubPage = answer.json()?;
            names.extend(
                page.results
                    .into_iter()
                    .filter(|r| !r.name.starts_with("kernel-"))
                    .map(|r| format!("{user}/{}", r.name)),
            );
            next = page.next.and_then(|link| link.parse().ok()).filter(|link: &Url| link.origin() == url.origin());
        }
        Ok(names)
    }

    /// A repository's tags; what isn't a tag is left out.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        let tags = match self.registry.kind {
            Kind::Harbor2 => self.harbor2_tags(repository).await?,
            _ => {
                let first = self.at(&format!("v2/{repository}/tags/list?n={TAG_PAGE}"))?;
                let read = |page: Tags| page.tags.unwrap_or_default();
                self.pages(first, &pull(repository), read).await?
            }
        };
        Ok(tags.into_iter().filter(|tag| is_tag(tag)).collect())
    }

    /// What a tag stands for: one image, or one for each architecture.
    ///
    /// # Errors
    /// [`Error`] when the tag can't be read at all; what is wrong with one of several stands in its place.
    pub async fn variants(&self, repository: &str, tag: &str) -> Result<Vec<Variant>> {
        manifest::variants(self, repository, tag).await
    }
}

/// The scope of a token that reads a repository.
fn pull(repository: &str) -> String {
    format!("repository:{repository}:pull")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_no_names() {
        for good in ["python", "stable/python", "a/b.c/d_e-f", "9x"] {
            assert!(is_repository(good), "{good}");
        }
        for bad in ["", "/", "a//b", "../x", "a/..", "a?b", "a b", "a/%2e", "ä", "-a"] {
            assert!(!is_repository(bad), "{bad}");
        }
        for good in ["latest", "3.9-ubuntu20.04", "_x"] {
            assert!(is_tag(good), "{good}");
        }
        for bad in ["", ".x", "a/b", "a b", &"x".repeat(129)] {
            assert!(!is_tag(bad), "{bad}");
        }
    }
}
