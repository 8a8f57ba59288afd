//! The list of questions that a probe asks, in order, and what their answers mean (RFC 5780 §4).

use super::attribute::Attribute;
use super::exchange::{Asker, Progress, Question, Reply, Socket, TRIES, World};
use super::lifetime::{Span, lifetime};
use super::message::{Class, Message, Transaction};
use super::path;
use super::report::{Found, Hairpin, Ports, Report};
use crate::nat::Behaviour;
use std::net::SocketAddr;
use std::time::Duration;

/// How many sockets show what becomes of ports.
const SOCKETS: usize = 8;

/// What to ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wish {
    /// How long to wait before a question is repeated the first time; without, as measured.
    pub rto: Option<Duration>,
    /// Whether to wait for the end of a mapping, and for how long.
    pub lifetime: Option<Span>,
}

/// What the first answer says of the server.
struct Server {
    /// Where it was asked.
    at: SocketAddr,
    /// Its other address and port, or why it has none.
    other: Found<SocketAddr>,
}

impl Server {
    /// Its other address, and the port that it was asked at.
    fn other_address(&self) -> Found<SocketAddr> {
        let other = self.other.clone()?;
        Ok(SocketAddr::new(other.ip(), self.at.port()))
    }
}

/// Asks `server` everything.
///
/// # Errors
/// It does not answer, or there are no sockets to ask from.
pub fn probe<W: World>(world: &mut W, server: SocketAddr, wish: &Wish) -> Found<Report> {
    let asker = &mut Asker::new(world, wish.rto);
    asker.world.progress(Progress::Part("asking the server"));
    let socket = asker.world.open(false)?;
    let (request, local) = (asker.request(), asker.world.local(socket));
    let Some(first) = asker.ask(Question::new(socket, server, request)) else {
        let trouble = asker.trouble.take().map(|trouble| format!(": {trouble}")).unwrap_or_default();
        return Err(format!("{server} does not answer{trouble}"));
    };
    let Some(mapped) = mapped(&first.message) else {
        let code = refusal(&first.message).map(|code| format!(" ({code})")).unwrap_or_default();
        return Err(format!("{server} does not say whom it sees{code}"));
    };
    let at = Server { at: server, other: other(&first.message, server) };
    let seen = Seen { socket, local, mapped };
    asker.world.progress(Progress::Part("mapping"));
    let mapping = mapping(asker, &at, &seen);
    let alg = alg(asker, &at, &seen, &first);
    asker.world.close(socket);
    asker.world.progress(Progress::Part("filtering"));
    // A server that cannot be reached elsewhere cannot be heard from there either.
    let filtering = match &mapping {
        Err(why) if at.other.is_ok() && seen.mapped != seen.local => Err(why.clone()),
        _ => filtering(asker, &at),
    };
    asker.world.progress(Progress::Part("hairpin"));
    let hairpin = hairpin(asker, server).and_then(|found| understood(found, &mapping, &filtering));
    asker.world.progress(Progress::Part("ports"));
    let ports = ports(asker, server);
    asker.world.progress(Progress::Part("fragments"));
    let fragments = path::fragments(asker, server);
    asker.world.progress(Progress::Part("MTU"));
    let mtu = path::mtu(asker, server);
    let lifetime = match wish.lifetime {
        _ if seen.mapped == seen.local => Err("there is no translation".to_owned()),
        Some(span) => lifetime(asker, server, span),
        None => Err("not asked for".to_owned()),
    };
    let (software, round_trip) = (software(&first.message), asker.round_trip());
    let other = at.other.ok();
    Ok(Report {
        server,
        software,
        other,
        local,
        mapped,
        round_trip,
        mapping,
        filtering,
        hairpin,
        ports,
        alg,
        fragments,
        mtu,
        lifetime,
    })
}

/// The socket that asked first, and how it was seen.
struct Seen {
    socket: Socket,
    local: SocketAddr,
    mapped: SocketAddr,
}

