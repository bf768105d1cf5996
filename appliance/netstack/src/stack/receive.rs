//! Frames in: batches of datagrams to their connections, and callers that are not connections yet.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{DatagramEvent, Incoming};

use super::endpoint::Stack;
use crate::nic::Port;
use crate::stream::CloseReason;
use crate::stream::congestion::PathMeter;

/// Frames looked at in one `poll`, so that timers and the caller get their turn.
const FRAMES_A_POLL: usize = 64;
/// Connections, those included that have ended and whose packets may still be on the way (RFC 9000 section 10.2).
const REMEMBERED_MAX: usize = 256;

/// Datagrams of one frame.
pub(super) struct ReceivedBatch {
    datagrams: BytesMut,
    from: SocketAddr,
    segment: Option<NonZeroU16>,
}

impl<P: Port> Stack<P> {
    /// Returns whether frames may be left.
    pub(super) fn receive(&mut self, now: Instant) -> bool {
        for _ in 0..FRAMES_A_POLL {
            let (arena, received) = (&mut self.arena, &mut self.received);
            let any = self.ip.receive(now, |payload, from, segment| {
                arena.reserve(payload.len());
                arena.extend_from_slice(payload);
                received.push(ReceivedBatch { datagrams: arena.split(), from, segment });
            });
            while let Some(batch) = self.received.pop() {
                self.receive_batch(batch, now);
            }
            if let Some(address) = self.ip.device.take_refused() {
                self.port_is_closed(address, now);
            }
            if !any {
                return false;
            }
        }
        true
    }

    fn receive_batch(&mut self, batch: ReceivedBatch, now: Instant) {
        let mut datagrams = batch.datagrams;
        let segment = batch.segment.map_or(usize::MAX, |segment| usize::from(segment.get()));
        let mut touched = None;
        while !datagrams.is_empty() {
            let datagram = datagrams.split_to(segment.min(datagrams.len()));
            self.answer.clear();
            match self.endpoint.handle(now, batch.from, None, None, datagram, &mut self.answer) {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    let Some(id) = self.by_handle.get(&handle) else { continue };
                    if let Some(connection) = self.connections.get_mut(id) {
                        connection.quic.handle_event(event);
                        touched = Some(*id);
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) => self.incoming(incoming, now),
                Some(DatagramEvent::Response(transmit)) => {
                    let to = transmit.destination;
                    self.ip.answer(now, &self.answer[..transmit.size], to);
                }
                None => {}
            }
        }
        if let Some(connection) = touched.and_then(|id| self.connections.get_mut(&id)) {
            connection.advance(now);
        }
    }

    /// Nothing is kept for a caller that has not shown, by coming back with our token, that it is where it says; and
    /// only a few callers at a time may go through the handshake.
    fn incoming(&mut self, incoming: Incoming, now: Instant) {
        self.answer.clear();
        let from = incoming.remote_address();
        if !incoming.remote_address_validated() && incoming.may_retry() {
            if let Ok(transmit) = self.endpoint.retry(incoming, &mut self.answer) {
                self.ip.answer(now, &self.answer[..transmit.size], from);
            }
            return;
        }
        let handshaking = self.connections.values().filter(|c| c.is_handshaking() && c.expected.is_none()).count();
        let limits = &self.config.limits;
        if self.connections.len() >= REMEMBERED_MAX {
            // A friend calls again by itself; by then the strangers' remains are gone.
            self.endpoint.ignore(incoming);
            return;
        }
        if handshaking >= limits.handshakes_max || self.open_connections() >= limits.connections_max {
            let transmit = self.endpoint.refuse(incoming, &mut self.answer);
            self.ip.answer(now, &self.answer[..transmit.size], from);
            return;
        }
        let meter = Arc::new(PathMeter::default());
        let mut server = (*self.server).clone();
        server.transport_config(Arc::new(self.transport_config(&meter)));
        match self.endpoint.accept(incoming, now, &mut self.answer, Some(Arc::new(server))) {
            Ok((handle, quic)) => {
                if let Err(error) = self.add(handle, quic, from, None, meter, now) {
                    log::warn!("a connection from {from} was not taken: {error}");
                }
            }
            Err(error) => {
                log::info!("a connection from {from} was not taken: {}", error.cause);
                if let Some(transmit) = error.response {
                    self.ip.answer(now, &self.answer[..transmit.size], from);
                }
            }
        }
    }

    fn port_is_closed(&mut self, address: SocketAddr, now: Instant) {
        // ICMP is not authenticated: it only shortens the wait for a peer that has not answered at all.
        for connection in self.connections.values_mut() {
            if connection.address == address && connection.is_handshaking() && connection.expected.is_some() {
                connection.give_up(now, CloseReason::PortClosed { address });
            }
        }
    }
}
