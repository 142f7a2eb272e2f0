//! The demo app: a small HTTP service that names the module it runs on.
//!
//! `GET /healthz` answers `ok`, `GET /` names app, instance and module, `GET /count` what it has in memory and in a
//! file: how many ticks it has lived, and when it was born. Every 200 ms (or TICK_MS) it prints
//! `<epoch ms> <instance> <module>`, so that a reader of all outputs can prove that no instance ever ran twice
//! at the same time. With IO_URING set it holds a ring of the kernel's, which no checkpoint can take along. On a module
//! that MUTE names it accepts connections and never says a word. It is the first process of its container, so it must
//! see to SIGTERM itself.
//!
//! With STATE=FILE it counts on in that file: each tick appends `<count> <epoch ms> <instance> <module>`, where the count
//! goes on from the last line that is there. With FILL_KIB it also makes FILE.fill larger by so much each tick.
//!
//! `demo-app call ADDRESS:PORT [SECONDS]` is its client: it calls `GET /` without pause, each time on a new connection
//! that may take so long, and prints ten times a second `<calls> <failed> <longest gap between two successes, ms>`,
//! counted from the first success. `demo-app stay ADDRESS:PORT` does the same on one connection (`GET /echo`): each call
//! is a line that has to come back as it was sent, and a failure is a connection that broke.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::FromRawFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SIGTERM: i32 = 15;

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
    fn pipe(ends: *mut i32) -> i32;
    fn syscall(number: i64, ...) -> i64;
    fn write(fd: i32, bytes: *const u8, length: usize) -> isize;
}

/// The writing end of the pipe that carries SIGTERM out of its handler; -1 before there is one.
static STOP: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(-1);

/// Ticks since it was born; in memory alone.
static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
/// The file with the moment of its birth.
const BORN: &str = "/born";

extern "C" fn on_terminate(_number: i32) {
    // SAFETY: write(2) may be called in a signal handler; the byte lives through the call.
    unsafe { write(STOP.load(std::sync::atomic::Ordering::Relaxed), b"x".as_ptr(), 1) };
}

struct Names {
    app: String,
    instance: String,
    module: String,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("call"), Some(address)) => {
            let seconds = arguments.next().and_then(|text| text.parse().ok());
            let limit = seconds.map_or(CALL_LIMIT, Duration::from_secs);
            count_for_ever(|| call(&address, limit));
        }
        (Some("stay"), Some(address)) => {
            let mut line = None;
            count_for_ever(|| say(&mut line, &address));
        }
        _ => {}
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let name = |key: &str| std::env::var(key).unwrap_or_else(|_| host.clone());
    let names: &'static Names = Box::leak(Box::new(Names {
        app: name("SPACECLOUD_APP"),
        instance: name("SPACECLOUD_INSTANCE"),
        module: name("SPACECLOUD_MODULE"),
    }));
    if std::env::var_os("IO_URING").is_some() {
        hold_a_ring();
    }
    let born = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis());
    // On a read-only root there is none, and `/count` says so.
    let _ = std::fs::write(BORN, born.to_string());
    let mut terminated = watch_sigterm();
    std::thread::spawn(move || {
        let mut byte = [0];
        let _ = terminated.read(&mut byte);
        tell(names, " stop");
        std::process::exit(0);
    });
    tell(names, "");
    let tick = std::env::var("TICK_MS").ok().and_then(|tick| tick.parse().ok()).unwrap_or(200);
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(tick));
            COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tell(names, "");
        }
    });
    if let Ok(state) = std::env::var("STATE") {
        std::thread::spawn(move || count_in(&state, tick, names));
    }
    if std::env::var("PORT").is_ok_and(|port| port == "none") {
        loop {
            std::thread::park();
        }
    }
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080_u16);
    match TcpListener::bind(("0.0.0.0", port)) {
        Ok(listener) => {
            if std::env::var("MUTE").is_ok_and(|modules| modules.split(' ').any(|module| module == names.module)) {
                let _kept: Vec<TcpStream> = listener.incoming().flatten().collect();
            }
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream, names));
            }
        }
        Err(error) => {
            eprintln!("port {port} on 0.0.0.0: {error}");
            std::process::exit(1);
        }
    }
}

/// Whoever writes beside it is seen: their lines, and counts that appear twice.
fn count_in(state: &str, tick: u64, names: &Names) {
    let fill: usize = std::env::var("FILL_KIB").ok().and_then(|kib| kib.parse().ok()).unwrap_or(0);
    let append = |path: &str, bytes: &[u8]| {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(bytes)) {
            eprintln!("{path}: {error}");
        }
    };
    let known = std::fs::read_to_string(state).unwrap_or_default();
    let mut count: u64 =
        known.lines().last().and_then(|line| line.split(' ').next()?.parse().ok()).unwrap_or(0);
    loop {
        count += 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis());
        append(state, format!("{count} {now} {} {}\n", names.instance, names.module).as_bytes());
        if fill > 0 {
            append(&format!("{state}.fill"), &vec![b'x'; fill << 10]);
        }
        std::thread::sleep(Duration::from_millis(tick));
    }
}

const TELL_EVERY: Duration = Duration::from_millis(100);
const CALL_LIMIT: Duration = Duration::from_secs(5);

