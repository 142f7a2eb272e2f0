use std::path::PathBuf;
use thiserror::Error;

/// What failed on the module.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// containerd does not answer.
    #[error("containerd does not answer on {socket}")]
    Connect {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// containerd refused.
    #[error("cannot {operation} {subject}: {}", status.message())]
    Call {
        /// What was asked.
        operation: &'static str,
        /// Of what.
        subject: String,
        /// containerd's answer.
        status: Box<tonic::Status>,
    },
    /// The registry does not have the image.
    #[error("image {image} is not in the registry; push it, for example with skopeo copy")]
    NoImage {
        /// Which.
        image: String,
    },
    /// No registry at all.
    #[error("image {image} cannot be pulled: none of {registries} answers")]
    NoRegistry {
        /// Which.
        image: String,
        /// Who was asked.
        registries: String,
    },
    /// A registry was cut off while it was being pulled from.
    #[error("image {image} did not come whole: {registry} fell silent")]
    SilentRegistry {
        /// Which.
        image: String,
        /// From where.
        registry: String,
    },
    /// The image is of another registry.
    #[error("image {image} is of another registry; modules pull from {registry} only: push it there")]
    ForeignImage {
        /// Which.
        image: String,
        /// The registry that is allowed.
        registry: String,
    },
    /// The image's manifest or configuration makes no sense.
    #[error("image {image} cannot be used: {reason}")]
    BadImage {
        /// Which.
        image: String,
        /// Why.
        reason: String,
    },
    /// A numbered accelerator is not where the slot map says.
    #[error("accelerator {number} cannot be used: {reason}")]
    NoAccelerator {
        /// Which.
        number: u32,
        /// Why.
        reason: String,
    },
    /// Limits that cannot be written down.
    #[error("the limits of {instance} make no sense: {reason}")]
    Limits {
        /// Whose.
        instance: String,
        /// Why.
        reason: String,
    },
    /// A CNI plugin failed.
    #[error("network plugin {plugin} failed for {instance}: {reason}")]
    Plugin {
        /// Which.
        plugin: String,
        /// For whom.
        instance: String,
        /// What it said.
        reason: String,
    },
    /// A file, directory or mount.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A route to another module.
    #[error("cannot set the route to {subnet}")]
    Route {
        /// Where to.
        subnet: String,
        /// Why.
        source: rtnetlink::Error,
    },
    /// The bridge of the module's instances.
    #[error("cannot make the bridge {name}")]
    Bridge {
        /// Which.
        name: String,
        /// Why.
        source: rtnetlink::Error,
    },
    /// The rules that send services' connections to their endpoints.
    #[error("cannot set the rules of the services: {reason}")]
    Rules {
        /// What nft said.
        reason: String,
    },
    /// The kernel's table of connections.
    #[error("cannot {operation} the kernel's table of connections")]
    Connections {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A volume.
    #[error("volume {volume}: {reason}")]
    Volume {
        /// Which.
        volume: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// A volume holds more than it may, and nothing but the agent keeps it to its size.
    #[error("{words}; apply it with a larger size, or free some of it")]
    VolumeFull {
        /// Which, and how much.
        words: String,
    },
    /// The storage module.
    #[error(
        "cannot mount {source_name}; check [storage] in spacecloud.toml and the storage module's exports"
    )]
    Storage {
        /// As SERVER:EXPORT.
        source_name: String,
        /// Why.
        source: std::io::Error,
    },
    /// What containerd has of an instance makes no sense.
    #[error("{instance} cannot be used: {reason}")]
    BadContainer {
        /// Which.
        instance: String,
        /// Why.
        reason: String,
    },
    /// containerd is not done with a start that was cut short.
    #[error("containerd is still tidying up after a start of {instance} that was cut short")]
    Tidying {
        /// Of what.
        instance: String,
    },
    /// A start that was cut short is in the way.
    #[error("what a start that was cut short has left of {instance} cannot be removed: {reason}")]
    Leftover {
        /// Of what.
        instance: String,
        /// What the program said that should have removed it.
        reason: String,
    },
    /// A process that cannot be moved.
    #[error("{instance} cannot be checkpointed: {reason}")]
    Checkpoint {
        /// Which.
        instance: String,
        /// What criu said.
        reason: String,
    },
    /// A checkpoint that does not come to life.
    #[error("{instance} cannot be restored: {reason}")]
    Restore {
        /// Which.
        instance: String,
        /// What criu said.
        reason: String,
    },
    /// More than one whole accelerator would be given away.
    #[error(
        "accelerator {number} is held by others on this module already: nothing is started on it until they have left"
    )]
    Shared {
        /// Which.
        number: u32,
    },
    /// The lease ended: nothing may be started.
    #[error("cut off from the server: nothing is started")]
    Fenced,
}

impl RuntimeError {
    pub(crate) fn call(
        operation: &'static str,
        subject: impl ToString,
    ) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self::Call { operation, subject: subject.to_string(), status: Box::new(status) }
    }

    pub(crate) fn conntrack(operation: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Connections { operation, source }
    }

    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { operation, path: path.into(), source }
    }
}
