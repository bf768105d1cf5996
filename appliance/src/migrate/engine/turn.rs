//! One turn of the loop after the other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use model::limits;
use netstack::{ConnectionId, KeyPair, Nic, Stack};
use protocol::slots::Slots;
use protocol::{destination, source, wire};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::api::channel::{Channel, Listener};
use crate::api::migrate::{FromMigrate, MigrationId, Outgoing, Own, Peer, ToMigrate};
use crate::api::paths::RunDir;
use crate::migrate::clock::Clock;
use crate::migrate::desk::{Desk, Wire};
use crate::migrate::hasher::{Hashed, Hasher};
use crate::migrate::host_link::HostLink;
use crate::migrate::incoming::Arrival;
use crate::migrate::key;
use crate::migrate::outgoing::Departure;
use crate::migrate::ping::Ping;
use crate::migrate::storer::Storer;

/// How long the last words of a migration may take to arrive: after that a peer counts as gone.
const LINGER: Duration = Duration::from_millis(limits::MIGRATION_IDLE_MS);
/// Without anything else to do the loop turns this often.
const IDLE: Duration = Duration::from_millis(500);

/// A connection whose migration is over and whose last words are on their way.
#[derive(Debug)]
pub(super) struct Lingering {
    pub(super) connection: ConnectionId,
    until: Instant,
    /// Why the migration came to nothing, for a peer that nothing said last has reached.
    why: Option<String>,
}

/// Everything that the role does.
pub struct Engine {
    pub(super) run_dir: RunDir,
    pub(super) clock: Clock,
    pub(super) listener: Listener,
    /// Connections that have said nothing yet: the first to speak is the control plane.
    pub(super) knocking: Vec<Channel<FromMigrate, ToMigrate>>,
    pub(super) host: HostLink,
    pub(super) hasher: Hasher,
    pub(super) storer: Storer,
    pub(super) identity: KeyPair,
    pub(super) own: Option<Own>,
    pub(super) peers: Vec<Peer>,
    pub(super) stack: Option<Stack<Nic>>,
    pub(super) trouble: Option<String>,
    /// The link was up when it was told of last.
    pub(super) link_told: bool,
    /// When to look again whether a NIC that is gone is back.
    pub(super) next_look: Instant,
    pub(super) slots: Slots,
    pub(super) departures: Vec<Departure>,
    /// Orders that wait for a slot; in which order they begin, the slots know.
    pub(super) waiting: Vec<(Outgoing, Vec<OwnedFd>)>,
    /// Those among them that have their slot, in their order: the path to their destination is measured for another at this moment.
    pub(super) cleared: Vec<MigrationId>,
    pub(super) arrivals: Vec<Arrival>,
    /// Connections whose records stay with the transport until there is room for them.
    pub(super) held_back: Vec<ConnectionId>,
    pub(super) pings: Vec<Ping>,
    pub(super) lingering: Vec<Lingering>,
}

