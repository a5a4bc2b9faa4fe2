//! The certificates for an engine over TLS.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::text::said;

/// A directory with certificates, as the docker command has them: `ca.pem` of whoever signs the engine's
/// certificate, and `cert.pem` and `key.pem` of the client, if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certificates(pub(super) PathBuf);

/// The error for certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub(super) struct BadCertificates {
    path: PathBuf,
    why: String,
}

impl Certificates {
    /// Reads them, as they are now, for a client that verifies the engine.
    pub(super) fn read(&self) -> Result<ClientConfig, BadCertificates> {
        let ca = self.0.join("ca.pem");
        let mut roots = RootCertStore::empty();
        for certificate in chain(&ca)? {
            let bad = |error: rustls::Error| bad(&ca, &error);
            roots.add(certificate).map_err(bad)?;
        }
        // Without a default provider for the process, which a library does not choose.
        let provider = rustls::crypto::ring::default_provider().into();
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(&self.0, &error))?
            .with_root_certificates(roots);
        let (cert, key) = (self.0.join("cert.pem"), self.0.join("key.pem"));
        if !cert.exists() && !key.exists() {
            return Ok(config.with_no_client_auth());
        }
        let chain = chain(&cert)?;
        let private =
            PrivateKeyDer::from_pem_slice(&read(&key)?).map_err(|error| bad(&key, &error))?;
        config
            .with_client_auth_cert(chain, private)
            .map_err(|error| bad(&key, &error))
    }
}

impl From<BadCertificates> for io::Error {
    fn from(error: BadCertificates) -> Self {
        Self::other(error)
    }
}

fn bad(path: &Path, error: &dyn std::error::Error) -> BadCertificates {
    BadCertificates {
        path: path.to_owned(),
        why: error.to_string(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BadCertificates> {
    std::fs::read(path).map_err(|error| BadCertificates {
        path: path.to_owned(),
        why: said(&error),
    })
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, BadCertificates> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let chain = chain.map_err(|error| bad(path, &error))?;
    if chain.is_empty() {
        let why = "it has no certificate in PEM".to_owned();
        let path = path.to_owned();
        return Err(BadCertificates { path, why });
    }
    Ok(chain)
}
