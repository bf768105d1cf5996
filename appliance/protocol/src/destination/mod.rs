//! The destination's side of a migration: the host that the VM comes to.
//!
//! ```text
//! Greeting -> Examining -> Answered -> Reserving -> Receiving -> Verifying -> Committing -> Taking -> Settling
//!     |           |           |            |            |            |            |            |          |
//!     |           |           |            v discard    v discard    v discard    | lost       | cannot   |
//!     |           |           |          Discarding <---+------------+------------+ the epoch  | start    |
//!     v           v           v            v                                                   v          v
//!     +-----------+-----------+--------> Finished <-----------------------------------------------------+
//! ```
//! Up to [`Verifying`] the destination may end the migration by itself: nothing of it runs, and the source has its
//! right. In [`Committing`] phase 2 of the lease's next epoch may have begun: only the lease ends that phase, and where it
//! is damaged and will never tell, the machine finishes with the VM as it stands ([`crate::session::VmNow::Undecided`]). Once it
//! is won ([`Taking`]) the VM belongs here, whatever the source says or does not say any more.
//!
//! ```
//! use protocol::destination::{Context, Discarding, Ending, Receiving, Verifying};
//! fn give_up_while_receiving(phase: Receiving, context: &mut Context, ending: Ending) -> Discarding {
//!     phase.discard(context, ending)
//! }
//! fn give_up_before_the_commit(phase: Verifying, context: &mut Context, ending: Ending) -> Discarding {
//!     phase.discard(context, ending)
//! }
//! ```
//! ```compile_fail
//! use protocol::destination::{Committing, Context, Discarding, Ending};
//! fn give_up_in_the_commit(phase: Committing, context: &mut Context, ending: Ending) -> Discarding {
//!     phase.discard(context, ending)
//! }
//! ```
//! ```compile_fail
//! use protocol::destination::{Context, Discarding, Ending, Taking};
//! fn give_up_after(phase: Taking, context: &mut Context, ending: Ending) -> Discarding {
//!     phase.discard(context, ending)
//! }
//! ```
//!
//! In reading order: [`effect`] is what the machine wants done and what it is told; [`machine`] is the machine, with
//! the order of calls; [`context`] is what all phases share; then the phases.

pub mod answered;
pub mod audit;
pub mod committing;
pub mod context;
pub mod discarding;
pub mod effect;
pub mod examining;
pub mod finished;
pub mod greeting;
pub mod machine;
mod phase_one;
pub mod receiving;
pub mod reserving;
pub mod settling;
pub mod taking;
pub mod verifying;

pub use answered::Answered;
pub use committing::Committing;
pub use context::{Context, Ending, Welcome};
pub use discarding::Discarding;
pub use effect::{Effect, Input, PagesStored, Progress, Timer};
pub use examining::Examining;
pub use finished::Finished;
pub use greeting::Greeting;
pub use machine::{Destination, Phase};
pub use receiving::Receiving;
pub use reserving::Reserving;
pub use settling::Settling;
pub use taking::Taking;
pub use verifying::Verifying;
