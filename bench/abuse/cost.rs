//! What one bad packet costs the gateway's core: time of the processor for `Gateway::receive`.

use crate::bad::{INSIDE, Kind, OUTSIDE, port};
use rustix::time::{ClockId, clock_gettime};
use std::net::IpAddr;
use tapnat::flow::{LinkId, LinkInfo, Time};
use tapnat::gateway::{self, Fate, Gateway, GatewayConfig, Outbox, Subnet};
use tapnat::lab::topology::{GATEWAY, HOST};
use tapnat::nat::NatConfig;
use tapnat::wire::ethernet::IPV4;
use tapnat::wire::{Buffer, Frame, MacAddr};

/// The gateway's MAC in the lab and here.
pub const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// The MAC of who sends.
pub const SENDER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

/// Packets of a kind, and how often all of them are received.
const VARIANTS: u16 = 1000;
const REPEATS: usize = 40;

/// A line for each kind: from where, its word, nanoseconds a packet, and the fate of most of them.
pub fn lines() -> Vec<String> {
    let inside = INSIDE.iter().map(|kind| line("inside", gateway::INSIDE, kind));
    let outside = OUTSIDE.iter().map(|kind| line("outside", gateway::OUTSIDE, kind));
    let heading = format!("{:8} {:20} {:>9}  fate of the last", "from", "kind", "ns/packet");
    std::iter::once(heading).chain(inside).chain(outside).collect()
}

fn line(side: &str, link: LinkId, (word, make): &Kind) -> String {
    let header = if link == gateway::INSIDE { frame_header() } else { Vec::new() };
    let packets: Vec<Vec<u8>> = (0..VARIANTS).map(|n| [header.clone(), make(port(n))].concat()).collect();
    let mut gateway = new_gateway();
    let (mut buffer, mut out) = (Buffer::new(), Outbox::default());
    let mut fate = Fate::Held;
    let mut samples = Vec::new();
    for repeat in 0..REPEATS {
        let copying = timed(|| packets.iter().for_each(|packet| buffer.fill(std::hint::black_box(packet))));
        let now = Time::from_secs(1 + repeat as u64);
        let all = timed(|| {
            for packet in &packets {
                buffer.fill(std::hint::black_box(packet));
                fate = gateway.receive(link, &mut buffer, now, &mut out, &mut ());
                out.packets.clear();
            }
        });
        samples.push(all.saturating_sub(copying) as f64 / f64::from(VARIANTS));
    }
    samples.sort_by(f64::total_cmp);
    format!("{side:8} {word:20} {:9.0}  {fate:?}", samples[REPEATS / 2])
}

fn frame_header() -> Vec<u8> {
    Frame { destination: MAC, source: SENDER, ethertype: IPV4 }.to_bytes().to_vec()
}

fn new_gateway() -> Gateway {
    let nat = NatConfig::new(vec![IpAddr::V4(HOST)]);
    let subnets = vec![Subnet { gateway: GATEWAY.into(), prefix: 24, only: None }];
    let (inside, outside) = (LinkInfo::offloading(1500, 14), LinkInfo::offloading(1500, 0));
    Gateway::new(GatewayConfig::new(subnets, MAC, inside, outside, nat), [7; 32])
}

/// Nanoseconds of the processor that this thread had for it.
fn timed(work: impl FnOnce()) -> u64 {
    let time = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
    };
    let before = time();
    work();
    time() - before
}
