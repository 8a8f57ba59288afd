//! What a decision costs: on an existing session, both ways, at three table sizes in random
//! order; for a new flow; and for expiry. Prints the bytes a session takes, all included, when
//! every session has a mapping of its own. Times are of the processor, so that other work on the
//! machine counts as little as possible.

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tapnat::flow::{Data, Endpoint, Flow, Prefix, Protocol, Segment, Summary, TcpFlags, Time};
use tapnat::nat::{Behaviour, Decision, Nat, NatConfig, Policy, Rule};
use tapnat::runtime::pages::Pages;

/// Processor time of this thread.
struct ProcessorTime;

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

impl Measurement for ProcessorTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        processor_time()
    }

    fn end(&self, start: Duration) -> Duration {
        processor_time().saturating_sub(start)
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// A table of `n` sessions, and the packets that meet them, in an order unlike their making.
struct Table {
    nat: Nat,
    out: Vec<Summary>,
    back: Vec<Summary>,
}

fn packet(protocol: Protocol, source: Endpoint, destination: Endpoint) -> Summary {
    let tcp = if protocol == Protocol::Tcp { TcpFlags::SYN } else { TcpFlags::default() };
    segment(Flow { protocol, source, destination }, tcp)
}

/// A segment of a connection in which both sides began at 0, with 60 bytes of payload.
fn segment(flow: Flow, tcp: TcpFlags) -> Summary {
    let syn = tcp.has(TcpFlags::SYN);
    let segment = Segment {
        sequence: u32::from(!syn),
        acknowledgement: u32::from(tcp.has(TcpFlags::ACK)),
        window: 65535,
        payload: if syn { 0 } else { 60 },
        scale: syn.then_some(7),
    };
    Summary::Data(Data { flow, tcp, segment, asks: true, length: 100 })
}

/// The `n`th flow: each from an inside endpoint of its own, to a remote of its own; 100 a host.
fn flow(n: u32, protocol: Protocol) -> Summary {
    let inside = Ipv4Addr::from_bits(0x0a00_0000 + 2 + n / 100);
    let remote = Ipv4Addr::from_bits(0xc633_0000 + n.wrapping_mul(2_654_435_761) % 0x10_0000);
    packet(protocol, Endpoint::new(inside, 1024 + (n % 100) as u16 * 7), Endpoint::new(remote, 443))
}

fn empty(sessions: u32) -> Nat {
    // 20 addresses of 64,512 ports hold a million mappings at 0.78.
    let count = sessions.div_ceil(50_000) as u8;
    let addresses = (1..=count).map(|n| IpAddr::from([203, 0, 113, n]));
    let config = NatConfig { ports: vec![1024..=65535], ..NatConfig::new(addresses.collect()) };
    Nat::new(config, [7; 32])
}

fn table(sessions: u32, protocol: Protocol) -> Table {
    let mut nat = empty(sessions);
    let (mut out, mut back) = (Vec::new(), Vec::new());
    // As the worker does between bursts.
    let mut pages = Pages::default();
    // A step prime to the size visits all, far from one another.
    for n in (0..sessions).map(|n| (u64::from(n) * 7_368_787 % u64::from(sessions)) as u32) {
        let packet = flow(n, protocol);
        let Decision::Translate { edit, .. } = nat.outbound(&packet, Time::ZERO, &mut ()) else {
            panic!("refused: the table must hold every flow");
        };
        let outside = edit.source.expect("an outbound edit has a source");
        let returns = Flow { protocol, source: packet.flow().destination, destination: outside };
        let (mut later, mut answer) = (packet, segment(returns, TcpFlags::default()));
        if protocol == Protocol::Tcp {
            let syn_ack = segment(returns, TcpFlags::SYN.with(TcpFlags::ACK));
            later = segment(packet.flow(), TcpFlags::ACK);
            answer = segment(returns, TcpFlags::ACK);
            for passes in
                [nat.inbound(&syn_ack, Time::ZERO, &mut ()), nat.outbound(&later, Time::ZERO, &mut ())]
            {
                assert!(matches!(passes, Decision::Translate { .. }), "{passes:?}");
            }
        }
        pages.look(nat.live_sessions(), || nat.spans());
        out.push(later);
        back.push(answer);
    }
    assert_eq!(nat.counts().sessions, sessions as usize);
    shuffle(&mut out);
    shuffle(&mut back);
    Table { nat, out, back }
}

/// Fisher and Yates, with a xorshift generator.
fn shuffle(packets: &mut [Summary]) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for i in (1..packets.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        packets.swap(i, (state % (i as u64 + 1)) as usize);
    }
}

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn memory() {
    let before = resident();
    let nat = empty(1_000_000);
    println!("empty: {} KiB resident, {} KiB held", (resident() - before) / 1024, nat.counts().bytes / 1024);
    drop(nat);
    let before = resident();
    let mut nat = empty(1_000_000);
    let mut pages = Pages::default();
    for n in 0..1_000_000 {
        black_box(nat.outbound(&flow(n, Protocol::Udp), Time::ZERO, &mut ()));
        pages.look(nat.live_sessions(), || nat.spans());
    }
    let counts = nat.counts();
    println!(
        "full: {} sessions, {} mappings, {:.1} bytes a session held, {:.1} resident",
        counts.sessions,
        counts.mappings,
        counts.bytes as f64 / counts.sessions as f64,
        (resident() - before) as f64 / counts.sessions as f64,
    );
}

