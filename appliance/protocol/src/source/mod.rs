//! The source's side of a migration: the host that the VM runs on.
//!
//! ```text
//! Greeting -> Probing -> Offered -> Reserving -> Precopy <-> Stunned -> HandedOver --+--> Committed -> Finished
//!     |          |          |           |           |           |           |        |        ^
//!     |          |          |           |           | abort     | abort     v        |        | lost: the destination
//!     |          |          |           |           |           |        Deciding ---+--------+ holds the epoch
//!     |          |          |           |           v           v           | won the epoch
//!     |          |          |           |         Running <-----------------+
//!     |          |          |           |           v
//!     +----------+----------+-----------+------> Finished
//! ```
//! Up to [`Stunned`] the source has never given up its right to run the VM, so it may end the migration by itself.
//! With [`HandedOver`] it has said "stopped; I resume only if I win this epoch myself": from there on only the lease
//! decides, and who does not know its decision ([`Deciding`]) asks it, for as long as it takes, with the VM stopped. Where
//! the lease is damaged and will never tell, the machine finishes with the VM as it stands ([`crate::session::VmNow::Undecided`]).
//! [`Committed`] has no way back at all.
//!
//! Where only the checks are wanted, [`Sampling`] comes after [`Offered`] and is the last.
//!
//! [`Precopy`] and [`Stunned`] can be aborted, and the VM runs on:
//! ```
//! use protocol::source::{Context, Ending, Precopy, Running, Stunned};
//! fn give_up_before(phase: Precopy, context: &mut Context, ending: Ending) -> Running {
//!     phase.abort(context, ending)
//! }
//! fn give_up_in_the_stun(phase: Stunned, context: &mut Context, ending: Ending) -> Running {
//!     phase.abort(context, ending)
//! }
//! ```
//! What was handed over cannot:
//! ```compile_fail
//! use protocol::source::{Context, Ending, HandedOver, Running};
//! fn give_up_after(phase: HandedOver, context: &mut Context, ending: Ending) -> Running {
//!     phase.abort(context, ending)
//! }
//! ```
//! ```compile_fail
//! use protocol::source::{Committed, Context, Ending, Running};
//! fn give_up_after(phase: Committed, context: &mut Context, ending: Ending) -> Running {
//!     phase.abort(context, ending)
//! }
//! ```
//! And [`Deciding`] resumes only with what the lease gave:
//! ```
//! use protocol::session::RightToRun;
//! use protocol::source::{Context, Deciding, Running};
//! fn resume(phase: Deciding, context: &mut Context, right: RightToRun) -> Running {
//!     phase.resume(context, right)
//! }
//! ```
//! ```compile_fail
//! use protocol::source::{Context, Deciding, Running};
//! fn resume(phase: Deciding, context: &mut Context) -> Running {
//!     phase.resume(context)
//! }
//! ```
//!
//! In reading order: [`effect`] is what the machine wants done and what it is told; [`machine`] is the machine, with
//! the order of calls; [`context`] is what all phases share; [`pump`] keeps pages flowing; [`stun`] is what the receipt
//! tells of the stun; then the phases.

pub mod committed;
pub mod context;
pub mod deciding;
pub mod effect;
pub mod finished;
pub mod greeting;
pub mod handed_over;
pub mod machine;
pub mod offered;
pub mod precopy;
pub mod probing;
pub mod pump;
pub mod reserving;
pub mod running;
mod sampler;
pub mod sampling;
pub mod stun;
pub mod stunned;

pub use committed::Committed;
pub use context::{Context, Ending, Plan};
pub use deciding::Deciding;
pub use effect::{Batch, Effect, Input, PagesSent, Progress, Stopped, Timer};
pub use finished::Finished;
pub use greeting::Greeting;
pub use handed_over::HandedOver;
pub use machine::{Phase, Source};
pub use offered::Offered;
pub use precopy::Precopy;
pub use probing::Probing;
pub use reserving::Reserving;
pub use running::Running;
pub use sampling::Sampling;
pub use stun::Stun;
pub use stunned::Stunned;
