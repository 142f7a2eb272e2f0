//! Network namespaces: made, and worked in from a thread that ends with the work.

use crate::{RuntimeError, routes::LOOPBACK};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};
use std::{fs, io, path::Path};

/// A network namespace that lives as long as its file is mounted. It is made on a thread that ends with that. Blocks.
pub(crate) fn make(path: &Path) -> Result<(), RuntimeError> {
    let os = |operation: &'static str, path: &Path| {
        let path = path.to_owned();
        move |errno: nix::Error| RuntimeError::Io { operation, path, source: errno.into() }
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(RuntimeError::io("create", parent))?;
    }
    fs::write(path, "").map_err(RuntimeError::io("create", path))?;
    let target = path.to_owned();
    let made = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(os("make a network namespace for", &target))?;
        let own = Path::new("/proc/thread-self/ns/net");
        mount(Some(own), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(os("mount", &target))
    })
    .join();
    made.unwrap_or_else(|_| {
        Err(RuntimeError::Io {
            operation: "mount",
            path: path.to_owned(),
            source: std::io::ErrorKind::Other.into(),
        })
    })
}

/// Lets an instance talk to itself. Asked of the kernel, since a plugin's process costs more than all that it does.
pub(crate) async fn wake_loopback(namespace: &Path) -> Result<(), RuntimeError> {
    let wake = async move |handle: Handle| {
        let up: LinkMessageBuilder<LinkUnspec> = LinkUnspec::new_with_index(LOOPBACK);
        handle.link().set(up.up().build()).execute().await.map_err(io::Error::other)
    };
    inside(namespace, wake).await.map_err(RuntimeError::io("set the loopback up in", namespace))
}

/// Asks the kernel for something from inside a network namespace.
pub(crate) async fn inside(
    namespace: &Path,
    work: impl AsyncFnOnce(Handle) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let path = namespace.to_owned();
    let there = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            let connection = tokio::spawn(connection);
            let outcome = work(handle).await;
            connection.abort();
            outcome
        })
    };
    let outcome = tokio::task::spawn_blocking(move || in_namespace(&path, there)).await;
    outcome.unwrap_or_else(|_| Err(io::Error::other("the thread that does it ended")))
}

/// Does something on a thread that lives in a network namespace and ends with it.
pub(crate) fn in_namespace<T: Send + 'static>(
    namespace: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let file = fs::File::open(namespace)?;
    let inside = move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
        work()
    };
    let ended = std::thread::spawn(inside).join();
    ended.unwrap_or_else(|_| Err(io::Error::other("the thread that does it panicked")))
}
