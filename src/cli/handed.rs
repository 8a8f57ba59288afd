//! Descriptors that a service manager hands over (`sd_listen_fds(3)`): a packet socket called `raw`, a
//! TAP called `tap`.
//!
//! They are numbered from 3 on; `LISTEN_FDS` says how many there are, `LISTEN_FDNAMES` what they are called,
//! `LISTEN_PID` for which process they are: one that inherited the variables by chance is none.

use crate::config::{RunFlags, Settings, TapChoice};
use crate::io::sys::fd;
use anyhow::{Context, bail, ensure};
use std::os::fd::RawFd;

/// The first number, as the protocol has it.
const FIRST: RawFd = 3;

/// More are none of ours.
const MOST: usize = 8;

/// Takes what was handed over into `flags`, as `--raw-fd` and `--tap-fd` would say it. Programs that
/// are started do not inherit it.
///
/// # Errors
/// Something is no descriptor that tapnat has a use for, or `flags` have another for the same.
pub fn take(flags: &mut RunFlags) -> anyhow::Result<()> {
    let variable = |name| std::env::var(name).ok();
    let [pid, count, names] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(variable);
    if pid.is_none_or(|pid| pid != std::process::id().to_string()) {
        return Ok(());
    }
    for (name, number) in named(count.as_deref(), names.as_deref())? {
        let (flag, place) = match name.as_str() {
            "raw" => ("--raw-fd", &mut flags.raw_fd),
            "tap" => ("--tap-fd", &mut flags.tap_fd),
            other => bail!(
                "LISTEN_FDS: descriptor {number} is called `{other}`, for which there is no use here: \
                 call a packet socket `raw`, a TAP `tap` (FileDescriptorName=, LISTEN_FDNAMES)"
            ),
        };
        ensure!(
            place.is_none(),
            "LISTEN_FDS: descriptor {number} is given beside {flag}: give one of the two"
        );
        fd::keep(number).with_context(|| format!("LISTEN_FDS: descriptor {number} is not open"))?;
        *place = Some(number.to_string());
    }
    Ok(())
}

/// Sees to it that the descriptors which `settings` name are open, and not inherited by programs that are
/// started. It is for the first moment, at which nothing but what was inherited is open.
///
/// # Errors
/// One is not open.
pub fn check(settings: &Settings) -> anyhow::Result<()> {
    let tap = if let TapChoice::Fd(number) = settings.tap { Some(number) } else { None };
    let named = [("--tap-fd", tap), ("--raw-fd", settings.raw_fd), ("--ready-fd", settings.ready_fd)];
    for (flag, number) in named {
        let Some(number) = number else { continue };
        ensure!(fd::keep(number).is_ok(), "{flag} {number}: it is not open; give one that is inherited");
    }
    Ok(())
}

/// The descriptors with their names. One without a name is taken for the packet socket.
fn named(count: Option<&str>, names: Option<&str>) -> anyhow::Result<Vec<(String, RawFd)>> {
    let text = count.unwrap_or_default();
    let Ok(count) = text.parse::<usize>() else { bail!("LISTEN_FDS: `{text}` is no number") };
    ensure!(count <= MOST, "LISTEN_FDS: {count} descriptors are more than there is a use for");
    let names: Vec<&str> = names.map(|names| names.split(':').collect()).unwrap_or_default();
    ensure!(
        names.is_empty() || names.len() == count,
        "LISTEN_FDNAMES names {} descriptors, and LISTEN_FDS says {count}",
        names.len()
    );
    let name = |at: usize| match names.get(at) {
        None | Some(&"" | &"unknown") => "raw".to_owned(),
        Some(name) => (*name).to_owned(),
    };
    Ok((0..count).zip(FIRST..).map(|(at, number)| (name(at), number)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_numbered_and_named() {
        let all = |count: &str, names| {
            named(Some(count), names).map_err(|error| error.to_string()).map(|all| {
                all.into_iter().map(|(name, number)| format!("{name}={number}")).collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(all("2", Some("tap:raw")).unwrap(), "tap=3 raw=4");
        assert_eq!(all("1", None).unwrap(), "raw=3");
        assert_eq!(all("1", Some("unknown")).unwrap(), "raw=3");
        assert_eq!(all("0", None).unwrap(), "");
        assert!(all("2", Some("raw")).unwrap_err().contains("names 1 descriptors"));
        assert!(all("9", None).unwrap_err().contains("more than"));
        assert!(all("-1", None).unwrap_err().contains("no number"));
        assert!(named(None, None).is_err());
    }
}
