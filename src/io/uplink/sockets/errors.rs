//! ICMP errors towards the inside, from what sockets say about packets that were sent.

use crate::flow::{Endpoint, Protocol};
use crate::io::sys::datagram::Complaint;
use crate::wire::craft::{self, IcmpError};
use crate::wire::{Buffer, Offload, Packet, icmp};
use std::net::{IpAddr, SocketAddr};

/// What a router would say if it could not pass a packet for the reason that the kernel gave with
/// `errno`; `None` if it would say nothing. Size is told by the socket's error queue, with the MTU.
pub fn of_errno(errno: i32) -> Option<IcmpError> {
    match errno {
        libc::ENETUNREACH | libc::ENETDOWN | libc::EADDRNOTAVAIL | libc::ENODEV => {
            Some(IcmpError::NetUnreachable)
        }
        libc::EHOSTUNREACH | libc::EHOSTDOWN => Some(IcmpError::HostUnreachable),
        libc::EACCES | libc::EPERM => Some(IcmpError::Prohibited),
        libc::ECONNREFUSED => Some(IcmpError::PortUnreachable),
        _ => None,
    }
}

/// What a complaint of the error queue says.
fn of_complaint(complaint: &Complaint, six: bool) -> Option<IcmpError> {
    let mtu = || u16::try_from(complaint.info).ok().map(|mtu| IcmpError::TooBig { mtu });
    let Some(message) = complaint.icmp else {
        return if complaint.errno == libc::EMSGSIZE { mtu() } else { of_errno(complaint.errno) };
    };
    match (six, message) {
        (false, (3, 3 | 2)) | (true, (1, 4)) => Some(IcmpError::PortUnreachable),
        (false, (3, 4)) | (true, (2, _)) => mtu(),
        (false, (3, 0 | 5 | 6 | 11)) | (true, (1, 0)) => Some(IcmpError::NetUnreachable),
        (false, (3, 9 | 10 | 13)) | (true, (1, 1 | 6)) => Some(IcmpError::Prohibited),
        (true, (1, 5)) => Some(IcmpError::SourceProhibited),
        (false, (3, _)) | (true, (1, _)) => Some(IcmpError::HostUnreachable),
        (false, (11, 0)) | (true, (3, 0)) => Some(IcmpError::TtlExceeded),
        (false, (11, _)) | (true, (3, _)) => Some(IcmpError::ReassemblyTimeExceeded),
        // Where the wrong byte is, the kernel does not tell.
        (false, (12, _)) | (true, (4, _)) => Some(IcmpError::ParameterProblem { pointer: 0 }),
        _ => None,
    }
}

/// The error `error` of `from` about the IP packet `about`, to its source; `None` where none may be
/// sent.
pub fn about(error: IcmpError, from: IpAddr, about: &[u8]) -> Option<Buffer> {
    let packet = Packet::parse(about, &Offload::default()).ok()?;
    let to = packet.summary.source();
    if !craft::may_be_reported(&packet) || to.is_ipv4() != from.is_ipv4() {
        return None;
    }
    Some(Buffer::from_bytes(&craft::icmp_error(error, from, to, about)))
}

/// The packet that a complaint stands for: about a datagram from `outside` to `remote` (as the
/// inside knows it), of which `quoted` is what came back; `from` says so.
pub fn of_queue(
    complaint: &Complaint,
    protocol: Protocol,
    outside: Endpoint,
    remote: Endpoint,
    from: IpAddr,
    quoted: &[u8],
) -> Option<Buffer> {
    let error = of_complaint(complaint, outside.ip.is_ipv6())?;
    if outside.ip.is_ipv4() != remote.ip.is_ipv4() || from.is_ipv4() != remote.ip.is_ipv4() {
        return None;
    }
    let quoted = quoted.get(..quoted.len().min(craft::ERROR_LENGTH_IPV6))?;
    let sent = match protocol {
        Protocol::Udp => {
            let ends = [outside, remote].map(|end| SocketAddr::new(end.ip, end.port));
            craft::udp(ends[0], ends[1], quoted)
        }
        Protocol::Icmp => {
            let (header, data) = quoted.split_at_checked(icmp::HEADER)?;
            let sequence = u16::from_be_bytes([header[6], header[7]]);
            craft::echo(outside.ip, remote.ip, true, outside.port, sequence, data)
        }
        _ => return None,
    };
    Some(Buffer::from_bytes(&craft::icmp_error(error, from, outside.ip, &sent)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Summary;

    #[test]
    fn a_complaint_quotes_the_packet_that_the_translator_sent() {
        let outside = Endpoint::new([192, 0, 0, 8], 40000);
        let remote = Endpoint::new([198, 51, 100, 7], 53);
        let complaint = Complaint {
            errno: libc::ECONNREFUSED,
            icmp: Some((3, 3)),
            info: 0,
            about: ([198, 51, 100, 7], 53).into(),
            offender: Some(remote.ip),
            length: 4,
        };
        let echo = craft::echo(outside.ip, remote.ip, true, 0, 9, b"ping");
        for (protocol, quoted) in [(Protocol::Udp, &b"data"[..]), (Protocol::Icmp, &echo[20..])] {
            let made = of_queue(&complaint, protocol, outside, remote, remote.ip, quoted).unwrap();
            let packet = Packet::parse(made.bytes(), &Offload::default()).unwrap();
            let Summary::Error(error) = packet.summary else { panic!("no error: {packet:?}") };
            assert_eq!((error.from, error.to), (remote.ip, outside.ip));
            assert_eq!((error.about.protocol, error.about.source), (protocol, outside));
            assert_eq!(packet.icmp, Some((3, 3)));
        }
        let local = Complaint { errno: libc::EMSGSIZE, icmp: None, info: 1400, ..complaint };
        let made = of_queue(&local, Protocol::Udp, outside, remote, outside.ip, b"").unwrap();
        let packet = Packet::parse(made.bytes(), &Offload::default()).unwrap();
        assert_eq!(packet.next_hop_mtu(made.bytes()), Some(1400));
        for length in 0..8 {
            assert!(
                of_queue(&complaint, Protocol::Icmp, outside, remote, remote.ip, &echo[20..20 + length])
                    .is_none()
            );
        }
    }
}
