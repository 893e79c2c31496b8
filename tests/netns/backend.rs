//! A server behind the mesh that keeps what it was sent: HTTP/1.1 read strictly, answered by the path's first part.
//!
//! What it finds wrong in a request it writes down and hangs up: whatever reaches it was forwarded by an agent, so there
//! must be nothing wrong.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::helper;
use crate::host::Host;
use crate::parts;
use crate::process::Process;

/// More than any agent forwards.
const HEAD_BYTES_MAX: usize = 256 * 1024;
/// What of a body is written down.
const BODY_BYTES_KEPT: usize = 8 * 1024;
/// How long `/hang` says nothing: longer than any test waits.
const HANG: Duration = Duration::from_secs(60);
/// How long `/late` takes to answer.
const LATE: Duration = Duration::from_secs(4);
/// After an early answer the rest of the request is thrown away for so long; a close at once would be a reset, and the
/// answer could be lost with it.
const LINGER: Duration = Duration::from_secs(5);
/// What `/slow` reads in a second.
const SLOW_BYTES_PER_SECOND: usize = 4 << 20;

/// One request, as it arrived.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// From the request line to the empty line, byte for byte where it was text.
    pub(crate) head: String,
    pub(crate) body_bytes: u64,
    /// The beginning of the body.
    pub(crate) body: String,
    pub(crate) trailers: Vec<String>,
    /// What a strict reader objects to.
    pub(crate) faults: Vec<String>,
}

impl Seen {
    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// The values of a header, in order; the name in lower case.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        headers(&self.head).filter(|(found, _)| found == name).map(|(_, value)| value).collect()
    }
}

/// A running backend.
pub(crate) struct Backend {
    folder: PathBuf,
    process: Process,
}

impl Backend {
    /// Listens on 127.0.0.1 of `host`; answers name the host.
    #[track_caller]
    pub(crate) fn start(host: &Host, port: u16) -> Backend {
        let folder = host.folder().join(format!("backend-{port}"));
        fs::create_dir_all(&folder).expect("the backend's folder");
        let mut command =
            helper::command(host, "backend", &json!({ "port": port, "name": host.name, "folder": folder }));
        let process = Process::start("the backend", &mut command, &folder.join("backend.log"));
        parts::listens(host, port);
        Backend { folder, process }
    }

    /// Every request that has been read to its end, or given up.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        let text = fs::read_to_string(self.folder.join("requests.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }
}

/// The job `backend`.
pub(crate) fn server(arguments: &Value) {
    let port = u16::try_from(arguments["port"].as_u64().expect("port")).expect("a port");
    let text = |key: &str| arguments[key].as_str().expect("text").to_owned();
    let (name, folder) = (text("name"), PathBuf::from(text("folder")));
    let notes = Arc::new(Mutex::new(()));
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the backend's port");
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let (name, folder, notes) = (name.clone(), folder.clone(), Arc::clone(&notes));
        std::thread::spawn(move || {
            let mut connection = Connection {
                reader: BufReader::with_capacity(1 << 16, stream.try_clone().expect("a second handle")),
                stream,
                name,
                folder,
                notes,
            };
            while connection.one().unwrap_or(false) {}
        });
    }
}

struct Connection {
    reader: BufReader<TcpStream>,
    stream: TcpStream,
    name: String,
    folder: PathBuf,
    notes: Arc<Mutex<()>>,
}

/// How a body ends.
enum Framing {
    Length(u64),
    Chunked,
}

