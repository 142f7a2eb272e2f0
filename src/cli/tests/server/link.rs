use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// A link to a server that can be cut: connections stay open, and nothing comes through any more.
pub(crate) struct Link {
    address: String,
    cut: Arc<AtomicBool>,
}

impl Link {
    /// One connection to `server` will go through it.
    pub(crate) fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Self { address: listener.local_addr().unwrap().to_string(), cut: Arc::default() };
        let (server, cut) = (server.to_owned(), link.cut.clone());
        thread::spawn(move || {
            let near = listener.accept().unwrap().0;
            let far = TcpStream::connect(server).unwrap();
            let ways = [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)];
            for (from, to) in ways {
                let cut = cut.clone();
                thread::spawn(move || carry(from, to, &cut));
            }
        });
        link
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let mut part = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut part) {
        if !cut.load(Ordering::SeqCst) && to.write_all(&part[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
