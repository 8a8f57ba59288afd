//! STUN messages, bytes to meaning and back (RFC 8489 §5), classic ones (RFC 3489) among them.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! |0 0|  class and method         |  length of what follows 20 B  |
//! |  magic cookie; in a classic message part of the transaction   |
//! |  transaction, 12 bytes                                        |
//! |  attribute: type              |  length of its value          |
//! |  value, padded to 4 bytes ...                                 |
//! ```

use super::attribute::Attribute;
use std::fmt;

/// The fixed part of a message, in bytes.
pub const HEADER: usize = 20;
/// What tells a modern message from a classic one.
pub const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// The only method that is answered here: whom do you see?
pub const BINDING: u16 = 1;
/// The attribute that ends a message with its checksum.
const FINGERPRINT: u16 = 0x8028;
/// Keeps the checksum apart from one that the protocol around it may have (RFC 8489 §14.7).
const FINGERPRINT_MASK: u32 = 0x5354_554e;

/// What joins a response to its request. The first four bytes are the magic cookie, unless its
/// sender speaks RFC 3489.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Transaction(pub [u8; 16]);

impl Transaction {
    /// A modern one with these random bytes.
    pub fn modern(random: [u8; 12]) -> Transaction {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&MAGIC_COOKIE);
        bytes[4..].copy_from_slice(&random);
        Transaction(bytes)
    }

    /// A classic one with these random bytes; they do not look modern.
    pub fn classic(random: [u8; 12]) -> Transaction {
        let mut transaction = Transaction::modern(random);
        transaction.0[0] = !MAGIC_COOKIE[0];
        transaction
    }

    /// Whether its sender speaks RFC 3489 and knows nothing newer.
    pub fn is_classic(&self) -> bool {
        self.0[..4] != MAGIC_COOKIE
    }
}

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// It wants a response.
    Request,
    /// It wants none.
    Indication,
    /// The response to a request that was served.
    Success,
    /// The response to one that was not.
    Error,
}

/// A STUN message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// What it is.
    pub class: Class,
    /// What it is about, 12 bits; [`BINDING`] for all that is answered here.
    pub method: u16,
    /// What joins a response to its request.
    pub transaction: Transaction,
    /// What it says, in order, a fingerprint apart.
    pub attributes: Vec<Attribute>,
    /// Whether it ends with a checksum of itself; on reading, a right one.
    pub fingerprint: bool,
}

/// Why bytes are no STUN message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Malformed {
    /// Shorter than its header.
    Short,
    /// The first two bits are not zero: another protocol (RFC 8489 §5).
    NotStun,
    /// The length field is not the length, or no multiple of 4.
    Length,
    /// An attribute ends after its message, or its value cannot be of its type.
    Attribute,
    /// The checksum at its end is wrong, or not at its end.
    Fingerprint,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Short => "shorter than a STUN header",
            Malformed::NotStun => "not STUN",
            Malformed::Length => "the length field is wrong",
            Malformed::Attribute => "an attribute is malformed",
            Malformed::Fingerprint => "the fingerprint is wrong",
        })
    }
}

impl Message {
    /// A request to be told whom the server sees.
    pub fn request(transaction: Transaction) -> Message {
        let (class, method) = (Class::Request, BINDING);
        Message { class, method, transaction, attributes: Vec::new(), fingerprint: false }
    }

    /// The same with one attribute more.
    #[must_use]
    pub fn with(mut self, attribute: Attribute) -> Message {
        self.attributes.push(attribute);
        self
    }

    /// The first attribute that `pick` takes something from: of several alike, only the first
    /// counts (RFC 8489 §14).
    pub fn find<'a, T>(&'a self, pick: impl FnMut(&'a Attribute) -> Option<T>) -> Option<T> {
        self.attributes.iter().find_map(pick)
    }

