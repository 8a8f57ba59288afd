//! Command lines as `getopt_long` of C reads them, which the programs of our faces use: short options
//! in bundles, values in the same word or the next, long options by any unique beginning.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// An option of a command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opt {
    /// Its long name, without dashes; it is also what it is known by.
    pub long: &'static str,
    /// Its letter.
    pub short: Option<u8>,
    /// Whether it has a value.
    pub value: bool,
}

/// An option without value.
pub const fn flag(long: &'static str, short: Option<u8>) -> Opt {
    Opt { long, short, value: false }
}

/// An option with a value.
pub const fn value(long: &'static str, short: Option<u8>) -> Opt {
    Opt { long, short, value: true }
}

/// What a command line says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Line {
    /// Options in their order, with their values (empty for those that have none).
    pub options: Vec<(&'static str, OsString)>,
    /// The other words.
    pub words: Vec<OsString>,
}

/// Why a command line is wrong: `getopt_long`'s words, without the name of the program.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(pub String);

/// Reads `args`, which do not include the program's name. Options may stand anywhere among the other
/// words, unless `first_word_ends` says that the first of those is followed by what is not ours.
///
/// # Errors
/// The first thing that is wrong.
pub fn read(opts: &[Opt], args: &[OsString], first_word_ends: bool) -> Result<Line, Misuse> {
    let mut line = Line::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let bytes = arg.as_bytes();
        if bytes == b"--" {
            break;
        } else if let Some(long) = bytes.strip_prefix(b"--") {
            read_long(opts, long, &mut rest, &mut line)?;
        } else if bytes.len() > 1 && bytes[0] == b'-' {
            read_bundle(opts, &bytes[1..], &mut rest, &mut line)?;
        } else {
            line.words.push(arg.clone());
            if first_word_ends {
                break;
            }
        }
    }
    line.words.extend(rest.cloned());
    Ok(line)
}

fn read_long<'a>(
    opts: &[Opt],
    bytes: &[u8],
    rest: &mut impl Iterator<Item = &'a OsString>,
    line: &mut Line,
) -> Result<(), Misuse> {
    let (name, given) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned())),
        None => (bytes, None),
    };
    let shown = || String::from_utf8_lossy(name).into_owned();
    let exact = opts.iter().find(|opt| opt.long.as_bytes() == name);
    let begun: Vec<&Opt> = opts.iter().filter(|opt| opt.long.as_bytes().starts_with(name)).collect();
    let opt: &Opt = match (exact, begun.as_slice()) {
        (Some(opt), _) => opt,
        (None, [opt]) => opt,
        (None, []) => return Err(Misuse(format!("unrecognized option '--{}'", shown()))),
        (None, many) => {
            let names: String = many.iter().map(|opt| format!(" '--{}'", opt.long)).collect();
            return Err(Misuse(format!("option '--{}' is ambiguous; possibilities:{names}", shown())));
        }
    };
    let text = match (opt.value, given) {
        (true, Some(text)) => text,
        (true, None) => rest
            .next()
            .cloned()
            .ok_or_else(|| Misuse(format!("option '--{}' requires an argument", opt.long)))?,
        (false, None) => OsString::new(),
        (false, Some(_)) => {
            return Err(Misuse(format!("option '--{}' doesn't allow an argument", opt.long)));
        }
    };
    line.options.push((opt.long, text));
    Ok(())
}

fn read_bundle<'a>(
    opts: &[Opt],
    letters: &[u8],
    rest: &mut impl Iterator<Item = &'a OsString>,
    line: &mut Line,
) -> Result<(), Misuse> {
    for (at, letter) in letters.iter().enumerate() {
        let shown = char::from(*letter);
        let opt = opts
            .iter()
            .find(|opt| opt.short == Some(*letter))
            .ok_or_else(|| Misuse(format!("invalid option -- '{shown}'")))?;
        if !opt.value {
            line.options.push((opt.long, OsString::new()));
            continue;
        }
        let tail = &letters[at + 1..];
        let text = match tail.is_empty() {
            false => OsString::from_vec(tail.to_vec()),
            true => rest
                .next()
                .cloned()
                .ok_or_else(|| Misuse(format!("option requires an argument -- '{shown}'")))?,
        };
        line.options.push((opt.long, text));
        break;
    }
    Ok(())
}

/// Reads a number as `strtol` with base 10 does: blanks and a sign may come first, and what follows
/// the digits is not looked at. 0 if there are none.
pub fn strtol(text: &OsStr) -> i64 {
    let text = text.to_string_lossy();
    let text = text.trim_start();
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    let digits = digits.bytes().take_while(u8::is_ascii_digit);
    sign * digits.fold(0i64, |sum, digit| sum.saturating_mul(10).saturating_add(i64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTS: [Opt; 5] = [
        flag("configure", Some(b'c')),
        value("ready-fd", Some(b'r')),
        flag("enable-ipv6", Some(b'6')),
        flag("enable-sandbox", None),
        value("cidr", None),
    ];

    fn said(args: &str, first_word_ends: bool) -> String {
        let args: Vec<OsString> = args.split(' ').map(OsString::from).collect();
        match read(&OPTS, &args, first_word_ends) {
            Ok(line) => {
                let options = line.options.iter().map(|(name, text)| match text.is_empty() {
                    true => (*name).to_owned(),
                    false => format!("{name}={}", text.to_string_lossy()),
                });
                let words = line.words.iter().map(|word| word.to_string_lossy().into_owned());
                format!("{}|{}", options.collect::<Vec<_>>().join(","), words.collect::<Vec<_>>().join(","))
            }
            Err(Misuse(why)) => why,
        }
    }

    #[test]
    fn lines_are_read_as_c_does() {
        for (args, want) in [
            ("-c -r 3 42 tap0", "configure,ready-fd=3|42,tap0"),
            ("-6cr3 42 tap0", "enable-ipv6,configure,ready-fd=3|42,tap0"),
            ("42 --ready-fd 3 tap0 --cidr=10.0.2.0/24", "ready-fd=3,cidr=10.0.2.0/24|42,tap0"),
            ("--ready=3 -- -c", "ready-fd=3|-c"),
            ("--conf - x", "configure|-,x"),
            (
                "--enable x",
                "option '--enable' is ambiguous; possibilities: '--enable-ipv6' '--enable-sandbox'",
            ),
            ("--bogus", "unrecognized option '--bogus'"),
            ("-x", "invalid option -- 'x'"),
            ("--cidr", "option '--cidr' requires an argument"),
            ("-cr", "option requires an argument -- 'r'"),
            ("--configure=yes", "option '--configure' doesn't allow an argument"),
        ] {
            assert_eq!(said(args, false), want, "{args}");
        }
        assert_eq!(said("-c ping -c 3", true), "configure|ping,-c,3");
    }

    #[test]
    fn numbers_are_read_as_c_does() {
        for (text, want) in
            [("3", 3), (" 42x", 42), ("-7", -7), ("foo", 0), ("", 0), ("99999999999999999999", i64::MAX)]
        {
            assert_eq!(strtol(OsStr::new(text)), want, "{text}");
        }
    }
}
