//! A STUN server that helps to discover what a NAT does (RFC 8489, RFC 5780 §6), for classic clients
//! too (RFC 3489 §8). Bytes in, bytes out: who owns sockets does the rest.
//!
//! It listens on two addresses with two ports each. To which of the four a request came and from which
//! its response leaves is all that makes the tests of RFC 5780 §4 work:
//!
//! ```text
//!                primary port        alternate port
//!   address A    (false, false)      (false, true)
//!   address B    (true,  false)      (true,  true)
//! ```
//!
//! With one address only, it is a server of RFC 8489: it names no other address, and refuses
//! CHANGE-REQUEST with 420 (RFC 5780 §6.1).
//!
//! # What it does against abuse
//!
//! A request may bear a forged source. So a response is sent only to the address that the request came
//! from; PADDING is never more than the request's own; each client has a rate ([`Limiter`]); and only
//! requests are ever answered, so that two servers cannot talk to each other for ever. RESPONSE-ADDRESS
//! of RFC 3489, which let anybody choose a victim, is an unknown attribute (RFC 5780 §6.1).

use super::attribute::Attribute;
use super::limit::Limiter;
use super::message::{BINDING, Class, Malformed, Message};
use crate::flow::Time;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// How much PADDING is answered at most: what a jumbo frame must be cut for, in bytes.
pub const LONGEST_PADDING: u16 = 9216;
/// How a server names itself, unless its client is a classic one.
const SOFTWARE: &str = concat!("tapnat ", env!("CARGO_PKG_VERSION"));

/// Which of a server's endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Place {
    /// On the alternate address.
    pub other_ip: bool,
    /// On the alternate port.
    pub other_port: bool,
}

/// Where a server listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Places {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The other address, of the same family, and the other port, if it has them.
    pub alternate: Option<(IpAddr, u16)>,
}

impl Places {
    /// Every place, the primary one first.
    pub fn all(&self) -> Vec<Place> {
        let corners = [(false, false), (false, true), (true, false), (true, true)];
        let count = if self.alternate.is_some() { 4 } else { 1 };
        corners.iter().take(count).map(|&(other_ip, other_port)| Place { other_ip, other_port }).collect()
    }

    /// The endpoint of a place.
    pub fn endpoint(&self, place: Place) -> SocketAddr {
        let (ip, port) = self.alternate.unwrap_or((self.address, self.port));
        let ip = if place.other_ip { ip } else { self.address };
        SocketAddr::new(ip, if place.other_port { port } else { self.port })
    }
}

/// A datagram to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Where it leaves.
    pub from: Place,
    /// To whom.
    pub to: SocketAddr,
    /// What it is.
    pub bytes: Vec<u8>,
    /// The error code in it, if the request was not served.
    pub error: Option<u16>,
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Silence {
    /// No STUN message.
    Malformed(Malformed),
    /// A response or an indication, or a request for something else.
    NotARequest,
    /// Its client had its share.
    TooMany,
    /// It came from port 0, to which nothing can be sent.
    NoReturn,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Silence::Malformed(why) => why.fmt(f),
            Silence::NotARequest => f.write_str("not a binding request"),
            Silence::TooMany => f.write_str("more than its share"),
            Silence::NoReturn => f.write_str("from port 0"),
        }
    }
}

/// What a server has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Requests served.
    pub served: u64,
    /// Requests answered with an error.
    pub refused: u64,
    /// Requests left alone because their client had its share.
    pub too_many: u64,
    /// Other datagrams left alone.
    pub ignored: u64,
}

/// A server without sockets.
#[derive(Debug)]
pub struct Server {
    places: Places,
    limiter: Limiter,
    counters: Counters,
}

impl Server {
    /// A server at these places that gives each client at most `per_second` answers a second.
    pub fn new(places: Places, per_second: u32, seed: u64) -> Server {
        Server { places, limiter: Limiter::new(per_second, seed), counters: Counters::default() }
    }

    /// Where it listens.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// What it has done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What to send for a datagram that came to `at` from `from`.
    ///
    /// # Errors
    /// Why nothing is sent.
    pub fn answer(
        &mut self,
        at: Place,
        from: SocketAddr,
        bytes: &[u8],
        now: Time,
    ) -> Result<Answer, Silence> {
        let answer = self.consider(at, from, bytes, now);
        *match &answer {
            Ok(Answer { error: None, .. }) => &mut self.counters.served,
            Ok(_) => &mut self.counters.refused,
            Err(Silence::TooMany) => &mut self.counters.too_many,
            Err(_) => &mut self.counters.ignored,
        } += 1;
        answer
    }

