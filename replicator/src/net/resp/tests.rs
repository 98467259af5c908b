//! What clients see: conversations with a node in memory, over a real connection task.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quicksilver_format::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

use super::memory_node::MemoryNode;
use super::{ClientLimits, Service, Unsettled, connection, serve};
use crate::net::leaving::Leaving;
use crate::net::listen::{Listener, Stream};
use crate::net::node::ReadError;
use crate::root::request::WriteError;
use crate::store::{FormatChange, FormatRefusal};

const LIMITS: ClientLimits = ClientLimits {
    max_value_bytes: 1000,
    max_request_bytes: 600_000,
    max_clients: 2,
    request_deadline: super::REQUEST_DEADLINE,
    stall_deadline: super::STALL_DEADLINE,
    budget_bytes: 512 << 20,
};
const WINDOW: Duration = Duration::from_millis(40);
/// Longer than anything here takes; a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(60);

struct Talk {
    stream: DuplexStream,
    leave: watch::Sender<bool>,
}

fn talk(service: &Arc<Service>) -> Talk {
    let (stream, server) = tokio::io::duplex(1 << 20);
    let (leave, leaving) = watch::channel(false);
    let service = Arc::clone(service);
    tokio::spawn(async move {
        connection::run(server, "test", Unsettled::new(&service), leaving).await
    });
    Talk { stream, leave }
}

fn talk_to(node: &Arc<MemoryNode>) -> Talk {
    talk(&Service::new(node.clone(), LIMITS))
}

fn request(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|w| format!("${}\r\n{w}\r\n", w.len())).collect();
    format!("*{}\r\n{}", words.len(), words.concat())
}

impl Talk {
    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Sends a line and expects exactly this reply.
    async fn expect(&mut self, line: &str, reply: &str) {
        self.send(&format!("{line}\r\n")).await;
        self.hear(line, reply).await;
    }

    async fn hear(&mut self, what: &str, reply: &str) {
        let mut heard = vec![0; reply.len()];
        let read = tokio::time::timeout(PATIENCE, self.stream.read_exact(&mut heard)).await;
        let heard = String::from_utf8_lossy(&heard);
        assert!(read.is_ok_and(|read| read.is_ok()), "{what}: {heard:?} instead of {reply:?}");
        assert_eq!(heard, reply, "{what}");
    }

    /// What is left until the connection is closed.
    async fn rest(&mut self) -> String {
        let mut heard = Vec::new();
        let read = self.stream.read_to_end(&mut heard);
        tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        String::from_utf8(heard).unwrap()
    }

    /// Says that nothing more will come, and hears the rest.
    async fn finish(&mut self) -> String {
        self.stream.shutdown().await.unwrap();
        self.rest().await
    }
}

#[tokio::test]
async fn data_commands() {
    let node = MemoryNode::root(Duration::ZERO);
    let mut talk = talk_to(&node);
    for (line, reply) in [
        ("SET a 1", "+OK\r\n"),
        ("GET a", "$1\r\n1\r\n"),
        ("get b", "$-1\r\n"),
        ("SET a 2 NX", "$-1\r\n"),
        ("SET b 2 xx", "$-1\r\n"),
        ("SET b 22 NX", "+OK\r\n"),
        ("SETNX b 3", ":0\r\n"),
        ("SETNX c 3", ":1\r\n"),
        ("MGET a x b", "*3\r\n$1\r\n1\r\n$-1\r\n$2\r\n22\r\n"),
        ("EXISTS a a x", ":2\r\n"),
        ("STRLEN b", ":2\r\n"),
        ("STRLEN x", ":0\r\n"),
        ("TYPE a", "+string\r\n"),
        ("TYPE x", "+none\r\n"),
        ("TTL a", ":-1\r\n"),
        ("PTTL x", ":-2\r\n"),
        ("MSET d 4 e ''", "+OK\r\n"),
        ("GET e", "$0\r\n\r\n"),
        ("DBSIZE", ":5\r\n"),
        ("UNLINK e x", ":1\r\n"),
        ("DEL d c", ":2\r\n"),
        ("QS.INDEX", ":8\r\n"),
        (
            "QS.LOG 7 5",
            "*2\r\n*3\r\n:7\r\n$3\r\nDEL\r\n$1\r\nd\r\n*3\r\n:8\r\n$3\r\nDEL\r\n$1\r\nc\r\n",
        ),
        ("QS.LOG 1 1", "*1\r\n*4\r\n:1\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n"),
        ("QS.LOG 9 5", "*0\r\n"),
    ] {
        talk.expect(line, reply).await;
    }
}

