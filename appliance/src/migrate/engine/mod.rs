//! The loop: waits for the wire, the control plane, the monitors, the lease role and the clock, and hands what happens
//! to the moves that it concerns.
//!
//! In reading order: [`turn`] is the loop with all that it owns; [`control_plane`] is what the control plane says;
//! [`queue`] are the moves away, of which so many go on at once as there are slots; [`pings`] are measurements of
//! paths; [`events`] is what happens on the wire; [`nic`] brings the stack up and shows it, [`news`] tells what happens to it by itself.

pub mod control_plane;
pub mod events;
pub mod news;
pub mod nic;
pub mod pings;
pub mod queue;
pub mod turn;

pub use turn::Engine;
