//! TLS with the certificates that the system trusts.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Whether the other side must prove who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// By a certificate that the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` are heeded).
    Checked,
    /// It needn't: for registries whose administrator says so.
    Unchecked,
}

/// The settings of connections, made once: reading the system's certificates takes time.
pub(crate) fn config(certificates: Certificates) -> ClientConfig {
    static CHECKED: OnceLock<ClientConfig> = OnceLock::new();
    static UNCHECKED: OnceLock<ClientConfig> = OnceLock::new();
    match certificates {
        Certificates::Checked => {
            CHECKED.get_or_init(|| builder().with_root_certificates(system_roots()).with_no_client_auth())
        }
        Certificates::Unchecked => UNCHECKED.get_or_init(|| {
            let verifier = Arc::new(Unchecked(ring::default_provider()));
            builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }),
    }
    .clone()
}

/// What is wrong with the other side's certificate, if an error says that, however it is wrapped.
pub(crate) fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        return refusal(io.get_ref()?);
    }
    let rustls::Error::InvalidCertificate(fault) = error.downcast_ref()? else { return None };
    Some(match fault {
        CertificateError::UnknownIssuer => {
            "its certificate is refused: no authority that we trust issued it".to_owned()
        }
        fault => format!("its certificate is refused: {fault}"),
    })
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the default protocol versions")
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::warn!(%error, "some of the system's certificates can't be read");
    }
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!("the system trusts no certificates: no https server can be called");
    }
    roots
}

/// Takes any certificate, but still wants the handshake signed by it.
#[derive(Debug)]
struct Unchecked(CryptoProvider);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
