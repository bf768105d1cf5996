//! Carries out what a measurement of the path to a peer wants.

use std::time::Instant;

use model::diagnosis::Reason;
use model::names::HostName;
use netstack::probe::Probe;
use netstack::{CloseReason, ConnectionId};
use protocol::checks::facts::LinkFacts;
use protocol::checks::link;
use protocol::ping::{self, Effect, Input, Plan};
use protocol::wire;

use super::clock::Clock;
use super::desk::{Desk, Wire, address_of};
use super::measured::measured;
use crate::api::host::PingDetail;
use crate::api::migrate::{FromMigrate, MigrationId, MigrationProgress, Peer};

/// A measurement that goes on.
#[derive(Debug)]
pub struct Ping {
    /// Which.
    pub id: MigrationId,
    /// The connection that it goes over.
    pub connection: ConnectionId,
    here: HostName,
    peer: Peer,
    /// The machine, once the connection is there.
    machine: Option<ping::Ping>,
    peer_mtu: u16,
    probe: Option<Probe>,
    loss: f64,
    ended: bool,
}

impl Ping {
    /// One of a connection that was begun.
    pub fn new(id: MigrationId, connection: ConnectionId, here: HostName, peer: Peer) -> Self {
        Self { id, connection, here, peer, machine: None, peer_mtu: 0, probe: None, loss: 0.0, ended: false }
    }

    /// Whether nothing more is to be done.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// The connection is there, to a NIC of this MTU.
    pub fn connected(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, peer_mtu: u16) {
        self.peer_mtu = peer_mtu;
        let (id, build) = (wire::MigrationId(self.id), env!("CARGO_PKG_VERSION").to_owned());
        let plan = Plan { id, here: self.here.clone(), peer: self.peer.name.clone(), build };
        self.machine = Some(ping::Ping::new(desk.clock.of(now), plan));
        self.go_on(now, desk, wire);
    }

    /// Tells the machine something, and does what it wants.
    pub fn hear(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, input: Input) {
        if let Some(machine) = &mut self.machine {
            machine.handle_input(desk.clock.of(now), input);
        }
        self.go_on(now, desk, wire);
    }

    /// The connection is gone.
    pub fn lost(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, reason: &CloseReason) {
        self.give_up(now, desk, wire, Input::LinkDown { cause: reason.to_string() });
    }

    /// A person gives it up.
    pub fn cancel(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>) {
        self.give_up(now, desk, wire, Input::Cancel);
    }

    fn give_up(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>, input: Input) {
        // Before the connection is there it ends in the same words.
        if self.machine.is_none() {
            self.connected(now, desk, wire, 0);
        }
        self.hear(now, desk, wire, input);
    }

    /// When [`Self::wake`] is to be called.
    pub fn deadline(&self, now: Instant, clock: Clock) -> Option<Instant> {
        let machine = self.machine.as_ref()?.poll_timeout().map(|at| clock.back(at));
        machine.into_iter().chain(self.probe.as_ref().map(|probe| probe.deadline(now))).min()
    }

    /// Time has passed, and the stack was polled.
    pub fn wake(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>) {
        if let Some(machine) = &mut self.machine {
            let at = desk.clock.of(now);
            match wire.own_silence(now, at, machine.lost_at()) {
                Some(cause) => machine.handle_input(at, Input::LinkDown { cause }),
                None => machine.handle_timeout(at),
            }
        }
        self.go_on(now, desk, wire);
    }

    fn go_on(&mut self, now: Instant, desk: &mut Desk<'_>, wire: &mut Wire<'_>) {
        if let Some(report) = self.probe.as_mut().and_then(|probe| probe.advance(wire.stack, now)) {
            (self.probe, self.loss) = (None, report.loss);
            if let Some(machine) = &mut self.machine {
                machine.handle_input(desk.clock.of(now), Input::LinkMeasured(measured(&report)));
            }
        }
        while let Some(effect) = self.machine.as_mut().and_then(ping::Ping::poll_effect) {
            match effect {
                Effect::SendControl(bytes) => {
                    // A connection that takes no more is gone, and its end is told by an event of its own.
                    let _ = wire.stack.send_control(self.connection, &bytes);
                }
                Effect::MeasureLink => self.probe = Some(Probe::new(self.connection, self.peer_mtu, now)),
                Effect::Report(phase) => {
                    let progress = MigrationProgress {
                        id: self.id,
                        phase: Some(phase),
                        doing: phase.to_string(),
                        thousandths: None,
                    };
                    desk.tell(FromMigrate::Progress(progress));
                }
                Effect::Finish(outcome) => {
                    self.ended = true;
                    let outcome = outcome.map(|link| Box::new(self.detail(wire, link)));
                    desk.tell(FromMigrate::Pinged(self.id, outcome));
                }
            }
        }
    }

    fn detail(&self, wire: &Wire<'_>, measured: LinkFacts) -> PingDetail {
        let (here, there) = (&self.here, &self.peer.name);
        let mtu_here = wire.stack.mtu();
        let bandwidth = measured.bandwidth_bytes_per_s.unwrap_or(0);
        let slow: Option<Reason> = link::bandwidth(bandwidth, here, there);
        PingDetail {
            host: there.clone(),
            address: address_of(&self.peer).to_string(),
            rtt_us: measured.rtt_us,
            bandwidth_bytes_per_s: bandwidth,
            loss_permille: (self.loss * 1_000.0).round() as u16,
            path_mtu: measured.mtu,
            mtu_here,
            mtu_there: self.peer_mtu,
            problems: link::path(&measured, [(here, mtu_here), (there, self.peer_mtu)]),
            warnings: slow.into_iter().collect(),
        }
    }
}
