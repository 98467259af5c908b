//! "Kill any process at any moment; no acknowledged write is lost and every node ends equal."
//! Three writers load the root as an import does, pipelined and mixed with removals, while
//! processes are killed with SIGKILL at random moments: the root, the relay, a leaf, at last all
//! of them. Whatever was acknowledged is there afterwards, on every node; what was not may be; a
//! node never comes back behind what it had shown; all end with the same hash, and every stored
//! byte is what was written.
//!
//! `QS_SEED` repeats the choice of victims and moments (not the scheduling of the machine).
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::atomic::Ordering;
use std::time::Duration;

use quicksilver_tests::load::{self, Control, Promises};
use quicksilver_tests::{Cluster, SOON, eventually, seeded_rng};
use rand::Rng;
use rand::rngs::StdRng;

const WRITERS: usize = 3;
const KILLS: usize = 20;
const NODES: [&str; 4] = ["root", "relay", "leaf-1", "leaf-2"];

#[test]
fn twenty_kills_during_an_import() {
    let mut rng = seeded_rng();
    let mut cluster = Cluster::three_tiers();
    let control = Control::default();
    let socket = cluster.node("root").socket("client");
    let seeds: Vec<u64> = (0..WRITERS).map(|_| rng.random()).collect();
    let promises: Vec<Promises> = std::thread::scope(|scope| {
        let writers: Vec<_> = seeds
            .iter()
            .enumerate()
            .map(|(n, seed)| {
                let (socket, control) = (&socket, &control);
                let write =
                    move || load::write_until_stopped(&format!("w{n}"), socket, *seed, control);
                scope.spawn(write)
            })
            .collect();
        // A failure below must not leave the writers running: the scope would wait for ever.
        let stop = StopOnDrop(&control);
        for n in 0..KILLS {
            await_progress(&control, "before a kill");
            kill_and_restart(&mut cluster, victims(&mut rng, n), &mut rng);
        }
        await_progress(&control, "after the last kill");
        drop(stop);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });

    let state = cluster.await_converged(SOON);
    let acknowledged = control.acknowledged.load(Ordering::Relaxed);
    println!("{acknowledged} acknowledged, {} keys, index {}", state.keys, state.index);
    for name in NODES {
        let node = cluster.node(name);
        let dump = cluster.path().join(format!("{name}.dump"));
        let mut reader = node.reader();
        println!("{name}: {}", reader.assert_verified());
        let verified = node.qsctl(&["verify"]);
        assert!(verified.status.success(), "{name}: {verified:?}");
        assert_eq!(
            reader.ask(&format!("dump {}", dump.display())),
            format!("dumped {}", state.keys)
        );
        let found = load::parse_dump(&std::fs::read_to_string(&dump).unwrap());
        for written in &promises {
            assert!(!written.is_empty());
            let broken = written.broken_by(&found);
            assert!(broken.is_empty(), "{name}:\n{}", broken.join("\n"));
        }
    }
}

struct StopOnDrop<'c>(&'c Control);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Everybody in the end, so that nobody is left waiting in a long back-off; one of the tree's
/// tiers before.
fn victims(rng: &mut StdRng, n: usize) -> &'static [&'static str] {
    const EACH: [&[&str]; 4] = [&["root"], &["relay"], &["leaf-1"], &["root", "relay"]];
    if n + 1 == KILLS { &NODES } else { EACH[rng.random_range(0..EACH.len())] }
}

fn await_progress(control: &Control, when: &str) {
    let before = control.acknowledged.load(Ordering::Relaxed);
    eventually(&format!("writes are acknowledged {when}"), SOON, || {
        (control.acknowledged.load(Ordering::Relaxed) > before).then_some(())
    });
}

fn kill_and_restart(cluster: &mut Cluster, victims: &[&str], rng: &mut StdRng) {
    // The moment is what is random here; nothing is waited for.
    std::thread::sleep(Duration::from_millis(rng.random_range(0..400)));
    let shown: Vec<u64> = victims.iter().map(|name| cluster.node(name).status().index).collect();
    for name in victims {
        cluster.node_mut(name).kill9();
    }
    std::thread::sleep(Duration::from_millis(rng.random_range(0..150)));
    for (name, shown) in victims.iter().zip(shown) {
        let index = cluster.node_mut(name).start().status().index;
        assert!(index >= shown, "{name} had shown index {shown} and came back with {index}");
    }
}
