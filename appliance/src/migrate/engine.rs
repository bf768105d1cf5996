//! The loop: waits for the wire, the control plane, the monitors, the lease role and the clock, and hands what happens
//! to the moves that it concerns.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use model::diagnosis::Reason;
use model::host_config::{self, MigrationNic};
use netstack::{Allowed, ConnectionId, Event, KeyPair, Nic, NicConfig, NicSelector, PublicKey, Stack, StackConfig};
use protocol::checks::facts::LinkFacts;
use protocol::slots::{Slots, Turn};
use protocol::{destination, source, wire};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::clock::Clock;
use super::hasher::{Hashed, Hasher};
use super::host_link::HostLink;
use super::incoming::Arrival;
use super::key;
use super::outgoing::Departure;
use crate::api::channel::{Channel, ChannelError, Listener};
use crate::api::host::MigrationNicDetail;
use crate::api::migrate::{FromMigrate, MigrationId, Outgoing, Own, Peer, ToMigrate};
use crate::api::paths::RunDir;

/// How long the last words of a migration may take to leave.
const LINGER: Duration = Duration::from_secs(3);
/// Without anything else to do the loop turns this often.
const IDLE: Duration = Duration::from_millis(500);
/// Records that are taken before the others get their turn.
const RECORDS_A_TURN: usize = 32;

/// What moves need of the process around them.
#[derive(Debug)]
pub struct Desk<'a> {
    /// The time.
    pub clock: Clock,
    /// The sockets of other roles.
    pub run_dir: &'a RunDir,
    /// The second thread.
    pub hasher: &'a Hasher,
    /// Migration slots that are free.
    pub slots_free: usize,
    host: &'a mut HostLink,
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

/// A connection whose migration is over and whose last words are on their way.
#[derive(Debug)]
struct Lingering {
    connection: ConnectionId,
    until: Instant,
}

/// Everything that the role does.
pub struct Engine {
    run_dir: RunDir,
    clock: Clock,
    listener: Listener,
    /// Connections that have said nothing yet: the first to speak is the control plane.
    knocking: Vec<Channel<FromMigrate, ToMigrate>>,
    host: HostLink,
    hasher: Hasher,
    identity: KeyPair,
    own: Option<Own>,
    peers: Vec<Peer>,
    stack: Option<Stack<Nic>>,
    trouble: Option<String>,
    slots: Slots,
    departures: Vec<Departure>,
    /// Orders that wait for a slot.
    waiting: VecDeque<(Outgoing, Vec<OwnedFd>)>,
    arrivals: Vec<Arrival>,
    lingering: Vec<Lingering>,
}

/// What the loop waits on besides the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    Listener,
    Knocking(usize),
    Host,
    Hasher,
    Departure(usize, usize),
    Arrival(usize, usize),
}

impl Engine {
    /// Listens for the control plane.
    ///
    /// # Errors
    /// The socket, the key or the thread cannot be had.
    pub fn new(run_dir: RunDir) -> io::Result<Self> {
        Ok(Self {
            listener: Listener::bind(&run_dir.socket("migrate"))?,
            identity: key::of_this_boot(&run_dir)?,
            hasher: Hasher::start()?,
            run_dir,
            clock: Clock::start(),
            knocking: Vec::new(),
            host: HostLink::default(),
            own: None,
            peers: Vec::new(),
            stack: None,
            trouble: None,
            slots: Slots::new(None),
            departures: Vec::new(),
            waiting: VecDeque::new(),
            arrivals: Vec::new(),
            lingering: Vec::new(),
        })
    }

