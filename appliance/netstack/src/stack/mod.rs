//! The stack that a caller drives: `wait`, `poll`, take events, repeat.
//!
//! ```text
//!   loop {
//!       stack.wait(deadline, fds)      sleeps until a frame, a descriptor, a timer or the deadline
//!       stack.poll(now)                frames in, timers, frames out: bounded work
//!       while let Some(event) = stack.next_event() { ... recv_control, recv_record, send_control, send_record ... }
//!   }
//! ```
//!
//! In reading order: [`config`], [`event`], `ip` (smoltcp: addresses, ARP, ND, ICMP, UDP), `quic` (who listens and calls),
//! `claim` (whether another has our address, with `neighbour`: what ARP and ND say),
//! [`endpoint`] (the [`Stack`]: QUIC connections over it), `receive` and `transmit` (frames in and out), `settle` (what the
//! caller is told).

mod claim;
pub mod config;
pub mod endpoint;
pub mod event;
mod ip;
pub(crate) mod neighbour;
mod quic;
mod receive;
mod settle;
mod transmit;

pub use claim::Conflict;
pub use config::{StackConfig, StackError, TransportLimits};
pub use endpoint::Stack;
pub use event::{ConnectionId, Event};
pub use neighbour::Neighbour;
