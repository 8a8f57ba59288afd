//! What `attach` and `exec` share: from the options of `run` to a gateway whose TAP is in another
//! namespace, with everything chosen that was not said.

use super::handed;
use crate::config::raw::{Place, Raw};
use crate::config::{ConfigError, RunFlags, Settings, TapChoice, TapOffload, file, load};
use crate::io::guest::{GuestConfig, GuestRoute};
use crate::io::netlink::{Family, Netlink};
use crate::io::setup;
use crate::io::sys::fd;
use anyhow::Context;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::path::Path;

/// Gateways of IPv4 to choose from: the customary one first, which is that of virtual machines too.
const FOUR: [&str; 4] = ["10.0.2.2/24", "10.40.2.2/24", "172.27.2.2/24", "192.168.222.2/24"];
/// Gateways of IPv6 to choose from.
const SIX: [&str; 2] = ["fd00::2/64", "fd00:746e:2::2/64"];

/// Options of `attach` and `exec` about the namespace.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct GuestArgs {
    /// Address and prefix of the namespace, e.g. 10.0.2.100/24; once for each family, and of several
    /// namespaces once for each in their order [default: one of each --inside prefix]
    #[arg(long, value_name = "CIDR", help_heading = "Namespace")]
    pub guest: Vec<String>,
}

/// What is chosen where neither options nor file say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Defaults<'a> {
    /// The instance name.
    pub name: Option<&'a str>,
    /// How much is logged.
    pub log: Option<&'a str>,
}

/// A gateway and its guest.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The options, with what was chosen.
    pub flags: RunFlags,
    /// What they say.
    pub settings: Settings,
    /// What is made in the namespace; in the first one if there are several.
    pub guest: GuestConfig,
    /// What is made in the others.
    pub more: Vec<GuestConfig>,
    /// The control socket was named.
    pub control_named: bool,
}

/// Reads options and file, and chooses the rest.
///
/// # Errors
/// The first thing that is wrong.
pub fn plan(
    flags: &RunFlags,
    guest: &GuestArgs,
    defaults: Defaults<'_>,
    runtime_dir: Option<&Path>,
) -> anyhow::Result<Plan> {
    plan_many(flags, guest, 1, defaults, runtime_dir)
}

/// As [`plan`], for `count` namespaces, each with addresses of its own.
///
/// # Errors
/// As [`plan`]; or the networks have no room for so many.
pub fn plan_many(
    flags: &RunFlags,
    guest: &GuestArgs,
    count: usize,
    defaults: Defaults<'_>,
    runtime_dir: Option<&Path>,
) -> anyhow::Result<Plan> {
    let mut flags = flags.clone();
    handed::take(&mut flags)?;
    if flags.tap_fd.is_some() {
        let cure = "leave it out, or use `tapnat run` for a TAP that is open already";
        return Err(usage("--tap-fd", "the TAP is made in the namespace", cure).into());
    }
    let written = flags.config.as_deref().map(file::read).transpose()?.unwrap_or_default();
    if flags.bridge.is_some() || written.has("bridge") {
        let cure = "leave it out; containers on a bridge are served by `tapnat run`";
        return Err(usage("--bridge", "the TAP is the namespace's own interface", cure).into());
    }
    if !flags.lone.is_empty() || written.has("lone") {
        let cure = "leave it out, and name the namespace's address with --guest; or use `tapnat run`";
        return Err(usage("--lone", "the namespace has an address of an inside network", cure).into());
    }
    if flags.inside.is_empty() && !written.has("inside") {
        flags.inside = default_inside(flags.outside.as_deref())?;
    }
    choose_services(&mut flags, &written);
    if !written.has("name") && flags.name.is_none() {
        flags.name = defaults.name.map(str::to_owned);
    }
    if !written.has("log") && flags.log.is_none() {
        flags.log = defaults.log.map(str::to_owned);
    }
    let control_named = flags.control.is_some() || written.has("control");
    let settings = load(&flags, runtime_dir)?;
    let mut addresses = guest_addresses(&settings, guest, count)?.into_iter();
    let guest = guest_config(&settings, addresses.next().unwrap_or_default())?;
    let more = addresses.map(|addresses| guest_config(&settings, addresses)).collect::<Result<_, _>>()?;
    Ok(Plan { flags, settings, guest, more, control_named })
}

impl Plan {
    /// What is made in each namespace.
    pub fn guests(&self) -> impl Iterator<Item = &GuestConfig> {
        std::iter::once(&self.guest).chain(&self.more)
    }

    /// The same, to be changed.
    pub fn guests_mut(&mut self) -> impl Iterator<Item = &mut GuestConfig> {
        std::iter::once(&mut self.guest).chain(&mut self.more)
    }

