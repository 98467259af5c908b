//! `import` against a server of the test's own making.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use quicksilver::writer::fake::{Fake, Request};
use quicksilver_format::Address;

use super::*;
use crate::qsctl::lines::FormatArg;

const SOON: Duration = Duration::from_secs(60);

fn args(batch: u32, skip: u64) -> ImportArgs {
    ImportArgs {
        file: "-".into(),
        lines: LineArgs { format: FormatArg::Auto, raw: false },
        batch,
        skip,
    }
}

fn lines(n: usize) -> String {
    (1..=n).map(|n| format!("k{n}\tv{n}\n")).collect()
}

/// Tries each once.
fn imported(args: &ImportArgs, input: &str, addresses: &[Address]) -> (Amount, Result<(), Error>) {
    imported_within(Duration::ZERO, args, input, addresses)
}

fn imported_within(
    deadline: Duration,
    args: &ImportArgs,
    input: &str,
    addresses: &[Address],
) -> (Amount, Result<(), Error>) {
    let mut servers = Servers::new(addresses.to_vec(), deadline).unwrap();
    let (amount, result) = import(args, input.as_bytes(), &mut servers, &ProgressBar::hidden());
    (amount, result.map(drop))
}

fn keys(seen: &[Request]) -> Vec<String> {
    let msets = seen.iter().filter(|request| request[0] == b"MSET");
    let keys = msets.flat_map(|request| request[1..].iter().step_by(2));
    keys.map(|key| String::from_utf8_lossy(key).into_owned()).collect()
}

#[test]
fn everything_arrives_once_in_order_and_in_whole_batches() {
    let fake = Fake::start(|_, _| Some("+OK\r\n".to_owned()));
    let (amount, result) = imported(&args(7, 0), &lines(1000), std::slice::from_ref(&fake.address));
    result.unwrap();
    assert_eq!((amount.entries, amount.lines), (1000, 1000));
    assert_eq!(amount.input_bytes, lines(1000).len() as u64);
    let seen = fake.seen.lock().unwrap();
    assert_eq!(keys(&seen), (1..=1000).map(|n| format!("k{n}")).collect::<Vec<_>>());
    assert_eq!(seen.len(), 1000_usize.div_ceil(7));
}

#[test]
fn large_values_travel_alone_and_blank_lines_count() {
    let fake = Fake::start(|_, _| Some("+OK\r\n".to_owned()));
    let big = "x".repeat(BATCH_BYTES + 1);
    let input = format!("a\t{big}\n\nb\t{big}\nc\t1\nd\t2");
    let (amount, result) = imported(&args(1000, 0), &input, std::slice::from_ref(&fake.address));
    result.unwrap();
    assert_eq!((amount.entries, amount.lines), (4, 5));
    let pairs: Vec<_> = fake.seen.lock().unwrap().iter().map(|request| request.len() / 2).collect();
    assert_eq!(pairs, [1, 1, 2]);
}

#[test]
fn a_lost_connection_tells_what_was_acknowledged() {
    let fake = Fake::start(|number, _| (number < 5).then(|| "+OK\r\n".to_owned()));
    let (amount, result) =
        imported(&args(10, 0), &lines(1000), std::slice::from_ref(&fake.address));
    assert_eq!((amount.entries, amount.lines), (50, 50));
    let error = result.unwrap_err();
    assert_eq!(error.exit(), Exit::Unavailable);
    let advice = progress(&args(10, 30), &amount, &error);
    assert!(advice.contains("more may be stored") && advice.ends_with("--skip 80"), "{advice}");

    // From there it goes on without loss or repetition.
    let fake = Fake::start(|_, _| Some("+OK\r\n".to_owned()));
    let (amount, result) =
        imported(&args(10, 50), &lines(1000), std::slice::from_ref(&fake.address));
    result.unwrap();
    assert_eq!((amount.entries, amount.lines), (950, 950));
    assert_eq!(keys(&fake.seen.lock().unwrap())[0], "k51");
}

#[test]
fn a_refused_batch_stops_everything_after_it() {
    let fake = Fake::start(|number, _| {
        Some(if number == 3 { "-ERR value of 9 bytes\r\n" } else { "+OK\r\n" }.to_owned())
    });
    let (amount, result) =
        imported(&args(1, 0), &lines(100_000), std::slice::from_ref(&fake.address));
    assert_eq!(amount.entries, 3);
    let error = result.unwrap_err();
    assert_eq!(error.exit(), Exit::Refused);
    assert!(error.to_string().contains("value of 9 bytes"), "{error}");
    let seen = fake.seen.lock().unwrap().len();
    assert!(seen < 100_000, "it went on: {seen}");
}

