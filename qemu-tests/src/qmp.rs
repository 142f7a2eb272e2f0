//! A QMP client: QEMU's control protocol, JSON lines over a unix socket.

use crate::SimError;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// QEMU answers at once unless the host is very busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection to one QEMU, past its handshake.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Connects and negotiates. Fails if nobody listens at `socket` yet.
    pub fn connect(socket: &Path) -> Result<Self, SimError> {
        let stream = UnixStream::connect(socket).map_err(SimError::io("connect to", socket))?;
        Self::over(stream).map_err(|error| match error {
            SimError::Io { source, .. } => SimError::io("speak QMP on", socket)(source),
            other => other,
        })
    }

    /// Negotiates over a stream that is connected.
    pub fn over(stream: UnixStream) -> Result<Self, SimError> {
        stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
        let reader = BufReader::new(stream.try_clone().map_err(broken)?);
        let mut client = Self { reader, writer: stream };
        let greeting = client.receive()?;
        if greeting.get("QMP").is_none() {
            return Err(refused("handshake", &format!("this is no QMP greeting: {greeting}")));
        }
        client.execute("qmp_capabilities", json!({}))?;
        Ok(client)
    }

    /// Runs a command and returns what it returns. Events that arrive meanwhile are passed over.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, SimError> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.writer.write_all(line.as_bytes()).map_err(broken)?;
        loop {
            let mut reply = self.receive()?;
            if let Some(value) = reply.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = reply.get("error") {
                let reason = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
                return Err(refused(command, reason));
            }
        }
    }

    /// Halts the virtual CPUs.
    pub fn stop(&mut self) -> Result<(), SimError> {
        self.execute("stop", json!({})).map(drop)
    }

    /// Lets the virtual CPUs go on.
    pub fn cont(&mut self) -> Result<(), SimError> {
        self.execute("cont", json!({})).map(drop)
    }

    /// Plugs (`up`) or pulls a NIC's cable; the guest sees its carrier.
    pub fn set_link(&mut self, nic: &str, up: bool) -> Result<(), SimError> {
        self.execute("set_link", json!({ "name": nic, "up": up })).map(drop)
    }

    /// The run state's name: `running`, `paused`, `prelaunch`, …
    pub fn status(&mut self) -> Result<String, SimError> {
        let reply = self.execute("query-status", json!({}))?;
        let status = reply.get("status").and_then(Value::as_str);
        status.map(str::to_owned).ok_or_else(|| refused("query-status", "the reply has no status"))
    }

    /// Ends QEMU at once, as a power cut does.
    pub fn quit(&mut self) -> Result<(), SimError> {
        self.execute("quit", json!({})).map(drop)
    }

    fn receive(&mut self) -> Result<Value, SimError> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => Err(broken(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => serde_json::from_str(&line).map_err(|error| broken(error.into())),
            Err(error) => Err(broken(error)),
        }
    }
}

fn broken(source: std::io::Error) -> SimError {
    SimError::Io { doing: "the QMP connection broke".to_owned(), source }
}

fn refused(command: &str, reason: &str) -> SimError {
    SimError::Qmp { command: command.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::JoinHandle;

    /// Plays QEMU: sends the greeting, then for each line it reads the next of `replies`. Returns what it read.
    fn fake(greeting: &str, replies: &[&str]) -> (UnixStream, JoinHandle<Vec<Value>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (greeting, replies) =
            (greeting.to_owned(), replies.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>());
        let thread = std::thread::spawn(move || {
            let mut writer = theirs.try_clone().unwrap();
            writer.write_all(format!("{greeting}\n").as_bytes()).unwrap();
            let lines = BufReader::new(theirs).lines();
            lines
                .zip(replies)
                .map(|(line, reply)| {
                    writer.write_all(format!("{reply}\n").as_bytes()).unwrap();
                    serde_json::from_str(&line.unwrap()).unwrap()
                })
                .collect()
        });
        (ours, thread)
    }

    const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#;

    #[test]
    fn handshake_then_commands_with_events_between() {
        let event = r#"{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}"#;
        let stopped = format!("{event}\n{{\"return\": {{}}}}");
        let status = r#"{"return": {"status": "paused", "running": false}}"#;
        let replies = [r#"{"return": {}}"#, &stopped, status, r#"{"return": {}}"#];
        let (stream, qemu) = fake(GREETING, &replies);
        let mut qmp = Qmp::over(stream).unwrap();
        qmp.stop().unwrap();
        assert_eq!(qmp.status().unwrap(), "paused");
        qmp.set_link("backplane", false).unwrap();
        drop(qmp);
        let asked = qemu.join().unwrap();
        assert_eq!(asked[0]["execute"], "qmp_capabilities");
        assert_eq!(asked[1]["execute"], "stop");
        assert_eq!(asked[3], json!({"execute": "set_link", "arguments": {"name": "backplane", "up": false}}));
    }

    #[test]
    fn a_refusal_carries_command_and_reason() {
        let no = r#"{"error": {"class": "DeviceNotFound", "desc": "Device 'nic9' not found"}}"#;
        let (stream, _qemu) = fake(GREETING, &[r#"{"return": {}}"#, no]);
        let error = Qmp::over(stream).unwrap().set_link("nic9", true).unwrap_err();
        assert_eq!(error.to_string(), "QMP set_link: Device 'nic9' not found");
    }

    #[test]
    fn a_stranger_is_not_taken_for_qemu_and_a_closed_socket_is_an_error() {
        let (stream, _peer) = fake(r#"{"hello": 1}"#, &[]);
        assert!(Qmp::over(stream).unwrap_err().to_string().contains("no QMP greeting"));
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(matches!(Qmp::over(ours), Err(SimError::Io { .. })));
    }
}
