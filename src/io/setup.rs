//! Makes what the gateway stands on (TAP, bridge, MTU) and undoes exactly that.
//!
//! [`Made`] remembers each change with what was there before, and undoes them in reverse, when
//! told to or when dropped. What was there before is never touched. A TAP that was made here needs
//! no undoing: it goes with its descriptor. After SIGKILL a bridge that was made here stays, and
//! the next start finds it.

use super::netlink::{LinkFacts, Netlink, errno};
use super::tap::{Tap, TapError};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;

/// Frames that may wait in the TAP for the gateway; beyond that the kernel drops.
const QUEUE: u32 = 4096;

/// Why the inside or the outside cannot be had. Each says the thing, the cause and the cure.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// See [`TapError`].
    #[error(transparent)]
    Tap(#[from] TapError),
    /// There is no default route to take the outside interface from.
    #[error("there is no IPv4 default route: name the outside interface with --outside")]
    NoDefaultRoute,
    /// The outside interface does not exist.
    #[error("interface {0} does not exist: see `ip link`, and choose another with --outside")]
    NoInterface(String),
    /// The outside interface has no address to translate to.
    #[error("interface {0} has no IPv4 address: give it one, or name one with --external")]
    NoAddress(String),
    /// The name of the bridge belongs to something else.
    #[error("{name} exists and is no bridge but {kind}: choose another name with --bridge")]
    NotABridge {
        /// The interface.
        name: String,
        /// What it is.
        kind: String,
    },
    /// The TAP is a port of another bridge.
    #[error(
        "TAP {tap} is a port of another bridge ({bridge}): take it out with `ip link set {tap} nomaster`, or name that bridge with --bridge"
    )]
    OtherBridge {
        /// The TAP.
        tap: String,
        /// The bridge it is in.
        bridge: String,
    },
    /// A change of interfaces is not permitted.
    #[error(
        "{what} {name}: not permitted: CAP_NET_ADMIN is needed: run as root, or in a user namespace (`tapnat demo` shows one)"
    )]
    Forbidden {
        /// What was tried.
        what: &'static str,
        /// With which interface.
        name: String,
    },
    /// Anything else.
    #[error("{what} {name}: {source}")]
    Other {
        /// What was tried.
        what: &'static str,
        /// With which interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Names the operation that failed.
fn failed(what: &'static str, name: &str) -> impl Fn(io::Error) -> SetupError {
    let name = name.to_owned();
    move |source| match errno(&source) {
        Some(libc::EPERM | libc::EACCES) => SetupError::Forbidden { what, name: name.clone() },
        _ => SetupError::Other { what, name: name.clone(), source },
    }
}

/// The way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outside {
    /// The interface.
    pub interface: LinkFacts,
    /// Its IPv4 addresses in the kernel's order; at least one.
    pub addresses: Vec<Ipv4Addr>,
}

/// The interface called `name`, or that of the IPv4 default route, and its addresses.
///
/// # Errors
/// See [`SetupError`].
pub fn outside(netlink: &Netlink, name: Option<&str>) -> Result<Outside, SetupError> {
    let interface = match name {
        Some(name) => netlink.link(name).map_err(failed("look up interface", name))?,
        None => {
            let route = netlink.default_route().map_err(failed("look up", "the default route"))?;
            let route = route.filter(|route| !matches!(route.gateway, Some(IpAddr::V6(_))));
            let index = route.ok_or(SetupError::NoDefaultRoute)?.ifindex;
            netlink.link_by_index(index).map_err(failed("look up", "the outside interface"))?
        }
    };
    let interface = interface
        .ok_or_else(|| SetupError::NoInterface(name.unwrap_or("of the default route").to_owned()))?;
    let addresses = netlink.addresses().map_err(failed("list addresses of", &interface.name))?;
    let addresses: Vec<_> = addresses
        .into_iter()
        .filter_map(|(index, address, _)| match address {
            IpAddr::V4(address) if index == interface.index => Some(address),
            _ => None,
        })
        .collect();
    if addresses.is_empty() {
        return Err(SetupError::NoAddress(interface.name));
    }
    Ok(Outside { interface, addresses })
}

/// What to make inside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InsideConfig {
    /// The TAP to make or to attach to.
    pub tap: String,
    /// A descriptor of a TAP instead, if one was inherited.
    pub tap_fd: Option<RawFd>,
    /// Whether frames come with offloads.
    pub offload: bool,
    /// The bridge to make the TAP a port of; made if it is not there.
    pub bridge: Option<String>,
    /// MTU of TAP and new bridge, in bytes.
    pub mtu: u16,
}

/// One change, and what undoes it.
#[derive(Debug)]
enum Change {
    NewBridge(u32),
    Master(u32),
    Mtu(u32, u32),
    Queue(u32, u32),
    Up(u32),
}

/// What was made. Undone when dropped.
#[derive(Debug)]
pub struct Made {
    netlink: Netlink,
    changes: Vec<Change>,
}