    /// The same with a TAP that is open.
    #[must_use]
    pub fn with_tap(mut self, tap: OwnedFd) -> Plan {
        let number = tap.into_raw_fd();
        self.flags.tap = None;
        self.flags.tap_fd = Some(number.to_string());
        self.settings.tap = TapChoice::Fd(number);
        self
    }

    /// Keeps the programs that are started from holding the descriptor that tells when packets can
    /// flow: who waits for its end would wait for theirs. Nor are they to have the packet socket.
    ///
    /// # Errors
    /// It is not open.
    pub fn keep_ready_fd(&self) -> anyhow::Result<()> {
        if let Some(number) = self.settings.raw_fd {
            fd::keep(number).with_context(|| format!("--raw-fd {number}: not an open descriptor"))?;
        }
        let Some(number) = self.settings.ready_fd else { return Ok(()) };
        fd::keep(number).with_context(|| format!("--ready-fd {number}: not an open descriptor"))
    }
}

/// A setting that is wrong on the command line.
pub(super) fn usage(flag: &'static str, problem: impl Into<String>, cure: impl Into<String>) -> ConfigError {
    ConfigError::new(&Place::Flag(flag), problem, cure)
}

/// What programs in a namespace may expect to find: a resolver, and addresses for those that ask.
fn choose_services(flags: &mut RunFlags, written: &Raw) {
    if flags.dns_forward.is_empty() && !written.has("dns-forward") {
        flags.dns_forward = vec!["gateway".to_owned()];
    }
    let nets = flags.inside.iter().chain(written.many("inside").iter().map(|net| &net.text));
    let four = nets.into_iter().any(|net| net.parse().is_ok_and(|net: IpNet| net.addr().is_ipv4()));
    if four && flags.dhcp.is_none() && !written.has("dhcp") {
        flags.dhcp = Some("on".to_owned());
    }
}

/// Networks that none of the host's addresses is in: of IPv4, and of IPv6 if the way out has it.
fn default_inside(outside: Option<&str>) -> anyhow::Result<Vec<String>> {
    let netlink = Netlink::open().context("netlink socket")?;
    let known = netlink.addresses().context("list the host's addresses")?;
    let has = |family: Family| {
        let found = setup::outside(&netlink, outside, &[Family::Four, Family::Six]);
        found.is_ok_and(|outside| outside.externals(family).is_ok())
    };
    let routed =
        || outside.is_some() || netlink.default_route(Family::Six).is_ok_and(|route| route.is_some());
    let six = has(Family::Six) && routed();
    let four = has(Family::Four) || !six;
    let wanted = [(four, &FOUR[..]), (six, &SIX[..])];
    Ok(wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, all)| free(all, &known)).collect())
}

/// The first network that overlaps with none of the host's; the first of all if each does, which
/// the start then says.
fn free(candidates: &[&str], known: &[(u32, IpAddr, u8)]) -> String {
    let taken = |net: &IpNet| {
        known.iter().any(|(_, ip, prefix)| {
            net.contains(ip) || IpNet::new(*ip, *prefix).is_ok_and(|other| other.contains(&net.addr()))
        })
    };
    let found = candidates.iter().find(|text| text.parse().is_ok_and(|net| !taken(&net)));
    found.or(candidates.first()).map_or_else(String::new, |text| (*text).to_owned())
}

/// The addresses of each of `count` namespaces: those that are given, in their order, and free ones.
fn guest_addresses(
    settings: &Settings,
    args: &GuestArgs,
    count: usize,
) -> Result<Vec<Vec<IpNet>>, ConfigError> {
    let mut given = Vec::new();
    for text in &args.guest {
        given.push(guest_address(text, settings, &given, count)?);
    }
    let family = |one: &IpNet, other: &IpNet| one.addr().is_ipv4() == other.addr().is_ipv4();
    let mut taken: Vec<IpAddr> = given.iter().map(IpNet::addr).collect();
    let mut all = Vec::new();
    for number in 0..count {
        let mut own: Vec<IpNet> = Vec::new();
        for net in &settings.inside {
            if own.iter().any(|other| family(other, net)) {
                continue;
            }
            let address = match given.iter().filter(|one| family(one, net)).nth(number) {
                Some(given) => *given,
                None => free_guest(net, &taken).ok_or_else(|| {
                    let problem = format!("{net} has no room for {count} namespaces");
                    usage("--inside", problem, "give a larger network")
                })?,
            };
            taken.push(address.addr());
            own.push(address);
        }
        all.push(own);
    }
    Ok(all)
}

