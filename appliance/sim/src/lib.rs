//! A deterministic simulation of hosts, links, datastore and guests round the real `protocol` machines.
//!
//! One seed decides everything. [`rng`] turns the seed into choices, [`events`] orders what is going to happen, [`disk`]
//! is the lease area that the hosts share, and [`violation`] tells of a broken promise; every world is a plain loop that
//! takes the next event and handles it.
//! [`lease`] is many hosts that start, stop and move VMs, [`migration`] is two hosts and one move.
#![forbid(unsafe_code)]

pub mod disk;
pub mod events;
pub mod lease;
pub mod migration;
pub mod rng;
pub mod violation;
