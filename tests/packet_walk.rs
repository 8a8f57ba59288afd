//! docs/packet-walk.md shows what happens: its trace blocks are made here by the pure gateway, and
//! every file and function it names exists. `BLESS=1 cargo test --test packet_walk` writes the
//! blocks anew.
#![allow(clippy::unwrap_used)]

#[path = "support/bytes.rs"]
mod bytes;
mod support;

use bytes::{fix_header, with_ttl};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use support::{MAC, MAC_A, MAC_B, X, arp, at, source_port};
use tapnat::cli::packet;
use tapnat::cli::text::Paint;
use tapnat::flow::{Edit, Endpoint, LinkId, LinkInfo, Protocol, Summary, Time};
use tapnat::gateway::{Command, Fate, Gateway, GatewayConfig, HOST, INSIDE, OUTSIDE, Outbox, Reply, Subnet};
use tapnat::nat::{Decision, Nat, NatConfig, SessionView, Step};
use tapnat::observe::record::{PacketRecord, to_hex};
use tapnat::wire::craft::{self, IcmpError};
use tapnat::wire::display::Line;
use tapnat::wire::ethernet::IPV4;
use tapnat::wire::{Buffer, Frame, MacAddr, Offload, Packet, fragment};

const PAGE: &str = "docs/packet-walk.md";
const SEED: [u8; 32] = [7; 32];

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const RED: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
const BLUE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 3);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// The gateway of the page, its inside in plain Ethernet frames, its outside in IP packets.
struct Walk {
    gateway: Gateway,
    now: Time,
    steps: Vec<Step>,
}

/// What one packet led to.
struct Turn {
    fate: Fate,
    /// The packet as it left, from its link header on; `None` if it did not pass.
    passed: Option<Vec<u8>>,
    /// What was sent besides.
    sent: Vec<(LinkId, Vec<u8>)>,
}

fn nat_config() -> NatConfig {
    NatConfig::new(vec![IpAddr::V4(X)])
}

impl Walk {
    fn new() -> Walk {
        let subnets = vec![Subnet { gateway: GATEWAY.into(), prefix: 24, only: None }];
        let (inside, outside) = (LinkInfo::plain(1500, 14), LinkInfo::plain(1500, 0));
        let config = GatewayConfig::new(subnets, MAC, inside, outside, nat_config());
        Walk { gateway: Gateway::new(config, SEED), now: Time::from_secs(1), steps: Vec::new() }
    }

    fn receive(&mut self, from: LinkId, bytes: &[u8]) -> Turn {
        let (mut packet, mut out) = (Buffer::from_bytes(bytes), Outbox::default());
        let fate = self.gateway.receive(from, &mut packet, self.now, &mut out, &mut self.steps);
        let passed = matches!(fate, Fate::Pass(_)).then(|| packet.bytes().to_vec());
        let sent = out.packets.iter().map(|(to, packet)| (*to, packet.bytes().to_vec())).collect();
        Turn { fate, passed, sent }
    }

    fn sessions(&mut self) -> Vec<SessionView> {
        let all = Command::Sessions { cursor: 0, limit: 100 };
        match self.gateway.apply(all, self.now, &mut ()) {
            Reply::Sessions(sessions, None) => sessions,
            other => panic!("{other:?}"),
        }
    }
}

fn from_host(mac: MacAddr, packet: &[u8]) -> Vec<u8> {
    let header = Frame { destination: MAC, source: mac, ethertype: IPV4 }.to_bytes();
    [&header[..], packet].concat()
}

/// A question for the address of server.example, or the answer to it.
fn dns(answer: bool) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(b"\x06server\x07example\0\0\x01\0\x01");
    if answer {
        (message[2], message[3], message[7]) = (0x81, 0x80, 1);
        message.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4]);
        message.extend(SERVER.octets());
    }
    message
}

fn query() -> Vec<u8> {
    craft::udp(at(RED, 5000), at(SERVER, 53), &dns(false))
}

// What the blocks are made of.

fn link(id: LinkId) -> &'static str {
    match id {
        INSIDE => "INSIDE",
        OUTSIDE => "OUTSIDE",
        HOST => "HOST",
        other => panic!("{other:?}"),
    }
}

