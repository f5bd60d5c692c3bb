//! Whose components a site takes: detached ed25519 signatures in minisign's format, and the keys that are trusted.
//!
//! The policy stands in the configuration tree (`config/plugins/signatures`, `config/plugins/trusted-keys/<name>`), or
//! in the server's own file. What the file says counts: whoever can write the tree can't loosen it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign_verify::{Error as Broken, PublicKey, Signature};
use quarterdeck_model::Timestamp;
use quarterdeck_store::plugins::{self, RevisionRow};
use quarterdeck_store::signatures::SignatureRow;
use serde_json::Value as Json;

use crate::Control;
use crate::error::Error;

/// Where the tree says whether signatures are required: `off` (default) or `required`.
const MODE: &str = "config/plugins/signatures";
/// Where the tree has the keys that are trusted, by name.
const KEYS: &str = "config/plugins/trusted-keys";
/// Bytes of a signature document; minisign's own have some 300.
pub const MAX_SIGNATURE_BYTES: usize = 4096;

/// What the server's own file says about signatures.
#[derive(Clone, Debug, Default)]
pub struct SignatureSettings {
    /// Whether signatures are required; without it, the tree says so.
    pub required: Option<bool>,
    /// The keys that are trusted, and no others; without it, the tree has them.
    pub keys: Option<Vec<TrustedKey>>,
}

/// A key whose signatures count.
#[derive(Clone, Debug)]
pub struct TrustedKey {
    /// What the site calls it.
    pub name: String,
    /// 16 upper-case hex digits, as minisign shows them.
    pub id: String,
    key: PublicKey,
}

impl TrustedKey {
    /// Reads a public key: its line of base64 (`RW…`), or a whole `.pub` file.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn new(name: &str, text: &str) -> Result<Self, String> {
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        let key =
            PublicKey::from_base64(line).map_err(|e| format!("the key `{name}` is no minisign public key: {e}"))?;
        Ok(Self { name: name.to_owned(), id: key_id(line), key })
    }
}

/// The id of a key, or of the key of a signature, from their line of base64.
fn key_id(line: &str) -> String {
    // Both begin with two bytes for the algorithm and eight for the key.
    let bytes = STANDARD.decode(line.trim()).unwrap_or_default();
    let id: Option<[u8; 8]> = bytes.get(2..10).and_then(|id| id.try_into().ok());
    id.map(|id| format!("{:016X}", u64::from_le_bytes(id))).unwrap_or_default()
}

/// What a site demands.
#[derive(Clone, Debug, Default)]
pub struct SignaturePolicy {
    /// Components without a signature by a trusted key aren't taken.
    pub required: bool,
    /// The keys.
    pub keys: Vec<TrustedKey>,
}

/// What counts now.
pub async fn policy(control: &Control) -> SignaturePolicy {
    let own = &control.settings().signatures;
    let required = match own.required {
        Some(required) => required,
        None => match control.config_tree().value(MODE).as_deref().map(str::trim) {
            None | Some("" | "off") => false,
            Some("required") => true,
            Some(other) => {
                tracing::warn!(value = other, "{MODE} is neither `off` nor `required`: taken for `required`");
                true
            }
        },
    };
    let keys = match &own.keys {
        Some(keys) => keys.clone(),
        None => from_tree(&control.config_tree().prefix(KEYS).await),
    };
    SignaturePolicy { required, keys }
}

fn from_tree(tree: &Json) -> Vec<TrustedKey> {
    let mut keys = Vec::new();
    for (name, value) in tree.as_object().into_iter().flatten() {
        match TrustedKey::new(name, value.as_str().unwrap_or_default()) {
            Ok(key) => keys.push(key),
            Err(reason) => tracing::warn!(reason, "a trusted key in {KEYS} can't be used"),
        }
    }
    keys
}

/// A signature that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The trusted key's name.
    pub key_name: String,
    /// Its id.
    pub key_id: String,
    /// The trusted comment.
    pub comment: String,
    /// The document.
    pub document: String,
}

impl Signed {
    /// As it is kept.
    pub(crate) fn row(&self, digest: &str, checked_at: Timestamp) -> SignatureRow {
        SignatureRow {
            digest: digest.to_owned(),
            key_name: self.key_name.clone(),
            key_id: self.key_id.clone(),
            comment: self.comment.clone(),
            signature: self.document.clone(),
            checked_at,
        }
    }
}

