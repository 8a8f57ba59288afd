//! What `tapnat run` does, resolved and checked: plain data.

use super::profile::Profile;
use crate::flow::{Alias, Domain, Endpoint, Protocol};
use crate::gateway::{Advertise, Dhcp, GatewayConfig, RefusalAnswer, Subnet};
use crate::nat::config::DEFAULT_PORTS;
use crate::nat::{EgressRule, Exemption, Limits, NatConfig, Policy, PrefixTranslation, Rule};
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that a gateway is told at start. Made by `resolve`, which has checked every
/// rule that needs no look at the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Instance name: letters, digits, `-`, `_` and `.`, 1 to 64 of them.
    pub name: String,
    /// Unix socket of the control interface.
    pub control: PathBuf,
    /// Which TAP.
    pub tap: TapChoice,
    /// Which form of it.
    pub tap_offload: TapOffload,
    /// Make the TAP a port of this bridge; create the bridge if there is none.
    pub bridge: Option<String>,
    /// The gateway's own addresses and prefixes inside; each address is a host address of its prefix.
    /// And lone hosts as prefixes of one address, their own. Never empty, never overlapping.
    pub inside: Vec<IpNet>,
    /// Hosts inside whose neighbours are outside; each is among `inside`.
    pub lone: Vec<Lone>,
    /// The gateway's MAC inside, unicast and not zero; `None` to make one up.
    pub mac: Option<[u8; 6]>,
    /// MTU of the inside, in bytes (68 to 65521).
    pub mtu: u16,
    /// Router advertisements to the IPv6 subnets inside.
    pub advertise: bool,
    /// DNS servers that hosts are told of: by DHCP (IPv4), by advertisements (IPv6). `None` for those
    /// of `dns_forward`, or else, by DHCP, the host's own.
    pub dns: Option<Vec<IpAddr>>,
    /// Domains for short names that hosts are told of by DHCP; `None` for the host's.
    pub search: Option<Vec<String>>,
    /// Addresses inside at which DNS goes to the host's resolver.
    pub dns_forward: Vec<IpAddr>,
    /// Domains whose names are asked there of others than the host's resolver; none twice.
    pub dns_domains: Vec<Domain>,
    /// The first and the last address that are given by DHCP.
    pub dhcp: Option<(Ipv4Addr, Ipv4Addr)>,
    /// For how long.
    pub dhcp_lease: Duration,
    /// The outside interface; `None` for that of the default route.
    pub outside: Option<String>,
    /// Addresses to translate to; of a family without any, those of the outside interface.
    pub external: Vec<IpAddr>,
    /// What carries packets outside.
    pub uplink: UplinkChoice,
    /// The inherited AF_PACKET descriptor that the packet uplink is to use; `uplink` is auto or packet
    /// then.
    pub raw_fd: Option<i32>,
    /// How the host's own stack is kept off our ports.
    pub guard: GuardChoice,
    /// External ports to use (never 0), ascending, none twice; `None` for [`DEFAULT_PORTS`].
    pub ports: Option<Vec<RangeInclusive<u16>>>,
    /// Port forwards to make at start. They do not clash with each other.
    pub publish: Vec<PublishSpec>,
    /// What is not translated (RFC 6888 REQ-6).
    pub exempt: Vec<Exemption>,
    /// With whom inside hosts may open sessions, cloud metadata included.
    pub egress: Vec<EgressRule>,
    /// Inside prefixes that are translated to outside prefixes (RFC 6296). No two overlap.
    pub translations: Vec<PrefixTranslation>,
    /// The profile that `policy` comes from.
    pub profile: Profile,
    /// How inside hosts are treated that no rule names.
    pub policy: Policy,
    /// How some of them are treated instead; no two are for the same prefix.
    pub rules: Vec<ProfiledRule>,
    /// Inside hosts may reach services of the host itself on its external address.
    pub host_access: bool,
    /// Addresses that stand for something on the host.
    pub aliases: Vec<Alias>,
    /// Packets from inside are dropped whose source address is known to be another MAC's.
    pub bind_mac: bool,
    /// What an inside host is told when ports or a limit keep it from opening a session.
    pub refusal: RefusalAnswer,
    /// How many things may live.
    pub limits: Limits,
    /// How far the process gives up what it does not need after its start.
    pub sandbox: SandboxChoice,
    /// Write one line here and close it when packets can flow.
    pub ready_fd: Option<i32>,
    /// How much is logged.
    pub log: LogLevel,
    /// What is allowed but probably not wanted, one line each, to be logged at start.
    pub warnings: Vec<String>,
}

