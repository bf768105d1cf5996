//! Batches out, for all connections in turn.

use std::num::NonZeroU16;
use std::time::Instant;

use super::endpoint::Stack;
use super::event::ConnectionId;
use crate::nic::Port;
use crate::stream::transport::{BATCH_BYTES, BATCH_DATAGRAMS};

/// Batches sent in one `poll`.
const BATCHES_A_POLL: usize = 64;

impl<P: Port> Stack<P> {
    /// Sends for all connections in turn until there is nothing to send, no room, or it was enough for one call.
    pub(super) fn transmit(&mut self, now: Instant) {
        self.ip.maintain(now);
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let (mut idle, mut sent) = (0, 0);
        while sent < BATCHES_A_POLL {
            let id = ids[self.next_to_send % ids.len()];
            self.next_to_send = self.next_to_send.wrapping_add(1);
            if self.transmit_one(id, now) {
                (idle, sent) = (0, sent + 1);
                continue;
            }
            idle += 1;
            if idle == ids.len() {
                return;
            }
        }
        self.more_to_do = true;
    }

    fn transmit_one(&mut self, id: ConnectionId, now: Instant) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        let Some(number) = self.ip.start_batch(connection.sender) else { return false };
        let Some(batch) = self.ip.device.batch_mut(number) else { return false };
        batch.body.clear();
        let datagram = usize::from(connection.quic.current_mtu());
        let most = BATCH_DATAGRAMS.min(BATCH_BYTES / datagram).max(1);
        let Some(transmit) = connection.quic.poll_transmit(now, most, &mut batch.body) else { return false };
        batch.segment = transmit.segment_size.and_then(|size| NonZeroU16::new(size as u16));
        let sender = connection.sender;
        self.ip.send_batch(now, sender, number, transmit.destination);
        true
    }
}
