//! IP on the migration NIC: a smoltcp interface with one UDP port.
//!
//! Everything that arrives comes out of the first socket. Each peer gets a socket of its own to be sent to, so that a
//! host that does not answer ARP holds back nobody else; answers to strangers leave through the first, and are thrown
//! away when they wait for long.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, SocketHandle, SocketSet};
use smoltcp::socket::udp;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use super::claim::{Claim, Conflict};
use super::config::{StackConfig, StackError};
use super::neighbour::{self, Neighbour, Neighbours};
use crate::device::{FrameDevice, STAND_IN};
use crate::nic::Port;

/// Room for one batch and what wrapping round costs; each is taken before the next frame is looked at.
const RECEIVE_BYTES: usize = 140_000;
const RECEIVE_PACKETS: usize = 4;
/// Stand-ins that may wait for a neighbour.
const WAITING_MAX: usize = 6;
/// The sender of answers to strangers.
const STRANGERS: usize = 0;
const STRANGERS_WAIT_MAX: Duration = Duration::from_millis(500);

/// The IP layer over a port.
pub(crate) struct IpLayer<P> {
    pub(crate) device: FrameDevice<P>,
    interface: Interface,
    sockets: SocketSet<'static>,
    receiver: SocketHandle,
    senders: HashMap<usize, SocketHandle>,
    next_sender: usize,
    epoch: Instant,
    udp_port: u16,
    address: IpAddr,
    prefix: u8,
    has_gateway: bool,
    strangers_since: Option<Instant>,
    claim: Claim,
    neighbours: Neighbours,
}

