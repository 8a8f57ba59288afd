//! Whether the tcx guard can be had here.

/// Why a program cannot be attached to an interface here: it takes root of the machine itself, and
/// Linux 6.6.
pub fn impossible() -> Option<String> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"];
    if !whole || !rustix::process::geteuid().is_root() {
        return Some("the tcx guard needs root outside of user namespaces".into());
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (version < (6, 6)).then(|| format!("the tcx guard needs Linux 6.6, this is {release}"))
}
