//! From text to settings: what is read, what wins, and what is said about everything that is wrong.
#![allow(clippy::unwrap_used)]

use clap::{Args, CommandFactory, FromArgMatches};
use std::path::Path;
use std::time::Duration;
use tapnat::cli::Cli;
use tapnat::config::raw::KEYS;
use tapnat::config::{GuardChoice, RunFlags, Settings, TapChoice, UplinkChoice, file, load, resolve, show};
use tapnat::nat::{Behaviour, PortChoice};

fn flags(line: &str) -> RunFlags {
    let command = RunFlags::augment_args(clap::Command::new("run").no_binary_name(true));
    RunFlags::from_arg_matches(&command.get_matches_from(line.split_whitespace())).unwrap()
}

/// What the command line says, or the one line of its error.
fn given(line: &str) -> Result<Settings, String> {
    load(&flags(line), None).map_err(|error| error.to_string())
}

/// What a file says, or the one line of its error.
fn written(text: &str) -> Result<Settings, String> {
    file::parse("gw.toml", text).and_then(|raw| resolve(&raw, None)).map_err(|error| error.to_string())
}

#[test]
fn defaults_need_only_the_inside() {
    let settings = given("--inside 10.88.0.1/24").unwrap();
    assert_eq!(settings.name, "default");
    assert_eq!(settings.control, Path::new("/run/tapnat/default.sock"));
    assert_eq!(settings.tap, TapChoice::Name("tapnat0".into()));
    assert_eq!(
        (settings.mtu, settings.uplink, settings.guard),
        (1500, UplinkChoice::Auto, GuardChoice::Auto)
    );
    assert_eq!(settings.policy.mapping, Behaviour::EndpointIndependent);
    assert_eq!(settings.policy.filtering, Behaviour::AddressDependent);
    assert_eq!(settings.policy.timeouts, tapnat::nat::Timeouts::default());
    assert!(
        settings.policy.hairpin && settings.host_access && settings.bind_mac && settings.warnings.is_empty()
    );

    let flags = flags("--inside 10.88.0.1/24 --name lab");
    let settings = load(&flags, Some(Path::new("/run/user/7"))).unwrap();
    assert_eq!(settings.control, Path::new("/run/user/7/tapnat/lab.sock"));
}

#[test]
fn a_file_says_what_options_say() {
    let from_file = written(
        r#"
        name = "lab"
        control = "/tmp/lab.sock"
        tap = "tap7"
        tap-offload = "off"
        bridge = "br0"
        inside = ["10.88.0.1/24", "10.89.0.1/16"]
        mac = "02:00:00:00:00:01"
        mtu = 9_000
        outside = "eth0"
        external = ["203.0.113.1", "203.0.113.2"]
        uplink = "raw"
        guard = "hold"
        ports = "40000-50000, 52000-52999"
        exempt = ["198.51.100.20:443/tcp"]
        profile = "port-restricted"
        rule = ["10.89.0.0/24=linux"]
        publish = ["203.0.113.1:80:10.88.0.2/tcp", "5000-5009:10.89.0.3:6000-6009/udp"]
        mapping = "address-dependent"
        filtering = "endpoint-independent"
        hairpin = false
        host-access = false
        bind-mac = false
        ready-fd = 7
        log = "debug"

        [timeouts]
        udp = "5m"
        tcp-established = "2h 4m"

        [limits]
        sessions = 1_000
        publish = 0x10
        "#,
    );
    let from_flags = given(
        "--name lab --control /tmp/lab.sock --tap tap7 --tap-offload off --bridge br0 --inside 10.88.0.1/24 \
         --inside 10.89.0.1/16 --mac 02:00:00:00:00:01 --mtu 9000 --outside eth0 --external 203.0.113.1 \
         --external 203.0.113.2 --uplink raw --guard hold --ports 52000-52999,40000-50000 --exempt 198.51.100.20/32:443/tcp --profile port-restricted \
         --rule 10.89.0.0/24=linux \
         --publish 203.0.113.1:80:10.88.0.2/tcp --publish 5000-5009:10.89.0.3:6000-6009/udp \
         --mapping address-dependent --filtering endpoint-independent --hairpin off --host-access off --bind-mac off \
         --ready-fd 7 --log debug --timeout udp=5m --timeout tcp-established=2h4m --limit sessions=1000 \
         --limit publish=16",
    );
    assert_eq!(from_file, from_flags);
    let settings = from_file.unwrap();
    assert_eq!(settings.mac, Some([2, 0, 0, 0, 0, 1]));
    assert_eq!(settings.ports, Some(vec![40000..=50000, 52000..=52999]));
    assert_eq!(settings.policy.timeouts.tcp_established, Duration::from_secs(7440));
    assert_eq!((settings.limits.sessions, settings.limits.publish), (1000, 16));
}

