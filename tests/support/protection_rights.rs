//! Each capability that a gateway keeps, dropped alone: what it then cannot do any more.

use crate::lab_setup::*;
use crate::lab_tcx;
use rustix::thread::CapabilitySet;
use std::fs::{self, Permissions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, ExitCode};
use tapnat::flow::{Endpoint, Protocol};
use tapnat::io::Link;
use tapnat::io::filter::Wanted;
use tapnat::io::guard::hold::{Deafness, hold};
use tapnat::io::guard::tcx::Tcx;
use tapnat::io::protect::places::{Place, Right};
use tapnat::io::protect::{self, Needs};
use tapnat::io::setup::{self, InsideConfig};
use tapnat::io::uplink::packet::PacketUplink;
use tapnat::io::uplink::raw::RawUplink;
use tapnat::lab::topology::{HOST, Options, UPLINK};

/// The argument that has this program drop a capability and try things.
pub const TRY: &str = "--try-without";

/// What is kept at most, and what fails if it is not.
const KEPT: [(&str, CapabilitySet, &[&str]); 5] = [
    ("cap_net_bind_service", CapabilitySet::NET_BIND_SERVICE, &["a port below 1024 is leased"]),
    (
        "cap_net_raw",
        CapabilitySet::NET_RAW,
        &[
            "the packet uplink is opened again",
            "the raw uplink is opened again",
            "a protocol without ports is held",
        ],
    ),
    (
        "cap_net_admin",
        CapabilitySet::NET_ADMIN,
        &["a deleted TAP is made again", "the program is put in front of an interface again"],
    ),
    ("cap_bpf", CapabilitySet::BPF, &["the program is put in front of an interface again"]),
    ("cap_dac_override", CapabilitySet::DAC_OVERRIDE, &["another user's settings are read"]),
];

/// What only root of the machine can try.
const OF_THE_MACHINE: [&str; 2] = ["cap_bpf", "cap_dac_override"];

pub fn each_capability_is_missed() {
    let world = World::new(Options::default());
    let folder = world.folder.path();
    let settings = folder.join("settings");
    fs::write(&settings, "").unwrap();
    fs::set_permissions(&settings, Permissions::from_mode(0o600)).unwrap();
    let whole = lab_tcx::impossible().is_none() && chown(&settings, Some(65_534), None).is_ok();
    let trial = |dropped: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        world.on("host").confine(&mut command);
        let output = command.arg(TRY).arg(dropped).arg(folder).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        said
    };
    let mortal = |failing: &str| {
        KEPT.iter().any(|(word, _, fails)| OF_THE_MACHINE.contains(word) && fails.contains(&failing))
    };
    for (dropped, _, fails) in [("nothing", CapabilitySet::empty(), &[][..])].iter().chain(&KEPT) {
        if !whole && OF_THE_MACHINE.contains(dropped) {
            continue;
        }
        let said = trial(dropped);
        assert!(said.lines().count() >= 6, "{said}");
        for line in said.lines() {
            let (what, result) = line.split_once(": ").unwrap();
            if !whole && mortal(what) {
                continue;
            }
            assert_eq!(result == "ok", !fails.contains(&what), "without {dropped}: {line}");
        }
        println!("    without {dropped}: {}", if fails.is_empty() { "all is possible" } else { "not that " });
        fails.iter().for_each(|what| println!("        {what}"));
    }
}

/// As a gateway does it after its start: what it had open was opened before.
pub fn try_all(dropped: &str, folder: &Path) -> ExitCode {
    let wanted = Wanted { addresses: vec![HOST.into()], ports: vec![50_000..=50_999], ..Wanted::default() };
    let mut packet = PacketUplink::open(UPLINK, wanted.clone()).unwrap();
    let mut raw = RawUplink::wire(UPLINK, wanted, 1500).unwrap();
    let deafness = Deafness::new();
    let kept = KEPT.iter().filter(|(word, ..)| *word != dropped);
    let capabilities = kept.fold(CapabilitySet::empty(), |all, (_, one, _)| all | *one);
    let places = vec![
        Place::new(folder, Right::Read),
        Place::new("/proc/sys", Right::Read),
        Place::new("/dev/net/tun", Right::Device),
    ];
    for outcome in protect::enter(&Needs { capabilities, places, signals: false, bpf: true }) {
        outcome.result.unwrap();
    }
    let say = |what: &str, result: Result<(), String>| match result {
        Ok(()) => println!("{what}: ok"),
        Err(why) => println!("{what}: {why}"),
    };
    let told = |result: io::Result<()>| result.map_err(|error| error.to_string());
    let inside = InsideConfig {
        tap: "again0".into(),
        tap_fd: None,
        offload: true,
        bridge: Some("again-br0".into()),
        mtu: 1500,
        six: false,
    };
    let made = setup::inside(&inside).map_err(|error| error.to_string());
    say("a deleted TAP is made again", made.and_then(|(_, mut made)| told(made.undo())));
    let held = |protocol, endpoint| told(hold(protocol, endpoint, &deafness).map(drop));
    let low = Endpoint::new(Ipv4Addr::LOCALHOST, 700);
    say("a port below 1024 is leased", held(Protocol::Tcp, low));
    say("a protocol without ports is held", held(Protocol::Other(47), Endpoint::new(HOST, 0)));
    say("the packet uplink is opened again", told(packet.reopen()));
    say("the raw uplink is opened again", told(raw.reopen()));
    say("another user's settings are read", told(fs::read(folder.join("settings")).map(drop)));
    let tcx = Tcx::attach(1, &[HOST.into()]).map(drop);
    say("the program is put in front of an interface again", told(tcx));
    ExitCode::SUCCESS
}
