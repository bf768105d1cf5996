//! The migrate role: owns the migration NIC and moves VMs.
//!
//! ```text
//!   host role ---- api::migrate ----+
//!   monitor (vmm) -- api::vmm ----- engine ---- protocol::source / protocol::destination (decide everything)
//!   lease role ---- api::lease -----+    |
//!                                        +---- netstack: records and control messages over QUIC
//! ```
//! Nothing here decides: effects of the machines are carried out, and what happens is told to them. One thread drives
//! it all; a second one hashes memory for the audit, so that no hash ever delays a packet, and a third one stores what arrives while more is received.
//!
//! In reading order: [`role`] is the process; [`engine`] its loop; [`desk`] what a move needs of it; [`outgoing`]
//! carries out what a source wants, [`incoming`] what a destination wants, [`ping`] what a measurement without a VM wants ([`measured`] is what a
//! probe of the path found); [`progress`] is what is told of it meanwhile; [`records`] reads pages into records and
//! writes records into pages, on [`memory`], and [`compression`] says which are worth compressing, [`pace`] how fast they leave; [`dirty_pages`] is
//! the dirty log as it is shared with a monitor; [`monitor`], [`lease`] and [`host_link`] are the conversations with the
//! other roles; [`hasher`] is the second thread and [`storer`] the third; [`clock`], [`key`] and [`defect`] are what they say.

pub mod clock;
pub mod compression;
pub mod defect;
pub mod desk;
pub mod dirty_pages;
pub mod engine;
pub mod forecast;
pub mod hasher;
pub mod host_link;
pub mod incoming;
pub mod key;
pub mod lease;
pub mod measured;
pub mod memory;
pub mod monitor;
pub mod outgoing;
pub mod pace;
pub mod ping;
pub mod progress;
pub mod records;
pub mod role;
pub mod storer;
