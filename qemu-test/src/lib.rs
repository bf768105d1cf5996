//! The lab: boots real Godwit images in QEMU on this machine, drives their consoles, and breaks things on purpose.
//!
//! Reading order: `home` (where things lie), `setup` (what the machine must have), `image` (what a host boots), `wire`
//! (the networks between hosts), `servers` (datastores), `guests` (what runs in VMs), `machine` (a host in QEMU),
//! `console` (its serial line), `fleet` (all of it, kept up), `verbs` (what a person types), `tests`.

pub mod child;
pub mod error;
pub mod home;
pub mod image;
pub mod setup;
pub mod stamp;
pub mod verbs;
pub mod wait;
