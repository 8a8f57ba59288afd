//! Is there any packet filter rule in a namespace? Asked of the kernel itself, for both kinds of
//! table: nftables, and the older iptables.

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use std::{fs, io};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE` of the kernel's nfnetlink.h and nf_tables.h.
const GET_TABLE: u16 = 10 << 8 | 1;
const NEW_TABLE: u16 = 10 << 8;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;

/// The filter tables of a namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tables {
    /// How many nftables tables there are; none if the kernel has no nftables.
    pub nftables: Option<usize>,
    /// The iptables tables that are loaded.
    pub iptables: Vec<String>,
}

impl Tables {
    /// Reads the tables of the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn read() -> io::Result<Tables> {
        let iptables = match fs::read_to_string("/proc/thread-self/net/ip_tables_names") {
            Ok(names) => names.lines().map(String::from).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Tables { nftables: nftables()?, iptables })
    }

    /// There is no table, hence no rule.
    pub fn none(&self) -> bool {
        self.nftables.unwrap_or(0) == 0 && self.iptables.is_empty()
    }
}

fn nftables() -> io::Result<Option<usize>> {
    let mut socket = match Socket::new(NETLINK_NETFILTER) {
        Ok(socket) => socket,
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(None),
        Err(error) => return Err(error),
    };
    socket.bind_auto()?;
    let mut request = Vec::new();
    request.extend_from_slice(&20u32.to_ne_bytes());
    request.extend_from_slice(&GET_TABLE.to_ne_bytes());
    request.extend_from_slice(&DUMP.to_ne_bytes());
    // Sequence and port 0; then every family, version 0, no resource.
    request.extend_from_slice(&[0; 12]);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut tables = 0;
    let mut answer = Vec::with_capacity(64 * 1024);
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        let mut rest = answer.as_slice();
        while rest.len() >= 16 {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            match kind {
                NLMSG_DONE => return Ok(Some(tables)),
                NLMSG_ERROR => return refusal(rest),
                NEW_TABLE => tables += 1,
                _ => {}
            }
            if length < 16 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a netlink message shorter than its header",
                ));
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
    }
}

/// A kernel without nftables does not know the question.
fn refusal(message: &[u8]) -> io::Result<Option<usize>> {
    let code = message.get(16..20).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
    match -code {
        libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT => Ok(None),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
