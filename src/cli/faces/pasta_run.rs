//! `pasta`: from its options to a gateway that runs.

use super::background::{self, Background};
use super::forwards::Forward;
use super::log_file::LogFile;
use super::pasta::{Asked, Options, Target, USAGE, read};
use super::pasta_live::{Ports, Prepared};
use super::pasta_net::{Net, net, on_address};
use super::pasta_ports::SOCKETS;
use super::{say, say_error, sweep};
use crate::cli::args::runtime_dir;
use crate::cli::exec::accompanied;
use crate::cli::guest::Plan;
use crate::cli::run::{log_to, log_to_stderr};
use crate::config::resolve::LEVELS;
use crate::config::{LogLevel, RunFlags, load};
use crate::control::socket::{SocketError, SocketFile};
use crate::io::guest::{self, Fresh, GuestConfig, NetChoice, Template, attach};
use crate::io::netlink::{Family, Netlink};
use crate::runtime::{Around, run_with};
use anyhow::{Context, anyhow, bail};
use ipnet::IpNet;
use rustix::thread::{CapabilitySet, capabilities};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, absolute};
use std::process::ExitCode;
use std::sync::Mutex;

/// MTU of a TAP that nobody changes, in bytes.
const PLAIN_MTU: u16 = 1500;
/// The least MTU of a link that carries IPv6, in bytes (RFC 8200 §5).
const LEAST_SIX: u16 = 1280;