fn fate(fate: Fate) -> String {
    match fate {
        Fate::Pass(to) => format!("Pass({})", link(to)),
        Fate::Cut(to) => format!("Cut({})", link(to)),
        Fate::Held => "Held".to_owned(),
        Fate::Taken(answer) => format!("Taken({})", answer.word()),
        Fate::Dropped(reason) => format!("Dropped({})", reason.word()),
        Fate::Wants(protocol, outside) => format!("Wants({protocol} {outside})"),
    }
}

fn summary(packet: &[u8]) -> Summary {
    Packet::parse(packet, &Offload::default()).unwrap().summary
}

fn describe(summary: &Summary) -> String {
    match summary {
        Summary::Data(data) => format!("Data, {}, {} bytes", data.flow, data.length),
        Summary::Error(error) => {
            format!("Error, from {} to {}, about {}", error.from, error.to, error.about)
        }
    }
}

fn edit(edit: &Edit) -> String {
    let quoted = edit.quoted.unwrap_or_default();
    let ends = [
        ("source", edit.source),
        ("destination", edit.destination),
        ("quoted source", quoted.source),
        ("quoted destination", quoted.destination),
    ];
    let mut words: Vec<String> =
        ends.iter().filter_map(|(name, end)| end.map(|end| format!("{name} {end}"))).collect();
    words.extend(edit.spend_hop.then(|| "one hop".to_owned()));
    assert!(edit.clamp_mss.is_none() && edit.identification.is_none());
    words.join(", ")
}

fn session(session: &SessionView) -> String {
    let SessionView { protocol, inside, outside, remote, .. } = session;
    let state = if session.answered { "answered" } else { "unanswered" };
    format!(
        "{protocol}  inside {inside}  outside {outside}  remote {remote}  {state}  expires in {} s  \
         out {}/{}  in {}/{}",
        session.expires_in.as_secs(),
        session.packets_out,
        session.bytes_out,
        session.packets_in,
        session.bytes_in,
    )
}

