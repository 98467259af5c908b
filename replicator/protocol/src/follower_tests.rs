#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use super::*;
use crate::Kind;
use crate::end::Decision;
use crate::model::{DB, HISTORY, Log, batch, hop, node};
use crate::source::LogFact;
use bytes::Bytes;
use quicksilver_format::DbId;
use quicksilver_format::Heartbeat;

const T0: Millis = Millis::new(1_000);

fn options(start: Start) -> FollowOptions {
    FollowOptions { start, stop: None, path: vec![hop("leaf", 9)], deadlines: Deadlines::default() }
}

fn session(start: Start) -> FollowerSession {
    let mut session = FollowerSession::new(node("leaf", 9), options(start), T0);
    let Some(FollowerAction::Send(_)) = session.poll() else { panic!("a Hello goes first") };
    session
}

fn welcome(position: Position) -> Welcome {
    let source = node("relay", 2);
    Welcome {
        version: 1,
        db_id: DB,
        history: HISTORY,
        node_id: source.node_id.clone(),
        site: source.site.clone(),
        process_id: source.process_id,
        lineage: Lineage {
            path: vec![hop("root", 1), source.hop()],
            connected_to_root: true,
            root_client: "root:6379".to_owned(),
        },
        position,
        oldest: Index::FIRST,
        heartbeat: None,
        #[cfg(feature = "next-protocol")]
        release: String::new(),
    }
}

fn tell(session: &mut FollowerSession, message: Message) {
    session.frame(T0, &message.into_frame());
}

/// A session that streams after the end of `log`.
fn streaming(log: &Log) -> FollowerSession {
    let mut session = session(Start::After(log.end()));
    tell(&mut session, Message::Welcome(Box::new(welcome(log.end()))));
    assert!(!session.has_ended());
    while session.poll().is_some() {}
    session
}

/// Everything that is left to do: the batches delivered, and the end if there is one.
fn drain(session: &mut FollowerSession) -> (Vec<Batch>, Option<SessionEnd>) {
    let mut delivered = Vec::new();
    while let Some(action) = session.poll() {
        match action {
            FollowerAction::Deliver(batch) => delivered.push(batch),
            FollowerAction::Close(end) => {
                assert!(session.poll().is_none(), "the end is the last action");
                return (delivered, Some(end));
            }
            _ => {}
        }
    }
    (delivered, None)
}

fn end_of(session: &mut FollowerSession) -> SessionEnd {
    let (delivered, end) = drain(session);
    assert_eq!(delivered, [], "nothing may be delivered before this end");
    end.expect("the session has ended")
}

/// Answers the handshake with what `change` makes of a good welcome.
fn end_after_welcome(change: impl FnOnce(&mut Welcome)) -> SessionEnd {
    let log = Log::of(&[2, 3]);
    let mut session = session(Start::After(log.end()));
    let mut welcome = welcome(log.end());
    change(&mut welcome);
    tell(&mut session, Message::Welcome(Box::new(welcome)));
    end_of(&mut session)
}

fn end_after_refusal(refusal: Refusal) -> SessionEnd {
    let mut session = session(Start::After(Log::of(&[5]).end()));
    tell(&mut session, Message::Refused(Refused { refusal, explanation: "so".to_owned() }));
    end_of(&mut session)
}

#[test]
fn a_handshake_reports_the_upstream_its_path_and_the_durable_index() {
    let log = Log::of(&[2]);
    let mut session = session(Start::After(log.end()));
    // The other entry is on its way to the disk.
    session.committed(T0, Index::new(1));
    tell(&mut session, Message::Welcome(Box::new(welcome(log.end()))));
    assert!(matches!(session.poll(), Some(FollowerAction::Welcomed(_))));
    assert!(matches!(session.poll(), Some(FollowerAction::Path(_))));
    let Some(FollowerAction::Send(applied)) = session.poll() else { panic!() };
    assert_eq!(applied, Message::Applied(Index::new(1)).into_frame().encode());
    assert!(session.poll().is_none());
}