/// Is `pasta`.
pub fn main(args: &[OsString]) -> ExitCode {
    match start(args) {
        Ok(code) => code,
        Err(error) => {
            say_error(&format!("pasta: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(args: &[OsString]) -> anyhow::Result<ExitCode> {
    let second = Background::of(args).context("--background is for pasta itself")?;
    let (second, args) = second.map_or((None, args), |(second, rest)| (Some(second), rest));
    let options = match read(args) {
        Ok(Asked::Help) => {
            say(USAGE);
            return Ok(ExitCode::SUCCESS);
        }
        Ok(Asked::Version) => {
            say(&format!("pasta of tapnat {}\n", env!("CARGO_PKG_VERSION")));
            return Ok(ExitCode::SUCCESS);
        }
        Ok(Asked::Run(options)) => options,
        Err(why) => bail!(why),
    };
    let stays = options.foreground || matches!(options.target, Target::Command(_));
    if second.is_none() && !stays {
        return background::start("pasta", args).context("going to the background");
    }
    run(&options, second)
}

fn run(options: &Options, second: Option<Background>) -> anyhow::Result<ExitCode> {
    let (plan, ports) = plan(options)?;
    match &options.log_file {
        None => log_to_stderr(plan.settings.log),
        Some(path) => {
            let header = format!("pasta of tapnat {} ({})\n", env!("CARGO_PKG_VERSION"), std::process::id());
            let file = LogFile::create(path, options.log_size, &header);
            let file = file.with_context(|| format!("--log-file {}", path.display()))?;
            log_to(plan.settings.log, Mutex::new(file), false);
        }
    }
    for warning in &plan.settings.warnings {
        tracing::warn!("{warning}");
    }
    if options.dns.as_ref().is_some_and(|servers| !servers.is_empty()) && !options.tells_dns {
        tracing::warn!("--dns is told to nobody without --dhcp-dns; --dns-forward asks the host's resolvers");
    }
    sweep(&plan.settings.control, "pasta");
    let pid = options.pid.as_deref().map(pid_file).transpose()?;
    let control = options.control.as_deref().map(absolute).transpose().context("--conf-path")?;
    // It goes when this does, unless it is somebody else's by then.
    let socket = control.as_deref().map(listen).transpose()?;
    let listener = socket.as_ref().map(|socket| socket.listener().try_clone()).transpose();
    let (listener, bound) = (listener.context("--conf-path")?, plan.settings.external.clone());
    let around = move |target: &guest::Target| {
        let mut prepared = ports.prepare(target, listener)?;
        let endings = prepared.as_mut().map(Prepared::endings).unwrap_or_default();
        let counters = prepared.as_ref().map(Prepared::counters).unwrap_or_default();
        let told = move |engine| {
            prepared.map_or(Ok(()), |prepared| prepared.start(engine, &bound))?;
            if let Some(mut file) = pid {
                // Until then it is as it was: this start may have come to nothing.
                file.set_len(0).context("--pid")?;
                writeln!(file, "{}", std::process::id()).context("--pid")?;
            }
            second.map_or(Ok(()), Background::ready)
        };
        let removes = control.into_iter().collect();
        Ok(Around {
            endings,
            counters,
            ready: Some(Box::new(told)),
            control_optional: true,
            removes,
            passing: true,
            ..Around::default()
        })
    };
    serve(options, plan, around)
}

/// Makes the socket for changes; it is this user's alone.
fn listen(path: &Path) -> anyhow::Result<SocketFile> {
    SocketFile::bind(path).map_err(|error| match error {
        SocketError::InUse(path) => {
            anyhow!("--conf-path {}: somebody answers there; stop it, or give another", path.display())
        }
        SocketError::Foreign(path) => anyhow!(
            "--conf-path {}: a file that is no socket is there; remove it, or give another",
            path.display()
        ),
        SocketError::Io { path, doing, error } => anyhow!("--conf-path {}: {doing}: {error}", path.display()),
    })
}

/// Is the gateway of whoever is to be served, with what `around` makes around it.
fn serve(
    options: &Options,
    plan: Plan,
    around: impl FnOnce(&guest::Target) -> anyhow::Result<Around>,
) -> anyhow::Result<ExitCode> {
    let target = match &options.target {
        Target::Command(words) => {
            if options.netns_only && !able() {
                bail!("--netns-only: a network namespace alone takes CAP_SYS_ADMIN: leave it out");
            }
            let fresh = Fresh { root: !options.netns_only, resolver: None };
            return accompanied(plan, &fresh, &command(words), around);
        }
        Target::Pid(pid) => NetChoice::Pid(*pid),
        Target::Netns(path) => NetChoice::Path(path.clone()),
    };
    let target = guest::Target { net: target, user: options.userns.clone() };
    let guest = attach(&target, &plan.guest)?;
    for warning in &guest.warnings {
        tracing::warn!("{warning}");
    }
    let ending = guest.ending.filter(|_| options.netns_quit);
    let mut around = around(&target)?;
    around.endings.extend(ending);
    let plan = plan.with_tap(guest.tap);
    // Who goes on in the background keeps no file system busy.
    std::env::set_current_dir("/").context("leaving the working directory")?;
    run_with(&plan.settings, &plan.flags, runtime_dir().as_deref(), around)?;
    Ok(ExitCode::SUCCESS)
}

/// Whether namespaces can be made without one of users.
fn able() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// The command, or the user's shell.
fn command(words: &[OsString]) -> Vec<OsString> {
    match words {
        [] => vec![std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())],
        words => words.to_vec(),
    }
}

/// Opens the file for the process number before the rights to do so are given up.
fn pid_file(path: &Path) -> anyhow::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).open(path);
    file.with_context(|| format!("--pid {}", path.display()))
}

/// From the options to what the gateway, the namespace and the ports are to be.
fn plan(options: &Options) -> anyhow::Result<(Plan, Ports)> {
    let netlink = Netlink::open().context("netlink socket")?;
    let template = |family: Family, at: usize| {
        let name = options.outbound_interfaces[at].as_ref().or(options.interface.as_ref());
        Template::of(&netlink, family, name.map(String::as_str)).context("the host's network")
    };
    let (four, mut six) = (template(Family::Four, 0)?, template(Family::Six, 1)?);
    let outbound = outbound(options, &netlink, [four.as_ref(), six.as_ref()])?;
    let too_small = options.mtu.is_some_and(|mtu| mtu < LEAST_SIX);
    if too_small && !options.addresses.iter().any(|(ip, _)| ip.is_ipv6()) {
        six = None;
    }
    let net = net(options, four.as_ref(), six.as_ref()).map_err(anyhow::Error::msg)?;
    let options = &on_addresses(options, &netlink)?;
    let ports = Ports::of(options, net.guests(), &netlink)?;
    let publish = ports.published().iter().map(publish_text).collect();
    let spoken = |ip: &&IpAddr| net.guests().iter().any(|guest| guest.is_ipv4() == ip.is_ipv4());
    let external = outbound.iter().filter(spoken).map(IpAddr::to_string).collect();
    let flags = RunFlags { publish, external, ..flags(options, &net) };
    let runtime_dir = runtime_dir();
    let settings = load(&flags, runtime_dir.as_deref())?;
    let guest = guest(options, &net);
    Ok((Plan { flags, settings, guest, more: Vec::new(), control_named: false }, ports))
}

/// The addresses to send from: those that were named, or else those of interfaces that were.
fn outbound(
    options: &Options,
    netlink: &Netlink,
    templates: [Option<&Template>; 2],
) -> anyhow::Result<Vec<IpAddr>> {
    let known = netlink.addresses().context("list the host's addresses")?;
    let mut outbound = Vec::new();
    for (at, (spoken, template)) in [options.four, options.six].into_iter().zip(templates).enumerate() {
        let named = options.outbound.iter().find(|ip| ip.is_ipv6() == (at == 1)).copied();
        if let Some(foreign) = named.filter(|ip| !known.iter().any(|(_, known, _)| known == ip)) {
            bail!("--outbound {foreign}: no interface of this host has it");
        }
        let interface = options.outbound_interfaces[at].as_ref();
        let its = interface.and(template).and_then(|template| template.addresses.first());
        outbound.extend(named.or(its.map(IpNet::addr)).filter(|_| spoken));
    }
    Ok(outbound)
}

/// The options of `tapnat run` that say the same.
fn flags(options: &Options, net: &Net) -> RunFlags {
    let guests = net.guests();
    let spoken = |ip: &&IpAddr| guests.iter().any(|guest| guest.is_ipv4() == ip.is_ipv4());
    let or_off = |list: Vec<String>| if list.is_empty() { vec!["off".to_owned()] } else { list };
    let listed = |list: &[IpAddr]| list.iter().filter(spoken).map(IpAddr::to_string).collect::<Vec<_>>();
    let dhcp = options.dhcp && guests.iter().any(IpAddr::is_ipv4);
    let advertise = options.advertise && guests.iter().any(IpAddr::is_ipv6);
    let told = |ip: &&IpAddr| if ip.is_ipv4() { dhcp } else { advertise };
    let dns = match (&options.dns, options.tells_dns) {
        (_, false) => vec!["off".to_owned()],
        (Some(servers), true) => or_off(servers.iter().filter(told).map(IpAddr::to_string).collect()),
        (None, true) => Vec::new(),
    };
    let search = match (&options.search, dhcp && options.tells_search) {
        _ if !dhcp => Vec::new(),
        (_, false) => vec!["off".to_owned()],
        (Some(domains), true) => or_off(domains.clone()),
        (None, true) => Vec::new(),
    };
    let [tcp, udp, icmp] = options.protocols;
    let denied = [(tcp, "tcp"), (udp, "udp"), (icmp, "icmp")].into_iter().filter(|(spoken, _)| !spoken);
    RunFlags {
        name: Some(format!("pasta-{}", std::process::id())),
        log: Some(log(options).to_owned()),
        tap: Some(net.tap.clone()),
        mtu: Some(options.mtu.unwrap_or(PLAIN_MTU).to_string()),
        lone: net.hosts.iter().map(ToString::to_string).collect(),
        mac: options.mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":")),
        advertise: (!options.advertise).then(|| "off".to_owned()),
        dhcp: dhcp.then(|| "on".to_owned()),
        dns_forward: or_off(listed(&options.dns_forward)),
        dns,
        search,
        uplink: Some("sockets".to_owned()),
        limit: vec![format!("publish={SOCKETS}")],
        egress: denied.map(|(_, protocol)| format!("deny:any/{protocol}")).collect(),
        host_loopback: or_off(listed(&net.loopback)),
        ..RunFlags::default()
    }
}

