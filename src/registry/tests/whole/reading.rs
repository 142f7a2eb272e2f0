//! Many clients that read large blobs at once, each at its own pace.

use crate::support::{Registry, body};
use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};
use tempfile::tempdir;
use testkit::noise;

/// More than a connection's buffers hold, so that the registry must wait for its reader.
const LARGE: usize = 16 << 20;

fn ask(port: u16, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// What comes after the head, to the end of the connection.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let head = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    all.split_off(head)
}

#[test]
fn readers_of_large_blobs_do_not_wait_for_each_other() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let contents = [noise(41, LARGE), noise(42, LARGE)];
    let paths = contents.each_ref().map(|content| format!("/v2/a/blobs/{}", registry.push("a", content)));
    // These have their answer's beginning, and read no further for now.
    let idle: Vec<(usize, TcpStream)> = (0..6)
        .map(|number| {
            let stream = ask(registry.port, &paths[number % 2]);
            stream.peek(&mut [0]).unwrap();
            (number % 2, stream)
        })
        .collect();
    thread::scope(|scope| {
        for number in 0..4 {
            let (path, content, port) = (&paths[number % 2], &contents[number % 2], registry.port);
            scope.spawn(move || {
                assert!(rest(ask(port, path)) == content[..], "reader {number} got something else");
            });
        }
    });
    let (gone, late) = idle.split_at(3);
    gone.iter().for_each(|(_, stream)| stream.shutdown(std::net::Shutdown::Both).unwrap());
    assert_eq!(body(&mut registry.get("/v2/a/tags/list")), br#"{"name":"a","tags":[]}"#);
    for (which, stream) in late {
        let got = rest(stream.try_clone().unwrap());
        assert!(got == contents[*which][..], "a reader that came back got something else");
    }
}
