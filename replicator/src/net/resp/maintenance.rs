//! QS.COMPACT, QS.SNAPSHOT and QS.VERIFY: jobs of the maintenance, and the files that they make.
//!
//! The answer to an order is the job's number; how it goes and how it ends is in QS.STATUS.

use bytes::Bytes;

use super::command::{SYNTAX_ERROR, Verb};
use super::reply::Reply;
use crate::net::node::Node;
use crate::net::{HEAVY_BYTES, heavy};
use crate::store::maintenance::{JobKind, NotStarted, StartAnswer};

/// What is asked for.
pub(super) enum Asked {
    /// That a job is begun.
    Begin(JobKind),
    /// Which snapshots there are.
    List,
    /// That one goes.
    Remove(String),
}

/// Understands the command; `None` when it is none of these.
pub(super) fn parse(verb: Verb, rest: &[Bytes]) -> Option<Result<Asked, Reply>> {
    let syntax = || Reply::Error(SYNTAX_ERROR.to_owned());
    let asked = match verb {
        Verb::QsCompact => Ok(Asked::Begin(JobKind::Compaction)),
        Verb::QsVerify => Ok(Asked::Begin(JobKind::Verification)),
        Verb::QsSnapshot => match rest {
            [order] if order.eq_ignore_ascii_case(b"CREATE") => Ok(Asked::Begin(JobKind::Snapshot)),
            [order] if order.eq_ignore_ascii_case(b"LIST") => Ok(Asked::List),
            [order, name] if order.eq_ignore_ascii_case(b"REMOVE") => {
                String::from_utf8(name.to_vec()).map(Asked::Remove).map_err(|_| syntax())
            }
            _ => Err(syntax()),
        },
        _ => return None,
    };
    Some(asked)
}

/// Of the order to begin a job.
pub(super) fn begun(answer: StartAnswer) -> Reply {
    match answer {
        Ok(job) => Reply::count(job),
        Err(refusal @ NotStarted::Busy { .. }) => Reply::Error(format!("BUSY {refusal}")),
        Err(refusal @ NotStarted::Leaving) => Reply::Error(format!("TRYAGAIN {refusal}")),
    }
}

/// As JSON.
pub(super) fn list(node: &dyn Node) -> Reply {
    match heavy(HEAVY_BYTES, || node.snapshots()) {
        Ok(snapshots) => match serde_json::to_string(&snapshots) {
            Ok(json) => Reply::text(json),
            Err(error) => Reply::error(error),
        },
        Err(error) => Reply::error(error),
    }
}

/// Removes one.
pub(super) fn remove(node: &dyn Node, name: &str) -> Reply {
    match heavy(HEAVY_BYTES, || node.remove_snapshot(name)) {
        Ok(()) => Reply::OK,
        Err(error) => Reply::error(error),
    }
}