impl Settings {
    /// The translator's settings for these external addresses, on a host that has no other address
    /// and no say in which ports are ours.
    pub fn nat(&self, external: Vec<IpAddr>) -> NatConfig {
        NatConfig {
            ports: self.ports.clone().unwrap_or_else(|| DEFAULT_PORTS.to_vec()),
            policy: self.policy.clone(),
            rules: self.rules.iter().map(|rule| rule.rule.clone()).collect(),
            exempt: self.exempt.clone(),
            egress: self.egress.clone(),
            host_access: self.host_access,
            limits: self.limits,
            ..NatConfig::new(external)
        }
    }

    /// Whether hosts inside are told, or led to, what the host looks names up with.
    pub fn tells_names(&self) -> bool {
        self.dhcp.is_some() || !self.dns_forward.is_empty()
    }

    /// The lone host that is meant by a prefix of `inside`, if it is that of one.
    pub fn lone(&self, net: &IpNet) -> Option<&Lone> {
        let single = net.prefix_len() == net.max_prefix_len();
        self.lone.iter().find(|lone| single && lone.host.addr() == net.addr())
    }

    /// The gateway's own addresses inside: none with lone hosts, to whom it is somebody else's.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.inside.iter().filter(|net| self.lone(net).is_none()).map(IpNet::addr)
    }

    /// `config` with what these settings say about the gateway, but for translator and links.
    pub fn gateway(&self, config: GatewayConfig) -> GatewayConfig {
        let subnet = |net: &IpNet| match self.lone(net) {
            Some(Lone { host, router, .. }) => {
                Subnet { gateway: *router, prefix: host.prefix_len(), only: Some(host.addr()) }
            }
            None => Subnet::new(net.addr(), net.prefix_len()),
        };
        let six = self.inside.iter().any(|net| net.addr().is_ipv6());
        let (dns4, dns6) = self.told_dns();
        let advertise = || Advertise { dns: dns6, ..Advertise::default() };
        let search = self.search.clone();
        let dhcp = |(first, last)| Dhcp { first, last, lease: self.dhcp_lease, dns: dns4, search };
        let gateway = |address: &&IpAddr| self.own_addresses().any(|own| own == **address);
        GatewayConfig {
            subnets: self.inside.iter().map(subnet).collect(),
            bind_mac: self.bind_mac,
            refusal: self.refusal,
            advertise: (self.advertise && six).then(advertise),
            services: self.dns_forward.iter().filter(|address| !gateway(address)).copied().collect(),
            dhcp: self.dhcp.map(dhcp),
            resolvers: self.dns.iter().flatten().chain(&self.dns_forward).copied().collect(),
            translations: self.translations.clone(),
            aliases: self.aliases.clone(),
            domains: self.dns_domains.clone(),
            ..config
        }
    }

    /// The DNS servers that hosts of each family are told of; of IPv4 `None` for the host's own.
    fn told_dns(&self) -> (Option<Vec<Ipv4Addr>>, Vec<Ipv6Addr>) {
        let servers = self.dns.as_ref().unwrap_or(&self.dns_forward);
        let four = servers.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
        let six = servers.iter().filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
        let four: Vec<Ipv4Addr> = four.collect();
        ((self.dns.is_some() || !four.is_empty()).then_some(four), six.collect())
    }
}

/// A host inside all of whose neighbours are outside, and which may have an address of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lone {
    /// Its address, and the prefix that it takes for its link's.
    pub host: IpNet,
    /// Its gateway's address.
    pub router: IpAddr,
    /// Where it finds the host itself, which it cannot call by the address that both have.
    pub alias: Option<IpAddr>,
}

