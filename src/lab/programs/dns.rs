//! A DNS server with a fixed zone, and a client that asks it for an A record (RFC 1035).

use crate::io::sys::netns::Netns;
use crate::lab::programs::server::Server;
use crate::lab::programs::udp;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;

/// Names and their addresses.
pub type Zone = Vec<(String, Ipv4Addr)>;

/// Answers queries for A records from `zone` at `address` in `netns`.
///
/// # Errors
/// `EADDRINUSE` and its kin.
pub fn serve(netns: &Netns, address: impl Into<SocketAddr>, zone: Zone) -> io::Result<Server> {
    let address = address.into();
    let open = || {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?;
        Ok((socket, bound))
    };
    Server::start(netns, "dns", open, move |socket, stop| {
        let mut buffer = [0; 1500];
        while stop.wait(socket.as_fd()) {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            if let Some(reply) = answer(&buffer[..length], &zone) {
                let _ = socket.send_to(&reply, from);
            }
        }
    })
}

/// The answer to a query with one question; `None` for what is not a query.
fn answer(query: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let (name, end) = question(query)?;
    let kind = u16_at(query, end)?;
    let class = u16_at(query, end + 2)?;
    let asked = query.get(HEADER..end + 4)?;
    let address =
        zone.iter().find(|(known, _)| known.eq_ignore_ascii_case(&name)).map(|(_, address)| *address);
    let (code, address) = match (kind, class, address) {
        (TYPE_A, CLASS_IN, Some(address)) => (0, Some(address)),
        (TYPE_A, CLASS_IN, None) => (NO_SUCH_NAME, None),
        _ => (NOT_IMPLEMENTED, None),
    };
    let mut reply = Vec::with_capacity(HEADER + asked.len() + 16);
    reply.extend_from_slice(&query[..2]);
    // Response, authoritative, and the query's wish for recursion repeated.
    reply.extend_from_slice(&[0x84 | (query[2] & 1), code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    reply.extend_from_slice(asked);
    if let Some(address) = address {
        // The name is the one at offset 12; type A, class IN, 60 seconds, 4 bytes.
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend_from_slice(&address.octets());
    }
    Some(reply)
}

/// The name asked for, and where its type starts.
fn question(query: &[u8]) -> Option<(String, usize)> {
    let header = query.get(..HEADER)?;
    // A response, or anything but one question.
    if header[2] & 0x80 != 0 || u16_at(query, 4)? != 1 {
        return None;
    }
    let mut at = HEADER;
    let mut name = String::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        if length > 63 || name.len() + length > 255 {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(query.get(at..at + length)?));
        at += length;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

/// The address of `name` by the server at `server`; `None` if there is no such name.
///
/// # Errors
/// As for [`udp::ask`]; `InvalidInput` for a name that cannot be asked for; `InvalidData` for an
/// answer that is none.
pub fn resolve(server: impl Into<SocketAddr>, name: &str, timeout: Duration) -> io::Result<Option<Ipv4Addr>> {
    let query = query(name)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is no host name")))?;
    let reply = udp::ask(server, &query, timeout)?;
    read_reply(&query, &reply)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not to the question"))
}

fn query(name: &str) -> Option<Vec<u8>> {
    let mut query = vec![0x13, 0x37, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        query.push(length);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    Some(query)
}

fn read_reply(query: &[u8], reply: &[u8]) -> Option<Option<Ipv4Addr>> {
    let same_question = reply.get(..2)? == &query[..2] && reply.get(HEADER..query.len())? == &query[HEADER..];
    if !same_question || reply[2] & 0x80 == 0 {
        return None;
    }
    if u16_at(reply, 6)? == 0 {
        return Some(None);
    }
    let address: [u8; 4] = reply.get(query.len() + 12..query.len() + 16)?.try_into().ok()?;
    Some(Some(Ipv4Addr::from(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        vec![("www.example.org".to_string(), Ipv4Addr::new(198, 51, 100, 7))]
    }

    #[test]
    fn known_and_unknown_names() {
        let ask = |name| {
            let query = query(name).unwrap();
            read_reply(&query, &answer(&query, &zone()).unwrap()).unwrap()
        };
        assert_eq!(ask("WWW.example.org"), Some(Ipv4Addr::new(198, 51, 100, 7)));
        assert_eq!(ask("ftp.example.org"), None);
    }

    #[test]
    fn truncated_queries_are_not_answered() {
        let query = query("www.example.org").unwrap();
        for length in 0..query.len() {
            assert_eq!(answer(&query[..length], &zone()), None);
        }
    }
}
