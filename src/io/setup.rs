//! Makes what the gateway stands on (TAP, bridge, MTU) and undoes exactly that.
//!
//! [`Made`] remembers each change with what was there before, and undoes them in reverse, when
//! told to or when dropped. What was there before is never touched. A TAP that was made here needs
//! no undoing: it goes with its descriptor. After SIGKILL a bridge that was made here stays, and
//! the next start finds it.

use super::netlink::{Address, Family, LinkFacts, Netlink, errno};
use super::tap::{Tap, TapError};
use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;

/// Frames that may wait in the TAP for the gateway; beyond that the kernel drops.
pub const QUEUE: u32 = 4096;

/// Why the inside or the outside cannot be had. Each says the thing, the cause and the cure.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// See [`TapError`].
    #[error(transparent)]
    Tap(#[from] TapError),
    /// There is no default route to take the outside interface from.
    #[error("there is no {0} default route: name the outside interface with --outside")]
    NoDefaultRoute(Family),
    /// The outside interface does not exist.
    #[error("interface {0} does not exist: see `ip link`, and choose another with --outside")]
    NoInterface(String),
    /// The outside interface has no address to translate to.
    #[error(
        "interface {interface} has no {family} address to translate to: give it one, or name one with --external"
    )]
    NoAddress {
        /// The interface.
        interface: String,
        /// Of which family it has none.
        family: Family,
    },
    /// The packet socket that was handed over is of another interface than the one that was named.
    #[error("--raw-fd {number} is bound to {bound}, and --outside names {named}: leave --outside out")]
    BoundElsewhere {
        /// The descriptor.
        number: RawFd,
        /// Its interface.
        bound: String,
        /// The one that was named.
        named: String,
    },
    /// The host would take our router advertisements for somebody else's.
    #[error(
        "bridge {bridge} takes router advertisements, and the host would route through its own containers' gateway; \
         turning that off failed ({source}): write 0 to /proc/sys/net/ipv6/conf/{bridge}/accept_ra"
    )]
    TakesAdvertisements {
        /// The bridge.
        bridge: String,
        /// What the kernel said.
        source: io::Error,
    },
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
    /// Its addresses that may be translated to, in the kernel's order. Of IPv6 those of the best
    /// kind that it has: global before local to a site, lasting before temporary.
    pub addresses: Vec<IpAddr>,
}

impl Outside {
    /// The addresses of a family; at least one.
    ///
    /// # Errors
    /// [`SetupError::NoAddress`].
    pub fn externals(&self, family: Family) -> Result<Vec<IpAddr>, SetupError> {
        let of_family = self.addresses.iter().filter(|address| Family::of(**address) == family);
        let found: Vec<IpAddr> = of_family.copied().collect();
        if found.is_empty() {
            return Err(SetupError::NoAddress { interface: self.interface.name.clone(), family });
        }
        Ok(found)
    }
}

/// The interface called `name`, or that of the default route of the first of `families` that has
/// one, and its addresses.
///
/// # Errors
/// See [`SetupError`].
pub fn outside(netlink: &Netlink, name: Option<&str>, families: &[Family]) -> Result<Outside, SetupError> {
    let interface = match name {
        Some(name) => netlink.link(name).map_err(failed("look up interface", name))?,
        None => {
            let mut found = None;
            for family in families {
                let route = netlink.default_route(*family).map_err(failed("look up", "the default route"))?;
                found = found.or(route);
            }
            let family = families.first().copied().unwrap_or(Family::Four);
            let index = found.ok_or(SetupError::NoDefaultRoute(family))?.ifindex;
            netlink.link_by_index(index).map_err(failed("look up", "the outside interface"))?
        }
    };
    let interface = interface
        .ok_or_else(|| SetupError::NoInterface(name.unwrap_or("of the default route").to_owned()))?;
    let known = netlink.address_facts().map_err(failed("list addresses of", &interface.name))?;
    let addresses = translatable(known.iter().filter(|address| address.ifindex == interface.index));
    Ok(Outside { interface, addresses })
}

