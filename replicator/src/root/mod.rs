//! What only the root does.
//!
//! [`request`] is what a writer asks for and is answered; [`queue`] is the bounded way in;
//! [`seal`] decides requests once and for all; [`sequencer`] does so once a window;
//! [`finalize`] makes the sealed batch final.

pub mod finalize;
pub mod queue;
pub mod request;
pub mod seal;
pub mod sequencer;
