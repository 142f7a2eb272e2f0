//! Health probes: one question, one answer, within a time.

use model::{Health, InstanceId};
use runtime::Runtime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Whom a probe asks.
pub(super) struct Target<'a> {
    pub(super) runtime: &'a dyn Runtime,
    pub(super) id: &'a InstanceId,
    pub(super) address: &'a str,
    pub(super) first_port: u16,
}

impl Target<'_> {
    /// Asks once; whatever hangs is cut at the probe's time-out.
    pub(super) async fn ask(&self, health: &Health) -> Result<(), String> {
        let limit = health.timeout.duration();
        let late = || format!("no answer in {}", health.timeout);
        if let Some(command) = &health.exec {
            // The engine ends the command itself; it gets as long again to do so.
            return match timeout(limit * 2, self.runtime.exec(self.id, command, limit)).await {
                Ok(Ok(Some(0))) => Ok(()),
                Ok(Ok(Some(code))) => Err(format!("{} exited with {code}", command.join(" "))),
                Ok(Ok(None)) | Err(_) => Err(late()),
                Ok(Err(error)) => Err(crate::chain(&error)),
            };
        }
        let port = health.tcp.unwrap_or(self.first_port);
        match timeout(limit, exchange(health.http.as_deref(), self.address, port)).await {
            Ok(answer) => answer,
            Err(_) => Err(late()),
        }
    }
}

async fn exchange(path: Option<&str>, address: &str, port: u16) -> Result<(), String> {
    let mut stream = TcpStream::connect((address, port)).await.map_err(|e| e.to_string())?;
    let Some(path) = path else { return Ok(()) };
    let question = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nUser-Agent: spacecloud\r\n\r\n"
    );
    stream.write_all(question.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.map_err(|e| e.to_string())?;
    let status =
        std::str::from_utf8(&start).ok().and_then(|s| s.get(9..12)).and_then(|s| s.parse::<u16>().ok());
    match status {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("{path} answered {status}")),
        None => Err(format!("{path} did not answer in HTTP")),
    }
}