/// RFC 5780 §4.3: asks at other endpoints of the server and compares.
fn mapping<W: World>(asker: &mut Asker<'_, W>, server: &Server, seen: &Seen) -> Found<Behaviour> {
    if seen.mapped == seen.local {
        return Err("there is no translation".to_owned());
    }
    let mut ask = |to: SocketAddr| {
        let request = asker.request();
        let reply = asker.ask(Question::new(seen.socket, to, request));
        let seen = reply.and_then(|reply| mapped(&reply.message));
        seen.ok_or_else(|| format!("the server's other address {to} does not answer"))
    };
    let second = ask(server.other_address()?)?;
    if second == seen.mapped {
        return Ok(Behaviour::EndpointIndependent);
    }
    let third = ask(server.other.clone()?)?;
    Ok(if third == second { Behaviour::AddressDependent } else { Behaviour::AddressAndPortDependent })
}

/// RFC 5780 §4.4: asks for answers from where nobody was asked. Each change is asked for by a socket of
/// its own, which has sent nothing elsewhere.
fn filtering<W: World>(asker: &mut Asker<'_, W>, server: &Server) -> Found<Behaviour> {
    let other = server.other.clone()?;
    let both = asker.world.open(false)?;
    let found = match asker.world.open(false) {
        Ok(port) => {
            let found = filtering_by(asker, server.at, other, [both, port]);
            asker.world.close(port);
            found
        }
        Err(trouble) => Err(trouble),
    };
    asker.world.close(both);
    found
}

fn filtering_by<W: World>(
    asker: &mut Asker<'_, W>,
    server: SocketAddr,
    other: SocketAddr,
    sockets: [Socket; 2],
) -> Found<Behaviour> {
    let plain = sockets.map(|socket| Question::new(socket, server, asker.request()));
    if asker.ask_all(&plain, TRIES).iter().any(Option::is_none) {
        return Err("the server does not answer any more".to_owned());
    }
    let changes = [(sockets[0], true), (sockets[1], false)].map(|(socket, ip)| {
        let request = asker.request().with(Attribute::ChangeRequest { ip, port: true });
        Question::new(socket, server, request)
    });
    let replies = asker.ask_all(&changes, TRIES);
    let expected = [other, SocketAddr::new(server.ip(), other.port())];
    for (reply, expected) in replies.iter().zip(expected) {
        if let Some(reply) = reply {
            if let Some(code) = refusal(&reply.message) {
                return Err(format!("the server refuses CHANGE-REQUEST ({code})"));
            }
            if reply.from != expected {
                return Err(format!("the server answered from {} instead of {expected}", reply.from));
            }
        }
    }
    Ok(match &replies[..] {
        [Some(_), _] => Behaviour::EndpointIndependent,
        [None, Some(_)] => Behaviour::AddressDependent,
        _ => Behaviour::AddressAndPortDependent,
    })
}

/// RFC 5780 §3.4: two sockets send to each other's mapped endpoints, so that each opens its own filter.
fn hairpin<W: World>(asker: &mut Asker<'_, W>, server: SocketAddr) -> Found<Hairpin> {
    let sockets = [asker.world.open(false)?, asker.world.open(false)?];
    let plain = sockets.map(|socket| Question::new(socket, server, asker.request()));
    let replies = asker.ask_all(&plain, TRIES);
    let seen: Vec<SocketAddr> = replies.iter().flatten().filter_map(|reply| mapped(&reply.message)).collect();
    let found = if let [a, b] = seen[..] {
        let cross = [(sockets[0], b, sockets[1]), (sockets[1], a, sockets[0])].map(|(socket, to, ear)| {
            Question { ear: Some(ear), ..Question::new(socket, to, asker.request()) }
        });
        let replies = asker.ask_all(&cross, TRIES);
        // The message itself comes back in, and not a response of anybody else.
        let came = |(reply, from): (&Option<Reply>, SocketAddr)| {
            let reply = reply.as_ref().filter(|reply| reply.message.class == Class::Request)?;
            Some(if reply.from == from { Hairpin::External } else { Hairpin::Internal })
        };
        Ok(replies.iter().zip([a, b]).find_map(came).unwrap_or(Hairpin::No))
    } else {
        Err("the server does not answer any more".to_owned())
    };
    sockets.into_iter().for_each(|socket| asker.world.close(socket));
    found
}

/// Where both mapping and filter depend on the remote, nothing could have come back whatever the NAT does.
fn understood(found: Hairpin, mapping: &Found<Behaviour>, filtering: &Found<Behaviour>) -> Found<Hairpin> {
    let independent = Behaviour::EndpointIndependent;
    let strict = |found: &Found<Behaviour>| found.as_ref().is_ok_and(|&behaviour| behaviour != independent);
    if found == Hairpin::No && strict(mapping) && strict(filtering) {
        return Err("a mapping and a filter that depend on the remote let nothing be seen".to_owned());
    }
    Ok(found)
}