impl Connection {
    /// One request and its answer; whether another may follow.
    fn one(&mut self) -> io::Result<bool> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let before = head.len();
            let limit = u64::try_from(HEAD_BYTES_MAX - before).unwrap_or(0);
            let read = (&mut self.reader).take(limit).read_until(b'\n', &mut head)?;
            if read == 0 {
                let faults = if head.is_empty() { return Ok(false) } else { vec!["a head cut short".to_owned()] };
                self.note(&Seen { head: lossy(&head), faults, ..Seen::default() });
                return Ok(false);
            }
        }
        let mut seen = Seen { head: lossy(&head), ..Seen::default() };
        let framing = judge(&head, &mut seen.faults);
        let path = seen.path().to_owned();
        let first = path.split(['/', '?']).nth(1).unwrap_or_default().to_owned();
        if !seen.faults.is_empty() {
            self.note(&seen);
            self.stream.shutdown(Shutdown::Both)?;
            return Ok(false);
        }
        match first.as_str() {
            "early" => {
                self.note(&seen);
                self.answer("413 Content Too Large", "Connection: close\r\n", b"too much\n")?;
                self.throw_away_the_rest()?;
                return Ok(false);
            }
            "close" => {
                self.note(&seen);
                self.stream.shutdown(Shutdown::Both)?;
                return Ok(false);
            }
            _ => {}
        }
        if seen.header("expect").iter().any(|value| value.eq_ignore_ascii_case("100-continue")) {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = Body { slow: first == "slow", ..Body::default() };
        let complete = match framing {
            Framing::Length(length) => self.copy(length, &mut body),
            Framing::Chunked => self.chunks(&mut body, &mut seen.trailers),
        };
        if let Err(error) = &complete {
            seen.faults.push(format!("the body: {error}"));
        }
        (seen.body_bytes, seen.body) = (body.bytes, lossy(&body.beginning));
        self.note(&seen);
        complete?;
        self.reply(&first, &seen, body)?;
        Ok(!seen.header("connection").iter().any(|value| value.eq_ignore_ascii_case("close")))
    }

    fn reply(&mut self, first: &str, seen: &Seen, body: Body) -> io::Result<()> {
        let sum = HEXLOWER.encode(body.digest.finish().as_ref());
        match first {
            "head" => self.answer("200 OK", "", seen.head.as_bytes()),
            "trailers" => {
                let told = format!("request trailers: {:?}\n", seen.trailers);
                let head = format!(
                    "HTTP/1.1 200 OK\r\nx-host: {}\r\nTransfer-Encoding: chunked\r\nTrailer: x-checksum\r\n\r\n\
                     {:x}\r\n{told}\r\n0\r\nx-checksum: 5417\r\n\r\n",
                    self.name,
                    told.len()
                );
                self.stream.write_all(head.as_bytes())
            }
            "drip" => {
                let head = format!("HTTP/1.1 200 OK\r\nx-host: {}\r\nTransfer-Encoding: chunked\r\n\r\n", self.name);
                self.stream.write_all(head.as_bytes())?;
                for _ in 0..5 {
                    self.stream.write_all(b"5\r\ndrop\n\r\n")?;
                    std::thread::sleep(Duration::from_millis(200));
                }
                self.stream.write_all(b"0\r\n\r\n")
            }
            "hop" => self.answer(
                "200 OK",
                "Connection: keep-alive, x-gone\r\nX-Gone: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n\
                 Upgrade: h2c\r\nX-Stays: 1\r\n",
                b"hop\n",
            ),
            "hang" => {
                std::thread::sleep(HANG);
                Ok(())
            }
            "late" => {
                std::thread::sleep(LATE);
                self.answer("200 OK", "", b"better late\n")
            }
            "garbage" => {
                self.stream.write_all(b"this is not HTTP\r\n\r\n")?;
                self.stream.shutdown(Shutdown::Both)
            }
            "number" => self.answer("200 OK", "", format!("{}\n", seen.path()).as_bytes()),
            _ => self.answer("200 OK", "", format!("{} {} {sum}\n", self.name, seen.body_bytes).as_bytes()),
        }
    }

    fn answer(&mut self, status: &str, headers: &str, body: &[u8]) -> io::Result<()> {
        let name = &self.name;
        let head = format!("HTTP/1.1 {status}\r\nx-host: {name}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
        self.stream.write_all(&[head.as_bytes(), body].concat())
    }

    fn throw_away_the_rest(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        self.stream.set_read_timeout(Some(LINGER))?;
        let end = Instant::now() + LINGER;
        let mut buffer = [0; 1 << 16];
        while Instant::now() < end && matches!(self.reader.read(&mut buffer), Ok(1..)) {}
        Ok(())
    }

    fn copy(&mut self, mut left: u64, body: &mut Body) -> io::Result<()> {
        while left > 0 {
            let available = self.reader.fill_buf()?;
            if available.is_empty() {
                return Err(io::Error::other(format!("{left} bytes missing")));
            }
            let taken = available.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            body.take(&available[..taken]);
            self.reader.consume(taken);
            left -= taken as u64;
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut self.reader).take(8192).read_until(b'\n', &mut line)?;
        let line =
            line.strip_suffix(b"\r\n").ok_or_else(|| io::Error::other(format!("a line without CRLF: {line:?}")))?;
        Ok(lossy(line))
    }

    fn chunks(&mut self, body: &mut Body, trailers: &mut Vec<String>) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let plain = !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit());
            let size = u64::from_str_radix(&line, 16).ok().filter(|_| plain);
            let size = size.ok_or_else(|| io::Error::other(format!("a chunk size of {line:?}")))?;
            if size == 0 {
                break;
            }
            self.copy(size, body)?;
            if !self.line()?.is_empty() {
                return Err(io::Error::other("a chunk longer than its size"));
            }
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(());
            }
            trailers.push(line);
        }
    }

    fn note(&self, seen: &Seen) {
        let _alone = self.notes.lock().expect("notes");
        let file = OpenOptions::new().create(true).append(true).open(self.folder.join("requests.jsonl"));
        let line = serde_json::to_string(seen).expect("a request in JSON") + "\n";
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the backend's notes");
    }
}

