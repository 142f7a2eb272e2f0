//! Health probes: one question, one answer, within a time.

use model::Health;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Failures in a row after which an instance is unhealthy.
pub(super) const THRESHOLD: u32 = 3;
const LIMIT: Duration = Duration::from_secs(3);

/// Asks once.
pub(super) async fn ask(health: &Health, address: &str, first_port: u16) -> Result<(), String> {
    let port = health.tcp.unwrap_or(first_port);
    match timeout(LIMIT, exchange(health.http.as_deref(), address, port)).await {
        Ok(answer) => answer,
        Err(_) => Err("no answer in 3s".to_owned()),
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