impl<P: Port> IpLayer<P> {
    pub(crate) fn new(mut port: P, config: &StackConfig, now: Instant) -> Result<Self, StackError> {
        let cidr = check_address(config)?;
        join_multicast(&mut port, config.address)?;
        let mac = port.mac();
        let mut device = FrameDevice::new(port, config.port);
        let mut interface_config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        // Only for identifiers of fragments and the like; nothing that must not be guessed.
        interface_config.random_seed = u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 1]);
        let mut interface = Interface::new(interface_config, &mut device, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // The list has room for two.
            let _ = addresses.push(cidr);
        });
        match config.gateway {
            Some(IpAddr::V4(gateway)) => interface.routes_mut().add_default_ipv4_route(gateway).map(drop),
            Some(IpAddr::V6(gateway)) => interface.routes_mut().add_default_ipv6_route(gateway).map(drop),
            None => Ok(()),
        }
        .map_err(|_| config.gateway.map_or(StackError::BadPort, StackError::BadGateway))?;
        let mut sockets = SocketSet::new(Vec::new());
        let receiver = sockets.add(udp_socket(config.port, RECEIVE_PACKETS, RECEIVE_BYTES)?);
        Ok(Self {
            device,
            interface,
            sockets,
            receiver,
            senders: HashMap::from([(STRANGERS, receiver)]),
            next_sender: STRANGERS + 1,
            epoch: now,
            udp_port: config.port,
            address: config.address,
            prefix: config.prefix,
            has_gateway: config.gateway.is_some(),
            strangers_since: None,
            claim: Claim::new(now, config.address, mac),
            neighbours: Neighbours::default(),
        })
    }

    /// Goes on over another port.
    pub(crate) fn replace_port(&mut self, mut port: P, now: Instant) -> Result<(), StackError> {
        join_multicast(&mut port, self.address)?;
        let mac = port.mac();
        self.device.port = port;
        self.interface.set_hardware_addr(HardwareAddress::Ethernet(EthernetAddress(mac)));
        // To be asked is how they learn where we are now.
        self.forget_neighbours();
        self.claim = Claim::new(now, self.address, mac);
        Ok(())
    }

    /// Lets smoltcp ask for every neighbour anew: a change of our addresses makes it forget them, and nothing else does.
    fn forget_neighbours(&mut self) {
        self.interface.update_ip_addrs(|_| {});
    }

    /// Tells whether packets for `peer` have a way out.
    pub(crate) fn check_route(&self, peer: SocketAddr) -> Result<(), StackError> {
        if peer.ip() == self.address {
            return Err(StackError::OurselvesAsPeer(peer));
        }
        let same_version = peer.is_ipv4() == self.address.is_ipv4();
        let network = IpCidr::new(IpAddress::from(self.address), self.prefix);
        if same_version && (self.has_gateway || network.contains_addr(&IpAddress::from(peer.ip()))) {
            return Ok(());
        }
        Err(StackError::NoRoute { peer, address: self.address, prefix: self.prefix })
    }

    fn at(&self, now: Instant) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(now.saturating_duration_since(self.epoch).as_micros() as i64)
    }

    /// Looks at one received frame. `datagrams` gets what it held for our port: payload, sender, segment size.
    /// Returns false when there is none.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        mut datagrams: impl FnMut(&[u8], SocketAddr, Option<NonZeroU16>),
    ) -> bool {
        let at = self.at(now);
        let result = self.interface.poll_ingress_single(at, &mut self.device, &mut self.sockets);
        if matches!(result, PollIngressSingleResult::None) {
            return false;
        }
        if let Some(said) = self.device.take_said() {
            if self.neighbours.hear(now, &said, self.address) {
                self.forget_neighbours();
            }
            self.claim.hear(now, &said);
        }
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.receiver);
        while let Ok((payload, meta)) = socket.recv() {
            datagrams(payload, to_std(meta.endpoint), meta.meta.segmentation_offload_size);
        }
        true
    }

    /// A sender of its own for one peer.
    pub(crate) fn add_sender(&mut self) -> Result<usize, StackError> {
        let socket = self.sockets.add(udp_socket(self.udp_port, 1, 1)?);
        let number = self.next_sender;
        self.next_sender += 1;
        self.senders.insert(number, socket);
        Ok(number)
    }

    /// Throws a sender away, with what still waits in it.
    pub(crate) fn remove_sender(&mut self, number: usize) {
        if let Some(socket) = self.senders.remove(&number) {
            self.sockets.remove(socket);
            self.device.forget_batches(number);
        }
    }

    /// Whether what was given to `sender` has not left, because its neighbour does not answer.
    pub(crate) fn is_waiting(&self, sender: usize) -> bool {
        let Some(handle) = self.senders.get(&sender) else { return false };
        self.sockets.get::<udp::Socket<'_>>(*handle).send_queue() > 0
    }

    /// A batch to fill for `sender`, if one is free and the sender may have another.
    pub(crate) fn start_batch(&mut self, sender: usize) -> Option<usize> {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(*self.senders.get(&sender)?);
        if !socket.can_send() || self.device.is_blocked() {
            return None;
        }
        self.device.free_batch()
    }

    /// Sends a filled batch.
    pub(crate) fn send_batch(&mut self, now: Instant, sender: usize, batch: usize, to: SocketAddr) {
        let Some(handle) = self.senders.get(&sender) else { return };
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(*handle);
        if socket.send_slice(&(batch as u64).to_le_bytes(), IpEndpoint::from(to)).is_err() {
            return;
        }
        if let Some(batch) = self.device.batch_mut(batch) {
            batch.owner = Some(sender);
        }
        if sender == STRANGERS && self.strangers_since.is_none() {
            self.strangers_since = Some(now);
        }
        let at = self.at(now);
        self.interface.poll_egress(at, &mut self.device, &mut self.sockets);
    }

    /// Sends an answer that belongs to no connection; it is lost if there is no room.
    pub(crate) fn answer(&mut self, now: Instant, datagram: &[u8], to: SocketAddr) {
        let Some(number) = self.start_batch(STRANGERS) else { return };
        if let Some(batch) = self.device.batch_mut(number) {
            batch.body.clear();
            batch.body.extend_from_slice(datagram);
            batch.segment = None;
        }
        self.send_batch(now, STRANGERS, number, to);
    }

    /// Retries what waits for a neighbour or for the NIC, and forgets answers that waited for long.
    pub(crate) fn maintain(&mut self, now: Instant) {
        self.device.flush();
        while let Some(word) = self.claim.poll(now) {
            let mac = self.device.port.mac();
            self.device.send_alone(&neighbour::frame(word, mac, self.address));
        }
        let at = self.at(now);
        self.interface.poll_maintenance(at);
        self.interface.poll_egress(at, &mut self.device, &mut self.sockets);
        let Some(since) = self.strangers_since else { return };
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.receiver);
        let empty = socket.send_queue() == 0;
        if !empty && now.saturating_duration_since(since) > STRANGERS_WAIT_MAX {
            socket.close();
            // The port is not 0 and the socket was just closed: neither error of bind is possible.
            let _ = socket.bind(self.udp_port);
            self.device.forget_batches(STRANGERS);
            self.strangers_since = None;
        } else if empty {
            self.strangers_since = None;
        }
    }

    /// When `maintain` is to be called next.
    pub(crate) fn next_timeout(&mut self, now: Instant) -> Option<Instant> {
        if self.device.is_blocked() {
            return Some(now + Duration::from_micros(50));
        }
        let at = self.at(now);
        let delay = self.interface.poll_delay(at, &self.sockets);
        let sockets = delay.map(|delay| now + Duration::from_micros(delay.total_micros().max(1_000)));
        sockets.into_iter().chain(self.claim.next_timeout()).min()
    }

    /// Who else uses our address.
    pub(crate) fn conflict(&self) -> Option<Conflict> {
        self.claim.conflict()
    }

    /// The same, where it changed since the last call.
    pub(crate) fn news_of_conflict(&mut self) -> Option<Option<Conflict>> {
        self.claim.news()
    }

    /// Who spoke to us, by ARP and neighbour discovery.
    pub(crate) fn neighbours(&self, now: Instant) -> Vec<Neighbour> {
        self.neighbours.all(now)
    }
}