#[test]
fn batches_are_delivered_in_order_and_the_next_is_expected() {
    let mut log = Log::of(&[2]);
    let mut session = streaming(&log);
    for entries in [1, 4, 2] {
        let next = batch(log.end(), entries, 0);
        tell(&mut session, Message::Batch(next.record().clone()));
        assert_eq!(drain(&mut session), (vec![next.clone()], None));
        log.push(next);
        assert_eq!(session.expected(), Some(log.end()));
    }
}

#[test]
fn a_hole_and_a_duplicate_are_refused() {
    let log = Log::of(&[2]);
    let next = batch(log.end(), 2, 0);
    let after_next = batch(next.after(), 2, 0);
    for wrong in [&after_next, &log.batches[0]] {
        let mut session = streaming(&log);
        tell(&mut session, Message::Batch(wrong.record().clone()));
        let end = end_of(&mut session);
        assert!(matches!(end.cause, EndCause::NotNext { .. }), "{end}");
        assert_eq!(end.decision(), Decision::TryAnother { retry_after_ms: 0 });
        tell(&mut session, Message::Batch(next.record().clone()));
        assert!(session.poll().is_none(), "nothing comes after the end");
    }
}

#[test]
fn another_past_is_divergence_wherever_it_shows() {
    let log = Log::of(&[2]);
    let other = batch(batch(Position::genesis(DB), 2, 77).after(), 1, 0);
    let spanning = batch(Position::genesis(DB), 4, 77);
    for wrong in [other, spanning] {
        let mut session = streaming(&log);
        tell(&mut session, Message::Batch(wrong.record().clone()));
        let end = end_of(&mut session);
        assert!(matches!(end.cause, EndCause::Diverged { .. }), "{end}");
        assert_eq!(end.decision(), Decision::Halt);
        assert!(end.to_string().contains("keeps serving"), "{end}");
    }
}

#[test]
fn a_damaged_record_is_refused() {
    let log = Log::of(&[2]);
    let mut session = streaming(&log);
    let mut record = batch(log.end(), 2, 0).record().to_vec();
    *record.last_mut().unwrap() ^= 1;
    tell(&mut session, Message::Batch(record.into()));
    assert!(matches!(end_of(&mut session).cause, EndCause::BadMessage(_)));
}

#[test]
fn damaged_bytes_end_the_session() {
    let mut session = streaming(&Log::of(&[2]));
    session.frame_error(FrameError::UnknownKind(77));
    let end = end_of(&mut session);
    assert_eq!(end.cause, EndCause::BadFrame(FrameError::UnknownKind(77)));
}

#[test]
fn an_observer_takes_the_first_batch_as_its_beginning() {
    let log = Log::of(&[2, 3]);
    let mut session = session(Start::Newest);
    tell(&mut session, Message::Welcome(Box::new(welcome(log.end()))));
    let first = batch(log.end(), 1, 0);
    let second = batch(first.after(), 1, 0);
    for next in [first, second.clone()] {
        tell(&mut session, Message::Batch(next.record().clone()));
        assert_eq!(drain(&mut session), (vec![next], None));
    }
    tell(&mut session, Message::Batch(second.record().clone()));
    assert!(matches!(end_of(&mut session).cause, EndCause::NotNext { .. }));
}

#[test]
fn an_empty_node_adopts_the_history_before_the_first_batch() {
    let mut me = node("leaf", 9);
    me.history = None;
    let start = Start::After(Position::genesis(DB));
    let mut session = FollowerSession::new(me, options(start), T0);
    tell(&mut session, Message::Welcome(Box::new(welcome(Position::genesis(DB)))));
    let first = batch(Position::genesis(DB), 1, 0);
    tell(&mut session, Message::Batch(first.record().clone()));
    let mut adopted = false;
    while let Some(action) = session.poll() {
        match action {
            FollowerAction::AdoptHistory(history) => {
                assert_eq!(history, HISTORY);
                adopted = true;
            }
            FollowerAction::Deliver(_) => assert!(adopted),
            _ => {}
        }
    }
    assert!(adopted);
}

