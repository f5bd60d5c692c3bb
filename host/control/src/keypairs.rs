//! Key pairs: making, changing and deleting them.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use quarterdeck_model::{AccessKey, Timestamp};
use quarterdeck_store::keypairs::{self, KeypairChanges, KeypairRow};
use quarterdeck_store::users::{self, UserRow};
use rsa::pkcs1::{EncodeRsaPrivateKey as _, LineEnding};
use rsa::traits::PublicKeyParts as _;

use crate::Control;
use crate::error::{Error, Result};
use crate::identity::commit;
use crate::principal::Principal;
use crate::scope::superadmin_changes;
use crate::validate::{integrity, length, no_matching};

/// What a new key pair is to be like.
#[derive(Clone, Debug)]
pub struct KeypairInput {
    /// Whether it may sign; it may without saying.
    pub is_active: Option<bool>,
    /// Whether endpoints for administrators accept it; they don't without saying.
    pub is_admin: Option<bool>,
    /// The name of its resource policy.
    pub resource_policy: String,
    /// Requests allowed in a rolling window of 900 seconds.
    pub rate_limit: i64,
}

/// Changes to a key pair; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct ModifyKeypairInput {
    /// Whether it may sign.
    pub is_active: Option<bool>,
    /// Whether endpoints for administrators accept it.
    pub is_admin: Option<bool>,
    /// The name of its resource policy.
    pub resource_policy: Option<String>,
    /// Requests allowed in a rolling window of 900 seconds.
    pub rate_limit: Option<i64>,
}

/// Makes a key pair for the user with this e-mail address.
///
/// # Errors
/// [`Error::InsufficientPrivilege`]; [`Error::Integrity`] for an unknown user or policy.
pub async fn create(control: &Control, caller: &Principal, email: &str, input: KeypairInput) -> Result<KeypairRow> {
    superadmin_changes(caller)?;
    length(&input.resource_policy, 256)?;
    let ssh = SshKeypair::generate().await?;
    let mut tx = control.store().begin().await?;
    let Some(user) = users::by_email(&mut tx, email).await? else {
        return Err(Error::Integrity(
            "violates foreign key constraint (fk_keypairs_user): there is no such user".to_owned(),
        ));
    };
    let row = KeypairRow {
        is_active: input.is_active.unwrap_or(true),
        is_admin: input.is_admin.unwrap_or(false),
        ssh_public_key: Some(ssh.public),
        ..new_row(&user, input.resource_policy, input.rate_limit, control.clock().now())
    };
    keypairs::insert(&mut tx, &row, Some(&ssh.private)).await.map_err(integrity)?;
    commit(control, tx).await?;
    Ok(row)
}

/// Changes a key pair, from the next signed request on.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::NotFound`], [`Error::BadRequest`] when there is nothing
/// to change; [`Error::Integrity`] for an unknown policy.
pub async fn modify(control: &Control, caller: &Principal, access_key: &str, input: ModifyKeypairInput) -> Result<()> {
    superadmin_changes(caller)?;
    let changes = KeypairChanges {
        is_active: input.is_active,
        is_admin: input.is_admin,
        resource_policy: input.resource_policy,
        rate_limit: input.rate_limit,
    };
    let mut tx = control.store().begin().await?;
    match keypairs::update(&mut tx, access_key, &changes).await.map_err(integrity)? {
        Some(0) => Err(no_matching("keypair")),
        // Changing nothing is fine for a key pair, if it exists.
        None if keypairs::get(&mut tx, access_key).await?.is_none() => Err(no_matching("keypair")),
        None => Ok(()),
        Some(_) => commit(control, tx).await,
    }
}

/// Gives a key pair another secret: what was signed with the old one is refused from the next request on. Sessions,
/// associations and the access key stay. The new secret is told here and never again.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::NotFound`].
pub async fn rotate(control: &Control, caller: &Principal, access_key: &str) -> Result<String> {
    superadmin_changes(caller)?;
    let secret = new_secret_key();
    let mut tx = control.store().begin().await?;
    if keypairs::set_secret(&mut tx, access_key, &secret).await? == 0 {
        return Err(no_matching("keypair"));
    }
    commit(control, tx).await?;
    Ok(secret)
}

/// Deletes a key pair.
///
/// # Errors
/// [`Error::InsufficientPrivilege`], [`Error::NotFound`]; [`Error::Integrity`] while sessions refer to it.
pub async fn delete(control: &Control, caller: &Principal, access_key: &str) -> Result<()> {
    superadmin_changes(caller)?;
    let mut tx = control.store().begin().await?;
    if keypairs::delete(&mut tx, access_key).await.map_err(integrity)? == 0 {
        return Err(no_matching("keypair"));
    }
    commit(control, tx).await
}

/// The public SSH key of the calling key pair.
///
/// # Errors
/// [`Error::Store`].
pub async fn ssh_public_key(control: &Control, caller: &Principal) -> Result<Option<String>> {
    let row = keypairs::get(&mut control.store().reader(), caller.access_key.as_str()).await?;
    Ok(row.and_then(|k| k.ssh_public_key))
}

/// Makes and stores an SSH key pair for the calling key pair.
///
/// # Errors
/// [`Error::Store`].
pub async fn renew_ssh_keypair(control: &Control, caller: &Principal) -> Result<SshKeypair> {
    let pair = SshKeypair::generate().await?;
    store_ssh_keypair(control, caller, &pair).await?;
    Ok(pair)
}