#[test]
fn a_bad_line_is_named_and_what_came_before_is_stored() {
    let fake = Fake::start(|_, _| Some("+OK\r\n".to_owned()));
    let input = format!("{}no tab here\n{}", lines(25), lines(25));
    let (amount, result) = imported(&args(10, 0), &input, std::slice::from_ref(&fake.address));
    assert_eq!((amount.entries, amount.lines), (25, 25));
    let error = result.unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
    assert!(error.to_string().starts_with("standard input, line 26: no tab"), "{error}");

    let (amount, result) =
        imported(&args(10, 0), "\tempty key\n", std::slice::from_ref(&fake.address));
    assert_eq!(amount, Amount::default());
    assert!(result.unwrap_err().to_string().contains("line 1: key of 0 bytes"));
    let (_, result) = imported(&args(10, 9), &lines(3), std::slice::from_ref(&fake.address));
    assert!(result.unwrap_err().to_string().contains("has only 3 lines"));
}

#[test]
fn the_server_that_accepts_writes_is_found() {
    let relay = Fake::start(|_, _| Some("-READONLY write to the root at root:1\r\n".to_owned()));
    let leaving = Fake::start(|_, _| Some("-TRYAGAIN the node is shutting down\r\n".to_owned()));
    let root = Fake::start(|_, _| Some("+OK\r\n".to_owned()));
    let gone: Address = "127.0.0.1:1".parse().unwrap();
    let all = [gone.clone(), relay.address.clone(), leaving.address.clone(), root.address.clone()];
    let (amount, result) = imported(&args(10, 0), &lines(30), &all);
    result.unwrap();
    assert_eq!((amount.entries, keys(&root.seen.lock().unwrap()).len()), (30, 30));

    let (_, result) = imported(&args(10, 0), &lines(1), &all[..2]);
    let error = result.unwrap_err();
    assert_eq!(error.exit(), Exit::Unavailable);
    assert!(error.to_string().contains("127.0.0.1:1") && error.to_string().contains("root:1"));
    let orphan = Fake::start(|_, _| Some("-READONLY this node knows no root\r\n".to_owned()));
    let (_, result) = imported(&args(10, 0), &lines(1), std::slice::from_ref(&orphan.address));
    assert_eq!(result.unwrap_err().exit(), Exit::Refused);
}

/// Each connection ends after some commands, in one of the ways in which a process can end: what was
/// not acknowledged comes again, in order, so that the last one of a key stays the last.
#[test]
fn a_server_that_restarts_again_and_again_gets_everything() {
    for goodbye in [None, Some("-TRYAGAIN the node is shutting down\r\n")] {
        let fake = Fake::start(move |number, _| match number {
            0..5 => Some("+OK\r\n".to_owned()),
            5 => goodbye.map(str::to_owned),
            _ => None,
        });
        let addresses = std::slice::from_ref(&fake.address);
        let (amount, result) = imported_within(SOON, &args(10, 0), &lines(1000), addresses);
        result.unwrap();
        assert_eq!((amount.entries, amount.lines), (1000, 1000));
        assert_eq!(amount.input_bytes, lines(1000).len() as u64);
        assert_eq!(fake.connections(), 20);
        // Without what came twice it is the input.
        let seen = fake.seen.lock().unwrap();
        let mut next = 1;
        for key in keys(&seen) {
            let number: usize = key[1..].parse().unwrap();
            assert!(number <= next, "k{next} is missing before {key}");
            next = next.max(number + 1);
        }
        assert_eq!(next, 1001);
    }
}

#[test]
fn a_refusal_after_a_restart_is_final() {
    let fake = Fake::start(|number, command| match (number, &command[1][..]) {
        (_, b"k71") => Some("-ERR value of 9 bytes\r\n".to_owned()),
        (0..5, _) => Some("+OK\r\n".to_owned()),
        _ => None,
    });
    let addresses = std::slice::from_ref(&fake.address);
    let (amount, result) = imported_within(SOON, &args(10, 0), &lines(1000), addresses);
    assert_eq!(amount.entries, 70);
    assert_eq!(result.unwrap_err().exit(), Exit::Refused);
}

#[test]
fn a_first_batch_whose_fate_is_unknown_may_be_sent_elsewhere() {
    let lost = Fake::start(|_, _| None);
    let other = Fake::start(|_, _| Some("+OK\r\n".to_owned()));
    let all = [lost.address.clone(), other.address.clone()];
    let (amount, result) = imported(&args(10, 0), &lines(30), &all);
    result.unwrap();
    assert_eq!(amount.entries, 30);
    assert_eq!(keys(&other.seen.lock().unwrap()).len(), 30);
    let (amount, result) = imported(&args(10, 0), &lines(30), &all[..1]);
    assert_eq!(amount, Amount::default());
    let error = result.unwrap_err();
    assert_eq!(error.exit(), Exit::Unavailable);
    assert!(progress(&args(10, 0), &amount, &error).contains("more may be stored"));
}