fn decide(criterion: &mut Criterion<ProcessorTime>) {
    memory();
    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(1));
    for (protocol, suffix) in [(Protocol::Udp, ""), (Protocol::Tcp, "/tcp")] {
        for sessions in [1_000, 64_000, 1_000_000] {
            let Table { mut nat, out, back } = table(sessions, protocol);
            for (name, packets) in [("outbound", &out), ("inbound", &back)] {
                let mut at = 0;
                group.bench_function(format!("{name}/{sessions}{suffix}"), |bencher| {
                    bencher.iter(|| {
                        at = if at + 1 == packets.len() { 0 } else { at + 1 };
                        let packet = black_box(&packets[at]);
                        if name == "outbound" {
                            nat.outbound(packet, Time::ZERO, &mut ())
                        } else {
                            nat.inbound(packet, Time::ZERO, &mut ())
                        }
                    });
                });
            }
        }
    }
    group.finish();
}

fn open_and_expire(criterion: &mut Criterion<ProcessorTime>) {
    let mut group = criterion.benchmark_group("life");
    let batch = 50_000;
    group.throughput(Throughput::Elements(u64::from(batch)));
    group.sample_size(10);
    let fill = |nat: &mut Nat| {
        for n in 0..batch {
            black_box(nat.outbound(&flow(n, Protocol::Udp), Time::ZERO, &mut ()));
        }
    };
    group.bench_function("open", |bencher| {
        bencher.iter_batched_ref(|| empty(batch), fill, BatchSize::PerIteration);
    });
    group.bench_function("expire", |bencher| {
        let full = || {
            let mut nat = empty(batch);
            fill(&mut nat);
            nat
        };
        let expire = |nat: &mut Nat| {
            let late = Time::from_secs(400);
            while nat.next_deadline().is_some_and(|deadline| deadline <= late) {
                nat.expire(late, &mut ());
            }
            assert_eq!(nat.counts().sessions, 0);
        };
        bencher.iter_batched_ref(full, expire, BatchSize::PerIteration);
    });
    group.finish();
}

/// What is done to settings.
type Change = fn(&mut NatConfig);

/// New settings with 100,000 sessions: for so long no packet is looked at.
fn reload(criterion: &mut Criterion<ProcessorTime>) {
    let mut group = criterion.benchmark_group("reload");
    group.sample_size(10);
    let sessions = 100_000;
    let changes: [(&str, Change); 5] = [
        ("timeouts", |config| config.policy.timeouts.tcp_established *= 2),
        ("filtering", |config| config.policy.filtering = Behaviour::AddressAndPortDependent),
        ("mapping", |config| config.policy.mapping = Behaviour::AddressAndPortDependent),
        ("100-rules", |config| {
            let policy = Policy { hairpin: false, ..config.policy.clone() };
            let inside = |n: u32| Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)), 32);
            config.rules = (0..100).map(|n| Rule { inside: inside(n), policy: policy.clone() }).collect();
        }),
        // All sessions end.
        ("addresses", |config| config.external = vec![IpAddr::from([203, 0, 113, 200])]),
    ];
    for (name, change) in changes {
        group.bench_function(format!("{name}/{sessions}/tcp"), |bencher| {
            let full = || table(sessions, Protocol::Tcp).nat;
            let renew = |nat: &mut Nat| {
                let mut config = nat.config().clone();
                change(&mut config);
                nat.retain(|_| true, Time::from_secs(1), &mut ());
                nat.reconfigure(config, Time::from_secs(1), &mut ())
            };
            bencher.iter_batched_ref(full, renew, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ProcessorTime);
    targets = decide, open_and_expire, reload
}
criterion_main!(benches);
