//! The vmm role: the monitor of one VM. Everything it uses came to it as an open descriptor; it reads no path, opens no
//! connection, and its name is only for people.
//!
//! [`role`] goes under the [`filter`] of system calls and accepts connections on the socket that it was born with,
//! [`session`] serves one, [`guest`] is the machine and what sessions share of it, [`dirty_log`] whose its dirty log is, [`broadcast`] sends events and serial
//! output to whoever asked for them, [`deadline`] ends it all when the host lease does and nobody else did.

pub mod broadcast;
pub mod deadline;
pub mod dirty_log;
pub mod filter;
pub mod guest;
pub mod role;
pub mod session;
