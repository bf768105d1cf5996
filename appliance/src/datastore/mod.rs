//! Datastores: where VMs lie. Nothing here lets a server that does not answer hold up anything but its own datastore.
//!
//! ```text
//!   Mounting ── mounted ──> Available ── no answer ──> Lost
//!      ^                        ^                        │
//!      └── stale handle ────────┴──── answers again ─────┘
//! ```
//!
//! [`keeper`] mounts, watches and mounts again, one thread for each datastore; [`mount`] says what the kernel is asked and
//! what its refusals mean; [`bounded`] carries single file operations with a deadline; [`beneath`] keeps their paths
//! within the datastore; [`trouble`] says what its errors mean; [`store`] is what the rest of the control plane works with.

pub mod beneath;
pub mod bounded;
pub mod keeper;
pub mod mount;
pub mod store;
pub mod trouble;

pub use bounded::{DatastoreError, plain};
pub use store::{Datastore, Datastores};
