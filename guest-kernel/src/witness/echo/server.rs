//! Answers over UDP and TCP. What is under way stands in the guest's memory, and so travels with it.

use core::fmt;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Address};
use virtio_drivers::transport::pci::PciTransport;

use crate::virtio::bus::BusError;
use crate::witness::echo::message::{MESSAGE_BYTES, Message};
use crate::witness::echo::nic::Nic;
use crate::witness::echo::{Address, PORT};

/// TCP connections at a time.
const CONNECTIONS: usize = 4;
const UDP_MESSAGES: usize = 32;
const UDP_BYTES: usize = UDP_MESSAGES * MESSAGE_BYTES;
const TCP_BYTES: usize = 2048;
/// Microseconds between two looks at the sockets' timers while no frame comes in.
const QUIET_US: u64 = 1000;

/// All that smoltcp wants to be lent.
struct Memory {
    sockets: [SocketStorage<'static>; CONNECTIONS + 1],
    udp_marks: [[udp::PacketMetadata; UDP_MESSAGES]; 2],
    udp_bytes: [[u8; UDP_BYTES]; 2],
    tcp_bytes: [[[u8; TCP_BYTES]; 2]; CONNECTIONS],
}

static mut MEMORY: Memory = Memory {
    sockets: [SocketStorage::EMPTY; CONNECTIONS + 1],
    udp_marks: [[udp::PacketMetadata::EMPTY; UDP_MESSAGES]; 2],
    udp_bytes: [[0; UDP_BYTES]; 2],
    tcp_bytes: [[[0; TCP_BYTES]; 2]; CONNECTIONS],
};

/// Why there is no echo.
#[derive(Debug)]
pub enum ServerError {
    /// The device's registers.
    Bus(BusError),
    /// It does not do what virtio demands.
    Device(virtio_drivers::Error),
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Bus(error) => error.fmt(f),
            Self::Device(error) => write!(f, "it does not come up: {error}"),
        }
    }
}

/// The echo at work.
pub struct Server {
    nic: Nic,
    interface: Interface,
    sockets: SocketSet<'static>,
    udp: SocketHandle,
    tcp: [SocketHandle; CONNECTIONS],
    /// Requests answered over UDP and TCP.
    answered: [u64; 2],
    tsc_hz: u64,
    /// TSC at the guest's first instruction, and at the latest look.
    first: u64,
    looked: u64,
}

impl Server {
    /// Listens at an address of the interface's network.
    ///
    /// # Errors
    /// [`ServerError`].
    ///
    /// # Safety
    /// There is one server at most, ever: its memory is static.
    pub unsafe fn new(
        transport: Result<PciTransport, BusError>,
        address: Address,
        tsc_hz: u64,
        first: u64,
    ) -> Result<Self, ServerError> {
        let (mut nic, mac) = Nic::new(transport.map_err(ServerError::Bus)?).map_err(ServerError::Device)?;
        let mut config = Config::new(EthernetAddress(mac).into());
        config.random_seed = first;
        let mut interface = Interface::new(config, &mut nic, Instant::ZERO);
        let [a, b, c, d] = address.octets;
        let own = IpCidr::new(Ipv4Address::new(a, b, c, d).into(), address.prefix);
        // There is room for one.
        interface.update_ip_addrs(|addresses| _ = addresses.push(own));
        // SAFETY: the caller makes one server.
        let memory = unsafe { (&raw mut MEMORY).as_mut() };
        let Some(memory) = memory else { unreachable!("a static lies somewhere") };
        let mut sockets = SocketSet::new(&mut memory.sockets[..]);
        let [marks_in, marks_out] = &mut memory.udp_marks;
        let [bytes_in, bytes_out] = &mut memory.udp_bytes;
        let mut socket = udp::Socket::new(
            udp::PacketBuffer::new(&mut marks_in[..], &mut bytes_in[..]),
            udp::PacketBuffer::new(&mut marks_out[..], &mut bytes_out[..]),
        );
        // It fails for port 0 and for a socket that is open.
        let _ = socket.bind(PORT);
        let udp = sockets.add(socket);
        let tcp = memory.tcp_bytes.each_mut().map(|[bytes_in, bytes_out]| {
            let (receive, send) =
                (tcp::SocketBuffer::new(&mut bytes_in[..]), tcp::SocketBuffer::new(&mut bytes_out[..]));
            sockets.add(tcp::Socket::new(receive, send))
        });
        Ok(Self { nic, interface, sockets, udp, tcp, answered: [0; 2], tsc_hz, first, looked: first })
    }

    /// Answers what came in by `now`, a TSC; `between` is called after each part that takes long.
    pub fn step(&mut self, now: u64, mut between: impl FnMut()) {
        let passed_us =
            |since: u64| (u128::from(now.saturating_sub(since)) * 1_000_000 / u128::from(self.tsc_hz)) as u64;
        if !self.nic.has_received() && passed_us(self.looked) < QUIET_US {
            return;
        }
        let clock_us = passed_us(self.first);
        self.looked = now;
        let instant = Instant::from_micros(clock_us.cast_signed());
        self.interface.poll(instant, &mut self.nic, &mut self.sockets);
        between();
        if self.answer_datagrams(clock_us) | self.answer_streams(clock_us) {
            self.interface.poll(instant, &mut self.nic, &mut self.sockets);
            between();
        }
        self.nic.tell();
        between();
    }

    fn answer_datagrams(&mut self, clock_us: u64) -> bool {
        let socket = self.sockets.get_mut::<udp::Socket>(self.udp);
        let mut any = false;
        while socket.can_send()
            && let Ok((bytes, from)) = socket.recv()
        {
            let Some(request) = Message::read(bytes) else { continue };
            self.answered[0] += 1;
            let answer = Message { number: request.number, answered: self.answered[0], clock_us };
            // There is room for one at least; one that cannot be sent is one lost, as on the way.
            let _ = socket.send_slice(&answer.bytes(), from.endpoint);
            any = true;
        }
        any
    }

    fn answer_streams(&mut self, clock_us: u64) -> bool {
        let mut any = false;
        for handle in self.tcp {
            let socket = self.sockets.get_mut::<tcp::Socket>(handle);
            if !socket.is_open() {
                // It fails for port 0 and for a socket that is open.
                let _ = socket.listen(PORT);
            }
            while socket.recv_queue() >= MESSAGE_BYTES && socket.send_capacity() - socket.send_queue() >= MESSAGE_BYTES
            {
                let mut bytes = [0; MESSAGE_BYTES];
                any = true;
                if socket.recv_slice(&mut bytes) != Ok(MESSAGE_BYTES) {
                    break;
                }
                let Some(request) = Message::read(&bytes) else {
                    // Whoever speaks another language is not listened to.
                    socket.abort();
                    break;
                };
                self.answered[1] += 1;
                let answer = Message { number: request.number, answered: self.answered[1], clock_us };
                // There is room for it.
                let _ = socket.send_slice(&answer.bytes());
            }
            if socket.may_send() && !socket.may_recv() {
                socket.close();
            }
        }
        any
    }

    /// Requests answered over UDP and over TCP.
    pub fn answered(&self) -> [u64; 2] {
        self.answered
    }
}