impl Lone {
    /// The alias of the host itself, if it has one.
    pub fn itself(&self) -> Option<Alias> {
        let host = (self.host.addr(), 0).into();
        self.alias.map(|inside| Alias { inside, port: None, host })
    }
}

impl fmt::Display for Lone {
    /// Writes what `--lone` reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.host, self.router)?;
        self.alias.map_or(Ok(()), |alias| write!(f, "={alias}"))
    }
}

/// A rule, and the profile that it comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProfiledRule {
    /// The profile from which its policy may depart in single behaviours.
    pub profile: Profile,
    /// Who it is for, and how they are treated.
    pub rule: Rule,
}

/// Which TAP the gateway serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TapChoice {
    /// The one of this name: made if there is none, attached to if there is.
    Name(String),
    /// The one behind this inherited descriptor.
    Fd(i32),
}

/// Which form of the TAP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TapOffload {
    /// With offload if the kernel gives it.
    #[default]
    Auto,
    /// Plain: frames as on a wire.
    Off,
}

/// What carries packets outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UplinkChoice {
    /// The best that the host allows.
    #[default]
    Auto,
    /// AF_PACKET on the outside interface.
    Packet,
    /// Raw IP sockets.
    Raw,
    /// Ordinary sockets, for which no privilege is needed.
    Sockets,
}

/// How the host's own stack is kept off our ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum GuardChoice {
    /// The best that the host allows.
    #[default]
    Auto,
    /// A tcx program on the outside interface drops what comes to our ports.
    Tcx,
    /// A held, silent socket for each of our ports.
    Hold,
    /// The sockets uplink's own sockets.
    Sockets,
    /// Nothing: the external address is not the host's.
    Off,
}

/// How far the process gives up what it does not need after its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SandboxChoice {
    /// As far as the host allows.
    #[default]
    Auto,
    /// Wholly, or it does not start.
    Strict,
    /// Not at all.
    Off,
}

/// How much is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogLevel {
    /// What ends the gateway.
    Error,
    /// What somebody should mend.
    Warn,
    /// What was chosen at start, and changes of state.
    #[default]
    Info,
    /// Each change of a flow.
    Debug,
    /// Each packet.
    Trace,
}

/// A port forward, as in `--publish`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishSpec {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The external address; `None` for all of them.
    pub address: Option<IpAddr>,
    /// External ports, never 0.
    pub ports: RangeInclusive<u16>,
    /// Who answers; of the external address's family.
    pub inside: IpAddr,
    /// Inside ports, never 0; as many as the external ones.
    pub inside_ports: RangeInclusive<u16>,
}

impl PublishSpec {
    /// The pairs of an external and an inside port, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.ports.clone().zip(self.inside_ports.clone())
    }

    /// Each port of it: protocol, outside, inside. Without an address of its own, on all of
    /// `external` of its family.
    pub fn forwards(&self, external: &[IpAddr]) -> Vec<(Protocol, Endpoint, Endpoint)> {
        let family = |address: &&IpAddr| address.is_ipv4() == self.inside.is_ipv4();
        let addresses: Vec<IpAddr> = match self.address {
            Some(address) => vec![address],
            None => external.iter().filter(family).copied().collect(),
        };
        let on = |ip| {
            let ends =
                move |(outside, inside)| (Endpoint::new(ip, outside), Endpoint::new(self.inside, inside));
            self.pairs().map(ends)
        };
        let all = addresses.into_iter().flat_map(on);
        all.map(|(outside, inside)| (self.protocol, outside, inside)).collect()
    }
}

impl fmt::Display for PublishSpec {
    /// Writes what `--publish` reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |f: &mut fmt::Formatter<'_>, ports: &RangeInclusive<u16>| {
            write!(f, "{}", ports.start())?;
            if ports.start() == ports.end() { Ok(()) } else { write!(f, "-{}", ports.end()) }
        };
        match self.address {
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            None => {}
        }
        range(f, &self.ports)?;
        match self.inside {
            IpAddr::V4(inside) => write!(f, ":{inside}:")?,
            IpAddr::V6(inside) => write!(f, ":[{inside}]:")?,
        }
        range(f, &self.inside_ports)?;
        write!(f, "/{}", self.protocol)
    }
}