    fn consider(&mut self, at: Place, from: SocketAddr, bytes: &[u8], now: Time) -> Result<Answer, Silence> {
        let request = Message::parse(bytes).map_err(Silence::Malformed)?;
        if (request.class, request.method) != (Class::Request, BINDING) {
            return Err(Silence::NotARequest);
        }
        if from.port() == 0 {
            return Err(Silence::NoReturn);
        }
        if !self.limiter.admits(from.ip(), now) {
            return Err(Silence::TooMany);
        }
        let (answer, response, error) = match self.serve(&request, at, from) {
            Ok((place, to, response)) => ((place, to), response, None),
            Err(refusal) => ((at, from), refusal.message(&request), Some(refusal.code())),
        };
        Ok(Answer { from: answer.0, to: answer.1, bytes: response.write(), error })
    }

    fn serve(
        &self,
        request: &Message,
        at: Place,
        from: SocketAddr,
    ) -> Result<(Place, SocketAddr, Message), Refusal> {
        let mut unknown: Vec<u16> = Vec::new();
        unknown
            .extend(request.attributes.iter().filter(|a| a.is_unknown_and_required()).map(Attribute::kind));
        let change = request.find(|attribute| match attribute {
            Attribute::ChangeRequest { ip, port } => Some((*ip, *port)),
            _ => None,
        });
        let (ip, port) = change.unwrap_or_default();
        if (ip || port) && self.places.alternate.is_none() {
            unknown.push(Attribute::ChangeRequest { ip, port }.kind());
        }
        if !unknown.is_empty() {
            return Err(Refusal::Unknown(unknown));
        }
        let padding = request.find(|attribute| match attribute {
            Attribute::Padding(length) => Some(*length),
            _ => None,
        });
        let response_port = request.find(|attribute| match attribute {
            Attribute::ResponsePort(port) => Some(*port),
            _ => None,
        });
        // Padding to somebody who did not ask (RFC 5780 §6.1), or to no port at all.
        if response_port == Some(0) || (response_port.is_some() && padding.is_some()) {
            return Err(Refusal::Bad);
        }
        let place = Place { other_ip: at.other_ip ^ ip, other_port: at.other_port ^ port };
        let to = SocketAddr::new(from.ip(), response_port.unwrap_or(from.port()));
        let mut response = response(request, Class::Success);
        response.attributes = self.said(request, at, place, from);
        response.attributes.extend(padding.map(|length| Attribute::Padding(length.min(LONGEST_PADDING))));
        Ok((place, to, response))
    }

    /// What a request that came to `at` is told when its response leaves from `place`.
    fn said(&self, request: &Message, at: Place, place: Place, from: SocketAddr) -> Vec<Attribute> {
        let origin = self.places.endpoint(place);
        let opposite = Place { other_ip: !at.other_ip, other_port: !at.other_port };
        let other = self.places.alternate.map(|_| self.places.endpoint(opposite));
        if request.transaction.is_classic() {
            let mut said = vec![Attribute::MappedAddress(from), Attribute::SourceAddress(origin)];
            said.extend(other.map(Attribute::ChangedAddress));
            return said;
        }
        let mut said = vec![
            Attribute::XorMappedAddress(from),
            // Both, so that a client sees whether somebody on the way changes payloads (RFC 5780 §3.6).
            Attribute::MappedAddress(from),
            Attribute::ResponseOrigin(origin),
        ];
        said.extend(other.map(Attribute::OtherAddress));
        said.push(Attribute::Software(SOFTWARE.as_bytes().to_vec()));
        said
    }
}

/// Why a request is not served.
enum Refusal {
    /// What it asks for contradicts itself.
    Bad,
    /// It has attributes that must be understood and are not.
    Unknown(Vec<u16>),
}

impl Refusal {
    fn code(&self) -> u16 {
        match self {
            Refusal::Bad => 400,
            Refusal::Unknown(_) => 420,
        }
    }

    fn message(&self, request: &Message) -> Message {
        let mut message = response(request, Class::Error);
        let (reason, unknown) = match self {
            Refusal::Bad => ("Bad Request", None),
            Refusal::Unknown(kinds) => {
                // A few name the fault; a classic list has an even number (RFC 3489 §11.2.10).
                let mut kinds: Vec<u16> = kinds.iter().take(8).copied().collect();
                if request.transaction.is_classic() && kinds.len() % 2 == 1 {
                    kinds.extend_from_within(kinds.len() - 1..);
                }
                ("Unknown Attribute", Some(kinds))
            }
        };
        // Classic reasons have a length that is a multiple of 4 (RFC 3489 §11.2.9).
        let mut reason = reason.as_bytes().to_vec();
        if request.transaction.is_classic() {
            reason.resize(reason.len().next_multiple_of(4), b' ');
        }
        message.attributes.push(Attribute::ErrorCode(self.code(), reason));
        message.attributes.extend(unknown.map(Attribute::UnknownAttributes));
        message
    }
}

fn response(request: &Message, class: Class) -> Message {
    let Message { method, transaction, fingerprint, .. } = *request;
    Message { class, method, transaction, attributes: Vec::new(), fingerprint }
}
