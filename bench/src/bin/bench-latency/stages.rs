//! Where the time of a write goes.

use quicksilver_bench::stats::Table;

/// The mean of each stage of some writes, in milliseconds. One follows the other, and together they
/// are the mean of the whole.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Means {
    /// Until the root seals the batch: its socket, its queue, and the window.
    pub(crate) window: f64,
    /// Until the root has it on disk and visible.
    pub(crate) root_commit: f64,
    /// What the leaf's commit takes.
    pub(crate) leaf_commit: f64,
    /// All the rest: two hops, handing over from thread to thread, and waking who waits.
    pub(crate) network: f64,
    /// What the relay's commit takes. It is beside the way: the relay passes on before it.
    pub(crate) relay_commit: f64,
}

impl Means {
    fn all(&self) -> f64 {
        self.window + self.root_commit + self.leaf_commit + self.network
    }
}

/// Of everything that was measured, under the names under which it is shown: the means of rounds.
#[derive(Debug, Default)]
pub(crate) struct Stages(Vec<(&'static str, Vec<Means>)>);

impl Stages {
    pub(crate) fn add(&mut self, name: &'static str, means: Means) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rounds)) => rounds.push(means),
            None => self.0.push((name, vec![means])),
        }
    }

    pub(crate) fn print(&self) {
        let mut table = Table::new([
            "means, milliseconds",
            "all",
            "window",
            "root's commit",
            "leaf's commit",
            "network",
            "window, sync, network",
            "(relay's commit)",
        ]);
        for (name, rounds) in &self.0 {
            let of = |stage: fn(&Means) -> f64| {
                rounds.iter().map(stage).sum::<f64>() / rounds.len() as f64
            };
            let (all, window, network) =
                (of(Means::all), of(|means| means.window), of(|means| means.network));
            let (root, leaf) = (of(|means| means.root_commit), of(|means| means.leaf_commit));
            let percent = |part: f64| format!("{:.0}", part / all * 100.0);
            let mut cells = vec![(*name).to_owned()];
            cells.extend([all, window, root, leaf, network].map(|ms| format!("{ms:.2}")));
            let shares = [percent(window), percent(root + leaf), percent(network)];
            cells.push(format!("{} %", shares.join(", ")));
            cells.push(format!("{:.2}", of(|means| means.relay_commit)));
            table.add(cells);
        }
        table.print("");
    }
}
