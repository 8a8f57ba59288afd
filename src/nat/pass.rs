//! A packet passes through its session: it is counted, keeps the session alive, moves its state.

use super::session::{Phase, Way};
use super::tcp::{Case, Effect, State};
use super::window::Windows;
use super::{Closed, Nat, Observer, Refusal, Step};
use crate::flow::{Data, TcpFlags, Time};

/// How many closed connections are remembered as first to be recycled. Older ones expire as usual.
const CLOSING: usize = 65_536;

impl Nat {
    /// Lets a packet through a session.
    ///
    /// # Errors
    /// [`Refusal::OutOfWindow`] if it is a TCP segment that neither end can have sent.
    #[inline]
    pub(super) fn pass(
        &mut self,
        id: u32,
        way: Way,
        data: &Data,
        now: Time,
        seen: &mut impl Observer,
    ) -> Result<(), Refusal> {
        let session = &mut self.sessions[id];
        if let Phase::Tcp(_) = session.phase {
            return self.pass_tcp(id, way, data, now, seen);
        }
        session.see(now.as_nanos());
        session.count(way, data.length);
        if session.phase == Phase::UdpUnreplied && session.packets[way.back() as usize] > 0 {
            self.replied(id, now);
        }
        Ok(())
    }

    /// A packet has gone back.
    #[inline(never)]
    fn replied(&mut self, id: u32, now: Time) {
        self.sessions[id].phase = Phase::Udp;
        let lives = self.lives(id);
        if lives.of(Phase::Udp) < lives.of(Phase::UdpUnreplied) {
            self.rearm(id, now);
        }
    }

    /// What a TCP segment would do to a session.
    #[inline]
    pub(super) fn effect(&self, id: u32, way: Way, data: &Data) -> Effect {
        let knock = |acknowledgement| {
            self.knocks.find(id, self.sessions.links[id].generation, way.back(), acknowledgement)
        };
        Case { session: &self.sessions[id], way, data, knock }.effect()
    }

    #[inline]
    fn pass_tcp(
        &mut self,
        id: u32,
        way: Way,
        data: &Data,
        now: Time,
        seen: &mut impl Observer,
    ) -> Result<(), Refusal> {
        let effect = self.effect(id, way, data);
        let session = &mut self.sessions[id];
        if let Effect::Take(state) = effect
            && session.phase == Phase::Tcp(state)
        {
            session.see(now.as_nanos());
            session.count(way, data.length);
            learn(&mut session.windows, way, data);
            return Ok(());
        }
        self.take_effect(effect, id, way, data, now, seen)
    }

    /// What a segment does that is not simply the next of its connection.
    #[inline(never)]
    fn take_effect(
        &mut self,
        effect: Effect,
        id: u32,
        way: Way,
        data: &Data,
        now: Time,
        seen: &mut impl Observer,
    ) -> Result<(), Refusal> {
        if effect == Effect::Refuse {
            return Err(Refusal::OutOfWindow);
        }
        match effect {
            Effect::Reopen => {
                if way == Way::Out {
                    self.ask_egress(data.flow, now)?;
                }
                self.reopen(id, way, now, seen);
                self.sessions[id].windows.begin(way, &data.segment);
            }
            // A SYN from the inside asks for a connection of its own, whoever opened this one.
            Effect::Knock if way == Way::Out => self.ask_egress(data.flow, now)?,
            Effect::Begin(_) if way == Way::Out && !self.sessions[id].outward() => {
                self.ask_egress(data.flow, now)?;
                self.sessions[id].set_outward();
            }
            Effect::Resync(..) if self.over(id) => self.reopen(id, way.back(), now, seen),
            _ => {}
        }
        let session = &mut self.sessions[id];
        session.count(way, data.length);
        let (mut next, mut alive) = (None, true);
        match effect {
            Effect::Refuse | Effect::Reopen | Effect::Refresh => {}
            Effect::Ignore => alive = false,
            Effect::Overshoot => {
                session.windows.overshot(way, &data.segment);
                alive = false;
            }
            Effect::Take(state) => {
                learn(&mut session.windows, way, data);
                next = Some(state);
            }
            Effect::Begin(state) => {
                session.windows.begin(way, &data.segment);
                alive = state.opener() == Some(way);
                next = Some(state);
            }
            Effect::Answer(state) => {
                session.windows.answer(way, &data.segment);
                next = Some(state);
            }
            Effect::Knock => {
                let generation = self.sessions.links[id].generation;
                self.knocks.remember(id, generation, way, data.segment);
                alive = false;
            }
            Effect::Resync(syn, state) => {
                session.windows = Windows::default();
                session.windows.begin(way.back(), &syn);
                session.windows.answer(way, &data.segment);
                self.knocks.forget(id, way.back());
                next = Some(state);
            }
            Effect::Loosen => {
                session.windows.loosen();
                next = Some(State::Established);
            }
            Effect::Reset => {
                self.reset(id, now, seen);
                alive = false;
            }
        }
        if alive {
            self.sessions[id].see(now.as_nanos());
        }
        if let Some(state) = next {
            self.go(id, state, now, seen);
        }
        Ok(())
    }

    /// Whether the connection of a session is closed or reset.
    fn over(&self, id: u32) -> bool {
        matches!(self.sessions[id].phase, Phase::Tcp(State::Closing | State::Reset))
    }

    /// A session goes to a state, maybe its own.
    fn go(&mut self, id: u32, state: State, now: Time, seen: &mut impl Observer) {
        let Phase::Tcp(was) = self.sessions[id].phase else { return };
        if state == was {
            return;
        }
        self.sessions[id].phase = Phase::Tcp(state);
        let lives = self.lives(id);
        if lives.of(Phase::Tcp(state)) < lives.of(Phase::Tcp(was)) {
            self.rearm(id, now);
        }
        if state == State::Closing {
            if self.closing.len() == CLOSING {
                self.closing.pop_front();
            }
            self.closing.push_back((id, self.sessions.links[id].generation));
        }
        if state.view() != was.view() && seen.wants() {
            seen.step(Step::Changed(self.view(id, now)), now);
        }
    }

    /// A RST: the session lives for its time after a RST from here, but never longer than it would
    /// have lived without (RFC 7857 §2.2 and §7.1 together).
    fn reset(&mut self, id: u32, now: Time, seen: &mut impl Observer) {
        let lives = *self.lives(id);
        let session = &mut self.sessions[id];
        let Phase::Tcp(was) = session.phase else { return };
        if was == State::Reset {
            return;
        }
        let without = session.deadline(&lives);
        session.set_before_reset(was);
        session.see(now.as_nanos().min(without.saturating_sub(lives.of(Phase::Tcp(State::Reset)))));
        self.go(id, State::Reset, now, seen);
    }

    /// A new connection takes the place of a closed one; mapping, port and row stay.
    fn reopen(&mut self, id: u32, way: Way, now: Time, seen: &mut impl Observer) {
        if seen.wants() {
            seen.step(Step::Closed(self.view(id, now), Closed::Reopened), now);
        }
        self.sessions.renew(id, way, Phase::Tcp(State::opened_by(way)), now);
        self.rearm(id, now);
        if seen.wants() {
            seen.step(Step::Opened(self.view(id, now)), now);
        }
    }
}

#[inline]
fn learn(windows: &mut Windows, way: Way, data: &Data) {
    let counted = data.tcp.0 & (TcpFlags::SYN.0 | TcpFlags::FIN.0) != 0;
    windows.learn(way, &data.segment, u32::from(counted), data.tcp.has(TcpFlags::SYN));
}
