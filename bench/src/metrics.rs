//! What a replicator counts about itself.

use std::time::Duration;

use quicksilver_tests::cluster::Node;
use quicksilver_tests::poll;

use crate::Result;

/// For a node to have counted what it has just done.
const SOON: Duration = Duration::from_secs(5);

/// The value of a metric that a node has once.
pub fn value(node: &Node, name: &str) -> Result<f64> {
    // What is counted is there before it is counted.
    let value = poll(SOON, || find(&node.get("/metrics").body, name));
    value.ok_or_else(|| format!("no metric {name}").into())
}

fn find(metrics: &str, name: &str) -> Option<f64> {
    let mut values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next())?
    });
    values.next()?.parse().ok()
}

/// How many commits a node has made since its start, and how many seconds they took.
pub fn commits(node: &Node) -> Result<(f64, f64)> {
    const NAME: &str = "quicksilver_commit_duration_seconds";
    Ok((value(node, &format!("{NAME}_count"))?, value(node, &format!("{NAME}_sum"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# HELP a_b c\na_bc{db=\"x\"} 7\na_b{db=\"y z\"} 0.5\n";
        assert_eq!(find(text, "a_b"), Some(0.5));
        assert_eq!(find(text, "a_bc"), Some(7.0));
        assert_eq!(find(text, "a"), None);
    }
}
