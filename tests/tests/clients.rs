//! "Every language's Redis client works." The programs and libraries that people have, against a
//! root and a leaf: redis-cli, redis-benchmark (also deeply pipelined), the `redis` crate and
//! redis-py, in both versions of the protocol. A leaf answers reads and refuses writes with
//! `READONLY`.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use quicksilver_tests::process::{is_installed, scratch_dir};
use quicksilver_tests::{Cluster, SOON, skipped};
use redis::{Commands, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};

/// Exercises redis-py: arguments are the root's socket, the leaf's, and the protocol version.
const REDIS_PY: &str = include_str!("../src/scripts/redis_py.py");

fn root_and_leaf() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("batch.window_ms", 0);
    cluster.leaf("leaf", &["root"]);
    cluster.start_all();
    cluster.node("leaf").await_status("it follows", SOON, |status| status.is_connected());
    cluster
}

fn said(output: &Output) -> String {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{err}").trim().to_owned()
}

fn redis_cli(socket: &Path, arguments: &[&str]) -> String {
    said(&Command::new("redis-cli").arg("-s").arg(socket).args(arguments).output().unwrap())
}

#[test]
fn redis_cli_works() {
    if !is_installed("redis-cli") {
        return skipped("redis-cli is not installed (Debian: redis-tools)");
    }
    let cluster = root_and_leaf();
    let root = cluster.node("root").socket("client");
    let leaf = cluster.node("leaf").socket("client");
    for (arguments, expected) in [
        (&["PING"][..], "PONG"),
        (&["SET", "a", "1"], "OK"),
        (&["-3", "GET", "a"], "1"),
        (&["MSET", "b", "2", "c", "3"], "OK"),
        (&["MGET", "a", "b", "nobody", "c"], "1\n2\n\n3"),
        (&["EXISTS", "a", "b", "nobody"], "2"),
        (&["DEL", "c", "nobody"], "1"),
        (&["TYPE", "a"], "string"),
        (&["TTL", "a"], "-1"),
        (&["STRLEN", "b"], "1"),
        (&["DBSIZE"], "2"),
        (&["--scan", "--pattern", "a*"], "a"),
        (&["ECHO", "hello"], "hello"),
        (&["SELECT", "0"], "OK"),
        (&["WAIT", "1", "60000"], "1"),
        (&["QS.INDEX"], "4"),
    ] {
        assert_eq!(redis_cli(&root, arguments), expected, "{arguments:?}");
    }
    cluster.await_converged(SOON);
    for (arguments, expected) in [
        (&["GET", "a"][..], "1"),
        (&["-3", "MGET", "a", "nobody"], "1\n"),
        (&["DBSIZE"], "2"),
        (&["QS.INDEX"], "4"),
    ] {
        assert_eq!(redis_cli(&leaf, arguments).trim(), expected.trim(), "{arguments:?}");
    }
    let refused = redis_cli(&leaf, &["SET", "a", "2"]);
    assert!(refused.starts_with("READONLY"), "{refused}");
    for (socket, role) in [(&root, "role:master"), (&leaf, "role:slave")] {
        let info = redis_cli(socket, &["INFO"]);
        for line in ["redis_version:", "loading:0", role] {
            assert!(info.contains(line), "{info}");
        }
    }
    for never in [
        &["SET", "a", "1", "EX", "10"][..],
        &["EXPIRE", "a", "10"],
        &["FLUSHALL"],
        &["EVAL", "1", "0"],
    ] {
        let refused = redis_cli(&root, never);
        assert!(refused.starts_with("ERR"), "{never:?}: {refused}");
    }
}

fn redis_benchmark(socket: &Path, arguments: &[&str]) {
    let output =
        Command::new("redis-benchmark").arg("-s").arg(socket).args(arguments).output().unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{arguments:?}: {}\n{said}", output.status);
    assert!(!said.to_lowercase().contains("error"), "{arguments:?}:\n{said}");
    assert!(said.contains("requests per second"), "{arguments:?}:\n{said}");
    let last_lines: Vec<&str> =
        said.split(['\n', '\r']).filter(|l| l.contains("per second")).collect();
    println!("{arguments:?}: {}", last_lines.join("; "));
}

#[test]
fn redis_benchmark_works() {
    if !is_installed("redis-benchmark") {
        return skipped("redis-benchmark is not installed (Debian: redis-tools)");
    }
    let cluster = root_and_leaf();
    let (root, leaf) = (cluster.node("root"), cluster.node("leaf"));
    let of_root = root.socket("client");
    redis_benchmark(&of_root, &["-q", "-t", "set,get,mset", "-r", "10000", "-n", "5000"]);
    redis_benchmark(&of_root, &["-q", "-t", "set,get", "-r", "10000", "-n", "20000", "-P", "64"]);
    let of_leaf = leaf.socket("client");
    redis_benchmark(&of_leaf, &["-q", "-t", "get", "-r", "10000", "-n", "20000"]);
    redis_benchmark(&of_leaf, &["-q", "-t", "get", "-r", "10000", "-n", "50000", "-P", "64"]);
    let state = cluster.await_converged(SOON);
    assert!(state.keys > 1000, "{}", state.keys);
    leaf.reader().assert_verified();
}

