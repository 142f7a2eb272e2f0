//! Parts of an instance's output for whoever asks.

use api::v1::{FromAgent, LogPart, LogWanted, from_agent::Message};
use std::{io::SeekFrom, path::PathBuf, time::Duration};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    sync::mpsc::Sender,
};

const PERIOD: Duration = Duration::from_millis(250);
/// At most this much of the past is sent.
const PAST: u64 = 1 << 20;

/// Sends the log's last lines, and what follows if that is wanted, until nobody listens.
pub(super) async fn send(path: PathBuf, wanted: LogWanted, out: Sender<FromAgent>) {
    let part = |text: Vec<u8>, end: bool, error: String| FromAgent {
        message: Some(Message::Log(LogPart { request: wanted.request, text, end, error })),
    };
    let result = async {
        let mut file = File::open(&path).await?;
        let length = file.metadata().await?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(PAST))).await?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).await?;
        Ok::<_, std::io::Error>((file, last_lines(text, wanted.tail)))
    };
    let (mut file, text) = match result.await {
        Ok(read) => read,
        Err(error) => {
            let _ = out.send(part(vec![], true, format!("no log of {}: {error}", wanted.instance))).await;
            return;
        }
    };
    let mut open = out.send(part(text, !wanted.follow, String::new())).await.is_ok();
    while wanted.follow && open {
        tokio::time::sleep(PERIOD).await;
        let Ok(text) = more(&mut file).await else { return };
        if !text.is_empty() {
            open = out.send(part(text, false, String::new())).await.is_ok();
        }
    }
}

/// What was added. A log that is shorter than what was read of it has been turned: it is read from its beginning.
async fn more(file: &mut File) -> std::io::Result<Vec<u8>> {
    if file.metadata().await?.len() < file.stream_position().await? {
        file.rewind().await?;
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).await?;
    Ok(text)
}

/// All of it for 0.
fn last_lines(text: Vec<u8>, count: u32) -> Vec<u8> {
    if count == 0 {
        return text;
    }
    let body = text.strip_suffix(b"\n").unwrap_or(&text);
    let breaks = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let start = breaks
        .take(usize::try_from(count).unwrap_or(usize::MAX))
        .nth(usize::try_from(count - 1).unwrap_or(0));
    text.get(start.unwrap_or(0)..).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_log_that_was_turned_is_followed_from_its_new_beginning() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), "before\n").unwrap();
        let mut file = File::open(path.path()).await.unwrap();
        assert_eq!(more(&mut file).await.unwrap(), b"before\n");
        assert_eq!(more(&mut file).await.unwrap(), b"");
        std::fs::write(path.path(), "new\n").unwrap();
        assert_eq!(more(&mut file).await.unwrap(), b"new\n");
    }

    #[test]
    fn the_last_lines() {
        let text = b"a\nb\nc\n".to_vec();
        assert_eq!(last_lines(text.clone(), 0), text);
        assert_eq!(last_lines(text.clone(), 1), b"c\n");
        assert_eq!(last_lines(text.clone(), 2), b"b\nc\n");
        assert_eq!(last_lines(text.clone(), 9), text);
    }
}
