//! Certificates for servers of a test's own, made with `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// What kinds of certificates there are. The machine's own configuration stays out of it.
const EXTENSIONS: &str = "[req]\ndistinguished_name = name\n[name]\n\
    [authority]\nbasicConstraints = critical, CA:TRUE\n\
    [server]\nbasicConstraints = critical, CA:FALSE\nsubjectAltName = IP:127.0.0.1\n";

/// Somebody who vouches for servers.
#[derive(Clone, Debug)]
pub struct Authority {
    dir: PathBuf,
    name: String,
}

impl Authority {
    /// A new one, whose files are kept in a directory. Its certificate is its own.
    ///
    /// # Errors
    /// When `openssl` is missing or fails.
    pub fn new(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let authority = Self { dir: dir.to_owned(), name: name.to_owned() };
        std::fs::write(authority.file("cnf"), EXTENSIONS)?;
        authority.make("authority", name, &[])?;
        Ok(authority)
    }

    /// Its certificate, for those who trust it.
    pub fn certificate(&self) -> PathBuf {
        self.file("pem")
    }

    /// What a server at 127.0.0.1 needs that it vouches for.
    ///
    /// # Errors
    /// When `openssl` fails.
    pub fn vouch(&self) -> anyhow::Result<TlsAcceptor> {
        let (certificate, key) = (self.certificate(), self.file("key"));
        let name = format!("{}-server", self.name);
        self.make("server", &name, &["-CA".as_ref(), &certificate, "-CAkey".as_ref(), &key])?;
        let server = Self { dir: self.dir.clone(), name };
        let chain = vec![CertificateDer::from_pem_file(server.certificate())?];
        let key = PrivateKeyDer::from_pem_file(server.file("key"))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.dir.join(format!("{}.{kind}", self.name))
    }

    /// A key and a certificate of a kind, which are called so.
    fn make(&self, kind: &str, name: &str, more: &[&Path]) -> anyhow::Result<()> {
        let made = |kind: &str| self.dir.join(format!("{name}.{kind}"));
        let output = Command::new("openssl")
            .args(["req", "-x509", "-noenc", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-subj", &format!("/CN={name}"), "-extensions", kind])
            .arg("-config")
            .arg(self.file("cnf"))
            .arg("-keyout")
            .arg(made("key"))
            .arg("-out")
            .arg(made("pem"))
            .args(more)
            .output()
            .context("openssl")?;
        ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
