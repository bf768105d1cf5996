//! The moves away from here: each begins when a slot is free for it, in the order in which they were wanted, and waits
//! again where its destination has none. One at a time measures the path to a destination: several would share the link, and each be
//! told a part of it, and on a slow one too little.

use std::os::fd::OwnedFd;
use std::time::Instant;

use model::diagnosis::{Diagnosis, Reason, chain};
use model::names::{HostName, VmName};
use netstack::ConnectionId;
use protocol::destination;
use protocol::session::PhaseName;
use protocol::slots::Turn;
use protocol::wire;

use super::turn::Engine;
use crate::api::migrate::{Ended, FromMigrate, MigrationId, MigrationProgress, Outgoing, Own, Peer};
use crate::migrate::desk::{address_of, key_of};
use crate::migrate::outgoing::Departure;

/// What a move does before its first phase.
const CONNECT: &str = "connect";

/// What a move does whose destination had no slot for it.
fn queued_for(destination: &HostName) -> String {
    format!("queued: {destination} carries as many moves as its link allows")
}

impl Engine {
    pub(super) fn order(&mut self, order: Outgoing, beside: Vec<OwnedFd>) {
        let (id, check_only, to) = (order.id, order.wish.check_only, order.destination.clone());
        self.waiting.push((order, beside));
        // What moves nothing waits for no slot.
        let turn = if check_only { Turn::Now } else { self.slots.ask(wire::MigrationId(id), &to) };
        match turn {
            Turn::Now => self.begin(id),
            Turn::After(_) if self.slots.is_full(&to) => self.tell_progress(id, None, queued_for(&to)),
            Turn::After(before) => self.tell_progress(id, None, format!("queued: {before} before it")),
        }
    }

    fn tell_progress(&mut self, id: MigrationId, phase: Option<PhaseName>, doing: String) {
        let progress = MigrationProgress { id, phase, doing, thousandths: None };
        self.host.tell(FromMigrate::Progress(progress));
    }

    /// Tells a control plane that was restarted how far a move is.
    pub(super) fn tell_of(&mut self, id: MigrationId) {
        let departure = self.departures.iter().find(|departure| departure.order.id == id);
        match departure.map(|departure| departure.phase) {
            Some(Some(phase)) => self.tell_progress(id, Some(phase), phase.to_string()),
            Some(None) => self.tell_progress(id, None, CONNECT.to_owned()),
            None if self.waiting.iter().any(|(order, _)| order.id == id) => {
                self.tell_progress(id, None, "queued".to_owned());
            }
            None => self.host.tell(FromMigrate::Unknown(id)),
        }
    }

    /// A move has its slot: it begins, now or when the path to its destination is not measured for another.
    pub(super) fn begin(&mut self, id: MigrationId) {
        self.cleared.push(id);
        self.begin_cleared();
        let waits = self.waiting.iter().find(|(order, _)| order.id == id && self.cleared.contains(&id));
        if let Some(to) = waits.map(|(order, _)| order.destination.clone()) {
            self.tell_progress(id, None, format!("queued: the path to {to} is measured for another move"));
        }
    }

    /// Begins those that wait for a measurement which is over.
    pub(super) fn begin_cleared(&mut self) {
        // One that begins may be refused at once, and clear others.
        while let Some(id) = self.next_cleared() {
            self.cleared.retain(|cleared| *cleared != id);
            self.set_out(id);
        }
    }

    fn next_cleared(&mut self) -> Option<MigrationId> {
        let Self { cleared, waiting, departures, .. } = self;
        // What was cancelled waits no more.
        cleared.retain(|id| waiting.iter().any(|(order, _)| order.id == *id));
        let measured =
            |to: &HostName| departures.iter().any(|other| other.order.destination == *to && other.has_the_path());
        let begins =
            |id: &&MigrationId| waiting.iter().any(|(order, _)| order.id == **id && !measured(&order.destination));
        cleared.iter().find(begins).copied()
    }

    fn set_out(&mut self, id: MigrationId) {
        let Some(place) = self.waiting.iter().position(|(order, _)| order.id == id) else { return };
        let (order, beside) = self.waiting.remove(place);
        let refused = (order.id, order.vm.epoch, order.vm.name.clone());
        match self.depart(order, beside) {
            Ok(()) => self.tell_progress(id, None, CONNECT.to_owned()),
            Err(reason) => self.refuse(refused, reason),
        }
    }

