//! What the registers of a NIC show.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_ANNOUNCE, VIRTIO_NET_S_LINK_UP,
};

use super::announcement::{self, Heard};
use super::engine::{GUEST_OFFLOADS, NetEngine};
use super::state;
use super::tap::Tap;
use crate::machine::NicSpec;
use crate::state::{ChunkKind, StateError};
use crate::virtio::device::{Kind, VirtioDevice};
use crate::virtio::transport::VirtioPci;

const LINK_UP: u16 = VIRTIO_NET_S_LINK_UP as u16;
const ANNOUNCE: u16 = VIRTIO_NET_S_ANNOUNCE as u16;
const CONFIG_BYTES: usize = 12;

/// The status word of the configuration, which both halves change.
#[derive(Debug)]
pub struct LinkStatus(AtomicU16);

impl LinkStatus {
    /// Whether the link is up.
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::Acquire) & LINK_UP != 0
    }

    /// The guest has announced itself.
    pub fn acknowledge(&self) {
        self.0.fetch_and(!ANNOUNCE, Ordering::AcqRel);
    }

    pub(super) fn bits(&self) -> u16 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn restore(&self, bits: u16) {
        self.0.store(bits & (LINK_UP | ANNOUNCE), Ordering::Release);
    }

    /// Whether that changed anything.
    fn set_up(&self, up: bool) -> bool {
        let before =
            if up { self.0.fetch_or(LINK_UP, Ordering::AcqRel) } else { self.0.fetch_and(!LINK_UP, Ordering::AcqRel) };
        (before & LINK_UP != 0) != up
    }

    fn ask_to_announce(&self) {
        self.0.fetch_or(ANNOUNCE, Ordering::AcqRel);
    }
}

/// The front of a NIC.
#[derive(Debug)]
pub struct Net {
    mac: [u8; 6],
    mtu: Option<u16>,
    pub(super) status: Arc<LinkStatus>,
    active_features: u64,
    tap: Arc<Tap>,
    heard: Arc<Heard>,
}

impl Net {
    /// A NIC of this specification on a tap, its link up.
    pub fn new(spec: &NicSpec, tap: Tap) -> (Self, NetEngine) {
        let status = Arc::new(LinkStatus(AtomicU16::new(LINK_UP)));
        let (tap, heard) = (Arc::new(tap), Arc::new(Heard::new(spec.mac)));
        let engine = NetEngine {
            tap: Arc::clone(&tap),
            heard: Arc::clone(&heard),
            status: Arc::clone(&status),
            mtu: spec.mtu,
            features: 0,
            offloads: 0,
            stale: false,
        };
        (Self { mac: spec.mac, mtu: spec.mtu, status, active_features: 0, tap, heard }, engine)
    }

    fn config(&self) -> [u8; CONFIG_BYTES] {
        let mut config = [0; CONFIG_BYTES];
        config[..6].copy_from_slice(&self.mac);
        config[6..8].copy_from_slice(&self.status.bits().to_le_bytes());
        config[8..10].copy_from_slice(&1u16.to_le_bytes());
        config[10..].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        config
    }
}

impl VirtioDevice for Net {
    type Engine = NetEngine;

    const KIND: Kind = Kind {
        id: VIRTIO_ID_NET as u16,
        class: 0x02_0000,
        noun: "nic",
        chunk: ChunkKind::DEVICES_FROM + 0x11,
        version: 1,
        queue_sizes: &[256, 256, 64],
    };

    fn features(&self) -> u64 {
        let bits = [
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_HOST_ECN,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_NET_F_STATUS,
            VIRTIO_NET_F_CTRL_VQ,
            VIRTIO_NET_F_GUEST_ANNOUNCE,
        ];
        let mtu = if self.mtu.is_some() { 1 << VIRTIO_NET_F_MTU } else { 0 };
        bits.iter().fold(GUEST_OFFLOADS | mtu, |features, bit| features | 1 << bit)
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let config = self.config();
        for (at, byte) in (offset..).zip(data.iter_mut()) {
            *byte = config.get(at).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, _: usize, _: &[u8]) {}

    fn activate(&mut self, engine: &mut NetEngine, features: u64) {
        self.active_features = features;
        engine.features = features;
        engine.offloads = features & GUEST_OFFLOADS;
        // What came before the driver was there is for nobody.
        engine.tap.discard();
    }

    fn reset(&mut self, engine: &mut NetEngine) {
        self.active_features = 0;
        (engine.features, engine.offloads) = (0, 0);
        self.status.acknowledge();
    }

    fn export_state(&self, engine: &NetEngine) -> Result<Vec<u8>, StateError> {
        state::export(self, engine)
    }

    fn import_state(&mut self, engine: &mut NetEngine, bytes: &[u8]) -> Result<(), StateError> {
        state::import(self, engine, bytes)
    }
}

impl VirtioPci<Net> {
    /// Plugs the cable in or pulls it out; the guest sees it.
    pub fn set_link(&mut self, up: bool) {
        if self.front().status.set_up(up) {
            self.interrupts.config_changed();
        }
    }

    /// Tells the networks that this NIC is here now, by a frame of our own.
    ///
    /// # Errors
    /// The tap is down, or has no room.
    pub fn announce_place(&mut self) -> io::Result<()> {
        let front = self.front();
        announcement::send(&front.tap, front.mac)
    }

    /// Whether the guest's own traffic has shown the networks where it is.
    pub fn is_heard(&mut self) -> bool {
        self.front().heard.is_set()
    }

    /// Asks the guest to announce its addresses to the network, after a move (virtio 1.2, 5.1.6.5.4). False if its driver
    /// cannot: then only the host's own announcement tells the switches.
    pub fn announce(&mut self) -> bool {
        let front = self.front();
        if front.active_features & 1 << VIRTIO_NET_F_GUEST_ANNOUNCE == 0 {
            return false;
        }
        front.status.ask_to_announce();
        self.interrupts.config_changed();
        true
    }
}
