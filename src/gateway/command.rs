//! Live changes and questions, carried out between packets.

use super::GatewayConfig;
use super::counters::CountersView;
use crate::flow::{Alias, Endpoint, Protocol};
use crate::nat::{Counts, Looked, PublishError, SessionView};
use std::net::IpAddr;

/// A change or a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Make a port forward. The runtime leases the port from the host first.
    Publish {
        /// TCP or UDP.
        protocol: Protocol,
        /// Where it is reached.
        outside: Endpoint,
        /// Who answers.
        inside: Endpoint,
    },
    /// Remove a port forward.
    Unpublish {
        /// TCP or UDP.
        protocol: Protocol,
        /// Where it was reached.
        outside: Endpoint,
    },
    /// List the port forwards.
    Published,
    /// List sessions from a cursor on.
    Sessions {
        /// 0, or what the last reply gave.
        cursor: u32,
        /// How many at most.
        limit: usize,
    },
    /// Forget these sessions.
    Forget(Vec<u64>),
    /// Whose this outside port is, and was as far as it was lent.
    LookUpOutside(Endpoint),
    /// Which outside ports are this inside host's, and were lent to it.
    LookUpInside(IpAddr),
    /// Read the counters.
    Counters,
    /// Take these aliases in the place of those that there were; the runtime tells the links.
    SetAliases(Vec<Alias>),
    /// Take a new configuration: see [`super::Gateway::reconfigure`].
    Reconfigure(Box<GatewayConfig>),
}

/// The answer to a [`Command`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// It is done.
    Done,
    /// There was nothing to do it to.
    NotFound,
    /// The port forward cannot be made.
    NotPublished(PublishError),
    /// The host would not give us the port; its own word why.
    NotLeased(String),
    /// The port forwards: protocol, outside, inside.
    Published(Vec<(Protocol, Endpoint, Endpoint)>),
    /// Sessions, and the cursor for the next page.
    Sessions(Vec<SessionView>, Option<u32>),
    /// How many sessions were forgotten.
    Forgotten(usize),
    /// Who has and had ports.
    Looked(Box<Looked>),
    /// The new configuration is in force.
    Reconfigured {
        /// Sessions that live on.
        kept: usize,
        /// Sessions that it does not allow, which have been ended.
        ended: usize,
    },
    /// The counters.
    Counters(Box<CountersView>, Counts),
}
