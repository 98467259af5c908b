//! `import` against a server of the test's own making.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use super::*;
use crate::qsctl::fake::{Fake, Request};
use crate::qsctl::lines::FormatArg;

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

fn imported(args: &ImportArgs, input: &str, addresses: &[Address]) -> (Amount, Result<(), Error>) {
    let (amount, result) = import(args, input.as_bytes(), addresses, &ProgressBar::hidden());
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

    let (_, result) = imported(&args(10, 0), &lines(1), &all[1..2]);
    let error = result.unwrap_err();
    assert_eq!(error.exit(), Exit::Refused);
    assert!(error.to_string().contains("root at root:1"), "{error}");
    let (_, result) = imported(&args(10, 0), &lines(1), &all[..2]);
    let error = result.unwrap_err();
    assert_eq!(error.exit(), Exit::Unavailable);
    assert!(error.to_string().contains("127.0.0.1:1") && error.to_string().contains("root:1"));
}

#[test]
fn a_first_batch_whose_fate_is_unknown_is_not_sent_elsewhere() {
    let lost = Fake::start(|_, _| None);
    let other = Fake::start(|_, _| Some("+OK\r\n".to_owned()));
    let all = [lost.address.clone(), other.address.clone()];
    let (amount, result) = imported(&args(10, 0), &lines(30), &all);
    assert_eq!(amount, Amount::default());
    assert_eq!(result.unwrap_err().exit(), Exit::Unavailable);
    assert!(other.seen.lock().unwrap().is_empty());
}
