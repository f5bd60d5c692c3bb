//! Listings that come in pages.

use serde::de::DeserializeOwned;
use url::Url;

use super::Session;
use crate::client::Response;
use crate::error::{Error, Result};

/// Pages of one listing. No registry has more; one that never ends its listing is stopped here.
pub(super) const MOST: usize = 10_000;
/// The size of a page, in bytes.
const LIMIT: usize = 8 << 20;

impl Session {
    /// All pages of a listing, each of which names the next in a `Link` header.
    pub(super) async fn pages<P: DeserializeOwned, T>(
        &self,
        first: Url,
        scope: &str,
        read: impl Fn(P) -> Vec<T>,
    ) -> Result<Vec<T>> {
        let mut all = Vec::new();
        let mut next = Some(first);
        for _ in 0..MOST {
            let Some(url) = next.take() else { return Ok(all) };
            let answer = self.ask(&url, scope, &[], LIMIT).await?;
            all.extend(read(answer.json()?));
            next = following(&answer).filter(|link| *link != url);
        }
        Err(Error::Unsupported("the registry's listing has no end".to_owned()))
    }
}

/// The next page, if there is one on the same server.
fn following(answer: &Response) -> Option<Url> {
    let links = answer.header_values("link").flat_map(|header| header.split(','));
    links
        .filter_map(|link| {
            let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
            let is_next = parameters.split(';').any(|parameter| {
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                name.trim().eq_ignore_ascii_case("rel")
                    && value.trim().trim_matches('"').split(' ').any(|rel| rel.eq_ignore_ascii_case("next"))
            });
            is_next.then(|| answer.url().join(target).ok())?
        })
        .find(|link| link.origin() == answer.url().origin())
}
