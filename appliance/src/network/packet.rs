//! Whole Ethernet frames of one protocol on one link (packet(7)): for DHCP before there is an address, and for the probe frames of
//! an uplink, which is a bridge's port.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// A socket for the frames of one protocol on one link.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
}

impl PacketSocket {
    /// Opens one for frames with this EtherType on the link of this index.
    pub fn open(index: u32, ether_type: u16) -> io::Result<Self> {
        // Protocol 0 until it is bound: otherwise frames of every link arrive in between.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None::<Protocol>)?;
        bind(&socket, index, ether_type)?;
        Ok(Self { socket })
    }

    /// Opens one for the frames with this EtherType that come by a bridge's port, with the tag of this VLAN or, if none, without a tag.
    /// A frame that is sent goes out on the port, and not to the bridge.
    ///
    /// The bridge takes what comes before a socket for one protocol would get it, and only one for all protocols comes first: of what it
    /// sees the kernel hands on what passes a filter. The tag is no part of a frame that is received.
    pub fn open_on_port(index: u32, ether_type: u16, vlan: Option<u16>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None::<Protocol>)?;
        filter(&socket, &incoming(ether_type, vlan))?;
        bind(&socket, index, libc::ETH_P_ALL as u16)?;
        Ok(Self { socket })
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(&self.socket, frame, SendFlags::empty())?;
        Ok(())
    }

    /// The next frame that waits, `None` if there is none.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((length, _)) => Ok(Some(&buffer[..length])),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn bind(socket: &OwnedFd, index: u32, ether_type: u16) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is plain data for which all zeroes is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ether_type.to_be();
    address.sll_ifindex = index.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a sockaddr_ll and `length` its size; the kernel only reads it.
    let outcome = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Passes frames with this EtherType that came in, and with the tag of this VLAN, or without one of any VLAN (priority tags have
/// VLAN 0, IEEE Std 802.1Q-2018, 6.9). The kernel has taken a tag off, and tells it beside the frame.
///
/// Classic BPF: Linux, `Documentation/networking/filter.rst`.
fn incoming(ether_type: u16, vlan: Option<u16>) -> [libc::sock_filter; 11] {
    const HALF_AT: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const WORD_AT: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const EQUALS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const ETHER_TYPE_AT: u32 = 12;
    const VLAN_ID: u32 = 0x0fff;
    // PACKET_OUTGOING, packet(7).
    const OUTGOING: u32 = 4;
    // Where the last two statements are.
    const ACCEPT: u8 = 9;
    const REJECT: u8 = 10;
    let beside = |what: libc::c_int| (libc::SKF_AD_OFF + what).cast_unsigned();
    let does = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    // The statement of this place goes on there if it is equal, or if not; a distance counts from the next one.
    let equal = |at: u8, k, to: u8| libc::sock_filter { code: EQUALS, jt: to - at - 1, jf: 0, k };
    let unequal = |at: u8, k, to: u8| libc::sock_filter { code: EQUALS, jt: 0, jf: to - at - 1, k };
    [
        does(HALF_AT, ETHER_TYPE_AT),
        unequal(1, ether_type.into(), REJECT),
        does(WORD_AT, beside(libc::SKF_AD_PKTTYPE)),
        equal(3, OUTGOING, REJECT),
        does(WORD_AT, beside(libc::SKF_AD_VLAN_TAG_PRESENT)),
        equal(5, 0, if vlan.is_none() { ACCEPT } else { REJECT }),
        does(WORD_AT, beside(libc::SKF_AD_VLAN_TAG)),
        does(AND, VLAN_ID),
        unequal(8, vlan.unwrap_or(0).into(), REJECT),
        does(RETURN, u32::MAX),
        does(RETURN, 0),
    ]
}

fn filter(socket: &OwnedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let option = (&raw const program).cast();
    // SAFETY: `option` is a sock_fprog and `size` its size; it points to `length` statements, which outlive the call and which the kernel
    // only copies.
    let outcome =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, option, size) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
