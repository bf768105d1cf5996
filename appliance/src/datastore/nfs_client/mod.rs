//! Who a host is to the NFS servers, and how a server learns that a host is no more.
//!
//! A server knows its clients by an owner string that each makes up, and a verifier that is another after each restart (RFC 8881,
//! 2.4: `client_owner4`). Who comes with the string of a known client and another verifier is that client after a restart, and all that
//! the server kept for it, locks, opens, delegations and sessions, is given up at once (18.35.4, "Client Restart"; 18.36.4). So a host
//! that is known to be dead need not be waited for until the server misses it: whoever takes its VMs over restarts its client.
//!
//! [`owner`] is the string, with the boot of the host in it; [`compound`] is the protocol, without I/O; [`restart`] carries it.

pub mod compound;
pub mod owner;
pub mod restart;
#[cfg(test)]
pub(crate) mod stand_in;
