//! A deterministic simulation of hosts, links, datastore and guests round the real `protocol` machines.
//!
//! One seed decides everything. [`rng`] turns the seed into choices, [`events`] orders what is going to happen;
//! every world is a plain loop that takes the next event and handles it. [`migration`] is two hosts and one move.
#![forbid(unsafe_code)]

pub mod events;
pub mod lease;
pub mod migration;
pub mod rng;
