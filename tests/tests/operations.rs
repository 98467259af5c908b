//! "What docs/OPERATIONS.md says is what happens." Its commands are typed into a root's and a relay's
//! machine, in their order. Then the accidents that the page speaks of: a new program that does not
//! start, a configuration that cannot be used, a crash.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;

use quicksilver_protocol::{EndCause, SourceEnd};
use quicksilver_tests::process::{binary, profile, scratch_dir};
use quicksilver_tests::witness::{Connections, Witness};
use quicksilver_tests::{Machine, SOON, Status, eventually, http, tenures};

const PAGE: &str = include_str!("../../docs/OPERATIONS.md");

/// The commands for one kind of machine, block by block, with the heading that they are under.
fn blocks(kind: &str) -> Vec<(String, String)> {
    fenced("sh", kind)
}

/// The blocks in one language that are marked with this word; all of them when it is empty.
fn fenced(language: &str, mark: &str) -> Vec<(String, String)> {
    let (mut heading, mut blocks, mut open) = (String::new(), Vec::new(), None::<String>);
    for line in PAGE.lines() {
        match &mut open {
            Some(block) if line == "```" => {
                blocks.push((heading.clone(), std::mem::take(block)));
                open = None;
            }
            Some(block) => *block += &format!("{line}\n"),
            None => {
                if let Some(marks) = line.strip_prefix("```").and_then(|l| l.strip_prefix(language))
                {
                    open = marks.trim().split(' ').any(|word| word == mark).then(String::new);
                } else if let Some(text) = line.strip_prefix("## ") {
                    heading = text.to_owned();
                }
            }
        }
    }
    blocks
}

struct Site {
    root: Machine,
    /// Where the root's replication socket is, for both: they have no network between them.
    address: String,
    _dir: tempfile::TempDir,
}

impl Site {
    /// Types a block as the page has it, but for what only this place can know.
    fn type_in(&self, machine: &Machine, block: &str) -> String {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().display();
        let block = block
            .replace(
                "install --server",
                &format!("install --server --no-build --profile {}", profile()),
            )
            .replace("--upstream 10.0.0.1:7070", &format!("--upstream unix:{}", self.address))
            .replace("ListenStream=10.0.0.1:7070", &format!("ListenStream={}", self.address));
        machine.sh(&format!("cd {repository}\n{block}"))
    }
}

fn client(machine: &Machine) -> Witness {
    Witness::new(&machine.path("/run/quicksilver/dns/client.sock"), Connections::New)
}

fn status(machine: &Machine) -> Option<Status> {
    let socket = machine.path("/run/quicksilver/dns/http.sock");
    Status::parse(&http::get(&socket, "/status").ok()?.body)
}

/// The process that answers, which is the writer.
fn writer_of(machine: &Machine) -> Option<u32> {
    u32::try_from(status(machine)?.json["pid"].as_u64()?).ok()
}

/// The writer and the one that waits beside it, when both are ready and neither is `gone`.
fn await_both(machine: &Machine, gone: Option<u32>) -> (u32, u32) {
    eventually("both run", SOON, || {
        let [main, standby] = ["quicksilver@dns", "quicksilver-standby@dns"];
        let (main, standby) = (machine.active_pid(main)?, machine.active_pid(standby)?);
        let both = match writer_of(machine)? {
            writer if writer == main => (main, standby),
            writer if writer == standby => (standby, main),
            _ => return None,
        };
        (gone != Some(main) && gone != Some(standby)).then_some(both)
    })
}

/// Has quicksilver@dns be the writer, with the standby beside it; both.
fn await_standby_waits(machine: &Machine) -> (u32, u32) {
    eventually("the standby waits beside it", SOON, || {
        // Whoever asks first has the role, which can be the one that has just been started, too.
        machine.sh("systemctl restart quicksilver-standby@dns");
        let both = await_both(machine, None);
        (both.0 == machine.main_pid("quicksilver@dns")).then_some(both)
    })
}

/// Changes the service of the unit quicksilver@dns.
fn drop_in(machine: &Machine, settings: &str) {
    machine.sh(&format!(
        "mkdir -p /etc/systemd/system/quicksilver@dns.service.d
         printf '[Service]\n{settings}\n' >/etc/systemd/system/quicksilver@dns.service.d/test.conf
         systemctl daemon-reload"
    ));
}

/// Asks the root for what was written first, which has to be there at every point of the page.
fn assert_serves(machine: &Machine) {
    let reply = client(machine).ask(&["GET", "hello"]).unwrap();
    assert_eq!(reply.text(), Some("world"));
}