/// Stores the caller's own SSH key pair. Its texts are not looked into, but end in one line break.
///
/// # Errors
/// [`Error::InvalidParams`] for texts that can't be stored.
pub async fn set_ssh_keypair(control: &Control, caller: &Principal, public: &str, private: &str) -> Result<SshKeypair> {
    if public.contains('\0') || private.contains('\0') {
        return Err(Error::invalid("A key must not contain a NUL character."));
    }
    let line = |text: &str| format!("{}\n", text.trim_end());
    let pair = SshKeypair { public: line(public), private: line(private) };
    store_ssh_keypair(control, caller, &pair).await?;
    Ok(pair)
}

async fn store_ssh_keypair(control: &Control, caller: &Principal, pair: &SshKeypair) -> Result<()> {
    let mut tx = control.store().begin().await?;
    keypairs::set_ssh_keypair(&mut tx, caller.access_key.as_str(), &pair.public, &pair.private).await?;
    commit(control, tx).await
}

/// A fresh, active key pair of a user, without administrator flag and SSH keys.
pub(crate) fn new_row(user: &UserRow, resource_policy: String, rate_limit: i64, now: Timestamp) -> KeypairRow {
    KeypairRow {
        access_key: new_access_key(),
        secret_key: new_secret_key(),
        user_id: user.id,
        user_email: user.email.clone(),
        is_active: true,
        is_admin: false,
        resource_policy,
        created_at: now,
        last_used: None,
        rate_limit,
        num_queries: 0,
        ssh_public_key: None,
    }
}

/// `AKIA` and 80 random bits in base 32: 20 characters.
pub(crate) fn new_access_key() -> AccessKey {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bits = rand::random::<u128>();
    let tail = (0..16).map(|i| char::from(ALPHABET[((bits >> (5 * i)) & 31) as usize]));
    AccessKey(["AKIA"].into_iter().flat_map(str::chars).chain(tail).collect())
}

/// 240 random bits in URL-safe base 64: 40 characters.
pub(crate) fn new_secret_key() -> String {
    URL_SAFE.encode(rand::random::<[u8; 30]>())
}

/// An SSH key pair as text.
#[derive(Clone)]
pub struct SshKeypair {
    /// One line of OpenSSH's format.
    pub public: String,
    /// PEM.
    pub private: String,
}

impl std::fmt::Debug for SshKeypair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SshKeypair").field("public", &self.public).finish_non_exhaustive()
    }
}

impl SshKeypair {
    /// A new RSA key of 2048 bits.
    ///
    /// # Errors
    /// [`Error::Internal`] when the host is shutting down.
    pub async fn generate() -> Result<Self> {
        tokio::task::spawn_blocking(Self::generate_now)
            .await
            .map_err(|e| Error::Internal(format!("making an SSH key: {e}")))?
    }

    fn generate_now() -> Result<Self> {
        let failed = |e: String| Error::Internal(format!("making an SSH key: {e}"));
        let key = rsa::PrivateKey::new(&mut rand::rng(), 2048).map_err(|e| failed(e.to_string()))?;
        let private = key.to_pkcs1_pem(LineEnding::LF).map_err(|e| failed(e.to_string()))?;
        let mut blob = Vec::with_capacity(300);
        for field in [b"ssh-rsa".to_vec(), mpint(&key.e_bytes()), mpint(&key.n_bytes())] {
            let length = u32::try_from(field.len()).map_err(|e| failed(e.to_string()))?;
            blob.extend_from_slice(&length.to_be_bytes());
            blob.extend_from_slice(&field);
        }
        Ok(Self {
            public: format!("ssh-rsa {}\n", STANDARD.encode(blob)),
            private: format!("{}\n", private.trim_end()),
        })
    }
}

/// A positive number as SSH writes it: the highest bit of the first byte is not set.
fn mpint(bytes: &[u8]) -> Vec<u8> {
    let first = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
    let digits = &bytes[first..];
    let mut out = Vec::with_capacity(digits.len() + 1);
    if digits.first().is_some_and(|b| b & 0x80 != 0) {
        out.push(0);
    }
    out.extend_from_slice(digits);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rsa::pkcs1::DecodeRsaPrivateKey as _;

    use super::*;

    #[test]
    fn keys_have_the_documented_form() {
        let access = new_access_key();
        assert_eq!(access.as_str().len(), 20);
        assert!(access.as_str().starts_with("AKIA"));
        assert!(access.as_str().bytes().all(|c| c.is_ascii_uppercase() || (b'2'..=b'7').contains(&c)));
        let secret = new_secret_key();
        assert_eq!(secret.len(), 40);
        assert!(secret.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_'));
        assert_ne!((access, secret), (new_access_key(), new_secret_key()));
    }

    #[test]
    fn ssh_keys_are_readable_elsewhere() {
        let pair = SshKeypair::generate_now().unwrap();
        assert!(pair.private.starts_with("-----BEGIN RSA PRIVATE KEY-----\n"));
        assert!(pair.private.ends_with("-----END RSA PRIVATE KEY-----\n"));
        let key = rsa::PrivateKey::from_pkcs1_pem(&pair.private).unwrap();
        assert_eq!(key.n_bytes().len() * 8, 2048);
        let blob = STANDARD.decode(pair.public.strip_prefix("ssh-rsa ").unwrap().trim_end()).unwrap();
        assert_eq!(&blob[..11], b"\0\0\0\x07ssh-rsa");
        assert_eq!(&blob[11..18], b"\0\0\0\x03\x01\0\x01");
        assert_eq!(&blob[18..23], b"\0\0\x01\x01\0");
        assert_eq!(&blob[23..], &*key.n_bytes());
        assert!(pair.public.ends_with('\n') && !pair.public.trim_end().contains('\n'));
    }

    #[test]
    fn numbers_are_never_negative() {
        assert_eq!(mpint(&[0, 0x80]), [0, 0x80]);
        assert_eq!(mpint(&[0x7f]), [0x7f]);
        assert_eq!(mpint(&[0, 0]), Vec::<u8>::new());
    }
}
