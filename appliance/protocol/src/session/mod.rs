//! What both sides of a migration do alike: agree on a version, cut the control stream into messages, know that the
//! other one lives, and keep their timers.
//!
//! [`versions`] are ranges and what two of them share; [`timers`] holds deadlines with their reasons;
//! [`conversation`] is the control stream with its version and its signs of life; [`lease`] is what a migration asks
//! of the lease and what comes back; [`clock_reading`] is what the guest's clock should show; [`draft`] is a receipt in the making, [`phase_name`] what the phases are called, and
//! [`outcome`] how it ends.

pub mod clock_reading;
pub mod conversation;
pub mod draft;
pub mod lease;
pub mod outcome;
pub mod phase_name;
pub mod timers;
pub mod versions;

pub use clock_reading::ClockReading;
pub use conversation::Conversation;
pub use draft::Draft;
pub use lease::{LeaseAnswer, LeaseAsk, RightToRun};
pub use outcome::{Outcome, VmNow};
pub use phase_name::PhaseName;
pub use timers::Timers;
pub use versions::Versions;
