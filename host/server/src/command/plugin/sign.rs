//! `quarterdeck plugin keygen` and `sign`: keys and signatures in minisign's format, for sites without that tool.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};

#[derive(Debug, Args)]
pub(super) struct KeygenArgs {
    /// Where the key goes: NAME.key (secret, for its owner alone) and NAME.pub
    name: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct SignArgs {
    /// The component (`.wasm`)
    file: PathBuf,
    /// The secret key, of `plugin keygen` or `minisign -W -G`
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where the signature goes; default: beside the component, with `.minisig` after its name
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
}

/// Makes a key pair without a password: whoever reads the file can sign.
pub(super) fn keygen(args: &KeygenArgs) -> anyhow::Result<ExitCode> {
    let pair = KeyPair::generate_unencrypted_keypair()?;
    let (secret, public) = (with_suffix(&args.name, ".key"), with_suffix(&args.name, ".pub"));
    if public.exists() {
        bail!("{} is there already", public.display());
    }
    let text = pair.sk.to_box(Some("quarterdeck secret key"))?.into_string();
    // A key that somebody signs with is never written over.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&secret)
        .with_context(|| secret.display().to_string())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let text = pair.pk.to_box()?.into_string();
    std::fs::write(&public, text).with_context(|| public.display().to_string())?;
    eprintln!("wrote {} (keep it secret) and {}; the public key:", secret.display(), public.display());
    writeln!(std::io::stdout(), "{}", pair.pk.to_base64())?;
    Ok(ExitCode::SUCCESS)
}

/// Signs a component. The name of its file is signed along, for those who look.
pub(super) fn sign(args: &SignArgs) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(&args.key).with_context(|| args.key.display().to_string())?;
    let secret = read_key(&text).with_context(|| args.key.display().to_string())?;
    let public = PublicKey::from_secret_key(&secret)?;
    let component = std::fs::File::open(&args.file).with_context(|| args.file.display().to_string())?;
    let name = args.file.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    let comment = format!("timestamp:{}\tfile:{name}", chrono::Utc::now().timestamp());
    let signature = minisign::sign(Some(&public), &secret, component, Some(&comment), None)?;
    let path = args.signature.clone().unwrap_or_else(|| beside(&args.file));
    std::fs::write(&path, signature.into_string()).with_context(|| path.display().to_string())?;
    eprintln!("wrote {}", path.display());
    Ok(ExitCode::SUCCESS)
}

fn read_key(text: &str) -> anyhow::Result<SecretKey> {
    SecretKeyBox::from_string(text)
        .and_then(SecretKeyBox::into_unencrypted_secret_key)
        .context("no secret key without a password (for others, sign with `minisign` itself)")
}

/// Where the signature of a component is looked for.
pub(super) fn beside(file: &Path) -> PathBuf {
    with_suffix(file, ".minisig")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use quarterdeck_control::signatures::{SignaturePolicy, TrustedKey};

    use super::*;

    #[test]
    fn what_we_sign_the_server_accepts() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("release");
        keygen(&KeygenArgs { name: name.clone() }).unwrap();
        let key = dir.path().join("release.key");
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(keygen(&KeygenArgs { name: name.clone() }).is_err(), "keys aren't written over");

        let file = dir.path().join("policy.wasm");
        std::fs::write(&file, "a policy").unwrap();
        sign(&SignArgs { file: file.clone(), key: key.clone(), signature: None }).unwrap();
        let signature = std::fs::read(beside(&file)).unwrap();
        let public = std::fs::read_to_string(dir.path().join("release.pub")).unwrap();
        let site = SignaturePolicy { required: true, keys: vec![TrustedKey::new("release", &public).unwrap()] };
        let signed = site.check(b"a policy", Some(&signature)).unwrap().unwrap();
        assert!(signed.comment.ends_with("file:policy.wasm"), "{signed:?}");
        assert!(public.contains(&signed.key_id), "{public}");
        assert!(site.check(b"another", Some(&signature)).is_err());

        std::fs::write(&key, "nonsense").unwrap();
        assert!(sign(&SignArgs { file, key, signature: None }).is_err());
    }
}
