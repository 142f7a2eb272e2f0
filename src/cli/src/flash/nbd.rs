//! A disk at the other end of a socket: the client's side of the NBD protocol (fixed newstyle handshake, simple
//! replies), as far as writing an image needs it. `NbdProject doc/proto.md` names the fields.
use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    time::Duration,
};

pub(super) const PORT: u16 = 10809;
/// A server that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);
/// What one request may hold if the server names no limit of its own.
const USUAL_LIMIT: u32 = 32 << 20;
const LARGEST_TEXT: u32 = 64 << 10;

const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;

const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

const READ_ONLY: u16 = 1 << 1;
const SEND_FLUSH: u16 = 1 << 2;
const SEND_WRITE_ZEROES: u16 = 1 << 6;

const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_DISCONNECT: u16 = 2;
const CMD_FLUSH: u16 = 3;
const CMD_WRITE_ZEROES: u16 = 6;

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// An export that is open.
pub(super) struct Export {
    stream: Box<dyn Stream>,
    size: u64,
    flags: u16,
    limit: u32,
    cookie: u64,
}

impl Export {
    /// Connects to `HOST:PORT` and opens the export of this name.
    pub(super) fn connect(address: &str, name: &str) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, SILENCE) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(SILENCE))?;
                    stream.set_write_timeout(Some(SILENCE))?;
                    return Self::open(Box::new(stream), name);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The same over a socket in the file system.
    pub(super) fn connect_unix(path: &str, name: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Self::open(Box::new(stream), name)
    }

    fn open(mut stream: Box<dyn Stream>, name: &str) -> io::Result<Self> {
        if read_u64(&mut stream)? != MAGIC || read_u64(&mut stream)? != OPTION_MAGIC {
            return Err(odd("it does not speak NBD"));
        }
        let offered = read_u16(&mut stream)?;
        if offered & FIXED_NEWSTYLE == 0 {
            return Err(odd("it speaks only an NBD of long ago"));
        }
        stream.write_all(&u32::from(FIXED_NEWSTYLE | (offered & NO_ZEROES)).to_be_bytes())?;
        let length = u32::try_from(name.len()).map_err(|_| odd("the export's name is too long"))?;
        let mut go = Vec::new();
        go.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        go.extend_from_slice(&OPT_GO.to_be_bytes());
        go.extend_from_slice(&length.saturating_add(8).to_be_bytes());
        go.extend_from_slice(&length.to_be_bytes());
        go.extend_from_slice(name.as_bytes());
        go.extend_from_slice(&1u16.to_be_bytes());
        go.extend_from_slice(&INFO_BLOCK_SIZE.to_be_bytes());
        stream.write_all(&go)?;
        let mut export = Self { stream, size: 0, flags: 0, limit: USUAL_LIMIT, cookie: 0 };
        while export.answer(name)? {}
        if export.size == 0 {
            return Err(odd("the export is empty"));
        }
        Ok(export)
    }

    /// One answer to `GO`; false after the last one.
    fn answer(&mut self, name: &str) -> io::Result<bool> {
        let stream = &mut self.stream;
        if read_u64(stream)? != OPTION_REPLY || read_u32(stream)? != OPT_GO {
            return Err(odd("its answer is none of NBD"));
        }
        let (kind, length) = (read_u32(stream)?, read_u32(stream)?);
        if length > LARGEST_TEXT {
            return Err(odd("its answer is too long"));
        }
        let mut content = vec![0; usize::try_from(length).unwrap_or_default()];
        stream.read_exact(&mut content)?;
        if kind & REP_ERROR != 0 {
            let said = String::from_utf8_lossy(&content).split_whitespace().collect::<Vec<_>>().join(" ");
            let said = if said.is_empty() { format!("error {}", kind & !REP_ERROR) } else { said };
            return Err(io::Error::other(format!("it refuses the export {name:?}: {said}")));
        }
        if kind == REP_INFO {
            let mut content = content.as_slice();
            match read_u16(&mut content)? {
                INFO_EXPORT => (self.size, self.flags) = (read_u64(&mut content)?, read_u16(&mut content)?),
                INFO_BLOCK_SIZE => {
                    let (_least, _best) = (read_u32(&mut content)?, read_u32(&mut content)?);
                    self.limit = read_u32(&mut content)?.clamp(4096, USUAL_LIMIT);
                }
                _ => {}
            }
        }
        Ok(kind != REP_ACK)
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.flags & READ_ONLY != 0
    }

    pub(super) fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for part in bytes.chunks(usize::try_from(self.limit).unwrap_or(4096)) {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            self.request(CMD_WRITE, at, length, part)?;
            self.reply()?;
            at = at.saturating_add(u64::from(length));
        }
        Ok(())
    }

    pub(super) fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for part in bytes.chunks_mut(usize::try_from(self.limit).unwrap_or(4096)) {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            self.request(CMD_READ, at, length, &[])?;
            self.reply()?;
            self.stream.read_exact(part)?;
            at = at.saturating_add(u64::from(length));
        }
        Ok(())
    }

    /// Makes bytes zero without sending them; false if the server cannot.
    pub(super) fn zero_at(&mut self, length: u64, offset: u64) -> io::Result<bool> {
        if self.flags & SEND_WRITE_ZEROES == 0 {
            return Ok(false);
        }
        let (mut at, end) = (offset, offset.saturating_add(length));
        while at < end {
            let part = u32::try_from(end - at).unwrap_or(u32::MAX).min(self.limit);
            self.request(CMD_WRITE_ZEROES, at, part, &[])?;
            self.reply()?;
            at = at.saturating_add(u64::from(part));
        }
        Ok(true)
    }

    /// When this returns, what was written is on the server's disk.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.flags & SEND_FLUSH == 0 {
            return Ok(());
        }
        self.request(CMD_FLUSH, 0, 0, &[])?;
        self.reply()
    }

    fn request(&mut self, command: u16, offset: u64, length: u32, content: &[u8]) -> io::Result<()> {
        self.cookie = self.cookie.wrapping_add(1);
        let mut head = Vec::with_capacity(28);
        head.extend_from_slice(&REQUEST.to_be_bytes());
        head.extend_from_slice(&0u16.to_be_bytes());
        head.extend_from_slice(&command.to_be_bytes());
        head.extend_from_slice(&self.cookie.to_be_bytes());
        head.extend_from_slice(&offset.to_be_bytes());
        head.extend_from_slice(&length.to_be_bytes());
        self.stream.write_all(&head)?;
        self.stream.write_all(content)
    }

    fn reply(&mut self) -> io::Result<()> {
        let (magic, error, cookie) =
            (read_u32(&mut self.stream)?, read_u32(&mut self.stream)?, read_u64(&mut self.stream)?);
        if magic != REPLY || cookie != self.cookie {
            return Err(odd("its reply is none of NBD"));
        }
        // NBD's error numbers are Linux's.
        if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error.cast_signed())) }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        let _ = self.request(CMD_DISCONNECT, 0, 0, &[]);
    }
}

fn odd(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

fn read_u16(stream: &mut impl Read) -> io::Result<u16> {
    let mut bytes = [0; 2];
    stream.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn read_u32(stream: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_u64(stream: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}
