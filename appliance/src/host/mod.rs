//! The host role: the control plane. It knows what is configured, what lies on the datastores and what runs here, and
//! carries commands out by asking the roles that own things.
//!
//! ```text
//!   console ──> serve ──> answers      what is known: hosts, VMs, datastores, networks (health, logs, receipts,
//!                 │                    mac_addresses, lease_view, whereabouts, processors, clashes)
//!                 │
//!                 ├─────> start        checks, host_lease, born (a monitor with its machine; host_drive)
//!                 │                    (autostart: of its own accord, after a boot)
//!                 ├─────> lifecycle    stop, kill, pause, resume
//!                 ├─────> clone        a stopped VM is copied (plan, hold, carry)
//!                 ├─────> lease_break  a lease that is to be nobody's
//!                 ├─────> departures   migrations away from here, with the migration role (engine; sent_off: nobody waits)
//!                 ├─────> ping         the path to another host is measured (peer: whether it can be)
//!                 ├─────> maintenance  no VM comes to run here any more
//!                 └─────> ending       the end of the host
//!
//!              ends       what follows when a guest, or its monitor (reap, kernel_log), ends
//!              arrivals   migrations to here
//!              announcing the networks are told of what came to run here
//!              uplinks    whether two hosts' port groups are one physical network, tried on the wire
//!              settling   who runs a VM after its move lost its engine or its control plane
//!              undecided  what stands still, because its lease does not tell whose it is
//!              disk_locks those that hosts which died left on their server
//!              dead_hosts the server is told of them as soon as they are dead
//!              taken_away what runs here and came to be another host's
//! ```
//!
//! [`control_plane`] holds the state that they share; [`vms`] is who may work on which VM ([`running`]), [`moves`] are the
//! migrations, [`owed`] the leases that are still to be given up; [`caller`] is who waits for a command; [`record`] is what
//! a restarted control plane finds of the VMs that went on running, and [`adoption`] takes them up; [`discovery`] is how
//! hosts find each other, and [`load`] how busy they are; [`news`] is what happened by itself, for the consoles ([`fallen_roles`] among it); [`role`] starts
//! all of it.

pub mod adoption;
pub mod announcing;
pub mod answers;
pub mod arrivals;
pub mod autostart;
pub mod born;
pub mod caller;
pub mod checks;
pub mod clashes;
pub mod clone;
pub mod control_plane;
pub mod cpu;
pub mod dead_hosts;
pub mod departures;
pub mod discovery;
pub mod disk_locks;
pub mod ending;
pub mod ends;
pub mod engine;
pub mod facts;
pub mod fallen_roles;
pub mod health;
pub mod host_drive;
pub mod host_lease;
pub mod kernel_log;
pub mod lease_break;
pub mod lease_view;
pub mod leases;
pub mod lifecycle;
pub mod load;
pub mod located;
pub mod logs;
pub mod mac_addresses;
pub mod maintenance;
pub mod monitor;
pub mod moves;
pub mod news;
pub mod owed;
pub mod peer;
pub mod ping;
pub mod pinned;
pub mod processors;
pub mod reap;
pub mod receipts;
pub mod record;
pub mod role;
pub mod running;
pub mod sent_off;
pub mod serve;
pub mod settling;
pub mod start;
pub mod taken_away;
pub mod undecided;
mod unfollowed;
pub mod uplinks;
pub mod vms;
pub mod whereabouts;
