//! One connection: QUIC's state, the control stream, the records, and what is told to the caller.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{ConnectionError, ConnectionHandle, Dir, Event as QuicEvent, StreamEvent, StreamId, VarInt};
use rustls::pki_types::CertificateDer;

use super::congestion::PathMeter;
use super::control::Control;
use super::estimates::Estimates;
use super::key::PublicKey;
use super::record::{Bounds, BufferPool, PROTOCOL_ERROR, RecordReceiver, RecordSender};
use super::transport::FILLER_BYTES;
use super::{CloseReason, SendError};
use crate::stack::TransportLimits;

/// What happened on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    Connected { peer: PublicKey, peer_mtu: u16 },
    Control,
    Records,
    Writable,
    Lost(ConnectionError),
    Broken(CloseReason),
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Handshaking { deadline: Instant },
    Established,
    Closed,
}

/// How a connection begins.
pub(crate) struct Beginning {
    pub(crate) handle: ConnectionHandle,
    pub(crate) quic: quinn_proto::Connection,
    pub(crate) address: SocketAddr,
    /// The key that the peer must have; None: it called us.
    pub(crate) expected: Option<PublicKey>,
    pub(crate) sender: usize,
    pub(crate) meter: Arc<PathMeter>,
    pub(crate) deadline: Instant,
}

/// One connection.
pub(crate) struct Connection {
    pub(crate) handle: ConnectionHandle,
    pub(crate) quic: quinn_proto::Connection,
    pub(crate) address: SocketAddr,
    pub(crate) expected: Option<PublicKey>,
    pub(crate) sender: usize,
    phase: Phase,
    control: Control,
    outgoing: RecordSender,
    incoming: RecordReceiver,
    pool: BufferPool,
    meter: Arc<PathMeter>,
    mtu: u16,
    limits: TransportLimits,
    notices: VecDeque<Notice>,
    /// The caller was told `Full` and waits to hear `Writable`.
    told_full: bool,
    /// The readiness that was told and not looked at.
    told_control: bool,
    told_records: bool,
    /// The caller knows of this connection.
    told: bool,
    forgotten: bool,
}

impl Connection {
    pub(crate) fn new(beginning: Beginning, mtu: u16, limits: &TransportLimits) -> Self {
        Self {
            handle: beginning.handle,
            quic: beginning.quic,
            address: beginning.address,
            expected: beginning.expected,
            sender: beginning.sender,
            phase: Phase::Handshaking { deadline: beginning.deadline },
            control: Control::default(),
            outgoing: RecordSender::default(),
            incoming: RecordReceiver::default(),
            pool: BufferPool::default(),
            meter: beginning.meter,
            mtu,
            limits: limits.clone(),
            notices: VecDeque::new(),
            told_full: false,
            told_control: false,
            told_records: false,
            told: false,
            forgotten: false,
        }
    }

