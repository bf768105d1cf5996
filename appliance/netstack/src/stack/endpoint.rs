//! The stack: QUIC connections over one IP layer, driven by its caller.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use quinn_proto::{ConnectionHandle, ServerConfig};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::claim::Conflict;
use super::config::{StackConfig, StackError};
use super::event::{ConnectionId, Event};
use super::ip::IpLayer;
use super::neighbour::Neighbour;
use super::quic;
use super::receive::ReceivedBatch;
use super::settle::LINK_CHECK_INTERVAL;
use crate::nic::{Counters, LinkState, Port};
use crate::stream::congestion::PathMeter;
use crate::stream::connection::{Beginning, Connection};
use crate::stream::{Allowed, Estimates, KeyPair, PublicKey, SendError, transport};

/// Memory for received datagrams, taken anew only when records hold on to it.
const ARENA_BYTES: usize = 1 << 20;

/// The migration stack over a port. Every call takes the time; nothing here waits but `wait`.
pub struct Stack<P> {
    pub(super) ip: IpLayer<P>,
    pub(super) config: StackConfig,
    identity: KeyPair,
    allowed: Allowed,
    pub(super) endpoint: quinn_proto::Endpoint,
    pub(super) server: Arc<ServerConfig>,
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    pub(super) by_handle: HashMap<ConnectionHandle, ConnectionId>,
    next_id: u64,
    pub(super) events: VecDeque<Event>,
    pub(super) arena: BytesMut,
    pub(super) received: Vec<ReceivedBatch>,
    pub(super) answer: Vec<u8>,
    pub(super) link: LinkState,
    pub(super) link_checked: Instant,
    pub(super) link_down_at: Option<Instant>,
    pub(super) is_gone: bool,
    pub(super) next_to_send: usize,
    pub(super) more_to_do: bool,
}

impl<P: Port> Stack<P> {
    /// A stack that listens at once and accepts whoever `allowed` lists.
    pub fn new(
        mut port: P,
        config: StackConfig,
        identity: KeyPair,
        allowed: Allowed,
        now: Instant,
    ) -> Result<Self, StackError> {
        let link = port.link();
        let (endpoint, server) = quic::listener(&config, port.mtu(), &identity, &allowed)?;
        Ok(Self {
            ip: IpLayer::new(port, &config, now)?,
            config,
            identity,
            allowed,
            endpoint,
            server,
            connections: BTreeMap::new(),
            by_handle: HashMap::new(),
            next_id: 1,
            events: VecDeque::new(),
            arena: BytesMut::with_capacity(ARENA_BYTES),
            received: Vec::new(),
            answer: Vec::new(),
            link,
            link_checked: now,
            link_down_at: None,
            is_gone: false,
            next_to_send: 0,
            more_to_do: false,
        })
    }

    /// The keys that may connect; can be changed at any time.
    pub fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    /// What peers must know us by.
    pub fn public_key(&self) -> PublicKey {
        self.identity.public()
    }

    /// The link as of the last check, at most 100 ms ago.
    pub fn link(&self) -> LinkState {
        self.link
    }

    /// Whether the NIC is gone, as of the last check.
    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Goes on over another port, with all connections: they bear its absence for as long as they bear silence.
    pub fn replace_port(&mut self, mut port: P, now: Instant) -> Result<(), StackError> {
        let link = port.link();
        self.ip.replace_port(port, now)?;
        self.is_gone = false;
        self.link_is(link, now);
        // Also where it was out and in again between two looks at the link.
        self.connections.values_mut().for_each(Connection::try_again);
        Ok(())
    }

    /// What the NIC carried and lost.
    pub fn counters(&mut self) -> Counters {
        let device = &mut self.ip.device;
        Counters { send_failed: device.failed_frames(), ..device.port.counters() }
    }

    /// Another NIC that uses our address, as far as is known.
    pub fn conflict(&self) -> Option<Conflict> {
        self.ip.conflict()
    }

