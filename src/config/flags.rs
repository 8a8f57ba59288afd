//! The options of `tapnat run`, as written.

use super::error::ConfigError;
use super::raw::{KEYS, Place, Raw, Written};
use super::rule;
use std::path::PathBuf;

/// The options of `tapnat run`. Each but `--config` is also a key of the file.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct RunFlags {
    /// Read settings from this TOML file; options win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Instance name, for the control socket [default: default]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Unix socket of the control interface [default: tapnat/NAME.sock in $XDG_RUNTIME_DIR or /run]
    #[arg(long, value_name = "PATH")]
    pub control: Option<String>,
    /// How much to log: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// How far the process gives up what it does not need after its start: auto, as far as the host
    /// allows; strict, wholly or it does not start; off [default: auto]
    #[arg(long, value_name = "auto|strict|off")]
    pub sandbox: Option<String>,
    /// Write one line to this descriptor, and close it, when packets can flow
    #[arg(long, value_name = "FD")]
    pub ready_fd: Option<String>,

    /// TAP to create, or to attach to if there is one [default: tapnat0]
    #[arg(long, value_name = "NAME", help_heading = "Inside")]
    pub tap: Option<String>,
    /// Use an inherited TAP descriptor
    #[arg(long, value_name = "FD", conflicts_with = "tap", help_heading = "Inside")]
    pub tap_fd: Option<String>,
    /// off: a plain TAP, frames as on a wire [default: auto]
    #[arg(long, value_name = "auto|off", help_heading = "Inside")]
    pub tap_offload: Option<String>,
    /// Make the TAP a port of this bridge; create the bridge if there is none
    #[arg(long, value_name = "NAME", help_heading = "Inside")]
    pub bridge: Option<String>,
    /// The gateway's own address and prefix inside, e.g. 10.88.0.1/24 or fd00:88::1/64; can be repeated
    #[arg(long, value_name = "CIDR", help_heading = "Inside")]
    pub inside: Vec<String>,
    /// The one host inside has this address, which may be the host's own: its neighbours are outside, its
    /// gateway is ROUTER, and the host itself is found at SELF; can be repeated
    #[arg(long, value_name = "ADDR/LEN=ROUTER[=SELF]", help_heading = "Inside")]
    pub lone: Vec<String>,
    /// The gateway's MAC inside [default: made up at each start]
    #[arg(long, value_name = "ADDR", help_heading = "Inside")]
    pub mac: Option<String>,
    /// MTU of the inside, in bytes [default: 1500]
    #[arg(long, value_name = "N", help_heading = "Inside")]
    pub mtu: Option<String>,
    /// Whether IPv6 hosts are told prefix, MTU, router and DNS servers by advertisements [default: on]
    #[arg(long, value_name = "on|off", help_heading = "Inside")]
    pub advertise: Option<String>,
    /// Addresses for IPv4 hosts by DHCP, from a share of the first subnet or from these [default: off]
    #[arg(long, value_name = "on|off|FIRST-LAST", help_heading = "Inside")]
    pub dhcp: Option<String>,
    /// For how long an address is given by DHCP [default: 1h]
    #[arg(long, value_name = "DURATION", help_heading = "Inside")]
    pub dhcp_lease: Option<String>,
    /// Address inside at which DNS goes to the host's resolver: the gateway's, or one that no host has;
    /// can be repeated [default: gateway with --dhcp, else off]
    #[arg(long, value_name = "off|gateway|ADDR", help_heading = "Inside")]
    pub dns_forward: Vec<String>,
    /// Ask other resolvers than the host's for the names of a domain, and what is below it, e.g.
    /// corp.example=10.1.2.3,10.1.2.4; can be repeated
    #[arg(long, value_name = "DOMAIN=ADDR[,ADDR]", help_heading = "Inside")]
    pub dns_domain: Vec<String>,
    /// DNS server that hosts are told of by DHCP (IPv4) or advertisements (IPv6); can be repeated
    /// [default: those of --dns-forward]
    #[arg(long, value_name = "ADDR|off", help_heading = "Inside")]
    pub dns: Vec<String>,
    /// Domain for short names that hosts are told of by DHCP; can be repeated [default: the host's]
    #[arg(long, value_name = "DOMAIN|off", help_heading = "Inside")]
    pub search: Vec<String>,

    /// Outside interface [default: that of the default route]
    #[arg(long, value_name = "IFACE", help_heading = "Outside")]
    pub outside: Option<String>,
    /// Address to translate to; can be repeated [default: the outside interface's]
    #[arg(long, value_name = "ADDR", help_heading = "Outside")]
    pub external: Vec<String>,
    /// What carries packets outside [default: auto]
    #[arg(long, value_name = "auto|packet|raw|sockets", help_heading = "Outside")]
    pub uplink: Option<String>,
    /// Use an inherited AF_PACKET descriptor for uplink packet: no privilege is needed then
    #[arg(long, value_name = "FD", help_heading = "Outside")]
    pub raw_fd: Option<String>,
    /// How the host's own stack is kept off our ports [default: auto]
    #[arg(long, value_name = "auto|tcx|hold|sockets|off", help_heading = "Outside")]
    pub guard: Option<String>,
    /// External ports to use: ranges with commas between them
    #[arg(long, value_name = "FIRST-LAST,...", help_heading = "Outside")]
    pub ports: Option<String>,
    /// Port forwards.
    #[arg(
        long,
        value_name = "SPEC",
        help_heading = "Outside",
        help = "Forward a port: [ADDR:]PORT[-PORT]:INSIDE[:PORT[-PORT]]/tcp|udp; can be repeated"
    )]
    pub publish: Vec<String>,
    /// Destinations that are not translated.
    #[arg(
        long,
        value_name = "SPEC",
        help_heading = "Outside",
        help = "Do not translate what goes there: ADDR[/LEN][:PORT[-PORT]][/tcp|udp|icmp]; can be repeated"
    )]
    pub exempt: Vec<String>,
    /// Rules about who may talk to whom.
    #[arg(
        long,
        value_name = "RULE",
        help_heading = "Outside",
        help = "Whom inside hosts may talk to: [INSIDE=]allow|deny:any|ADDR[/LEN][:PORT[-PORT]][/tcp|udp|icmp]; \
                can be repeated, the first that fits holds [default: all but cloud metadata]"
    )]
    pub egress: Vec<String>,

    /// Translate an IPv6 prefix to another, without state (RFC 6296); can be repeated
    #[arg(long, value_name = "INSIDE=OUTSIDE", help_heading = "Translation")]
    pub prefix_translation: Vec<String>,
    /// A named set of behaviours: rfc4787, full-cone, restricted-cone, port-restricted, symmetric, linux
    /// or cgnat; the options below change single ones [default: rfc4787]
    #[arg(long, value_name = "NAME", help_heading = "Translation")]
    pub profile: Option<String>,
    /// Another profile for some inside hosts, e.g. 10.88.0.64/26=symmetric; can be repeated
    #[arg(long, value_name = "INSIDE=PROFILE", help_heading = "Translation")]
    pub rule: Vec<String>,
    /// Profile cgnat: the inside hosts that have a block of ports each [default: the inside subnet]
    #[arg(long, value_name = "CIDR", help_heading = "Translation")]
    pub subscribers: Option<String>,
    /// Profile cgnat: ports of a block [default: seven eighths of all ports, evenly]
    #[arg(long, value_name = "N", help_heading = "Translation")]
    pub block_size: Option<String>,
    /// endpoint-independent, address-dependent or address-and-port-dependent (RFC 4787)
    /// [default: the profile's]
    #[arg(long, value_name = "BEHAVIOUR", help_heading = "Translation")]
    pub mapping: Option<String>,
    /// Which remotes may answer, in the same words [default: the profile's]
    #[arg(long, value_name = "BEHAVIOUR", help_heading = "Translation")]
    pub filtering: Option<String>,
    /// Whether inside hosts reach each other by their outside endpoints [default: the profile's]
    #[arg(long, value_name = "on|off", help_heading = "Translation")]
    pub hairpin: Option<String>,
    /// Whether inside hosts reach services of the host itself [default: on]
    #[arg(long, value_name = "on|off", help_heading = "Translation")]
    pub host_access: Option<String>,
    /// Whether inside hosts reach the host's own loopback, and at which address: on for the gateway's
    /// own; can be repeated for the other family [default: off]
    #[arg(long, value_name = "off|on|ADDR", help_heading = "Translation")]
    pub host_loopback: Vec<String>,
    /// Whether packets from inside are dropped whose address is known to be another MAC's
    /// [default: on]
    #[arg(long, value_name = "on|off", help_heading = "Translation")]
    pub bind_mac: Option<String>,
    /// What an inside host is told when ports or a limit refuse it [default: prohibited]
    #[arg(long, value_name = "prohibited|host-unreachable|silence", help_heading = "Translation")]
    pub refusal: Option<String>,
    /// How long idle flows live, e.g. udp=5m, tcp-established=2h4m; can be repeated. Names: udp,
    /// udp-unreplied, udp-dns, tcp-opening, tcp-syn-received, tcp-established, tcp-half-closed,
    /// tcp-closing, tcp-reset, icmp, other, lease, port-hold
    #[arg(long, value_name = "NAME=DURATION", help_heading = "Translation")]
    pub timeout: Vec<String>,
    /// How many things may live, e.g. sessions=1000000; can be repeated. Names: sessions,
    /// sessions-per-host, mappings-per-host, sessions-per-mapping, publish, held-ports,
    /// new-sessions-per-host
    #[arg(long, value_name = "NAME=N", help_heading = "Translation")]
    pub limit: Vec<String>,
}

