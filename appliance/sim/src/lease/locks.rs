//! The server's locks on the VMs' disks.

use std::collections::BTreeMap;

use protocol::time::{Duration, Instant};

/// A client of the server's locks: one boot of one host.
pub(crate) type Client = (usize, u64);

/// The server's exclusive locks, as NFSv4 has them: a client that is not heard of for the server's lease time loses its locks
/// to whoever asks, and one that another host restarts loses them at once; neither ever gets to write under them again.
#[derive(Debug)]
pub(crate) struct Locks {
    lease: Duration,
    holders: BTreeMap<usize, (Client, u64)>,
    heard: BTreeMap<Client, Instant>,
}

impl Locks {
    /// None yet, of a server with this lease time.
    pub(crate) fn new(lease: Duration) -> Self {
        Self { lease, holders: BTreeMap::new(), heard: BTreeMap::new() }
    }

    /// Gives up what the server keeps for a client; whether it kept anything.
    pub(crate) fn restart(&mut self, client: Client) -> bool {
        let kept = self.holders.len();
        self.holders.retain(|_, (holder, _)| *holder != client);
        self.holders.len() < kept
    }

    /// The client is alive and connected.
    pub(crate) fn hear(&mut self, now: Instant, client: Client) {
        self.heard.insert(client, now);
    }

    /// Takes the lock of a VM's disk for one instance of the VM; false if another holds it.
    pub(crate) fn take(&mut self, now: Instant, vm: usize, client: Client, instance: u64) -> bool {
        self.hear(now, client);
        let held_by_other = self.holders.get(&vm).is_some_and(|(holder, holding)| {
            let heard = self.heard.get(holder).copied().unwrap_or(Instant::ZERO);
            (*holder, *holding) != (client, instance) && now.since(heard) < self.lease
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