#[test]
fn a_wrong_database_halts() {
    let theirs = DbId::from_bytes([1; 16]);
    let end = end_after_welcome(|welcome| welcome.db_id = theirs);
    assert_eq!(end.cause, EndCause::WrongDatabase { mine: DB, theirs });
    assert_eq!(end.decision(), Decision::Halt);
    let told = end_after_refusal(Refusal::WrongDatabase { yours: DB, mine: theirs });
    assert_eq!(told.cause, end.cause);
    assert!(told.to_string().contains("db_id"), "{told}");
}

#[test]
fn itself_is_refused() {
    let end = end_after_welcome(|welcome| {
        welcome.process_id = node("leaf", 9).process_id;
        welcome.lineage.path = vec![hop("relay", 9)];
    });
    assert_eq!(end.cause, EndCause::SelfConnection);
    assert_eq!(end_after_refusal(Refusal::SelfConnection).cause, EndCause::SelfConnection);
}

#[test]
fn a_source_below_this_node_is_refused_by_run_and_by_name() {
    for me in [hop("leaf", 8), hop("renamed", 9)] {
        let end = end_after_welcome(|welcome| welcome.lineage.path.insert(0, me));
        assert!(matches!(end.cause, EndCause::Cycle { .. }), "{end}");
        assert_eq!(end.decision(), Decision::TryAnother { retry_after_ms: 0 });
    }
    assert!(matches!(end_after_refusal(Refusal::Cycle).cause, EndCause::Cycle { .. }));
}

#[test]
fn a_cycle_that_comes_to_light_later_ends_the_session() {
    let mut session = streaming(&Log::of(&[2]));
    let mut lineage = welcome(Position::genesis(DB)).lineage;
    tell(&mut session, Message::PathUpdate(lineage.clone()));
    assert!(matches!(session.poll(), Some(FollowerAction::Path(path)) if path == lineage));
    lineage.path.insert(1, hop("leaf", 9));
    tell(&mut session, Message::PathUpdate(lineage));
    let Some(FollowerAction::Send(bye)) = session.poll() else { panic!() };
    assert_eq!(bye, Message::Bye(ByeReason::Cycle).into_frame().encode());
    assert!(matches!(end_of(&mut session).cause, EndCause::Cycle { .. }));
}

#[test]
fn a_path_at_the_limit_is_refused() {
    let end = end_after_welcome(|welcome| {
        let source = welcome.lineage.path.pop().unwrap();
        welcome.lineage.path = vec![hop("x", 1); PATH_MAX_HOPS - 1];
        welcome.lineage.path.push(source);
    });
    assert_eq!(end.cause, EndCause::PathTooLong(PATH_MAX_HOPS));
}

#[test]
fn a_path_that_is_not_the_sources_own_is_refused() {
    let end = end_after_welcome(|welcome| welcome.lineage.path.push(hop("other", 3)));
    assert!(matches!(end.cause, EndCause::Unexpected { .. }));
}

#[test]
fn a_source_that_is_behind_is_no_divergence() {
    let position = Log::of(&[2]).end();
    let end = end_after_welcome(|welcome| welcome.position = position);
    assert!(matches!(end.cause, EndCause::Behind { .. }), "{end}");
    let told = end_after_refusal(Refusal::Behind { position });
    assert_eq!(told.decision(), Decision::TryAnother { retry_after_ms: 0 });
}