/// The IP packet before and after, as `tapnat events --packets` shows it, without its first line.
fn diff(before: &[u8], after: &[u8]) -> String {
    let record = PacketRecord {
        fate: String::new(),
        from: String::new(),
        to: Some(String::new()),
        flow: None,
        translated: None,
        length: 0,
        before: to_hex(before),
        after: to_hex(after),
        summary: String::new(),
    };
    let lines = packet::lines("", &record, Paint { on: false });
    lines[1..].iter().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// What the gateway must make of `before`, by the translator alone and the one function that edits.
fn translated(nat: &mut Nat, inside: bool, before: &[u8], now: Time) -> (Edit, Decision, Vec<u8>) {
    let packet = Packet::parse(before, &Offload::default()).unwrap();
    let decision = match inside {
        true => nat.outbound(&packet.summary, now, &mut ()),
        false => nat.inbound(&packet.summary, now, &mut ()),
    };
    let Decision::Translate { mut edit, .. } = decision else { panic!("{decision:?}") };
    edit.spend_hop = true;
    let mut buffer = Buffer::from_bytes(before);
    packet.apply(&edit, &mut buffer, 0);
    (edit, decision, buffer.bytes().to_vec())
}

/// The rows of one packet that passes: what is known of it at each step of the page.
fn crossing(walk: &mut Walk, nat: &mut Nat, from: LinkId, bytes: &[u8]) -> (String, Vec<u8>) {
    let skip = if from == INSIDE { 14 } else { 0 };
    let before = &bytes[skip..];
    let (change, decision, expected) = translated(nat, from == INSIDE, before, walk.now);
    let Decision::Translate { exit, .. } = decision else { unreachable!() };
    let turn = walk.receive(from, bytes);
    let passed = turn.passed.unwrap_or_else(|| panic!("{:?}", turn.fate));
    let after = match turn.fate {
        Fate::Pass(INSIDE) => passed[14..].to_vec(),
        _ => passed.clone(),
    };
    assert_eq!(after, expected, "the gateway does what translator and edit say");
    let mut text = String::new();
    let t = walk.now;
    writeln!(text, "arrives   {} at {t}, {} bytes: {}", link(from), bytes.len(), Line(before)).unwrap();
    writeln!(text, "summary   {}", describe(&summary(before))).unwrap();
    writeln!(text, "edit      {}", edit(&change)).unwrap();
    writeln!(text, "exit      {exit:?}").unwrap();
    writeln!(text, "fate      {}: {}", fate(turn.fate), Line(&after)).unwrap();
    if turn.fate == Fate::Pass(INSIDE) {
        let header = Frame::parse(&passed).unwrap();
        writeln!(text, "frame     to {} from {}", header.destination, header.source).unwrap();
    }
    writeln!(text, "\n{}", diff(before, &after).trim_end()).unwrap();
    (text, after)
}

/// One packet that takes another way: what came, its fate, and what was sent.
fn aside(walk: &mut Walk, title: &str, from: LinkId, bytes: &[u8]) -> (String, Turn) {
    let skip = if from == INSIDE { 14 } else { 0 };
    let turn = walk.receive(from, bytes);
    let mut text = format!("{title:<13} {:<7} {}\n", link(from), Line(&bytes[skip..]));
    writeln!(text, "{:<13} {}", "", fate(turn.fate)).unwrap();
    let passed = match (turn.fate, &turn.passed) {
        (Fate::Pass(to), Some(passed)) => Some((to, passed.clone())),
        _ => None,
    };
    for (to, packet) in passed.into_iter().chain(turn.sent.iter().cloned()) {
        let skip = if to == INSIDE { 14 } else { 0 };
        writeln!(text, "{:<13} > {:<7} {}", "", link(to), Line(&packet[skip..])).unwrap();
    }
    (text, turn)
}

/// Every block by its name.
fn blocks() -> Vec<(&'static str, String)> {
    let (mut walk, mut nat) = (Walk::new(), Nat::new(nat_config(), SEED));
    let asked = walk.receive(INSIDE, &arp(1, MAC_A, RED, MacAddr([0; 6]), GATEWAY));
    assert_eq!((fate(asked.fate).as_str(), asked.sent.len()), ("Taken(arp)", 1));
    walk.receive(INSIDE, &arp(1, MAC_B, BLUE, MacAddr([0; 6]), GATEWAY));

    let (out, sent) = crossing(&mut walk, &mut nat, INSIDE, &from_host(MAC_A, &query()));
    let opened = walk.steps.iter().filter(|step| matches!(step, Step::Opened(_))).count();
    assert_eq!(opened, 1);
    let row = session(&walk.sessions()[0]);
    assert_eq!(nat.sessions(0, 10, walk.now).0, walk.sessions());
    let us = at(X, source_port(&sent));

    walk.now = Time::from_millis(1_020);
    let answer = craft::udp(at(SERVER, 53), us, &dns(true));
    let (back, _) = crossing(&mut walk, &mut nat, OUTSIDE, &answer);
    let row_after = session(&walk.sessions()[0]);
    assert_eq!(walk.sessions().len(), 1);

    let error = craft::icmp_error(IcmpError::TtlExceeded, ROUTER, X, &sent);
    let (error, _) = crossing(&mut walk, &mut nat, OUTSIDE, &error);
    assert_eq!(session(&walk.sessions()[0]), row_after, "an error changes no session");

    vec![
        ("out", out),
        ("row", row + "\n"),
        ("back", back),
        ("row-after", row_after + "\n"),
        ("error", error),
        ("asides", asides(&mut walk, us)),
    ]
}

fn asides(walk: &mut Walk, us: SocketAddrV4) -> String {
    let mut text = String::new();
    let mut say = |walk: &mut Walk, title, from, bytes: &[u8]| {
        let (lines, turn) = aside(walk, title, from, bytes);
        text.push_str(&lines);
        turn.fate
    };

    // Fragments: the second one comes first.
    let mut long = craft::udp(at(RED, 5000), at(SERVER, 53), &[0x55; 1800]);
    long[6] = 0;
    fix_header(&mut long);
    let pieces = fragment::fragments(&long, 1500).unwrap();
    assert_eq!(pieces.len(), 2);
    say(walk, "fragment 2", INSIDE, &from_host(MAC_A, &pieces[1]));
    say(walk, "fragment 1", INSIDE, &from_host(MAC_A, &pieces[0]));

    // Hairpin: blue reaches a published port of red by its outside address.
    let publish = Command::Publish {
        protocol: Protocol::Udp,
        outside: Endpoint::new(X, 5353),
        inside: Endpoint::new(RED, 53),
    };
    assert_eq!(walk.gateway.apply(publish, walk.now, &mut ()), Reply::Done);
    let hairpin = craft::udp(at(BLUE, 2000), at(X, 5353), &dns(false));
    assert_eq!(say(walk, "hairpin", INSIDE, &from_host(MAC_B, &hairpin)), Fate::Pass(INSIDE));

    let stranger = craft::udp(at(ROUTER, 53), us, &dns(true));
    say(walk, "drop, silent", OUTSIDE, &stranger);
    say(walk, "drop, told", INSIDE, &from_host(MAC_A, &with_ttl(query(), 1)));
    text
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_trace_is_what_the_gateway_does() {
    let path = root().join(PAGE);
    let page = fs::read_to_string(&path).unwrap();
    let mut wanted = page.clone();
    for (name, block) in blocks() {
        let (begin, end) = (format!("<!-- trace:begin {name} -->\n"), "<!-- trace:end -->");
        let (before, rest) = wanted.split_once(&begin).unwrap_or_else(|| panic!("{PAGE} has no {begin}"));
        let (_, after) = rest.split_once(end).expect("a block that begins ends");
        wanted = format!("{before}{begin}```text\n{block}```\n{end}{after}");
    }
    assert_eq!(page.matches("<!-- trace:begin ").count(), blocks().len(), "a block nobody writes");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &wanted).unwrap();
        return;
    }
    let differ = page.lines().zip(wanted.lines()).find(|(is, should)| is != should);
    assert!(page == wanted, "{PAGE} is behind, see BLESS=1; first difference: {differ:#?}");
}

