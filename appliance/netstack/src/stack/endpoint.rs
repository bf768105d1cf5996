//! The stack: QUIC connections over one IP layer, driven by its caller.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, ConnectionHandle, DatagramEvent, EndpointConfig, HashedConnectionIdGenerator, Incoming, ServerConfig,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::config::{StackConfig, StackError};
use super::event::{ConnectionId, Event};
use super::ip::IpLayer;
use crate::nic::{Counters, LinkState, Port};
use crate::stream::close::{Circumstances, explain};
use crate::stream::congestion::PathMeter;
use crate::stream::connection::{Beginning, Connection, Notice};
use crate::stream::transport::{self, BATCH_BYTES, BATCH_DATAGRAMS};
use crate::stream::{Allowed, CloseReason, Estimates, KeyPair, PublicKey, SendError, tls};

/// Frames looked at in one `poll`, so that timers and the caller get their turn.
const FRAMES_A_POLL: usize = 64;
/// Batches sent in one `poll`.
const BATCHES_A_POLL: usize = 64;
/// Connections, those included that have ended and whose packets may still be on the way (RFC 9000 section 10.2).
const REMEMBERED_MAX: usize = 256;
const LINK_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Memory for received datagrams, taken anew only when records hold on to it.
const ARENA_BYTES: usize = 1 << 20;

/// The migration stack over a port. Every call takes the time; nothing here waits but `wait`.
pub struct Stack<P> {
    ip: IpLayer<P>,
    config: StackConfig,
    identity: KeyPair,
    allowed: Allowed,
    endpoint: quinn_proto::Endpoint,
    server: Arc<ServerConfig>,
    connections: BTreeMap<ConnectionId, Connection>,
    by_handle: HashMap<ConnectionHandle, ConnectionId>,
    next_id: u64,
    events: VecDeque<Event>,
    arena: BytesMut,
    received: Vec<ReceivedBatch>,
    answer: Vec<u8>,
    link: LinkState,
    link_checked: Instant,
    link_down_at: Option<Instant>,
    next_to_send: usize,
    more_to_do: bool,
}

struct ReceivedBatch {
    datagrams: BytesMut,
    from: SocketAddr,
    segment: Option<NonZeroU16>,
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
        let tls = |error: String| StackError::Tls(error);
        let server_tls = tls::server(&identity, allowed.clone()).map_err(|error| tls(error.to_string()))?;
        let crypto = QuicServerConfig::try_from(server_tls).map_err(|error| tls(error.to_string()))?;
        let mut server = ServerConfig::new(Arc::new(crypto), Arc::new(token_key()?));
        server
            .migration(false)
            .max_incoming(config.limits.handshakes_max)
            .incoming_buffer_size(16 << 10)
            .incoming_buffer_size_total(256 << 10)
            .retry_token_lifetime(config.limits.handshake_timeout);
        let server = Arc::new(server);
        let mut endpoint_config = EndpointConfig::new(Arc::new(reset_key(&identity)));
        let datagram = transport::datagram_of(port.mtu(), config.address.is_ipv6());
        endpoint_config.max_udp_payload_size(datagram).map_err(|error| tls(error.to_string()))?;
        let cid_key = cid_key(&identity);
        endpoint_config.grease_quic_bit(false);
        endpoint_config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));
        let endpoint = quinn_proto::Endpoint::new(Arc::new(endpoint_config), Some(Arc::clone(&server)), true, None);
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

    /// What the NIC carried and lost.
    pub fn counters(&mut self) -> Counters {
        let device = &mut self.ip.device;
        Counters { send_failed: device.failed_frames(), ..device.port.counters() }
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
        let tls = tls::client(&self.identity, peer).map_err(|error| StackError::Tls(error.to_string()))?;
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| StackError::Tls(error.to_string()))?;
        let meter = Arc::new(PathMeter::default());
        let mut client = ClientConfig::new(Arc::new(crypto));
        client.transport_config(Arc::new(self.transport_config(&meter)));
        let (handle, quic) = self
            .endpoint
            .connect(now, client, address, "godwit")
            .map_err(|error| StackError::Tls(error.to_string()))?;
        let id = self.add(handle, quic, address, Some(peer), meter, now)?;
        self.transmit(now);
        Ok(id)
    }

    fn transport_config(&self, meter: &Arc<PathMeter>) -> quinn_proto::TransportConfig {
        let ipv6 = self.config.address.is_ipv6();
        transport::config(&self.config.limits, self.mtu(), ipv6, Arc::clone(meter))
    }

    fn add(
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
        if let Some(fd) = self.ip.device.port.readiness() {
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

    /// Whether the peer's transport has acknowledged all records and taken all control messages. It is no proof that
    /// the peer's application has them.
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

    fn check_link(&mut self, now: Instant) {
        if now.saturating_duration_since(self.link_checked) < LINK_CHECK_INTERVAL {
            return;
        }
        self.link_checked = now;
        let link = self.ip.device.port.link();
        if self.link.up && !link.up {
            self.link_down_at = Some(now);
        }
        if link != self.link {
            self.link = link;
            self.events.push_back(Event::Link(link));
        }
    }

    /// Returns whether frames may be left.
    fn receive(&mut self, now: Instant) -> bool {
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

    /// Sends for all connections in turn until there is nothing to send, no room, or it was enough for one call.
    fn transmit(&mut self, now: Instant) {
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

    /// Tells the caller what happened, and lets QUIC's endpoint know.
    fn settle(&mut self, id: ConnectionId, now: Instant) {
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
                let window = connection.idle_timeout() + LINK_CHECK_INTERVAL;
                let around = Circumstances {
                    address: connection.address,
                    expected: connection.expected,
                    incoming,
                    established: connection.is_told(),
                    no_neighbour: self.ip.is_waiting(connection.sender),
                    link_was_down: !self.link.up
                        || self.link_down_at.is_some_and(|at| now.saturating_duration_since(at) <= window),
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

fn random<const N: usize>() -> Result<[u8; N], StackError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| StackError::Tls("no random bytes".to_owned()))?;
    Ok(bytes)
}

fn token_key() -> Result<ring::hkdf::Prk, StackError> {
    Ok(ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]).extract(&random::<64>()?))
}

/// The same after a restart, so that a peer whose connection we no longer know learns it at once (RFC 9000 section
/// 10.3) and need not wait for the idle timeout.
fn derived(identity: &KeyPair, purpose: &[u8]) -> ring::hmac::Tag {
    ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, identity.to_pkcs8()), purpose)
}

fn reset_key(identity: &KeyPair) -> ring::hmac::Key {
    ring::hmac::Key::new(ring::hmac::HMAC_SHA256, derived(identity, b"godwit stateless reset").as_ref())
}

fn cid_key(identity: &KeyPair) -> u64 {
    let tag = derived(identity, b"godwit connection ids");
    tag.as_ref().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