#[test]
fn a_source_that_is_behind_on_another_past_was_restored() {
    let position = batch(Position::genesis(DB), 2, 77).after();
    let own = Log::of(&[2, 3]);
    let end = end_after_refusal(Refusal::Behind { position });
    let judged = end.clone().judged_by_own_log(own.fact(position.index));
    assert!(matches!(judged.cause, EndCause::Diverged { .. }), "{judged}");
    let too_old = LogFact::TooOld { oldest: Index::new(4) };
    assert_eq!(end.clone().judged_by_own_log(too_old), end);
    let same = end_after_refusal(Refusal::Behind { position: own.batches[0].after() });
    assert_eq!(same.clone().judged_by_own_log(own.fact(Index::new(2))), same);
}

#[test]
fn another_hash_at_the_same_index_halts() {
    let other = batch(Position::genesis(DB), 5, 77).after();
    let end = end_after_welcome(|welcome| welcome.position = other);
    assert!(matches!(end.cause, EndCause::Diverged { .. }), "{end}");
    let told = end_after_refusal(Refusal::Diverged { index: Index::new(5), mine: other.hash });
    assert_eq!(told.decision(), Decision::Halt);
}

#[test]
fn every_other_refusal_says_what_follows() {
    let old = end_after_refusal(Refusal::LogTooOld { oldest: Index::new(9) });
    assert_eq!(old.decision(), Decision::NeedSnapshot { oldest: Index::new(9) });
    let busy = end_after_refusal(Refusal::Busy { retry_after_ms: 700 });
    assert_eq!(busy.decision(), Decision::TryAnother { retry_after_ms: 700 });
    let version = end_after_refusal(Refusal::Version(VersionRange { min: 4, max: 5 }));
    assert!(version.to_string().contains("4 to 5"), "{version}");
    for refusal in [Refusal::Malformed, Refusal::Other(77)] {
        let end = end_after_refusal(refusal);
        assert_eq!(end.decision(), Decision::TryAnother { retry_after_ms: 0 });
    }
}

#[test]
fn a_version_this_release_does_not_speak_is_refused() {
    let end = end_after_welcome(|welcome| welcome.version = VersionRange::OURS.max + 1);
    assert!(matches!(end.cause, EndCause::Version { .. }));
}

#[test]
fn nothing_counts_before_the_welcome() {
    let log = Log::of(&[2]);
    for message in [
        Message::Batch(log.batches[0].record().clone()),
        Message::Control(Heartbeat { root_clock_us: 1, after: Index::ZERO }.to_record()),
        Message::PathUpdate(welcome(log.end()).lineage),
        Message::Quota(Quota { max_db_bytes: 1 }),
    ] {
        let mut session = session(Start::After(Position::genesis(DB)));
        tell(&mut session, message);
        assert!(matches!(end_of(&mut session).cause, EndCause::Unexpected { .. }));
    }
    let mut session = session(Start::After(log.end()));
    session.frame(T0, &Frame { kind: Kind::Welcome, payload: Bytes::from_static(b"x") });
    assert!(matches!(end_of(&mut session).cause, EndCause::BadMessage(_)));
}

#[test]
fn a_quota_is_passed_on_and_changes_nothing_else() {
    let log = Log::of(&[2]);
    let mut session = streaming(&log);
    let quota = Quota { max_db_bytes: 8 << 30 };
    tell(&mut session, Message::Quota(quota));
    let Some(FollowerAction::Quota(told)) = session.poll() else { panic!() };
    assert_eq!(told, quota);
    assert!(session.poll().is_none());
    assert_eq!(session.expected(), Some(log.end()));
}

#[test]
fn a_stop_is_only_believed_when_it_was_asked_for() {
    let mut unasked = streaming(&Log::of(&[2]));
    tell(&mut unasked, Message::Bye(ByeReason::StopReached));
    assert!(matches!(end_of(&mut unasked).cause, EndCause::Unexpected { .. }));
    let mut options = options(Start::After(Log::of(&[2]).end()));
    options.stop = Some(Index::new(3));
    let mut asked = FollowerSession::new(node("leaf", 9), options, T0);
    tell(&mut asked, Message::Welcome(Box::new(welcome(Log::of(&[2]).end()))));
    tell(&mut asked, Message::Bye(ByeReason::StopReached));
    assert_eq!(end_of(&mut asked).decision(), Decision::Done);
}

