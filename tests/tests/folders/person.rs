//! Somebody with the official client.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use quarterdeck_tests::KeyPair;
use quarterdeck_tests::dice::Dice;
use quarterdeck_tests::official::{OfficialClient, PYTHON_VARIABLE};
use quarterdeck_tests::process::Server;

use crate::MIB;

/// Somebody with the client, and a home directory.
pub(crate) struct Person<'a> {
    pub(crate) cli: OfficialClient,
    pub(crate) home: PathBuf,
    played: &'a RefCell<BTreeSet<String>>,
}

impl<'a> Person<'a> {
    pub(crate) fn new(
        server: &Server,
        keys: KeyPair,
        home: PathBuf,
        played: &'a RefCell<BTreeSet<String>>,
    ) -> Option<Self> {
        let cli = OfficialClient::installed(&server.url, keys, &home).unwrap();
        if cli.is_none() {
            eprintln!("skipped: {PYTHON_VARIABLE} doesn't name a Python that has the official client");
        }
        Some(Self { cli: cli?, home, played })
    }

    fn note(&self, args: &[&str]) {
        let depth = if args[0] == "admin" { 3 } else { 2 };
        self.played.borrow_mut().insert(args[..depth].join(" "));
    }

    #[track_caller]
    pub(crate) fn does(&self, args: &[&str], parts: &[&str]) -> String {
        self.note(args);
        self.cli.does(args, parts)
    }

    #[track_caller]
    pub(crate) fn does_when_told(&self, args: &[&str], input: &str, parts: &[&str]) -> String {
        self.note(args);
        self.cli.does_when_told(args, input, parts)
    }

    #[track_caller]
    pub(crate) fn may_not(&self, args: &[&str], parts: &[&str]) {
        self.note(args);
        self.cli.may_not(args, parts);
    }

    #[track_caller]
    pub(crate) fn may_not_when_told(&self, args: &[&str], input: &str, parts: &[&str]) {
        self.note(args);
        self.cli.may_not_when_told(args, input, parts);
    }
}

/// Bytes that don't compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| (dice.roll(1 << 48) as u64).to_le_bytes())
        .flat_map(|number| number.into_iter().take(6))
        .take(length.min(MIB))
        .collect();
    // One piece of it, again and again, each time changed a little: dice in their hundreds of millions take too long.
    for number in 1..length.div_ceil(MIB) {
        let at = bytes.len();
        let next = MIB.min(length - at);
        bytes.extend_from_within(..next);
        let mark = (number as u64).to_le_bytes();
        let marked = mark.len().min(next);
        bytes[at..at + marked].copy_from_slice(&mark[..marked]);
    }
    bytes
}
