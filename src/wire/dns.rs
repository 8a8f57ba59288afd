//! Reads DNS messages (RFC 1035): the one question, and the addresses that answer it.
//!
//! Messages come from anybody, so nothing in them is believed: a compressed name may only point
//! backwards, which ends every loop, is never longer than 255 bytes, and consists of the letters of
//! host names, so that it can be compared with what people write.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The port of DNS.
pub const PORT: u16 = 53;

/// The fixed part in front.
const HEADER: usize = 12;
/// Records that are looked at, at most.
const RECORDS: u16 = 128;
/// Aliases that lead from the name asked for to its addresses, at most.
const CHAIN: usize = 16;
/// Addresses that are taken from one answer, at most.
const ADDRESSES: usize = 64;
/// Bytes of a name on the wire, at most (RFC 1035 §2.3.4).
const NAME: usize = 255;

const CLASS_IN: u16 = 1;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;

/// A question for the addresses of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// What asker and answerer know it by.
    pub id: u16,
    /// The name in lower case, without the final dot.
    pub name: String,
    /// Addresses of IPv6 are asked for; else those of IPv4.
    pub six: bool,
}

/// A DNS message with one question for addresses in the Internet's class.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// The question, which an answer repeats.
    pub question: Question,
    /// It is an answer.
    pub answer: bool,
    /// All of it is here: it was not truncated.
    pub complete: bool,
    /// The resolver says that there is no such name, or that it cannot tell.
    pub failed: bool,
    bytes: &'a [u8],
    records: usize,
}

impl<'a> Message<'a> {
    /// Reads a message; `None` for whatever is not an ordinary question for addresses, or the answer
    /// to one.
    pub fn parse(bytes: &'a [u8]) -> Option<Message<'a>> {
        let [id, flags, questions] = [0, 2, 4].map(|at| u16_at(bytes, at));
        let flags = flags?;
        // Opcode 0: a plain query.
        if flags & 0x7800 != 0 || questions? != 1 {
            return None;
        }
        let (name, at) = name(bytes, HEADER)?;
        let six = match (u16_at(bytes, at)?, u16_at(bytes, at + 2)?) {
            (TYPE_A, CLASS_IN) => false,
            (TYPE_AAAA, CLASS_IN) => true,
            _ => return None,
        };
        let question = Question { id: id?, name, six };
        let (answer, complete, failed) = (flags & 0x8000 != 0, flags & 0x0200 == 0, flags & 0x000f != 0);
        Some(Message { question, answer, complete, failed, bytes, records: at + 4 })
    }

    /// The addresses that the message gives to the name asked for, by way of its aliases, and for how
    /// many seconds each holds. `None` if the message is broken.
    pub fn addresses(&self) -> Option<Vec<(IpAddr, u32)>> {
        let mut at = self.records;
        let (mut aliases, mut addresses) = (Vec::new(), Vec::new());
        for _ in 0..u16_at(self.bytes, 6)?.min(RECORDS) {
            // A record about a name that no host has is of no use, but does not spoil the others.
            let end = name_end(self.bytes, at)?;
            let owner = name(self.bytes, at).map(|(name, _)| name);
            let [kind, class, length] = [0, 2, 8].map(|field| u16_at(self.bytes, end + field));
            let (kind, class, length) = (kind?, class?, usize::from(length?));
            let lives =
                u32::from(u16_at(self.bytes, end + 4)?) << 16 | u32::from(u16_at(self.bytes, end + 6)?);
            let data = self.bytes.get(end + 10..end + 10 + length)?;
            at = end + 10 + length;
            let Some(owner) = owner.filter(|_| class == CLASS_IN) else { continue };
            // The sign bit counts as zero (RFC 2181 §8).
            let lives = if lives > i32::MAX as u32 { 0 } else { lives };
            match kind {
                TYPE_CNAME => aliases.extend(name(self.bytes, end + 10).map(|(to, _)| (owner, to, lives))),
                TYPE_A if !self.question.six => {
                    addresses.push((owner, IpAddr::V4(Ipv4Addr::from(*data.first_chunk::<4>()?)), lives));
                }
                TYPE_AAAA if self.question.six => {
                    addresses.push((owner, IpAddr::V6(Ipv6Addr::from(*data.first_chunk::<16>()?)), lives));
                }
                _ => {}
            }
        }
        let (mut current, mut lives) = (&self.question.name, u32::MAX);
        for _ in 0..CHAIN {
            let Some((_, to, seconds)) = aliases.iter().find(|(from, ..)| from == current) else { break };
            (current, lives) = (to, lives.min(*seconds));
        }
        let found = addresses.iter().filter(|(owner, ..)| owner == current);
        Some(found.map(|(_, ip, seconds)| (*ip, lives.min(*seconds))).take(ADDRESSES).collect())
    }
}

/// What a message of one plain question is about, whatever type of record it asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    /// The name in lower case, without the final dot.
    pub name: String,
    /// It is an answer.
    pub answer: bool,
    /// It had too little room: its asker is to ask by TCP.
    pub truncated: bool,
}

