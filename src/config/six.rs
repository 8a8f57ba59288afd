//! From text to what only IPv6 has: prefix translation.

use super::error::ConfigError;
use super::raw::{Raw, Written};
use super::resolve::Checked;
use super::rule::prefix;
use crate::flow::Prefix;
use crate::nat::PrefixTranslation;
use ipnet::IpNet;

/// Reads the prefixes that are translated to others.
///
/// # Errors
/// The first thing that is wrong.
pub fn translations(raw: &Raw, nets: &[IpNet]) -> Checked<Vec<PrefixTranslation>> {
    let mut pairs: Vec<PrefixTranslation> = Vec::new();
    for written in raw.many("prefix-translation") {
        let shape = "write INSIDE=OUTSIDE, e.g. fd00:88::/64=2001:db8:1::/64";
        let Some((inside, outside)) = written.text.split_once('=') else {
            return Err(ConfigError::at(written, "has no =", shape));
        };
        let part = |text: &str| prefix(&Written { text: text.to_owned(), place: written.place.clone() });
        let (inside, outside) = (part(inside)?, part(outside)?);
        let translation = PrefixTranslation::new(inside, outside)
            .map_err(|error| ConfigError::at(written, format!("is not possible: {error}"), shape))?;
        let net = |net: &IpNet| Prefix::new(net.addr(), net.prefix_len());
        if !nets.iter().any(|ours| net(ours).overlaps(inside)) {
            let cure = "name the prefix of an --inside subnet";
            return Err(ConfigError::at(written, "begins outside every inside subnet", cure));
        }
        if let Some(ours) = nets.iter().find(|ours| net(ours).overlaps(outside)) {
            let cure = "translate to a prefix that no inside host can have";
            return Err(ConfigError::at(written, format!("leads to the inside subnet {ours}"), cure));
        }
        let clash =
            |other: &&PrefixTranslation| other.inside().overlaps(inside) || other.outside().overlaps(outside);
        if let Some(other) = pairs.iter().find(clash) {
            let cure = "give prefixes that have no address in common";
            return Err(ConfigError::at(written, format!("overlaps {}", text(other)), cure));
        }
        pairs.push(translation);
    }
    Ok(pairs)
}

/// Writes what `--prefix-translation` reads.
pub fn text(translation: &PrefixTranslation) -> String {
    format!("{}={}", translation.inside(), translation.outside())
}