#[test]
fn the_page_is_followed_to_its_end() {
    let (Some(root), Some(relay)) = (Machine::boot("root"), Machine::boot("relay")) else { return };
    let dir = tempfile::Builder::new().prefix("net-").tempdir_in(scratch_dir()).unwrap();
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), permissions).unwrap();
    let address = dir.path().join("replication").display().to_string();
    let site = Site { root, address, _dir: dir };
    let mut seen = Vec::new();
    for (heading, block) in blocks("root") {
        let said = site.type_in(&site.root, &block);
        match (heading.as_str(), block.as_str()) {
            ("The root", block) if block.starts_with("qsctl") => {
                assert!(said.ends_with("world\n"), "{said}")
            }
            ("Change the configuration", _) => {
                let wanted = "reloaded; changed: batch.window_ms; at the next restart: nothing";
                eventually("the reload is told", SOON, || {
                    let unit = "quicksilver@dns";
                    let said =
                        site.root.sh(&format!("systemctl show -p StatusText --value {unit}"));
                    (said.trim() == wanted).then_some(())
                });
            }
            ("Finalise the format", _) => assert!(said.contains("nothing to finalise"), "{said}"),
            ("Make a database small again", _) => assert!(said.contains("live is gen-"), "{said}"),
            ("Snapshots", block) if block.contains("create") => {
                assert!(said.contains("\nok\n"), "{said}")
            }
            ("Snapshots", _) => assert!(said.contains("restored "), "{said}"),
            ("Verify", _) => assert!(said.starts_with("ok, index"), "{said}"),
            ("Look after it", _) => assert!(said.contains("quicksilver_last_index"), "{said}"),
            _ => {}
        }
        match heading.as_str() {
            "Install" => {}
            "Stop" => assert!(status(&site.root).is_none()),
            _ => assert_serves(&site.root),
        }
        if heading == "The root" && block.contains("ListenStream") {
            let id =
                site.root.sh("sed -n 's/^db_id = \"\\(.*\\)\"/\\1/p' /etc/quicksilver/dns.toml");
            for (heading, block) in blocks("relay") {
                site.type_in(&relay, &format!("DB_ID={}\n{block}", id.trim()));
                seen.push(format!("{heading} (relay)"));
            }
            let wanted = status(&site.root).unwrap();
            eventually("the relay has what the root has", SOON, || {
                status(&relay).filter(|status| status.same_data(&wanted))
            });
            assert_serves(&relay);
            // The other machine may read it, and is told where to write.
            let refusal = client(&relay).ask(&["SET", "a", "b"]).unwrap();
            let told =
                "READONLY this node is a relay; write to the root at unix:/run/quicksilver/dns/";
            assert!(refusal.error().starts_with(told), "{refusal:?}");
        }
        seen.push(heading);
    }
    assert_eq!(seen.len(), 20, "{seen:?}");
    let log = site.root.log_text();
    // Started; with another address; restarted; upgraded twice, there and back; with a standby.
    assert!(tenures(&log, "/dns/").len() >= 7, "{log}");
    assert!(!log.contains("ERROR"), "{log}");
    assert_serves(&relay);
}

#[test]
fn configurations_of_the_page_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dns.toml");
    let examples = fenced("toml", "");
    assert_eq!(examples.len(), 3, "{examples:?}");
    for (heading, example) in &examples {
        assert_eq!(heading, "Plan a tree");
        let mut files = vec![example.clone()];
        if example.contains("node_id = \"eu-relay-1\"") {
            // As the page changes it for a secondary.
            let changed = ["hours = 168", "bytes = 51539607552", "map_bytes = 68719476736"];
            assert!(changed.iter().all(|line| PAGE.contains(&format!("`{line}`"))));
            let secondary = example
                .replace("hours = 36", changed[0])
                .replace("bytes = 8589934592", changed[1])
                .replace("map_bytes = 21474836480", changed[2]);
            assert!(changed.iter().all(|line| secondary.contains(line)), "{secondary}");
            files.push(secondary);
        }
        for file in files {
            std::fs::write(&path, &file).unwrap();
            let mut command = std::process::Command::new(binary("quicksilverd"));
            let output = command.arg("--config").arg(&path).arg("--check").output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {said}\n{file}", output.status);
        }
    }
}

