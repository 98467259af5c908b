//! The policy without sockets. `QS_SEED=n` runs the random test with that seed alone.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn address(n: usize) -> Address {
    Address::Tcp { host: "s".to_owned(), port: n as u16 }
}

fn addresses(n: usize) -> Vec<Address> {
    (0..n).map(address).collect()
}

/// A conversation that always answers at once.
struct Talk {
    tries: Tries,
    now: Instant,
    rng: StdRng,
    next: Result<Try, End>,
}

impl Talk {
    fn new(kind: Kind, servers: usize, last_success: Option<usize>, deadline_ms: u64) -> Talk {
        let now = Instant::now();
        let deadline = now.checked_add(Duration::from_millis(deadline_ms));
        let last_success = last_success.map(address);
        let mut tries = Tries::new(kind, &addresses(servers), last_success.as_ref(), deadline);
        let next = tries.first();
        Talk { tries, now, rng: StdRng::seed_from_u64(1), next }
    }

    fn fails(&mut self, failure: Outcome) {
        self.next = self.tries.after(failure, self.now, &mut self.rng);
        if let Ok(next) = &self.next {
            self.now += next.after;
        }
    }

    fn server(&self) -> Address {
        self.next.as_ref().unwrap().server.clone()
    }
}

fn at_root(n: usize) -> Outcome {
    Outcome::AtTheRoot(Some(address(n)))
}

#[test]
fn servers_come_in_turn_and_waits_only_after_a_round() {
    let mut talk = Talk::new(Kind::Write, 3, Some(1), 60_000);
    for (n, waits) in [(1, false), (0, false), (2, false), (0, true), (1, false), (2, false)] {
        let next = talk.next.clone().unwrap();
        assert_eq!(next.server, address(n));
        assert!(waits || next.after.is_zero(), "{next:?}");
        talk.fails(Outcome::NotDone);
    }
}

#[test]
fn a_named_root_is_next_and_once_a_round() {
    // 0 and 1 are relays that name 9, which nobody gave, and which names 8.
    let mut talk = Talk::new(Kind::Write, 3, None, 60_000);
    talk.fails(at_root(9));
    let followed = talk.next.clone().unwrap();
    assert_eq!((followed.server, followed.named_by), (address(9), Some(address(0))));
    talk.fails(at_root(8));
    assert_eq!(talk.server(), address(1), "it is not followed twice");
    talk.fails(at_root(9));
    assert_eq!(talk.server(), address(2));
    // The next round follows again.
    talk.fails(Outcome::NotDone);
    assert_eq!(talk.server(), address(0));
    talk.fails(at_root(9));
    assert_eq!(talk.server(), address(9));
}

#[test]
fn a_named_root_that_has_its_turn_has_it_once() {
    let mut talk = Talk::new(Kind::Write, 3, None, 60_000);
    talk.fails(at_root(2));
    assert_eq!(talk.server(), address(2), "earlier than its turn");
    talk.fails(Outcome::NotDone);
    assert_eq!(talk.server(), address(1));
    talk.fails(at_root(0));
    // It was tried in this round already, and so the round is over.
    assert_eq!((talk.server(), &talk.next.as_ref().unwrap().named_by), (address(0), &None));
    // A relay that names itself.
    talk.fails(at_root(0));
    assert_eq!(talk.server(), address(1));
}

#[test]
fn how_it_ends() {
    use Outcome::{Nonsense, NotDone, Open, Refused};
    for (kind, failures, end) in [
        (Kind::Write, &[Refused][..], End::Refused),
        (Kind::Write, &[NotDone, Refused], End::Refused),
        (Kind::Write, &[NotDone, NotDone], End::Unavailable),
        (Kind::Write, &[Open, NotDone], End::Unknown),
        (Kind::Write, &[NotDone, Open], End::Unknown),
        (Kind::Write, &[Open, Refused], End::Unknown),
        (Kind::Write, &[Nonsense], End::Unknown),
        (Kind::WriteOnce, &[NotDone, NotDone], End::Unavailable),
        (Kind::WriteOnce, &[NotDone, Open], End::Unknown),
        (Kind::WriteOnce, &[Open], End::Unknown),
        (Kind::WriteOnce, &[Refused], End::Refused),
        (Kind::Read, &[Open, Open], End::Unavailable),
        (Kind::Read, &[Nonsense], End::Refused),
        (Kind::Read, &[Open, Refused], End::Refused),
    ] {
        // Without a deadline every one of the two is tried once.
        let mut talk = Talk::new(kind, 2, None, 0);
        for failure in failures {
            assert!(talk.next.is_ok(), "{kind:?} {failures:?}");
            talk.fails(failure.clone());
        }
        assert_eq!(talk.next, Err(end), "{kind:?} {failures:?}");
    }
    let mut talk = Talk::new(Kind::Write, 1, None, 0);
    talk.fails(at_root(9));
    assert_eq!(talk.server(), address(9), "following is part of trying once");
    talk.fails(Outcome::NotDone);
    assert_eq!(talk.next, Err(End::Unavailable));
    assert_eq!(Talk::new(Kind::Read, 0, None, 0).next, Err(End::Unavailable));
}

