//! The lease: who may run a VM.
//!
//! Two levels, as in sanlock. The *host lease* is a host's sign of life, one register on each datastore, however many
//! VMs it runs. The *VM lease* is an instance of Disk Paxos for each epoch of each VM; its value is the holder. A new
//! epoch may be decided when the holder gives it up or its host lease has expired. A host that cannot renew kills its
//! VMs strictly before anyone may take them.
//!
//! ```text
//!   Keeper  one per host and datastore: requests in, replies out; owns all that follows
//!     |- host_lease   this host's own life:   Looking -> Claiming -> Live -> Fencing -> Looking ...
//!     |- watch        the lives of the others, by two successful reads of an unchanged register
//!     |- directory    which place of the area belongs to which VM
//!     `- vm_lease     one job per request:    survey -> promise -> accept -> publish
//! ```
//!
//! What the storage must promise, and nothing more:
//! 1. A write that was reported as done is on the disk, and every read that starts later sees it.
//! 2. A write that failed or was not answered reaches the disk once, never, or torn, but not later than
//!    `LEASE_SETTLE_MS` after that was known.
//!
//! In reading order: [`identity`], [`sector`], [`record`], [`layout`], [`register`]: the bytes. [`watch`] and
//! [`host_lease`]: lives; [`deaths`]: who tells the storage of those that are over. [`paxos`] and its [`round`], with `patience`, the [`directory`] and its [`table`], and
//! [`vm_lease`]: decisions. [`keeper`]: all of it together.

pub mod deaths;
pub mod directory;
pub mod host_lease;
pub mod identity;
pub mod keeper;
pub mod layout;
mod patience;
pub mod paxos;
pub mod record;
pub mod register;
pub mod round;
pub mod sector;
pub mod table;
pub mod vm_lease;
pub mod watch;
