use model::Name;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What went wrong with keys and certificates.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// Making a key or a certificate failed.
    #[error("cannot make a certificate for {subject}")]
    Make {
        /// Whose.
        subject: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A PEM text that is none.
    #[error("{what} is no valid PEM")]
    Pem {
        /// Which text.
        what: &'static str,
    },
    /// A certificate that cannot be read.
    #[error("a certificate cannot be read")]
    Certificate,
    /// A certificate without a role of ours.
    #[error("the certificate names no role of this cluster")]
    Role,
}

/// What the holder of a certificate may do. It is written in the certificate's organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Everything that an operator may.
    Admin,
    /// Speak for the module of this name.
    Agent(Name),
    /// Serve gRPC.
    Server,
    /// Serve images from the module of this name, and nothing else.
    Registry(Name),
}

impl Role {
    fn organisation(&self) -> &'static str {
        match self {
            Self::Admin => "spacecloud:admin",
            Self::Agent(_) => "spacecloud:agent",
            Self::Server => "spacecloud:server",
            Self::Registry(_) => "spacecloud:registry",
        }
    }

    fn common_name(&self) -> String {
        match self {
            Self::Admin => "admin".to_owned(),
            Self::Agent(name) | Self::Registry(name) => name.to_string(),
            Self::Server => "server".to_owned(),
        }
    }
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Credentials {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// The cluster's certificate authority.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Flight hardware may boot with its clock at the epoch; certificates are valid from long ago to far ahead.
const FROM: (i32, u8, u8) = (2000, 1, 1);
const UNTIL: (i32, u8, u8) = (2100, 1, 1);

fn params(role: &Role, names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, role.common_name());
    subject.push(DnType::OrganizationName, role.organisation());
    params.distinguished_name = subject;
    params.not_before = rcgen::date_time_ymd(FROM.0, FROM.1, FROM.2);
    params.not_after = rcgen::date_time_ymd(UNTIL.0, UNTIL.1, UNTIL.2);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match role {
        // Agents serve too: to each other, under a name that nobody takes for the server's.
        Role::Server | Role::Agent(_) => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
        Role::Admin => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Role::Registry(_) => vec![ExtendedKeyUsagePurpose::ServerAuth],
    };
    Ok(params)
}

