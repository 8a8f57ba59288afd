//! Ethernet II: addresses, the frame's header.

use super::ParseError;
use etherparse::{EtherType, Ethernet2Header, Ethernet2HeaderSlice};
use std::fmt;
use std::str::FromStr;

/// Length of an Ethernet II header without tags, in bytes.
pub const HEADER: usize = Ethernet2Header::LEN;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of a VLAN tag (IEEE 802.1Q).
pub const VLAN: u16 = 0x8100;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Everybody on the link.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// Whether it names a group, broadcast included (the lowest bit of the first byte).
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether it is all zeros, which nobody owns.
    pub const fn is_zero(self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

/// Who a frame says that it is from; all zeros if it is too short to say.
pub fn source(frame: &[u8]) -> MacAddr {
    let source = frame.get(6..12).and_then(|bytes| bytes.try_into().ok());
    MacAddr(source.unwrap_or_default())
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no hardware address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{0}' is not a hardware address; expected six hex bytes like 02:00:00:00:00:01")]
pub struct MacAddrError(String);

impl FromStr for MacAddr {
    type Err = MacAddrError;

    /// Reads six two-digit hex bytes with `:` between them.
    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        let error = || MacAddrError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(error)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(error());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        match parts.next() {
            None => Ok(MacAddr(bytes)),
            Some(_) => Err(error()),
        }
    }
}

/// The header of an Ethernet frame. A tagged frame has the tag's EtherType ([`VLAN`]) here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Who it is for.
    pub destination: MacAddr,
    /// Who sent it.
    pub source: MacAddr,
    /// What is in it.
    pub ethertype: u16,
}

impl Frame {
    /// Reads the header at the front of `bytes`.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] for fewer than 14 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Frame, ParseError> {
        let header = Ethernet2HeaderSlice::from_slice(bytes)
            .map_err(|error| ParseError::truncated("Ethernet header", error))?;
        Ok(Frame {
            destination: MacAddr(header.destination()),
            source: MacAddr(header.source()),
            ethertype: header.ether_type().0,
        })
    }

    /// The header as bytes, for `Buffer::push_front` or to write over another one.
    pub fn to_bytes(self) -> [u8; HEADER] {
        Ethernet2Header {
            source: self.source.0,
            destination: self.destination.0,
            ether_type: EtherType(self.ethertype),
        }
        .to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_print() {
        let mac = MacAddr([0x02, 0, 0xab, 0xcd, 0, 0xff]);
        assert_eq!(mac.to_string(), "02:00:ab:cd:00:ff");
        assert_eq!("02:00:AB:cd:00:ff".parse(), Ok(mac));
        for text in [
            "",
            "02:00:ab:cd:00",
            "02:00:ab:cd:00:ff:00",
            "2:0:ab:cd:0:ff",
            "+2:00:ab:cd:00:ff",
            "02-00-ab-cd-00-ff",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }

    #[test]
    fn groups_and_nobody() {
        assert!(MacAddr::BROADCAST.is_multicast());
        assert!(MacAddr([1, 0, 0x5e, 0, 0, 1]).is_multicast());
        assert!(!MacAddr([2, 0, 0, 0, 0, 1]).is_multicast());
        assert!(MacAddr::default().is_zero());
        assert!(!MacAddr::BROADCAST.is_zero());
    }

    #[test]
    fn a_frame_reads_as_it_was_written_and_needs_14_bytes() {
        let frame =
            Frame { destination: MacAddr::BROADCAST, source: MacAddr([2, 0, 0, 0, 0, 1]), ethertype: ARP };
        let bytes = frame.to_bytes();
        assert_eq!(Frame::parse(&bytes), Ok(frame));
        for length in 0..14 {
            assert_eq!(
                Frame::parse(&bytes[..length]),
                Err(ParseError::Truncated { what: "Ethernet header", need: 14, have: length })
            );
        }
    }
}