/// The same with ports that are on addresses alone: those of an interface are on an address that it has.
fn on_addresses(options: &Options, netlink: &Netlink) -> anyhow::Result<Options> {
    let mut options = options.clone();
    if ![&options.ports.tcp, &options.ports.udp].into_iter().flatten().any(|text| text.contains('%')) {
        return Ok(options);
    }
    let known = netlink.addresses().context("list the host's addresses")?;
    let links = netlink.links().context("list the host's interfaces")?;
    let has = |name: &str, ip: IpAddr| {
        let index = links.iter().find(|link| link.name == name).map(|link| link.index);
        known.iter().any(|(link, known, _)| Some(*link) == index && *known == ip)
    };
    for text in options.ports.tcp.iter_mut().chain(&mut options.ports.udp) {
        *text = on_address(text, has).map_err(|why| anyhow!("{text}: {why}"))?;
    }
    Ok(options)
}

/// A forward as `--publish` has it.
fn publish_text(forward: &Forward) -> String {
    let Forward { protocol, host, guest } = forward;
    format!("{host}:{guest}/{protocol}")
}

/// How much is logged, in a word; on the terminal of a command only what is wrong.
fn log(options: &Options) -> &'static str {
    let level = match (&options.target, options.log, &options.log_file) {
        (Target::Command(_), LogLevel::Info, None) => LogLevel::Warn,
        (_, level, _) => level,
    };
    LEVELS.iter().find(|(_, known)| *known == level).map_or("info", |(word, _)| word)
}

/// What is made in the namespace.
fn guest(options: &Options, net: &Net) -> GuestConfig {
    let six = |net: &&IpNet| net.addr().is_ipv6();
    let hosts: Vec<IpNet> = net.hosts.iter().map(|lone| lone.host).collect();
    // Of IPv6 the kernel puts the latest one first.
    let addresses = hosts.iter().filter(|net| !six(net)).chain(hosts.iter().rev().filter(six));
    GuestConfig {
        tap: net.tap.clone(),
        offload: true,
        mtu: options.mtu.unwrap_or(PLAIN_MTU),
        mac: options.ns_mac,
        addresses: addresses.copied().collect(),
        routes: net.routes.clone(),
        advertisements: options.config_net.then_some(false),
        loopback: true,
        configure: options.config_net,
    }
}