    fn depart(&mut self, order: Outgoing, beside: Vec<OwnedFd>) -> Result<(), Reason> {
        let (own, peer) = (self.own()?, self.peer(&order.destination)?);
        // A control plane that was restarted may not know of it. Both would take pages out of one dirty log.
        if self.departures.iter().any(|departure| departure.order.vm.name == order.vm.name) {
            let cause = "an earlier move of it is still under way";
            return Err(Reason::new(cause, format!("vm show {} tells where it is; try again then", order.vm.name)));
        }
        let mut departure = Departure::new(order, peer, own.identity, beside)?;
        departure.connection = Some(self.call(&departure.peer)?);
        self.departures.push(departure);
        Ok(())
    }

    /// What this host is, once the control plane has said it.
    pub(super) fn own(&self) -> Result<Own, Reason> {
        self.own.clone().ok_or_else(|| Reason::new("the migration stack is not configured", "config show"))
    }

    /// A host that can be called.
    pub(super) fn peer(&self, name: &HostName) -> Result<Peer, Reason> {
        let peer = self.peers.iter().find(|peer| peer.name == *name).cloned();
        peer.ok_or_else(|| Reason::new(format!("{name} has published no migration NIC"), "host list"))
    }

    /// Begins a connection to a host.
    pub(super) fn call(&mut self, peer: &Peer) -> Result<ConnectionId, Reason> {
        let key =
            key_of(peer).ok_or_else(|| Reason::new(format!("the key of {} cannot be read", peer.name), "host list"))?;
        let trouble = self.trouble.clone().unwrap_or_else(|| "it is not configured".to_owned());
        let stack = self.stack.as_mut().filter(|_| self.trouble.is_none());
        let stack = stack
            .ok_or_else(|| Reason::new(format!("the migration stack is not up: {trouble}"), "network migration-nic"))?;
        let connection = stack.connect(address_of(peer), key, Instant::now());
        connection.map_err(|error| Reason::new(chain(&error), "network migration-nic"))
    }

    /// Ends a move that never began.
    fn refuse(&mut self, (id, epoch, vm): (MigrationId, u64, VmName), reason: Reason) {
        let failure = Diagnosis::of(format!("VM {vm} was not migrated"), vec![reason]);
        let failure = Some(failure.vm_now("it is still on this host"));
        self.host.tell(FromMigrate::Ended(Box::new(Ended { failure, ..Ended::nothing_moved(id, epoch) })));
        self.leave_slot(id);
    }

    pub(super) fn leave_slot(&mut self, id: MigrationId) {
        let next = self.slots.leave(wire::MigrationId(id), self.clock.of(Instant::now()));
        self.begin_all(next);
    }

    /// A move whose destination had no slot for it waits again.
    pub(super) fn put_back(&mut self, order: Outgoing, beside: Vec<OwnedFd>) {
        let id = order.id;
        let doing = queued_for(&order.destination);
        log::info!("migration {id:016x} of {} to {}: {doing}", order.vm.name, order.destination);
        self.tell_progress(id, None, doing);
        self.waiting.push((order, beside));
        let next = self.slots.put_back(wire::MigrationId(id), self.clock.of(Instant::now()));
        self.begin_all(next);
    }

    pub(super) fn begin_all(&mut self, next: Vec<wire::MigrationId>) {
        for id in next {
            self.begin(id.0);
        }
    }

    pub(super) fn cancel(&mut self, id: MigrationId) {
        if let Some(place) = self.waiting.iter().position(|(order, _)| order.id == id) {
            let (order, _) = self.waiting.remove(place);
            let reason = Reason::new("it was cancelled while it was queued", "vm migrate starts it again");
            return self.refuse((id, order.vm.epoch, order.vm.name), reason);
        }
        self.cancel_ping(id);
        self.departure_of(id, Departure::cancel);
        self.arrival_of(id, |arrival, now, desk, wire| arrival.hear(now, desk, wire, destination::Input::Cancel));
    }
}
