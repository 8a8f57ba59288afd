//! The least that any gateway in user space costs behind a TAP and a packet socket: threads that read a frame
//! from one, write the next hop's MACs into it and write it to the other. No frame is looked at otherwise,
//! nothing is translated (the internet is told a way to the container's address), nothing is guarded.
//!
//! What tapnat could gain at most is between its figures and these.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tapnat::io::netlink::Netlink;
use tapnat::io::sys::netns::Netns;
use tapnat::io::sys::packet::{LinkAddress, ignore_outgoing, use_virtio_header};
use tapnat::io::tap::Tap;
use tapnat::io::virtio;
use tapnat::lab::netns::Lab;
use tapnat::lab::programs::now;
use tapnat::lab::topology::{BRIDGE, CONTAINERS, GATEWAY, HOST, UPLINK};

/// The gateway's MAC.
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// How long to look for another frame before sleeping, as tapnat does.
const LOOK: Duration = Duration::from_micros(80);
/// How often a sleeper looks whether it is over, in milliseconds.
const TICK: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// A super-frame with its headers.
const LONGEST: usize = virtio::LENGTH + 14 + 65536;
const ETH_P_IP: u16 = 0x0800;

/// One direction: where frames come from, where they go, and the MACs they go with.
struct Way {
    from: File,
    to: File,
    /// Destination and source.
    macs: [u8; 12],
}

/// The threads, until it is dropped.
pub struct Bare {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Bare {
    /// Begins to carry the container's frames: with one thread, or one for each direction.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn start(lab: &Lab, mtu: u32, pair: bool) -> io::Result<Bare> {
        let (host, container, internet) = (lab.host("host"), lab.host("red"), lab.host("internet"));
        ip(
            container,
            &["neigh", "replace", &GATEWAY.to_string(), "lladdr", "02:00:00:00:00:01", "dev", UPLINK],
        )?;
        ip(internet, &["route", "add", &format!("{}/32", CONTAINERS[0]), "via", &HOST.to_string()])?;
        let (container, internet) = (mac(container)?, mac(internet)?);
        let mtu = u16::try_from(mtu).map_err(io::Error::other)?;
        let ((tap, socket), own) = host.run(|| open(mtu)).and_then(|opened| Ok((opened?, mac(host)?)))?;
        let out = Way { from: tap.try_clone()?, to: socket.try_clone()?, macs: macs(internet, own) };
        let back = Way { from: socket, to: tap, macs: macs(container, OURS) };
        let over = Arc::new(AtomicBool::new(false));
        let shares = if pair { vec![vec![out], vec![back]] } else { vec![vec![out, back]] };
        let threads = shares.into_iter().map(|ways| {
            let over = Arc::clone(&over);
            std::thread::Builder::new().name("bare".into()).spawn(move || carry(ways, &over))
        });
        let threads = threads.collect::<io::Result<_>>()?;
        Ok(Bare { over, threads })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn carry(mut ways: Vec<Way>, over: &AtomicBool) {
    let mut frame = vec![0; LONGEST];
    let mut last = now();
    while !over.load(Ordering::Relaxed) {
        let moved = ways.iter_mut().map(|way| burst(way, &mut frame)).fold(false, |a, b| a | b);
        if moved {
            last = now();
        } else if now() - last < LOOK {
            std::thread::yield_now();
        } else {
            let wait = rustix::event::PollFlags::IN;
            let mut fds: Vec<_> =
                ways.iter().map(|way| rustix::event::PollFd::new(&way.from, wait)).collect();
            let _ = rustix::event::poll(&mut fds, Some(&TICK));
        }
    }
}

/// Carries what is there, 64 frames at most; whether there was any.
fn burst(way: &mut Way, frame: &mut [u8]) -> bool {
    for carried in 0..64 {
        let Ok(length) = way.from.read(frame) else { return carried > 0 };
        // ARP of the container is for nobody here.
        if frame[virtio::LENGTH + 12..][..2] == ETH_P_IP.to_be_bytes() {
            frame[virtio::LENGTH..][..12].copy_from_slice(&way.macs);
            // What does not fit a queue is lost, as everywhere.
            let _ = way.to.write(&frame[..length]);
        }
    }
    true
}

/// The TAP, a port of the bridge, and a socket on the uplink, both with offload headers.
fn open(mtu: u16) -> io::Result<(File, File)> {
    let netlink = Netlink::open()?;
    let tap = Tap::open("bare0", true, mtu).map_err(io::Error::other)?;
    let index =
        |name| netlink.link(name)?.map(|link| link.index).ok_or(io::Error::from(io::ErrorKind::NotFound));
    netlink.set_mtu(index("bare0")?, mtu.into())?;
    netlink.set_master(index("bare0")?, Some(index(BRIDGE)?))?;
    netlink.set_up(index("bare0")?, true)?;
    let flags = rustix::net::SocketFlags::NONBLOCK | rustix::net::SocketFlags::CLOEXEC;
    let (family, raw) = (rustix::net::AddressFamily::PACKET, rustix::net::SocketType::RAW);
    let socket = rustix::net::socket_with(family, raw, flags, None)?;
    ignore_outgoing(&socket)?;
    use_virtio_header(&socket)?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 32 << 20)?;
    rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, 32 << 20)?;
    rustix::net::bind(&socket, &LinkAddress::new(index(UPLINK)?, ETH_P_IP))?;
    Ok((File::from(std::os::fd::AsFd::as_fd(&tap).try_clone_to_owned()?), File::from(socket)))
}

fn macs(destination: [u8; 6], source: [u8; 6]) -> [u8; 12] {
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&destination);
    macs[6..].copy_from_slice(&source);
    macs
}

fn mac(netns: &Netns) -> io::Result<[u8; 6]> {
    let facts = netns.run(|| Netlink::open()?.link(UPLINK))??;
    facts.map(|facts| facts.mac).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn ip(netns: &Netns, words: &[&str]) -> io::Result<()> {
    let mut command = Command::new("ip");
    netns.confine(&mut command);
    match command.args(words).output()? {
        output if output.status.success() => Ok(()),
        output => Err(io::Error::other(format!("ip: {}", String::from_utf8_lossy(&output.stderr).trim()))),
    }
}
