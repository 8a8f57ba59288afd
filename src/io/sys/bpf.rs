//! The `bpf(2)` calls for one program on one interface: a map that is written through memory, a
//! program, a TCX link; and for a program that filters sockets (`include/uapi/linux/bpf.h`).

use rustix::mm::{self, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, Ordering};

const MAP_CREATE: libc::c_int = 0;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_ARRAY: u32 = 2;
const MAP_MMAPABLE: u32 = 1 << 10;
const PROG_TYPE_SOCKET_FILTER: u32 = 1;
const PROG_TYPE_SCHED_CLS: u32 = 3;
const ATTACH_TCX_INGRESS: u32 = 46;

/// One instruction: `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// Operation code.
    pub code: u8,
    /// Destination register in the low nibble, source register in the high one (little endian
    /// hosts; the other way round on big endian ones).
    pub registers: u8,
    /// Offset of a jump or a memory access.
    pub offset: i16,
    /// Constant.
    pub constant: i32,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    reserved: u32,
    expected_revision: u64,
}

/// Calls `bpf(2)` with a command whose success is a new descriptor.
///
/// # Safety
/// `T` is the layout the kernel has for `command`, and the pointers in it are valid.
unsafe fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; the kernel only reads the attributes of these commands.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attributes), size_of::<T>()) };
    let fd = i32::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Bits that this process writes and a BPF program reads.
#[derive(Debug)]
pub struct BitMap {
    map: OwnedFd,
    bytes: NonNull<AtomicU8>,
    length: usize,
}

// SAFETY: the memory is a shared mapping that lives as long as the value, and it is touched by
// atomic operations only.
unsafe impl Send for BitMap {}

impl BitMap {
    /// A map with one value of `length` bytes (rounded up to pages by the kernel), all zero.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF, `EINVAL` before Linux 5.5.
    pub fn new(length: u32) -> io::Result<Self> {
        let attributes = MapCreate {
            map_type: MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: length,
            max_entries: 1,
            map_flags: MAP_MMAPABLE,
        };
        // SAFETY: the layout of BPF_MAP_CREATE's attributes; there is no pointer in it.
        let map = unsafe { call(MAP_CREATE, &attributes) }?;
        let length = length as usize;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing is replaced.
        let bytes = unsafe {
            mm::mmap(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &map, 0)
        }?;
        let bytes = NonNull::new(bytes.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(BitMap { map, bytes, length })
    }

    /// The map's descriptor, for the program that reads it.
    pub fn map(&self) -> &OwnedFd {
        &self.map
    }

    fn byte(&self, bit: usize) -> Option<&AtomicU8> {
        // SAFETY: within the mapping, which lives as long as `self`; a page is aligned for bytes.
        (bit / 8 < self.length).then(|| unsafe { self.bytes.add(bit / 8).as_ref() })
    }

    /// Sets or clears a bit; one outside the map is left alone.
    pub fn set(&self, bit: usize, value: bool) {
        let mask = 1 << (bit % 8);
        match (self.byte(bit), value) {
            (Some(byte), true) => byte.fetch_or(mask, Ordering::Relaxed),
            (Some(byte), false) => byte.fetch_and(!mask, Ordering::Relaxed),
            (None, _) => 0,
        };
    }
}

impl Drop for BitMap {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nobody uses any more. A failure leaves it
        // mapped, which harms nobody.
        let _ = unsafe { mm::munmap(self.bytes.as_ptr().cast::<c_void>(), self.length) };
    }
}

/// Loads a traffic-control program.
///
/// # Errors
/// `EPERM` without CAP_BPF and CAP_NET_ADMIN; `EACCES` or `EINVAL` if the verifier refuses it.
pub fn load_classifier(name: &str, program: &[Instruction]) -> io::Result<OwnedFd> {
    load(PROG_TYPE_SCHED_CLS, name, program)
}

/// Loads a socket filter, which many sockets can share ([`attach_to_socket`]).
///
/// # Errors
/// `EPERM` without CAP_BPF; `EINVAL` if the verifier refuses it.
pub fn load_socket_filter(name: &str, program: &[Instruction]) -> io::Result<OwnedFd> {
    load(PROG_TYPE_SOCKET_FILTER, name, program)
}

/// Has a socket's packets filtered by a loaded program, in place of a filter that it has.
///
/// # Errors
/// The kernel's word.
pub fn attach_to_socket(socket: impl AsFd, program: &OwnedFd) -> io::Result<()> {
    let number = program.as_raw_fd();
    // SAFETY: the option's value is one readable C integer of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_BPF,
            (&raw const number).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn load(prog_type: u32, name: &str, program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut prog_name = [0; 16];
    for (to, from) in prog_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    let attributes = ProgLoad {
        prog_type,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr().expose_provenance() as u64,
        license: c"Dual MIT/GPL".as_ptr().expose_provenance() as u64,
        prog_name,
        ..ProgLoad::default()
    };
    // SAFETY: the layout of BPF_PROG_LOAD's attributes up to the last field used; the pointers in
    // it outlive the call, and the count is the program's.
    unsafe { call(PROG_LOAD, &attributes) }
}

/// Attaches a program where packets come in on an interface. It is detached when the descriptor
/// is closed, however the process ends.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN, `EINVAL` before Linux 6.6, `ENODEV` if there is no such
/// interface.
pub fn attach_ingress(program: &OwnedFd, interface: u32) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        prog_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        target_ifindex: interface,
        attach_type: ATTACH_TCX_INGRESS,
        ..LinkCreate::default()
    };
    // SAFETY: the layout of BPF_LINK_CREATE's attributes for TCX; there is no pointer in it.
    unsafe { call(LINK_CREATE, &attributes) }
}
