#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use super::*;
use crate::model::{DB, HISTORY, Log, batch, hop, node};
use quicksilver_format::DbId;

const T0: Millis = Millis::new(5_000);

fn session() -> SourceSession {
    let me = node("relay", 2);
    let lineage = Lineage {
        path: vec![hop("root", 1), me.hop()],
        connected_to_root: true,
        root_client: "root:6379".to_owned(),
    };
    SourceSession::new(me, lineage, Deadlines::default(), T0)
}

fn hello(start: Start) -> Hello {
    Hello {
        versions: VersionRange::OURS,
        node: node("leaf", 9),
        path: vec![hop("leaf", 9)],
        start,
        stop: None,
    }
}

fn state(log: &Log) -> SourceState {
    let (position, oldest) = (log.end(), log.oldest());
    SourceState { history: HISTORY, position, oldest, heartbeat: None }
}

fn tell(session: &mut SourceSession, message: Message) {
    session.frame(T0, &message.into_frame());
}

/// Says hello and answers what the session wants to know from `log`.
fn greet(session: &mut SourceSession, hello: Hello, log: &Log) {
    tell(session, Message::Hello(hello));
    match session.poll(T0) {
        Some(SourceAction::LookUp(Start::After(position))) => {
            session.looked_up(T0, state(log), log.fact(position.index));
        }
        Some(SourceAction::LookUp(Start::Newest)) => {
            session.looked_up(T0, state(log), LogFact::Boundary(log.end().hash));
        }
        Some(SourceAction::Send(frame)) => {
            // A refusal: put it back for `drain`.
            session.actions.push_front(SourceAction::Send(frame));
        }
        other => panic!("{other:?}"),
    }
}

fn message(frame: &EncodedFrame) -> Message {
    let mut bytes = bytes::BytesMut::new();
    frame.write_to(&mut bytes);
    let decoder = crate::Decoder::of_source_bytes();
    let crate::Decoded::Frame(frame) = decoder.decode(&mut bytes).unwrap() else { panic!() };
    Message::from_frame(&frame).unwrap()
}

/// Everything that is left to do: what is sent, and the end if there is one.
fn drain(session: &mut SourceSession) -> (Vec<Message>, Option<SourceEnd>) {
    let mut sent = Vec::new();
    while let Some(action) = session.poll(T0) {
        match action {
            SourceAction::Send(frame) => sent.push(message(&frame)),
            SourceAction::Close(end) => {
                assert!(session.poll(T0).is_none(), "the end is the last action");
                return (sent, Some(end));
            }
            SourceAction::LookUp(_) | SourceAction::Stream { .. } => {}
        }
    }
    (sent, None)
}

fn refusal(session: &mut SourceSession) -> Refusal {
    let (mut sent, end) = drain(session);
    assert!(matches!(end, Some(SourceEnd::Refused(_))), "{end:?}");
    match sent.pop() {
        Some(Message::Refused(refused)) => {
            assert!(!refused.explanation.is_empty());
            refused.refusal
        }
        other => panic!("{other:?}"),
    }
}

fn refusal_of(hello: Hello, log: &Log) -> Refusal {
    let mut session = session();
    greet(&mut session, hello, log);
    refusal(&mut session)
}

fn streaming(start: Start, stop: Option<u64>, log: &Log) -> SourceSession {
    let mut session = session();
    let hello = Hello { stop: stop.map(Index::new), ..hello(start) };
    greet(&mut session, hello, log);
    session
}

fn after(log: &Log, batches: usize) -> Start {
    let end = batches.checked_sub(1).map(|n| log.batches[n].after());
    Start::After(end.unwrap_or(Position::genesis(DB)))
}

#[test]
fn a_follower_at_the_end_of_any_batch_is_welcome() {
    let log = Log::of(&[2, 3, 1]);
    for batches in 0..=3 {
        let mut session = streaming(after(&log, batches), None, &log);
        let Some(SourceAction::Send(frame)) = session.poll(T0) else { panic!() };
        let Message::Welcome(welcome) = message(&frame) else { panic!() };
        assert_eq!(welcome.position, log.end());
        assert_eq!(welcome.lineage.path.last(), Some(&hop("relay", 2)));
        let Some(SourceAction::Stream { after: from }) = session.poll(T0) else { panic!() };
        assert_eq!(Start::After(from), after(&log, batches));
        assert!(session.wants_item());
    }
}

