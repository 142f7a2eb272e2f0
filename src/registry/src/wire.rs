//! Connections without TLS, on which files need not pass through this process: the kernel copies them from its
//! cache to the socket (sendfile).
//!
//! The HTTP library writes a body's bytes and nothing else. So a body that is a file hands out slices of an area
//! that holds only zeros, and queues the piece of the file that each stands for. Where the library comes to write
//! such a slice, the next piece of the file is sent in its place. Bytes are written in the order in which bodies
//! give them, so slices and pieces stay in step.

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Frame, SizeHint};
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    task::{JoinHandle, yield_now},
};

/// How much of a file one slice stands for. Much at a time: a reader that has caught up goes to sleep, and to
/// wake it costs more than to send it a page.
const PIECE: usize = 2 << 20;
/// Fresh from the system and never touched: it takes addresses, not memory.
static STAND_IN: LazyLock<&'static [u8]> = LazyLock::new(|| vec![0; PIECE].leak());

fn is_stand_in(slice: &[u8]) -> bool {
    STAND_IN.as_ptr_range().contains(&slice.as_ptr())
}

#[derive(Debug)]
struct Piece {
    file: Arc<File>,
    start: u64,
    end: u64,
}

/// What bodies have given to a connection and it has not yet written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Direct(Arc<Mutex<VecDeque<Piece>>>);

impl Direct {
    /// The bytes of a file from `start` up to `end` as a body for this connection.
    pub(crate) fn body(&self, file: File, start: u64, end: u64) -> Body {
        Body::new(FileBody {
            direct: self.clone(),
            file: Arc::new(file),
            at: start,
            end,
            warming: None,
            turn: None,
        })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Piece>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct FileBody {
    direct: Direct,
    file: Arc<File>,
    at: u64,
    end: u64,
    warming: Option<JoinHandle<io::Result<()>>>,
    /// Between two pieces the other connections have their turn.
    turn: Option<BoxFuture<'static, ()>>,
}

/// Whether the last page of a piece is in the kernel's cache, as far as that can be told.
fn is_warm(file: &File, end: u64) -> bool {
    let mut byte = [0];
    let buffer = &mut [io::IoSliceMut::new(&mut byte)];
    let last = end.saturating_sub(1);
    rustix::io::preadv2(file, buffer, last, rustix::io::ReadWriteFlags::NOWAIT)
        != Err(rustix::io::Errno::AGAIN)
}

/// Waits for the disk on a thread that may, so that the connections of others go on.
fn warm(file: &File, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    let mut at = start;
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let Some(part) = buffer.get_mut(..most) else { break };
        match file.read_at(part, at)? {
            0 => break,
            count => at += u64::try_from(count).unwrap_or(u64::MAX),
        }
    }
    Ok(())
}

impl hyper::body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.at >= self.end {
            return Poll::Ready(None);
        }
        if let Some(turn) = &mut self.turn {
            ready!(turn.as_mut().poll(cx));
            self.turn = None;
        }
        let length = usize::try_from(self.end - self.at).unwrap_or(PIECE).min(PIECE);
        let end = self.at + u64::try_from(length).unwrap_or_default();
        if let Some(warming) = &mut self.warming {
            let done = ready!(Pin::new(warming).poll(cx));
            self.warming = None;
            done.map_err(io::Error::other)??;
        } else if !is_warm(&self.file, end) {
            let (file, start) = (self.file.clone(), self.at);
            self.warming = Some(tokio::task::spawn_blocking(move || warm(&file, start, end)));
            return self.poll_frame(cx);
        }
        let piece = Piece { file: self.file.clone(), start: self.at, end };
        self.direct.lock().push_back(piece);
        self.at = end;
        // A reader that is quick enough would keep this thread until its file's end, and all the others asleep.
        self.turn = Some(Box::pin(yield_now()));
        let zeros: &'static [u8] = *STAND_IN;
        let stand_in = Bytes::from_static(zeros.get(..length).unwrap_or_default());
        Poll::Ready(Some(Ok(Frame::data(stand_in))))
    }

    fn is_end_stream(&self) -> bool {
        self.at >= self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

/// A connection that sends files as such.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    direct: Direct,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, direct: Direct::default() }
    }

    /// What bodies for this connection are made of.
    pub(crate) fn direct(&self) -> Direct {
        self.direct.clone()
    }

    /// Sends of the next piece as much as the socket takes, at most `most` bytes.
    fn poll_send(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            let mut pieces = self.direct.lock();
            let Some(piece) = pieces.front_mut() else {
                return Poll::Ready(Err(io::Error::other("a slice stands for no piece of a file")));
            };
            let left = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX);
            let mut partly = None;
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                let (most, mut at) = (most.min(left), piece.start);
                let count = rustix::fs::sendfile(&self.stream, &piece.file, Some(&mut at), most)?;
                if count == 0 || count == most || piece.file.metadata()?.len() <= at {
                    return Ok(count);
                }
                // The socket is full. To ask again at once would send a page at a time, as the reader frees them.
                partly = Some(count);
                Err(io::ErrorKind::WouldBlock.into())
            });
            let sent = partly.map_or(sent, Ok);
            match sent {
                // The file ends before its length: better no answer than half a blob as a whole one.
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    piece.start += u64::try_from(count).unwrap_or_default();
                    if piece.start >= piece.end {
                        pieces.pop_front();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        if is_stand_in(buffer) {
            return self.poll_send(cx, buffer.len());
        }
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let full = buffers.iter().position(|buffer| !buffer.is_empty()).unwrap_or_default();
        let buffers = buffers.get(full..).unwrap_or_default();
        let plain = buffers.iter().position(|buffer| is_stand_in(buffer)).unwrap_or(buffers.len());
        match (plain, buffers.first()) {
            (0, Some(first)) => self.poll_send(cx, first.len()),
            _ => Pin::new(&mut self.stream).poll_write_vectored(cx, buffers.get(..plain).unwrap_or_default()),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
