//! The lease of a VM: one job for each request, from the survey of its blocks to the answer.
//!
//! ```text
//!   Locate --> Survey --> (Look) --> Round: promise, accept --> Publish --> answer
//!                ^  |        |         |                           |
//!                |  `--------|---------|---- give up: one write ---'
//!                `---- Pause <-- outvoted, unreadable, not answered
//! ```
//! **Who may contend** for the epoch after the last decided one: anyone if nobody holds it, if the holder gave it up,
//! or if the holder's life is over; while the holder lives, only the holder, and who it invited as the destination of
//! a move. That a life is over is for ever (a later life has a higher generation), so a contender may be as slow as it
//! likes.
//!
//! **The commit** of a move: the destination's [`Request::Prepare`] runs phase 1 during pre-copy; its
//! [`Request::Commit`] in the stun is phase 2, one write and one read. Whoever does not know the outcome asks
//! [`Request::Resolve`], which runs the epoch at a higher ballot and so learns it or wins it. A source that goes on before it
//! handed over asks [`Request::Confirm`], which leaves the destination's phase 1 as it is.
//!
//! **A lease whose blocks are damaged** is not decided about. [`Request::Mend`] gives the VM another place in the area, whose
//! blocks are blank, by a decision of the directory, where no host can run the VM (`docs/decisions/a-damaged-lease.md`).
//!
//! In reading order: [`request`] is what is asked and answered; `judge` decides what a request comes to, from what the
//! blocks say; [`job`] is the way from the one to the other.

pub mod job;
mod judge;
pub mod request;

pub use job::{Context, Next, VmJob};
pub use request::{Answer, Holder, LeaseError, Request, Take, Taken, Vouched};