#[test]
fn waits_are_random_below_a_bound_that_doubles() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut most = vec![Duration::ZERO; 12];
    for _ in 0..200 {
        let now = Instant::now();
        let mut tries = Tries::new(Kind::Write, &addresses(1), None, None);
        tries.first().unwrap();
        for most in &mut most {
            let next = tries.after(Outcome::NotDone, now, &mut rng).unwrap();
            *most = next.after.max(*most);
        }
    }
    for (n, most) in most.iter().enumerate() {
        let bound = LAST_BOUND.min(FIRST_BOUND * 2_u32.pow(n as u32));
        assert!(*most <= bound && *most > bound * 8 / 10, "{n}: {most:?} of {bound:?}");
    }
}

/// What a random world must never see.
#[derive(Debug, Default)]
struct Seen {
    round: Vec<Address>,
    rounds: usize,
    followed: usize,
    maybe_done: bool,
}

fn one_world(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let kind = [Kind::Read, Kind::Write, Kind::WriteOnce][rng.random_range(0..3)];
    let servers = rng.random_range(1..5);
    let last_success = rng.random_bool(0.3).then(|| rng.random_range(0..8));
    let deadline_ms = [0, 1, 100, 5000][rng.random_range(0..4)];
    let mut talk = Talk::new(kind, servers, last_success, deadline_ms);
    let deadline = talk.now + Duration::from_millis(deadline_ms);
    let mut seen = Seen::default();
    let mut last = Outcome::NotDone;
    while let Ok(next) = talk.next.clone() {
        assert!(
            !seen.maybe_done || kind == Kind::Write,
            "it may have been done and was sent again"
        );
        let is_first = seen.rounds == 0;
        let is_new =
            next.server == address(0) && seen.round.contains(&next.server) || !next.after.is_zero();
        if is_new {
            let all = addresses(servers).iter().all(|server| seen.round.contains(server));
            assert!(all, "a round left one out: {seen:?}");
            seen = Seen { rounds: seen.rounds + 1, maybe_done: seen.maybe_done, ..Seen::default() };
        }
        assert!(talk.now <= deadline || is_first, "something began beyond the deadline");
        assert!(!seen.round.contains(&next.server), "twice in a round: {seen:?} {next:?}");
        seen.followed += usize::from(next.named_by.is_some());
        assert!(seen.followed <= 1, "followed in a loop: {seen:?}");
        seen.round.push(next.server);
        talk.now += Duration::from_millis(rng.random_range(0..50));
        last = match rng.random_range(0..20) {
            0 => Outcome::Refused,
            1 => Outcome::Nonsense,
            2..5 => Outcome::Open,
            5..12 => at_root(rng.random_range(0..8)),
            12 => Outcome::AtTheRoot(None),
            _ => Outcome::NotDone,
        };
        seen.maybe_done |= kind != Kind::Read && matches!(last, Outcome::Open | Outcome::Nonsense);
        talk.fails(last.clone());
    }
    let expected = match last {
        _ if seen.maybe_done => End::Unknown,
        Outcome::Refused | Outcome::Nonsense => End::Refused,
        _ => End::Unavailable,
    };
    assert_eq!(talk.next, Err(expected), "{last:?} {seen:?}");
}

#[test]
fn ten_thousand_random_worlds() {
    let given = std::env::var("QS_SEED").ok().map(|text| text.parse().unwrap());
    for seed in given.map_or(0..10_000, |seed| seed..seed + 1) {
        if let Err(panic) = std::panic::catch_unwind(|| one_world(seed)) {
            println!("run it alone with QS_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
