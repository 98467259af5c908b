//! A writer against servers of the test's own making.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
};

use super::fake::{Fake, Request, bulk};
use super::reply::read_reply;
use super::*;

/// Longer than anything here takes; a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(60);
const DB_ID: &str = "7d2f1c52-6a5e-4c0e-9d56-0f5c7a3b9e11";

fn writer(servers: &[&Address], deadline: Duration) -> Writer {
    let servers = servers.iter().map(ToString::to_string);
    Writer::options().deadline(deadline).connect(servers).unwrap()
}

fn info(db_id: &str) -> String {
    bulk(
        format!("# Quicksilver\r\nquicksilver_name:dns\r\nquicksilver_db_id:{db_id}\r\n")
            .as_bytes(),
    )
}

/// What a root says.
fn root(command: &Request) -> String {
    match &command[0][..] {
        b"QS.INDEX" => ":42\r\n".to_owned(),
        b"DEL" => format!(":{}\r\n", command.len() - 1),
        b"EXEC" => "*2\r\n+OK\r\n:1\r\n".to_owned(),
        b"INFO" => info(DB_ID),
        _ => "+OK\r\n".to_owned(),
    }
}

fn relay(root: &Address, command: &Request) -> String {
    match &command[0][..] {
        b"INFO" => info(DB_ID),
        _ => format!("-READONLY this node is a relay; write to the root at {root}\r\n"),
    }
}

/// Commands other than those that only ask.
fn writes(fake: &Fake) -> Vec<String> {
    let seen = fake.seen.lock().unwrap();
    let words = |request: &Request| {
        let words: Vec<_> = request.iter().map(|word| String::from_utf8_lossy(word)).collect();
        words.join(" ")
    };
    let asks = ["QS.INDEX", "INFO quicksilver"];
    seen.iter().map(words).filter(|words| !asks.contains(&&**words)).collect()
}

/// An address on which nobody listens, and nobody else can, while the socket is held.
fn reserved() -> (Address, TcpListener) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let held = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    bind(held.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let at: SockaddrIn = getsockname(held.as_raw_fd()).unwrap();
    let address = Address::Tcp { host: "127.0.0.1".to_owned(), port: at.port() };
    (address, TcpListener::from(held))
}

#[test]
fn what_is_sent_and_what_comes_back() {
    let fake = Fake::start(|_, command| Some(root(command)));
    let mut writer = writer(&[&fake.address], PATIENCE);
    assert_eq!(writer.set("a", "1").unwrap(), Index::new(42));
    assert_eq!(writer.set_many([("b", "1"), ("a", "2"), ("b", "2")]).unwrap(), Index::new(42));
    assert_eq!(writer.del(["a", "b"]).unwrap(), 2);
    let changes = [("d", Some("1")), ("c", None), ("e", Some("2")), ("d", None)];
    assert_eq!(writer.apply(changes).unwrap(), Index::new(42));
    assert_eq!(writer.apply([("c", None::<&str>)]).unwrap(), Index::new(42));
    assert!(writer.set_if_absent("f", "1").unwrap());
    assert!(writer.set_if_present("f", "2").unwrap());
    let nothing: [(&str, Option<&str>); 0] = [];
    assert_eq!(writer.apply(nothing).unwrap(), Index::ZERO);
    assert_eq!(writer.del(Vec::<&str>::new()).unwrap(), 0);
    assert_eq!(
        writes(&fake),
        [
            "SET a 1",
            "MSET a 2 b 2",
            "DEL a b",
            "MULTI",
            "MSET e 2",
            "DEL c d",
            "EXEC",
            "DEL c",
            "SET f 1 NX",
            "SET f 2 XX"
        ]
    );
    assert_eq!(fake.connections(), 1, "it is kept");
}

#[test]
fn what_can_never_be_stored_is_not_sent() {
    let fake = Fake::start(|_, _| panic!("nothing is sent"));
    let mut writer = writer(&[&fake.address], PATIENCE);
    assert!(matches!(writer.set("", "1"), Err(Error::Key(_))));
    assert!(matches!(writer.del(["x".repeat(512)]), Err(Error::Key(_))));
    let long = vec![0; VALUE_HARD_MAX_BYTES + 1];
    assert!(matches!(writer.set("a", &long), Err(Error::ValueTooLong { .. })));
    assert!(matches!(Writer::connect(["nonsense"]), Err(Error::Address(_))));
    assert!(matches!(Writer::connect(Vec::<String>::new()), Err(Error::NoServer)));
}

