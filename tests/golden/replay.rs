//! A gateway from a configuration file, fed in virtual time, and all that it sends.

use crate::capture::Stamped;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;
use tapnat::config::{Settings, file, resolve};
use tapnat::flow::{Endpoint, LinkId, LinkInfo, Time};
use tapnat::gateway::{Command, Fate, Gateway, GatewayConfig, INSIDE, OUTSIDE, Outbox, Reply};
use tapnat::wire::{Buffer, MacAddr};

/// The outside is an Ethernet-sized link in every case; the configuration says the MTU inside.
const OUTSIDE_MTU: u16 = 1500;
/// How long after its last packet a case goes on: questions are repeated, held packets given up.
const EPILOGUE: Duration = Duration::from_secs(10);
const SEED: [u8; 32] = [7; 32];

pub struct Replay {
    gateway: Gateway,
    now: Time,
    /// What it sent, with the time of the cause.
    pub inside: Vec<Stamped>,
    pub outside: Vec<Stamped>,
}

impl Replay {
    /// A gateway with the settings of this file, which has the keys of `tapnat run --config`.
    pub fn new(config: &Path) -> Self {
        let settings = file::read(config).and_then(|raw| resolve(&raw, None));
        let settings = settings.unwrap_or_else(|error| panic!("{error}"));
        let mut gateway = Gateway::new(gateway_config(&settings), SEED);
        publish(&settings, &mut gateway);
        Replay { gateway, now: Time::ZERO, inside: Vec::new(), outside: Vec::new() }
    }

    /// A packet comes in; whatever time asks for until then is done before.
    pub fn receive(&mut self, at: Time, from: LinkId, bytes: &[u8]) {
        self.advance(at);
        let mut packet = Buffer::from_bytes(bytes);
        let mut out = Outbox::default();
        if let Fate::Pass(to) = self.gateway.receive(from, &mut packet, at, &mut out, &mut ()) {
            self.sent(to, &packet);
        }
        self.send_all(out);
    }

    /// Goes on until nothing that was said is left unanswered.
    pub fn finish(&mut self) {
        self.advance(self.now + EPILOGUE);
    }

    /// The counters that are not zero, one to a line, and what is left in the tables.
    pub fn counters(&mut self) -> String {
        let reply = self.gateway.apply(Command::Counters, self.now, &mut ());
        let Reply::Counters(view, counts) = reply else { panic!("{reply:?}") };
        let mut text = String::new();
        for (kind, counters) in
            [("passed", view.passed), ("answered", view.answered), ("dropped", view.dropped)]
        {
            for (word, count) in counters.into_iter().filter(|(_, count)| *count > 0) {
                writeln!(text, "{kind} {word} {count}").unwrap();
            }
        }
        writeln!(text, "left sessions {}", counts.sessions).unwrap();
        writeln!(text, "left mappings {}", counts.mappings).unwrap();
        text
    }

    fn advance(&mut self, to: Time) {
        assert!(to >= self.now, "time goes on");
        // A deadline may be early; a millisecond later it is looked at again.
        let mut earliest = self.now;
        while let Some(due) = self.gateway.next_deadline().map(|due| due.max(earliest))
            && due < to
        {
            self.tick(due);
            earliest = due + Duration::from_millis(1);
        }
        self.tick(to);
    }

    fn tick(&mut self, now: Time) {
        self.now = now;
        let mut out = Outbox::default();
        self.gateway.tick(now, &mut out, &mut ());
        self.send_all(out);
    }

    fn send_all(&mut self, out: Outbox) {
        for (to, packet) in out.packets {
            self.sent(to, &packet);
        }
    }

    fn sent(&mut self, to: LinkId, packet: &Buffer) {
        // Captures have microseconds; a deadline may fall between two.
        let stamp = Time::from_nanos(self.now.as_nanos() / 1000 * 1000);
        let packet = (stamp, packet.bytes().to_vec());
        match to {
            INSIDE => self.inside.push(packet),
            OUTSIDE => self.outside.push(packet),
            _ => panic!("a case has no host behind the gateway: {packet:?}"),
        }
    }
}

fn gateway_config(settings: &Settings) -> GatewayConfig {
    assert!(settings.ports.is_some(), "a case says its ports");
    let nat = settings.nat(settings.external.clone());
    let mac = MacAddr(settings.mac.expect("a case says its MAC"));
    let (inside, outside) = (LinkInfo::plain(settings.mtu, 14), LinkInfo::plain(OUTSIDE_MTU, 0));
    settings.gateway(GatewayConfig::new(Vec::new(), mac, inside, outside, nat))
}

fn publish(settings: &Settings, gateway: &mut Gateway) {
    for spec in &settings.publish {
        for (outside, inside) in spec.pairs() {
            let command = Command::Publish {
                protocol: spec.protocol,
                outside: Endpoint::new(spec.address.unwrap_or(settings.external[0]), outside),
                inside: Endpoint::new(spec.inside, inside),
            };
            assert_eq!(gateway.apply(command, Time::ZERO, &mut ()), Reply::Done);
        }
    }
}
