//! Whom to believe: the cluster's CA for the cluster's registry, and the system's store as well for others.
use super::{
    error::{ImageError, Result},
    name::CLUSTER_HOST,
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use std::sync::Arc;

/// For the cluster's registry: only the cluster's CA.
pub(super) fn for_cluster(ca: &str) -> Result<ClientConfig> {
    let told = |why: String| ImageError::Tls(why);
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(ca)?), provider.clone())
        .build()
        .map_err(|e| told(format!("ca: {e}")))?;
    let registry = ServerName::try_from(CLUSTER_HOST).map_err(|e| told(e.to_string()))?;
    let verifier = Arc::new(EitherName { verifier, registry });
    let config = versions(provider)?.dangerous().with_custom_certificate_verifier(verifier);
    Ok(config.with_no_client_auth())
}

/// For other registries: what the system believes, and the cluster's CA.
pub(super) fn for_others(ca: &str) -> Result<ClientConfig> {
    let mut roots = roots(ca)?;
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = versions(Arc::new(ring::default_provider()))?.with_root_certificates(roots);
    Ok(config.with_no_client_auth())
}

/// Where there is no TLS to set up.
pub(super) fn for_nobody() -> Result<ClientConfig> {
    let config = versions(Arc::new(ring::default_provider()))?.with_root_certificates(RootCertStore::empty());
    Ok(config.with_no_client_auth())
}

fn versions(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ImageError::Tls(e.to_string()))
}

fn roots(ca: &str) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|e| ImageError::Tls(format!("ca: {e}")))?;
        store.add(certificate).map_err(|e| ImageError::Tls(format!("ca: {e}")))?;
    }
    Ok(store)
}

/// The registry's certificate names the registry, but the ground often reaches it by an address that no
/// certificate could know. The cluster's CA gives that name to nobody else, so either name will do.
#[derive(Debug)]
struct EitherName {
    verifier: Arc<WebPkiServerVerifier>,
    registry: ServerName<'static>,
}

impl ServerCertVerifier for EitherName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Error> {
        let verify = |name: &ServerName<'_>| {
            self.verifier.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        match verify(server_name) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => verify(&self.registry),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
