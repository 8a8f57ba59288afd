//! Packets of hosts whose prefix is translated (RFC 6296): decisions without a table.
//!
//! The decision has the shape of the translator's, an edit and an exit, but only addresses change
//! in it: ports and identifiers stand in the edit as they stand in the packet. There is no filter:
//! whoever knows the outside address of a host reaches it, as if it were the host's own.

use super::errors::Reason;
use super::{DropReason, Gateway};
use crate::flow::{Data, Edit, Endpoint, ErrorAbout, QuotedEdit, Summary};
use crate::nat::{Decision, Exit, PrefixTranslation, Refusal, Unmapped};
use std::net::{IpAddr, Ipv6Addr};

/// Where the interface identifiers of source and destination stand in an IPv6 header.
const SOURCE_IDENTIFIER: u8 = 16;
const DESTINATION_IDENTIFIER: u8 = 32;

/// An address that has no counterpart: what its sender is told (RFC 6296 §3.3, §3.7).
#[derive(Clone, Copy, Debug)]
pub(super) struct NoCounterpart(pub Reason);

impl NoCounterpart {
    fn of(unmapped: Unmapped, identifier: u8) -> Self {
        NoCounterpart(match unmapped {
            Unmapped::Subnet => Reason::NoRoute,
            Unmapped::Identifier => Reason::ParameterProblem(identifier),
        })
    }
}

/// What prefix translation says about a packet; `None` if it is none of its business.
pub(super) type Translated = Option<Result<Decision, NoCounterpart>>;

impl Gateway {
    /// A packet from the inside, if its host's prefix is translated.
    pub(super) fn translate_out(&self, packet: &Summary) -> Translated {
        let own = self.translation_of_inside(packet.source())?;
        Some(match packet {
            Summary::Data(data) => self.data_out(own, data),
            Summary::Error(error) => self.error_out(own, error),
        })
    }

    /// A packet to an address in an outside prefix.
    pub(super) fn translate_in(&self, packet: &Summary) -> Translated {
        let own = self.translation_of_outside(packet.destination())?;
        Some(match packet {
            Summary::Data(data) => {
                self.host_behind(own, data.flow.destination).map(|destination| Decision::Translate {
                    edit: Edit { destination: Some(destination), ..Edit::default() },
                    exit: Exit::Inside,
                })
            }
            Summary::Error(error) => self.error_in(own, error),
        })
    }

    /// Whether `ip` is in an outside prefix.
    pub(super) fn is_translated(&self, ip: IpAddr) -> bool {
        self.translation_of_outside(ip).is_some()
    }

    /// The address that the gateway itself has for somebody outside who wrote to `ip`, in an outside
    /// prefix.
    pub(super) fn translated_gateway(&self, ip: IpAddr) -> Option<IpAddr> {
        let own = self.translation_of_outside(ip)?;
        let us = self.config.subnets.iter().filter(|subnet| own.inside().covers(subnet.gateway));
        let ours = us.filter_map(|subnet| outward(own, Endpoint::new(subnet.gateway, 0)).ok());
        let external = self.config.nat.external.iter().copied().filter(IpAddr::is_ipv6);
        ours.map(|endpoint| endpoint.ip).chain(external).next()
    }

    fn translation_of_inside(&self, ip: IpAddr) -> Option<&PrefixTranslation> {
        self.config.translations.iter().find(|pair| pair.inside().covers(ip))
    }

    fn translation_of_outside(&self, ip: IpAddr) -> Option<&PrefixTranslation> {
        self.config.translations.iter().find(|pair| pair.outside().covers(ip))
    }

