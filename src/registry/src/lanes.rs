//! Threads that wait for the network: two, where there are two processors. One alone shares its processor with clients on
//! the same machine, and they then wait for it while the other processor has time. Each has connections of its own, so
//! that none wakes the other.

use std::{
    future::Future,
    io,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

/// For those who wait for disks: a registry does not compute. Each thread that has ever been needed keeps some
/// memory, and as many as may be are needed at once now and then.
const FILES: usize = 8;
const STACK: usize = 256 << 10;
/// How long those that still write to files may take at the end.
const LAST_FILES: Duration = Duration::from_secs(2);

/// What one thread for the network runs on.
///
/// # Errors
/// The system has no more of what it takes.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(FILES).thread_stack_size(STACK).build()
}

/// Ends a runtime.
pub fn end(runtime: Runtime) {
    runtime.shutdown_timeout(LAST_FILES);
}

/// The thread beside the first.
#[derive(Debug)]
struct Second {
    handle: Handle,
    /// Dropped, it ends.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Second {
    fn start() -> io::Result<Self> {
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let work = move || {
            let _ = runtime.block_on(stopped);
            end(runtime);
        };
        let thread = thread::Builder::new().name("lane-2".into()).stack_size(STACK).spawn(work)?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// All of them: connections take turns.
#[derive(Debug)]
pub(crate) struct Lanes {
    second: Option<Second>,
    turn: AtomicUsize,
}

impl Lanes {
    /// Beside the thread that calls.
    pub(crate) fn open() -> io::Result<Self> {
        let several = thread::available_parallelism().is_ok_and(|count| count.get() > 1);
        let second = several.then(Second::start).transpose()?;
        Ok(Self { second, turn: AtomicUsize::new(0) })
    }

    /// Has a connection served on the next lane.
    pub(crate) fn serve<F>(&self, stream: TcpStream, serve: impl FnOnce(TcpStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let Some(second) = self.second.as_ref().filter(|_| turn % 2 == 1) else {
            tokio::spawn(async move { serve(stream).await });
            return;
        };
        // Who waits for it must be the lane itself.
        match stream.into_std() {
            Ok(stream) => {
                second.handle.spawn(async move {
                    match TcpStream::from_std(stream) {
                        Ok(stream) => serve(stream).await,
                        Err(error) => tracing::warn!(%error, "cannot serve a connection"),
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "cannot serve a connection"),
        }
    }
}
