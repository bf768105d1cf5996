//! The lease role: carries out what `protocol::lease` decides. Nothing else in the system can hold it up: each datastore
//! has threads of its own, and each of them waits for nothing but its own storage.
//!
//! ```text
//!   host, migrate ──> serve ──> datastore (one keeper each) ──> lanes (one thread each) ──> the lease area
//!                                   └──> guard: kills the monitors when the host lease is lost
//! ```
//!
//! [`role`] listens, [`serve`] turns messages into requests of a keeper, [`datastore`] runs a keeper, [`lane`] does its
//! I/O, [`area`] opens or makes the lease area, [`guard`] knows which processes to kill, [`cut`] ends what they have in
//! flight, [`reconnect`] helps the client of a server that can be reached again ([`nfs_mount`] tells both which one that is),
//! [`memory`] is what one process of this role leaves to the next, [`watchdog`] resets the host if none comes.

pub mod area;
pub mod cut;
pub mod datastore;
pub mod guard;
pub mod lane;
pub mod memory;
pub mod nfs_mount;
pub mod reconnect;
pub mod role;
pub mod serve;
pub mod watchdog;