#[test]
fn an_observer_starts_at_the_end() {
    let log = Log::of(&[2, 3]);
    let session = streaming(Start::Newest, None, &log);
    assert_eq!(session.position(), Some(log.end()));
}

#[test]
fn a_wrong_database_is_refused() {
    let log = Log::of(&[2]);
    let mut hello = hello(after(&log, 1));
    let yours = DbId::from_bytes([1; 16]);
    hello.node.db_id = yours;
    assert_eq!(refusal_of(hello, &log), Refusal::WrongDatabase { yours, mine: DB });
}

#[test]
fn itself_is_refused() {
    let log = Log::of(&[2]);
    let mut hello = hello(after(&log, 1));
    hello.node.process_id = node("relay", 2).process_id;
    assert_eq!(refusal_of(hello, &log), Refusal::SelfConnection);
}

#[test]
fn a_follower_above_this_node_is_refused_by_run_and_by_name() {
    let log = Log::of(&[2]);
    for (name, run) in [("root", 77), ("renamed", 1), ("relay", 78)] {
        let mut hello = hello(after(&log, 1));
        hello.node = node(name, run);
        assert_eq!(refusal_of(hello, &log), Refusal::Cycle, "{name} {run}");
    }
}

#[test]
fn a_position_before_the_log_is_too_old_and_the_last_one_that_is_not() {
    let mut log = Log::of(&[2, 3, 1]);
    log.collected = 2;
    let oldest = Index::new(6);
    assert_eq!(refusal_of(hello(after(&log, 1)), &log), Refusal::LogTooOld { oldest });
    let session = streaming(after(&log, 2), None, &log);
    assert!(session.is_streaming());
    log.collected = 3;
    assert!(streaming(after(&log, 3), None, &log).is_streaming());
}

#[test]
fn another_hash_and_a_place_inside_a_batch_are_divergence() {
    let log = Log::of(&[2, 3]);
    let other = Start::After(batch(Position::genesis(DB), 2, 77).after());
    let mine = log.batches[0].after().hash;
    let index = Index::new(2);
    assert_eq!(refusal_of(hello(other), &log), Refusal::Diverged { index, mine });

    let index = Index::new(3);
    let hash = log.batches[1].hash_at(index).unwrap();
    let inside = Start::After(Position { index, hash });
    assert_eq!(refusal_of(hello(inside), &log), Refusal::Diverged { index, mine: hash });
}

#[test]
fn a_follower_that_is_further_is_told_how_far_the_source_is() {
    let log = Log::of(&[2, 3]);
    let mut shorter = log.clone();
    shorter.batches.pop();
    let position = shorter.end();
    assert_eq!(refusal_of(hello(after(&log, 2)), &shorter), Refusal::Behind { position });
}

#[test]
fn a_far_version_is_refused_with_ours() {
    let mut session = session();
    let mut payload = b"QSRP\x05\0\x09\0".to_vec();
    payload.extend_from_slice(b"something new");
    session.frame(T0, &Frame { kind: Kind::Hello, payload: payload.into() });
    assert_eq!(refusal(&mut session), Refusal::Version(VersionRange::OURS));
}

/// Of two releases that are a step apart, either may be the source.
#[test]
fn the_newest_version_that_both_speak_is_spoken() {
    let VersionRange { min, max } = VersionRange::OURS;
    for (theirs, spoken) in [((min, min), min), ((min, max), max), ((max, max + 1), max)] {
        let versions = VersionRange { min: theirs.0, max: theirs.1 };
        let mut session = session();
        let hello = Hello { versions, ..hello(Start::Newest) };
        greet(&mut session, hello, &Log::of(&[2]));
        let (sent, _) = drain(&mut session);
        let Message::Welcome(welcome) = &sent[0] else { panic!("{sent:?}") };
        assert_eq!(welcome.version, spoken);
    }
}