/// Reads what a message is about; `None` for what is no ordinary question or answer, or about a name that
/// no host has.
pub fn about(bytes: &[u8]) -> Option<About> {
    let flags = u16_at(bytes, 2)?;
    if flags & 0x7800 != 0 || u16_at(bytes, 4)? != 1 {
        return None;
    }
    let (name, _) = name(bytes, HEADER)?;
    Some(About { name, answer: flags & 0x8000 != 0, truncated: flags & 0x0200 != 0 })
}

/// The messages of a TCP segment, each of which has its length in front (RFC 1035 §4.2.2). What does
/// not lie in it as a whole is left out.
pub fn framed(mut payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(payload, 0)?);
        let message = payload.get(2..2 + length)?;
        payload = &payload[2 + length..];
        Some(message)
    })
}

/// The name at `at` in lower case, without the final dot, and where what follows it begins. `None`
/// also for names that no host has, such as the root's.
fn name(bytes: &[u8], at: usize) -> Option<(String, usize)> {
    let (mut name, mut at, mut end) = (String::new(), at, None);
    // Where the part that is being read begins: a pointer leads before it.
    let mut begin = at;
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => break,
            1..64 => {
                let label = bytes.get(at + 1..at + 1 + length)?;
                // With the dot, and the length of the root at the end.
                if name.len() + length + 2 > NAME {
                    return None;
                }
                if !name.is_empty() {
                    name.push('.');
                }
                for byte in label {
                    let fine = byte.is_ascii_alphanumeric() || b"-_".contains(byte);
                    name.push(char::from(fine.then(|| byte.to_ascii_lowercase())?));
                }
                at += 1 + length;
            }
            _ => {
                let to = usize::from(pointer(bytes, at)?);
                if to >= begin {
                    return None;
                }
                end.get_or_insert(at + 2);
                (at, begin) = (to, to);
            }
        }
    }
    (!name.is_empty()).then_some((name, end.unwrap_or(at + 1)))
}

/// Where what follows the name at `at` begins.
fn name_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            length @ 1..64 => at += 1 + length,
            _ => return pointer(bytes, at).map(|_| at + 2),
        }
    }
}

