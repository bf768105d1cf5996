//! What happens on the wire.

use std::time::Instant;

use bytes::Bytes;
use netstack::{CloseReason, ConnectionId, Event, PublicKey, Stack};
use protocol::{destination, ping, source};

use super::turn::Engine;
use crate::migrate::desk::{Desk, Wire, key_of};
use crate::migrate::incoming::Arrival;
use crate::migrate::outgoing::Departure;
use crate::migrate::storer::WAITING_BYTES_MAX;

/// Records that are taken before the others get their turn.
const RECORDS_A_TURN: usize = 32;

impl Engine {
    pub(super) fn take_events(&mut self) {
        while let Some(event) = self.stack.as_mut().and_then(Stack::next_event) {
            match event {
                Event::Connected { connection, peer, incoming: true, .. } => self.peer_connected(connection, peer),
                Event::Connected { connection, incoming: false, peer_mtu, .. } => {
                    self.departure_over(connection, |departure, now, desk, wire| {
                        departure.connected(now, desk, wire, peer_mtu);
                    });
                    if let Some(index) = self.ping_index(connection) {
                        self.with_ping(index, |ping, now, desk, wire| ping.connected(now, desk, wire, peer_mtu));
                    }
                }
                Event::Control(connection) => self.control(connection),
                Event::Records(connection) => self.records(connection),
                Event::Writable(connection) => self.departure_over(connection, Departure::go_on),
                Event::Closed { connection, reason } => self.closed(connection, &reason),
                Event::Conflict(conflict) => self.address_conflict(conflict),
                Event::Gone => self.nic_is_gone(),
                Event::Link(link) => {
                    self.link_changed(link);
                    let next = self.slots.link_changed(link.speed_mbit, self.clock.of(Instant::now()));
                    self.begin_all(next);
                }
            }
        }
    }

    fn departure_over(
        &mut self,
        connection: ConnectionId,
        work: impl FnOnce(&mut Departure, Instant, &mut Desk<'_>, &mut Wire<'_>),
    ) {
        if let Some(index) = self.departure_index(connection) {
            self.with_departure(index, work);
        }
    }

    fn departure_index(&self, connection: ConnectionId) -> Option<usize> {
        self.departures.iter().position(|departure| departure.connection == Some(connection))
    }

    fn arrival_index(&self, connection: ConnectionId) -> Option<usize> {
        self.arrivals.iter().position(|arrival| arrival.connection == connection)
    }

    fn peer_connected(&mut self, connection: ConnectionId, key: PublicKey) {
        let peer = self.peers.iter().find(|peer| key_of(peer) == Some(key)).cloned();
        let (Some(peer), Some(own)) = (peer, self.own.clone()) else {
            if let Some(stack) = &mut self.stack {
                stack.close(connection, 1, "not known yet", Instant::now());
            }
            return;
        };
        self.arrivals.push(Arrival::new(Instant::now(), self.clock, connection, peer, own));
    }

    fn control(&mut self, connection: ConnectionId) {
        while let Some(bytes) = self.stack.as_mut().and_then(|stack| stack.recv_control(connection, Instant::now())) {
            let bytes = bytes.to_vec();
            if let Some(index) = self.departure_index(connection) {
                let input = source::Input::Control(bytes);
                self.with_departure(index, |departure, now, desk, wire| departure.hear(now, desk, wire, input));
            } else if let Some(index) = self.arrival_index(connection) {
                let input = destination::Input::Control(bytes);
                let was_unknown = self.arrivals[index].id() == 0;
                self.with_arrival(index, |arrival, now, desk, wire| arrival.hear(now, desk, wire, input));
                if was_unknown {
                    self.replace_older(index);
                }
            } else if let Some(index) = self.ping_index(connection) {
                let input = ping::Input::Control(bytes);
                self.with_ping(index, |ping, now, desk, wire| ping.hear(now, desk, wire, input));
            }
        }
    }

    /// A move that found no slot here comes again under its number, and the connection of its attempt before may be gone
    /// without a word: that attempt is over.
    fn replace_older(&mut self, index: usize) {
        let id = self.arrivals[index].id();
        for older in (0..self.arrivals.len()).filter(|older| id != 0 && *older != index) {
            if self.arrivals[older].id() == id && !self.arrivals[older].is_ended() {
                let input = destination::Input::LinkDown { cause: "its source began again".to_owned() };
                self.with_arrival(older, |arrival, now, desk, wire| arrival.hear(now, desk, wire, input));
            }
        }
    }

    fn records(&mut self, connection: ConnectionId) {
        let mut taken = 0;
        while let Some(record) = self.next_record(connection) {
            if let Some(index) = self.arrival_index(connection) {
                self.with_arrival(index, |arrival, now, desk, wire| arrival.record(now, desk, wire, record));
            }
            taken += 1;
            if taken % RECORDS_A_TURN == 0
                && let Some(stack) = &mut self.stack
            {
                stack.poll(Instant::now());
            }
        }
    }

    /// The next record, unless as much of this move as may waits to be stored: then it is asked for again when there is room.
    fn next_record(&mut self, connection: ConnectionId) -> Option<Bytes> {
        if self.waiting_bytes(connection) < self.waiting_bytes_max() {
            return self.stack.as_mut()?.recv_record(connection, Instant::now());
        }
        if !self.held_back.contains(&connection) {
            self.held_back.push(connection);
        }
        None
    }

    fn waiting_bytes(&self, connection: ConnectionId) -> usize {
        self.arrival_index(connection).map_or(0, |index| self.arrivals[index].waiting_bytes())
    }

    /// What may wait of each move.
    fn waiting_bytes_max(&self) -> usize {
        let storing = self.arrivals.iter().filter(|arrival| arrival.waiting_bytes() > 0).count();
        WAITING_BYTES_MAX / storing.max(1)
    }

    /// Takes what there is room for now.
    pub(super) fn take_held_back(&mut self) {
        for connection in std::mem::take(&mut self.held_back) {
            self.records(connection);
        }
    }

    fn closed(&mut self, connection: ConnectionId, reason: &CloseReason) {
        // What was received before the end still counts.
        self.control(connection);
        self.records(connection);
        self.lingering.retain(|lingering| lingering.connection != connection);
        if let Some(index) = self.departure_index(connection) {
            self.with_departure(index, |departure, now, desk, wire| departure.lost(now, desk, wire, reason));
        }
        if let Some(index) = self.arrival_index(connection) {
            let input = destination::Input::LinkDown { cause: reason.to_string() };
            self.with_arrival(index, |arrival, now, desk, wire| arrival.hear(now, desk, wire, input));
        }
        if let Some(index) = self.ping_index(connection) {
            self.with_ping(index, |ping, now, desk, wire| ping.lost(now, desk, wire, reason));
        }
        if let Some(stack) = &mut self.stack {
            stack.forget(connection, Instant::now());
        }
    }
}
