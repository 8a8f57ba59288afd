//! The TAP device: where the containers' frames come from and go to.
//!
//! It has two forms behind one type:
//!
//! * **offload**: each frame stands behind a `virtio_net_hdr`, so that super-frames of 64 KiB and
//!   checksums left to later devices pass whole;
//! * **plain**: frames as on a wire, attached through the `tun-tap` crate.
//!
//! Both create the device, or attach to one that an administrator made persistent. A device that
//! was created here goes away with its descriptor, however the process ends.

use super::Link;
use super::filter::Thinned;
use super::sys::{fd, tun};
use super::virtio;
use crate::flow::LinkInfo;
use crate::wire::Buffer;
use rustix::fs::{Mode, OFlags};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

const DEVICE: &str = "/dev/net/tun";
const ETHERNET_HEADER: u8 = 14;

/// What to ask of a new device, best first; kernels differ in what they know.
const OFFLOADS: [u32; 4] = {
    use super::sys::tun::offload::{CSUM, ECN, TSO4, TSO6, USO};
    [CSUM | TSO4 | TSO6 | ECN | USO, CSUM | TSO4 | TSO6 | ECN, CSUM, 0]
};

/// Why there is no TAP. Each says the thing, the cause and the cure.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// There is no `/dev/net/tun`.
    #[error(
        "{DEVICE} is missing: load it with `modprobe tun`, or make it with `mkdir -p /dev/net && mknod /dev/net/tun c 10 200` (in a container, pass `--device /dev/net/tun`)"
    )]
    NoDevice,
    /// `/dev/net/tun` may not be opened.
    #[error(
        "{DEVICE} may not be opened by this user: `chmod 0666 {DEVICE}` (the kernel checks permissions again at each device), or run as root"
    )]
    DeviceForbidden,
    /// The TAP may not be created or attached to.
    #[error(
        "TAP {0}: not permitted: CAP_NET_ADMIN is needed, or a device made for this user beforehand: `ip tuntap add dev {0} mode tap user $(id -un)`"
    )]
    Forbidden(String),
    /// Somebody else has it open.
    #[error(
        "TAP {0} is in use by another process, perhaps another tapnat: stop that one, or choose another name with --tap"
    )]
    Busy(String),
    /// The name cannot be an interface's.
    #[error(
        "TAP name `{0}` cannot be an interface's name: it must have 1 to 15 bytes, no `/`, no white space"
    )]
    Name(String),
    /// There is an interface of that name that cannot be used.
    #[error(
        "{0} exists and is not a TAP with one queue: choose another name with --tap, or remove it with `ip link delete {0}`"
    )]
    Unsuitable(String),
    /// The inherited descriptor is no TAP.
    #[error("--tap-fd {0}: this descriptor is not a TAP: {1}")]
    Descriptor(RawFd, &'static str),
    /// Anything else.
    #[error("TAP {name}: {action}: {source}")]
    Other {
        /// The device.
        name: String,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl TapError {
    fn other(name: &str, action: &'static str, source: io::Error) -> Self {
        TapError::Other { name: name.to_owned(), action, source }
    }

    /// Reads what TUNSETIFF says.
    fn attaching(name: &str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM) => TapError::Forbidden(name.to_owned()),
            Some(libc::EBUSY) => TapError::Busy(name.to_owned()),
            Some(libc::EINVAL) => TapError::Unsuitable(name.to_owned()),
            Some(libc::ENAMETOOLONG) => TapError::Name(name.to_owned()),
            _ => Self::opening(name, error),
        }
    }

    /// Reads what opening the device says.
    fn opening(name: &str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDevice,
            Some(libc::EACCES | libc::EPERM) => TapError::DeviceForbidden,
            _ => Self::other(name, "opening /dev/net/tun", error),
        }
    }
}

/// How often a frame was lost, and why.
#[derive(Debug, Default)]
struct Counters {
    short_frame: u64,
    bad_offload: u64,
    send_failed: u64,
}

/// An open TAP.
#[derive(Debug)]
pub struct Tap {
    name: String,
    fd: OwnedFd,
    /// Each frame stands behind a `virtio_net_hdr`.
    header: bool,
    persistent: bool,
    info: LinkInfo,
    counters: Counters,
}