#[test]
fn garbage_is_refused_and_never_ends_up_in_a_stream() {
    let mut bad = session();
    bad.frame(T0, &Frame { kind: Kind::Hello, payload: Bytes::from_static(b"GET / HTTP") });
    assert_eq!(refusal(&mut bad), Refusal::Malformed);
    let mut bad = session();
    bad.frame_error(T0, &FrameError::UnknownKind(71));
    assert_eq!(refusal(&mut bad), Refusal::Malformed);
    let mut early = session();
    tell(&mut early, Message::Applied(Index::FIRST));
    assert_eq!(refusal(&mut early), Refusal::Malformed);
    let log = Log::of(&[2]);
    let mut twice = streaming(Start::Newest, None, &log);
    drain(&mut twice);
    tell(&mut twice, Message::Hello(hello(Start::Newest)));
    let (sent, end) = drain(&mut twice);
    assert_eq!(sent, [Message::Bye(ByeReason::Malformed)]);
    assert!(matches!(end, Some(SourceEnd::Malformed(_))));
}

#[test]
fn a_full_source_says_when_to_ask_again() {
    let mut session = session();
    session.refuse_busy(T0, 1_500);
    assert_eq!(refusal(&mut session), Refusal::Busy { retry_after_ms: 1_500 });
}

#[test]
fn one_item_waits_at_most() {
    let mut log = Log::of(&[2]);
    let mut session = streaming(Start::Newest, None, &log);
    drain(&mut session);
    assert!(session.wants_item());
    let next = batch(log.end(), 1, 0);
    session.offer_batch(T0, &BatchFrame::from_batch(&next));
    assert!(!session.wants_item(), "the batch is not on the wire yet");
    session.path_changed(Lineage::orphan(&node("relay", 2), String::new()));
    let newest = Lineage::orphan(&node("relay", 2), "root:1".to_owned());
    session.path_changed(newest.clone());
    let (sent, end) = drain(&mut session);
    let batch = Message::Batch(next.record().clone());
    assert_eq!((sent, end), (vec![batch, Message::PathUpdate(newest)], None));
    assert!(session.wants_item());
    log.push(next);
    assert_eq!(session.position(), Some(log.end()));
}

#[test]
fn the_quota_is_told_before_the_first_batch_and_whenever_it_changes() {
    let log = Log::of(&[2, 3]);
    let quota = |max_db_bytes| Some(Quota { max_db_bytes });
    let mut session = session();
    session.quota_changed(quota(10));
    greet(&mut session, hello(after(&log, 1)), &log);
    assert!(!session.wants_item(), "something else goes first");
    let (sent, _) = drain(&mut session);
    assert!(matches!(sent[..], [Message::Welcome(_), Message::Quota(_)]), "{sent:?}");
    assert!(session.wants_item());

    // The same again is no news, and a newer one replaces what was not sent.
    session.quota_changed(quota(10));
    assert!(session.poll(T0).is_none());
    for max_db_bytes in [11, 12] {
        session.quota_changed(quota(max_db_bytes));
    }
    assert!(!session.wants_item());
    let twelve = Message::Quota(Quota { max_db_bytes: 12 });
    assert_eq!(drain(&mut session), (vec![twelve], None));
}

#[test]
fn who_knows_no_quota_tells_none() {
    let log = Log::of(&[2]);
    let mut session = streaming(after(&log, 0), None, &log);
    let (sent, _) = drain(&mut session);
    assert!(matches!(sent[..], [Message::Welcome(_)]), "{sent:?}");
    assert!(session.wants_item());
}

#[test]
fn a_batch_that_does_not_follow_is_never_sent() {
    let log = Log::of(&[2, 2]);
    let mut session = streaming(after(&log, 0), None, &log);
    drain(&mut session);
    session.offer_batch(T0, &BatchFrame::from_batch(&log.batches[1]));
    let (sent, end) = drain(&mut session);
    assert_eq!(sent, [Message::Bye(ByeReason::Reset)]);
    assert!(matches!(end, Some(SourceEnd::NotNext { .. })));
}