    /// Reads a message that fills `bytes`.
    ///
    /// # Errors
    /// What it is instead.
    pub fn parse(bytes: &[u8]) -> Result<Message, Malformed> {
        let (header, mut rest) = bytes.split_first_chunk::<HEADER>().ok_or(Malformed::Short)?;
        let kind = u16::from_be_bytes([header[0], header[1]]);
        if kind & 0xc000 != 0 {
            return Err(Malformed::NotStun);
        }
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if length != rest.len() || length % 4 != 0 {
            return Err(Malformed::Length);
        }
        let mut transaction = Transaction([0; 16]);
        transaction.0.copy_from_slice(&header[4..]);
        let (class, method) = split(kind);
        let mut message = Message { class, method, transaction, attributes: Vec::new(), fingerprint: false };
        while let Some(([k0, k1, l0, l1], body)) = rest.split_first_chunk::<4>() {
            if message.fingerprint {
                return Err(Malformed::Fingerprint);
            }
            let kind = u16::from_be_bytes([*k0, *k1]);
            let length = usize::from(u16::from_be_bytes([*l0, *l1]));
            let value = body.get(..length).ok_or(Malformed::Attribute)?;
            if kind == FINGERPRINT && !transaction.is_classic() {
                let covered = bytes.len() - rest.len();
                let sum = (crc32(&bytes[..covered]) ^ FINGERPRINT_MASK).to_be_bytes();
                if value != sum {
                    return Err(Malformed::Fingerprint);
                }
                message.fingerprint = true;
            } else {
                message.attributes.push(Attribute::read(kind, value, &transaction)?);
            }
            rest = body.get(length.next_multiple_of(4)..).ok_or(Malformed::Attribute)?;
        }
        Ok(message)
    }

    /// Writes it. Padding is zero. Attributes beyond the 64 KiB that a message can have are left out.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend(join(self.class, self.method).to_be_bytes());
        out.extend([0; 2]);
        out.extend(self.transaction.0);
        let end = if self.fingerprint { 8 } else { 0 };
        for attribute in &self.attributes {
            let start = out.len();
            out.extend(attribute.kind().to_be_bytes());
            out.extend([0; 2]);
            attribute.write(&mut out, &self.transaction);
            let length = out.len() - start - 4;
            out.resize(out.len().next_multiple_of(4), 0);
            match u16::try_from(length) {
                Ok(length) if out.len() + end - HEADER <= usize::from(u16::MAX) => {
                    out[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
                }
                _ => out.truncate(start),
            }
        }
        let length = u16::try_from(out.len() + end - HEADER).unwrap_or(u16::MAX);
        out[2..4].copy_from_slice(&length.to_be_bytes());
        if self.fingerprint {
            let sum = crc32(&out) ^ FINGERPRINT_MASK;
            out.extend(FINGERPRINT.to_be_bytes());
            out.extend(4u16.to_be_bytes());
            out.extend(sum.to_be_bytes());
        }
        out
    }
}

/// The class bits stand between those of the method (RFC 8489 §5).
fn split(kind: u16) -> (Class, u16) {
    let class = match (kind & 0x100 != 0, kind & 0x10 != 0) {
        (false, false) => Class::Request,
        (false, true) => Class::Indication,
        (true, false) => Class::Success,
        (true, true) => Class::Error,
    };
    (class, kind & 0xf | kind >> 1 & 0x70 | kind >> 2 & 0xf80)
}

fn join(class: Class, method: u16) -> u16 {
    let class = match class {
        Class::Request => 0,
        Class::Indication => 0x10,
        Class::Success => 0x100,
        Class::Error => 0x110,
    };
    class | method & 0xf | (method & 0x70) << 1 | (method & 0xf80) << 2
}