/// What the loop waits on besides the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    Listener,
    Knocking(usize),
    Host,
    Hasher,
    Storer,
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
            storer: Storer::start()?,
            run_dir,
            clock: Clock::start(),
            knocking: Vec::new(),
            host: HostLink::default(),
            own: None,
            peers: Vec::new(),
            stack: None,
            trouble: None,
            link_told: true,
            next_look: Instant::now(),
            slots: Slots::new(None),
            departures: Vec::new(),
            waiting: Vec::new(),
            cleared: Vec::new(),
            arrivals: Vec::new(),
            held_back: Vec::new(),
            pings: Vec::new(),
            lingering: Vec::new(),
        })
    }

    /// Waits for the next thing to happen, and lets it happen.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn turn(&mut self) -> io::Result<()> {
        if let Some(stack) = &mut self.stack {
            stack.poll(Instant::now());
        }
        self.take_events();
        self.take_held_back();
        self.look_for_nic(Instant::now());
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
        let mut what = vec![Ready::Listener, Ready::Hasher, Ready::Storer];
        let mut all: Vec<BorrowedFd<'_>> = vec![self.listener.as_fd(), self.hasher.as_fd(), self.storer.as_fd()];
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

    fn deadline(&self, now: Instant) -> Instant {
        let moves = self.departures.iter().filter_map(|departure| departure.deadline(now, self.clock));
        let moves = moves.chain(self.arrivals.iter().filter_map(|arrival| arrival.deadline(self.clock)));
        let pings = self.pings.iter().filter_map(|ping| ping.deadline(now, self.clock));
        moves.chain(pings).chain([now + IDLE]).min().unwrap_or(now)
    }

    fn happen(&mut self, ready: Ready) {
        match ready {
            Ready::Listener => self.host_connects(),
            Ready::Knocking(index) => self.first_word(index),
            Ready::Host => self.host_says(),
            Ready::Hasher => self.hashes_came(),
            Ready::Storer => self.records_stored(),
            Ready::Departure(index, place) => {
                self.with_departure(index, |departure, now, desk, wire| departure.readable(now, desk, wire, place));
            }
            Ready::Arrival(index, place) => {
                self.with_arrival(index, |arrival, now, desk, wire| arrival.readable(now, desk, wire, place));
            }
        }
    }

    pub(super) fn with_departure(
        &mut self,
        index: usize,
        work: impl FnOnce(&mut Departure, Instant, &mut Desk<'_>, &mut Wire<'_>),
    ) {
        let Self { clock, run_dir, hasher, storer, host, slots, stack, departures, .. } = self;
        if let (Some(departure), Some(stack)) = (departures.get_mut(index), stack) {
            let mut desk = Desk { clock: *clock, run_dir, hasher, storer, host, slots };
            work(departure, Instant::now(), &mut desk, &mut Wire { stack });
        }
    }

    pub(super) fn with_arrival(
        &mut self,
        index: usize,
        work: impl FnOnce(&mut Arrival, Instant, &mut Desk<'_>, &mut Wire<'_>),
    ) {
        let Self { clock, run_dir, hasher, storer, host, slots, stack, arrivals, .. } = self;
        if let (Some(arrival), Some(stack)) = (arrivals.get_mut(index), stack) {
            let mut desk = Desk { clock: *clock, run_dir, hasher, storer, host, slots };
            work(arrival, Instant::now(), &mut desk, &mut Wire { stack });
        }
    }

    pub(super) fn departure_of(
        &mut self,
        id: MigrationId,
        work: impl FnOnce(&mut Departure, Instant, &mut Desk<'_>, &mut Wire<'_>),
    ) {
        if let Some(index) = self.departures.iter().position(|departure| departure.order.id == id) {
            self.with_departure(index, work);
        }
    }

    pub(super) fn arrival_of(
        &mut self,
        id: MigrationId,
        work: impl FnOnce(&mut Arrival, Instant, &mut Desk<'_>, &mut Wire<'_>),
    ) {
        if let Some(index) = self.arrivals.iter().position(|arrival| arrival.id() == id) {
            self.with_arrival(index, work);
        }
    }

    fn hashes_came(&mut self) {
        for Hashed { migration, first, hashes } in self.hasher.take() {
            if self.departures.iter().any(|departure| departure.order.id == migration) {
                let input = match hashes {
                    Ok(hashes) => source::Input::RangeHashed { first, hashes },
                    Err(cause) => source::Input::LinkDown { cause },
                };
                self.departure_of(migration, |departure, now, desk, wire| departure.hear(now, desk, wire, input));
            } else {
                let input = match hashes {
                    Ok(hashes) => destination::Input::RangeHashed { first, hashes },
                    Err(cause) => destination::Input::LinkDown { cause },
                };
                self.arrival_of(migration, |arrival, now, desk, wire| arrival.hear(now, desk, wire, input));
            }
        }
    }

    /// What was stored for a move that has let go of its memory since concerns nobody.
    fn records_stored(&mut self) {
        for stored in self.storer.take() {
            if let Some(index) = self.arrivals.iter().position(|arrival| arrival.has(&stored)) {
                self.with_arrival(index, |arrival, now, desk, wire| arrival.stored(now, desk, wire, stored));
            }
        }
    }

    /// Lets deadlines pass, and lets every move go on with what there is room for now.
    fn wake(&mut self) {
        let now = Instant::now();
        let (at, slots) = (self.clock.of(now), &mut self.slots);
        let inside = self.departures.iter().filter(|departure| departure.is_in());
        let mut next: Vec<_> =
            inside.flat_map(|departure| slots.got_in(wire::MigrationId(departure.order.id), at)).collect();
        next.extend(slots.wake(at));
        self.begin_all(next);
        self.begin_cleared();
        for index in 0..self.departures.len() {
            self.with_departure(index, |departure, now, desk, wire| {
                if departure.deadline(now, desk.clock).is_some_and(|at| at <= now) {
                    departure.wake(now, desk, wire);
                } else {
                    departure.go_on(now, desk, wire);
                }
            });
        }
        for index in 0..self.arrivals.len() {
            self.with_arrival(index, |arrival, now, desk, wire| {
                if arrival.deadline(desk.clock).is_some_and(|at| at <= now) {
                    arrival.wake(now, desk, wire);
                }
            });
        }
        for index in 0..self.pings.len() {
            self.with_ping(index, Ping::wake);
        }
        let Some(stack) = &mut self.stack else { return };
        self.lingering.retain(|lingering| {
            let is_flushed = stack.is_flushed(lingering.connection);
            let stays = now < lingering.until && !is_flushed;
            if !stays {
                let last = if is_flushed { "done" } else { "what it said last was not taken in time" };
                stack.close(lingering.connection, 0, lingering.why.as_deref().unwrap_or(last), now);
            }
            stays
        });
    }

    /// Lets go of the moves that have ended.
    fn settle(&mut self) {
        let until = Instant::now() + LINGER;
        // A VM that runs here already only audits: its slot is another's, before the source's own is.
        let settled = self.arrivals.iter().filter(|arrival| arrival.is_here());
        let mut free: Vec<MigrationId> = settled.map(Arrival::id).collect();
        let mut back = Vec::new();
        let mut linger = |connection: ConnectionId, why: Option<String>| {
            // What was said last must arrive.
            self.stack.iter_mut().for_each(|stack| stack.finish(connection));
            self.lingering.push(Lingering { connection, until, why });
        };
        for departure in self.departures.extract_if(.., |departure| departure.is_ended()) {
            if let Some(connection) = departure.connection {
                linger(connection, departure.why);
            }
            match departure.put_back {
                Some(beside) => back.push((departure.order, beside)),
                None => free.push(departure.order.id),
            }
        }
        for arrival in self.arrivals.extract_if(.., |arrival| arrival.is_ended()) {
            free.push(arrival.id());
            linger(arrival.connection, arrival.why);
        }
        for ping in self.pings.extract_if(.., |ping| ping.is_ended()) {
            linger(ping.connection, None);
        }
        // First what is told of hosts that are full, then what begins in the place of what ended.
        for (order, beside) in back {
            self.put_back(order, beside);
        }
        for id in free {
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