    fn data_out(&self, own: &PrefixTranslation, data: &Data) -> Result<Decision, NoCounterpart> {
        let source = Some(outward(own, data.flow.source)?);
        let mut edit = Edit { source, ..Edit::default() };
        let remote = data.flow.destination;
        let exit = match self.translation_of_outside(remote.ip) {
            // Another inside host by its outside address: translated twice (RFC 6296 §4.3).
            Some(theirs) => {
                edit.destination = Some(self.host_behind(theirs, remote)?);
                Exit::Hairpin
            }
            None if !self.is_host(remote.ip) => Exit::Outside,
            None if self.config.nat.host_access => Exit::Host,
            None => return Ok(Decision::Refuse(Refusal::HostAccessOff)),
        };
        Ok(Decision::Translate { edit, exit })
    }

    /// An error from the inside about a packet that came in, or from another inside host.
    fn error_out(&self, own: &PrefixTranslation, error: &ErrorAbout) -> Result<Decision, NoCounterpart> {
        let (sender, receiver) = (error.about.source, error.about.destination);
        if !own.inside().covers(receiver.ip) {
            return Ok(Decision::Refuse(Refusal::ErrorWithoutSession));
        }
        if error.to != sender.ip {
            return Ok(Decision::Refuse(Refusal::ErrorMisaddressed));
        }
        let mut quoted = QuotedEdit { source: None, destination: Some(outward(own, receiver)?) };
        let mut edit = Edit { source: Some(outward(own, Endpoint::new(error.from, 0))?), ..Edit::default() };
        let mut exit = if self.is_host(error.to) { Exit::Host } else { Exit::Outside };
        if let Some(theirs) = self.translation_of_outside(error.to) {
            quoted.source = Some(self.host_behind(theirs, sender)?);
            edit.destination = quoted.source.map(|sender| Endpoint { port: 0, ..sender });
            exit = Exit::Hairpin;
        }
        edit.quoted = Some(quoted);
        Ok(Decision::Translate { edit, exit })
    }

    /// An error from outside about a packet that left.
    fn error_in(&self, own: &PrefixTranslation, error: &ErrorAbout) -> Result<Decision, NoCounterpart> {
        let sender = error.about.source;
        if error.to != sender.ip {
            return Ok(Decision::Refuse(Refusal::ErrorMisaddressed));
        }
        let sender = self.host_behind(own, sender)?;
        let edit = Edit {
            destination: Some(Endpoint { port: 0, ..sender }),
            quoted: Some(QuotedEdit { source: Some(sender), destination: None }),
            ..Edit::default()
        };
        Ok(Decision::Translate { edit, exit: Exit::Inside })
    }

    /// The inside host that an outside address stands for, in a subnet of ours.
    fn host_behind(&self, own: &PrefixTranslation, outside: Endpoint) -> Result<Endpoint, NoCounterpart> {
        let inside = inward(own, outside)?;
        let reached = self.config.is_inside(inside.ip) && !self.config.owns(inside.ip);
        if reached { Ok(inside) } else { Err(NoCounterpart(Reason::NoRoute)) }
    }
}

fn outward(own: &PrefixTranslation, inside: Endpoint) -> Result<Endpoint, NoCounterpart> {
    change(inside, SOURCE_IDENTIFIER, |ip| own.outward(ip))
}

fn inward(own: &PrefixTranslation, outside: Endpoint) -> Result<Endpoint, NoCounterpart> {
    change(outside, DESTINATION_IDENTIFIER, |ip| own.inward(ip))
}

/// The endpoint with another address; `identifier` is where that stands in the header.
fn change(
    endpoint: Endpoint,
    identifier: u8,
    translate: impl Fn(Ipv6Addr) -> Result<Ipv6Addr, Unmapped>,
) -> Result<Endpoint, NoCounterpart> {
    let IpAddr::V6(ip) = endpoint.ip else { return Err(NoCounterpart(Reason::NoRoute)) };
    let ip = translate(ip).map_err(|unmapped| NoCounterpart::of(unmapped, identifier))?;
    Ok(Endpoint { ip: ip.into(), ..endpoint })
}

impl From<NoCounterpart> for DropReason {
    fn from(_: NoCounterpart) -> Self {
        DropReason::UnmappedAddress
    }
}
