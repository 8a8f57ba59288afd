//! `slirp4netns`: from its options to a gateway that runs.

use super::forwards::Gateway;
use super::slirp_api::{self, Api};
use super::slirp4netns::{Asked, Options, Outbound, SIX, SIX_DNS, SIX_GUEST, Target, USAGE, read};
use super::{say, say_error, sweep};
use crate::cli::args::runtime_dir;
use crate::cli::guest::{Defaults, GuestArgs, Plan, plan};
use crate::cli::run::log_to_stderr;
use crate::config::RunFlags;
use crate::control::Engine;
use crate::io::ending::Ending;
use crate::io::guest::{NetChoice, attach};
use crate::io::netlink::Netlink;
use crate::io::sys::fd;
use crate::runtime::said::said;
use crate::runtime::{Around, run_with};
use anyhow::{Context, bail};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

/// The TAP's name where it is of no account: it is open already.
const UNNAMED: &str = "tap0";

/// Is `slirp4netns`.
pub fn main(args: &[OsString]) -> ExitCode {
    let options = match read(args) {
        Ok(Asked::Help) => {
            say(USAGE);
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Version) => {
            say(&format!("slirp4netns version 1.2.0 (tapnat {})\n", env!("CARGO_PKG_VERSION")));
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Run(options)) => options,
        Err(refused) => {
            if !refused.why.is_empty() {
                say_error(&refused.why);
            }
            if refused.usage {
                say(USAGE);
            }
            return ExitCode::FAILURE;
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(&format!("slirp4netns: {}", said(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let runtime_dir = runtime_dir();
    distinct(options)?;
    let ready_fd = options.ready_fd.map(|number| inherited("ready-fd", number)).transpose()?;
    let exit_fd = options.exit_fd.map(|number| inherited("exit-fd", number)).transpose()?;
    let bound = bound(options)?;
    let flags = flags(options, &bound);
    let args = GuestArgs { guest: guests(options) };
    let name = format!("slirp4netns-{}", std::process::id());
    let plan = plan(&flags, &args, Defaults { name: Some(&name), log: None }, runtime_dir.as_deref())?;
    log_to_stderr(plan.settings.log);
    for warning in &options.warnings {
        tracing::warn!("{warning}");
    }
    sweep(&plan.settings.control, "slirp4netns");
    let (plan, ending) = with_tap(plan, options)?;
    let gone = "the other end of exit-fd has spoken or is closed";
    let exit = exit_fd.map(|fd| Ending::event(fd, gone));
    // Before anything is given up, and before anybody is told that we are ready.
    let listener = options.api_socket.as_deref().map(listen).transpose()?;
    let made = options.api_socket.clone().filter(|_| listener.is_some());
    let identity = made.as_deref().and_then(identity);
    let guests = guests(options).iter().filter_map(|net| net.split('/').next()?.parse().ok()).collect();
    let ready = move |engine: Arc<dyn Engine>| {
        if let Some(listener) = listener {
            let api = Api::new(Gateway::new(engine, &bound), guests);
            let thread = thread::Builder::new().name("api".into());
            thread.spawn(move || slirp_api::serve(&listener, api)).context("a thread")?;
        }
        ready_fd.map_or(Ok(()), |fd| File::from(fd).write_all(b"1")).context("ready-fd")
    };
    let around = Around {
        endings: exit.into_iter().chain(ending).collect(),
        ready: Some(Box::new(ready)),
        control_optional: true,
        removes: made.iter().cloned().collect(),
        passing: true,
        ..Around::default()
    };
    let ran = run_with(&plan.settings, &plan.flags, runtime_dir.as_deref(), around);
    if let Some(path) = made {
        // Somebody may have removed it, or have taken the path for a socket of his own.
        if identity.is_some() && identity == self::identity(&path) {
            let _ = fs::remove_file(path);
        }
    }
    ran
}

/// Which file is there, by device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|data| (data.dev(), data.ino()))
}

/// Each descriptor is taken over, and closed, by one who has it alone.
fn distinct(options: &Options) -> anyhow::Result<()> {
    let tap = if let Target::TapFd(number) = options.target { Some(number) } else { None };
    let mut all: Vec<i32> = [options.ready_fd, options.exit_fd, tap].into_iter().flatten().collect();
    all.sort_unstable();
    match all.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => bail!("descriptor {} is given for two purposes; give each one of its own", pair[0]),
        None => Ok(()),
    }
}

/// A descriptor that was inherited, which programs started from here shall not inherit.
fn inherited(what: &str, number: i32) -> anyhow::Result<OwnedFd> {
    let adopted = fd::keep(number).and_then(|()| fd::adopt(number));
    adopted.with_context(|| format!("{what} {number}: not an open descriptor above 2"))
}

/// Opens the TAP, in the namespace unless it is open already.
fn with_tap(plan: Plan, options: &Options) -> anyhow::Result<(Plan, Option<Ending>)> {
    let net = match &options.target {
        Target::Pid(pid) => NetChoice::Pid(*pid),
        Target::Path(path) => NetChoice::Path(path.clone()),
        Target::TapFd(number) => return Ok((plan.with_tap(inherited("tapfd", *number)?), None)),
    };
    let mut config = plan.guest.clone();
    config.configure = options.configure;
    config.loopback = options.configure;
    config.mac = options.mac;
    let target = crate::io::guest::Target { net, user: options.userns.clone() };
    let guest = attach(&target, &config)?;
    for warning in &guest.warnings {
        tracing::warn!("{warning}");
    }
    Ok((plan.with_tap(guest.tap), guest.ending))
}

/// The options of `tapnat run` that say the same.
fn flags(options: &Options, bound: &[IpAddr]) -> RunFlags {
    let gateway = format!("{}/{}", options.gateway(), options.cidr.prefix_len());
    let six = options.six.then(|| SIX.to_owned());
    let resolvers = || {
        let four = options.address(3).to_string();
        std::iter::once(four).chain(options.six.then(|| SIX_DNS.to_string())).collect()
    };
    RunFlags {
        tap: Some(options.tap.clone().unwrap_or_else(|| UNNAMED.to_owned())),
        inside: std::iter::once(gateway).chain(six).collect(),
        mtu: Some(options.mtu.to_string()),
        uplink: Some("sockets".to_owned()),
        dhcp: Some(format!("{}-{}", options.address(15), options.address(30))),
        dns_forward: if options.dns { resolvers() } else { vec!["off".to_owned()] },
        host_loopback: vec![if options.host_loopback { "on" } else { "off" }.to_owned()],
        external: bound.iter().map(IpAddr::to_string).collect(),
        ..RunFlags::default()
    }
}

/// Who is inside, with prefixes.
fn guests(options: &Options) -> Vec<String> {
    let four = format!("{}/{}", options.guest(), options.cidr.prefix_len());
    let six = options.six.then(|| format!("{SIX_GUEST}/64"));
    std::iter::once(four).chain(six).collect()
}

/// The addresses to send from, if that was asked for.
fn bound(options: &Options) -> anyhow::Result<Vec<IpAddr>> {
    let wanted = [(&options.outbound, false), (&options.outbound6, true)];
    let netlink = Netlink::open().context("netlink socket")?;
    let all = netlink.addresses().context("list the host's addresses")?;
    let mut bound = Vec::new();
    for (outbound, six) in wanted {
        if six && !options.six && outbound.is_some() {
            tracing::warn!("--outbound-addr6 without --enable-ipv6: nothing is sent by IPv6");
            continue;
        }
        match outbound {
            None => {}
            Some(Outbound::Address(address)) => {
                if !all.iter().any(|(_, ip, _)| ip == address) {
                    bail!("outbound address {address}: no interface of this host has it");
                }
                bound.push(*address);
            }
            Some(Outbound::Interface(name)) => {
                let link = netlink.link(name).context("netlink")?;
                let link = link.with_context(|| format!("outbound interface {name}: there is none"))?;
                let usable = |ip: &IpAddr| match ip {
                    IpAddr::V4(_) => !six,
                    IpAddr::V6(ip) => six && !ip.is_unicast_link_local(),
                };
                let own = all.iter().find(|(index, ip, _)| *index == link.index && usable(ip));
                let (_, address, _) =
                    own.with_context(|| format!("outbound interface {name}: no address"))?;
                bound.push(*address);
            }
        }
    }
    Ok(bound)
}

/// Listens on the API socket, in the place of whatever was there.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let _ = fs::remove_file(path);
    UnixListener::bind(path).with_context(|| format!("API socket {}", path.display()))
}
