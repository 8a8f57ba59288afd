//! One TCP connection of an inside host with a remote, segment by segment.

use crate::tuples::{self, end, from, to};
use std::time::Duration;
use tapnat::flow::{Data, Endpoint, ErrorAbout, Segment, Summary, TcpFlags, Time};
use tapnat::nat::{Decision, Nat, NatConfig, Refusal, SessionView, Step, TcpState};

pub const A: &str = "10.0.0.2:5000";
pub const S: &str = "198.51.100.7:80";
/// The first sequence numbers of the two ends in the table tests; A's wraps round soon.
pub const ISN_A: u32 = 0xffff_f000;
pub const ISN_S: u32 = 7_000_000;

/// A segment: flags as in a capture, sequence number, acknowledgement.
#[derive(Clone, Copy, Debug)]
pub struct Seg {
    pub flags: TcpFlags,
    pub segment: Segment,
}

pub fn seg(flags: &str, sequence: u32, acknowledgement: u32) -> Seg {
    let Summary::Data(data) = tuples::tcp("0.0.0.0 > 0.0.0.0", flags) else { unreachable!() };
    let segment = Segment { sequence, acknowledgement, window: 65535, ..Segment::default() };
    Seg { flags: data.tcp, segment }
}

impl Seg {
    pub fn window(mut self, window: u16) -> Seg {
        self.segment.window = window;
        self
    }

    pub fn scale(mut self, scale: u8) -> Seg {
        self.segment.scale = Some(scale);
        self
    }

    pub fn payload(mut self, payload: u16) -> Seg {
        self.segment.payload = payload;
        self
    }

    fn data(self, flow: &str) -> Data {
        let Summary::Data(data) = tuples::tcp(flow, ".") else { unreachable!() };
        let length = 40 + u32::from(self.segment.payload);
        Data { tcp: self.flags, segment: self.segment, length, ..data }
    }
}

pub const PASSES: Result<(), Refusal> = Ok(());
pub const REFUSED: Result<(), Refusal> = Err(Refusal::OutOfWindow);

pub struct Rig {
    pub nat: Nat,
    pub now: Time,
    pub steps: Vec<Step>,
    /// A's outside endpoint.
    pub x: Endpoint,
}

impl Rig {
    /// No session yet. A's port is published as 203.0.113.1:8080, so that the remote may begin too.
    pub fn published() -> Rig {
        let mut nat = Nat::new(NatConfig::new(vec![end("203.0.113.1").ip]), [5; 32]);
        let x = end("203.0.113.1:8080");
        nat.publish(tapnat::flow::Protocol::Tcp, x, end(A)).unwrap();
        Rig { nat, now: Time::from_secs(1), steps: Vec::new(), x }
    }

    /// A has sent this SYN.
    pub fn syn_sent(syn: Seg) -> Rig {
        let nat = Nat::new(NatConfig::new(vec![end("203.0.113.1").ip]), [5; 32]);
        let mut rig = Rig { nat, now: Time::from_secs(1), steps: Vec::new(), x: end(A) };
        let decision = rig.out(syn);
        let Decision::Translate { edit, .. } = decision else { panic!("{decision:?}") };
        rig.x = edit.source.unwrap();
        rig
    }

    /// An open connection with windows of 64 KiB, not scaled.
    pub fn open() -> Rig {
        let mut rig = Rig::syn_sent(seg("S", ISN_A, 0));
        assert_eq!(rig.s(seg("S.", ISN_S, ISN_A + 1)), PASSES);
        assert_eq!(rig.a(seg(".", ISN_A + 1, ISN_S + 1)), PASSES);
        assert_eq!(rig.state(), TcpState::Established);
        rig
    }

    pub fn out(&mut self, segment: Seg) -> Decision {
        let data = segment.data(&format!("{A} > {S}"));
        self.nat.outbound(&Summary::Data(data), self.now, &mut self.steps)
    }

    /// A sends.
    pub fn a(&mut self, segment: Seg) -> Result<(), Refusal> {
        let decision = self.out(segment);
        if let Decision::Translate { edit, .. } = decision {
            assert_eq!(edit.source, Some(self.x), "always by the same outside endpoint");
        }
        refusal(decision)
    }

    /// The remote sends, or somebody in its name. What was foretold is what happens.
    pub fn s(&mut self, segment: Seg) -> Result<(), Refusal> {
        let Summary::Data(data) = to(&Summary::Data(segment.data(&format!("{S} > 0.0.0.0"))), self.x) else {
            unreachable!()
        };
        let foretold = self.nat.would_admit(&data, true, self.now);
        let decided = refusal(self.nat.inbound(&Summary::Data(data), self.now, &mut self.steps));
        assert_eq!(foretold, decided);
        decided
    }

    /// A router reports to A about a segment that it seems to have sent.
    pub fn error_to_a(&mut self, sequence: Option<u32>) -> Result<(), Refusal> {
        let quoted = from(&tuples::tcp(&format!("0.0.0.0 > {S}"), "."), self.x);
        let report = tuples::error("192.0.2.9 > 203.0.113.1", &quoted);
        refusal(self.nat.inbound(&numbered(report, sequence), self.now, &mut self.steps))
    }

    /// A reports to the remote about a segment that it seems to have sent.
    pub fn error_to_s(&mut self, sequence: Option<u32>) -> Result<(), Refusal> {
        let report = tuples::error("10.0.0.2 > 198.51.100.7", &tuples::tcp(&format!("{S} > {A}"), "."));
        refusal(self.nat.outbound(&numbered(report, sequence), self.now, &mut self.steps))
    }

    pub fn view(&self) -> SessionView {
        self.nat.sessions(0, 1, self.now).0[0]
    }

    pub fn state(&self) -> TcpState {
        self.view().tcp.unwrap()
    }

    /// What is left of its life, in seconds.
    pub fn left(&self) -> u64 {
        self.view().expires_in.as_secs()
    }

    pub fn alive(&self) -> bool {
        !self.nat.sessions(0, 1, self.now).0.is_empty()
    }

    pub fn after(&mut self, seconds: u64) -> &mut Rig {
        self.now = self.now + Duration::from_secs(seconds);
        self
    }
}

fn numbered(report: Summary, sequence: Option<u32>) -> Summary {
    let Summary::Error(error) = report else { unreachable!() };
    Summary::Error(ErrorAbout { sequence, ..error })
}

pub fn refusal(decision: Decision) -> Result<(), Refusal> {
    match decision {
        Decision::Translate { .. } => Ok(()),
        Decision::Refuse(why) => Err(why),
        Decision::Lease(..) => unreachable!("no port needs a lease here"),
    }
}