#[tokio::test]
async fn connection_commands() {
    let node = MemoryNode::root(Duration::ZERO);
    let mut talk = talk_to(&node);
    for (line, reply) in [
        ("PING", "+PONG\r\n"),
        ("PING x", "$1\r\nx\r\n"),
        ("ECHO hi", "$2\r\nhi\r\n"),
        ("SELECT 0", "+OK\r\n"),
        ("READONLY", "+OK\r\n"),
        ("READWRITE", "+OK\r\n"),
        ("CLIENT ID", ":1\r\n"),
        ("CLIENT GETNAME", "$-1\r\n"),
        ("CLIENT SETNAME me", "+OK\r\n"),
        ("CLIENT GETNAME", "$2\r\nme\r\n"),
        ("CLIENT SETINFO lib-name redis-py", "+OK\r\n"),
        ("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        (
            "CONFIG GET appendonly maxclients",
            "*4\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n$10\r\nmaxclients\r\n$1\r\n2\r\n",
        ),
        ("CONFIG GET nothing", "*0\r\n"),
        ("COMMAND COUNT", ":41\r\n"),
        ("COMMAND DOCS get", "*0\r\n"),
        ("COMMAND INFO nope", "*1\r\n*-1\r\n"),
        (
            "COMMAND INFO get",
            "*1\r\n*10\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n*0\r\n*0\r\n*0\r\n*0\r\n",
        ),
        (
            "HELLO 3 SETNAME you",
            "%7\r\n$6\r\nserver\r\n$11\r\nquicksilver\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
        ),
        ("GET missing", "_\r\n"),
        ("CONFIG GET save", "%1\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        ("CLIENT GETNAME", "$3\r\nyou\r\n"),
        ("RESET", "+RESET\r\n"),
        ("GET missing", "$-1\r\n"),
        ("QUIT", "+OK\r\n"),
    ] {
        talk.expect(line, reply).await;
    }
    assert_eq!(talk.rest().await, "");
}

#[tokio::test]
async fn every_error_message() {
    let node = MemoryNode::root(Duration::ZERO);
    let mut talk = talk_to(&node);
    let long_key = "k".repeat(600);
    let long_value = "v".repeat(1001);
    for (line, reply) in [
        ("NOPE x", "ERR unknown command 'NOPE'"),
        ("GET", "ERR wrong number of arguments for 'get' command"),
        ("MSET a 1 b", "ERR wrong number of arguments for 'mset' command"),
        (&format!("GET {long_key}"), "ERR key of 600 bytes: a key has 1 to 511 bytes"),
        ("GET ''", "ERR key of 0 bytes: a key has 1 to 511 bytes"),
        (
            &format!("SET a {long_value}"),
            "ERR value of 1001 bytes: a value has at most 1000 bytes; split it, or raise limits.max_value_bytes",
        ),
        ("SET a 1 EX 5", "ERR SET EX is not supported: keys do not expire here"),
        ("SET a 1 keepttl", "ERR SET KEEPTTL is not supported: keys do not expire here"),
        ("SET a 1 GET", "ERR SET GET is not supported: use GET and SET in MULTI"),
        ("SET a 1 NX XX", "ERR syntax error"),
        ("WATCH a", "ERR WATCH is not supported: use SET NX or SET XX, or decide in MULTI"),
        (
            "KEYS *",
            "ERR KEYS is not supported: it would read the whole database at once; use SCAN 0 MATCH prefix*",
        ),
        ("SELECT 1", "ERR DB index is out of range: there is only database 0"),
        (
            "AUTH x",
            "ERR AUTH was sent, but no password is set: who may connect decides; leave AUTH out",
        ),
        (
            "HELLO 3 AUTH default x",
            "ERR AUTH was sent, but no password is set: who may connect decides; leave AUTH out",
        ),
        ("HELLO 4", "NOPROTO unsupported protocol version; it is 2 or 3"),
        ("HELLO 3 NOPE", "ERR Syntax error in HELLO option 'NOPE'"),
        (
            "CLIENT SETNAME 'a b'",
            "ERR Client names cannot contain spaces, newlines or special characters.",
        ),
        ("CLIENT TRACKING ON", "ERR unknown subcommand 'TRACKING' of CLIENT"),
        ("CONFIG SET save x", "ERR CONFIG SET is not supported: edit the configuration file"),
        ("CONFIG REWRITE", "ERR unknown subcommand 'REWRITE' of CONFIG"),
        ("EXEC", "ERR EXEC without MULTI"),
        ("DISCARD", "ERR DISCARD without MULTI"),
        ("WAIT x 1", "ERR value is not an integer or out of range"),
        ("WAIT 1 -1", "ERR timeout is not an integer or out of range"),
        ("SCAN x", "ERR invalid cursor; begin with 0"),
        ("SCAN 0 MATCH a?b", "ERR MATCH supports a literal key or prefix*, no other pattern"),
        ("SCAN 0 COUNT 0", "ERR syntax error"),
        (
            "SCAN 7",
            "ERR this SCAN cursor is not known (any more, or to this node); start again with 0",
        ),
        ("QS.LOG a 1", "ERR value is not an integer or out of range"),
    ] {
        talk.expect(line, &format!("-{reply}\r\n")).await;
    }
    talk.expect("SET a 1", "+OK\r\n").await;
    *node.fail_reads.lock().unwrap() =
        Some(ReadError { message: "bucket data: CRC".to_owned(), corrupt: true });
    talk.expect("GET a", "-CORRUPT bucket data: CRC\r\n").await;
    *node.fail_reads.lock().unwrap() =
        Some(ReadError { message: "reader slots are full".to_owned(), corrupt: false });
    talk.expect("MGET a b", "-ERR reader slots are full\r\n").await;
    for (error, reply) in [
        (WriteError::Storage("disk full".to_owned()), "ERR not stored: disk full"),
        (
            WriteError::ShuttingDown,
            "TRYAGAIN the node is shutting down; connect anew and send it again",
        ),
        (
            WriteError::Unknown("fsync".to_owned()),
            "UNKNOWN outcome unknown: fsync; read the key back before writing it again",
        ),
    ] {
        *node.fail_writes.lock().unwrap() = Some(error);
        talk.expect("SET a 2", &format!("-{reply}\r\n")).await;
    }
}

#[tokio::test]
async fn a_relay_reads_and_refuses_writes() {
    let node = MemoryNode::relay();
    node.put("a", "1");
    let mut talk = talk_to(&node);
    let refusal = "-READONLY this node is a relay; write to the root at root.example:6379\r\n";
    for (line, reply) in [
        ("GET a", "$1\r\n1\r\n"),
        ("SET a 2", refusal),
        ("DEL a", refusal),
        ("MULTI", "+OK\r\n"),
        ("GET a", "+QUEUED\r\n"),
        ("EXISTS a", "+QUEUED\r\n"),
        ("EXEC", "*2\r\n$1\r\n1\r\n:1\r\n"),
        ("MULTI", "+OK\r\n"),
        ("SET a 2", refusal),
        ("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n"),
        (
            "WAIT 1 0",
            "-ERR WAIT asks about this connection's writes, and a relay has none; ask the root\r\n",
        ),
    ] {
        talk.expect(line, reply).await;
    }
    node.loading.store(true, Ordering::SeqCst);
    let reply = "-LOADING the node is fetching its first copy of the database; try again, or another node\r\n";
    talk.expect("GET a", reply).await;
    talk.expect("DBSIZE", reply).await;
    talk.send("INFO\r\n").await;
    let info = talk.finish().await;
    for line in ["redis_version:7.0.0\r\n", "role:slave\r\n", "loading:1\r\n", "name:dns\r\n"] {
        assert!(info.contains(line), "{info}");
    }
}

/// A job is begun, and its number is the answer; while one runs, another is not.
#[tokio::test]
async fn jobs_of_the_maintenance() {
    let mut talk = talk_to(&MemoryNode::relay());
    talk.expect("QS.VERIFY", ":1\r\n").await;
    let busy = "-BUSY a verification runs (job 1); it is one at a time, ask again when it has \
                ended\r\n";
    talk.expect("QS.COMPACT", busy).await;
    talk.expect("QS.SNAPSHOT create", busy).await;
    talk.expect("QS.SNAPSHOT REMOVE one.snapshot", "+OK\r\n").await;
    talk.expect("QS.SNAPSHOT REMOVE two", "-ERR two: not there\r\n").await;
    talk.expect("QS.SNAPSHOT RESTORE one", "-ERR syntax error\r\n").await;
    talk.expect("QS.COMPACT now", "-ERR wrong number of arguments for 'qs.compact' command\r\n")
        .await;
}

/// What format the files are in is no command on data: it works at a root and at a relay alike.
#[tokio::test]
async fn the_format_and_the_order_to_raise_it() {
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    for node in [MemoryNode::root(Duration::ZERO), MemoryNode::relay()] {
        let mut talk = talk_to(&node);
        let shown = "{\"format\":1,\"format_readable_from\":1,\"format_newest\":2,\
                     \"oldest_reader\":\"0.1.0\",\"can_finalize\":true}";
        talk.expect("QS.FORMAT", &bulk(shown)).await;
        let raised = "{\"finalized\":true,\"from\":1,\"format\":2}";
        talk.expect("QS.FORMAT finalize", &bulk(raised)).await;
        *node.format.lock().unwrap() = Ok(FormatChange { from: 2, to: 2 });
        let nothing = "{\"finalized\":false,\"from\":2,\"format\":2}";
        talk.expect("QS.FORMAT FINALIZE", &bulk(nothing)).await;
        talk.expect("QS.FORMAT RAISE", "-ERR syntax error\r\n").await;
        talk.expect("QS.FORMAT FINALIZE now", "-ERR syntax error\r\n").await;
        for (refusal, code) in [
            (FormatRefusal::NotRaised("disk full".to_owned()), "ERR"),
            (FormatRefusal::Unknown("fsync".to_owned()), "UNKNOWN"),
            (FormatRefusal::NoWriter, "TRYAGAIN"),
            (FormatRefusal::Late, "TRYAGAIN"),
        ] {
            *node.format.lock().unwrap() = Err(refusal.clone());
            talk.expect("QS.FORMAT FINALIZE", &format!("-{code} {refusal}\r\n")).await;
        }
        talk.expect("MULTI", "+OK\r\n").await;
        let refused = "-ERR qs.format is not accepted in MULTI\r\n";
        talk.expect("QS.FORMAT FINALIZE", refused).await;
    }
}

#[tokio::test]
async fn transactions() {
    let node = MemoryNode::root(WINDOW);
    let mut talk = talk_to(&node);
    for (line, reply) in [
        ("MULTI", "+OK\r\n"),
        ("SET a 1", "+QUEUED\r\n"),
        ("GET a", "+QUEUED\r\n"),
        ("MGET a b", "+QUEUED\r\n"),
        ("MSET b 2 c 3", "+QUEUED\r\n"),
        ("DEL c x", "+QUEUED\r\n"),
        ("STRLEN b", "+QUEUED\r\n"),
        ("EXISTS a c", "+QUEUED\r\n"),
        ("EXEC", "*7\r\n+OK\r\n$1\r\n1\r\n*2\r\n$1\r\n1\r\n$-1\r\n+OK\r\n:1\r\n:1\r\n:1\r\n"),
        ("MULTI", "+OK\r\n"),
        ("MULTI", "-ERR MULTI calls can not be nested\r\n"),
        ("GET a", "+QUEUED\r\n"),
        ("EXEC", "*1\r\n$1\r\n1\r\n"),
        ("MULTI", "+OK\r\n"),
        ("EXEC", "*0\r\n"),
        ("MULTI", "+OK\r\n"),
        ("SET a 9", "+QUEUED\r\n"),
        ("DISCARD", "+OK\r\n"),
        ("GET a", "$1\r\n1\r\n"),
    ] {
        talk.expect(line, reply).await;
    }
    let abort = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    let big = format!("SET a {}", "x".repeat(1000));
    for (spoiler, reply) in [
        ("PING", "-ERR ping is not accepted in MULTI\r\n"),
        ("NOPE", "-ERR unknown command 'NOPE'\r\n"),
        ("SET a", "-ERR wrong number of arguments for 'set' command\r\n"),
        ("TYPE a", "-ERR type is not accepted in MULTI\r\n"),
    ] {
        talk.expect("MULTI", "+OK\r\n").await;
        talk.expect("SET a 9", "+QUEUED\r\n").await;
        talk.expect(spoiler, reply).await;
        talk.expect("EXEC", abort).await;
    }
    talk.expect("MULTI", "+OK\r\n").await;
    for _ in 0..3 {
        talk.expect(&big, "+QUEUED\r\n").await;
    }
    let too_large = "-ERR transaction of 4 steps and 4004 bytes: at most 100 steps and 4000 bytes; split it\r\n";
    talk.expect(&big, too_large).await;
    talk.expect("EXEC", abort).await;
    talk.expect("GET a", "$1\r\n1\r\n").await;
}

#[tokio::test]
async fn a_pipeline_of_writes_shares_a_window() {
    let node = MemoryNode::root(WINDOW);
    let mut talk = talk_to(&node);
    let pipeline: String = (0..20).map(|n| request(&["SET", &format!("k{n}"), "v"])).collect();
    talk.send(&pipeline).await;
    talk.hear("pipeline", &"+OK\r\n".repeat(20)).await;
    assert_eq!(node.windows.load(Ordering::SeqCst), 1);
}

/// A read sees every write before it in its connection and none after it, although all of them
/// are in flight together.
#[tokio::test]
async fn a_pipeline_is_answered_as_if_one_by_one() {
    let node = MemoryNode::root(WINDOW);
    let mut talk = talk_to(&node);
    let mut text = String::new();
    let mut replies = String::new();
    for n in 0..10 {
        let value = n.to_string();
        text += &request(&["GET", "k"]);
        replies += &if n == 0 { "$-1\r\n".to_owned() } else { format!("$1\r\n{}\r\n", n - 1) };
        text += &request(&["SET", "k", &value]);
        text += &request(&["GET", "k"]);
        text += &request(&["STRLEN", "k"]);
        text += &request(&["PING"]);
        text += &request(&["NOPE"]);
        replies += &format!("+OK\r\n$1\r\n{n}\r\n:1\r\n+PONG\r\n-ERR unknown command 'NOPE'\r\n");
    }
    talk.send(&text).await;
    talk.hear("pipeline", &replies).await;
    assert!(node.windows.load(Ordering::SeqCst) <= 3, "reads do not wait for windows of their own");
    // What the sequencer cannot answer waits for the writes before it.
    talk.send("SET x 1\r\nDBSIZE\r\nSET y 1\r\nQS.INDEX\r\nDEL y\r\nDBSIZE\r\n").await;
    talk.hear("barriers", "+OK\r\n:2\r\n+OK\r\n:12\r\n:1\r\n:2\r\n").await;
}

#[tokio::test]
async fn more_writes_than_the_queue_holds() {
    let node = MemoryNode::root(Duration::from_millis(1));
    let talk = talk_to(&node);
    let (mut reader, mut writer) = tokio::io::split(talk.stream);
    let sending = tokio::spawn(async move {
        for n in 0..30_000 {
            let text = request(&["SET", &format!("k{}", n % 100), "v"]);
            writer.write_all(text.as_bytes()).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let mut heard = String::new();
    tokio::time::timeout(PATIENCE * 6, reader.read_to_string(&mut heard)).await.unwrap().unwrap();
    sending.await.unwrap();
    assert_eq!(heard, "+OK\r\n".repeat(30_000));
    talk.leave.send_replace(true);
}

/// A client that sends and does not read stops being served, and costs a bounded amount.
#[tokio::test]
async fn a_client_that_does_not_read_is_not_executed_further() {
    let node = MemoryNode::relay();
    node.put("k", &"v".repeat(100_000));
    let (mut stream, server) = tokio::io::duplex(4096);
    let (_leave, leaving) = watch::channel(false);
    let service = Service::new(node.clone(), LIMITS);
    tokio::spawn(async move {
        connection::run(server, "test", Unsettled::new(&service), leaving).await
    });
    let text = request(&["GET", "k"]).repeat(10_000);
    let sent = tokio::time::timeout(Duration::from_millis(300), stream.write_all(text.as_bytes()));
    assert!(sent.await.is_err(), "200 kB of requests went in, 1 GB of replies would come out");
}

#[tokio::test]
async fn scans() {
    let node = MemoryNode::root(Duration::ZERO);
    for n in 0..25 {
        node.put(&format!("a{n:02}"), "");
    }
    node.put("b", "");
    let mut talk = talk_to(&node);
    talk.expect("SCAN 0 MATCH b", "*2\r\n$1\r\n0\r\n*1\r\n$1\r\nb\r\n").await;
    talk.expect("SCAN 0 MATCH bb", "*2\r\n$1\r\n0\r\n*0\r\n").await;
    talk.expect("SCAN 0 TYPE hash", "*2\r\n$1\r\n0\r\n*0\r\n").await;
    let (mut cursor, mut keys, mut steps) = ("0".to_owned(), 0, 0);
    loop {
        talk.send(&format!("SCAN {cursor} MATCH a* COUNT 10 TYPE string\r\nECHO end\r\n")).await;
        let mut heard = String::new();
        while !heard.ends_with("$3\r\nend\r\n") {
            let mut byte = [0];
            talk.stream.read_exact(&mut byte).await.unwrap();
            heard.push(char::from(byte[0]));
        }
        cursor = heard.split("\r\n").nth(2).unwrap().to_owned();
        keys += heard.matches("$3\r\na").count();
        steps += 1;
        if cursor == "0" {
            break;
        }
    }
    assert_eq!((keys, steps), (25, 3));
}

#[tokio::test]
async fn wait_counts_replicas() {
    let node = MemoryNode::root(Duration::ZERO);
    let mut talk = talk_to(&node);
    talk.expect("WAIT 0 0", ":0\r\n").await;
    talk.expect("SET a 1\r\nWAIT 1 20", "+OK\r\n:0\r\n").await;
    talk.send("WAIT 2 0\r\n").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    node.replicas.store(2, Ordering::SeqCst);
    node.progress.send_replace(1);
    talk.hear("WAIT", ":2\r\n").await;
    talk.send("WAIT 3 0\r\n").await;
    assert_eq!(talk.finish().await, ":2\r\n", "a client that left is not waited for");
}

#[tokio::test]
async fn protocol_errors_are_told_and_close() {
    let node = MemoryNode::root(WINDOW);
    for (bytes, text) in [
        ("*1\r\n".repeat(100_000), "nested arrays are not accepted"),
        (
            "*1\r\n$70000\r\n".to_owned() + &"x".repeat(70_000),
            "argument of 70000 bytes: at most 65536",
        ),
        ("SET a 1\r\n*1\r\n$-5\r\n".to_owned(), "invalid bulk length"),
    ] {
        let mut talk = talk_to(&node);
        talk.send(&bytes).await;
        let heard = talk.rest().await;
        let (before, error) = heard.split_once('-').unwrap();
        assert_eq!(before, if bytes.starts_with("SET") { "+OK\r\n" } else { "" });
        assert!(error.starts_with("ERR Protocol error: ") && error.contains(text), "{error}");
        assert_eq!(error.matches("\r\n").count(), 1);
    }
}

#[tokio::test]
async fn a_half_closed_connection_hears_everything() {
    let node = MemoryNode::root(WINDOW);
    let mut talk = talk_to(&node);
    talk.send("SET a 1\r\nGET a\r\nPING\r\n*1\r\n$4\r\nPI").await;
    assert_eq!(talk.finish().await, "+OK\r\n$1\r\n1\r\n+PONG\r\n");
}

#[tokio::test]
async fn a_request_that_dribbles_in_closes_the_connection() {
    let node = MemoryNode::root(WINDOW);
    let deadline = Duration::from_millis(200);
    let service = Service::new(node, ClientLimits { request_deadline: deadline, ..LIMITS });
    let mut talk = talk(&service);
    tokio::time::sleep(deadline * 2).await;
    talk.expect("PING", "+PONG\r\n").await;
    talk.send("*2\r\n$4\r\nECHO\r\n$99\r\n").await;
    // Counted from the last byte, it would never be over.
    let mut bytes = 0;
    while talk.stream.write_all(b"x").await.is_ok() {
        bytes += 1;
        assert!(bytes < 90, "the connection is still open");
        tokio::time::sleep(deadline / 4).await;
    }
    assert_eq!(talk.rest().await, "");
}

/// What a connection may hold without a share, of each kind.
const FREE: usize = 256 << 10;
const LARGE: usize = 2 * FREE;
const OUT_OF_BUDGET: &str =
    "-TRYAGAIN the memory for all clients' requests and replies is used up; try again\r\n";

#[tokio::test]
async fn incomplete_requests_and_multi_queues_share_a_budget() {
    let node = MemoryNode::relay();
    let limits = ClientLimits { max_value_bytes: 1 << 20, max_request_bytes: 1 << 20, ..LIMITS };
    let service = Service::new(node, ClientLimits { budget_bytes: 3 * FREE, ..limits });
    let text = "x".repeat(LARGE);
    let echo = request(&["ECHO", &text]);
    let (begun, rest) = echo.split_at(echo.len() - 10);
    let (mut first, mut second) = (talk(&service), talk(&service));
    first.send(begun).await;
    tokio::time::sleep(WINDOW).await;
    second.send(&request(&["MULTI"])).await;
    second.hear("MULTI", "+OK\r\n").await;
    let get = request(&["GET", &"k".repeat(500)]);
    let mut third = talk(&service);
    for _ in 0..20 {
        second.send(&get.repeat(100)).await;
    }
    let heard = second.rest().await;
    assert!(heard.starts_with("+QUEUED\r\n") && heard.ends_with(OUT_OF_BUDGET), "{heard}");
    third.expect("PING", "+PONG\r\n").await;
    first.send(rest).await;
    first.hear("ECHO", &format!("${LARGE}\r\n{text}\r\n")).await;
    third.send(&echo).await;
    third.hear("what was given back", &format!("${LARGE}\r\n{text}\r\n")).await;
}

#[tokio::test]
async fn replies_that_are_not_taken_share_a_budget() {
    let node = MemoryNode::relay();
    node.put("k", &"v".repeat(LARGE));
    let service = Service::new(node, ClientLimits { budget_bytes: LARGE, ..LIMITS });
    let get = request(&["GET", "k"]);
    let reply = format!("${LARGE}\r\n{}\r\n", "v".repeat(LARGE));
    let slow = || {
        let (stream, server) = tokio::io::duplex(4096);
        let (leave, leaving) = watch::channel(false);
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            connection::run(server, "test", Unsettled::new(&service), leaving).await
        });
        Talk { stream, leave }
    };
    let (mut first, mut second) = (slow(), slow());
    first.send(&get).await;
    tokio::time::sleep(WINDOW).await;
    second.send(&get).await;
    second.hear("a refusal", OUT_OF_BUDGET).await;
    first.hear("GET", &reply).await;
    second.send(&get).await;
    second.hear("what was given back", &reply).await;
}

/// What was written must not be sent again, so the refusal does not ask for that.
#[tokio::test]
async fn a_write_whose_reply_finds_no_room_is_not_called_undone() {
    let node = MemoryNode::root(Duration::ZERO);
    node.put("k", &"v".repeat(LARGE));
    let mut talk = talk(&Service::new(node, ClientLimits { budget_bytes: 0, ..LIMITS }));
    talk.send("MULTI\r\nSET a 1\r\nGET k\r\nEXEC\r\nGET a\r\n").await;
    let queued = "+OK\r\n+QUEUED\r\n+QUEUED\r\n-UNKNOWN the commands were done,";
    let heard = talk.finish().await;
    assert!(heard.starts_with(queued) && heard.ends_with("\r\n$1\r\n1\r\n"), "{heard}");
    assert!(!heard.contains("try again"), "{heard}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed() {
    let node = MemoryNode::relay();
    node.put("k", &"v".repeat(100_000));
    let deadline = Duration::from_millis(200);
    let service = Service::new(node, ClientLimits { stall_deadline: deadline, ..LIMITS });
    let (mut stream, server) = tokio::io::duplex(4096);
    let (_leave, leaving) = watch::channel(false);
    let serving = tokio::spawn(async move {
        connection::run(server, "test", Unsettled::new(&service), leaving).await
    });
    stream.write_all(request(&["GET", "k"]).as_bytes()).await.unwrap();
    // Slowly, but always within the deadline.
    for _ in 0..4 {
        tokio::time::sleep(deadline / 2).await;
        stream.read_exact(&mut [0; 4096]).await.unwrap();
    }
    assert!(!serving.is_finished());
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_reads_on_a_threaded_runtime() {
    let node = MemoryNode::relay();
    let value = "v".repeat(LARGE);
    node.put("k", &value);
    let mut talk = talk_to(&node);
    talk.expect("GET k", &format!("${LARGE}\r\n{value}\r\n")).await;
    let mget = request(&["MGET"]).replace("*1", "*101") + &"$1\r\nx\r\n".repeat(100);
    talk.send(&mget).await;
    talk.hear("MGET", &("*100\r\n".to_owned() + &"$-1\r\n".repeat(100))).await;
    talk.expect("QS.LOG 1 1", "*0\r\n").await;
}

#[tokio::test]
async fn leaving_answers_what_has_arrived() {
    let node = MemoryNode::root(WINDOW);
    let mut talk = talk_to(&node);
    talk.send("SET a 1\r\nGET a\r\n").await;
    tokio::time::sleep(WINDOW / 4).await;
    talk.leave.send_replace(true);
    assert_eq!(talk.rest().await, "+OK\r\n$1\r\n1\r\n");
}

/// Story: one process has sent a client away, and the next one leaves, too, just as it comes in.
#[tokio::test]
async fn whoever_has_just_come_in_is_answered_once() {
    let node = MemoryNode::root(WINDOW);
    let mut talk = talk_to(&node);
    talk.leave.send_replace(true);
    tokio::time::sleep(WINDOW / 4).await;
    talk.send("SET a 1\r\n").await;
    assert_eq!(talk.rest().await, "+OK\r\n");
    // One that says nothing does not hold anybody up for long.
    let mut silent = talk_to(&node);
    silent.leave.send_replace(true);
    assert_eq!(silent.rest().await, "");
}

#[tokio::test]
async fn connections_are_capped_and_shutdown_is_orderly() {
    let node = MemoryNode::root(WINDOW);
    let listener = Listener::bind(&"127.0.0.1:0".parse::<Address>().unwrap()).await.unwrap();
    let address = listener.local_address().unwrap();
    let service = Service::new(node.clone(), LIMITS);
    let leaving = Leaving::new();
    let serving = tokio::spawn(serve(listener, Arc::clone(&service), leaving.door()));
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Stream::connect(&address).await.unwrap();
        client.write_all(b"PING\r\n").await.unwrap();
        let mut heard = [0; 7];
        client.read_exact(&mut heard).await.unwrap();
        clients.push(client);
    }
    assert_eq!(service.connected_clients(), 2);
    let mut third = Stream::connect(&address).await.unwrap();
    let mut heard = String::new();
    third.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "-ERR max number of clients reached\r\n");
    clients[0].write_all(b"SET a 1\r\n").await.unwrap();
    tokio::time::sleep(WINDOW / 4).await;
    leaving.close_doors().await;
    leaving.leave();
    let mut heard = String::new();
    clients[0].read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "+OK\r\n");
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
}
