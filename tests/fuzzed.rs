//! The fuzz targets on stable: over the committed corpus, and over random bytes.
#![allow(clippy::unwrap_used)]

#[path = "fuzz/targets.rs"]
mod targets;

use proptest::prelude::*;
use std::fs;
use std::path::Path;

/// Runs `target` over every file of its corpus.
fn corpus(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        target(&fs::read(entry.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files > 10, "the corpus of {name} has {files} files");
}

#[test]
fn frames_of_the_corpus_do_no_harm() {
    corpus("frame", targets::frame);
}

#[test]
fn configurations_of_the_corpus_are_read_or_refused_in_one_line() {
    corpus("config", targets::config);
}

#[test]
fn requests_of_the_corpus_are_read_or_refused_in_words() {
    corpus("control", targets::control);
}

#[test]
fn datagrams_of_the_corpus_are_answered_with_messages_or_not_at_all() {
    corpus("stun", targets::stun);
}

#[test]
fn messages_of_the_corpus_are_read_by_all_alike_or_not_at_all() {
    corpus("dns", targets::dns);
}

/// Messages with a header that is right, and labels, pointers and records at random behind it.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop::sample::select(vec![0x0100u16, 0x8180, 0x8380, 0x8183]);
    let piece = prop_oneof![
        prop::collection::vec(prop::sample::select(b"aZ0-_".to_vec()), 1..9).prop_map(|label| [
            &[label.len() as u8][..],
            &label
        ]
        .concat()),
        (0u8..64).prop_map(|to| vec![0xc0, to]),
        Just(vec![0, 0, 1, 0, 1]),
        Just(vec![0, 0, 28, 0, 1]),
        Just(vec![0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]),
        Just(vec![0, 5, 0, 1, 0, 0, 0, 60, 0, 2]),
        any::<u8>().prop_map(|byte| vec![byte]),
    ];
    (flags, 0u8..9, prop::collection::vec(piece, 0..16)).prop_map(|(flags, records, pieces)| {
        let header = [&[0, 7][..], &flags.to_be_bytes(), &[0, 1, 0, records, 0, 0, 0, 0]].concat();
        [header, pieces.concat()].concat()
    })
}

/// Datagrams that begin with something like a STUN header, and attributes with right lengths.
fn datagrams() -> impl Strategy<Value = Vec<u8>> {
    let kinds = vec![1u16, 3, 6, 9, 10, 0x20, 0x26, 0x27, 0x7ffe, 0x8022, 0x8028, 0x802c];
    let value = prop::collection::vec(any::<u8>(), 0..24);
    let attribute = (prop::sample::select(kinds), value).prop_map(|(kind, value)| {
        let mut bytes = [kind.to_be_bytes(), (value.len() as u16).to_be_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    });
    let first = prop::sample::select(vec![1u16, 1, 1, 0x11, 0x101, 0x111, 3]);
    let cookie = prop::sample::select(vec![0x2112_a442u32, 0x2112_a442, 0]);
    (first, cookie, prop::collection::vec(attribute, 0..6)).prop_map(|(first, cookie, attributes)| {
        let body = attributes.concat();
        let length = (body.len() as u16).to_be_bytes();
        [&first.to_be_bytes()[..], &length, &cookie.to_be_bytes(), &[7; 12], &body].concat()
    })
}

/// Steps that begin with something like an IP header.
fn steps() -> impl Strategy<Value = Vec<u8>> {
    let header = [
        [0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 198, 51, 100, 7],
        [0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 2, 198, 51, 100, 7],
        [0x45, 0, 0, 0, 0, 1, 0, 0, 64, 1, 0, 0, 10, 0, 0, 2, 198, 51, 100, 7],
        [0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1],
        [0x46, 0, 0, 0, 0, 1, 0x20, 0, 64, 17, 0, 0, 10, 0, 0, 2, 198, 51, 100, 7],
        [0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 198, 51, 100, 7, 203, 0, 113, 1],
        [0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 198, 51, 100, 7, 203, 0, 113, 1],
        [0x45, 0, 0, 0, 0, 1, 0, 0, 64, 1, 0, 0, 198, 51, 100, 7, 203, 0, 113, 1],
    ];
    let six = |next: u8, source: &[u8], destination: &[u8]| {
        [&[0x60, 0, 0, 0, 0, 0, next, 64][..], source, destination].concat()
    };
    let host = [0xfd, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xa];
    let external = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let remote = [0x20, 1, 0x0d, 0xb8, 0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    let gateway = [0xfd, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
    let ends: [(&[u8], &[u8]); 4] =
        [(&host, &remote), (&remote, &external), (&host, &gateway), (&host, &external)];
    let sixes = [0, 6, 17, 43, 44, 58, 60]
        .iter()
        .flat_map(|next| ends.iter().map(|(source, destination)| six(*next, source, destination)));
    let header =
        prop::sample::select(header.into_iter().map(|four| four.to_vec()).chain(sixes).collect::<Vec<_>>());
    let step =
        (any::<u8>(), header, prop::collection::vec(any::<u8>(), 0..90)).prop_map(|(step, header, tail)| {
            let length = ((header.len() + tail.len()) as u16).to_be_bytes();
            [&[step][..], &length, &header, &tail].concat()
        });
    (any::<u8>(), prop::collection::vec(step, 0..20)).prop_map(|(first, steps)| {
        let mut data = vec![first];
        data.extend(steps.concat());
        data
    })
}

proptest! {
    #[test]
    fn random_steps_do_no_harm(data in steps()) {
        targets::frame(&data);
    }

    #[test]
    fn random_messages_are_read_by_all_alike_or_not_at_all(data in messages()) {
        targets::dns(&data);
    }

    #[test]
    fn random_datagrams_are_answered_with_messages_or_not_at_all(data in datagrams()) {
        targets::stun(&data);
    }

    #[test]
    fn random_bytes_do_no_harm(data in prop::collection::vec(any::<u8>(), 0..400)) {
        targets::frame(&data);
        targets::config(&data);
        targets::control(&data);
        targets::stun(&data);
        targets::dns(&data);
    }

    #[test]
    fn random_text_is_no_harm_to_configuration_and_control(data in "[ -~\n]{0,200}") {
        targets::config(data.as_bytes());
        targets::control(data.as_bytes());
    }
}
