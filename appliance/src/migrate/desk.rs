//! What a move needs of the process around it.

use std::net::SocketAddr;
use std::time::Instant;

use netstack::{Nic, PublicKey, Stack};
use protocol::checks::facts::NicFacts;
use protocol::slots::Slots;

use super::clock::Clock;
use super::hasher::Hasher;
use super::host_link::HostLink;
use super::storer::Storer;
use crate::api::migrate::{FromMigrate, Peer};
use crate::api::paths::RunDir;

/// What every move needs.
#[derive(Debug)]
pub struct Desk<'a> {
    /// The time.
    pub clock: Clock,
    /// The sockets of other roles.
    pub run_dir: &'a RunDir,
    /// The thread that hashes.
    pub hasher: &'a Hasher,
    /// The thread that stores.
    pub storer: &'a Storer,
    /// The control plane.
    pub host: &'a mut HostLink,
    /// How many moves go on.
    pub slots: &'a mut Slots,
}

impl Desk<'_> {
    /// Tells the control plane. If it is away, only the end of a move is kept for it.
    pub fn tell(&mut self, message: FromMigrate) {
        self.host.tell(message);
    }
}

/// The wire, where there is one.
pub struct Wire<'a> {
    /// The stack.
    pub stack: &'a mut Stack<Nic>,
}

impl Wire<'_> {
    /// The migration NIC, for the checks.
    pub fn nic(&self) -> NicFacts {
        let link = self.stack.link();
        NicFacts { speed_mbits: link.speed_mbit, full_duplex: link.full_duplex, mtu: self.stack.mtu() }
    }

    /// Why nothing comes from the peer, where it counts as silent from `lost_at` on, which is over at `at`, and that is the fault of this host's own link.
    /// (Whatever else is due then: who looked at the earliest deadline alone would call the peer silent where a keepalive was due as well.)
    pub fn own_silence(
        &self,
        now: Instant,
        at: protocol::time::Instant,
        lost_at: Option<protocol::time::Instant>,
    ) -> Option<String> {
        lost_at.filter(|lost_at| *lost_at <= at)?;
        self.stack.silence(now).map(|reason| reason.to_string())
    }
}

/// A peer's key: the raw 32 bytes.
pub fn key_of(peer: &Peer) -> Option<PublicKey> {
    <[u8; 32]>::try_from(&peer.public_key[..]).ok().map(PublicKey::from_bytes)
}

/// Where a peer's stack is.
pub fn address_of(peer: &Peer) -> SocketAddr {
    SocketAddr::new(peer.address, peer.port)
}
