//! Migration and lease as state machines that do no I/O.
//!
//! Each machine takes inputs (`handle_input(now, ..)`, `handle_timeout(now)`) and answers with effects, which are
//! data that somebody else carries out (`poll_effect()`), and with the moment at which it wants to be woken
//! (`poll_timeout()`). It has no clock, no thread, no socket and no randomness: [`time`] and random values come in
//! as arguments, so a simulation can drive the very same code.
#![forbid(unsafe_code)]

pub mod checks;
pub mod convergence;
pub mod destination;
pub mod forecast;
pub mod lease;
pub mod pages;
pub mod ping;
pub mod session;
pub mod slots;
pub mod source;
pub mod time;
pub mod uplink_probe;
pub mod verify;
pub mod wire;