impl RunFlags {
    /// The options as [`Raw`] settings.
    ///
    /// # Errors
    /// A `--timeout`, `--limit` or `--rule` without `=`.
    pub fn raw(&self) -> Result<Raw, ConfigError> {
        let mut raw = Raw::default();
        let one: [(&str, &Option<String>); 28] = [
            ("name", &self.name),
            ("control", &self.control),
            ("tap", &self.tap),
            ("tap-fd", &self.tap_fd),
            ("tap-offload", &self.tap_offload),
            ("bridge", &self.bridge),
            ("mac", &self.mac),
            ("mtu", &self.mtu),
            ("advertise", &self.advertise),
            ("dhcp", &self.dhcp),
            ("dhcp-lease", &self.dhcp_lease),
            ("outside", &self.outside),
            ("uplink", &self.uplink),
            ("raw-fd", &self.raw_fd),
            ("guard", &self.guard),
            ("ports", &self.ports),
            ("profile", &self.profile),
            ("subscribers", &self.subscribers),
            ("block-size", &self.block_size),
            ("mapping", &self.mapping),
            ("filtering", &self.filtering),
            ("hairpin", &self.hairpin),
            ("host-access", &self.host_access),
            ("bind-mac", &self.bind_mac),
            ("refusal", &self.refusal),
            ("sandbox", &self.sandbox),
            ("ready-fd", &self.ready_fd),
            ("log", &self.log),
        ];
        let many = [
            ("inside", &self.inside),
            ("lone", &self.lone),
            ("external", &self.external),
            ("publish", &self.publish),
            ("exempt", &self.exempt),
            ("egress", &self.egress),
            ("dns", &self.dns),
            ("dns-forward", &self.dns_forward),
            ("search", &self.search),
            ("prefix-translation", &self.prefix_translation),
            ("host-loopback", &self.host_loopback),
        ];
        let tables = [("dns-domain", &self.dns_domain), ("timeouts", &self.timeout), ("limits", &self.limit)];
        let many = one
            .into_iter()
            .flat_map(|(key, value)| value.iter().map(move |text| (key, text)))
            .chain(many.into_iter().flat_map(|(key, values)| values.iter().map(move |text| (key, text))));
        for (key, text) in many {
            raw.add(known(key).0, None, Written { text: text.clone(), place: Place::Flag(known(key).1) });
        }
        for text in &self.rule {
            let place = Place::Flag(known("rule").1);
            raw.add_rule(rule::split(Written { text: text.clone(), place })?);
        }
        for (key, values) in tables {
            let (key, flag) = known(key);
            for text in values {
                let place = Place::Flag(flag);
                let Some((name, value)) = text.split_once('=') else {
                    let cure = format!("write {flag} NAME=VALUE");
                    return Err(ConfigError::new(&place, format!("`{text}` has no ="), cure));
                };
                raw.add(key, Some(name.to_owned()), Written { text: value.to_owned(), place });
            }
        }
        Ok(raw)
    }
}

/// A key of [`KEYS`] and its flag.
fn known(key: &str) -> (&'static str, &'static str) {
    let found = KEYS.iter().find(|(known, _, _)| *known == key);
    found.map(|(key, flag, _)| (*key, *flag)).expect("only keys of the table are asked for")
}
