//! A new configuration for a gateway that is at work.

use super::{Answer, Gateway, GatewayConfig, Outbox};
use crate::flow::{Endpoint, TcpFlags, Time};
use crate::nat::{Cut, Observer, Reconfigured};
use crate::wire::{Buffer, craft};
use std::net::{IpAddr, SocketAddr};

/// Connections that are reset before the outbox is emptied.
const AT_A_TIME: usize = 256;

impl Gateway {
    /// Takes a new configuration. Sessions that it does not allow are ended: see
    /// [`crate::nat::Nat::reconfigure`]; also those of hosts outside the inside subnets, or whose
    /// prefix is translated, and port forwards to them. Who holds the leases of port forwards compares
    /// [`super::Command::Published`] before and after.
    ///
    /// The MAC, [`crate::nat::NatConfig::leased`] and what the links can take beside their MTU stay
    /// as they were; the caller refuses what asks for another.
    ///
    /// Of datagrams under way in fragments the rest is lost if the translation changes: their
    /// first fragments were decided by the configuration before.
    pub fn reconfigure(
        &mut self,
        config: GatewayConfig,
        now: Time,
        seen: &mut impl Observer,
    ) -> Reconfigured {
        let translates_as_before = config.nat == self.config.nat
            && config.subnets == self.config.subnets
            && config.translations == self.config.translations;
        self.schedule.reconfigured(&self.config, &config, now);
        let rates = (config.error_burst, config.errors_per_second);
        if rates != (self.config.error_burst, self.config.errors_per_second) {
            self.speech_inside.set_rate(rates.0, rates.1);
            self.speech_outside.set_rate(rates.0, rates.1);
        }
        self.leases.keep(config.dhcp.as_ref().map(|dhcp| (dhcp.first, dhcp.last)));
        self.neighbors.set_limit(config.hosts);
        let (mac, leased) = (self.config.mac, self.config.nat.leased);
        let mut links = (self.config.inside, self.config.outside);
        (links.0.mtu, links.1.mtu) = (config.inside.mtu, config.outside.mtu);
        self.config = GatewayConfig { mac, inside: links.0, outside: links.1, ..config };
        self.config.nat.leased = leased;
        if translates_as_before {
            return Reconfigured { kept: self.nat.counts().sessions, ended: 0 };
        }
        self.fragments.forget_decisions();
        let config = &self.config;
        let by_prefix = |ip| config.translations.iter().any(|pair| pair.inside().covers(ip));
        let inside = |ip: IpAddr| config.has_host(ip) && !by_prefix(ip);
        let gone = self.nat.retain(inside, now, seen).ended;
        let Reconfigured { kept, ended } = self.nat.reconfigure(self.config.nat.clone(), now, seen);
        Reconfigured { kept, ended: gone + ended }
    }

    /// Resets, towards the inside, the TCP connections that the last new configuration has cut off from
    /// their external address: nothing will ever come back to it.
    /// Call it after [`Gateway::reconfigure`] until it says false: it tells some at a time.
    pub fn tell_cut(&mut self, now: Time, out: &mut Outbox) -> bool {
        let cut = self.nat.cut(AT_A_TIME);
        let some = !cut.is_empty();
        for Cut { remote, inside, acknowledged, sent } in cut {
            let end = |endpoint: Endpoint| SocketAddr::new(endpoint.ip, endpoint.port);
            // What was sent last may not be acknowledged yet: one of the two is what the host expects.
            let likely = [acknowledged, sent];
            for sequence in &likely[..if acknowledged == sent { 1 } else { 2 }] {
                let reset = craft::tcp(end(remote), end(inside), TcpFlags::RST, *sequence, &[]);
                self.counters.answered(Answer::Reset);
                self.answer_inside(inside.ip, Buffer::from_bytes(&reset), now, out);
            }
        }
        some
    }
}