impl Made {
    /// Undoes what was made, newest first. Goes on after a failure: what vanished meanwhile needs
    /// no undoing, and one interface that refuses should not keep the others.
    ///
    /// # Errors
    /// The first failure, but for interfaces that are gone.
    pub fn undo(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        while let Some(change) = self.changes.pop() {
            let undone = match change {
                Change::NewBridge(index) => self.netlink.delete(index),
                Change::Master(index) => self.netlink.set_master(index, None),
                Change::Mtu(index, mtu) => self.netlink.set_mtu(index, mtu),
                Change::Queue(index, length) => self.netlink.set_txqlen(index, length),
                Change::Up(index) => self.netlink.set_up(index, false),
            };
            match undone {
                Err(error) if errno(&error) != Some(libc::ENODEV) && result.is_ok() => result = Err(error),
                _ => {}
            }
        }
        result
    }

    /// Takes over what `older` has to undo, but for a TAP that is gone: it made this one anew.
    pub fn take_over(&mut self, older: &mut Made) {
        let mut changes = std::mem::take(&mut older.changes);
        changes.retain(|change| matches!(change, Change::NewBridge(_)));
        changes.append(&mut self.changes);
        self.changes = changes;
    }

    fn tune(&mut self, link: &LinkFacts, mtu: u16) -> Result<(), SetupError> {
        let name = &link.name;
        if link.mtu != u32::from(mtu) {
            self.netlink.set_mtu(link.index, mtu.into()).map_err(failed("set the MTU of", name))?;
            self.changes.push(Change::Mtu(link.index, link.mtu));
        }
        // Without the right to lengthen it, as on a device made for this user, the queue stays short.
        if link.txqlen < QUEUE && self.netlink.set_txqlen(link.index, QUEUE).is_ok() {
            self.changes.push(Change::Queue(link.index, link.txqlen));
        }
        Ok(())
    }

    fn switch_on(&mut self, link: &LinkFacts) -> Result<(), SetupError> {
        if !link.up {
            self.netlink.set_up(link.index, true).map_err(failed("switch on", &link.name))?;
            self.changes.push(Change::Up(link.index));
        }
        Ok(())
    }

    /// The bridge, made if need be.
    fn bridge(&mut self, name: &str, mtu: u16) -> Result<LinkFacts, SetupError> {
        let look = || self.netlink.link(name).map_err(failed("look up bridge", name));
        if let Some(found) = look()? {
            return match found.kind.as_deref() {
                Some("bridge") => Ok(found),
                kind => Err(SetupError::NotABridge {
                    name: name.to_owned(),
                    kind: kind.unwrap_or("a plain interface").to_owned(),
                }),
            };
        }
        self.netlink.add_bridge(name).map_err(failed("make bridge", name))?;
        let made = look()?.ok_or_else(|| SetupError::NoInterface(name.to_owned()))?;
        self.changes.push(Change::NewBridge(made.index));
        self.netlink.set_mtu(made.index, mtu.into()).map_err(failed("set the MTU of", name))?;
        Ok(made)
    }

    fn join(&mut self, tap: &LinkFacts, bridge: &LinkFacts) -> Result<(), SetupError> {
        match tap.master {
            Some(master) if master == bridge.index => return Ok(()),
            Some(master) => {
                let other = self.netlink.link_by_index(master).ok().flatten();
                let bridge = other.map_or_else(|| master.to_string(), |other| other.name);
                return Err(SetupError::OtherBridge { tap: tap.name.clone(), bridge });
            }
            None => {}
        }
        let name = &tap.name;
        self.netlink
            .set_master(tap.index, Some(bridge.index))
            .map_err(failed("make a bridge port of", name))?;
        self.changes.push(Change::Master(tap.index));
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // There is nobody left to tell; `undo` is for those who want to know.
        let _ = self.undo();
    }
}

/// Makes the inside, in the caller's network namespace: TAP, bridge, MTU, queue, all switched on.
/// What was made before a failure is undone.
///
/// The TAP's own MAC belongs to the bridge then; the gateway must answer with another.
///
/// # Errors
/// See [`SetupError`].
pub fn inside(config: &InsideConfig) -> Result<(Tap, Made), SetupError> {
    let tap = match config.tap_fd {
        Some(number) => Tap::adopt(number, config.mtu)?,
        None => Tap::open(&config.tap, config.offload, config.mtu)?,
    };
    let name = super::Link::name(&tap).to_owned();
    let netlink = Netlink::open().map_err(failed("netlink socket for", &name))?;
    let mut made = Made { netlink, changes: Vec::new() };
    let Some(link) = made.netlink.link(&name).map_err(failed("look up TAP", &name))? else {
        // An inherited descriptor may serve a TAP of another namespace, which somebody else set up.
        return if config.tap_fd.is_some() { Ok((tap, made)) } else { Err(SetupError::NoInterface(name)) };
    };
    made.tune(&link, config.mtu)?;
    if let Some(bridge) = &config.bridge {
        let bridge = made.bridge(bridge, config.mtu)?;
        made.join(&link, &bridge)?;
        made.switch_on(&bridge)?;
    }
    made.switch_on(&link)?;
    Ok((tap, made))
}