/// What a process says that is being replaced: the next connect reaches its successor.
#[test]
fn a_server_that_leaves_is_connected_to_anew() {
    let leaves = AtomicBool::new(true);
    let fake = Fake::start(move |_, command| {
        let leaves = command[0] == b"SET" && leaves.swap(false, Ordering::SeqCst);
        let answer = || "-TRYAGAIN the node is shutting down\r\n".to_owned();
        Some(if leaves { answer() } else { root(command) })
    });
    let mut writer = writer(&[&fake.address], PATIENCE);
    assert_eq!(writer.set("a", "1").unwrap(), Index::new(42));
    assert_eq!((writes(&fake).len(), fake.connections()), (2, 2));
}

#[test]
fn a_node_that_loads_is_waited_for() {
    let commands = AtomicUsize::new(0);
    let fake = Fake::start(move |_, command| {
        Some(match commands.fetch_add(1, Ordering::SeqCst) {
            0..4 => "-LOADING the node is fetching its first copy\r\n".to_owned(),
            4..6 => "-ERR max number of clients reached\r\n".to_owned(),
            _ => root(command),
        })
    });
    assert!(writer(&[&fake.address], PATIENCE).set_if_absent("a", "1").unwrap());
}

#[test]
fn a_connection_that_breaks_after_sending() {
    let breaks_once = || {
        let commands = AtomicUsize::new(0);
        Fake::start(move |_, command| match commands.fetch_add(1, Ordering::SeqCst) {
            0 => None,
            _ => Some(root(command)),
        })
    };
    let fake = breaks_once();
    writer(&[&fake.address], PATIENCE).set("a", "1").unwrap();
    assert_eq!(writes(&fake), ["SET a 1", "SET a 1"], "what may be done twice is sent again");

    let fake = breaks_once();
    let error = writer(&[&fake.address], PATIENCE).set_if_absent("a", "1").unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    assert!(error.to_string().contains("read it back"), "{error}");
    assert_eq!(writes(&fake), ["SET a 1 NX"], "what may not is not");

    let unknown = Fake::start(|_, _| Some("-UNKNOWN outcome unknown: fsync\r\n".to_owned()));
    let error = writer(&[&unknown.address], Duration::ZERO).set("a", "1").unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
}

#[test]
fn a_relay_leads_to_its_root() {
    let root = Fake::start(|_, command| Some(root(command)));
    let at = root.address.clone();
    let relay = Fake::start(move |_, command| Some(relay(&at, command)));
    let mut writer = writer(&[&relay.address], PATIENCE);
    writer.set("a", "1").unwrap();
    writer.set("b", "2").unwrap();
    writer.apply([("a", None), ("c", Some("3"))]).unwrap();
    let stored = ["SET a 1", "SET b 2", "MULTI", "MSET c 3", "DEL a", "EXEC"];
    assert_eq!(writes(&root), stored);
    assert_eq!(writes(&relay).len(), 1, "the relay is left alone once the root is known");
}

#[test]
fn what_is_no_root_of_the_same_database_is_not_written_to() {
    let other = Fake::start(|_, command| {
        Some(match &command[0][..] {
            b"INFO" => info("11111111-1111-4111-8111-111111111111"),
            _ => "+OK\r\n".to_owned(),
        })
    });
    let foreign = Fake::start(|_, _| Some(bulk(b"redis_version:7.0.0\r\n")));
    for stranger in [&other, &foreign] {
        let at = stranger.address.clone();
        let relay = Fake::start(move |_, command| Some(relay(&at, command)));
        let error = writer(&[&relay.address], Duration::ZERO).set("a", "1").unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("quicksilver_db_id") || text.contains("11111111-1111"), "{text}");
        assert_eq!(writes(stranger), Vec::<String>::new());
    }
}

#[test]
fn relays_that_name_each_other_end_at_the_deadline() {
    let (second_at, second) = reserved();
    let at = second_at.clone();
    let first = Fake::start(move |_, command| Some(relay(&at, command)));
    listen(&second, Backlog::MAXCONN).unwrap();
    let at = first.address.clone();
    let second = Fake::on(second, move |_, command| Some(relay(&at, command)));
    let deadline = Duration::from_millis(300);
    let error = writer(&[&first.address], deadline).set("a", "1").unwrap_err();
    let Error::Unavailable { after, failures } = error else { panic!("{error}") };
    assert!(after >= deadline, "{after:?}");
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(writes(&second).len() <= writes(&first).len(), "one step a round");
}

