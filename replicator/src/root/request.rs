//! What a writer asks of the root, and what it is told.

use bytes::Bytes;
use quicksilver_format::Index;

/// When a SET takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetWhen {
    /// Whatever is there.
    Always,
    /// Only when the key does not exist (`NX`).
    Absent,
    /// Only when the key exists (`XX`).
    Present,
}

/// One step of a transaction. Keys and values were checked against the limits before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxOp {
    /// Give a key a value.
    Set {
        /// 1 to 511 bytes.
        key: Bytes,
        /// At most `limits.max_value_bytes`.
        value: Bytes,
        /// Condition.
        when: SetWhen,
    },
    /// Remove a key.
    Del {
        /// 1 to 511 bytes.
        key: Bytes,
    },
    /// Read a key as the steps before this one leave it.
    Get {
        /// 1 to 511 bytes.
        key: Bytes,
    },
    /// Ask for a value's length as the steps before this one leave it.
    Length {
        /// 1 to 511 bytes.
        key: Bytes,
    },
}

/// Steps that take effect together: in one batch, never across two.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// The steps, in order.
    pub ops: Vec<TxOp>,
}

impl Transaction {
    /// Whether no step of it can change anything.
    pub fn is_read_only(&self) -> bool {
        self.ops.iter().all(|op| matches!(op, TxOp::Get { .. } | TxOp::Length { .. }))
    }

    /// Bytes of keys and values it carries: what it counts for in bounded queues.
    pub fn bytes(&self) -> usize {
        const PER_OP: usize = 16;
        self.ops
            .iter()
            .map(|op| match op {
                TxOp::Set { key, value, .. } => PER_OP + key.len() + value.len(),
                TxOp::Del { key } | TxOp::Get { key } | TxOp::Length { key } => PER_OP + key.len(),
            })
            .sum()
    }
}

/// What one step did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpAnswer {
    /// The SET took effect (also when the key already had that value).
    Stored,
    /// The SET's condition did not hold.
    NotStored,
    /// Whether the DEL found its key.
    Deleted(bool),
    /// The value read, or no such key.
    Value(Option<Bytes>),
    /// The value's length, or no such key.
    Length(Option<u64>),
}

/// What a transaction did. Given only when all of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// One for each step.
    pub ops: Vec<OpAnswer>,
    /// The log's end that covers it: a node at this index or later shows its effect.
    pub index: Index,
}

/// Why a transaction was not done, or is not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The transaction can never fit in a batch.
    #[error(
        "transaction of {ops} steps and {bytes} bytes: a batch holds at most {max_ops} steps and \
         {max_bytes} bytes; split it, or raise batch.max_bytes"
    )]
    TooLarge {
        /// Steps it has.
        ops: usize,
        /// Bytes it has.
        bytes: usize,
        /// Most steps.
        max_ops: usize,
        /// Most bytes.
        max_bytes: usize,
    },
    /// What the transaction replaces or removes is too much for a batch; nothing of it was stored.
    #[error(
        "transaction of {changes} changes that replaces or deletes long values of {freed_chunks} \
         chunks: a batch holds at most {max} of both together; split it"
    )]
    FreesTooMuch {
        /// Entries it would take.
        changes: usize,
        /// Chunks of the values that are stored under its keys.
        freed_chunks: usize,
        /// Most of both together.
        max: usize,
    },
    /// What the transaction reads is too much to answer at once; nothing of it was stored.
    #[error("the transaction reads more than {max_bytes} bytes; read fewer keys at a time")]
    AnswerTooLarge {
        /// Most bytes of values in one answer.
        max_bytes: usize,
    },
    /// The storage refused; nothing of it was stored.
    #[error("not stored: {0}")]
    Storage(String),
    /// The storage failed at a moment where it is not known whether the batch is durable.
    #[error("outcome unknown: {0}; read the key back before writing it again")]
    Unknown(String),
    /// The node is leaving; nothing of it was stored.
    #[error("the node is shutting down; connect anew and send it again")]
    ShuttingDown,
}