fn guest_config(settings: &Settings, addresses: Vec<IpNet>) -> Result<GuestConfig, ConfigError> {
    let TapChoice::Name(tap) = &settings.tap else {
        let cure = "leave `tap-fd` out, or use `tapnat run`";
        return Err(usage("--config", "names a TAP that is open already", cure));
    };
    let gateway = |guest: &IpNet| settings.inside.iter().find(|net| net.contains(&guest.addr()));
    let routes = addresses.iter().filter_map(gateway).map(|net| GuestRoute::default(net.addr())).collect();
    let six = addresses.iter().any(|net| net.addr().is_ipv6());
    Ok(GuestConfig {
        tap: tap.clone(),
        offload: settings.tap_offload == TapOffload::Auto,
        mtu: settings.mtu,
        mac: None,
        addresses,
        routes,
        // With an address and a route already, a second of each would only surprise.
        advertisements: six.then_some(false),
        loopback: true,
        configure: true,
    })
}

fn guest_address(
    text: &str,
    settings: &Settings,
    before: &[IpNet],
    count: usize,
) -> Result<IpNet, ConfigError> {
    let wrong = |problem: &str, cure: String| Err(usage("--guest", format!("`{text}` {problem}"), cure));
    let Ok(guest) = text.parse::<IpNet>() else {
        return wrong("is no address with prefix", "give one such as 10.0.2.100/24".to_owned());
    };
    let address = guest.addr();
    let Some(net) = settings.inside.iter().find(|net| net.contains(&address)) else {
        let nets = settings.inside.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" or ");
        return wrong("is not inside", format!("give an address of {nets}, or another --inside"));
    };
    if net.prefix_len() != guest.prefix_len() {
        return wrong("has another prefix", format!("write {address}/{}", net.prefix_len()));
    }
    let broadcast = address.is_ipv4() && net.broadcast() == address;
    if net.addr() == address || net.network() == address || broadcast {
        let cure = format!("give another address, e.g. {}", default_guest(net));
        return wrong("is the gateway's, or nobody's, address", cure);
    }
    if before.iter().any(|other| other.addr() == address) {
        return wrong("is given twice", "give each namespace its own".to_owned());
    }
    if before.iter().filter(|other| other.addr().is_ipv4() == address.is_ipv4()).count() >= count {
        let (number, cure) = match count {
            1 => ("second one".to_owned(), "give one for each family".to_owned()),
            _ => (format!("number {}", count + 1), format!("there are {count} namespaces: give as many")),
        };
        return wrong(&format!("is the {number} of its family"), cure);
    }
    Ok(guest)
}

/// An address of the gateway's network: the hundredth if there is one, else the first.
fn default_guest(net: &IpNet) -> IpNet {
    free_guest(net, &[]).unwrap_or(*net)
}