fn sources() -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// Whether a source has the item `owner::item`: a function in a block or module of that name, a
/// variant of the enum, or a constant.
fn has(path: &Path, text: &str, owner: &str, item: &str) -> bool {
    let module = |path: &Path| {
        let stem = path.file_stem().unwrap().to_string_lossy();
        let folder = path.parent().unwrap().file_name().unwrap().to_string_lossy();
        stem == owner || (stem == "mod" && folder == owner)
    };
    let word = |text: &str, word: &str| {
        text.match_indices(word).any(|(at, _)| {
            let joined = |c: char| c.is_alphanumeric() || c == '_';
            !text[at + word.len()..].starts_with(joined) && !text[..at].ends_with(joined)
        })
    };
    let function = word(text, &format!("fn {item}"));
    if owner.starts_with(char::is_lowercase) {
        return module(path) && function;
    }
    let belongs = text.lines().any(|line| line.starts_with("impl") && word(line, owner))
        || word(text, &format!("trait {owner}"));
    let body = text.split(&format!("enum {owner} {{")).nth(1).and_then(|rest| rest.split("\n}").next());
    let variant = |body: &str| {
        body.lines().any(|line| line.strip_prefix("    ").is_some_and(|line| line.starts_with(item)))
    };
    (belongs && function) || body.is_some_and(variant)
}

#[test]
fn every_file_and_function_it_names_exists() {
    let page = fs::read_to_string(root().join(PAGE)).unwrap();
    let sources: Vec<_> =
        sources().into_iter().map(|path| (fs::read_to_string(&path).unwrap(), path)).collect();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    // Code blocks have an even number of fences; what stands between them is not prose.
    let prose: String = page.split("```").step_by(2).collect();
    let mut file: Option<&str> = None;
    for (number, span) in prose.split('`').enumerate() {
        if number % 2 == 0 {
            // A function belongs to the file named in front of it, with only punctuation between.
            if span.chars().any(char::is_alphanumeric) && !span.starts_with("](") {
                file = None;
            }
            continue;
        }
        if span.starts_with("src/") || span.starts_with("tests/") {
            checked += 1;
            if !root().join(span).exists() {
                wrong.push(format!("{span}: no such file"));
            }
            file = Some(span);
        } else if let Some((owner, item)) = span.split_once("::") {
            checked += 1;
            let item = item.split('(').next().unwrap();
            let homes: Vec<_> = sources.iter().filter(|(text, path)| has(path, text, owner, item)).collect();
            let here = |file: &str| homes.iter().any(|(_, path)| path.ends_with(file));
            if homes.is_empty() || file.is_some_and(|file| !here(file)) {
                wrong.push(format!("{span}: not in {}", file.unwrap_or("src")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(checked > 30, "only {checked} names found");
}
