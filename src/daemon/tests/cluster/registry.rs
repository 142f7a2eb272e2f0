//! The certificate of a registry that is not on the server's module.

use super::Cluster;
use rustls::{
    client::danger::ServerCertVerifier,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use std::sync::Arc;
use testkit::FakeRuntime;

/// One module runs a registry, another could.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_gets_its_certificate_from_the_server() {
    let mut cluster = Cluster::server().await;
    let token = cluster.server_config.state.join("token");
    let home = |slot: u16| cluster.dir.path().join(format!("module-{slot}"));
    let place = |slot: u16| home(slot).join("no/registry");
    for (slot, enabled) in [(2, true), (3, false)] {
        std::fs::create_dir_all(home(slot).join("no")).unwrap();
        if enabled {
            std::fs::write(home(slot).join("registry.enabled"), "").unwrap();
        }
    }
    let places = [2, 3].map(place);
    for slot in [2, 3] {
        cluster.start_agent(slot, Arc::new(FakeRuntime::default()), &token);
    }
    cluster.until_modules(2).await;
    let chain = std::fs::read_to_string(places[0].join("registry.crt")).unwrap();
    let ca = std::fs::read_to_string(cluster.server_config.state.join("ca/ca.pem")).unwrap();
    assert!(chain.ends_with(&ca));
    let key = PrivateKeyDer::from_pem_file(places[0].join("registry.key")).unwrap();
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let module = "module-2".parse().unwrap();
    assert_eq!(identity::role_of(&certificates[0]).unwrap(), identity::Role::Registry(module));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let verifier = rustls::client::WebPkiServerVerifier::builder(Arc::new(roots)).build().unwrap();
    let good_for = |host: &str| {
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let now = UnixTime::now();
        verifier.verify_server_cert(&certificates[0], &[], &name, &[], now).is_ok()
    };
    // The name that all pull from is for the module that it leads to alone, and this one is not it.
    assert_eq!(
        ["module-2", "module-3", "registry.spacecloud", api::SERVER_NAME].map(good_for),
        [true, false, false, false]
    );
    let server = rustls::ServerConfig::builder().with_no_client_auth();
    assert!(server.with_single_cert(certificates, key).is_ok(), "key and certificate belong together");
    assert!(!places[1].exists(), "nobody asked for a registry there");
}
