//! From the answers of a transaction's steps to the reply of the command it came from.

use bytes::Bytes;

use super::reply::Reply;
use crate::net::node::ReadError;
use crate::root::request::{OpAnswer, WriteError};

/// What a command makes of the answers to its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// GET.
    Value,
    /// MGET.
    Values,
    /// STRLEN: 0 for a missing key.
    Length,
    /// TYPE.
    Type,
    /// TTL: −1 for a key, −2 for none.
    Ttl,
    /// EXISTS.
    CountPresent,
    /// DEL.
    CountDeleted,
    /// SET: OK or nil.
    Stored,
    /// SETNX: 1 or 0.
    StoredFlag,
    /// MSET: OK.
    Done,
    /// EXEC: the queued commands, each with the number of its steps.
    Exec(Vec<(Shape, usize)>),
}

impl Shape {
    /// The reply. There is one answer for each step; fewer is an error of the node's, and said.
    pub(super) fn reply(&self, answers: &[OpAnswer]) -> Reply {
        match (self, answers) {
            (Shape::Value, [OpAnswer::Value(value)]) => value_reply(value),
            (Shape::Values, answers) => Reply::Array(
                answers
                    .iter()
                    .map(|answer| match answer {
                        OpAnswer::Value(value) => value_reply(value),
                        _ => mismatch(),
                    })
                    .collect(),
            ),
            (Shape::Length, [OpAnswer::Length(length)]) => Reply::count(length.unwrap_or(0)),
            (Shape::Type, [OpAnswer::Length(length)]) => {
                Reply::Simple(if length.is_some() { "string" } else { "none" })
            }
            (Shape::Ttl, [OpAnswer::Length(length)]) => {
                Reply::Integer(if length.is_some() { -1 } else { -2 })
            }
            (Shape::CountPresent, answers) => {
                Reply::count(count(answers, |a| matches!(a, OpAnswer::Length(Some(_)))))
            }
            (Shape::CountDeleted, answers) => {
                Reply::count(count(answers, |a| *a == OpAnswer::Deleted(true)))
            }
            (Shape::Stored, [OpAnswer::Stored]) => Reply::OK,
            (Shape::Stored, [OpAnswer::NotStored]) => Reply::Nil,
            (Shape::StoredFlag, [OpAnswer::Stored]) => Reply::Integer(1),
            (Shape::StoredFlag, [OpAnswer::NotStored]) => Reply::Integer(0),
            (Shape::Done, _) => Reply::OK,
            (Shape::Exec(commands), answers) => exec_reply(commands, answers),
            _ => mismatch(),
        }
    }
}

fn exec_reply(commands: &[(Shape, usize)], mut answers: &[OpAnswer]) -> Reply {
    let mut replies = Vec::with_capacity(commands.len());
    for (shape, ops) in commands {
        let (own, rest) = answers.split_at(answers.len().min(*ops));
        answers = rest;
        replies.push(shape.reply(own));
    }
    Reply::Array(replies)
}

fn value_reply(value: &Option<Bytes>) -> Reply {
    value.as_ref().map_or(Reply::Nil, |value| Reply::Bulk(value.clone()))
}

fn count(answers: &[OpAnswer], counts: fn(&OpAnswer) -> bool) -> usize {
    answers.iter().filter(|answer| counts(answer)).count()
}

fn mismatch() -> Reply {
    Reply::error("internal error: the answer does not fit the question; report it")
}

/// The reply to a transaction that was not done, or is not known to be.
pub(super) fn write_error(error: &WriteError) -> Reply {
    match error {
        WriteError::TooLarge { .. }
        | WriteError::FreesTooMuch { .. }
        | WriteError::AnswerTooLarge { .. }
        | WriteError::Storage(_) => Reply::error(error),
        WriteError::Unknown(_) => Reply::Error(format!("UNKNOWN {error}")),
        WriteError::ShuttingDown => Reply::Error(format!("TRYAGAIN {error}")),
    }
}

/// The reply to a read that could not be answered.
pub(super) fn read_error(error: &ReadError) -> Reply {
    if error.corrupt { Reply::Error(format!("CORRUPT {error}")) } else { Reply::error(error) }
}
