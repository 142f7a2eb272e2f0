//! A client that does as little as possible, so that the server is what is measured.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

pub struct Connection {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    pub length: u64,
}

impl Connection {
    pub fn open(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, host: format!("127.0.0.1:{port}"), buffer: vec![0; 1 << 20] })
    }

    pub fn request(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> std::io::Result<Answer> {
        // Some answer with a whole URL.
        let path = path.find("://").map_or(path, |at| {
            let rest = &path[at + 3..];
            &rest[rest.find('/').unwrap_or(0)..]
        });
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nAccept: application/vnd.oci.image.manifest.v1+json\r\n\r\n",
            self.host,
            body.len()
        );
        self.stream.write_all(head.as_bytes())?;
        self.stream.write_all(body)?;
        self.answer(method == "HEAD")
    }

    fn answer(&mut self, only_head: bool) -> std::io::Result<Answer> {
        let mut have = 0;
        let end = loop {
            let count = self.stream.read(&mut self.buffer[have..])?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            have += count;
            if let Some(end) = self.buffer[..have].windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length: u64 = header("content-length").map_or(0, |text| text.parse().unwrap());
        let mut left = if only_head { 0 } else { length - (have - end) as u64 };
        while left > 0 {
            let count = self.stream.read(&mut self.buffer)?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            left -= count as u64;
        }
        Ok(Answer { status, location: header("location"), length })
    }

    pub fn get(&mut self, path: &str) -> u64 {
        let answer = self.request("GET", path, "text/plain", b"").unwrap();
        assert_eq!(answer.status, 200, "{path}");
        answer.length
    }

    /// As Docker does: is it there, begin, send, finish.
    pub fn push_blob(&mut self, repository: &str, digest: &str, content: &[u8]) {
        if self
            .request("HEAD", &format!("/v2/{repository}/blobs/{digest}"), "text/plain", b"")
            .unwrap()
            .status
            == 200
        {
            return;
        }
        let begun =
            self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "text/plain", b"").unwrap();
        assert_eq!(begun.status, 202);
        let kind = "application/octet-stream";
        let sent = self.request("PATCH", &begun.location.unwrap(), kind, content).unwrap();
        assert_eq!(sent.status, 202);
        let location = sent.location.unwrap();
        let mark = if location.contains('?') { '&' } else { '?' };
        let done = self.request("PUT", &format!("{location}{mark}digest={digest}"), kind, b"").unwrap();
        assert_eq!(done.status, 201);
    }
}
