//! What roles say to each other: typed messages on unix sockets, one moment in shared memory, and nothing else that they
//! know of one another.
//!
//! [`channel`] carries messages and descriptors; [`paths`] says where each role listens; [`vmm`] is how a VM's
//! monitor is driven; [`lease`] is the right to run a VM, [`deadline`] until when it is good without hearing more of it;
//! [`migrate`] is how VMs are moved; [`host`] is what the console asks the control plane, and [`cpu`] what that answers
//! of processors.

pub mod channel;
pub mod cpu;
pub mod deadline;
#[cfg(test)]
pub(crate) mod example;
pub mod host;
pub mod init;
pub mod lease;
pub mod migrate;
pub mod paths;
pub mod vmm;
