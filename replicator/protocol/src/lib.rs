//! Quicksilver's replication protocol, without sockets, storage or clocks.
//!
//! Everything here is sans-IO: a state machine takes events and the time, and returns actions;
//! whoever owns the sockets, the disk and the timers carries them out. That is what lets one test
//! process run thousands of seeded schedules of cuts, delays and restarts.
//!
//! * [`window`]: when the root may seal its next batch.
//! * [`frame`]: how bytes become frames. [`message`]: what frames say.
//! * [`follower`]: the downstream end of a session; refuses everything that is not the next batch
//!   of its own log; [`end`]: why a session ended, and what follows. [`source`]: the upstream end.
//! * [`recent`]: the recent part of the stream in memory, which makes cut-through possible.
//! * [`transfer`]: fetching a snapshot, both ends.
//! * [`choice`]: which upstream to try next, and when. [`tenure`]: whether to stay with it.
//! * [`deadlines`]: every timeout of a session, in one place.
//!
//! `docs/PROTOCOL.md` draws the bytes and the state machines.
#![forbid(unsafe_code)]

pub mod choice;
pub mod clock;
pub mod deadlines;
pub mod end;
pub mod follower;
pub mod frame;
pub mod message;
pub mod recent;
pub mod source;
pub mod tenure;
pub mod transfer;
pub mod window;
mod wire;

#[cfg(test)]
extern crate self as quicksilver_protocol;
#[cfg(test)]
#[path = "../tests/model/mod.rs"]
mod model;

pub use choice::{Chooser, Next, UpstreamSlot};
pub use clock::Millis;
pub use deadlines::Deadlines;
pub use end::{Decision, EndCause, SessionEnd};
pub use follower::{FollowerAction, FollowerSession};
pub use frame::{Decoded, Decoder, EncodedFrame, Frame, FrameError, Kind};
pub use message::{
    ByeReason, Fetch, Hello, Hop, Lineage, LocalNode, Message, Offer, Quota, Refusal, Refused,
    Start, VersionRange, Wanted, Welcome,
};
pub use recent::{FeedLimits, Recent};
pub use source::{BatchFrame, LogFact, SourceAction, SourceEnd, SourceSession, SourceState};
pub use tenure::Tenure;
pub use transfer::{
    FetchAction, FetchEnd, FetchSession, OfferAction, OfferSession, Offered, Partial,
};
pub use window::Window;