impl Authority {
    /// A new authority with a new key. Answers it and its key, to be kept secret.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn create() -> Result<(Self, Credentials), IdentityError> {
        let make = |source| IdentityError::Make { subject: "the cluster CA".to_owned(), source };
        let key = KeyPair::generate().map_err(make)?;
        let mut params = CertificateParams::new(vec![]).map_err(make)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "spacecloud cluster CA");
        params.not_before = rcgen::date_time_ymd(FROM.0, FROM.1, FROM.2);
        params.not_after = rcgen::date_time_ymd(UNTIL.0, UNTIL.1, UNTIL.2);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(make)?.pem();
        let credentials = Credentials { certificate: certificate.clone(), key: key.serialize_pem() };
        Ok((Self { certificate, issuer: Issuer::new(params, key) }, credentials))
    }

    /// The authority that [`Authority::create`] made.
    ///
    /// # Errors
    /// The texts are no CA certificate and key.
    pub fn load(kept: &Credentials) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pem(&kept.key).map_err(|_| IdentityError::Pem { what: "the CA's key" })?;
        let issuer = Issuer::from_ca_cert_pem(&kept.certificate, key)
            .map_err(|_| IdentityError::Pem { what: "the CA's certificate" })?;
        Ok(Self { certificate: kept.certificate.clone(), issuer })
    }

    /// The CA's certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A new key and a certificate for it; `names` are DNS names and addresses.
    ///
    /// # Errors
    /// A name that is neither.
    pub fn issue(&self, role: &Role, names: &[String]) -> Result<Credentials, IdentityError> {
        let make = |source| IdentityError::Make { subject: role.common_name(), source };
        let key = KeyPair::generate().map_err(make)?;
        let certificate = params(role, names).map_err(make)?.signed_by(&key, &self.issuer).map_err(make)?;
        Ok(Credentials { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Signs the request of a module to speak for itself.
    ///
    /// # Errors
    /// The request is no signing request.
    pub fn sign(&self, request_pem: &str, module: &Name) -> Result<String, IdentityError> {
        self.sign_as(request_pem, &Role::Agent(module.clone()), &[agent_name(module)])
    }

    /// Signs a module's request. Only its public key is taken from it: names and role are ours to give.
    ///
    /// # Errors
    /// The request is no signing request, or one of the names is neither a DNS name nor an address.
    pub fn sign_as(&self, request_pem: &str, role: &Role, names: &[String]) -> Result<String, IdentityError> {
        let make = |source| IdentityError::Make { subject: role.common_name(), source };
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(|_| IdentityError::Pem { what: "the signing request" })?;
        request.params = params(role, names).map_err(make)?;
        Ok(request.signed_by(&self.issuer).map_err(make)?.pem())
    }
}

/// The name that a module's agent serves other agents under.
pub fn agent_name(module: &Name) -> String {
    format!("{module}.agents.spacecloud")
}

/// A new private key and a signing request for it, both PEM: (key, request).
///
/// # Errors
/// The system has no randomness.
pub fn new_request(name: &Name) -> Result<(String, String), IdentityError> {
    let make = |source| IdentityError::Make { subject: name.to_string(), source };
    let key = KeyPair::generate().map_err(make)?;
    let params = params(&Role::Agent(name.clone()), &[]).map_err(make)?;
    let request = params.serialize_request(&key).and_then(|r| r.pem()).map_err(make)?;
    Ok((key.serialize_pem(), request))
}

/// SHA-256 of a PEM certificate's DER, in hex.
///
/// # Errors
/// The text is no certificate.
pub fn fingerprint(pem: &str) -> Result<String, IdentityError> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| IdentityError::Pem { what: "the CA's certificate" })?;
    Ok(hex::encode(Sha256::digest(&der)))
}

/// A DER certificate as PEM.
pub fn to_pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The role that a verified certificate gives its holder.
///
/// # Errors
/// It gives none.
pub fn role_of(der: &[u8]) -> Result<Role, IdentityError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::Certificate)?;
    let subject = certificate.subject();
    let text = |a: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
        a.and_then(|a| a.as_str().ok().map(str::to_owned)).unwrap_or_default()
    };
    let organisation = text(subject.iter_organization().next());
    let common_name = text(subject.iter_common_name().next());
    match organisation.as_str() {
        "spacecloud:admin" => Ok(Role::Admin),
        "spacecloud:server" => Ok(Role::Server),
        "spacecloud:agent" => common_name.parse().map(Role::Agent).map_err(|_| IdentityError::Role),
        "spacecloud:registry" => common_name.parse().map(Role::Registry).map_err(|_| IdentityError::Role),
        _ => Err(IdentityError::Role),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_gets_the_role_that_the_authority_gives() {
        let (_, kept) = Authority::create().unwrap();
        let authority = Authority::load(&kept).unwrap();
        let (_, request) = new_request(&"module-9".parse().unwrap()).unwrap();
        let module: Name = "module-2".parse().unwrap();
        let signed = authority.sign(&request, &module).unwrap();
        let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
        assert_eq!(role_of(&der).unwrap(), Role::Agent(module.clone()));
        let role = Role::Registry(module.clone());
        let signed = authority.sign_as(&request, &role, &["module-2".into()]).unwrap();
        let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
        assert_eq!(role_of(&der).unwrap(), role);
        assert_eq!(fingerprint(authority.certificate()).unwrap().len(), 64);
        let admin = authority.issue(&Role::Admin, &[]).unwrap();
        let der = CertificateDer::from_pem_slice(admin.certificate.as_bytes()).unwrap();
        assert_eq!(role_of(&der).unwrap(), Role::Admin);
        assert!(authority.sign("no request", &module).is_err());
    }
}
