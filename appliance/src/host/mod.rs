//! The host role: the control plane. It knows what is configured, what lies on the datastores and what runs here, and
//! carries commands out by asking the roles that own things.
//!
//! ```text
//!   console ──> serve ──> answers      what is known: hosts, VMs, datastores, networks
//!                 │
//!                 ├─────> lifecycle    start, stop, kill, pause, resume; what follows when a guest ends
//!                 │          │
//!                 │       located (a VM on its datastore), checks, monitor (its process), leases
//!                 │
//!                 ├─────> moves        migrations away from here, with the migration role (engine)
//!                 └─────> arrivals     migrations to here
//! ```
//!
//! [`control_plane`] holds the state that they share; [`vms`] is who may work on which VM; [`record`] is what a restarted
//! control plane finds of the VMs that went on running; [`discovery`] is how hosts find each other; [`role`] starts all
//! of it.

pub mod answers;
pub mod arrivals;
pub mod checks;
pub mod control_plane;
pub mod cpu;
pub mod discovery;
pub mod engine;
pub mod facts;
pub mod leases;
pub mod lifecycle;
pub mod located;
pub mod monitor;
pub mod moves;
pub mod record;
pub mod role;
pub mod serve;
pub mod vms;