/// Asks from several sockets, and compares ports.
fn ports<W: World>(asker: &mut Asker<'_, W>, server: SocketAddr) -> Found<Ports> {
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        match asker.world.open(false) {
            Ok(socket) => sockets.push(socket),
            Err(trouble) if sockets.is_empty() => return Err(trouble),
            Err(_) => break,
        }
    }
    let questions: Vec<Question> =
        sockets.iter().map(|&socket| Question::new(socket, server, asker.request())).collect();
    let replies = asker.ask_all(&questions, TRIES);
    let mut ports = Ports { sockets: 0, preserved: 0, parity: 0, addresses: Vec::new() };
    for (&socket, reply) in sockets.iter().zip(replies) {
        let Some(mapped) = reply.and_then(|reply| mapped(&reply.message)) else { continue };
        let local = asker.world.local(socket).port();
        ports.sockets += 1;
        ports.preserved += usize::from(mapped.port() == local);
        ports.parity += usize::from(mapped.port() % 2 == local % 2);
        if !ports.addresses.contains(&mapped.ip()) {
            ports.addresses.push(mapped.ip());
        }
    }
    sockets.into_iter().for_each(|socket| asker.world.close(socket));
    if ports.sockets == 0 { Err("the server does not answer any more".to_owned()) } else { Ok(ports) }
}

/// RFC 5780 §3.6: compares the plain mapped address with the hidden one. A server that says only the
/// hidden one is asked in the classic way, which has only the plain one.
fn alg<W: World>(asker: &mut Asker<'_, W>, server: &Server, seen: &Seen, first: &Reply) -> Found<bool> {
    let hidden = first.message.find(|attribute| match attribute {
        Attribute::XorMappedAddress(address) => Some(*address),
        _ => None,
    });
    let hidden = hidden.ok_or("the server says only the plain mapped address")?;
    let changed = match plain(&first.message) {
        Some(plain) => plain != hidden,
        None => {
            let request = Message::request(Transaction::classic(asker.world.random()));
            let reply = asker.ask(Question::new(seen.socket, server.at, request));
            let plain = reply.and_then(|reply| plain(&reply.message));
            plain.ok_or("the server says only the hidden mapped address")? != hidden
        }
    };
    Ok(changed)
}

/// Whom the server saw: hidden from NATs that change payloads if it can be.
pub fn mapped(message: &Message) -> Option<SocketAddr> {
    let hidden = message.find(|attribute| match attribute {
        Attribute::XorMappedAddress(address) => Some(*address),
        _ => None,
    });
    hidden.or_else(|| plain(message)).filter(|_| message.class == Class::Success)
}

/// The code of an error response.
pub fn refusal(message: &Message) -> Option<u16> {
    let code = message.find(|attribute| match attribute {
        Attribute::ErrorCode(code, _) => Some(*code),
        _ => None,
    });
    code.filter(|_| message.class == Class::Error)
}

fn plain(message: &Message) -> Option<SocketAddr> {
    message.find(|attribute| match attribute {
        Attribute::MappedAddress(address) => Some(*address),
        _ => None,
    })
}

/// The other address and port that the server names, in today's words or in those of RFC 3489.
fn other(message: &Message, server: SocketAddr) -> Found<SocketAddr> {
    let named = message.find(|attribute| match attribute {
        Attribute::OtherAddress(address) | Attribute::ChangedAddress(address) => Some(*address),
        _ => None,
    });
    let other = named.ok_or("the server names no other address (OTHER-ADDRESS)")?;
    let usable = other.ip() != server.ip() && other.port() != server.port() && other.port() != 0;
    if usable && other.is_ipv4() == server.is_ipv4() && !other.ip().is_unspecified() {
        return Ok(other);
    }
    Err(format!("the other address that the server names is of no use: {other}"))
}

fn software(message: &Message) -> Option<String> {
    let name = message.find(|attribute| match attribute {
        Attribute::Software(name) => Some(String::from_utf8_lossy(name)),
        _ => None,
    })?;
    let shown: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
    Some(shown.trim().to_owned())
}
