//! The witness of migrations: a kernel that notices whatever a move did to its guest.
//!
//! It owns nearly all memory and fills each page with content that follows from seed, page and version. It rewrites pages
//! at a given rate and verifies every page for ever against the table of versions. It watches its clocks, and the longest
//! time between two looks at the TSC is the stun as the guest felt it. What it sees stands in one-line records on the
//! serial port; commands come in on the same line.
//!
//! All of it runs in ring 3, where even a KVM without VMX or SVM is native; ring 0 is a few stubs. The decisions are
//! ordinary Rust that is tested on the host; what touches the machine is compiled for `target_os = "none"` only.
//!
//! - [`boot`]: from the loader's hand-over to Rust in ring 3; what the platform says about itself.
//! - [`ring0`]: descriptors, stubs and the gate.
//! - [`virtio`]: disks and other devices.
//! - [`witness`]: the work: memory, clocks, processors, disk.
//! - [`report`]: the serial line: settings, commands, records.

#![cfg_attr(not(test), no_std)]

pub mod boot;
pub mod report;
#[cfg(target_os = "none")]
pub mod ring0;
#[cfg(target_os = "none")]
pub mod virtio;
pub mod witness;
