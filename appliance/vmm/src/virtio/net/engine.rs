//! The thread of a NIC: waits on three queues and the tap, and moves frames in bursts.

use std::sync::Arc;

use libc::{POLLIN, POLLOUT};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_MRG_RXBUF,
};

use super::announcement::Heard;
use super::control::{self, Command};
use super::device::LinkStatus;
use super::receive::{self, Receiver};
use super::tap::{FRAME_BYTES_MAX, HEADER_BYTES, Offloads, Tap};
use super::transmit::{self, Transmitter};
use crate::virtio::chain::Chain;
use crate::virtio::device::{Engine, Queues};
use crate::virtio::queue::VirtQueue;
use crate::virtio::worker::{Control, interest, wait_for};

/// Ethernet header and a VLAN tag.
const ETHERNET_BYTES: usize = 18;
const MTU_DEFAULT: u16 = 1500;

/// Feature bits that the guest may turn off and on while it runs.
pub const GUEST_OFFLOADS: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN;

/// The working half.
#[derive(Debug)]
pub struct NetEngine {
    pub(super) tap: Arc<Tap>,
    pub(super) heard: Arc<Heard>,
    pub(super) status: Arc<LinkStatus>,
    pub(super) mtu: Option<u16>,
    pub(super) features: u64,
    /// Those of [`GUEST_OFFLOADS`] that are on.
    pub(super) offloads: u64,
    /// What waits in the tap came while the device was on its way from another host.
    pub(super) stale: bool,
}

impl NetEngine {
    fn frame_max(&self) -> usize {
        if self.offloads_on().large() {
            return FRAME_BYTES_MAX;
        }
        HEADER_BYTES + ETHERNET_BYTES + usize::from(self.mtu.unwrap_or(MTU_DEFAULT).max(MTU_DEFAULT))
    }

    fn offloads_on(&self) -> Offloads {
        let on = |bit: u32| self.offloads & 1 << bit != 0;
        Offloads {
            checksum: on(VIRTIO_NET_F_GUEST_CSUM),
            tso4: on(VIRTIO_NET_F_GUEST_TSO4),
            tso6: on(VIRTIO_NET_F_GUEST_TSO6),
            ecn: on(VIRTIO_NET_F_GUEST_ECN),
        }
    }

    fn apply_offloads(&self) -> bool {
        match self.tap.set_offloads(self.offloads_on()) {
            Ok(()) => true,
            Err(error) => {
                log::warn!("nic: {error}");
                false
            }
        }
    }

    fn execute(&mut self, command: Command, receiver: &mut Receiver) -> bool {
        match command {
            Command::AnnounceAcknowledged => self.status.acknowledge(),
            Command::SetOffloads(bits) => {
                if bits & !(self.features & GUEST_OFFLOADS) != 0 {
                    return false;
                }
                self.offloads = bits;
                receiver.set_frame_max(self.frame_max());
                return self.apply_offloads();
            }
        }
        true
    }
}

impl Engine for NetEngine {
    fn ready(&self) -> bool {
        true
    }

    fn run(&mut self, queues: &mut Queues, control: &Control) {
        self.apply_offloads();
        if std::mem::take(&mut self.stale) {
            self.tap.discard();
        }
        let mergeable = self.features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0;
        let mut traffic = Traffic {
            receiver: Receiver::new(mergeable, self.frame_max()),
            transmitter: Transmitter::default(),
            chain: Chain::default(),
            received: receive::Outcome::More,
            sent: transmit::Outcome::More,
        };
        let mut queues = queues.iter_mut();
        let mut next = || queues.next().and_then(Option::as_mut);
        let (mut rx, mut tx, mut ctrl) = (next(), next(), next());
        loop {
            if control.stopping() {
                if let Some(rx) = &mut rx {
                    traffic.receiver.release(rx);
                }
                if control.agree_to_stop() {
                    return;
                }
                traffic.received = receive::Outcome::More;
            }
            traffic.round(self, [rx.as_deref_mut(), tx.as_deref_mut(), ctrl.as_deref_mut()]);
            traffic.wait(self, control, [rx.as_deref(), tx.as_deref(), ctrl.as_deref()]);
        }
    }
}

struct Traffic {
    receiver: Receiver,
    transmitter: Transmitter,
    chain: Chain,
    received: receive::Outcome,
    sent: transmit::Outcome,
}

impl Traffic {
    /// Works on whatever is due.
    fn round(&mut self, engine: &mut NetEngine, [rx, tx, ctrl]: [Option<&mut VirtQueue>; 3]) {
        if let Some(ctrl) = ctrl {
            control::serve(ctrl, &mut self.chain, |command| engine.execute(command, &mut self.receiver));
            ctrl.notify();
        }
        let link_up = engine.status.is_up();
        if let Some(tx) = tx {
            if self.sent == transmit::Outcome::More {
                self.sent = self.transmitter.transmit(&engine.tap, &engine.heard, tx, link_up);
            }
            tx.notify();
        }
        if let Some(rx) = rx {
            if !link_up {
                self.receiver.drop_all(&engine.tap);
                self.received = receive::Outcome::Empty;
            } else if self.received == receive::Outcome::More {
                self.received = self.receive(engine, rx);
            }
            rx.notify();
        }
    }

    fn receive(&mut self, engine: &NetEngine, rx: &mut VirtQueue) -> receive::Outcome {
        rx.disable_kicks();
        match self.receiver.receive(&engine.tap, &engine.heard, rx) {
            // Buffers came between the last look and the wish to be notified: go on at once.
            receive::Outcome::NoBuffers if rx.enable_kicks() => receive::Outcome::More,
            outcome => outcome,
        }
    }

    /// Waits until something is due, and notes what.
    fn wait(&mut self, engine: &NetEngine, control: &Control, [rx, tx, ctrl]: [Option<&VirtQueue>; 3]) {
        let busy = self.sent == transmit::Outcome::More && tx.is_some()
            || self.received == receive::Outcome::More && rx.is_some();
        let tap_events = if self.received == receive::Outcome::Empty { POLLIN } else { 0 }
            | if self.sent == transmit::Outcome::Full { POLLOUT } else { 0 };
        let kick = |queue: Option<&VirtQueue>| queue.map_or(interest(-1, 0), |queue| interest(queue.kick(), POLLIN));
        let mut ready = [
            interest(control.wake_descriptor(), POLLIN),
            interest(engine.tap.descriptor(), tap_events),
            kick(rx),
            kick(tx),
            kick(ctrl),
        ];
        if busy && !control.stopping() {
            return;
        }
        wait_for(&mut ready);
        let [wake, tap, rx_kick, tx_kick, ctrl_kick] = ready.map(|ready| ready.revents);
        if wake != 0 {
            control.take_wake();
        }
        let kicked = |queue: Option<&VirtQueue>, events: i16| {
            if events != 0 {
                queue.inspect(|queue| queue.take_kick());
            }
            events != 0
        };
        kicked(ctrl, ctrl_kick);
        if kicked(tx, tx_kick) || tap & !POLLIN != 0 {
            self.sent = transmit::Outcome::More;
        }
        if kicked(rx, rx_kick) || tap & !POLLOUT != 0 {
            self.received = receive::Outcome::More;
        }
    }
}