#[test]
fn options_win_lists_replace_and_tables_are_merged() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("gw.toml");
    let text = "inside = '10.1.0.1/24'\nmtu = 1400\ntap = 'tap7'\nexternal = ['203.0.113.1', '203.0.113.2']\n\
                [timeouts]\nudp = '3m'\nicmp = '2m'\n";
    std::fs::write(&path, text).unwrap();
    let line =
        format!("--config {} --mtu 1300 --external 203.0.113.9 --timeout udp=4m --tap-fd 5", path.display());
    let settings = given(&line).unwrap();
    assert_eq!(settings.mtu, 1300);
    assert_eq!(settings.inside[0].to_string(), "10.1.0.1/24");
    assert_eq!(settings.external.len(), 1);
    assert_eq!(settings.policy.timeouts.udp, Duration::from_secs(240));
    assert_eq!(settings.policy.timeouts.icmp, Duration::from_secs(120));
    assert_eq!(settings.tap, TapChoice::Fd(5), "an option for the TAP hides the file's other way to say it");
}

/// Every error names the place, what is wrong, and the cure, in one line.
#[test]
fn what_is_wrong_in_an_option_is_said_in_one_line() {
    let inside = "--inside 10.88.0.1/24";
    for (line, want) in [
        ("", "--inside: is missing; give the gateway's own address and prefix, e.g. --inside 10.88.0.1/24"),
        (
            "--inside 10.88.0.0/24",
            "--inside: `10.88.0.0/24` is the network address of its subnet; give one of its hosts, e.g. 10.88.0.1/24",
        ),
        (
            "--inside 10.88.0.255/24",
            "--inside: `10.88.0.255/24` is the broadcast address of its subnet; give one of its hosts, e.g. 10.88.0.1/24",
        ),
        (
            "--inside 10.88.0.1",
            "--inside: `10.88.0.1` is no address with prefix; give the gateway's own address and prefix, e.g. 10.88.0.1/24 or fd00:88::1/64",
        ),
        (
            "--inside 10.88.0.1/32",
            "--inside: `10.88.0.1/32` has an impossible prefix; give one from /8 to /30",
        ),
        (
            "--inside 224.0.0.1/24",
            "--inside: `224.0.0.1/24` is not an address for a host; give the gateway's own address and prefix, e.g. 10.88.0.1/24 or fd00:88::1/64",
        ),
        (
            "--inside fe80::1/64",
            "--inside: `fe80::1/64` is not an address for a host; give the gateway's own address and prefix, e.g. 10.88.0.1/24 or fd00:88::1/64",
        ),
        (
            "--inside fd00:88::/64",
            "--inside: `fd00:88::/64` is the anycast address of its subnet; give one of its hosts, e.g. fd00:88::1/64",
        ),
        (
            "--inside fd00::1/127",
            "--inside: `fd00::1/127` has an impossible prefix; give one from /16 to /126",
        ),
        (
            "--inside 10.88.0.1/24 --inside fd00:88::1/64 --inside fd00:88::2:1/112",
            "--inside: `fd00:88::2:1/112` overlaps fd00:88::1/64; give subnets that have no address in common",
        ),
        (
            "--inside 10.88.0.1/24 --inside 10.88.0.129/25",
            "--inside: `10.88.0.129/25` overlaps 10.88.0.1/24; give subnets that have no address in common",
        ),
        (
            "--external 10.88.0.9",
            "--external: `10.88.0.9` lies in the inside subnet 10.88.0.1/24; translate to an address that no inside host can have, or choose another --inside",
        ),
        (
            "--external ::ffff:203.0.113.1",
            "--external: `::ffff:203.0.113.1` is not an address for a host; give an address of this host, e.g. 203.0.113.1",
        ),
        (
            "--inside 10.88.0.1/24 --inside fd00:88::1/64 --external fd00:88::9",
            "--external: `fd00:88::9` lies in the inside subnet fd00:88::1/64; translate to an address that no inside host can have, or choose another --inside",
        ),
        (
            "--external 127.0.0.1",
            "--external: `127.0.0.1` is not an address for a host; give an address of this host, e.g. 203.0.113.1",
        ),
        ("--mtu 67", "--mtu: `67` is not possible; give a number from 68 to 65521 (bytes)"),
        ("--mtu big", "--mtu: `big` is not possible; give a number from 68 to 65521 (bytes)"),
        (
            "--mac 01:00:5e:00:00:01",
            "--mac: `01:00:5e:00:00:01` is a multicast address; the first byte must be even; give one such as 02:00:00:00:00:01",
        ),
        ("--mac 2:0:0:0:0:1", "--mac: `2:0:0:0:0:1` is no MAC address; give one such as 02:00:00:00:00:01"),
        (
            "--ports 0-100",
            "--ports: `0-100` has port 0; give FIRST-LAST with numbers from 1 to 65535, e.g. 32768-60999, or several with commas between",
        ),
        (
            "--ports 500-400",
            "--ports: `500-400` ends before it begins; give FIRST-LAST with numbers from 1 to 65535, e.g. 32768-60999, or several with commas between",
        ),
        (
            "--ports 500",
            "--ports: `500` is not a range; give FIRST-LAST with numbers from 1 to 65535, e.g. 32768-60999, or several with commas between",
        ),
        (
            "--ports 40000-50000,,60000-60001",
            "--ports: `` is not a range; give FIRST-LAST with numbers from 1 to 65535, e.g. 32768-60999, or several with commas between",
        ),
        (
            "--ports 40000-50000,60000-60001,49999-55000",
            "--ports: `49999-55000` overlaps 40000-50000; give each port once",
        ),
        (
            "--exempt 198.51.100.7/24",
            "--exempt: `198.51.100.7/24` is one host's address with a shorter prefix; write 198.51.100.0/24 or 198.51.100.7",
        ),
        (
            "--exempt 198.51.100.0/24:443",
            "--exempt: `198.51.100.0/24:443` has ports of no protocol; end it with /tcp or /udp",
        ),
        (
            "--exempt 10.88.0.128/25",
            "--exempt: `10.88.0.128/25` lies in the inside subnet 10.88.0.1/24; name destinations outside; hosts of one subnet reach each other without the gateway",
        ),
        (
            "--exempt 2001:db8::/32",
            "--exempt: `2001:db8::/32` is of a family that no inside subnet has; add an --inside of that family, or leave it out",
        ),
        (
            "--exempt 198.51.100.7 --exempt 198.51.100.7/32",
            "--exempt: `198.51.100.7/32` is given twice; give it once",
        ),
        (
            "--profile ful-cone",
            "--profile: `ful-cone` is no profile; did you mean `full-cone`? (known: rfc4787, full-cone, restricted-cone, port-restricted, symmetric, linux, cgnat)",
        ),
        (
            "--rule 10.88.0.64/26",
            "--rule: `10.88.0.64/26` has no =; write INSIDE=PROFILE, e.g. 10.88.0.64/26=symmetric",
        ),
        ("--rule ten=symmetric", "--rule: `ten` is no prefix; give one such as 10.88.0.64/26"),
        (
            "--rule 10.88.0.65/26=symmetric",
            "--rule: `10.88.0.65/26` is one host's address with a shorter prefix; write 10.88.0.64/26, or 10.88.0.65 for the one host",
        ),
        (
            "--rule 10.88.0.64/26=symmetric --rule 10.88.0.64/26=linux",
            "--rule: `10.88.0.64/26` has a rule already; write one rule for a prefix",
        ),
        (
            "--rule 10.89.0.0/26=symmetric",
            "--rule: `10.89.0.0/26` is outside every inside subnet; name hosts of an --inside subnet",
        ),
        (
            "--block-size 64",
            "--block-size: `64` is only for the profile cgnat; add --profile cgnat, or leave it out",
        ),
        (
            "--subscribers 10.88.0.0/26",
            "--subscribers: `10.88.0.0/26` is only for the profile cgnat; add --profile cgnat, or leave it out",
        ),
        (
            "--profile cgnat --subscribers 10.89.0.0/26",
            "--subscribers: `10.89.0.0/26` is outside every inside subnet; name hosts of an IPv4 --inside subnet",
        ),
        (
            "--profile cgnat --external 203.0.113.1 --block-size 130",
            "--block-size: blocks of 130 ports for the 254 hosts of 10.88.0.0/24 do not fit: 1 external address(es) hold 252 such blocks; give at most 129 ports a block, or 2 external addresses",
        ),
        (
            "--inside 10.0.0.1/8 --profile cgnat",
            "--profile: blocks of 1 ports for the 16777214 hosts of 10.0.0.0/8 do not fit: 1 external address(es) hold 32768 such blocks; give fewer subscribers, or 512 external addresses",
        ),
        (
            "--inside 10.88.0.1/24 --inside 10.89.0.1/24 --profile cgnat",
            "--profile: `cgnat` needs `subscribers`: there are 2 inside IPv4 subnets; say which hosts have a block of ports each, e.g. --subscribers 10.88.0.0/23",
        ),
        (
            "--subscribers 10.88.0.0/26 --rule 10.88.0.64/26=cgnat",
            "--rule: `10.88.0.64/26` has hosts that have no block of ports; name hosts of `subscribers` (10.88.0.0/26), or widen that",
        ),
        (
            "--dns fd00:88::53",
            "--dns: `fd00:88::53` would be told to nobody: nothing is advertised; add an IPv6 --inside and leave --advertise on, or leave it out",
        ),
        (
            "--dns-domain corp.example=10.1.2.3",
            "--dns-domain: nobody asks the gateway for `corp.example`; add --dns-forward gateway, or leave it out",
        ),
        (
            "--dns-forward gateway --dns-domain corp..example=10.1.2.3",
            "--dns-domain: `corp..example` is no domain name; give one such as corp.example",
        ),
        (
            "--dns-forward gateway --dns-domain corp.example=10.1.2.3,here",
            "--dns-domain: `here` is no resolver's address; give ADDR or ADDR:PORT, several with commas between them, e.g. 10.1.2.3,[fd00::53]:5353",
        ),
        ("--dns here", "--dns: `here` is no IP address; give one such as 10.88.0.53 or fd00:88::53"),
        (
            "--prefix-translation fd00:88::/64",
            "--prefix-translation: `fd00:88::/64` has no =; write INSIDE=OUTSIDE, e.g. fd00:88::/64=2001:db8:1::/64",
        ),
        (
            "--prefix-translation 10.88.0.0/24=192.0.2.0/24",
            "--prefix-translation: `10.88.0.0/24=192.0.2.0/24` is not possible: prefix translation is for IPv6 only; IPv4 hosts are translated by port; write INSIDE=OUTSIDE, e.g. fd00:88::/64=2001:db8:1::/64",
        ),
        (
            "--prefix-translation fd00:89::/64=2001:db8:1::/64",
            "--prefix-translation: `fd00:89::/64=2001:db8:1::/64` begins outside every inside subnet; name the prefix of an --inside subnet",
        ),
        (
            "--inside fd00:88::1/64 --inside fd00:89::1/64 --prefix-translation fd00:88::/64=2001:db8:1::/64 --prefix-translation fd00:89::/64=2001:db8:1::/64",
            "--prefix-translation: `fd00:89::/64=2001:db8:1::/64` overlaps fd00:88::/64=2001:db8:1::/64; give prefixes that have no address in common",
        ),
        ("--uplink netmap", "--uplink: `netmap` is not a value of it; known: auto, packet, raw, sockets"),
        (
            "--guard tcp",
            "--guard: `tcp` is not a value of it; did you mean `tcx`? (known: auto, tcx, hold, sockets, off)",
        ),
        (
            "--publish 203.0.113.1:80:[fd00::2]:80/tcp",
            "--publish: `203.0.113.1:80:[fd00::2]:80/tcp` forwards to another family of addresses; give both ends IPv4 or both IPv6",
        ),
        ("--hairpin yes", "--hairpin: `yes` is not a value of it; known: on, off"),
        ("--timeout udp", "--timeout: `udp` has no =; write --timeout NAME=VALUE"),
        (
            "--timeout tcp-estabished=2h",
            "--timeout: no timeout `tcp-estabished`; did you mean `tcp-established`? (known: udp, udp-unreplied, udp-dns, tcp-opening, tcp-syn-received, tcp-established, tcp-half-closed, tcp-closing, tcp-reset, icmp, other, lease, port-hold)",
        ),
        (
            "--timeout udp=300",
            "--timeout: `300` is no duration; write a number and a unit, e.g. 90s, 5m, 2h4m",
        ),
        ("--timeout udp=0s", "--timeout: `0s` is not possible; give more than nothing and at most 365days"),
        (
            "--limit session=5",
            "--limit: no limit `session`; did you mean `sessions`? (known: sessions, sessions-per-host, mappings-per-host, sessions-per-mapping, publish, held-ports, new-sessions-per-host)",
        ),
        ("--limit sessions=0", "--limit: `0` is not possible; give a number from 1 to 134217728"),
        (
            "--publish 80:10.88.0.2/sctp",
            "--publish: `80:10.88.0.2/sctp` has the protocol `sctp`; end it with /tcp or /udp",
        ),
        (
            "--publish 80:192.0.2.1/tcp",
            "--publish: `80:192.0.2.1/tcp` forwards to 192.0.2.1, which is not inside; name a host of an --inside subnet",
        ),
        (
            "--publish 80:10.88.0.1/tcp",
            "--publish: `80:10.88.0.1/tcp` forwards to the gateway itself; name a host behind the gateway",
        ),
        (
            "--publish 80:10.88.0.255/tcp",
            "--publish: `80:10.88.0.255/tcp` forwards to an address that no host has; name one host of the subnet",
        ),
        (
            "--publish 80-90:10.88.0.2/tcp --publish 85:10.88.0.3:80/tcp",
            "--publish: `85:10.88.0.3:80/tcp` clashes with `80-90:10.88.0.2:80-90/tcp`; give each external port once for a protocol and address",
        ),
        (
            "--external 203.0.113.1 --publish 203.0.113.2:80:10.88.0.2/tcp",
            "--publish: `203.0.113.2:80:10.88.0.2/tcp` names an address that is not external; add --external 203.0.113.2, or leave the address out",
        ),
        (
            "--limit publish=2 --publish 80-90:10.88.0.2/tcp",
            "--publish: `80-90:10.88.0.2/tcp` goes beyond the limit of 2 published ports; publish fewer ports, or raise --limit publish=N",
        ),
        (
            "--tap a-name-that-is-too-long",
            "--tap: `a-name-that-is-too-long` is no interface name; use 1 to 15 visible characters without `/`, `:` and `%`",
        ),
        ("--bridge tapnat0", "--bridge: `tapnat0` is the TAP's name too; give them different names"),
        (
            "--bridge br0 --outside br0",
            "--outside: `br0` is the bridge's name too; the bridge is the inside: give the interface that leads to the network",
        ),
        (
            "--name ../x",
            "--name: `../x` is no instance name; use 1 to 64 letters, digits, `-`, `_` and `.`, not beginning with a dot",
        ),
        (
            "--tap-fd 5 --ready-fd 5",
            "--ready-fd: `5` is the number of another descriptor's option; give each descriptor for one purpose",
        ),
        (
            "--tap-fd 1",
            "--tap-fd: `1` is not possible; give a number from 3 to 2147483647 (the number of an inherited descriptor)",
        ),
        (
            "--config /nowhere/gw.toml",
            "--config: cannot read /nowhere/gw.toml: No such file or directory (os error 2); give the path of a readable TOML file",
        ),
    ] {
        let whole = if line.contains("--inside") || line.is_empty() {
            line.into()
        } else {
            format!("{inside} {line}")
        };
        assert_eq!(given(&whole).unwrap_err(), want, "{whole}");
    }
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_line() {
    for (text, want) in [
        (
            "inside = '10.88.0.1/24'\n\nmtuu = 1500",
            "gw.toml line 3: mtuu: no such key; did you mean `mtu`? (known: ",
        ),
        (
            "inside = [\n '10.88.0.1/24',\n '10.88.0.7/25']",
            "gw.toml line 3: inside: `10.88.0.7/25` overlaps 10.88.0.1/24; ",
        ),
        (
            "inside = '10.88.0.1/24'\nmtu = 20",
            "gw.toml line 2: mtu: `20` is not possible; give a number from 68",
        ),
        ("mtu = 1.5", "gw.toml line 1: mtu: is a float; write a string, a whole number, true or false"),
        ("mtu = [1500]", "gw.toml line 1: mtu: is a list; it takes one value"),
        ("mtu = 99999999999999999999", "gw.toml line 1: mtu: is too large a number; write a smaller one"),
        (
            "timeouts = '5m'",
            "gw.toml line 1: timeouts: is a string; write a table: [timeouts] and NAME = VALUE lines",
        ),
        (
            "inside = '10.88.0.1/24'\n[timeouts]\nupd = '5m'",
            "gw.toml line 3: timeouts.upd: no timeout `upd`; did you mean `udp`?",
        ),
        (
            "[limits]\nsessions = -1",
            "gw.toml line 2: limits.sessions: `-1` is not possible; give a number from 1",
        ),
        (
            "inside = '10.88.0.1/24'\n[[rule]]\ninside = '10.88.0.64/26'\nfiltring = 'off'",
            "gw.toml line 4: rule.filtring: no such key; did you mean `filtering`? (known: inside, profile, ",
        ),
        (
            "inside = '10.88.0.1/24'\n[[rule]]\nprofile = 'linux'",
            "gw.toml line 2: rule: has no `inside`; say for whom it is: inside = \"10.88.0.64/26\"",
        ),
        (
            "inside = '10.88.0.1/24'\n[[rule]]\ninside = '10.88.0.64/26'\n[rule.timeouts]\nlease = '1m'",
            "gw.toml line 5: rule.timeouts.lease: `1m` is a time of the whole gateway, not of some hosts; ",
        ),
        (
            "inside = '10.88.0.1/24'\n[[rule]]\ninside = '10.88.0.64/26'\n[[rule]]\ninside = '10.88.0.64/26'",
            "gw.toml line 5: rule.inside: `10.88.0.64/26` has a rule already; ",
        ),
        (
            "inside = '10.88.0.1/24'\nrule = ['10.88.0.64/26']",
            "gw.toml line 2: rule: `10.88.0.64/26` has no =; write INSIDE=PROFILE",
        ),
        (
            "inside = '10.88.0.1/24'\nrule = 7",
            "gw.toml line 2: rule: is an integer; write a table: [[rule]] and KEY = VALUE lines",
        ),
        (
            "inside = '10.88.0.1/24'\n[[rule]]\ninside = ['10.88.0.64/26']",
            "gw.toml line 3: rule.inside: is a list; it takes one value",
        ),
        ("capture = 'x.pcapng'", "gw.toml line 1: capture: no such key; known: "),
        (
            "tap = 'tap0'\ntap-fd = 4\ninside = '10.0.0.1/8'",
            "gw.toml line 2: tap-fd: `4` is given beside `tap`; give one of the two",
        ),
        (
            "inside = '10.88.0.1/24'\ninside = '10.89.0.1/24'",
            "gw.toml line 2: duplicate key; mend the TOML there",
        ),
        ("inside = [", "gw.toml line 1: "),
        ("\u{0}", "gw.toml line 1: "),
        ("'a\u{9}b' = 1", "gw.toml line 1: a\\tb: no such key; known: "),
        ("mtu = \"1\\n2\"\ninside = '10.88.0.1/24'", "gw.toml line 1: mtu: `1\\n2` is not possible; "),
    ] {
        let error = written(text).unwrap_err();
        assert!(error.starts_with(want), "{text}\n is:   {error}\n want: {want}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn what_is_allowed_and_odd_is_warned_of() {
    let settings = given("--inside 8.8.8.1/24 --timeout udp=30s --ports 80-60000").unwrap();
    assert_eq!(
        settings.warnings,
        [
            "timeout udp=30s is below the 2m that RFC 4787 REQ-5 asks for",
            "inside 8.8.8.1/24 is not a private range: hosts inside cannot reach the real owners of 8.8.8.0/24",
            "ports 80-60000 include those below 1024, which some servers refuse as source ports",
        ]
    );
}

#[test]
fn a_profile_is_a_whole_policy_and_options_depart_from_it() {
    let settings =
        given("--inside 10.88.0.1/24 --profile symmetric --filtering endpoint-independent").unwrap();
    assert_eq!(settings.policy.mapping, Behaviour::AddressAndPortDependent);
    assert_eq!(settings.policy.filtering, Behaviour::EndpointIndependent);
    assert_eq!(settings.profile.word(), "symmetric");
    let linux = given("--inside 10.88.0.1/24 --profile linux --timeout udp=3m").unwrap();
    assert!(!linux.policy.hairpin && linux.policy.choice == PortChoice::Overload);
    assert_eq!(linux.policy.timeouts.udp, Duration::from_secs(180));
    assert_eq!(
        linux.policy.timeouts.udp_unreplied,
        Duration::from_secs(30),
        "the kernel tells the two apart"
    );
    assert_eq!(linux.policy.timeouts.tcp_established, Duration::from_secs(432_000));
    assert_eq!(linux.policy.timeouts.tcp_reset, Duration::from_secs(10));
    let plain = given("--inside 10.88.0.1/24 --timeout udp=3m").unwrap();
    assert_eq!(plain.policy.timeouts.udp_unreplied, Duration::from_secs(180), "one says both");
    assert_eq!(linux.warnings, Vec::<String>::new(), "a profile is chosen with its timers");
}

#[test]
fn a_rule_is_a_policy_of_its_own_for_some_inside_hosts() {
    let settings = written(
        "inside = ['10.88.0.1/24', 'fd00:88::1/64']
         mapping = 'address-dependent'
         [timeouts]
         udp = '3m'
         [[rule]]
         inside = '10.88.0.64/26'
         profile = 'symmetric'
         hairpin = false
         [rule.timeouts]
         icmp = '30s'
         [[rule]]
         inside = '10.88.0.7'
         filtering = 'endpoint-independent'
         [[rule]]
         inside = 'fd00:88::8/125'
         profile = 'full-cone'",
    )
    .unwrap();
    let [some, one, six] = &settings.rules[..] else { panic!("{:?}", settings.rules) };
    assert_eq!((some.rule.inside.to_string(), some.profile.word()), ("10.88.0.64/26".into(), "symmetric"));
    assert_eq!(some.rule.policy.mapping, Behaviour::AddressAndPortDependent);
    assert!(!some.rule.policy.hairpin);
    assert_eq!(some.rule.policy.timeouts.icmp, Duration::from_secs(30));
    assert_eq!(some.rule.policy.timeouts.udp, Duration::from_secs(300), "a profile is whole");
    assert_eq!((one.rule.inside.to_string(), one.profile.word()), ("10.88.0.7/32".into(), "rfc4787"));
    assert_eq!(one.rule.policy.mapping, Behaviour::AddressDependent, "without a profile: as the others");
    assert_eq!(one.rule.policy.timeouts.udp, Duration::from_secs(180));
    assert_eq!(one.rule.policy.filtering, Behaviour::EndpointIndependent);
    assert_eq!(six.rule.policy.filtering, Behaviour::EndpointIndependent);
    assert_eq!(
        settings.warnings,
        ["rule 10.88.0.64/26: timeout icmp=30s is below the 1m that RFC 5508 REQ-2 asks for"]
    );
}

#[test]
fn more_policies_than_the_translator_tells_apart_are_refused() {
    let rules = |count: u32| {
        let rule = |n| {
            format!(
                "[[rule]]\ninside = '10.88.{}.{}'\ntimeouts = {{ other = '{n}s' }}\n",
                n / 250,
                2 + n % 250
            )
        };
        format!("inside = '10.88.0.1/16'\n{}", (1..=count).map(rule).collect::<String>())
    };
    assert_eq!(written(&rules(255)).unwrap().rules.len(), 255);
    let error = written(&rules(256)).unwrap_err();
    let want =
        "gw.toml line 768: rule.inside: `10.88.1.8` is the first of more than 256 different policies; ";
    assert!(error.starts_with(want), "{error}");
}

#[test]
fn blocks_of_cgnat_share_seven_eighths_of_the_ports_evenly() {
    let block = |line: &str| match given(line).unwrap().policy.choice {
        PortChoice::Block { subscribers, size } => (subscribers.to_string(), size),
        other => panic!("{other:?}"),
    };
    assert_eq!(block("--inside 10.88.0.1/24 --profile cgnat"), ("10.88.0.0/24".into(), 112));
    let pool = "--inside 10.88.0.1/22 --profile cgnat --external 203.0.113.1 --external 203.0.113.2";
    assert_eq!(block(pool), ("10.88.0.0/22".into(), 56));
    let some = "--inside 10.88.0.1/24 --profile cgnat --subscribers 10.88.0.64/26 --block-size 500";
    assert_eq!(block(some), ("10.88.0.64/26".into(), 500));
    let rule = given("--inside 10.88.0.1/24 --rule 10.88.0.64/26=cgnat --subscribers 10.88.0.64/26").unwrap();
    assert_eq!(rule.policy.choice, PortChoice::Random);
    assert!(matches!(rule.rules[0].rule.policy.choice, PortChoice::Block { size: 448, .. }));
}

#[test]
fn both_families_are_read_side_by_side() {
    let settings = given(
        "--inside 10.88.0.1/24 --inside fd00:88::1/64 --external 203.0.113.1 --external 2001:db8::1 \
         --publish 80:[fd00:88::2]:8080/tcp --publish 80:10.88.0.2/tcp --exempt [2001:db8:1::]/48:443/tcp",
    )
    .unwrap();
    assert_eq!((settings.inside.len(), settings.external.len()), (2, 2));
    let forwards: Vec<String> = settings
        .publish
        .iter()
        .flat_map(|spec| spec.forwards(&settings.external))
        .map(|(protocol, outside, inside)| format!("{protocol} {outside} {inside}"))
        .collect();
    assert_eq!(forwards, ["tcp [2001:db8::1]:80 [fd00:88::2]:8080", "tcp 203.0.113.1:80 10.88.0.2:80"]);
    let six = "--inside fd00:88::1/64 --dns fd00:88::53 --prefix-translation fd00:88::/64=2001:db8:1::/64";
    let link = tapnat::flow::LinkInfo::plain(1500, 14);
    let gateway = |line: &str| {
        let settings = given(line).unwrap();
        let nat = settings.nat(Vec::new());
        let mac = tapnat::wire::MacAddr([2, 0, 0, 0, 0, 1]);
        settings.gateway(tapnat::gateway::GatewayConfig::new(Vec::new(), mac, link, link, nat))
    };
    let told = gateway(six);
    assert_eq!(told.advertise.unwrap().dns, ["fd00:88::53".parse::<std::net::Ipv6Addr>().unwrap()]);
    assert_eq!((told.subnets.len(), told.translations.len()), (1, 1));
    assert_eq!(gateway("--inside fd00:88::1/64 --advertise off").advertise, None);
    assert_eq!(gateway("--inside 10.88.0.1/24").advertise, None, "there is nobody to tell");
    assert!(given("--inside fd00:88::1/64").is_ok(), "one family is enough, either");
    let odd = given("--inside 2a00:1450::1/64").unwrap();
    assert!(
        odd.warnings[0].starts_with("inside 2a00:1450::1/64 is not a private range"),
        "{:?}",
        odd.warnings
    );
}

#[test]
fn the_difference_of_two_settings_is_told_by_key() {
    let old =
        given("--inside 10.88.0.1/24 --publish 80:10.88.0.2/tcp --rule 10.88.0.64/26=symmetric").unwrap();
    let new = given(
        "--inside 10.88.0.1/24 --mtu 1400 --timeout udp=10m --rule 10.88.0.64/26=full-cone --limit sessions=5",
    )
    .unwrap();
    assert_eq!(show::difference(&old, &old), []);
    let changes = show::difference(&old, &new);
    let told: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "limits.sessions: 1000000 -> 5",
            "mtu: 1500 -> 1400 (needs a restart)",
            "publish: 80:10.88.0.2:80/tcp -> nothing",
            "rule 10.88.0.64/26: filtering: address-and-port-dependent -> endpoint-independent",
            "rule 10.88.0.64/26: mapping: address-and-port-dependent -> endpoint-independent",
            "rule 10.88.0.64/26: profile: symmetric -> full-cone",
            "timeouts.udp: 5m -> 10m",
            "timeouts.udp-unreplied: 5m -> 10m",
        ]
    );
}

/// The file's keys, the options and the help text are the same list.
#[test]
fn every_option_is_a_key_and_every_key_an_option() {
    let cli = Cli::command();
    let run = cli.find_subcommand("run").unwrap();
    let mut options: Vec<String> =
        run.get_arguments().filter_map(|arg| arg.get_long()).map(|long| format!("--{long}")).collect();
    options.retain(|option| option != "--config" && option != "--help");
    options.sort();
    let mut keys: Vec<String> = KEYS.iter().map(|(_, flag, _)| (*flag).to_owned()).collect();
    keys.sort();
    assert_eq!(options, keys);
}

proptest::proptest! {
    /// No text panics, and no error has two lines.
    #[test]
    fn any_text_is_read_or_refused_in_one_line(text in "\\PC*|[a-z\\[\\]='\"0-9.\n]{0,80}") {
        if let Err(error) = written(&text) {
            proptest::prop_assert!(!error.contains('\n'), "{}", error);
        }
    }

    /// Nor does any port forward.
    #[test]
    fn any_port_forward_is_read_or_refused(text in "[0-9:./\\[\\]a-f-]{0,40}(/tcp|/udp)?") {
        if let Ok(spec) = text.parse::<tapnat::config::PublishSpec>() {
            proptest::prop_assert_eq!(spec.ports.len(), spec.inside_ports.len());
            proptest::prop_assert_eq!(&spec.to_string().parse::<tapnat::config::PublishSpec>().unwrap(), &spec);
        }
    }
}

#[test]
fn egress_rules_may_be_about_names_of_a_resolver_that_is_known() {
    let base = "--inside 10.88.0.1/24 --dns-forward gateway --egress";
    for rule in [
        "allow:*.example.org:443/tcp",
        "10.88.0.7=allow:any.example.org",
        "deny:a.example.org/udp",
        "allow:any:443/tcp",
    ] {
        let settings = given(&format!("{base} {rule}")).unwrap();
        let shown = settings.egress.iter().map(ToString::to_string).next_back().unwrap();
        assert_eq!(shown.replace("/32=", "="), rule);
    }
    for (line, problem) in [
        ("--inside 10.88.0.1/24 --egress allow:a.example.org", "no resolver is to be believed"),
        (
            "--inside 10.88.0.1/24 --dhcp on --dns off --dns-forward off --egress allow:a.example.org",
            "believed",
        ),
        (
            "--inside 10.88.0.1/24 --dns-forward gateway --egress allow:a.example.org:443",
            "ports of no protocol",
        ),
        ("--inside 10.88.0.1/24 --dns-forward gateway --egress allow:*.*.org", "does not begin with"),
        ("--inside 10.88.0.1/24 --dns-forward gateway --egress allow:10.0.0.300", "does not begin with"),
    ] {
        let error = given(line).unwrap_err();
        assert!(error.contains(problem), "{line}: {error}");
    }
}

/// The first letters of an IPv6 address may be those of a name.
#[test]
fn egress_rules_may_be_about_any_ipv6_address() {
    for (rule, said) in [
        ("deny:fd00::/8", "deny:[fd00::]/8"),
        ("deny:fe80::/10/udp", "deny:[fe80::]/10/udp"),
        ("allow:fd00:ec2::99", "allow:[fd00:ec2::99]/128"),
        ("allow:[fd00:ec2::99]:80/tcp", "allow:[fd00:ec2::99]/128:80/tcp"),
        ("deny:2001:db8::/32", "deny:[2001:db8::]/32"),
    ] {
        // What is shown is read again.
        for written in [rule, said] {
            let settings = given(&format!("--inside 10.88.0.1/24 --egress {written}")).unwrap();
            let shown: Vec<String> = settings.egress.iter().map(ToString::to_string).collect();
            assert!(shown.iter().any(|shown| shown == said), "{written}: {shown:?}");
        }
    }
}
