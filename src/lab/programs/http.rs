//! A small HTTP/1.1 server and client (RFC 9112): enough for downloads, uploads and many short
//! connections.
//!
//! `GET /` answers with a greeting and the client's address as the server sees it; `GET /bytes/N`
//! with N bytes of [`Pattern`] seed N; `POST /upload` swallows its body and answers with its length
//! and [`Sum`].

use crate::io::sys::netns::Netns;
use crate::lab::programs::pattern::{Pattern, Sum};
use crate::lab::programs::server::Server;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The longest line of a header, in bytes.
const LINE: u64 = 8 * 1024;
/// The most header lines of one message.
const HEADERS: usize = 100;
/// The longest body that a client keeps whole.
const KEEP: usize = 64 * 1024;

/// Serves at `address` in `netns`.
///
/// # Errors
/// `EADDRINUSE` and its kin.
pub fn serve(netns: &Netns, address: impl Into<SocketAddr>) -> io::Result<Server> {
    Server::tcp(netns, "http", address, connection)
}

fn connection(stream: TcpStream) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let Some(request) = line(&mut reader)? else { return Ok(()) };
        let headers = headers(&mut reader)?;
        let close =
            headers.iter().any(|(name, value)| name == "connection" && value.eq_ignore_ascii_case("close"));
        let mut words = request.split_whitespace();
        match (words.next(), words.next()) {
            (Some("GET"), Some("/")) => respond(&mut writer, 200, format!("hello {peer}\n").as_bytes())?,
            (Some("GET"), Some(path)) => {
                match path.strip_prefix("/bytes/").and_then(|number| number.parse().ok()) {
                    Some(length) => send_pattern(&mut writer, length)?,
                    None => respond(&mut writer, 404, b"no such page\n")?,
                }
            }
            (Some("POST" | "PUT"), Some("/upload")) => {
                let length = content_length(&headers).ok_or_else(|| bad("an upload without a length"))?;
                let sum = swallow(&mut reader, length, None)?;
                respond(&mut writer, 200, format!("{length} {:016x}\n", sum.value()).as_bytes())?;
            }
            _ => return respond(&mut writer, 400, b"bad request\n"),
        }
        if close {
            return Ok(());
        }
    }
}

fn respond(writer: &mut impl Write, status: u16, body: &[u8]) -> io::Result<()> {
    let word = if status == 200 { "OK" } else { "No" };
    let mut message =
        format!("HTTP/1.1 {status} {word}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    message.extend_from_slice(body);
    writer.write_all(&message)
}

fn send_pattern(writer: &mut impl Write, length: u64) -> io::Result<()> {
    writer.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes())?;
    let mut pattern = Pattern::new(length);
    let mut block = vec![0; 64 * 1024];
    let mut left = length;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        pattern.fill(&mut block[..take]);
        writer.write_all(&block[..take])?;
        left -= take as u64;
    }
    Ok(())
}

/// What a server said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Bytes of the body.
    pub length: u64,
    /// Their sum.
    pub sum: u64,
    /// The body's start, at most 64 KiB.
    pub body: Vec<u8>,
}

/// A client's connection; requests on it follow one another.
#[derive(Debug)]
pub struct Client {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects to `server`. The same `timeout` is then the limit of each silence.
    ///
    /// # Errors
    /// The kernel's word: refused, unreachable, timed out.
    pub fn connect(server: impl Into<SocketAddr>, timeout: Duration) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&server.into(), timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_nodelay(true)?;
        Ok(Client { writer: stream.try_clone()?, reader: BufReader::with_capacity(64 * 1024, stream) })
    }

    /// The address and port this end has.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.writer.local_addr()
    }

    /// Asks for a page.
    ///
    /// # Errors
    /// The kernel's word, or `InvalidData` for an answer that is not HTTP.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.writer.write_all(format!("GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n").as_bytes())?;
        self.response()
    }

    /// Sends `length` bytes of the pattern of `seed`, and returns the answer.
    ///
    /// # Errors
    /// As for [`Client::get`].
    pub fn upload(&mut self, seed: u64, length: u64) -> io::Result<Response> {
        self.writer.write_all(
            format!("POST /upload HTTP/1.1\r\nHost: lab\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
        )?;
        let mut pattern = Pattern::new(seed);
        let mut block = vec![0; 64 * 1024];
        let mut left = length;
        while left > 0 {
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            pattern.fill(&mut block[..take]);
            self.writer.write_all(&block[..take])?;
            left -= take as u64;
        }
        self.response()
    }

    fn response(&mut self) -> io::Result<Response> {
        let status = line(&mut self.reader)?.ok_or_else(|| bad("closed before an answer"))?;
        let status = status
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| bad("no status line"))?;
        let headers = headers(&mut self.reader)?;
        let length = content_length(&headers).ok_or_else(|| bad("an answer without a length"))?;
        let mut body = Vec::new();
        let sum = swallow(&mut self.reader, length, Some(&mut body))?;
        Ok(Response { status, length, sum: sum.value(), body })
    }
}

/// One page over a connection of its own.
///
/// # Errors
/// As for [`Client::connect`] and [`Client::get`].
pub fn get(server: impl Into<SocketAddr>, path: &str, timeout: Duration) -> io::Result<Response> {
    Client::connect(server, timeout)?.get(path)
}

fn line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut text = String::new();
    if reader.take(LINE).read_line(&mut text)? == 0 {
        return Ok(None);
    }
    if !text.ends_with('\n') {
        return Err(bad("a line without an end"));
    }
    Ok(Some(text.trim_end().to_string()))
}

fn headers(reader: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    while let Some(text) = line(reader)? {
        if text.is_empty() {
            return Ok(found);
        }
        let (name, value) = text.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
        if found.len() == HEADERS {
            return Err(bad("too many headers"));
        }
        found.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
    Err(bad("closed within the headers"))
}

fn content_length(headers: &[(String, String)]) -> Option<u64> {
    headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok())
}

fn swallow(reader: &mut impl Read, length: u64, mut keep: Option<&mut Vec<u8>>) -> io::Result<Sum> {
    let mut sum = Sum::default();
    let mut block = vec![0; 64 * 1024];
    let mut left = length;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        let read = reader.read(&mut block[..take])?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("closed {left} bytes before the end"),
            ));
        }
        sum.add(&block[..read]);
        if let Some(keep) = &mut keep {
            let room = KEEP.saturating_sub(keep.len()).min(read);
            keep.extend_from_slice(&block[..room]);
        }
        left -= read as u64;
    }
    Ok(sum)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::programs::pattern::expected;
    use std::net::Ipv4Addr;

    #[test]
    fn pages_downloads_and_uploads_on_one_connection() {
        let here = Netns::current().unwrap();
        let Ok(server) = serve(&here, (Ipv4Addr::LOCALHOST, 0)) else {
            // Entering even one's own namespace needs a privilege that this user lacks.
            return;
        };
        let mut client = Client::connect(server.address(), Duration::from_secs(5)).unwrap();
        assert!(client.get("/").unwrap().body.starts_with(b"hello 127.0.0.1:"));
        let page = client.get("/bytes/100001").unwrap();
        assert_eq!((page.status, page.length, page.sum), (200, 100_001, expected(100_001, 100_001)));
        assert_eq!(client.get("/nothing").unwrap().status, 404);
        let answer = client.upload(3, 70_000).unwrap();
        assert_eq!(answer.body, format!("70000 {:016x}\n", expected(3, 70_000)).into_bytes());
    }
}