    /// Waits for the next thing to happen, and lets it happen.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn turn(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if let Some(stack) = &mut self.stack {
            stack.poll(now);
        }
        self.take_events();
        self.wake();
        self.settle();
        if let Some(stack) = &mut self.stack {
            stack.poll(Instant::now());
        }
        for ready in self.wait()? {
            self.happen(ready);
        }
        Ok(())
    }

    /// Sleeps until something is ready. The ready things of one move come last first, so that taking one out does not
    /// change the places of the others.
    fn wait(&mut self) -> io::Result<Vec<Ready>> {
        let now = Instant::now();
        let deadline = self.deadline(now);
        let mut what = vec![Ready::Listener, Ready::Hasher];
        let mut all: Vec<BorrowedFd<'_>> = vec![self.listener.as_fd(), self.hasher.as_fd()];
        if let Some(host) = self.host.channel() {
            what.push(Ready::Host);
            all.push(host.as_fd());
        }
        for (index, channel) in self.knocking.iter().enumerate() {
            what.push(Ready::Knocking(index));
            all.push(channel.as_fd());
        }
        for (index, departure) in self.departures.iter().enumerate() {
            for (place, descriptor) in departure.descriptors().into_iter().enumerate() {
                what.push(Ready::Departure(index, place));
                all.push(descriptor);
            }
        }
        for (index, arrival) in self.arrivals.iter().enumerate() {
            for (place, descriptor) in arrival.descriptors().into_iter().enumerate() {
                what.push(Ready::Arrival(index, place));
                all.push(descriptor);
            }
        }
        let flags: Vec<PollFlags> = match &mut self.stack {
            Some(stack) => {
                let others: Vec<_> = all.iter().map(|descriptor| (*descriptor, PollFlags::IN)).collect();
                stack.wait(now, Some(deadline), &others).map_err(io::Error::other)?
            }
            None => wait_without_wire(now, deadline, &all)?,
        };
        let ready = what.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()).map(|(what, _)| what);
        let mut ready: Vec<_> = ready.collect();
        ready.reverse();
        Ok(ready)
    }

    fn deadline(&mut self, now: Instant) -> Instant {
        let (desk, departures, arrivals) = (
            Desk {
                clock: self.clock,
                run_dir: &self.run_dir,
                hasher: &self.hasher,
                slots_free: 0,
                host: &mut self.host,
            },
            &self.departures,
            &self.arrivals,
        );
        let moves = departures.iter().filter_map(|departure| departure.deadline(&desk));
        let moves = moves.chain(arrivals.iter().filter_map(|arrival| arrival.deadline(&desk)));
        moves.chain([now + IDLE]).min().unwrap_or(now)
    }

    fn happen(&mut self, ready: Ready) {
        match ready {
            Ready::Listener => self.host_connects(),
            Ready::Knocking(index) => self.first_word(index),
            Ready::Host => self.host_says(),
            Ready::Hasher => self.hashes_came(),
            Ready::Departure(index, place) => {
                self.with_departure(index, |departure, now, desk, wire| departure.readable(now, desk, wire, place));
            }
            Ready::Arrival(index, place) => {
                self.with_arrival(index, |arrival, now, desk, wire| arrival.readable(now, desk, wire, place));
            }
        }
    }

    fn with_departure(
        &mut self,
        index: usize,
        work: impl FnOnce(&mut Departure, Instant, &mut Desk<'_>, &mut Wire<'_>),
    ) {
        let slots_free = self.slots.free();
        let (Some(departure), Some(stack)) = (self.departures.get_mut(index), &mut self.stack) else { return };
        let mut desk =
            Desk { clock: self.clock, run_dir: &self.run_dir, hasher: &self.hasher, slots_free, host: &mut self.host };
        work(departure, Instant::now(), &mut desk, &mut Wire { stack });
    }

    fn with_arrival(&mut self, index: usize, work: impl FnOnce(&mut Arrival, Instant, &mut Desk<'_>, &mut Wire<'_>)) {
        let slots_free = self.slots.free();
        let (Some(arrival), Some(stack)) = (self.arrivals.get_mut(index), &mut self.stack) else { return };
        let mut desk =
            Desk { clock: self.clock, run_dir: &self.run_dir, hasher: &self.hasher, slots_free, host: &mut self.host };
        work(arrival, Instant::now(), &mut desk, &mut Wire { stack });
    }

    fn tell(&mut self, message: FromMigrate) {
        let mut desk = Desk {
            clock: self.clock,
            run_dir: &self.run_dir,
            hasher: &self.hasher,
            slots_free: 0,
            host: &mut self.host,
        };
        desk.tell(message);
    }

    // The control plane.

    fn host_connects(&mut self) {
        match self.listener.accept() {
            Ok(channel) => self.knocking.push(channel),
            Err(error) => log::error!("the control plane cannot connect: {error}"),
        }
    }

    fn first_word(&mut self, index: usize) {
        let channel = self.knocking.remove(index);
        if let Ok((message, beside)) = channel.receive() {
            self.host.connected(channel);
            self.obey(message, beside);
        }
    }

    fn host_says(&mut self) {
        let Some(host) = self.host.channel() else { return };
        match host.receive() {
            Ok((message, beside)) => self.obey(message, beside),
            Err(ChannelError::Malformed(error)) => log::error!("the control plane is not understood: {error}"),
            Err(error) => {
                log::warn!("the control plane went away: {error}");
                self.host.lost();
            }
        }
    }

    fn obey(&mut self, message: ToMigrate, beside: Vec<OwnedFd>) {
        match message {
            ToMigrate::Configure(own) => self.configure(*own),
            ToMigrate::Peers(peers) => self.know(peers),
            ToMigrate::Start(order) => self.order(*order, beside),
            ToMigrate::Cancel(id) => self.cancel(id),
            ToMigrate::Facts(id, facts) => {
                self.arrival_of(id, |arrival, now, desk, wire| arrival.facts(now, desk, wire, facts));
            }
            ToMigrate::Accept(id) => {
                self.arrival_of(id, |arrival, now, desk, wire| arrival.judged(now, desk, wire, Ok(beside)));
            }
            ToMigrate::Refuse(id, reasons) => {
                self.arrival_of(id, |arrival, now, desk, wire| arrival.judged(now, desk, wire, Err(reasons)));
            }
            ToMigrate::DisksOpen(id, opened) => {
                self.arrival_of(id, |arrival, now, desk, wire| arrival.disks_open(now, desk, wire, opened));
            }
            ToMigrate::Nic => {
                let detail = self.detail();
                self.tell(FromMigrate::Nic(Box::new(detail)));
            }
        }
    }

    fn arrival_of(&mut self, id: MigrationId, work: impl FnOnce(&mut Arrival, Instant, &mut Desk<'_>, &mut Wire<'_>)) {
        if let Some(index) = self.arrivals.iter().position(|arrival| arrival.id() == id) {
            self.with_arrival(index, work);
        }
    }

    /// Brings the stack up. What is configured already stays as it is, with all that goes on over it; what did not come up
    /// is tried again.
    fn configure(&mut self, own: Own) {
        let same = self.stack.is_some() && self.own.as_ref().is_some_and(|known| known.nic == own.nic);
        if !same {
            match self.bring_up(&own.nic) {
                Ok(stack) => {
                    self.slots.link_changed(stack.link().speed_mbit);
                    self.stack = Some(stack);
                    self.trouble = None;
                }
                Err(trouble) => {
                    if self.trouble.as_ref() != Some(&trouble) {
                        log::error!("the migration stack is not up: {trouble}");
                    }
                    self.stack = None;
                    self.trouble = Some(trouble);
                }
            }
        }
        self.own = Some(own);
        let outcome = self.trouble.clone().map_or(Ok(()), Err);
        self.tell(FromMigrate::Configured(outcome));
    }

    fn bring_up(&self, nic: &MigrationNic) -> Result<Stack<Nic>, String> {
        let selector = match &nic.nic {
            host_config::NicSelector::Mac(mac) => NicSelector::Mac(mac.bytes()),
            host_config::NicSelector::Pci(address) => NicSelector::Pci(address.clone()),
            host_config::NicSelector::Name(name) => NicSelector::Name(name.clone()),
        };
        let port = Nic::open(&NicConfig { selector, mtu: nic.mtu, vlan: nic.vlan }).map_err(|error| chain(&error))?;
        let mut config = StackConfig::new(nic.address.address, nic.address.prefix, nic.port);
        config.gateway = nic.gateway;
        let identity = KeyPair::from_pkcs8(self.identity.to_pkcs8()).map_err(|error| chain(&error))?;
        let allowed = Allowed::default();
        allowed.replace(self.peers.iter().filter_map(key_of));
        Stack::new(port, config, identity, allowed, Instant::now()).map_err(|error| chain(&error))
    }

    fn know(&mut self, peers: Vec<Peer>) {
        if let Some(stack) = &self.stack {
            stack.allowed().replace(peers.iter().filter_map(key_of));
        }
        self.peers = peers;
    }

    fn detail(&mut self) -> MigrationNicDetail {
        let nic = self.own.as_ref().map(|own| own.nic.clone());
        let (link, mtu) = self.stack.as_ref().map(|stack| (stack.link(), stack.mtu())).unzip();
        let counters = self.stack.as_mut().map(Stack::counters).unwrap_or_default();
        MigrationNicDetail {
            nic: nic.as_ref().map_or_else(String::new, |nic| match &nic.nic {
                host_config::NicSelector::Mac(mac) => mac.to_string(),
                host_config::NicSelector::Pci(text) | host_config::NicSelector::Name(text) => text.clone(),
            }),
            mac: nic.as_ref().and_then(|nic| match &nic.nic {
                host_config::NicSelector::Mac(mac) => Some(*mac),
                _ => None,
            }),
            address: nic
                .as_ref()
                .map_or_else(String::new, |nic| format!("{}/{}", nic.address.address, nic.address.prefix)),
            port: nic.map_or(0, |nic| nic.port),
            link: link.is_some_and(|link| link.up),
            speed_mbits: link.and_then(|link| link.speed_mbit),
            mtu: mtu.map_or(0, u32::from),
            public_key: self.identity.public().to_string(),
            frames_out: counters.sent_frames,
            frames_in: counters.received_frames,
            drops: counters.dropped_by_socket + counters.device_receive_errors,
            problems: self.trouble.iter().map(|trouble| Reason::new(trouble.clone(), "config show")).collect(),
        }
    }

    // Moves away.

    fn order(&mut self, order: Outgoing, beside: Vec<OwnedFd>) {
        let id = order.id;
        self.waiting.push_back((order, beside));
        if let Turn::After(before) = self.slots.ask(wire::MigrationId(id)) {
            let phase = format!("queued: {before} before it");
            let progress =
                crate::api::migrate::MigrationProgress { id, phase, thousandths: None, predicted_stun_us: None };
            self.tell(FromMigrate::Progress(progress));
            return;
        }
        self.begin(id);
    }

    fn begin(&mut self, id: MigrationId) {
        let Some(place) = self.waiting.iter().position(|(order, _)| order.id == id) else { return };
        let Some((order, beside)) = self.waiting.remove(place) else { return };
        let refused = (order.id, order.vm.epoch, order.vm.name.clone());
        if let Err(reason) = self.depart(order, beside) {
            self.refuse(refused, reason);
        }
    }

    fn depart(&mut self, order: Outgoing, beside: Vec<OwnedFd>) -> Result<(), Reason> {
        let own =
            self.own.clone().ok_or_else(|| Reason::new("the migration stack is not configured", "config show"))?;
        let peer = self.peers.iter().find(|peer| peer.name == order.destination).cloned();
        let peer = peer
            .ok_or_else(|| Reason::new(format!("{} has published no migration NIC", order.destination), "host list"))?;
        let key = key_of(&peer)
            .ok_or_else(|| Reason::new(format!("the key of {} cannot be read", peer.name), "host list"))?;
        let mut departure = Departure::new(order, peer, own.identity, beside)?;
        let address = SocketAddr::new(departure.peer.address, departure.peer.port);
        let trouble = self.trouble.clone().unwrap_or_else(|| "it is not configured".to_owned());
        let stack = self.stack.as_mut();
        let stack = stack
            .ok_or_else(|| Reason::new(format!("the migration stack is not up: {trouble}"), "network migration-nic"))?;
        let connection = stack.connect(address, key, Instant::now());
        let connection = connection.map_err(|error| Reason::new(chain(&error), "network migration-nic"))?;
        departure.connection = Some(connection);
        self.departures.push(departure);
        Ok(())
    }

    fn refuse(&mut self, (id, epoch, vm): (MigrationId, u64, model::names::VmName), reason: Reason) {
        let failure = model::diagnosis::Diagnosis::of(format!("VM {vm} was not migrated"), vec![reason]);
        let failure = Some(failure.vm_now("it is still on this host"));
        let ended = crate::api::migrate::Ended { id, runs_here: true, epoch, receipt: None, failure };
        self.tell(FromMigrate::Ended(Box::new(ended)));
        self.leave_slot(id);
    }

    fn leave_slot(&mut self, id: MigrationId) {
        for next in self.slots.leave(wire::MigrationId(id)) {
            self.begin(next.0);
        }
    }

    fn cancel(&mut self, id: MigrationId) {
        if let Some(place) = self.waiting.iter().position(|(order, _)| order.id == id)
            && let Some((order, _)) = self.waiting.remove(place)
        {
            let reason = Reason::new("it was cancelled while it was queued", "vm migrate starts it again");
            return self.refuse((id, order.vm.epoch, order.vm.name), reason);
        }
        if let Some(index) = self.departures.iter().position(|departure| departure.order.id == id) {
            self.with_departure(index, Departure::cancel);
        }
        self.arrival_of(id, |arrival, now, desk, wire| arrival.hear(now, desk, wire, destination::Input::Cancel));
    }

    fn hashes_came(&mut self) {
        for Hashed { migration, first, hashes } in self.hasher.take() {
            if let Some(index) = self.departures.iter().position(|departure| departure.order.id == migration) {
                let input = match hashes {
                    Ok(hashes) => source::Input::RangeHashed { first, hashes },
                    Err(cause) => source::Input::LinkDown { cause },
                };
                self.with_departure(index, |departure, now, desk, wire| departure.hear(now, desk, wire, input));
            } else {
                let input = match hashes {
                    Ok(hashes) => destination::Input::RangeHashed { first, hashes },
                    Err(cause) => destination::Input::LinkDown { cause },
                };
                self.arrival_of(migration, |arrival, now, desk, wire| arrival.hear(now, desk, wire, input));
            }
        }
    }

    // The wire.

    fn take_events(&mut self) {
        while let Some(event) = self.stack.as_mut().and_then(Stack::next_event) {
            match event {
                Event::Connected { connection, peer, incoming: true, .. } => self.peer_connected(connection, peer),
                Event::Connected { connection, incoming: false, .. } => self.connected(connection),
                Event::Control(connection) => self.control(connection),
                Event::Records(connection) => self.records(connection),
                Event::Writable(connection) => {
                    if let Some(index) = self.departure_over(connection) {
                        self.with_departure(index, Departure::go_on);
                    }
                }
                Event::Closed { connection, reason } => self.closed(connection, &reason.to_string()),
                Event::Link(link) => {
                    for next in self.slots.link_changed(link.speed_mbit) {
                        self.begin(next.0);
                    }
                }
            }
        }
    }

    fn departure_over(&self, connection: ConnectionId) -> Option<usize> {
        self.departures.iter().position(|departure| departure.connection == Some(connection))
    }

    fn arrival_over(&self, connection: ConnectionId) -> Option<usize> {
        self.arrivals.iter().position(|arrival| arrival.connection == connection)
    }

    fn connected(&mut self, connection: ConnectionId) {
        let Some(index) = self.departure_over(connection) else { return };
        let Some(stack) = &self.stack else { return };
        let (state, estimates) = (stack.link(), stack.estimates(connection).unwrap_or_default());
        let link = LinkFacts {
            speed_mbits: state.speed_mbit,
            full_duplex: state.full_duplex,
            // The handshake's round trips hold the time of two busy hosts; the shortest is nearest to the link's.
            rtt_us: u64::try_from(estimates.rtt_min.as_micros()).unwrap_or(0),
            bandwidth_bytes_per_s: None,
            mtu: stack.mtu(),
            mtu_path: None,
        };
        self.with_departure(index, |departure, now, desk, wire| {
            departure.connected(now, desk, link);
            departure.go_on(now, desk, wire);
        });
    }

    fn peer_connected(&mut self, connection: ConnectionId, key: PublicKey) {
        let peer = self.peers.iter().find(|peer| key_of(peer) == Some(key)).cloned();
        let (Some(peer), Some(own)) = (peer, self.own.clone()) else {
            if let Some(stack) = &mut self.stack {
                stack.close(connection, 1, "not known yet", Instant::now());
            }
            return;
        };
        let desk = Desk {
            clock: self.clock,
            run_dir: &self.run_dir,
            hasher: &self.hasher,
            slots_free: 0,
            host: &mut self.host,
        };
        self.arrivals.push(Arrival::new(Instant::now(), &desk, connection, peer, own));
    }

    fn control(&mut self, connection: ConnectionId) {
        while let Some(bytes) = self.stack.as_mut().and_then(|stack| stack.recv_control(connection, Instant::now())) {
            let bytes = bytes.to_vec();
            if let Some(index) = self.departure_over(connection) {
                let input = source::Input::Control(bytes);
                self.with_departure(index, |departure, now, desk, wire| departure.hear(now, desk, wire, input));
            } else if let Some(index) = self.arrival_over(connection) {
                let input = destination::Input::Control(bytes);
                self.with_arrival(index, |arrival, now, desk, wire| arrival.hear(now, desk, wire, input));
            }
        }
    }

    fn records(&mut self, connection: ConnectionId) {
        let mut taken = 0;
        while let Some(record) = self.stack.as_mut().and_then(|stack| stack.recv_record(connection, Instant::now())) {
            if let Some(index) = self.arrival_over(connection) {
                self.with_arrival(index, |arrival, now, desk, wire| arrival.record(now, desk, wire, &record));
            }
            taken += 1;
            if taken % RECORDS_A_TURN == 0
                && let Some(stack) = &mut self.stack
            {
                stack.poll(Instant::now());
            }
        }
    }

    fn closed(&mut self, connection: ConnectionId, cause: &str) {
        // What was received before the end still counts.
        self.control(connection);
        self.records(connection);
        self.lingering.retain(|lingering| lingering.connection != connection);
        if let Some(index) = self.departure_over(connection) {
            let cause = cause.to_owned();
            self.with_departure(index, |departure, now, desk, wire| departure.lost(now, desk, wire, cause));
        }
        if let Some(index) = self.arrival_over(connection) {
            let input = destination::Input::LinkDown { cause: cause.to_owned() };
            self.with_arrival(index, |arrival, now, desk, wire| arrival.hear(now, desk, wire, input));
        }
        if let Some(stack) = &mut self.stack {
            stack.forget(connection, Instant::now());
        }
    }

    // Time.

    fn wake(&mut self) {
        let now = Instant::now();
        for index in 0..self.departures.len() {
            self.with_departure(index, |departure, now, desk, wire| {
                if departure.deadline(desk).is_some_and(|at| at <= now) {
                    departure.wake(now, desk, wire);
                } else {
                    departure.go_on(now, desk, wire);
                }
            });
        }
        for index in 0..self.arrivals.len() {
            self.with_arrival(index, |arrival, now, desk, wire| {
                if arrival.deadline(desk).is_some_and(|at| at <= now) {
                    arrival.wake(now, desk, wire);
                }
            });
        }
        let Some(stack) = &mut self.stack else { return };
        self.lingering.retain(|lingering| {
            let stays = now < lingering.until && !stack.is_flushed(lingering.connection);
            if !stays {
                stack.close(lingering.connection, 0, "done", now);
            }
            stays
        });
    }

    /// Lets go of the moves that have ended.
    fn settle(&mut self) {
        let until = Instant::now() + LINGER;
        let mut ended = Vec::new();
        let lingering = &mut self.lingering;
        self.departures.retain(|departure| {
            if departure.is_ended() {
                ended.push(departure.order.id);
                lingering.extend(departure.connection.map(|connection| Lingering { connection, until }));
            }
            !departure.is_ended()
        });
        self.arrivals.retain(|arrival| {
            if arrival.is_ended() {
                ended.push(arrival.id());
                lingering.push(Lingering { connection: arrival.connection, until });
            }
            !arrival.is_ended()
        });
        for id in ended {
            self.leave_slot(id);
        }
    }
}

fn wait_without_wire(now: Instant, deadline: Instant, all: &[BorrowedFd<'_>]) -> io::Result<Vec<PollFlags>> {
    let left = deadline.saturating_duration_since(now);
    let timeout =
        Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
    let mut polled: Vec<PollFd<'_>> = all.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    match poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(polled.iter().map(PollFd::revents).collect()),
        Err(error) => Err(error.into()),
    }
}

/// A peer's key: the raw 32 bytes.
fn key_of(peer: &Peer) -> Option<PublicKey> {
    <[u8; 32]>::try_from(&peer.public_key[..]).ok().map(PublicKey::from_bytes)
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