/// How good an IPv6 address is to be known by, best first; `None` if it is not at all.
fn rank(address: &Address) -> Option<(bool, bool, bool)> {
    let IpAddr::V6(ip) = address.ip else { return None };
    let of_the_link = ip.is_unicast_link_local() || ip.is_loopback() || ip.is_multicast();
    (!of_the_link && !address.tentative).then_some((
        address.deprecated,
        ip.is_unique_local(),
        address.temporary,
    ))
}

fn translatable<'a>(known: impl Iterator<Item = &'a Address> + Clone) -> Vec<IpAddr> {
    let best = known.clone().filter_map(rank).min();
    known
        .filter(|address| address.ip.is_ipv4() || (best.is_some() && rank(address) == best))
        .map(|address| address.ip)
        .collect()
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
    /// An IPv6 network is served: routers are advertised on the TAP.
    pub six: bool,
}

/// One change, and what undoes it.
#[derive(Debug)]
enum Change {
    NewBridge(u32),
    Master(u32),
    Mtu(u32, u32),
    Queue(u32, u32),
    Up(u32),
    /// The bridge takes no router advertisements; what it had before.
    AcceptRa(String, String),
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
                // A bridge that is gone has taken its file along.
                Change::AcceptRa(name, before) => match write_accept_ra(&name, &before) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    done => done,
                },
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
        changes.retain(|change| matches!(change, Change::NewBridge(_) | Change::AcceptRa(..)));
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
        // Nobody talks to the bridge itself. A host without IPv6 has nothing to keep quiet.
        let _ = self.netlink.set_link_local(made.index, false);
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
        // The kernel has nothing to say on a port of a bridge. A host without IPv6 cannot.
        let _ = self.netlink.set_link_local(tap.index, false);
        // What asks for the gateway's address goes to a multicast group (RFC 4861 §4.3) that the
        // gateway does not join by reports. A bridge that does not learn groups floods them anyway.
        let _ = self.netlink.flood_multicast_to(tap.index);
        Ok(())
    }

    /// Keeps the host from taking its own containers' gateway for its router.
    fn deaf_to_advertisements(&mut self, bridge: &str) -> Result<(), SetupError> {
        let read = |name: &str| {
            let path = format!("/proc/sys/net/ipv6/conf/{bridge}/{name}");
            std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
        };
        let accept = read("accept_ra");
        // A host that forwards takes them only if it is told twice.
        let takes = accept == "2" || (accept == "1" && read("forwarding") == "0");
        if !takes {
            return Ok(());
        }
        write_accept_ra(bridge, "0")
            .map_err(|source| SetupError::TakesAdvertisements { bridge: bridge.to_owned(), source })?;
        self.changes.push(Change::AcceptRa(bridge.to_owned(), accept));
        Ok(())
    }
}

fn write_accept_ra(bridge: &str, value: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{bridge}/accept_ra"), value)
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
    let found = made.netlink.link(&name).map_err(failed("look up TAP", &name))?;
    // An interface of the same name may be another one.
    let same = |link: &LinkFacts| config.tap_fd.is_none() || tap.mac().is_ok_and(|mac| mac == link.mac);
    let Some(link) = found.filter(same) else {
        // An inherited descriptor may serve a TAP of another namespace, which somebody else set up.
        return if config.tap_fd.is_some() { Ok((tap, made)) } else { Err(SetupError::NoInterface(name)) };
    };
    made.tune(&link, config.mtu)?;
    if let Some(bridge) = &config.bridge {
        let bridge = made.bridge(bridge, config.mtu)?;
        if config.six {
            made.deaf_to_advertisements(&bridge.name)?;
        }
        made.join(&link, &bridge)?;
        made.switch_on(&bridge)?;
    }
    made.switch_on(&link)?;
    Ok((tap, made))
}