    /// Who spoke to us by ARP or neighbour discovery, by address; at most 64.
    pub fn neighbours(&self, now: Instant) -> Vec<Neighbour> {
        self.ip.neighbours(now)
    }

    /// The kernel's name of the migration NIC.
    pub fn nic_name(&self) -> &str {
        self.ip.device.port.name()
    }

    /// Its MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.ip.device.port.mac()
    }

    /// MTU of the migration NIC.
    pub fn mtu(&self) -> u16 {
        self.ip.device.port.mtu()
    }

    /// The port underneath, for tests that act on the wire.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.ip.device.port
    }

    /// Connections that are open or on their way there.
    pub fn open_connections(&self) -> usize {
        self.connections.values().filter(|connection| !connection.is_closed()).count()
    }

    /// Begins a connection to a peer that must have the key `peer`. `Connected` or `Closed` tells how it went, within
    /// the handshake timeout.
    pub fn connect(&mut self, address: SocketAddr, peer: PublicKey, now: Instant) -> Result<ConnectionId, StackError> {
        self.ip.check_route(address)?;
        if self.open_connections() >= self.config.limits.connections_max {
            return Err(StackError::TooManyConnections(self.config.limits.connections_max));
        }
        let meter = Arc::new(PathMeter::default());
        let client = quic::caller(&self.identity, peer, self.transport_config(&meter))?;
        let (handle, quic) = self.endpoint.connect(now, client, address, "godwit").map_err(quic::of_tls)?;
        let id = self.add(handle, quic, address, Some(peer), meter, now)?;
        self.transmit(now);
        Ok(id)
    }

    pub(super) fn transport_config(&self, meter: &Arc<PathMeter>) -> quinn_proto::TransportConfig {
        let ipv6 = self.config.address.is_ipv6();
        transport::config(&self.config.limits, self.mtu(), ipv6, Arc::clone(meter))
    }

    pub(super) fn add(
        &mut self,
        handle: ConnectionHandle,
        quic: quinn_proto::Connection,
        address: SocketAddr,
        expected: Option<PublicKey>,
        meter: Arc<PathMeter>,
        now: Instant,
    ) -> Result<ConnectionId, StackError> {
        let sender = self.ip.add_sender()?;
        let deadline = now + self.config.limits.handshake_timeout;
        let beginning = Beginning { handle, quic, address, expected, sender, meter, deadline };
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        self.connections.insert(id, Connection::new(beginning, self.mtu(), &self.config.limits));
        self.by_handle.insert(handle, id);
        Ok(id)
    }

    /// Takes frames in, runs timers, sends: a bounded amount of work. Call it whenever `wait` returns, and after
    /// sending.
    pub fn poll(&mut self, now: Instant) {
        self.check_link(now);
        self.more_to_do = self.receive(now);
        let due: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in &due {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.handle_timeout(now);
                connection.advance(now);
            }
        }
        self.transmit(now);
        self.events.extend(self.ip.news_of_conflict().map(Event::Conflict));
        for id in due {
            self.settle(id, now);
        }
    }

    /// Sleeps until something is to be done: a frame, one of `others`, a timer, `deadline`, or an event that was not
    /// taken. Returns what came for each of `others`, in their order.
    pub fn wait(
        &mut self,
        now: Instant,
        deadline: Option<Instant>,
        others: &[(BorrowedFd<'_>, PollFlags)],
    ) -> Result<Vec<PollFlags>, StackError> {
        let until = if self.more_to_do || !self.events.is_empty() || self.ip.device.has_received() {
            Some(now)
        } else {
            [self.next_timeout(now), deadline].into_iter().flatten().min()
        };
        let timeout = until.map(|until| until.saturating_duration_since(now)).map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(1 + others.len());
        fds.extend(others.iter().map(|(fd, wanted)| PollFd::from_borrowed_fd(*fd, *wanted)));
        if let Some(fd) = self.ip.device.port.readiness().filter(|_| !self.is_gone) {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(StackError::Wait(error.into())),
        }
        Ok(fds[..others.len()].iter().map(PollFd::revents).collect())
    }

    /// When `poll` is to be called at the latest.
    pub fn next_timeout(&mut self, now: Instant) -> Option<Instant> {
        if self.more_to_do {
            return Some(now);
        }
        let connections = self.connections.values_mut().filter_map(Connection::next_timeout).min();
        let link = Some(self.link_checked + LINK_CHECK_INTERVAL);
        [self.ip.next_timeout(now), connections, link].into_iter().flatten().min()
    }

    /// The next thing that happened.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Queues a control message of at most [`CONTROL_MESSAGE_MAX`](crate::stream::CONTROL_MESSAGE_MAX) bytes. `poll`
    /// sends it.
    pub fn send_control(&mut self, id: ConnectionId, message: &[u8]) -> Result<(), SendError> {
        self.connections.get_mut(&id).ok_or(SendError::NotConnected)?.send_control(message)
    }

    /// The next control message, in the order in which the peer sent them.
    pub fn recv_control(&mut self, id: ConnectionId, now: Instant) -> Option<Bytes> {
        self.connections.get_mut(&id)?.recv_control(now)
    }

    /// Queues a record of 1 to [`RECORD_MAX`](crate::stream::RECORD_MAX) bytes. `poll` sends it. `Full`: what is not
    /// acknowledged exceeds what the path carries; the caller does better to wait than to queue pages that grow stale.
    pub fn send_record(&mut self, id: ConnectionId, record: Bytes) -> Result<(), SendError> {
        self.connections.get_mut(&id).ok_or(SendError::NotConnected)?.send_record(record)
    }

    /// The next whole record, in whatever order they came.
    pub fn recv_record(&mut self, id: ConnectionId, now: Instant) -> Option<Bytes> {
        self.connections.get_mut(&id)?.recv_record(now)
    }

    /// An empty buffer with room for a record; memory comes back by itself when a record that was made in it is sent.
    pub fn buffer(&mut self, id: ConnectionId) -> Option<BytesMut> {
        self.connections.get_mut(&id).map(Connection::buffer)
    }

    /// No control message follows on this connection: [`Self::is_flushed`] tells when it may be closed without the last being lost.
    pub fn finish(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.finish();
        }
    }

    /// Whether the peer's transport has acknowledged all records and, of a connection that was finished, all control messages; one that is gone
    /// has nothing more to send. It is no proof that the peer's application has them.
    pub fn is_flushed(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_none_or(Connection::is_flushed)
    }

    /// What is known of the path.
    pub fn estimates(&self, id: ConnectionId) -> Option<Estimates> {
        self.connections.get(&id).map(Connection::estimates)
    }

    /// Queues a datagram that only loads the path. Returns false when there is no room.
    pub(crate) fn send_filler(&mut self, id: ConnectionId, filler: &Bytes) -> bool {
        self.connections.get_mut(&id).is_some_and(|connection| connection.send_filler(filler))
    }

    /// Closes a connection; what was not flushed is lost. The peer gets `code` and `reason`; `Closed` follows.
    pub fn close(&mut self, id: ConnectionId, code: u32, reason: &str, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.close(now, code, reason);
            self.transmit(now);
            self.settle(id, now);
        }
    }

    /// Gives up a closed connection and what it still held: to be called once for each `Closed`.
    pub fn forget(&mut self, id: ConnectionId, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.is_closed()) {
            connection.forget();
            self.settle(id, now);
        }
    }

    /// Bytes that IP and UDP headers add to a datagram.
    pub(crate) fn datagram_overhead(&self) -> u16 {
        if self.config.address.is_ipv6() { 48 } else { 28 }
    }

    /// Bytes lost on a connection.
    pub(crate) fn lost_bytes(&self, id: ConnectionId) -> u64 {
        self.connections.get(&id).map_or(0, Connection::lost_bytes)
    }
}
