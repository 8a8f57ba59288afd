//! What `pasta` and `pesto` say to each other, version 2: rules of fixed size, all numbers in network
//! byte order. The server speaks first; nothing is acknowledged.
//!
//! ```text
//!   server: "basil:s\0"  u32 version  u32 name size (128)  u32 interface size (16)
//!           per table: u8 which  name[128]  u32 abilities  u32 count  rules;  u8 0
//!   client: per table: u8 which  u32 count  rules;  u8 0;  closes
//!   rule:   at[16]  target[16]  interface[16]  u16 first  u16 last  u16 to  u8 protocol  u8 flags
//! ```

use super::pasta_ports::Rule;
use crate::flow::Protocol;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr};

const HELLO: [u8; 20] = *b"basil:s\0\0\0\0\x02\0\0\0\x80\0\0\0\x10";
/// Bytes of a table's name.
const NAME: usize = 128;
/// Bytes of a rule.
const RULE: usize = 56;
/// Rules of a table, at most.
pub const MOST_RULES: usize = 1024;
/// Tables that a server may tell of, at most.
const MOST_TABLES: usize = 8;

/// Flags of a rule: on any address of both families; may fail; only what is listened to.
const ANY: u8 = 1;
const WEAK: u8 = 2;
const SCAN: u8 = 4;

/// The tables that there are: from the host, between the loopbacks.
pub const HOST: u8 = 1;
/// See [`HOST`].
pub const SPLICE: u8 = 3;

/// A table, as a server tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// [`HOST`], [`SPLICE`], or another's.
    pub which: u8,
    /// What people call it.
    pub name: String,
    /// What it can do: bits for IPv4, IPv6, TCP (4), UDP, scanning (16), interfaces.
    pub abilities: u32,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// Which table, and the rules that it is to have.
pub type Change = (u8, Vec<Rule>);

