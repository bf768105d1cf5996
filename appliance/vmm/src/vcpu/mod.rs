//! Virtual CPUs: each is a thread round KVM_RUN that can be parked, taken apart into bytes, and slowed.
//!
//! ```text
//!                 run                       a signal, or an end of the guest
//!   Parked ----------------> Running ------------------------------------+
//!     ^                                                                  |
//!     +---- acknowledged ---- finishes the I/O that is under way <-------+
//! ```
//!
//! In reading order: who asks a thread to run or park and hears that it did ([`control`]), the thread ([`thread`]), what it
//! does when KVM hands the guest back ([`exits`]), how it is slowed ([`throttle`]) and which are ([`dirtying`],
//! by [`faults`]), and its state as data ([`state`], [`msrs`]).

pub(crate) mod control;
pub(crate) mod dirtying;
pub(crate) mod exits;
pub(crate) mod faults;
pub mod msrs;
pub mod state;
pub(crate) mod thread;
pub mod throttle;

pub(crate) use thread::Vcpu;