fn count_for_ever(mut call: impl FnMut() -> std::io::Result<()>) -> ! {
    let mut terminated = watch_sigterm();
    std::thread::spawn(move || {
        let mut byte = [0];
        let _ = terminated.read(&mut byte);
        std::process::exit(0);
    });
    let (mut calls, mut failed, mut longest) = (0_u64, 0_u64, Duration::ZERO);
    let (mut last, mut told) = (None, Instant::now());
    loop {
        let outcome = call();
        let now = Instant::now();
        let Some(before) = last else {
            match outcome {
                Ok(()) => last = Some(now),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
            continue;
        };
        calls += 1;
        match outcome {
            Ok(()) => {
                longest = longest.max(now - before);
                last = Some(now);
            }
            Err(error) => {
                failed += 1;
                eprintln!("failed: {error}");
                // A refusal comes at once: without a pause one moment would count as thousands.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if now - told >= TELL_EVERY {
            told = now;
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "{calls} {failed} {}", longest.as_millis()).and_then(|()| out.flush());
        }
    }
}

fn call(address: &str, limit: Duration) -> std::io::Result<()> {
    let wrong = |what: &str| std::io::Error::other(what.to_owned());
    let address = address.parse().map_err(|_| wrong("no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200 ") && answer.ends_with('\n') { Ok(()) } else { Err(wrong("no whole answer")) }
}

/// For a line to come back; less than an emulated module needs to move would be a failure of this program's.
const STAY_LIMIT: Duration = Duration::from_secs(300);
/// Between two lines: some hundred a second are enough.
const BREATH: Duration = Duration::from_millis(5);

/// One connection, and how many lines have come back on it.
struct Line {
    stream: TcpStream,
    said: u64,
}

/// Says the next line on the connection that there is, or opens one.
fn say(line: &mut Option<Line>, address: &str) -> std::io::Result<()> {
    let outcome = match line {
        Some(open) => next_line(open),
        None => open_line(address).map(|open| *line = Some(open)),
    };
    if outcome.is_err() {
        *line = None;
    }
    std::thread::sleep(BREATH);
    outcome
}

fn open_line(address: &str) -> std::io::Result<Line> {
    let address = address.parse().map_err(|_| std::io::Error::other("no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, STAY_LIMIT)?;
    stream.set_read_timeout(Some(STAY_LIMIT))?;
    stream.set_nodelay(true)?;
    stream.write_all(b"GET /echo HTTP/1.1\r\nHost: service\r\n\r\n")?;
    let mut answer = vec![0; ECHO.len()];
    stream.read_exact(&mut answer)?;
    if answer == ECHO { Ok(Line { stream, said: 0 }) } else { Err(std::io::Error::other("no echo there")) }
}

fn next_line(line: &mut Line) -> std::io::Result<()> {
    line.said += 1;
    let words = format!("{:>63}\n", line.said);
    line.stream.write_all(words.as_bytes())?;
    let mut heard = vec![0; words.len()];
    line.stream.read_exact(&mut heard)?;
    if heard == words.as_bytes() { return Ok(()) }
    Err(std::io::Error::other(format!("said {words:?}, heard {:?}", String::from_utf8_lossy(&heard))))
}

const ECHO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n";

/// Sends back what comes, until the client goes.
fn echo(mut stream: TcpStream) {
    let _ = stream.set_read_timeout(None);
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 1024];
    if stream.write_all(ECHO).is_err() {
        return;
    }
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn watch_sigterm() -> std::fs::File {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors that pipe(2) stores.
    if unsafe { pipe(ends.as_mut_ptr()) } != 0 {
        eprintln!("pipe: {}", std::io::Error::last_os_error());
        std::process::exit(1);
    }
    STOP.store(ends[1], std::sync::atomic::Ordering::Relaxed);
    // SAFETY: the handler has the C signature of a signal handler and only calls write(2).
    unsafe { signal(SIGTERM, on_terminate as extern "C" fn(i32) as usize) };
    // SAFETY: pipe(2) has just made this descriptor and nobody else owns it.
    unsafe { std::fs::File::from_raw_fd(ends[0]) }
}

fn hold_a_ring() {
    const IO_URING_SETUP: i64 = 425;
    let mut parameters = [0_u64; 15];
    // SAFETY: the kernel reads and writes the 120 bytes of struct io_uring_params; the descriptor is never closed.
    let ring = unsafe { syscall(IO_URING_SETUP, 8_u32, parameters.as_mut_ptr()) };
    if ring < 0 {
        eprintln!("io_uring: {}", std::io::Error::last_os_error());
        std::process::exit(1);
    }
}

fn tell(names: &Names, what: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis());
    let count = COUNT.load(std::sync::atomic::Ordering::Relaxed);
    let what = if std::env::var_os("TELL_COUNT").is_some() { format!(" {count}{what}") } else { what.to_owned() };
    let line = format!("{now} {} {}{what}\n", names.instance, names.module);
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

fn serve(mut stream: TcpStream, names: &Names) {
    // A process that is moved while a request is on its way gets it when the client's kernel sends it again, which after a
    // freeze of twelve seconds may be as many later.
    let _ = stream.set_read_timeout(Some(STAY_LIMIT));
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(length @ 1..) if request.len() < 16 * 1024 => request.extend_from_slice(&buffer[..length]),
            _ => return,
        }
    }
    let request = String::from_utf8_lossy(&request);
    let mut words = request.split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/echo")) => return echo(stream),
        (Some("GET"), Some("/healthz")) => ("200 OK", "ok\n".to_owned()),
        (Some("GET"), Some("/")) => {
            ("200 OK", format!("app={} instance={} module={}\n", names.app, names.instance, names.module))
        }
        (Some("GET"), Some("/count")) => {
            let count = COUNT.load(std::sync::atomic::Ordering::Relaxed);
            let born = std::fs::read_to_string(BORN).unwrap_or_else(|error| error.to_string());
            ("200 OK", format!("count={count} born={born}\n"))
        }
        (Some("GET"), _) => ("404 Not Found", "not found\n".to_owned()),
        _ => ("405 Method Not Allowed", "GET only\n".to_owned()),
    };
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}