/// Every word that an end of a session can have is explained.
#[test]
fn every_reason_is_explained() {
    for reason in EndCause::REASONS.into_iter().chain(SourceEnd::REASONS) {
        assert!(PAGE.contains(&format!("\n| `{reason}` | ")), "{reason}");
    }
}

#[test]
fn accidents_that_the_page_speaks_of() {
    let Some(machine) = Machine::boot("host") else { return };
    let install = blocks("root").into_iter().take(2).map(|(_, block)| block);
    let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
    let site = Site { root: machine, address: String::new(), _dir: dir };
    for block in install {
        site.type_in(&site.root, &block);
    }
    let machine = &site.root;
    let main = || machine.main_pid("quicksilver@dns");

    // A program that does not start: it is not even tried to put it in the old one's place.
    let before = main();
    machine.sh("cp /usr/local/bin/quicksilverd /run/good
         printf '#!/bin/sh\\ncase $* in *--check*) exit 0;; esac\\nexit 7\\n' >/usr/local/bin/bad
         chmod 755 /usr/local/bin/bad && mv /usr/local/bin/bad /usr/local/bin/quicksilverd");
    assert!(!machine.run("systemctl start quicksilver-upgrade@dns").status.success());
    assert_eq!(main(), before);
    assert_serves(machine);
    let standby = machine.run("systemctl is-active quicksilver-standby@dns");
    assert_ne!(String::from_utf8_lossy(&standby.stdout).trim(), "active");
    machine
        .sh("cp /run/good /usr/local/bin/new && mv /usr/local/bin/new /usr/local/bin/quicksilverd");
    machine.sh("systemctl start quicksilver-upgrade@dns");
    assert_ne!(main(), before);
    assert_serves(machine);

    // A configuration that cannot be used: neither reload nor upgrade touch the running process.
    let before = main();
    machine.sh("cp /etc/quicksilver/dns.toml /run/dns.toml && echo nonsense = 1 >>/etc/quicksilver/dns.toml");
    for command in ["reload quicksilver@dns", "start quicksilver-upgrade@dns"] {
        assert!(!machine.run(&format!("systemctl {command}")).status.success(), "{command}");
    }
    assert!(machine.log_text().contains("nonsense"));
    assert_eq!(main(), before);
    assert_serves(machine);
    machine.sh("cp /run/dns.toml /etc/quicksilver/dns.toml && systemctl reload quicksilver@dns");

    // A crash: systemd starts it again; with a standby, nobody waits for that.
    machine.sh("systemctl kill -s KILL quicksilver@dns");
    assert_serves(machine);
    eventually("it has said that it is ready", SOON, || machine.active_pid("quicksilver@dns"));
    machine.sh("sed -i 's/^window_ms = .*/window_ms = 0/' /etc/quicksilver/dns.toml
         systemctl reload quicksilver@dns
         systemctl enable --now quicksilver-standby@dns");
    let mut witness = client(machine);
    let (mut writer, mut standby) = await_both(machine, None);
    let mut taken_over = 0;
    for _ in 0..10 {
        // Whichever of the two is the writer.
        let (killed, waiting) = (writer, standby);
        machine.sh(&format!("kill -KILL {killed}"));
        assert!(witness.ask(&["SET", "after", &killed.to_string()]).unwrap().is_ok());
        // The other one is back beside it.
        (writer, standby) = await_both(machine, Some(killed));
        // On a machine that stands still, the one that was started again may have been first.
        taken_over += usize::from(writer == waiting);
    }
    let tally = witness.tally();
    println!("ten crashes with a standby, which took over {taken_over} times: {tally}");
    assert!(tally.problems.is_empty(), "{tally}");
    assert!(tenures(&machine.log_text(), "/dns/").len() >= 13);

    // One that is not started again for an hour: only the standby can answer.
    drop_in(machine, "RestartSec=1h");
    let (killed, standby) = await_standby_waits(machine);
    machine.sh(&format!("kill -KILL {killed}"));
    assert!(client(machine).ask(&["SET", "after", "that"]).unwrap().is_ok());
    assert_eq!(writer_of(machine), Some(standby));

    // A process that hangs: the watchdog ends it, and the standby serves.
    drop_in(machine, "WatchdogSec=10s\nTimeoutAbortSec=5s");
    machine.sh("systemctl restart quicksilver@dns");
    let (hanging, _) = await_standby_waits(machine);
    machine.sh("systemctl kill -s STOP quicksilver@dns");
    assert_serves(machine);
    eventually("it is started again", SOON, || (main() != hanging).then_some(()));
}
