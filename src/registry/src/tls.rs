//! The certificate and its key.

use crate::config::Tls;
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{path::PathBuf, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

/// How often to look for files that are not there yet.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// No TLS from these files.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file is missing or holds no PEM of the kind.
    #[error("tls.{key} {}: no PEM {key} there; put one there or correct the path", file.display())]
    Pem {
        /// `cert` or `key`.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate and key do not fit.
    #[error("tls.cert {} and tls.key {} cannot be used together", cert.display(), key.display())]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// Waits until both files are there and usable, for as long as the configuration says.
pub(crate) async fn acceptor(tls: &Tls) -> Result<TlsAcceptor, TlsError> {
    let end = Instant::now() + tls.wait.duration();
    let mut waited = false;
    loop {
        // Half a file is no reason to give up: the one who writes it may be at work.
        match load(tls) {
            Ok(config) => return Ok(TlsAcceptor::from(Arc::new(config))),
            Err(error) if Instant::now() >= end => return Err(error),
            Err(error) if !waited => {
                tracing::info!(%error, wait = %tls.wait, "waiting for the certificate");
                waited = true;
            }
            Err(_) => {}
        }
        sleep(LOOK_AGAIN).await;
    }
}

fn load(tls: &Tls) -> Result<ServerConfig, TlsError> {
    let pem = |key, file: &PathBuf| {
        let file = file.clone();
        move |source| TlsError::Pem { key, file, source }
    };
    let unusable = |source| TlsError::Unusable { cert: tls.cert.clone(), key: tls.key.clone(), source };
    let certificates = CertificateDer::pem_file_iter(&tls.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem("cert", &tls.cert))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(pem("key", &tls.key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
