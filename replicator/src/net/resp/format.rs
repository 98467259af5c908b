//! QS.FORMAT: which format the node's files are in, and the order to raise it.

use crate::net::node::{FormatChanged, FormatStatus, NodeStatus};
use crate::store::{FormatAnswer, FormatRefusal};

use super::reply::Reply;

/// QS.FORMAT, as JSON.
pub(super) fn status(status: &NodeStatus) -> Reply {
    json(&FormatStatus::of(status))
}

/// QS.FORMAT FINALIZE, as JSON.
pub(super) fn answer(answer: &FormatAnswer) -> Reply {
    match answer {
        Ok(change) => json(&FormatChanged {
            finalized: change.is_change(),
            from: change.from,
            format: change.to,
        }),
        Err(refusal @ FormatRefusal::NotRaised(_)) => Reply::error(refusal),
        Err(refusal @ FormatRefusal::Unknown(_)) => Reply::Error(format!("UNKNOWN {refusal}")),
        Err(refusal @ (FormatRefusal::NoWriter | FormatRefusal::Late)) => {
            Reply::Error(format!("TRYAGAIN {refusal}"))
        }
    }
}

fn json(value: &impl serde::Serialize) -> Reply {
    match serde_json::to_string(value) {
        Ok(json) => Reply::text(json),
        Err(error) => Reply::error(error),
    }
}
