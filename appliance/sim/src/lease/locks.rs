//! The server's locks on the VMs' disks.

use std::collections::BTreeMap;

use protocol::time::{Duration, Instant};

/// How long the server keeps the locks of a client that it does not hear of: less than the expiry of a host lease, so that a VM may start
/// elsewhere at once.
pub(crate) const SERVER_LEASE: Duration = Duration::from_secs(11);

/// A client of the server's locks: one boot of one host.
pub(crate) type Client = (usize, u64);

/// The server's exclusive locks, as NFSv4 has them: a client that is not heard of for [`SERVER_LEASE`] loses its locks
/// to whoever asks, and never gets to write under them again.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    holders: BTreeMap<usize, (Client, u64)>,
    heard: BTreeMap<Client, Instant>,
}

impl Locks {
    /// The client is alive and connected.
    pub(crate) fn hear(&mut self, now: Instant, client: Client) {
        self.heard.insert(client, now);
    }

    /// Takes the lock of a VM's disk for one instance of the VM; false if another holds it.
    pub(crate) fn take(&mut self, now: Instant, vm: usize, client: Client, instance: u64) -> bool {
        self.hear(now, client);
        let held_by_other = self.holders.get(&vm).is_some_and(|(holder, holding)| {
            let heard = self.heard.get(holder).copied().unwrap_or(Instant::ZERO);
            (*holder, *holding) != (client, instance) && now.since(heard) < SERVER_LEASE
        });
        if !held_by_other {
            self.holders.insert(vm, (client, instance));
        }
        !held_by_other
    }

    /// The instance is gone in order, or its process died and its descriptors were closed.
    pub(crate) fn release(&mut self, vm: usize, client: Client, instance: u64) {
        if self.holders.get(&vm) == Some(&(client, instance)) {
            self.holders.remove(&vm);
        }
    }

    /// Whether a write under this instance's lock is accepted.
    pub(crate) fn accepts(&self, vm: usize, client: Client, instance: u64) -> bool {
        self.holders.get(&vm) == Some(&(client, instance))
    }
}