struct Body {
    bytes: u64,
    beginning: Vec<u8>,
    digest: Context,
    slow: bool,
}

impl Default for Body {
    fn default() -> Body {
        Body { bytes: 0, beginning: Vec::new(), digest: Context::new(&SHA256), slow: false }
    }
}

impl Body {
    fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.digest.update(bytes);
        let kept = BODY_BYTES_KEPT.saturating_sub(self.beginning.len()).min(bytes.len());
        self.beginning.extend_from_slice(&bytes[..kept]);
        if self.slow {
            std::thread::sleep(Duration::from_secs(1).mul_f64(bytes.len() as f64 / SLOW_BYTES_PER_SECOND as f64));
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn headers(head: &str) -> impl Iterator<Item = (String, &str)> {
    let lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_ascii_lowercase(), value.trim_matches([' ', '\t'])))
}

/// How the body ends, if there is no doubt; every doubt is a fault.
fn judge(head: &[u8], faults: &mut Vec<String>) -> Framing {
    let text = lossy(head);
    let mut fault = |what: &str| faults.push(what.to_owned());
    let lines: Vec<&str> = text.strip_suffix("\r\n\r\n").unwrap_or(&text).split("\r\n").collect();
    let words: Vec<&str> = lines[0].split(' ').collect();
    if words.len() != 3 || words[2] != "HTTP/1.1" || words.iter().any(|word| word.is_empty()) {
        fault("a request line that is not METHOD TARGET HTTP/1.1");
    }
    if !words.get(1).is_some_and(|target| target.starts_with('/') && !target.contains('#')) {
        fault("a target that is no path");
    }
    if text.replace("\r\n", "").bytes().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)) {
        fault("a control byte in the head");
    }
    for line in &lines[1..] {
        let name = line.split(':').next().unwrap_or_default();
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || name.len() == line.len() || !name.bytes().all(token) {
            fault("a line that is no header");
        }
    }
    let values = |name: &str| -> Vec<&str> {
        headers(&text).filter(|(found, _)| found == name).map(|(_, value)| value).collect()
    };
    if values("host").len() != 1 {
        fault("not exactly one Host");
    }
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    if lengths.len() + codings.len() > 1 {
        fault("more than one framing");
    }
    if let Some(coding) = codings.first() {
        if *coding != "chunked" {
            fault("a transfer coding that is not chunked");
        }
        return Framing::Chunked;
    }
    let length = lengths.first().map_or(Some(0), |length| {
        length.parse().ok().filter(|_| !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()))
    });
    if length.is_none() {
        fault("a Content-Length that is no number");
    }
    Framing::Length(length.unwrap_or(0))
}
