//! What the caller is told: of connections, and of the link.

use std::time::{Duration, Instant};

use super::endpoint::Stack;
use super::event::{ConnectionId, Event};
use crate::nic::{LinkState, Port};
use crate::stream::CloseReason;
use crate::stream::close::{Circumstances, explain};
use crate::stream::connection::{Connection, Notice};

/// Between two looks at the link.
pub(super) const LINK_CHECK_INTERVAL: Duration = Duration::from_millis(100);

impl<P: Port> Stack<P> {
    pub(super) fn check_link(&mut self, now: Instant) {
        if now.saturating_duration_since(self.link_checked) < LINK_CHECK_INTERVAL {
            return;
        }
        self.link_checked = now;
        let link = self.ip.device.port.link();
        if !self.is_gone && self.ip.device.port.is_gone() {
            self.is_gone = true;
            self.events.push_back(Event::Gone);
        }
        self.link_is(link, now);
    }

    pub(super) fn link_is(&mut self, link: LinkState, now: Instant) {
        match (self.link.up, link.up) {
            (true, false) => self.link_down_at = Some(now),
            // What was sent meanwhile is lost, and the timers that would find that out have grown.
            (false, true) => self.connections.values_mut().for_each(Connection::try_again),
            _ => {}
        }
        if link != self.link {
            self.link = link;
            self.events.push_back(Event::Link(link));
        }
    }

    /// Whether the link is down, or was within the time after whose silence a connection is lost.
    fn link_was_down(&self, now: Instant) -> bool {
        let window = self.config.limits.idle_timeout + LINK_CHECK_INTERVAL;
        !self.link.up || self.link_down_at.is_some_and(|at| now.saturating_duration_since(at) <= window)
    }

    /// Why nothing comes from any peer, where that is the fault of our own link.
    pub fn silence(&self, now: Instant) -> Option<CloseReason> {
        self.link_was_down(now).then(|| CloseReason::LinkDown { nic: self.ip.device.port.name().to_owned() })
    }

    /// Tells the caller what happened, and lets QUIC's endpoint know.
    pub(super) fn settle(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        while let Some(event) = connection.quic.poll_endpoint_events() {
            if event.is_drained() {
                self.by_handle.remove(&connection.handle);
            }
            if let Some(event) = self.endpoint.handle_event(connection.handle, event) {
                connection.quic.handle_event(event);
            }
        }
        while let Some(notice) = self.connections.get_mut(&id).and_then(Connection::next_notice) {
            if let Some(event) = self.event_of(id, notice, now) {
                self.events.push_back(event);
            }
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        // A caller that never became a connection is none of our caller's business.
        if connection.is_closed() && connection.expected.is_none() && !connection.is_told() {
            connection.forget();
        }
        if connection.is_forgotten() && connection.quic.is_drained() {
            self.ip.remove_sender(connection.sender);
            self.connections.remove(&id);
        }
    }

    fn event_of(&mut self, id: ConnectionId, notice: Notice, now: Instant) -> Option<Event> {
        let link_was_down = self.link_was_down(now);
        let connection = self.connections.get_mut(&id)?;
        let incoming = connection.expected.is_none();
        let reason = match notice {
            Notice::Control => return Some(Event::Control(id)),
            Notice::Records => return Some(Event::Records(id)),
            Notice::Writable => return Some(Event::Writable(id)),
            Notice::Connected { peer, peer_mtu } => {
                connection.set_told();
                let address = connection.address;
                return Some(Event::Connected { connection: id, peer, address, incoming, peer_mtu });
            }
            Notice::Broken(reason) => reason,
            Notice::Lost(error) => {
                let around = Circumstances {
                    address: connection.address,
                    expected: connection.expected,
                    incoming,
                    established: connection.is_told(),
                    no_neighbour: self.ip.is_waiting(connection.sender),
                    link_was_down,
                    nic: self.ip.device.port.name(),
                    handshake_timeout: self.config.limits.handshake_timeout,
                    idle_timeout: self.config.limits.idle_timeout,
                };
                explain(&error, &around)
            }
        };
        if incoming && !connection.is_told() {
            log::info!("an incoming connection from {} failed: {reason}", connection.address);
            return None;
        }
        Some(Event::Closed { connection: id, reason })
    }
}