/// An address of the gateway's network that is none of `taken`: from the hundredth on if that is not
/// the gateway's, else from the first on. `None` if all are taken.
fn free_guest(net: &IpNet, taken: &[IpAddr]) -> Option<IpNet> {
    let fits = |address: &IpAddr| {
        let broadcast = net.addr().is_ipv4() && net.broadcast() == *address;
        net.contains(address) && *address != net.addr() && *address != net.network() && !broadcast
    };
    let from_hundredth = |number: usize| match net.network() {
        IpAddr::V4(first) => {
            let bits = first.to_bits().checked_add(100)?.checked_add(u32::try_from(number).ok()?)?;
            Some(IpAddr::V4(Ipv4Addr::from_bits(bits)))
        }
        IpAddr::V6(first) => {
            let bits = first.to_bits().checked_add(0x100)?.checked_add(number as u128)?;
            Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
        }
    };
    // The gateway, the network itself and its broadcast address are nobody's.
    let enough = taken.len() + 4;
    let high = (0..enough).map_while(from_hundredth);
    let high = high.skip_while(|_| from_hundredth(0).is_none_or(|address| !fits(&address)));
    let mut all = high.chain(net.hosts().take(enough));
    let address = all.find(|address| fits(address) && !taken.contains(address))?;
    IpNet::new(address, net.prefix_len()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_gets_an_address_that_the_gateway_has_not() {
        let cases = [
            ("10.0.2.2/24", "10.0.2.100/24"),
            ("10.0.2.100/24", "10.0.2.1/24"),
            ("10.9.8.1/30", "10.9.8.2/30"),
            ("10.9.8.2/30", "10.9.8.1/30"),
            ("10.0.0.1/8", "10.0.0.100/8"),
            ("fd00::2/64", "fd00::100/64"),
            ("fd00::1/126", "fd00::2/126"),
        ];
        for (net, want) in cases {
            assert_eq!(default_guest(&net.parse().unwrap()).to_string(), want, "{net}");
        }
    }

    #[test]
    fn networks_of_the_host_are_not_chosen() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(free(&FOUR, &[]), "10.0.2.2/24");
        assert_eq!(free(&FOUR, &[(1, ip("10.0.2.15"), 24)]), "10.40.2.2/24");
        assert_eq!(free(&FOUR, &[(1, ip("10.1.1.1"), 8)]), "172.27.2.2/24");
        assert_eq!(free(&SIX, &[(1, ip("fd00::9"), 64)]), "fd00:746e:2::2/64");
    }

    #[test]
    fn each_namespace_gets_an_address_of_its_own() {
        let many = |guest: &[&str], inside: &[&str], count| {
            let guest = GuestArgs { guest: guest.iter().map(|text| (*text).to_owned()).collect() };
            let flags = self::inside(inside);
            let plan = plan_many(&flags, &guest, count, Defaults::default(), None);
            plan.map_err(|error| error.to_string()).map(|plan| {
                let words = |guest: &GuestConfig| guest.addresses.iter().map(IpNet::to_string).collect();
                plan.guests().map(words).map(|words: Vec<String>| words.join(" ")).collect::<Vec<_>>()
            })
        };
        let both = ["10.9.0.1/24", "fd00:9::1/64"];
        let want = ["10.9.0.101/24 fd00:9::100/64", "10.9.0.100/24 fd00:9::101/64"];
        assert_eq!(many(&["10.9.0.101/24"], &both, 2).unwrap(), want);
        // Six addresses, of which the gateway has one.
        let small = many(&[], &["10.9.0.1/29"], 5).unwrap();
        assert_eq!(small.first().zip(small.last()), Some((&"10.9.0.2/29".into(), &"10.9.0.6/29".into())));
        assert!(many(&[], &["10.9.0.1/29"], 6).unwrap_err().contains("no room for 6 namespaces"));
        let whole = many(&[], &["10.9.0.1/24"], 253).unwrap();
        assert_eq!(whole.iter().collect::<std::collections::BTreeSet<_>>().len(), 253);
        let told = |guest: &[&str]| many(guest, &["10.9.0.1/24"], 2).unwrap_err();
        assert!(told(&["10.9.0.5/24", "10.9.0.5/24"]).contains("given twice"));
        assert!(told(&["10.9.0.5/24", "10.9.0.6/24", "10.9.0.7/24"]).contains("there are 2 namespaces"));
    }

    fn planned(flags: RunFlags, guest: &[&str]) -> Result<Plan, String> {
        let guest = GuestArgs { guest: guest.iter().map(|text| (*text).to_owned()).collect() };
        plan(&flags, &guest, Defaults::default(), None).map_err(|error| error.to_string())
    }

    fn inside(nets: &[&str]) -> RunFlags {
        RunFlags { inside: nets.iter().map(|net| (*net).to_owned()).collect(), ..RunFlags::default() }
    }

    #[test]
    fn addresses_and_routes_follow_the_gateway() {
        let plan = planned(inside(&["10.9.0.1/16", "fd00:9::1/64"]), &["10.9.7.7/16"]).unwrap();
        let words: Vec<String> = plan.guest.addresses.iter().map(IpNet::to_string).collect();
        assert_eq!(words, ["10.9.7.7/16", "fd00:9::100/64"]);
        let via: Vec<_> = plan.guest.routes.iter().map(|route| (route.to.to_string(), route.via)).collect();
        let at = |text: &str| text.parse().ok();
        assert_eq!(via, [("0.0.0.0/0".into(), at("10.9.0.1")), ("::/0".into(), at("fd00:9::1"))]);
        let told = |guest| planned(inside(&["10.9.0.1/16"]), guest).unwrap_err();
        assert!(told(&["10.9.7.7"]).contains("no address with prefix"));
        assert!(told(&["10.8.7.7/16"]).contains("give an address of 10.9.0.1/16"));
        assert!(told(&["10.9.7.7/24"]).contains("write 10.9.7.7/16"));
        assert!(told(&["10.9.0.1/16"]).contains("give another address, e.g. 10.9.0.100/16"));
        assert!(told(&["10.9.7.7/16", "10.9.7.8/16"]).contains("second one"));
        let bridge = RunFlags { bridge: Some("br0".into()), ..inside(&["10.9.0.1/16"]) };
        assert!(planned(bridge, &[]).unwrap_err().starts_with("--bridge: "));
        let lone = RunFlags { lone: vec!["192.0.2.50/24=192.0.2.1".into()], ..inside(&["10.9.0.1/16"]) };
        assert!(planned(lone, &[]).unwrap_err().starts_with("--lone: "));
        let open = RunFlags { tap_fd: Some("7".into()), ..inside(&["10.9.0.1/16"]) };
        assert!(planned(open, &[]).unwrap_err().starts_with("--tap-fd: "));
    }
}
