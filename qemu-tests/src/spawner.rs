//! Starts processes that cannot outlive us.
//!
//! The kernel's parent-death signal is tied to the *thread* that spawned, so one thread spawns all and
//! lives as long as the chassis. However this process ends, kill -9 included, that thread ends, and
//! the kernel kills each child.

use nix::sys::{prctl, signal};
use nix::unistd::getppid;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// The thread that spawns.
#[derive(Debug)]
pub struct Spawner {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

type Order = (Command, Sender<io::Result<Child>>);

impl Spawner {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (orders, inbox) = channel::<Order>();
        let thread = std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            for (mut command, reply) in inbox {
                // Nobody waits for the reply only if the caller's thread is gone.
                let _ = reply.send(command.spawn());
            }
        })?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Spawns `command` bound to this spawner's life.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        bind_to_parent(&mut command);
        let gone = || io::Error::other("the spawning thread is gone");
        let (reply, answer) = channel();
        self.orders.as_ref().ok_or_else(gone)?.send((command, reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn bind_to_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let bind = move || {
        signal::SigSet::empty().thread_set_mask()?;
        prctl::set_pdeathsig(signal::Signal::SIGKILL)?;
        // The parent may have died before the line above.
        if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec this only makes three system calls (sigprocmask, prctl, getppid),
    // which are async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(bind) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Times, wait_until, within};
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_child_dies_with_the_spawner_although_the_process_lives_on() {
        let spawner = Spawner::start().unwrap();
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        let mut child = spawner.spawn(sleep).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        drop(spawner);
        let mut status = None;
        wait_until("the child is killed", within(20.s()), || {
            status = child.try_wait().unwrap();
            status.is_some()
        })
        .unwrap();
        assert_eq!(status.unwrap().signal(), Some(9));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_of_the_caller() {
        let spawner = Spawner::start().unwrap();
        let error = spawner.spawn(Command::new("/nowhere/qemu")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