impl SignaturePolicy {
    /// Checks a component's signature. Nothing for an unsigned component, or one signed by a stranger, where that is
    /// allowed; a signature that doesn't fit is refused in any case. Hashes the component: for threads that may block.
    ///
    /// # Errors
    /// Why the component isn't taken, completing "the component was refused: …".
    pub fn check(&self, component: &[u8], signature: Option<&[u8]>) -> Result<Option<Signed>, String> {
        let Some(document) = signature else {
            return match self.required {
                true => Err("it isn't signed, and this site takes only components signed by a trusted key".to_owned()),
                false => Ok(None),
            };
        };
        if document.len() > MAX_SIGNATURE_BYTES {
            return Err(format!("its signature has more than {MAX_SIGNATURE_BYTES} bytes"));
        }
        let unreadable = |reason: String| format!("its signature can't be read: {reason}");
        let document = std::str::from_utf8(document).map_err(|_| unreadable("it isn't text".to_owned()))?;
        let signature = Signature::decode(document).map_err(|e| unreadable(e.to_string()))?;
        let id = key_id(document.lines().nth(1).unwrap_or_default());
        let mut candidates = self.keys.iter().filter(|key| key.id == id).peekable();
        if candidates.peek().is_none() {
            return match self.required {
                true => Err(format!("it is signed by the key {id}, which this site doesn't trust")),
                false => Ok(None),
            };
        }
        let mut refusal = String::new();
        for key in candidates {
            match key.key.verify(component, &signature, false) {
                Ok(()) => {
                    return Ok(Some(Signed {
                        key_name: key.name.clone(),
                        key_id: id,
                        comment: signature.trusted_comment().to_owned(),
                        document: document.to_owned(),
                    }));
                }
                Err(Broken::UnexpectedAlgorithm) => {
                    refusal = "its signature is of the old kind that isn't hashed first: sign it anew".to_owned();
                }
                Err(_) => refusal = format!("its signature by the key `{}` ({id}) doesn't fit it", key.name),
            }
        }
        Err(refusal)
    }
}

/// Why a signature doesn't do.
#[derive(Debug)]
pub(crate) enum Objection {
    /// The component isn't taken.
    Component(String),
    /// This host couldn't find out.
    Host(String),
}

/// As [`SignaturePolicy::check`] by what counts now, on a thread that may block.
pub(crate) async fn check(
    control: &Control,
    component: &Arc<[u8]>,
    signature: Option<&[u8]>,
) -> Result<Option<Signed>, Objection> {
    let policy = policy(control).await;
    let (component, signature) = (Arc::clone(component), signature.map(<[u8]>::to_vec));
    tokio::task::spawn_blocking(move || policy.check(&component, signature.as_deref()))
        .await
        .map_err(|error| Objection::Host(format!("its signature couldn't be checked: {error}")))?
        .map_err(Objection::Component)
}

/// Keeps whose signature a stored component bears.
pub(crate) async fn keep(control: &Control, digest: &str, signed: &Signed) -> Result<(), Error> {
    let mut tx = control.store().begin().await?;
    quarterdeck_store::signatures::set(&mut tx, &signed.row(digest, control.clock().now())).await?;
    tx.commit().await?;
    Ok(())
}