fn wrong(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// What a server says.
///
/// # Errors
/// Writing fails.
pub fn greet(to: &mut impl Write, tables: &[Table]) -> io::Result<()> {
    let mut bytes = HELLO.to_vec();
    for table in tables {
        bytes.push(table.which);
        let mut name = [0; NAME];
        // The last byte stays 0.
        name.iter_mut().take(NAME - 1).zip(table.name.bytes()).for_each(|(to, from)| *to = from);
        bytes.extend(name);
        bytes.extend(table.abilities.to_be_bytes());
        put_rules(&mut bytes, &table.rules);
    }
    bytes.push(0);
    to.write_all(&bytes)
}

/// What a client hears.
///
/// # Errors
/// `InvalidData` if it is no such server, or one of another version; reading fails.
pub fn greeted(from: &mut impl Read) -> io::Result<Vec<Table>> {
    let hello: [u8; HELLO.len()] = take(from)?;
    if hello[..8] != HELLO[..8] {
        return Err(wrong("that is no socket of pasta"));
    }
    if hello != HELLO {
        return Err(wrong("pasta there speaks another version than 2"));
    }
    let mut tables = Vec::new();
    loop {
        let [which] = take(from)?;
        if which == 0 {
            return Ok(tables);
        }
        if tables.len() == MOST_TABLES {
            return Err(wrong("too many tables"));
        }
        let name: [u8; NAME] = take(from)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(NAME);
        let name = String::from_utf8_lossy(&name[..end]).into_owned();
        let abilities = u32::from_be_bytes(take(from)?);
        let rules = take_rules(from)?;
        tables.push(Table { which, name, abilities, rules });
    }
}

/// What a client says: the rules of each table that is to have others.
///
/// # Errors
/// Writing fails.
pub fn change(to: &mut impl Write, tables: &[Change]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for (which, rules) in tables {
        bytes.push(*which);
        put_rules(&mut bytes, rules);
    }
    bytes.push(0);
    to.write_all(&bytes)
}

/// What a server hears; `None` from a client that only looks.
///
/// # Errors
/// `InvalidData` if it makes no sense; reading fails.
pub fn changed(from: &mut impl Read) -> io::Result<Option<Vec<Change>>> {
    let mut tables: Vec<Change> = Vec::new();
    let mut first = [0; 1];
    if from.read(&mut first)? == 0 {
        return Ok(None);
    }
    let [mut which] = first;
    while which != 0 {
        if ![HOST, SPLICE].contains(&which) || tables.iter().any(|(known, _)| *known == which) {
            return Err(wrong("a table that is not there, or for the second time"));
        }
        tables.push((which, take_rules(from)?));
        [which] = take(from)?;
    }
    Ok(Some(tables))
}

fn take<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn put_rules(bytes: &mut Vec<u8>, rules: &[Rule]) {
    bytes.extend(u32::try_from(rules.len()).unwrap_or(u32::MAX).to_be_bytes());
    rules.iter().for_each(|rule| bytes.extend(encode(rule)));
}

fn take_rules(from: &mut impl Read) -> io::Result<Vec<Rule>> {
    let count = u32::from_be_bytes(take(from)?);
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > MOST_RULES {
        return Err(wrong("too many rules"));
    }
    (0..count).map(|_| decode(&take(from)?)).collect()
}

fn encode(rule: &Rule) -> [u8; RULE] {
    let mut bytes = [0; RULE];
    let octets = |ip: Option<IpAddr>| match ip {
        None => [0; 16],
        Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped().octets(),
        Some(IpAddr::V6(ip)) => ip.octets(),
    };
    bytes[..16].copy_from_slice(&octets(rule.at));
    bytes[16..32].copy_from_slice(&octets(rule.target));
    for (at, number) in [(48, rule.first), (50, rule.last), (52, rule.to)] {
        bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
    }
    bytes[54] = if rule.protocol == Protocol::Udp { 17 } else { 6 };
    bytes[55] = if rule.at.is_none() { ANY } else { 0 } | if rule.scan { SCAN } else { 0 };
    bytes
}

fn decode(bytes: &[u8; RULE]) -> io::Result<Rule> {
    let ip = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&bytes[at..at + 16]);
        let ip = Ipv6Addr::from(octets);
        ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
    };
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let (first, last, to) = (port(48), port(50), port(52));
    let flags = bytes[55];
    let protocol = match bytes[54] {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return Err(wrong("a rule of neither TCP nor UDP")),
    };
    if bytes[32..48].iter().any(|byte| *byte != 0) {
        return Err(wrong("a rule of an interface: name its address"));
    }
    if flags & !(ANY | WEAK | SCAN) != 0 {
        return Err(wrong("a flag that is not known"));
    }
    if first == 0 || to == 0 || first > last || u32::from(to) + u32::from(last - first) > 65535 {
        return Err(wrong("a range that is none"));
    }
    let any = flags & ANY != 0;
    if any && ip(0) != IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        return Err(wrong("an address that is any one"));
    }
    let at = (!any).then(|| ip(0));
    let target = Some(ip(16)).filter(|ip| !ip.is_unspecified());
    if at.zip(target).is_some_and(|(at, target)| at.is_ipv4() != target.is_ipv4()) {
        return Err(wrong("a target of another family of addresses"));
    }
    Ok(Rule { protocol, at, first, last, target, to, scan: flags & SCAN != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::faces::pasta_ports::read;

    fn rules() -> Vec<Rule> {
        let texts = ["0.0.0.0/8080-8081:80-81", "[::]/8080", "22", "auto", "127.0.0.1/1:10.0.2.7/9"];
        texts.iter().flat_map(|text| read(text, Protocol::Udp, 32768).unwrap()).collect()
    }

    fn tables() -> Vec<Table> {
        let table = |which, name: &str, rules| Table { which, name: name.to_owned(), abilities: 31, rules };
        vec![table(HOST, "HOST", rules()), table(SPLICE, "SPLICE", Vec::new())]
    }

    #[test]
    fn a_rule_lies_as_it_should() {
        let rule = read("192.0.2.1/8080-8081:80-81", Protocol::Tcp, 32768).unwrap()[0];
        let mut want = vec![0; 10];
        want.extend([0xff, 0xff, 192, 0, 2, 1]);
        want.extend([0; 32]);
        want.extend([0x1f, 0x90, 0x1f, 0x91, 0, 80, 6, 0]);
        assert_eq!(encode(&rule).to_vec(), want);
        assert_eq!(encode(&read("auto", Protocol::Udp, 32768).unwrap()[0])[54..], [17, ANY | SCAN]);
        let mut bytes = Vec::new();
        greet(&mut bytes, &tables()).unwrap();
        assert_eq!(bytes[..22], *b"basil:s\0\0\0\0\x02\0\0\0\x80\0\0\0\x10\x01H");
        assert_eq!(bytes.len(), 20 + 2 * (1 + 128 + 4 + 4) + rules().len() * 56 + 1);
        let mut bytes = Vec::new();
        change(&mut bytes, &[(HOST, vec![rule])]).unwrap();
        assert_eq!(bytes[..5], [HOST, 0, 0, 0, 1]);
        assert_eq!(bytes.len(), 5 + 56 + 1);
    }

    #[test]
    fn what_is_said_is_heard_and_what_is_cut_is_not() {
        let (mut hello, mut change_) = (Vec::new(), Vec::new());
        greet(&mut hello, &tables()).unwrap();
        change(&mut change_, &[(HOST, rules()), (SPLICE, rules())]).unwrap();
        assert_eq!(greeted(&mut hello.as_slice()).unwrap(), tables());
        let heard = changed(&mut change_.as_slice()).unwrap();
        assert_eq!(heard, Some(vec![(HOST, rules()), (SPLICE, rules())]));
        for cut in 0..hello.len() {
            assert!(greeted(&mut &hello[..cut]).is_err(), "{cut}");
        }
        assert_eq!(changed(&mut [].as_slice()).unwrap(), None);
        for cut in 1..change_.len() {
            assert!(changed(&mut &change_[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let good = encode(&rules()[0]);
        for (at, byte) in [(54, 1), (55, 8), (55, 1), (48, 0xff), (53, 0), (32, b'e'), (31, 1)] {
            let mut bytes = good;
            bytes[at] = byte;
            assert!(decode(&bytes).is_err(), "{at}");
        }
        for nonsense in [&[2, 0, 0, 0, 0, 0][..], &[1, 0xff, 0, 0, 0], &[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]] {
            assert!(changed(&mut &nonsense[..]).is_err(), "{nonsense:?}");
        }
        // Whatever is changed on the way, nothing panics.
        let mut bytes = Vec::new();
        greet(&mut bytes, &tables()).unwrap();
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut other = bytes.clone();
                other[at] = value;
                let _ = greeted(&mut other.as_slice());
                let _ = changed(&mut &other[20..]);
            }
        }
    }
}