impl Tap {
    /// Creates the TAP `name`, or attaches to it, in the caller's network namespace. `mtu` is what
    /// the device has or will be given, in bytes; `offload` chooses the form.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn open(name: &str, offload: bool, mtu: u16) -> Result<Self, TapError> {
        let unfit = |byte: u8| byte == b'/' || byte == b':' || byte.is_ascii_whitespace() || byte == 0;
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.bytes().any(unfit) {
            return Err(TapError::Name(name.to_owned()));
        }
        let (fd, name) = if offload { open_offloading(name) } else { open_plain(name) }?;
        Self::with(fd, name, mtu)
    }

    /// Takes over the inherited descriptor number `number` of a TAP; its form is as it was made.
    /// The caller must be the only one to adopt the number.
    ///
    /// # Errors
    /// [`TapError::Descriptor`] if it is not open, not a TAP, or made with packet information.
    pub fn adopt(number: RawFd, mtu: u16) -> Result<Self, TapError> {
        let fail = |why| TapError::Descriptor(number, why);
        let fd = fd::adopt(number).map_err(|_| fail("it is not open (or is 0, 1 or 2)"))?;
        let (name, flags) =
            tun::interface(&fd).map_err(|_| fail("it is not attached to a TUN/TAP device"))?;
        if flags & tun::TAP == 0 {
            return Err(fail("it is a TUN device, without Ethernet headers"));
        }
        if flags & tun::NO_PI == 0 {
            return Err(fail("it was made without IFF_NO_PI"));
        }
        Self::with(fd, name, mtu)
    }

    /// Tells the kernel what the reader takes, as the descriptor's form allows.
    fn with(fd: OwnedFd, name: String, mtu: u16) -> Result<Self, TapError> {
        let fail = |action, error: io::Error| TapError::other(&name, action, error);
        let (_, flags) = tun::interface(&fd).map_err(|e| fail("reading its flags", e))?;
        let header = flags & tun::VNET_HDR != 0;
        let accepted = if header {
            tun::set_header_length(&fd, virtio::LENGTH as i32)
                .map_err(|e| fail("setting the header's length", e))?;
            OFFLOADS.into_iter().find(|mask| tun::set_offload(&fd, *mask).is_ok()).unwrap_or(0)
        } else {
            // The mask of an earlier user outlives its descriptor; frames would come as
            // super-frames with nothing to explain them.
            tun::set_offload(&fd, 0).map_err(|e| fail("switching offloads off", e))?;
            0
        };
        rustix::io::ioctl_fionbio(&fd, true).map_err(|e| fail("setting O_NONBLOCK", e.into()))?;
        let has = |bits| accepted & bits == bits;
        let info = LinkInfo {
            mtu,
            header: ETHERNET_HEADER,
            checksum: has(tun::offload::CSUM),
            tcp4: has(tun::offload::TSO4 | tun::offload::ECN),
            tcp6: has(tun::offload::TSO6 | tun::offload::ECN),
            udp: has(tun::offload::USO),
        };
        let persistent = flags & tun::PERSIST != 0;
        Ok(Tap { name, fd, header, persistent, info, counters: Counters::default() })
    }

    /// Whether the device stays when this process is gone: somebody made it beforehand.
    pub fn persistent(&self) -> bool {
        self.persistent
    }

    /// Whether frames stand behind an offload header.
    pub fn offloading(&self) -> bool {
        self.header
    }

    /// The device's own MAC, which is not the gateway's.
    ///
    /// # Errors
    /// The device is gone.
    pub fn mac(&self) -> io::Result<[u8; 6]> {
        tun::mac(&self.fd)
    }

    /// Says that the device has another MTU, in bytes.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.info.mtu = mtu;
    }

    fn read(&self, header: &mut [u8; virtio::LENGTH], buffer: &mut Buffer) -> io::Result<usize> {
        loop {
            let result = if self.header {
                let parts = &mut [IoSliceMut::new(header), IoSliceMut::new(buffer.spare())];
                rustix::io::readv(&self.fd, parts)
            } else {
                rustix::io::read(&self.fd, buffer.spare())
            };
            match result {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

fn open_offloading(name: &str) -> Result<(OwnedFd, String), TapError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(DEVICE, flags, Mode::empty())
        .map_err(|error| TapError::opening(name, error.into()))?;
    let name = tun::attach(&fd, name, tun::TAP | tun::NO_PI | tun::VNET_HDR)
        .map_err(|error| TapError::attaching(name, error))?;
    Ok((fd, name))
}

fn open_plain(name: &str) -> Result<(OwnedFd, String), TapError> {
    // The crate opens the device and attaches in one call; opening is tried on its own first, to
    // tell the two kinds of EPERM apart.
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|error| TapError::opening(name, error.into()))?;
    let device = tun_tap::Iface::without_packet_info(name, tun_tap::Mode::Tap)
        .map_err(|error| TapError::attaching(name, error))?;
    let name = device.name().to_owned();
    Ok((fd::release(device), name))
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Link for Tap {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> LinkInfo {
        self.info
    }

    fn thin_out(&mut self, thinned: &Thinned) -> io::Result<()> {
        if self.persistent {
            // The device would keep the address of the program, which means nothing to the next process.
            return Err(io::ErrorKind::Unsupported.into());
        }
        if thinned.is_nothing() {
            return tun::detach_filter(&self.fd);
        }
        tun::attach_filter(&self.fd, &thinned.filter())
    }

    fn recv(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        buffer.clear();
        let mut header = [0; virtio::LENGTH];
        let received = self.read(&mut header, buffer)?;
        let length = received.saturating_sub(if self.header { virtio::LENGTH } else { 0 });
        if length < usize::from(ETHERNET_HEADER) {
            self.counters.short_frame += 1;
            return Err(io::ErrorKind::Interrupted.into());
        }
        buffer.set_len(length);
        if self.header {
            match virtio::read(&header, buffer.bytes(), ETHERNET_HEADER) {
                Ok(offload) => buffer.offload = offload,
                Err(_) => {
                    self.counters.bad_offload += 1;
                    return Err(io::ErrorKind::Interrupted.into());
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        let result = if self.header {
            match virtio::write(&buffer.offload, ETHERNET_HEADER) {
                Ok(header) => {
                    let parts = &[IoSlice::new(&header), IoSlice::new(buffer.bytes())];
                    rustix::io::writev(&self.fd, parts)
                }
                Err(_) => Err(rustix::io::Errno::INVAL),
            }
        } else {
            rustix::io::write(&self.fd, buffer.bytes())
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => {
                self.counters.send_failed += 1;
                Err(error.into())
            }
        }
    }

    fn readable(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.fd.as_fd()]
    }

    fn reopen(&mut self) -> io::Result<()> {
        // Its descriptor outlives a device that was deleted, but is attached to nothing then.
        tun::interface(&self.fd).map(drop)
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        vec![
            ("short-frame", self.counters.short_frame),
            ("bad-offload", self.counters.bad_offload),
            ("send-failed", self.counters.send_failed),
        ]
    }
}