/// The checksum of Ethernet and zip files (ITU V.42), a bit at a time: messages are few and short.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 0 { sum >> 1 } else { sum >> 1 ^ 0xedb8_8320 };
    !bytes.iter().fold(u32::MAX, |sum, &byte| (0..8).fold(sum ^ u32::from(byte), |sum, _| step(sum)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    /// The examples of RFC 5769, as hexadecimal digits.
    const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74\
        002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659202020\
        000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
    const IPV4_RESPONSE: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
        002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
    const IPV6_RESPONSE: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
        002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed41\
        80280004c8fb0b4c";
    const LONG_TERM_REQUEST: &str = "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e3\
        82afe382b900000015001c662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b6578616d706c652e\
        6f72670000080014f67024656dd64a3e02b8e0712e85c9a28ca89666";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    fn xor_mapped(message: &Message) -> Option<SocketAddr> {
        message.find(|attribute| match attribute {
            Attribute::XorMappedAddress(address) => Some(*address),
            _ => None,
        })
    }

    #[test]
    fn the_request_of_rfc_5769_is_read() {
        let message = Message::parse(&bytes(REQUEST)).unwrap();
        assert_eq!((message.class, message.method, message.fingerprint), (Class::Request, BINDING, true));
        assert_eq!(message.attributes[0], Attribute::Software(b"STUN test client".to_vec()));
        assert_eq!(message.attributes[3], Attribute::Other(6, b"evtj:h6vY".to_vec()));
        assert_eq!(message.attributes.len(), 5);
    }

    #[test]
    fn the_responses_of_rfc_5769_are_read() {
        for (hex, mapped) in [
            (IPV4_RESPONSE, "192.0.2.1:32853"),
            (IPV6_RESPONSE, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
        ] {
            let message = Message::parse(&bytes(hex)).unwrap();
            assert_eq!((message.class, message.fingerprint), (Class::Success, true));
            assert_eq!(xor_mapped(&message), Some(mapped.parse().unwrap()));
            assert_eq!(message.attributes[0], Attribute::Software(b"test vector".to_vec()));
        }
    }

    #[test]
    fn what_was_read_is_written_again() {
        // The examples pad with spaces; all but padding, and the checksum over it, is the same.
        let request = Message::parse(&bytes(LONG_TERM_REQUEST)).unwrap();
        assert_eq!(request.write(), bytes(LONG_TERM_REQUEST));
        for hex in [REQUEST, IPV4_RESPONSE, IPV6_RESPONSE] {
            let message = Message::parse(&bytes(hex)).unwrap();
            assert_eq!(message.write().len(), bytes(hex).len());
            assert_eq!(Message::parse(&message.write()), Ok(message));
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed_by_the_fingerprint() {
        let whole = bytes(IPV4_RESPONSE);
        for at in HEADER + 4..whole.len() - 8 {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            assert!(Message::parse(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused_by_name() {
        let whole = bytes(IPV4_RESPONSE);
        assert_eq!(Message::parse(&whole[..19]), Err(Malformed::Short));
        assert_eq!(Message::parse(&whole[..40]), Err(Malformed::Length));
        let with = |at: usize, byte: u8| {
            let mut bad = whole.clone();
            bad[at] = byte;
            Message::parse(&bad)
        };
        assert_eq!(with(0, 0x80), Err(Malformed::NotStun));
        assert_eq!(with(23, 0xff), Err(Malformed::Attribute));
        assert_eq!(with(41, 9), Err(Malformed::Attribute));
        assert_eq!(with(71, 0), Err(Malformed::Fingerprint));
    }

    #[test]
    fn class_and_method_are_joined_and_split() {
        for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
            for method in [0, 1, 3, 0x10, 0x80, 0xfff] {
                assert_eq!(split(join(class, method)), (class, method));
            }
        }
        assert_eq!(join(Class::Error, BINDING), 0x111);
    }

    #[test]
    fn a_message_never_grows_beyond_its_length_field() {
        let long = Attribute::Other(0x8099, vec![1; 40_000]);
        let message = Message::request(Transaction::modern([7; 12])).with(long.clone()).with(long);
        assert_eq!(Message::parse(&message.write()).unwrap().attributes.len(), 1);
    }
}
