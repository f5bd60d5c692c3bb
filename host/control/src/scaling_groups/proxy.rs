//! Application proxies of scaling groups, which say themselves what they are.

use std::time::Duration;

use quarterdeck_outgoing::{Certificates, Client, Reach, Request, Url};
use serde::Deserialize;

use crate::Control;
use crate::error::{Error, Result};

/// What a proxy said is believed for so long.
const KNOWN_FOR: Duration = Duration::from_secs(30);
/// How long it may take to say it.
const PATIENCE: Duration = Duration::from_secs(5);
/// What groups without a proxy of their own are told to have.
const DEFAULT_VERSION: &str = "v1";

/// What proxies said of themselves, by address.
#[derive(Clone, Debug)]
pub(crate) struct Proxies(moka::sync::Cache<String, Status>);

impl Default for Proxies {
    fn default() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(1_000).time_to_live(KNOWN_FOR).build())
    }
}

/// What a proxy says of itself.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Status {
    api_version: Option<String>,
    /// Where clients reach it, if elsewhere than we do.
    advertise_address: Option<String>,
}

impl Status {
    /// Where clients reach the proxy that we reach at `addr`.
    pub(crate) fn shown<'a>(&'a self, addr: &'a str) -> &'a str {
        self.advertise_address.as_deref().filter(|shown| !shown.is_empty()).unwrap_or(addr)
    }
}

/// The version of the API that a scaling group's proxy speaks.
///
/// # Errors
/// [`Error::Unavailable`] when the proxy doesn't say.
pub async fn version(control: &Control, addr: Option<&str>) -> Result<String> {
    let Some(addr) = addr.map(str::trim).filter(|addr| !addr.is_empty()) else {
        return Ok(DEFAULT_VERSION.to_owned());
    };
    let version = status(control, addr).await?.api_version;
    version.ok_or_else(|| Error::Unavailable("The application proxy doesn't tell its version".to_owned()))
}

/// What the proxy at an address says of itself, or said a moment ago.
///
/// # Errors
/// [`Error::Unavailable`] when it says nothing.
pub(crate) async fn status(control: &Control, addr: &str) -> Result<Status> {
    if let Some(known) = control.proxies().0.get(addr) {
        return Ok(known);
    }
    let ask = async {
        let url = Url::parse(&format!("{}/status", addr.trim_end_matches('/')))
            .map_err(|_| quarterdeck_outgoing::Error::Url(addr.to_owned()))?;
        // Administrators say where proxies are.
        let client = Client::new(Reach::Anywhere, Certificates::Checked);
        client.send(Request::get(url)?.within(PATIENCE)).await?.success()?.json::<Status>()
    };
    let status = ask.await.map_err(|error| Error::Unavailable(format!("The application proxy: {error}")))?;
    control.proxies().0.insert(addr.to_owned(), status.clone());
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_shown_where_they_say() {
        let told = |shown: Option<&str>| Status { advertise_address: shown.map(str::to_owned), ..Status::default() };
        assert_eq!(told(Some("https://apps.example.org")).shown("http://10.0.0.7:5050"), "https://apps.example.org");
        assert_eq!(told(Some("")).shown("http://h"), "http://h");
        assert_eq!(told(None).shown("http://h"), "http://h");
    }
}
