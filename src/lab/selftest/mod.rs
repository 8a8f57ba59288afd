//! The NAT behaviour report: the demands of the RFCs on a NAT, each put to a NAT that stands in a
//! lab of its own, with the packets that show whether it is met.
//!
//! * [`packet`]: packets, written and read by hand
//! * [`trial`]: the lab of one requirement; hosts A, B, C and the world are this program itself
//! * [`contender`]: what stands in the middle: tapnat, or the kernel's masquerade
//! * [`run`](mod@run): all requirements at a time, each in a lab of its own
//! * one module for each RFC: the requirements as a table, and a function for each
//!
//! ```text
//!   A 10.0.0.2 ─┐
//!   B 10.0.0.3 ─┼─ bridge ─ [gateway 10.0.0.1 | X 203.0.113.1] ─ R 203.0.113.254 ─ S1, S2, R9
//!   C 10.0.0.4 ─┘
//! ```

pub mod attacks;
pub mod contender;
pub mod ipv6;
pub mod packet;
pub mod rfc4787;
pub mod rfc5382;
pub mod rfc5508;
pub mod rfc6888;
pub mod rfc7857;
pub mod router;
pub mod run;
pub mod trial;
pub mod twins;

use crate::io::netlink::Family;
use contender::Setup;
use std::io;
use trial::Trial;

/// How much the RFC insists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// MUST, MUST NOT, REQUIRED.
    Must,
    /// SHOULD, SHOULD NOT, RECOMMENDED.
    Should,
    /// MAY, or no more than good manners.
    May,
}

impl Level {
    /// The level as the RFCs write it.
    pub fn word(self) -> &'static str {
        match self {
            Level::Must => "MUST",
            Level::Should => "SHOULD",
            Level::May => "MAY",
        }
    }
}

/// Why a requirement was not shown to be met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The NAT does something else: what was seen.
    NotMet(String),
    /// The demand is on something this NAT does not have, or cannot be set up for here: why.
    NotApplicable(String),
    /// The lab failed, which says nothing about the NAT: how.
    Broken(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Broken(error.to_string())
    }
}

/// What a step of a requirement gives back; `?` ends the requirement at the first fault.
pub type Shown<T = ()> = Result<T, Fault>;

/// Goes on if `holds`; otherwise the requirement is not met, and this is why.
///
/// # Errors
/// [`Fault::NotMet`].
pub fn demand(holds: bool, otherwise: impl Into<String>) -> Shown {
    if holds { Ok(()) } else { Err(Fault::NotMet(otherwise.into())) }
}

/// A demand and how it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Requirement {
    /// Its number in the report, which stays.
    pub number: u16,
    /// Where it is written: `RFC 4787 REQ-1`.
    pub id: &'static str,
    /// How much the RFC insists.
    pub level: Level,
    /// The demand in a few words.
    pub title: &'static str,
    /// The demand as an identifier: the name of its function.
    pub name: &'static str,
    /// What the lab must be like.
    pub setup: Setup,
    /// The options of tapnat that meet it, where its defaults are meant to do something else.
    pub option: &'static [&'static str],
    /// Shows that it is met.
    pub test: fn(&mut Trial) -> Shown,
}

impl Requirement {
    /// Where it is written, and over which protocol if that is not IPv4: `RFC 4787 REQ-1 IPv6`.
    pub fn place(&self) -> String {
        let six = if self.setup.family == Family::Six { " IPv6" } else { "" };
        format!("{}{six}", self.id)
    }

    /// `req_1_mapping_does_not_depend_on_the_destination`: its place in its document, and its name.
    pub fn slug(&self) -> String {
        let place = self.id.split(' ').skip(2).collect::<Vec<_>>().join("_").to_lowercase();
        let place: String = place.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let place = place.trim_matches('_');
        if place.is_empty() { self.name.to_owned() } else { format!("{place}_{}", self.name) }
    }
}

/// A document's requirements.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Its name on the command line: `rfc4787`.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// Its requirements, by number.
    pub requirements: &'static [Requirement],
}

/// Every requirement there is, by document.
pub const GROUPS: [Group; 9] = [
    Group { name: "rfc4787", title: "RFC 4787: UDP", requirements: rfc4787::TABLE },
    Group { name: "rfc5382", title: "RFC 5382: TCP", requirements: rfc5382::TABLE },
    Group { name: "rfc5508", title: "RFC 5508: ICMP", requirements: rfc5508::TABLE },
    Group { name: "rfc6888", title: "RFC 6888: carrier-grade NAT", requirements: rfc6888::TABLE },
    Group { name: "rfc7857", title: "RFC 7857: updates", requirements: rfc7857::TABLE },
    Group { name: "router", title: "RFC 1812 and others: a router's duties", requirements: router::TABLE },
    Group { name: "attacks", title: "Attacks on NATs", requirements: attacks::TABLE },
    Group { name: "nat66", title: "The same over IPv6", requirements: twins::TABLE },
    Group {
        name: "ipv6",
        title: "RFC 8200, 4443, 4861, 6296: what is IPv6's own",
        requirements: ipv6::TABLE,
    },
];

/// Writes a document's table: number, level, place, function, demand, the lab's setup if it is
/// not the plain one, and the option that meets it if the defaults do not.
macro_rules! requirements {
    ($($number:literal $level:ident $id:literal $test:ident $title:literal $(in $setup:expr)? $(, by [$($option:literal),*])?;)*) => {
        /// The requirements of this document.
        pub const TABLE: &[$crate::lab::selftest::Requirement] = &[$(
            $crate::lab::selftest::Requirement {
                number: $number,
                id: $id,
                level: $crate::lab::selftest::Level::$level,
                title: $title,
                name: stringify!($test),
                setup: requirements!(@setup $($setup)?),
                option: &[$($($option),*)?],
                test: $test,
            },
        )*];
    };
    (@setup) => { $crate::lab::selftest::contender::PLAIN };
    (@setup $setup:expr) => { $setup };
}
use requirements;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_and_names_are_unique_and_ordered() {
        let all: Vec<&Requirement> = GROUPS.iter().flat_map(|group| group.requirements).collect();
        let names: BTreeSet<&str> = all.iter().map(|requirement| requirement.name).collect();
        assert_eq!(names.len(), all.len());
        for group in GROUPS {
            assert!(group.requirements.is_sorted_by_key(|requirement| requirement.number), "{}", group.name);
        }
        let slug = rfc4787::TABLE[0].slug();
        assert!(slug.starts_with("req_1_"), "{slug}");
    }
}
