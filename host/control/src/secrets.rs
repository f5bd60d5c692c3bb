//! Secrets that an installation makes for itself: one each for all hosts of a database.

use quarterdeck_store::{Store, meta};

use crate::error::Result;

/// The secret of that name, 64 hexadecimal digits; made when it is asked for the first time. Hosts that ask together agree.
///
/// # Errors
/// [`crate::Error::Store`].
pub async fn of(store: &Store, name: &str) -> Result<String> {
    if let Some(secret) = meta::get(&mut store.reader(), name).await? {
        return Ok(secret);
    }
    let fresh: [u8; 32] = rand::random();
    let mut tx = store.begin().await?;
    let secret = meta::get_or_set(&mut tx, name, &crate::hex::hex(&fresh)).await?;
    tx.commit().await?;
    Ok(secret)
}
