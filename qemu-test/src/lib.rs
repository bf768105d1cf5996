//! The lab: boots real Godwit images in QEMU on this machine, drives their consoles, and breaks things on purpose.
//!
//! Reading order: `home` (where things lie), `setup` (what the machine must have), `image` (what a host boots), `wire`
//! (the networks between hosts; `tagged`: that of a VLAN), `debian` (a small one for machines that are no hosts),
//! `servers` (datastores), `guests` (what runs in VMs), `machine` (a host in QEMU), `console` (its serial line;
//! `line_owner`: whose that is; `socket`: what one talks over), `fleet` (all of it, kept up; `datastore_wait`: until it can be used), `verbs` (what a person types), `tests` (what is
//! promised), `bench` (what is measured).

pub mod bench;
pub mod child;
pub mod console;
pub mod datastore_wait;
pub mod debian;
pub mod error;
pub mod fleet;
pub mod frames;
pub mod guests;
pub mod held_frames;
pub mod home;
pub mod image;
pub mod line_owner;
pub mod machine;
pub mod privilege;
pub mod process;
pub mod servers;
pub mod setup;
pub mod socket;
pub mod stamp;
pub mod tagged;
pub mod terminal;
pub mod tests;
pub mod verbs;
pub mod wait;
pub mod wire;
