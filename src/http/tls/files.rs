//! What is in the files of TLS, and whether it is of any use.

use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{DEFAULT_VERSIONS, Error, InconsistentKeys, RootCertStore, ServerConfig};
use x509_parser::parse_x509_certificate;

use super::{ClientAuth, Current, TlsConfig, TlsError};

/// What clients may choose when they greet, the best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

const CERT: &str = "tls_cert";
const KEY: &str = "tls_key";
const CLIENT_CA: &str = "tls_client_ca";

/// The files as they were read together.
#[derive(Clone, PartialEq, Eq)]
pub struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Files {
    pub async fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        let client_ca = match &config.client_ca {
            Some(path) => Some(read(CLIENT_CA, path).await?),
            None => None,
        };
        Ok(Self { cert: read(CERT, &config.cert).await?, key: read(KEY, &config.key).await?, client_ca })
    }

    /// What a server can serve with, if all of it goes together.
    pub fn into_current(self, config: &TlsConfig) -> Result<Current, TlsError> {
        let chain = certificates(CERT, &config.cert, &self.cert)?;
        let (begins, expires) = validity(&config.cert, &chain)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| unusable(KEY, &config.key, format!("it has no private key in PEM ({error})")))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(DEFAULT_VERSIONS)
            .map_err(|error| unusable(CERT, &config.cert, error.to_string()))?;
        let builder = match (config.client_auth, &config.client_ca, &self.client_ca) {
            (ClientAuth::Off, ..) | (_, None, _) | (_, _, None) => builder.with_no_client_auth(),
            (auth, Some(path), Some(authorities)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots(path, authorities)?.into(), provider);
                let verifier = match auth {
                    ClientAuth::Optional => verifier.allow_unauthenticated(),
                    _ => verifier,
                };
                let verifier = verifier.build().map_err(|error| unusable(CLIENT_CA, path, error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut server = builder.with_single_cert(chain, key).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::OtherKey { cert: config.cert.clone(), key: config.key.clone() }
            }
            Error::InvalidCertificate(_) => unusable(CERT, &config.cert, error.to_string()),
            error => unusable(KEY, &config.key, error.to_string()),
        })?;
        server.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Current { server: Arc::new(server), begins, expires, files: self })
    }
}

async fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    tokio::fs::read(path).await.map_err(|source| TlsError::Unreadable { setting, path: path.to_owned(), source })
}

fn unusable(setting: &'static str, path: &Path, reason: String) -> TlsError {
    TlsError::Unusable { setting, path: path.to_owned(), reason }
}

fn certificates(setting: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(setting, path, format!("it is no PEM ({error})")))?;
    if chain.is_empty() {
        return Err(unusable(setting, path, "it has no certificate in PEM".to_owned()));
    }
    Ok(chain)
}

/// From when and until when the first certificate, which is the server's own, is valid.
fn validity(path: &Path, chain: &[CertificateDer]) -> Result<(DateTime<Utc>, DateTime<Utc>), TlsError> {
    let broken = |reason: String| unusable(CERT, path, format!("its first certificate cannot be read ({reason})"));
    let own = chain.first().ok_or_else(|| broken("there is none".to_owned()))?;
    let (_, own) = parse_x509_certificate(own).map_err(|error| broken(error.to_string()))?;
    let time = |seconds: i64, what: &str| {
        DateTime::from_timestamp(seconds, 0).ok_or_else(|| broken(format!("it {what} at {seconds}")))
    };
    let validity = own.validity();
    Ok((time(validity.not_before.timestamp(), "begins")?, time(validity.not_after.timestamp(), "ends")?))
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(CLIENT_CA, path, pem)? {
        roots.add(authority).map_err(|error| unusable(CLIENT_CA, path, error.to_string()))?;
    }
    Ok(roots)
}
