//! What a STUN message says: the attributes of RFC 8489 §14, RFC 5780 §7 and RFC 3489 §11.2 that a
//! server and a probe need, and any other as bytes.

use super::message::{MAGIC_COOKIE, Malformed, Transaction};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const MAPPED_ADDRESS: u16 = 0x0001;
const CHANGE_REQUEST: u16 = 0x0003;
const SOURCE_ADDRESS: u16 = 0x0004;
const CHANGED_ADDRESS: u16 = 0x0005;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PADDING: u16 = 0x0026;
const RESPONSE_PORT: u16 = 0x0027;
const SOFTWARE: u16 = 0x8022;
const RESPONSE_ORIGIN: u16 = 0x802b;
const OTHER_ADDRESS: u16 = 0x802c;

/// Types of credentials and such, which somebody without a secret to check them by passes over
/// (RFC 8489 §6.3.1): USERNAME, MESSAGE-INTEGRITY, REALM, NONCE, MESSAGE-INTEGRITY-SHA256, USERHASH.
const PASSED_OVER: [u16; 6] = [0x0006, 0x0008, 0x0014, 0x0015, 0x001c, 0x001e];

/// An attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attribute {
    /// Whom the server sees. A NAT that looks into payloads may have changed it.
    MappedAddress(SocketAddr),
    /// The same, hidden from such NATs.
    XorMappedAddress(SocketAddr),
    /// Answer from elsewhere (RFC 5780 §7.2).
    ChangeRequest {
        /// From the other address.
        ip: bool,
        /// From the other port.
        port: bool,
    },
    /// Where a classic response was sent from.
    SourceAddress(SocketAddr),
    /// Where a classic response would come from with both changes.
    ChangedAddress(SocketAddr),
    /// Why a request was not served: 300 to 699, and words.
    ErrorCode(u16, Vec<u8>),
    /// The types that a server did not know and had to.
    UnknownAttributes(Vec<u16>),
    /// Bytes to be many, this many; what they are does not matter (RFC 5780 §7.6).
    Padding(u16),
    /// Answer to this port (RFC 5780 §7.5).
    ResponsePort(u16),
    /// What its sender is.
    Software(Vec<u8>),
    /// Where a response was sent from (RFC 5780 §7.3).
    ResponseOrigin(SocketAddr),
    /// Where it would come from with both changes (RFC 5780 §7.4).
    OtherAddress(SocketAddr),
    /// Any other type, and its value.
    Other(u16, Vec<u8>),
}

impl Attribute {
    /// Its type number.
    pub fn kind(&self) -> u16 {
        match self {
            Attribute::MappedAddress(_) => MAPPED_ADDRESS,
            Attribute::XorMappedAddress(_) => XOR_MAPPED_ADDRESS,
            Attribute::ChangeRequest { .. } => CHANGE_REQUEST,
            Attribute::SourceAddress(_) => SOURCE_ADDRESS,
            Attribute::ChangedAddress(_) => CHANGED_ADDRESS,
            Attribute::ErrorCode(..) => ERROR_CODE,
            Attribute::UnknownAttributes(_) => UNKNOWN_ATTRIBUTES,
            Attribute::Padding(_) => PADDING,
            Attribute::ResponsePort(_) => RESPONSE_PORT,
            Attribute::Software(_) => SOFTWARE,
            Attribute::ResponseOrigin(_) => RESPONSE_ORIGIN,
            Attribute::OtherAddress(_) => OTHER_ADDRESS,
            Attribute::Other(kind, _) => *kind,
        }
    }

    /// Whether somebody who does not know this type must say so instead of serving the request
    /// (types below 0x8000).
    pub fn is_unknown_and_required(&self) -> bool {
        matches!(self, Attribute::Other(kind, _) if *kind < 0x8000 && !PASSED_OVER.contains(kind))
    }

