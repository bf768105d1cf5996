//! The control queue (virtio 1.2, 5.1.6.5): the guest acknowledges its announcement, and turns offloads on and off.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
    VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};

use crate::virtio::chain::Chain;
use crate::virtio::queue::VirtQueue;

/// What the guest asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// It has announced itself.
    AnnounceAcknowledged,
    /// Only these offloads from now on, as feature bits.
    SetOffloads(u64),
}

/// Reads a command; None if it is one that we do not know.
pub fn parse(chain: &Chain) -> Option<Command> {
    let mut head = [0; 2];
    if !chain.readable.read(0, &mut head) {
        return None;
    }
    match (u32::from(head[0]), u32::from(head[1])) {
        (VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK) => Some(Command::AnnounceAcknowledged),
        (VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET) => {
            let mut bits = [0; 8];
            chain.readable.read(2, &mut bits).then(|| Command::SetOffloads(u64::from_le_bytes(bits)))
        }
        _ => None,
    }
}

/// Carries out all commands; `execute` says whether one was.
pub fn serve(queue: &mut VirtQueue, chain: &mut Chain, mut execute: impl FnMut(Command) -> bool) {
    loop {
        while queue.pop(chain) {
            let done = parse(chain).is_some_and(&mut execute);
            let answer = if done { VIRTIO_NET_OK } else { VIRTIO_NET_ERR } as u8;
            let written = chain.writable.write(queue.memory(), 0, &[answer]);
            queue.push_used(chain.head, u32::from(written));
        }
        if !queue.enable_kicks() {
            return;
        }
    }
}
