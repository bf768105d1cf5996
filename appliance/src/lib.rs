//! The rooms of the one binary. `main.rs` maps a name to a role; everything else is here, so that tests outside can walk in.
//!
//! In reading order: [`role`] (the manifest), [`init`] (PID 1), [`api`] (what roles say to each other), [`console`] (one
//! for each terminal), [`host`] (the control plane), [`lease`] (who may run a VM), [`vmm`] (one running VM), [`migrate`] (moves), and
//! what roles share: [`journal`], [`configuration`], [`datastore`], [`network`], [`boot_id`], [`boot_clock`], [`wall_clock`],
//! [`sigterm`].

pub mod api;
pub mod boot_clock;
pub mod boot_id;
pub mod configuration;
pub mod console;
pub mod datastore;
pub mod host;
pub mod init;
pub mod journal;
pub mod lease;
pub mod migrate;
pub mod network;
pub mod role;
pub mod sigterm;
pub mod vmm;
pub mod wall_clock;