#[test]
fn a_source_that_leaves_is_come_back_to() {
    for reason in [ByeReason::Restarting, ByeReason::Reset, ByeReason::TooSlow] {
        let mut session = streaming(&Log::of(&[2]));
        tell(&mut session, Message::Bye(reason));
        assert_eq!(end_of(&mut session).decision(), Decision::Reconnect);
    }
    let mut session = streaming(&Log::of(&[2]));
    session.disconnected("reset by peer");
    assert_eq!(end_of(&mut session).decision(), Decision::Reconnect);
}

#[test]
fn silence_ends_the_handshake_and_the_stream() {
    let mut greeting = session(Start::Newest);
    assert_eq!(greeting.next_deadline(), T0.plus_ms(10_000));
    greeting.tick(T0.plus_ms(9_999));
    assert!(!greeting.has_ended());
    greeting.tick(T0.plus_ms(10_000));
    assert_eq!(end_of(&mut greeting).cause, EndCause::HandshakeTimeout(10_000));

    let mut stream = streaming(&Log::of(&[2]));
    stream.not_reading(T0.plus_ms(29_000));
    stream.tick(T0.plus_ms(30_000));
    assert!(!stream.has_ended(), "not reading is not silence of the other end");
    stream.frame(T0.plus_ms(31_000), &Message::Ping.into_frame());
    stream.tick(T0.plus_ms(60_999));
    assert!(!stream.has_ended());
    stream.tick(T0.plus_ms(61_000));
    assert_eq!(end_of(&mut stream).cause, EndCause::Idle(30_000));
}

/// Story: a batch of many megabytes on a line of 100 kB a second.
#[test]
fn a_batch_that_takes_minutes_is_waited_for_and_a_trickle_is_not() {
    let mut stream = streaming(&Log::of(&[2]));
    for second in 1..=600 {
        stream.bytes(T0.plus_ms(second * 1_000), 100_000);
        stream.tick(T0.plus_ms(second * 1_000));
    }
    assert!(!stream.has_ended(), "bytes came all the time");
    for second in 601..=631 {
        stream.bytes(T0.plus_ms(second * 1_000), 100);
        stream.tick(T0.plus_ms(second * 1_000));
    }
    assert_eq!(end_of(&mut stream).cause, EndCause::Idle(30_000));
}

#[test]
fn progress_is_reported_at_once_and_repeated_as_a_sign_of_life() {
    let mut session = streaming(&Log::of(&[2]));
    let reports = |session: &mut FollowerSession| {
        let mut found = Vec::new();
        while let Some(FollowerAction::Send(frame)) = session.poll() {
            found.push(frame);
        }
        found
    };
    let applied = |index| Message::Applied(Index::new(index)).into_frame().encode();
    session.committed(T0.plus_ms(10), Index::new(7));
    session.committed(T0.plus_ms(11), Index::new(6));
    assert_eq!(reports(&mut session), [applied(7)]);
    assert_eq!(session.next_deadline(), T0.plus_ms(5_010));
    session.tick(T0.plus_ms(5_009));
    assert_eq!(reports(&mut session), []);
    session.tick(T0.plus_ms(5_010));
    assert_eq!(reports(&mut session), [applied(7)]);
}

#[test]
fn unknown_control_records_come_through_untouched() {
    let mut session = streaming(&Log::of(&[2]));
    let record = ControlRecord { kind: 900, version: 3, payload: Bytes::from_static(b"later") };
    tell(&mut session, Message::Control(record.clone()));
    let Some(FollowerAction::DeliverControl(found)) = session.poll() else { panic!() };
    assert_eq!(found, record);
}