    /// The caller was told that it is established.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    pub(crate) fn set_told(&mut self) {
        self.told = true;
    }

    /// Nobody asks for what it still holds; it goes when QUIC is done with it.
    pub(crate) fn forget(&mut self) {
        self.forgotten = true;
    }

    pub(crate) fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        matches!(self.phase, Phase::Handshaking { .. })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    pub(crate) fn is_established(&self) -> bool {
        self.phase == Phase::Established
    }

    /// What is to be told next.
    pub(crate) fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// When `handle_timeout` is to be called.
    pub(crate) fn next_timeout(&mut self) -> Option<Instant> {
        let deadline = match self.phase {
            Phase::Handshaking { deadline } => Some(deadline),
            _ => None,
        };
        [self.quic.poll_timeout(), deadline].into_iter().flatten().min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.quic.poll_timeout().is_some_and(|at| at <= now) {
            self.quic.handle_timeout(now);
        }
        if let Phase::Handshaking { deadline } = self.phase
            && deadline <= now
        {
            self.phase = Phase::Closed;
            self.quic.close(now, PROTOCOL_ERROR, Bytes::from_static(b"handshake took too long"));
            self.notices.push_back(Notice::Lost(ConnectionError::TimedOut));
        }
    }

    /// Works off what QUIC has to say, and hands it what waits.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some(event) = self.quic.poll() {
            if let Err(what) = self.handle_quic(event) {
                self.break_off(now, what);
            }
        }
        if self.is_closed() {
            return;
        }
        let written = self.control.write(&mut self.quic).and_then(|()| self.outgoing.write(&mut self.quic));
        if let Err(what) = written {
            self.break_off(now, what);
            return;
        }
        // Datagrams only measure the path; their content is nothing.
        while self.quic.datagrams().recv().is_some() {}
        self.tell_writable();
    }

    fn handle_quic(&mut self, event: QuicEvent) -> Result<(), String> {
        match event {
            QuicEvent::Connected => self.control.open(&mut self.quic, self.mtu),
            QuicEvent::ConnectionLost { reason } => {
                if self.phase != Phase::Closed {
                    self.phase = Phase::Closed;
                    self.notices.push_back(Notice::Lost(reason));
                }
                Ok(())
            }
            QuicEvent::Stream(event) => self.handle_stream(event),
            QuicEvent::HandshakeDataReady | QuicEvent::DatagramReceived | QuicEvent::DatagramsUnblocked => Ok(()),
        }
    }

    fn handle_stream(&mut self, event: StreamEvent) -> Result<(), String> {
        match event {
            StreamEvent::Opened { dir: Dir::Uni } => {
                while let Some(stream) = self.quic.streams().accept(Dir::Uni) {
                    self.read(stream)?;
                }
                Ok(())
            }
            StreamEvent::Readable { id } => self.read(id),
            StreamEvent::Finished { id } => {
                self.outgoing.acknowledged(id);
                self.control.acknowledged(id);
                Ok(())
            }
            StreamEvent::Stopped { .. } => Err("the peer does not want what we send".to_owned()),
            StreamEvent::Opened { .. } | StreamEvent::Writable { .. } | StreamEvent::Available { .. } => Ok(()),
        }
    }

    fn read(&mut self, stream: StreamId) -> Result<(), String> {
        if self.control.is_incoming(stream) {
            let more = self.control.read(&mut self.quic, stream)?;
            self.check_established()?;
            if more && !self.told_control {
                self.told_control = true;
                self.notices.push_back(Notice::Control);
            }
            return Ok(());
        }
        let bounds = self.bounds();
        if self.incoming.read(&mut self.quic, stream, &mut self.pool, bounds)? && !self.told_records {
            self.told_records = true;
            self.notices.push_back(Notice::Records);
        }
        Ok(())
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            waiting_max: self.limits.records_waiting_max,
            partial_bytes_max: self.limits.receive_window_bytes as usize,
        }
    }

    /// TLS is done on both sides when the peer's hello could be read: it is sent under keys that only a peer has whose
    /// own check of us succeeded.
    fn check_established(&mut self) -> Result<(), String> {
        let (Phase::Handshaking { .. }, Some(hello)) = (self.phase, self.control.hello()) else { return Ok(()) };
        let peer = self.peer_key().ok_or("the peer showed no key")?;
        self.phase = Phase::Established;
        self.notices.push_back(Notice::Connected { peer, peer_mtu: hello.mtu });
        Ok(())
    }

    fn peer_key(&self) -> Option<PublicKey> {
        let identity = self.quic.crypto_session().peer_identity()?;
        let entities = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        PublicKey::from_spki(entities.first()?)
    }

    fn break_off(&mut self, now: Instant, what: String) {
        if self.is_closed() {
            return;
        }
        self.phase = Phase::Closed;
        self.quic.close(now, PROTOCOL_ERROR, Bytes::from(what.clone()));
        self.notices.push_back(Notice::Broken(CloseReason::Protocol { address: self.address, what }));
    }

    pub(crate) fn send_control(&mut self, message: &[u8]) -> Result<(), SendError> {
        if !self.is_established() {
            return Err(SendError::NotConnected);
        }
        let result = self.control.send(message, self.limits.control_queued_max_bytes);
        self.told_full |= result == Err(SendError::Full);
        result?;
        self.control.write(&mut self.quic).map_err(|_| SendError::NotConnected)
    }

    pub(crate) fn recv_control(&mut self, now: Instant) -> Option<Bytes> {
        let message = self.control.take();
        self.told_control &= message.is_some();
        if !self.is_closed()
            && let Some(stream) = self.control.resume()
            && let Err(what) = self.read(stream)
        {
            self.break_off(now, what);
        }
        message
    }

    pub(crate) fn send_record(&mut self, record: Bytes) -> Result<(), SendError> {
        if !self.is_established() {
            return Err(SendError::NotConnected);
        }
        let lent = record.clone();
        let (window, most) = (self.meter.window(), u64::from(self.limits.send_window_bytes));
        let result = self.outgoing.send(&mut self.quic, record, window, most);
        self.told_full |= result == Err(SendError::Full);
        if result.is_ok() {
            self.pool.lend(&lent);
        }
        result
    }

    pub(crate) fn recv_record(&mut self, now: Instant) -> Option<Bytes> {
        let record = self.incoming.take();
        self.told_records &= record.is_some();
        let bounds = self.bounds();
        if !self.is_closed()
            && let Some(stream) = self.incoming.resume(bounds)
            && let Err(what) = self.read(stream)
        {
            self.break_off(now, what);
        }
        record
    }

    /// A buffer for a record, from those that came back.
    pub(crate) fn buffer(&mut self) -> bytes::BytesMut {
        self.pool.take()
    }

    fn tell_writable(&mut self) {
        let room = self.outgoing.has_room(self.meter.window(), u64::from(self.limits.send_window_bytes))
            && self.control.queued_bytes() < self.limits.control_queued_max_bytes / 2;
        if self.told_full && room {
            self.told_full = false;
            self.notices.push_back(Notice::Writable);
        }
    }

    /// No control message follows.
    pub(crate) fn finish(&mut self) {
        self.control.finish();
        // What hinders it now `advance` meets again.
        let _ = self.control.write(&mut self.quic);
    }

    /// Whether the peer's transport has acknowledged everything that was sent, the end of the control messages too.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outgoing.queued_bytes() == 0 && self.control.is_acknowledged()
    }

    pub(crate) fn close(&mut self, now: Instant, code: u32, reason: &str) {
        if self.is_closed() {
            return;
        }
        self.phase = Phase::Closed;
        self.quic.close(now, VarInt::from_u32(code), Bytes::copy_from_slice(reason.as_bytes()));
        self.notices.push_back(Notice::Broken(CloseReason::ByUs));
    }

    /// Ends a connection whose peer cannot be reached, without waiting for time to tell.
    pub(crate) fn give_up(&mut self, now: Instant, reason: CloseReason) {
        if self.is_closed() {
            return;
        }
        self.phase = Phase::Closed;
        self.quic.close(now, PROTOCOL_ERROR, Bytes::new());
        self.notices.push_back(Notice::Broken(reason));
    }

    /// The path carries again, after it carried nothing: something is sent at once. The timers that would find out that all
    /// under way is lost have doubled with each probe that was not answered (RFC 9002 section 6.2.1).
    pub(crate) fn try_again(&mut self) {
        if self.is_established() {
            self.quic.ping();
        }
    }

    /// Queues one datagram that the peer throws away. Returns false when enough of them wait: more would only delay what
    /// is said after them.
    pub(crate) fn send_filler(&mut self, filler: &Bytes) -> bool {
        let queued = FILLER_BYTES.saturating_sub(self.quic.datagrams().send_buffer_space()) as u64;
        if queued >= 2 * self.meter.window() {
            return false;
        }
        let Some(most) = self.quic.datagrams().max_size() else { return false };
        let datagram = filler.slice(..filler.len().min(most));
        self.quic.datagrams().send(datagram, false).is_ok()
    }

    pub(crate) fn estimates(&self) -> Estimates {
        let path = self.quic.stats().path;
        Estimates {
            rtt: path.rtt,
            rtt_min: path.min_rtt.min(path.rtt),
            packets_sent: path.sent_packets,
            packets_lost: path.lost_packets,
            delivery_rate_bytes: self.meter.rate(),
            delivered_bytes: self.meter.delivered(),
            in_flight_bytes: self.meter.in_flight(),
            window_bytes: self.meter.window(),
            queued_bytes: self.outgoing.queued_bytes(),
            datagram_bytes: path.current_mtu,
            mtu_probes: (path.sent_plpmtud_probes, path.lost_plpmtud_probes),
        }
    }

    pub(crate) fn lost_bytes(&self) -> u64 {
        self.meter.lost()
    }
}