fn join_multicast(port: &mut impl Port, address: IpAddr) -> Result<(), StackError> {
    let IpAddr::V6(address) = address else { return Ok(()) };
    let last = address.octets();
    // Solicited-node multicast, RFC 4291 section 2.7.1, on Ethernet (RFC 2464 section 7).
    let joined = port
        .join_multicast([0x33, 0x33, 0xff, last[13], last[14], last[15]])
        .and_then(|()| port.join_multicast([0x33, 0x33, 0, 0, 0, 1]));
    joined.map_err(|source| StackError::Multicast { nic: port.name().to_owned(), source })
}

fn check_address(config: &StackConfig) -> Result<IpCidr, StackError> {
    let bits = if config.address.is_ipv4() { 32 } else { 128 };
    let bad = StackError::BadAddress { address: config.address, prefix: config.prefix };
    if config.address.is_unspecified() || config.address.is_multicast() || !(1..bits).contains(&config.prefix) {
        return Err(bad);
    }
    if config.port == 0 {
        return Err(StackError::BadPort);
    }
    let cidr = IpCidr::new(IpAddress::from(config.address), config.prefix);
    if let Some(gateway) = config.gateway {
        let reachable = gateway.is_ipv4() == config.address.is_ipv4() && cidr.contains_addr(&IpAddress::from(gateway));
        if !reachable {
            return Err(StackError::BadGateway(gateway));
        }
    }
    Ok(cidr)
}

fn udp_socket(port: u16, packets: usize, bytes: usize) -> Result<udp::Socket<'static>, StackError> {
    let receive = udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; packets], vec![0; bytes]);
    let send =
        udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; WAITING_MAX], vec![0; WAITING_MAX * 2 * STAND_IN]);
    let mut socket = udp::Socket::new(receive, send);
    socket.bind(port).map_err(|_| StackError::BadPort)?;
    Ok(socket)
}

fn to_std(endpoint: IpEndpoint) -> SocketAddr {
    SocketAddr::new(endpoint.addr.into(), endpoint.port)
}