    /// Reads the value of an attribute of type `kind`.
    ///
    /// # Errors
    /// The value cannot be of that type.
    pub fn read(kind: u16, value: &[u8], transaction: &Transaction) -> Result<Attribute, Malformed> {
        Ok(match kind {
            MAPPED_ADDRESS => Attribute::MappedAddress(address(value)?),
            XOR_MAPPED_ADDRESS => Attribute::XorMappedAddress(masked(address(value)?, transaction)),
            SOURCE_ADDRESS => Attribute::SourceAddress(address(value)?),
            CHANGED_ADDRESS => Attribute::ChangedAddress(address(value)?),
            RESPONSE_ORIGIN => Attribute::ResponseOrigin(address(value)?),
            OTHER_ADDRESS => Attribute::OtherAddress(address(value)?),
            CHANGE_REQUEST => {
                let [.., flags] = <[u8; 4]>::try_from(value).map_err(|_| Malformed::Attribute)?;
                Attribute::ChangeRequest { ip: flags & 4 != 0, port: flags & 2 != 0 }
            }
            ERROR_CODE => match value.split_first_chunk::<4>() {
                Some(([_, _, class, number], reason)) if (3..7).contains(&(class & 7)) && *number < 100 => {
                    Attribute::ErrorCode(u16::from(class & 7) * 100 + u16::from(*number), reason.to_vec())
                }
                _ => return Err(Malformed::Attribute),
            },
            UNKNOWN_ATTRIBUTES if value.len().is_multiple_of(2) => Attribute::UnknownAttributes(
                value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect(),
            ),
            UNKNOWN_ATTRIBUTES => return Err(Malformed::Attribute),
            PADDING => Attribute::Padding(u16::try_from(value.len()).map_err(|_| Malformed::Attribute)?),
            RESPONSE_PORT => match value {
                // With or without the two bytes of padding counted.
                [high, low] | [high, low, _, _] => Attribute::ResponsePort(u16::from_be_bytes([*high, *low])),
                _ => return Err(Malformed::Attribute),
            },
            SOFTWARE => Attribute::Software(value.to_vec()),
            kind => Attribute::Other(kind, value.to_vec()),
        })
    }

    /// Appends its value to `out`, without padding.
    pub fn write(&self, out: &mut Vec<u8>, transaction: &Transaction) {
        match self {
            Attribute::MappedAddress(address)
            | Attribute::SourceAddress(address)
            | Attribute::ChangedAddress(address)
            | Attribute::ResponseOrigin(address)
            | Attribute::OtherAddress(address) => write_address(out, *address),
            Attribute::XorMappedAddress(address) => write_address(out, masked(*address, transaction)),
            Attribute::ChangeRequest { ip, port } => {
                out.extend([0, 0, 0, u8::from(*ip) << 2 | u8::from(*port) << 1]);
            }
            Attribute::ErrorCode(code, reason) => {
                let class = u8::try_from((code / 100) & 7).unwrap_or(0);
                let number = u8::try_from(code % 100).unwrap_or(0);
                out.extend([0, 0, class, number]);
                out.extend(reason);
            }
            Attribute::UnknownAttributes(kinds) => {
                out.extend(kinds.iter().flat_map(|kind| kind.to_be_bytes()))
            }
            Attribute::Padding(length) => out.resize(out.len() + usize::from(*length), 0),
            Attribute::ResponsePort(port) => {
                out.extend(port.to_be_bytes());
                out.extend([0; 2]);
            }
            Attribute::Software(bytes) | Attribute::Other(_, bytes) => out.extend(bytes),
        }
    }
}

fn address(value: &[u8]) -> Result<SocketAddr, Malformed> {
    let ([_, family, high, low], ip) = value.split_first_chunk::<4>().ok_or(Malformed::Attribute)?;
    let ip = match family {
        1 => <[u8; 4]>::try_from(ip).map(IpAddr::from),
        2 => <[u8; 16]>::try_from(ip).map(IpAddr::from),
        _ => return Err(Malformed::Attribute),
    };
    Ok(SocketAddr::new(ip.map_err(|_| Malformed::Attribute)?, u16::from_be_bytes([*high, *low])))
}

fn write_address(out: &mut Vec<u8>, address: SocketAddr) {
    out.extend([0, if address.is_ipv4() { 1 } else { 2 }]);
    out.extend(address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => out.extend(ip.octets()),
        IpAddr::V6(ip) => out.extend(ip.octets()),
    }
}

/// The address XOR cookie and transaction (RFC 8489 §14.2); doing it twice undoes it.
fn masked(address: SocketAddr, transaction: &Transaction) -> SocketAddr {
    let [c0, c1, ..] = MAGIC_COOKIE;
    let port = address.port() ^ u16::from_be_bytes([c0, c1]);
    let ip = match address.ip() {
        IpAddr::V4(ip) => Ipv4Addr::from(ip.to_bits() ^ u32::from_be_bytes(MAGIC_COOKIE)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(ip.to_bits() ^ u128::from_be_bytes(transaction.0)).into(),
    };
    SocketAddr::new(ip, port)
}