#[test]
fn a_stop_is_rounded_down_to_the_end_of_a_batch() {
    let log = Log::of(&[2, 3, 2]);
    for (stop, expected) in [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 3)] {
        let mut session = streaming(after(&log, 0), Some(stop), &log);
        let mut sent = Vec::new();
        for batch in &log.batches {
            if session.wants_item() || drain(&mut session).1.is_none() {
                session.offer_batch(T0, &BatchFrame::from_batch(batch));
                sent.extend(drain(&mut session).0);
            }
        }
        let batches = sent.iter().filter(|m| matches!(m, Message::Batch(_))).count();
        assert_eq!(batches, expected, "stop at {stop}");
        assert_eq!(sent.last(), Some(&Message::Bye(ByeReason::StopReached)), "stop at {stop}");
    }
    let mut there = streaming(after(&log, 2), Some(5), &log);
    let (sent, end) = drain(&mut there);
    assert!(matches!(sent[0], Message::Welcome(_)));
    assert_eq!(sent[1], Message::Bye(ByeReason::StopReached));
    assert_eq!(end, Some(SourceEnd::Said(ByeReason::StopReached)));
}

#[test]
fn the_applied_index_never_goes_back_nor_beyond_what_was_sent() {
    let log = Log::of(&[2, 3, 4]);
    let mut session = streaming(after(&log, 1), None, &log);
    drain(&mut session);
    assert_eq!(session.applied(), Index::ZERO);
    for (says, counts) in [(1, 1), (u64::MAX, 2), (0, 2)] {
        tell(&mut session, Message::Applied(Index::new(says)));
        assert_eq!(session.applied(), Index::new(counts));
    }
    let next = batch(session.position().unwrap(), 3, 0);
    session.offer_batch(T0, &BatchFrame::from_batch(&next));
    for (says, counts) in [(4, 4), (3, 4), (u64::MAX, 5)] {
        tell(&mut session, Message::Applied(Index::new(says)));
        assert_eq!(session.applied(), Index::new(counts));
    }
}

#[test]
fn a_quiet_stream_pings_and_a_silent_follower_is_left() {
    let log = Log::of(&[2]);
    let mut session = streaming(after(&log, 1), None, &log);
    drain(&mut session);
    assert_eq!(session.next_deadline(), T0.plus_ms(5_000));
    session.tick(T0.plus_ms(5_000));
    assert_eq!(drain(&mut session).0, [Message::Ping]);
    session.frame(T0.plus_ms(20_000), &Message::Applied(Index::new(2)).into_frame());
    session.tick(T0.plus_ms(49_999));
    drain(&mut session);
    assert!(!session.has_ended());
    session.tick(T0.plus_ms(50_000));
    let (sent, end) = drain(&mut session);
    assert_eq!(sent, [Message::Bye(ByeReason::Silent)]);
    assert_eq!(end, Some(SourceEnd::Silent(30_000)));
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let mut session = session();
    session.tick(T0.plus_ms(9_999));
    assert!(!session.has_ended());
    session.tick(T0.plus_ms(10_000));
    assert_eq!(drain(&mut session).1, Some(SourceEnd::HandshakeTimeout(10_000)));
}

#[test]
fn a_follower_that_leaves_is_believed() {
    let log = Log::of(&[2]);
    let mut session = streaming(after(&log, 1), None, &log);
    drain(&mut session);
    tell(&mut session, Message::Bye(ByeReason::Leaving));
    assert_eq!(drain(&mut session), (vec![], Some(SourceEnd::FollowerLeft(ByeReason::Leaving))));
    session.disconnected("closed");
    assert!(session.poll(T0).is_none(), "one end is enough");
}

#[test]
fn a_cut_record_is_not_offered() {
    let record = batch(Position::genesis(DB), 2, 0).record().clone();
    assert!(BatchFrame::from_record(record.clone()).is_ok());
    assert!(BatchFrame::from_record(record.slice(..record.len() - 1)).is_err());
    assert!(BatchFrame::from_record(record.slice(..50)).is_err());
}
