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

/// Versions of proxies, by address.
#[derive(Clone, Debug)]
pub(crate) struct Proxies(moka::sync::Cache<String, String>);

impl Default for Proxies {
    fn default() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(1_000).time_to_live(KNOWN_FOR).build())
    }
}

#[derive(Deserialize)]
struct Status {
    api_version: String,
}

/// The version of the API that a scaling group's proxy speaks.
///
/// # Errors
/// [`Error::Unavailable`] when the proxy doesn't say.
pub async fn version(control: &Control, addr: Option<&str>) -> Result<String> {
    let Some(addr) = addr.map(str::trim).filter(|addr| !addr.is_empty()) else {
        return Ok(DEFAULT_VERSION.to_owned());
    };
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
    control.proxies().0.insert(addr.to_owned(), status.api_version.clone());
    Ok(status.api_version)
}
