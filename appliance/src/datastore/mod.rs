//! Datastores: where VMs lie. Nothing here lets a server that does not answer hold up anything but its own datastore.
//!
//! ```text
//!   Mounting ── mounted ──> Available ── no answer ──> Lost
//!      ^                        ^                        │
//!      └── stale handle ────────┴──── answers again ─────┘
//! ```
//!
//! Lost is also what left a request of anybody unanswered for its whole bound, or said nothing while this host lost its lease there; only
//! the keeper calls it available again, once it was answered.
//!
//! [`keeper`] mounts, watches and mounts again, one thread for each datastore; [`mount`] says what the kernel is asked and
//! what its refusals mean; [`bounded`] carries single file operations with a deadline; [`beneath`] keeps their paths
//! within the datastore; [`trouble`] says what its errors mean; [`store`] is what the rest of the control plane works with.
//! [`server_lease`] tells how long a server keeps the locks of a host that it does not hear of; [`nfs_client`] makes it give up those of one
//! that is dead.
//! [`copying`] copies a file piece by piece, and [`server_copy`] tells whether the server does that by itself; [`unfinished`] is a
//! folder that nobody sees before it is whole; [`parts`] are the files of a folder, its own and those that it only links to.

pub mod beneath;
pub mod bounded;
pub mod copying;
pub mod keeper;
pub mod mount;
pub mod nfs_client;
pub mod parts;
pub mod server_copy;
pub mod server_lease;
pub mod store;
pub mod trouble;
pub mod unfinished;

pub use bounded::{DatastoreError, plain};
pub use store::{Datastore, Datastores};