/// Where the pointer at `at` leads. `None` for the other kinds of labels, which nobody uses.
fn pointer(bytes: &[u8], at: usize) -> Option<u16> {
    u16_at(bytes, at).filter(|word| word & 0xc000 == 0xc000).map(|word| word & 0x3fff)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|pair| u16::from_be_bytes(*pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire_name(name: &str) -> Vec<u8> {
        let labels = name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
        labels.chain([0]).collect()
    }

    /// An answer to a question for the addresses of `asked`.
    fn answer(asked: &str, records: &[(&[u8], u16, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, records.len() as u8, 0, 0, 0, 0];
        bytes.extend(wire_name(asked));
        bytes.extend([0, 1, 0, 1]);
        for (owner, kind, lives, data) in records {
            bytes.extend(*owner);
            bytes.extend([&kind.to_be_bytes()[..], &[0, 1], &lives.to_be_bytes()].concat());
            bytes.extend([&(data.len() as u16).to_be_bytes()[..], data].concat());
        }
        bytes
    }

    fn found(bytes: &[u8]) -> Option<Vec<(IpAddr, u32)>> {
        Message::parse(bytes).unwrap().addresses()
    }

    const IP: [u8; 4] = [198, 51, 100, 7];

    #[test]
    fn aliases_are_followed_from_the_name_asked_for_and_the_shortest_life_counts() {
        let (a, b, c) = (wire_name("B.example"), wire_name("c.example"), wire_name("other.example"));
        let bytes = answer(
            "a.example",
            &[
                (&a, TYPE_CNAME, 30, &b),
                (&b, TYPE_A, 300, &IP),
                (&[0xc0, 12], TYPE_CNAME, 60, &a),
                (&c, TYPE_A, 300, &[192, 0, 2, 1]),
                (&[0], TYPE_A, 300, &[192, 0, 2, 2]),
            ],
        );
        let message = Message::parse(&bytes).unwrap();
        assert!(message.answer && message.complete);
        assert_eq!(message.question, Question { id: 0x1234, name: "a.example".to_owned(), six: false });
        assert_eq!(message.addresses().unwrap(), [(IP.into(), 30)]);
    }

    #[test]
    fn loops_of_aliases_and_of_pointers_end() {
        let (a, b) = (wire_name("a.example"), wire_name("b.example"));
        assert_eq!(
            found(&answer("a.example", &[(&a, TYPE_CNAME, 1, &b), (&b, TYPE_CNAME, 1, &a)])),
            Some(vec![])
        );
        for pointer in [[0xc0, 27], [0xc0, 28], [0xff, 0xff]] {
            assert_eq!(
                found(&answer("a.example", &[(&pointer, TYPE_A, 1, &IP)])),
                Some(vec![]),
                "{pointer:?}"
            );
        }
        // Two names, each ending in the other.
        let mut bytes =
            vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0xc0, 16, 1, b'b', 0xc0, 12, 0, 1, 0, 1];
        assert!(Message::parse(&bytes).is_none());
        bytes[12..16].copy_from_slice(&[0xc0, 12, 0, 0]);
        assert!(Message::parse(&bytes).is_none());
    }

    #[test]
    fn what_is_cut_short_is_not_read() {
        let bytes = answer("a.example", &[(&[0xc0, 12], TYPE_A, 60, &IP)]);
        for length in 0..bytes.len() {
            let read = Message::parse(&bytes[..length]).and_then(|message| message.addresses());
            assert_eq!(read, None, "{length}");
        }
        assert_eq!(found(&bytes), Some(vec![(IP.into(), 60)]));
        let truncated = [&bytes[..2], &[0x83], &bytes[3..]].concat();
        assert!(!Message::parse(&truncated).unwrap().complete);
    }

    #[test]
    fn names_that_are_too_long_or_of_strange_letters_are_none() {
        let long = |labels: usize| answer(&vec!["a".repeat(63); labels].join("."), &[]);
        assert!(Message::parse(&long(3)).is_some());
        assert!(Message::parse(&long(4)).is_none());
        assert!(Message::parse(&answer("a.exa mple", &[])).is_none());
        assert!(Message::parse(&answer(&format!("{}.a", "b".repeat(64)), &[])).is_none());
    }

    #[test]
    fn messages_of_a_stream_are_told_apart() {
        let stream = [0, 1, 7, 0, 2, 8, 9, 0, 3, 1];
        assert_eq!(framed(&stream).collect::<Vec<_>>(), [&[7][..], &[8, 9]]);
        assert_eq!(framed(&[]).count() + framed(&[9]).count(), 0);
    }
}
