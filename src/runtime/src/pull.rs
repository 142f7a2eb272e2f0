//! Images from the registry, or from one that follows it: whichever answers.
//!
//! An image is always kept under the name that it has in the registry, wherever it came from.

use crate::{
    RuntimeError,
    containerd::{Calls, SNAPSHOTTER, any},
    registries::{Search, lost},
};
use containerd_client::{
    services::v1::TransferRequest,
    types::{
        Platform,
        transfer::{ImageStore, OciRegistry, RegistryResolver, UnpackConfiguration},
    },
};
use model::ImageRef;
use prost::Message;
use tonic::Code;

impl Calls {
    /// Asks the image's registry and those that follow it, in order, until one has brought it. The first one is
    /// not waited for when another answers sooner, and is left when it falls silent.
    pub(crate) async fn pull(&self, image: &ImageRef, mirrors: &[String]) -> Result<(), RuntimeError> {
        let mut registries = vec![image.host().to_owned()];
        registries.extend_from_slice(mirrors);
        let mut search = Search::begin(&registries);
        let mut failed = None;
        while let Some(registry) = search.next().await {
            let outcome = tokio::select! {
                outcome = self.pull_from(image, &registry) => outcome,
                () = lost(&registry) => Err(RuntimeError::SilentRegistry {
                    image: image.to_string(),
                    registry: registry.clone(),
                }),
            };
            match outcome {
                Ok(()) => {
                    if registry != image.host() {
                        tracing::info!(%image, registry, "pulled from a registry that follows");
                    }
                    return Ok(());
                }
                Err(error) => {
                    tracing::debug!(%image, registry, error = %error, "cannot pull");
                    // That it is not there says more than that another one could not be asked.
                    if failed.is_none() || matches!(error, RuntimeError::NoImage { .. }) {
                        failed = Some(error);
                    }
                }
            }
        }
        Err(failed.unwrap_or_else(|| RuntimeError::NoRegistry {
            image: image.to_string(),
            registries: registries.join(", "),
        }))
    }

    async fn pull_from(&self, image: &ImageRef, registry: &str) -> Result<(), RuntimeError> {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let platform =
            Platform { os: "linux".into(), architecture: architecture.into(), ..Platform::default() };
        let source =
            OciRegistry { reference: image.at(registry), resolver: Some(RegistryResolver::default()) };
        let unpack =
            UnpackConfiguration { platform: Some(platform.clone()), snapshotter: SNAPSHOTTER.into() };
        let target = ImageStore {
            name: image.to_string(),
            platforms: vec![platform],
            unpacks: vec![unpack],
            ..ImageStore::default()
        };
        let request = TransferRequest {
            source: Some(any("containerd.types.transfer.OCIRegistry", source.encode_to_vec())),
            destination: Some(any("containerd.types.transfer.ImageStore", target.encode_to_vec())),
            options: None,
        };
        match self.transfers().transfer(self.patient_request(request)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound || status.message().contains("not found") => {
                Err(RuntimeError::NoImage { image: image.to_string() })
            }
            Err(status) => Err(RuntimeError::call("pull", image)(status)),
        }
    }
}