/// Whether a stored component may be bound: where signatures are required, one by a key that is trusted now. What is
/// shipped with the host needs none.
///
/// # Errors
/// [`Error::InvalidParams`] with the reason.
pub(crate) async fn may_serve(control: &Control, revision: &RevisionRow) -> Result<(), Error> {
    if revision.builtin {
        return Ok(());
    }
    let policy = policy(control).await;
    if !policy.required {
        return Ok(());
    }
    let mut sql = control.store().reader();
    let signature = quarterdeck_store::signatures::get(&mut sql, &revision.digest).await?;
    let component = plugins::component(&mut sql, &revision.digest).await?.unwrap_or_default();
    let checked = tokio::task::spawn_blocking(move || {
        policy.check(&component, signature.as_ref().map(|s| s.signature.as_bytes()))
    });
    let verdict = checked.await.map_err(|e| Error::Internal(format!("a check of a signature broke off: {e}")))?;
    verdict
        .map(drop)
        .map_err(|reason| Error::invalid(format!("{}@{} may not serve: {reason}", revision.name, revision.version)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    // Of the text "a policy".
    const KEY: &str = "RWQIBwYFBAMCAYqwCX80sCrOh0OgXaSjKsGT6fqfko+Kv+/FeLXq40vY";
    const SIGNATURE: &str = "untrusted comment: made for tests\n\
        RUQIBwYFBAMCAWTQCoHCtmPOurjgpOiguZQCdtGsX6VeHDQ96tx2ArNtuF4CtcZCoj3KhjMTFItNRhRcp0i20ftmJGc9bd8QqAY=\n\
        trusted comment: file:policy.wasm\n\
        Wic0YEtTbGLJpZ7f7fDxuxKc8jIA52601U509HapaLt7ltIZNZw2Wf1y8pxvHnhnz75iicafsMykZKz/8+JiBg==\n";
    // The same, not hashed first.
    const OLD: &str = "untrusted comment: made for tests\n\
        RWQIBwYFBAMCAa+3QtWjmXp68mcIAIM21EDJLs6X+nG9You43fGSdhPO7XSPI0Hu94TeVY4hgEQePH+id7wCY49eIBjWoIMSzA4=\n\
        trusted comment: file:policy.wasm\n\
        TSVPC5fcm6d6YH/X0gGV+XAi47C03jkA/HupMnMzeOIb0Q88u0MbJoxo+kyuPI1OmEMMfUcBWrdixTDGSkm0Ag==\n";
    const STRANGER: &str = "RWQYB/bl1MOyof4lyaYv6AGFrYwvESY9yuV2IR7cx/x+M/KrpgXPf4TN";

    fn site(required: bool, key: &str) -> SignaturePolicy {
        SignaturePolicy { required, keys: vec![TrustedKey::new("ops", key).unwrap()] }
    }

    #[test]
    fn a_signature_by_a_trusted_key_counts() {
        for required in [false, true] {
            let signed = site(required, KEY).check(b"a policy", Some(SIGNATURE.as_bytes())).unwrap().unwrap();
            assert_eq!((signed.key_name.as_str(), signed.key_id.as_str()), ("ops", "0102030405060708"));
            assert_eq!(signed.comment, "file:policy.wasm");
            let refusal = site(required, KEY).check(b"a polycy", Some(SIGNATURE.as_bytes())).unwrap_err();
            assert!(refusal.contains("`ops` (0102030405060708) doesn't fit"), "{refusal}");
            let forged = SIGNATURE.replace("file:policy", "file:pooicy");
            assert!(
                site(required, KEY).check(b"a policy", Some(forged.as_bytes())).is_err(),
                "the comment is signed too"
            );
            let old = site(required, KEY).check(b"a policy", Some(OLD.as_bytes())).unwrap_err();
            assert!(old.contains("old kind"), "{old}");
            for garbage in [&b""[..], b"garbage", b"\xff\xfe", &[b'x'; 5000]] {
                assert!(site(required, KEY).check(b"a policy", Some(garbage)).is_err());
            }
        }
    }

    #[test]
    fn strangers_and_unsigned_components_are_taken_where_that_is_allowed() {
        let stranger = |required| site(required, STRANGER);
        assert_eq!(stranger(false).check(b"a policy", Some(SIGNATURE.as_bytes())), Ok(None));
        let refusal = stranger(true).check(b"a policy", Some(SIGNATURE.as_bytes())).unwrap_err();
        assert!(refusal.contains("0102030405060708, which this site doesn't trust"), "{refusal}");
        assert_eq!(stranger(false).check(b"a policy", None), Ok(None));
        assert!(stranger(true).check(b"a policy", None).unwrap_err().contains("isn't signed"));
        let nobody = SignaturePolicy { required: true, keys: Vec::new() };
        assert!(nobody.check(b"a policy", Some(SIGNATURE.as_bytes())).is_err());
    }

    #[test]
    fn keys_are_a_line_or_a_file() {
        let file = format!("untrusted comment: minisign public key\n{KEY}\n");
        assert_eq!(TrustedKey::new("a", &file).unwrap().id, "0102030405060708");
        for wrong in ["", "RW", "nonsense", &KEY[1..]] {
            assert!(TrustedKey::new("a", wrong).unwrap_err().contains('a'), "{wrong}");
        }
        let tree = serde_json::json!({"good": KEY, "bad": "x", "deep": {"er": KEY}});
        assert_eq!(from_tree(&tree).into_iter().map(|k| k.name).collect::<Vec<_>>(), ["good"]);
    }
}
