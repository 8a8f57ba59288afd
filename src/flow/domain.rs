//! Domains whose names are asked for elsewhere than all others (split DNS).

use std::net::SocketAddr;

/// A domain with resolvers of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Domain {
    /// Its name in lower case, without the final dot.
    pub name: String,
    /// Who is asked for it and what is below it, the first one first; not empty.
    pub servers: Vec<SocketAddr>,
}

impl Domain {
    /// Whether `name`, in lower case and without the final dot, is the domain's or below it.
    pub fn covers(&self, name: &str) -> bool {
        let above = name.strip_suffix(self.name.as_str());
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    }

    /// The place in `domains` of the one that `name` is asked in: the longest.
    pub fn of(domains: &[Domain], name: &str) -> Option<usize> {
        let fitting = domains.iter().enumerate().filter(|(_, domain)| domain.covers(name));
        fitting.max_by_key(|(_, domain)| domain.name.len()).map(|(place, _)| place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_domain_of_whole_labels_fits() {
        let domain = |name: &str| Domain { name: name.to_owned(), servers: Vec::new() };
        let domains = ["example", "corp.example", "lab.corp.example"].map(domain);
        for (name, place) in [
            ("corp.example", Some(1)),
            ("www.corp.example", Some(1)),
            ("a.b.lab.corp.example", Some(2)),
            ("xlab.corp.example", Some(1)),
            ("mycorp.example", Some(0)),
            ("example", Some(0)),
            ("corp.example.org", None),
            ("myexample", None),
            ("", None),
        ] {
            assert_eq!(Domain::of(&domains, name), place, "{name}");
        }
    }
}
