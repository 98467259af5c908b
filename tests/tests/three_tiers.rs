//! "A write at the root can be read from the memory of every machine." Root → relay → two leaves:
//! what is written at the root is read on the leaves by another process, through the reader
//! library, whatever its size; transactions and removals arrive too; all nodes end with the same
//! index, running hash and digest; and whoever looks at a node over HTTP sees what is there.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use quicksilver_tests::resp::Reply;
use quicksilver_tests::{
    Cluster, ReaderProcess, SOON, Status, fingerprint, http, random_bytes, seeded_rng,
};

fn readers(cluster: &Cluster) -> [ReaderProcess; 2] {
    ["leaf-1", "leaf-2"].map(|leaf| cluster.node(leaf).reader())
}

#[test]
fn writes_reach_the_memory_of_every_machine() {
    let cluster = Cluster::three_tiers();
    let mut root = cluster.node("root").client();
    assert!(root.call(&["SET", "zone/a", "1"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    let mut readers = readers(&cluster);
    for reader in &mut readers {
        assert_eq!(reader.ask("text zone/a"), "text 1");
        assert_eq!(reader.ask("text zone/b"), "none");
    }

    assert!(root.call(&["SET", "zone/a", "2"]).unwrap().is_ok());
    for reader in &mut readers {
        reader.await_value("zone/a", Some(b"2"), SOON);
    }
    assert_eq!(root.call(&["DEL", "zone/a", "nobody"]).unwrap(), Reply::Integer(1));
    for reader in &mut readers {
        reader.await_value("zone/a", None, SOON);
    }

    // What is read in the transaction shows what it has written; the leaves get it whole.
    for command in [&["MULTI"][..], &["SET", "t1", "x"], &["SET", "t2", "y"], &["GET", "t1"]] {
        assert_eq!(root.call(command).unwrap().error(), "");
    }
    let ok = Reply::Simple("OK".to_owned());
    let done = root.call(&["EXEC"]).unwrap();
    assert_eq!(done, Reply::Array(vec![ok.clone(), ok, Reply::Bulk(b"x".to_vec())]));
    for reader in &mut readers {
        reader.await_value("t2", Some(b"y"), SOON);
        assert_eq!(reader.ask("text t1"), "text x");
    }

    let state = cluster.await_converged(SOON);
    assert_eq!((state.index, state.keys), (5, 2));
    for reader in &mut readers {
        let position = format!("{} {} {} {}", state.index, state.hash, state.digest, state.keys);
        assert_eq!(reader.ask("position"), position);
        reader.assert_verified();
    }
}

/// "No such key" must not be the answer of a node that has never seen the data.
#[test]
fn a_new_relay_says_that_it_has_no_copy_yet() {
    let mut cluster = Cluster::new();
    cluster.root("root");
    cluster.leaf("leaf", &["root"]);
    cluster.node_mut("leaf").start();
    let leaf = cluster.node("leaf");
    assert_eq!(leaf.get("/readyz").status, 503);
    let reply = leaf.client().call(&["GET", "hello"]).unwrap();
    assert!(reply.error().starts_with("LOADING"), "{reply:?}");

    cluster.node_mut("root").start();
    assert!(cluster.node("root").client().call(&["SET", "hello", "world"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    cluster.node("leaf").await_ready();
    let world = Reply::Bulk(b"world".to_vec());
    assert_eq!(cluster.node("leaf").client().call(&["GET", "hello"]).unwrap(), world);

    // From now on it serves what it has, whoever is there.
    cluster.node_mut("root").kill9();
    cluster.node_mut("leaf").kill9();
    cluster.node_mut("leaf").start();
    cluster.node("leaf").await_ready();
    assert_eq!(cluster.node("leaf").client().call(&["GET", "hello"]).unwrap(), world);
}

#[test]
fn nothing_that_changes_nothing_takes_an_index() {
    let cluster = Cluster::three_tiers();
    let mut root = cluster.node("root").client();
    for _ in 0..3 {
        assert!(root.call(&["SET", "same", "value"]).unwrap().is_ok());
        assert_eq!(root.call(&["DEL", "nobody"]).unwrap(), Reply::Integer(0));
    }
    assert_eq!(root.call(&["SET", "same", "other", "NX"]).unwrap(), Reply::Nil);
    assert_eq!(cluster.await_converged(SOON).index, 1);
}

#[test]
fn values_of_every_size_arrive_unchanged() {
    let mut rng = seeded_rng();
    let cluster = Cluster::three_tiers();
    let mut root = cluster.node("root").client();
    // Around: empty, the largest that lies in a leaf page, one chunk, two, many, the limit.
    let sizes = [0, 1, 2000, 2030, 4079, 4080, 4081, 8159, 8160, 8161, 1 << 20, 16 << 20];
    let mut written = Vec::new();
    for size in sizes {
        let (key, value) = (format!("size-{size}"), random_bytes(&mut rng, size));
        let command: [&[u8]; 3] = [b"SET", key.as_bytes(), &value];
        assert!(root.call(&command).unwrap().is_ok(), "{size}");
        assert_eq!(root.call(&["STRLEN", &key]).unwrap(), Reply::Integer(size as i64));
        written.push((key, fingerprint(&value)));
    }
    cluster.await_converged(SOON);
    let mut readers = readers(&cluster);
    let mut leaf = cluster.node("leaf-1").client();
    for (key, expected) in &written {
        for reader in &mut readers {
            assert_eq!(reader.ask(&format!("get {key}")), format!("value {expected}"));
        }
        match leaf.call(&["GET", key]).unwrap() {
            Reply::Bulk(value) => assert_eq!(fingerprint(&value), *expected, "{key}"),
            other => panic!("{key}: {other:?}"),
        }
    }
    // A long value gives way to a short one, to another long one, to nothing.
    let (short, long) = (random_bytes(&mut rng, 10), random_bytes(&mut rng, 100_000));
    let set = |root: &mut quicksilver_tests::resp::Client, key: &[u8], value: &[u8]| {
        assert!(root.call(&[b"SET", key, value]).unwrap().is_ok());
    };
    set(&mut root, b"size-16777216", &short);
    set(&mut root, b"size-1048576", &long);
    assert_eq!(root.call(&["DEL", "size-8161"]).unwrap(), Reply::Integer(1));
    cluster.await_converged(SOON);
    for reader in &mut readers {
        assert_eq!(reader.ask("get size-16777216"), format!("value {}", fingerprint(&short)));
        assert_eq!(reader.ask("get size-1048576"), format!("value {}", fingerprint(&long)));
        assert_eq!(reader.ask("get size-8161"), "none");
        reader.assert_verified();
    }
}

#[test]
fn operators_see_what_is_there() {
    let cluster = Cluster::three_tiers();
    let mut root = cluster.node("root").client();
    for n in 0..10 {
        assert!(root.call(&["SET", &format!("key-{n}"), "value"]).unwrap().is_ok());
    }
    let state = cluster.await_converged(SOON);
    check_the_tree(&cluster);
    for node in cluster.nodes() {
        let role = if node.name() == "root" { "root" } else { "relay" };
        let follows = if role == "root" { "root" } else { "following" };
        // The first heartbeat may still be on its way, or a node that took over its upstream's history
        // begin its session anew.
        let status = node.await_status("a lag of less than 5 s", SOON, |status| {
            let lag = status.json["lag_seconds"].as_f64();
            lag.is_some_and(|lag| (0.0..5.0).contains(&lag)) && status.state == follows
        });
        let json = &status.json;
        assert_eq!((json["name"].as_str(), json["role"].as_str()), (Some("tests"), Some(role)));
        assert_eq!(json["db_id"].as_str(), Some(quicksilver_tests::cluster::DB_ID));
        assert_eq!(json["node_id"].as_str(), Some(node.name()));
        assert_eq!(json["pid"].as_u64(), Some(u64::from(node.pid())));
        assert_eq!((status.index, status.keys, json["oldest_index"].as_u64()), (10, 10, Some(1)));
        assert!(json["bytes"].as_u64().is_some_and(|bytes| bytes == 10 * (5 + 5)), "{json:#}");
        assert!(json["generation"].is_u64() && json["version"].is_string(), "{json:#}");
        let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        assert!(status.hash.len() == 64 && hex(&status.hash), "{}", status.hash);
        assert!(status.digest.len() == 32 && hex(&status.digest), "{}", status.digest);
        for probe in ["/livez", "/readyz", "/healthz"] {
            let answer = node.get(probe);
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{probe}");
        }
        check_metrics(&node.get("/metrics"), state.index, node.name());
        assert_eq!(node.get("/nowhere").status, 404);
        let post = http::request(&node.socket("http"), "POST", "/status").unwrap();
        assert_eq!(post.status, 405);
    }
}

fn check_metrics(metrics: &http::Response, index: u64, node: &str) {
    assert!(metrics.headers.contains("text/plain; version=0.0.4"), "{}", metrics.headers);
    let value = |name: &str| {
        let line = metrics
            .body
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let line = line.unwrap_or_else(|| panic!("{node} has no {name}:\n{}", metrics.body));
        assert!(line.contains("db=\"tests\""), "{line}");
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert_eq!(value("quicksilver_build_info"), 1.0);
    assert_eq!(value("quicksilver_last_index"), index as f64);
    assert_eq!(value("quicksilver_keys"), 10.0);
    assert_eq!(value("quicksilver_applied_entries_total"), index as f64);
    assert_eq!(value("quicksilver_commit_failures_total"), 0.0);
    let downstreams = match node {
        "root" => 1.0,
        "relay" => 2.0,
        _ => 0.0,
    };
    assert_eq!(value("quicksilver_downstreams"), downstreams);
    if node != "root" {
        assert_eq!(value("quicksilver_upstream_connected"), 1.0);
        let lag = value("quicksilver_heartbeat_lag_seconds");
        assert!((0.0..SOON.as_secs_f64()).contains(&lag), "{lag}");
    }
}

fn check_the_tree(cluster: &Cluster) {
    let names = |json: &serde_json::Value| -> Vec<String> {
        let all = json.as_array().unwrap().iter();
        let mut names: Vec<String> =
            all.map(|d| d["node_id"].as_str().unwrap_or_default().to_owned()).collect();
        names.sort();
        names
    };
    // A node that took over its upstream's history begins its sessions anew.
    let has_the_relay = |status: &Status| names(&status.json["downstreams"]) == ["relay"];
    let root = cluster.node("root").await_status("the relay", SOON, has_the_relay).json;
    assert!(root["upstream"].is_null(), "{root:#}");
    // A downstream is shown with what it has reported, which may lag behind.
    let reported = |status: &Status| {
        let all = status.json["downstreams"].as_array().unwrap();
        let has_all = |d: &serde_json::Value| d["index"].as_u64() == Some(status.index);
        all.len() == 2 && all.iter().all(has_all) && status.is_connected()
    };
    let relay = cluster.node("relay").await_status("both leaves reported", SOON, reported).json;
    assert_eq!(relay["upstream"]["path"].as_array().unwrap().len(), 1, "{relay:#}");
    assert_eq!(names(&relay["downstreams"]), ["leaf-1", "leaf-2"]);
    let leaf = cluster.node("leaf-1").await_status("it follows", SOON, Status::is_connected).json;
    assert_eq!(leaf["upstream"]["node_id"].as_str(), Some("relay"));
    assert_eq!(leaf["upstream"]["path"].as_array().unwrap().len(), 2, "{leaf:#}");
    assert_eq!(leaf["upstream"]["path"][0].as_str(), Some("root"));
    assert!(leaf["upstream"]["last_error"].is_null() || leaf["upstream"]["connected"] == true);

    // A client that wants to write here learns where to go.
    let refused = cluster.node("leaf-1").client().call(&["SET", "key", "value"]).unwrap();
    let address = cluster.node("root").address("client");
    assert!(refused.error().starts_with("READONLY"), "{refused:?}");
    assert!(refused.error().contains(&address), "{refused:?}");
}

#[test]
fn a_leaf_that_is_cut_off_goes_on_serving_and_catches_up() {
    let mut cluster = Cluster::three_tiers();
    let mut root = cluster.node("root").client();
    assert!(root.call(&["SET", "before", "1"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    cluster.node_mut("relay").kill9();
    let mut reader = cluster.node("leaf-1").reader();
    let leaf = cluster.node("leaf-1");
    leaf.await_status("it notices", SOON, |status| !status.is_connected());
    assert_eq!(reader.ask("text before"), "text 1");
    assert_eq!(leaf.client().call(&["GET", "before"]).unwrap().text(), Some("1"));
    assert!(root.call(&["SET", "meanwhile", "2"]).unwrap().is_ok());
    leaf.assert_serves();

    // Even a leaf that starts without anybody to follow serves what it has.
    cluster.node_mut("leaf-1").kill9();
    cluster.node_mut("leaf-1").start();
    let leaf = cluster.node("leaf-1");
    assert_eq!(leaf.client().call(&["GET", "before"]).unwrap().text(), Some("1"));
    assert_eq!(reader.ask("text before"), "text 1");
    assert_eq!(reader.ask("text meanwhile"), "none");

    cluster.node_mut("relay").start();
    cluster.await_converged(SOON);
    assert_eq!(reader.ask("text meanwhile"), "text 2");
}

#[test]
fn a_clean_restart_keeps_everything() {
    let mut cluster = Cluster::three_tiers();
    let mut root = cluster.node("root").client();
    assert!(root.call(&["SET", "kept", "1"]).unwrap().is_ok());
    let before = cluster.await_converged(SOON);
    for node in ["leaf-1", "relay", "root"] {
        cluster.node_mut(node).term();
    }
    for node in ["leaf-1", "relay", "root"] {
        cluster.node_mut(node).start();
        assert_eq!(cluster.node(node).status().index, before.index, "{node}");
    }
    let mut root = cluster.node("root").client();
    assert!(root.call(&["SET", "kept", "2"]).unwrap().is_ok());
    let after = cluster.await_converged(SOON);
    assert_eq!(after.index, before.index + 1);
}
