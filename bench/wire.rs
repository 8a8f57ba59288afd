//! What it costs to read, edit, sum and cut a packet: `cargo bench --bench wire`.

#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use tapnat::flow::{Edit, Endpoint, QuotedEdit, TcpFlags};
use tapnat::wire::craft::{self, IcmpError};
use tapnat::wire::{Buffer, Offload, Packet, PartialChecksum, Segment, SegmentKind, Segments, checksum};

const INSIDE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 40000);
const REMOTE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 443);
const INSIDE6: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 2), 40000, 0, 0);
const REMOTE6: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7), 443, 0, 0);
const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let udp = craft::udp(INSIDE, REMOTE, &[7; 100]);
    let error = craft::icmp_error(IcmpError::TtlExceeded, *REMOTE.ip(), *INSIDE.ip(), &udp);
    vec![
        ("tcp", craft::tcp(INSIDE, REMOTE, TcpFlags::ACK, 1, &[7; 1400])),
        ("udp", udp),
        ("echo", craft::echo(*INSIDE.ip(), *REMOTE.ip(), true, 1, 1, &[7; 56])),
        ("error", error),
        ("ipv6 tcp", craft::tcp(INSIDE6, REMOTE6, TcpFlags::ACK, 1, &[7; 1400])),
        ("ipv6 udp", craft::udp(INSIDE6, REMOTE6, &[7; 100])),
    ]
}

fn super_frame() -> Buffer {
    let mut buffer = Buffer::from_bytes(&craft::tcp(INSIDE, REMOTE, TcpFlags::ACK, 1, &[7; 65160]));
    buffer.offload = Offload {
        checksum: Some(PartialChecksum { start: 20, offset: 16 }),
        segment: Some(Segment { kind: SegmentKind::Tcp4, size: 1448, header: 40, ecn: false }),
        verified: false,
    };
    buffer
}

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    for (name, bytes) in packets() {
        group.bench_function(name, |b| {
            b.iter(|| Packet::parse(black_box(&bytes), &Offload::default()).unwrap())
        });
    }
    let frame = super_frame();
    group.bench_function("super-frame", |b| {
        b.iter(|| Packet::parse(black_box(frame.bytes()), &frame.offload).unwrap())
    });
    group.finish();
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    let edit = Edit { source: Some(Endpoint::new(OUTSIDE, 61000)), spend_hop: true, ..Edit::default() };
    let mut run = |name: &str, edit: Edit, mut buffer: Buffer| {
        let packet = Packet::read(&mut buffer, 0).unwrap();
        group.bench_function(name, |b| b.iter(|| packet.apply(black_box(&edit), black_box(&mut buffer), 0)));
    };
    for (name, bytes) in packets() {
        let edit = match name {
            "error" => Edit {
                destination: edit.source,
                quoted: Some(QuotedEdit { source: edit.source, destination: None }),
                ..Edit::default()
            },
            _ if name.starts_with("ipv6") => Edit { source: Some(Endpoint::new(OUTSIDE6, 61000)), ..edit },
            _ => edit,
        };
        run(name, edit, Buffer::from_bytes(&bytes));
    }
    run("partial super-frame", edit, super_frame());
    group.finish();
}

fn sums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for length in [20, 1500, 65535] {
        let bytes = vec![0xa5; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(format!("{length} bytes"), |b| b.iter(|| checksum::sum(black_box(&bytes))));
    }
    group.finish();
}

fn segments(c: &mut Criterion) {
    let mut group = c.benchmark_group("segment");
    let frame = super_frame();
    let mut out = Buffer::new();
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("64 KiB into 45", |b| {
        b.iter(|| {
            let mut cut = Segments::new(black_box(&frame), 0).unwrap();
            let mut count = 0;
            while cut.write_next(&mut out) {
                count += black_box(out.len());
            }
            count
        })
    });
    group.finish();
}

criterion_group!(benches, parse, apply, sums, segments);
criterion_main!(benches);