#[test]
fn nobody_there_until_the_deadline() {
    let (first, _held) = reserved();
    let (second, _held_too) = reserved();
    let deadline = Duration::from_millis(300);
    let began = Instant::now();
    let error = writer(&[&first, &second], deadline).set("a", "1").unwrap_err();
    assert!(began.elapsed() >= deadline);
    assert!(matches!(error, Error::Unavailable { .. }));
    let text = error.to_string();
    for part in [&first.to_string(), &second.to_string(), "is quicksilverd running", "try again"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_server_that_comes_up_in_time() {
    let (address, held) = reserved();
    let (gone, _held) = reserved();
    let starting = thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        listen(&held, Backlog::MAXCONN).unwrap();
        Fake::on(held, |_, command| Some(root(command)))
    });
    let mut writer = writer(&[&gone, &address], PATIENCE);
    assert!(writer.set_if_absent("a", "1").unwrap());
    assert_eq!(writes(&starting.join().unwrap()), ["SET a 1 NX"]);
}

/// The end of a connection that was kept is noticed before something is sent into it, of which
/// nobody would know whether it arrived.
#[test]
fn a_kept_connection_that_has_ended_is_not_used() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().into();
    let (closed, is_closed) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            read_reply(&mut BufReader::new(&stream)).unwrap();
            stream.write_all(b"+OK\r\n").unwrap();
            stream.shutdown(Shutdown::Both).unwrap();
            closed.send(()).unwrap();
        }
    });
    let mut writer = writer(&[&address], PATIENCE);
    for _ in 0..20 {
        assert!(writer.set_if_absent("a", "1").unwrap());
        is_closed.recv().unwrap();
    }
}

/// Whoever has the address of a root by now is asked again who it is.
#[test]
fn a_root_that_was_only_named_is_checked_with_every_connection() {
    const CALLS: usize = 5;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: Address = listener.local_addr().unwrap().into();
    let (closed, is_closed) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut input = BufReader::new(stream.try_clone().unwrap());
            let mut names = Vec::new();
            while names.last().is_none_or(|name| name != b"QS.INDEX") {
                let Ok(Reply::Array(words)) = read_reply(&mut input) else { panic!("{names:?}") };
                let Some(Reply::Bulk(name)) = words.into_iter().next() else { panic!("no name") };
                stream.write_all(root(&vec![name.clone()]).as_bytes()).unwrap();
                names.push(name);
            }
            stream.shutdown(Shutdown::Both).unwrap();
            closed.send(names).unwrap();
        }
    });
    let relay = Fake::start(move |_, command| Some(relay(&address, command)));
    let mut writer = writer(&[&relay.address], PATIENCE);
    for _ in 0..CALLS {
        writer.set("a", "1").unwrap();
        assert_eq!(is_closed.recv().unwrap(), [&b"INFO"[..], b"SET", b"QS.INDEX"]);
    }
}

#[test]
fn a_refusal_is_final() {
    let refuses = Fake::start(|_, _| Some("-ERR not stored: disk full\r\n".to_owned()));
    let other = Fake::start(|_, command| Some(root(command)));
    let mut writer = writer(&[&refuses.address, &other.address], PATIENCE);
    let error = writer.set("a", "1").unwrap_err();
    let Error::Refused(refusal) = error else { panic!("{error}") };
    assert!(refusal.to_string().ends_with("ERR not stored: disk full"), "{refusal}");
    assert_eq!((writes(&refuses).len(), writes(&other).len()), (1, 0));

    let nonsense = Fake::start(|_, _| Some("HTTP/1.1 400 Bad Request\r\n".to_owned()));
    let error = self::writer(&[&nonsense.address], PATIENCE).set("a", "1").unwrap_err();
    assert!(
        matches!(error, Error::Unknown { .. }) && error.to_string().contains("HTTP"),
        "{error}"
    );
}

/// A server that does not take connections any more, its queue full, is not waited for without end.
#[test]
fn a_full_queue_is_a_failure_to_connect() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listening = std::os::unix::net::UnixListener::bind(&path).unwrap();
    listen(&listening, Backlog::new(0).unwrap()).unwrap();
    let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let address = Address::Unix(path);
    let refused = Connection::open(&address, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(refused, ServerError::Connect { .. }), "{refused}");
    assert!(refused.to_string().contains("queue is full"), "{refused}");
}
