//! What the console asks the control plane, and what it answers: [`request`] and [`answer`], then what answers show, by subject.

mod answer;
mod datastores;
mod hosts;
mod leases;
mod network;
mod request;
mod vms;

pub use answer::{Check, ConfigDetail, HostAnswer, LogLine, Names, NewsItem};
pub use datastores::{DatastoreDetail, DatastoreRow};
pub use hosts::{HostDetail, HostRow, HostSeen, HostState};
pub use leases::{HeldLease, HolderLife, LeaseDetail, LeaseHolder, LeaseRow, LeaseState, RunsHere};
pub use network::{MigrationNeighbour, MigrationNicDetail, MigrationPeer, NicRow, PingDetail, PortGroupRow};
pub use request::HostRequest;
pub use vms::{CloneDetail, ClonedFile, CopiedBy, Flaw, MigrationRow, VmDetail, VmHolder, VmRow, VmState};
