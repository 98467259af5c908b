//! Opening, closing, and the options.

use reader::testing::Db;

use super::*;

#[test]
fn a_closed_handle_is_told_from_all_others() {
    let made = Db::from([("hello", "world")]).unwrap();
    let db = open(made.path());
    assert_eq!(get(db, b"hello").unwrap(), b"world");
    assert_eq!(close(db), QS_OK);
    let again = open(made.path());
    assert_ne!(db, again);
    for _ in 0..3 {
        assert_eq!(get(db, b"hello"), Err(QS_CLOSED));
        assert_eq!(close(db), QS_CLOSED);
        assert_eq!(last_error(), "db was closed");
    }
    assert_eq!(get(again, b"hello").unwrap(), b"world");
    assert_eq!(close(again), QS_OK);
}

#[test]
fn a_database_can_be_opened_twice() {
    let made = Db::from([("hello", "world")]).unwrap();
    let (one, other) = (open(made.path()), open(made.path()));
    assert_ne!(one, other);
    assert_eq!(close(one), QS_OK);
    assert_eq!(get(one, b"hello"), Err(QS_CLOSED));
    assert_eq!(get(other, b"hello").unwrap(), b"world");
    assert_eq!(close(other), QS_OK);
}

#[test]
fn a_crooked_place_is_refused() {
    let mut index = [0_u64; 2];
    let crooked = index.as_mut_ptr().wrapping_byte_add(1);
    // SAFETY: a crooked pointer is refused before it is used.
    assert_eq!(unsafe { qs_index(ptr::null(), crooked) }, QS_INVALID_ARGUMENT);
    assert_eq!(last_error(), "index is not aligned to 8 bytes");
}

#[test]
fn options_of_other_releases_are_read_or_refused() {
    /// A later release's options.
    #[repr(C)]
    struct Later {
        known: qs_open_options,
        more: u64,
    }
    let made = Db::from([("hello", "world")]).unwrap();
    let mut later = Later { known: OPTIONS, more: 0 };
    later.known.size = size_of::<Later>();
    let opened = open_with(made.path(), (&raw const later).cast()).unwrap();
    assert_eq!(close(opened), QS_OK);
    later.more = 1;
    let refused = open_with(made.path(), (&raw const later).cast());
    assert_eq!(refused, Err(QS_INVALID_ARGUMENT));
    assert!(last_error().contains("does not know"), "{}", last_error());
    for size in [0, 1, size_of::<usize>(), 23, 4097, usize::MAX] {
        let refused = open_with(made.path(), &qs_open_options { size, ..OPTIONS });
        assert_eq!(refused, Err(QS_INVALID_ARGUMENT), "{size}");
        assert!(last_error().contains("QS_OPEN_OPTIONS_INIT"), "{}", last_error());
    }
}

#[test]
fn a_status_of_another_release_is_filled_as_far_as_it_goes() {
    /// A later release's status.
    #[repr(C)]
    struct Later {
        known: qs_db_status,
        more: [u64; 2],
    }
    let made = Db::from([("hello", "world")]).unwrap();
    let db = open(made.path());
    // SAFETY: all zero bytes are a value of the type.
    let mut later: Later = unsafe { std::mem::zeroed() };
    later.known.size = size_of::<Later>();
    later.more = [7; 2];
    // SAFETY: as large as its size says.
    assert_eq!(unsafe { qs_status(db, (&raw mut later).cast()) }, QS_OK, "{}", last_error());
    assert_eq!((later.known.size, later.known.keys), (size_of::<Later>(), 1));
    assert_eq!(later.more, [0; 2]);
    assert_eq!(close(db), QS_OK);
}

#[test]
fn the_database_can_be_named() {
    let made = Db::from([("hello", "world")]).unwrap();
    let real = CString::new(made.db_id().to_string()).unwrap();
    let db = open_with(made.path(), &qs_open_options { db_id: real.as_ptr(), ..OPTIONS }).unwrap();
    assert_eq!(close(db), QS_OK);
    let other = c"00000000-0000-4000-8000-000000000000";
    let refused = open_with(made.path(), &qs_open_options { db_id: other.as_ptr(), ..OPTIONS });
    assert_eq!(refused, Err(QS_WRONG_DATABASE));
    assert!(last_error().contains(real.to_str().unwrap()), "{}", last_error());
    let refused = open_with(made.path(), &qs_open_options { db_id: c"dns".as_ptr(), ..OPTIONS });
    assert_eq!(refused, Err(QS_INVALID_ARGUMENT));
}

#[test]
fn a_database_can_be_waited_for() {
    let made = Db::from([("hello", "world")]).unwrap();
    let current = made.path().join("CURRENT");
    let away = made.path().join("CURRENT.away");
    std::fs::rename(&current, &away).unwrap();
    let patient = qs_open_options { wait_ms: 20, ..OPTIONS };
    assert_eq!(open_with(made.path(), &patient), Err(QS_NO_DATABASE));
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            let endless = qs_open_options { wait_ms: -1, ..OPTIONS };
            let db = open_with(made.path(), &endless).unwrap();
            assert_eq!(get(db, b"hello").unwrap(), b"world");
            assert_eq!(close(db), QS_OK);
        });
        std::fs::rename(&away, &current).unwrap();
        opened.join().unwrap();
    });
}

#[test]
fn what_cannot_be_opened_says_why() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(open_with(dir.path(), ptr::null()), Err(QS_NO_DATABASE));
    assert!(last_error().contains("no database here"), "{}", last_error());
    assert_eq!(open_with(&dir.path().join("nowhere"), ptr::null()), Err(QS_NO_DATABASE));
    std::fs::write(dir.path().join("CURRENT"), "gen-000001\n").unwrap();
    std::fs::create_dir(dir.path().join("gen-000001")).unwrap();
    std::fs::write(dir.path().join("gen-000001/data.mdb"), [0x5a; 8192]).unwrap();
    assert_eq!(open_with(dir.path(), ptr::null()), Err(QS_CORRUPT), "{}", last_error());
}