fn connect(socket: PathBuf, protocol: ProtocolVersion) -> redis::Connection {
    let settings = RedisConnectionInfo::default().set_protocol(protocol);
    let info = ConnectionAddr::Unix(socket).into_connection_info().unwrap();
    redis::Client::open(info.set_redis_settings(settings)).unwrap().get_connection().unwrap()
}

fn redis_crate(cluster: &Cluster, protocol: ProtocolVersion, prefix: &str) {
    let key = |name: &str| format!("{prefix}:{name}");
    let mut root = connect(cluster.node("root").socket("client"), protocol);
    assert_eq!(redis::cmd("PING").query::<String>(&mut root).unwrap(), "PONG");
    let _: () = root.set(key("a"), "1").unwrap();
    assert_eq!(root.get::<_, Option<String>>(key("a")).unwrap().as_deref(), Some("1"));
    assert_eq!(root.get::<_, Option<String>>(key("nobody")).unwrap(), None);
    let _: () = root.mset(&[(key("b"), "2"), (key("c"), "3")]).unwrap();
    let values: Vec<Option<String>> = root.mget(&[key("a"), key("nobody"), key("c")]).unwrap();
    assert_eq!(values, [Some("1".to_owned()), None, Some("3".to_owned())]);

    let mut pipeline = redis::pipe();
    for n in 0..100 {
        pipeline.set(key(&format!("n{n:03}")), n).ignore();
    }
    let (last,): (u64,) = pipeline.get(key("n099")).query(&mut root).unwrap();
    assert_eq!(last, 99);
    let (deleted, value): (u64, Option<u64>) = redis::pipe()
        .atomic()
        .del(key("b"))
        .set(key("d"), 4)
        .ignore()
        .get(key("d"))
        .query(&mut root)
        .unwrap();
    assert_eq!((deleted, value), (1, Some(4)));

    let found: Vec<String> = root.scan_match(key("n*")).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(found.len(), 100);
    assert_eq!(redis::cmd("WAIT").arg(1).arg(60_000).query::<u64>(&mut root).unwrap(), 1);

    let mut leaf = connect(cluster.node("leaf").socket("client"), protocol);
    assert_eq!(leaf.get::<_, Option<u64>>(key("d")).unwrap(), Some(4));
    let refused = leaf.set::<_, _, ()>(key("a"), "2").unwrap_err();
    assert_eq!(
        refused.kind(),
        redis::ErrorKind::Server(redis::ServerErrorKind::ReadOnly),
        "{refused}"
    );
}

#[test]
fn the_redis_crate_works_in_both_protocols() {
    let cluster = root_and_leaf();
    redis_crate(&cluster, ProtocolVersion::RESP2, "two");
    redis_crate(&cluster, ProtocolVersion::RESP3, "three");
    cluster.await_converged(SOON);
}

/// A virtual environment with redis-py, made once for each target directory.
fn python_with_redis() -> Result<PathBuf, String> {
    let dir = scratch_dir().join("redis-py");
    let python = dir.join("bin/python3");
    let works = |python: &Path| {
        let check = Command::new(python).args(["-c", "import redis"]).output();
        check.is_ok_and(|output| output.status.success())
    };
    if works(&python) {
        return Ok(python);
    }
    let step = |command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(said(&output)),
        Err(error) => Err(error.to_string()),
    };
    step(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir))?;
    step(Command::new(&python).args(["-m", "pip", "install", "--quiet", "redis"]))?;
    Ok(python)
}

#[test]
fn redis_py_works_in_both_protocols() {
    let python = match python_with_redis() {
        Ok(python) => python,
        Err(error) => return skipped(&format!("redis-py cannot be installed: {error}")),
    };
    let cluster = root_and_leaf();
    let script = cluster.path().join("redis_py.py");
    std::fs::write(&script, REDIS_PY).unwrap();
    for protocol in ["2", "3", "default"] {
        let mut command = Command::new(&python);
        command.arg(&script).arg(cluster.node("root").socket("client"));
        command.arg(cluster.node("leaf").socket("client")).arg(protocol);
        let output = command.output().unwrap();
        let said = said(&output);
        println!("{said}");
        assert!(output.status.success(), "protocol {protocol}: {said}");
    }
    cluster.await_converged(SOON);
}
