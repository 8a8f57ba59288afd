//! An error and its causes on one line.

/// What `error` says, and what its causes say that it has not said itself.
pub fn said(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("{path}: {source}; see `ls`")]
    struct Missing {
        path: &'static str,
        source: io::Error,
    }

    #[test]
    fn a_cause_is_told_once() {
        let missing = || Missing { path: "/nope", source: io::Error::from_raw_os_error(libc::ENOENT) };
        let plain = anyhow::Error::from(missing());
        assert_eq!(said(&plain), "/nope: No such file or directory (os error 2); see `ls`");
        let told = Err::<(), _>(missing()).context("attach").unwrap_err();
        assert_eq!(said(&told), "attach: /nope: No such file or directory (os error 2); see `ls`");
        assert_eq!(said(&anyhow::anyhow!("alone")), "alone");
    }
}
