//! A VM is cloned: its folder on its datastore is copied into another there, under another name. It is stopped, and nobody
//! starts it meanwhile: this host holds its lease, as it would to run it, and shares the locks of its disks.
//!
//! ```text
//!   order ──> plan        which files are copied, which stay shared; is there room, is the name free
//!     │
//!     ├─────> hold        the leases of both names, the locks of the disks
//!     ├─────> carry       piece by piece into vms/.clone-NEW-<number>; Ctrl-C, the end of the host and a lost lease end it
//!     └─────> (rename)    the clone is there, whole, or nothing is
//!
//!   leftovers             what a host left that died in the middle: removed by the next clone to that name, told by host check
//! ```
//!
//! The lease of the new name keeps two hosts from making it at once, and lets who holds it remove what another left of it.

pub mod carry;
pub mod hold;
pub mod leftovers;
pub mod order;
pub mod plan;
