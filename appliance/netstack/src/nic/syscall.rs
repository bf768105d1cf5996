//! System calls that no safe wrapper in our dependencies offers: AF_PACKET sockets and interface ioctls.
//! All of this crate's `unsafe` is here; each function checks lengths and leaves nothing borrowed behind.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::{self, MaybeUninit};
use std::num::NonZeroU16;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use super::port::FrameBuffer;

/// Length of `struct virtio_net_hdr` as PACKET_VNET_HDR exchanges it (linux/virtio_net.h, without num_buffers).
pub(crate) const VNET_HEADER: usize = 10;
/// Frames taken by one `recvmmsg`.
pub(crate) const RECEIVE_BATCH: usize = 16;

const PACKET_ADD_MEMBERSHIP: libc::c_int = 1;
const PACKET_STATISTICS: libc::c_int = 6;
const PACKET_AUXDATA: libc::c_int = 8;
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_QDISC_BYPASS: libc::c_int = 20;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const PACKET_MR_MULTICAST: libc::c_ushort = 0;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const VIRTIO_NET_HDR_GSO_NONE: u8 = 0;

/// `struct tpacket_auxdata` (linux/if_packet.h).
#[repr(C)]
#[derive(Clone, Copy)]
struct AuxiliaryData {
    status: u32,
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    vlan_tci: u16,
    vlan_tpid: u16,
}

/// Room for one PACKET_AUXDATA control message, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct ControlBuffer([u8; 64]);

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn set_option<T>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` lives through the call and its size is told; the kernel only reads it.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Opens an AF_PACKET socket for `index` that receives every protocol, with the offload header and without qdisc.
pub(crate) fn open_packet_socket(index: u32, receive_buffer: i32, send_buffer: i32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Protocol 0 receives nothing until bind, so that no frame of another interface gets in between.
    // SAFETY: no pointers; a non-negative result is a descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, kind, 0))?) };
    let on: libc::c_int = 1;
    for option in [PACKET_VNET_HDR, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING, PACKET_QDISC_BYPASS] {
        set_option(as_borrowed(&fd), libc::SOL_PACKET, option, &on)?;
    }
    // FORCE goes beyond net.core.rmem_max and needs CAP_NET_ADMIN, which whoever may open this socket usually has.
    set_option(as_borrowed(&fd), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &receive_buffer)
        .or_else(|_| set_option(as_borrowed(&fd), libc::SOL_SOCKET, libc::SO_RCVBUF, &receive_buffer))?;
    set_option(as_borrowed(&fd), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &send_buffer)
        .or_else(|_| set_option(as_borrowed(&fd), libc::SOL_SOCKET, libc::SO_SNDBUF, &send_buffer))?;
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: `address` is a sockaddr_ll whose length is told.
    check(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            ptr::from_ref(&address).cast(),
            mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })?;
    Ok(fd)
}

fn as_borrowed(fd: &OwnedFd) -> BorrowedFd<'_> {
    use std::os::fd::AsFd;
    fd.as_fd()
}

/// Asks the interface to receive a multicast address as long as the socket lives.
pub(crate) fn join_multicast(fd: BorrowedFd<'_>, index: u32, mac: [u8; 6]) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid packet_mreq.
    let mut request: libc::packet_mreq = unsafe { mem::zeroed() };
    request.mr_ifindex = index as i32;
    request.mr_type = PACKET_MR_MULTICAST;
    request.mr_alen = 6;
    request.mr_address[..6].copy_from_slice(&mac);
    set_option(fd, libc::SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request)
}

/// Packets received and dropped by the socket since the last call (PACKET_STATISTICS resets as it reads).
pub(crate) fn packet_statistics(fd: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let mut statistics = [0u32; 2];
    let mut length = mem::size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the buffer is as long as `length` tells; struct tpacket_stats is two u32.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_STATISTICS,
            statistics.as_mut_ptr().cast(),
            &mut length,
        )
    })?;
    Ok((statistics[0], statistics[1]))
}

/// Receives up to [`RECEIVE_BATCH`] frames without waiting; returns how many of `buffers` were filled.
pub(crate) fn receive_frames(fd: BorrowedFd<'_>, buffers: &mut [FrameBuffer]) -> io::Result<usize> {
    let count = buffers.len().min(RECEIVE_BATCH);
    let mut vnet = [[0u8; VNET_HEADER]; RECEIVE_BATCH];
    let mut control = [ControlBuffer([0; 64]); RECEIVE_BATCH];
    let mut vectors = [[libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; 2]; RECEIVE_BATCH];
    // SAFETY: all-zero bytes are a valid mmsghdr.
    let mut messages: [libc::mmsghdr; RECEIVE_BATCH] = unsafe { mem::zeroed() };
    for (slot, buffer) in buffers[..count].iter_mut().enumerate() {
        vectors[slot] = [
            libc::iovec { iov_base: vnet[slot].as_mut_ptr().cast(), iov_len: VNET_HEADER },
            libc::iovec { iov_base: buffer.bytes.as_mut_ptr().cast(), iov_len: buffer.bytes.len() },
        ];
        let header = &mut messages[slot].msg_hdr;
        header.msg_iov = vectors[slot].as_mut_ptr();
        header.msg_iovlen = 2;
        header.msg_control = control[slot].0.as_mut_ptr().cast();
        header.msg_controllen = 64;
    }
    // SAFETY: every pointer in `messages[..count]` leads to a local array or to a distinct element of `buffers`, all of
    // which outlive the call, with their true lengths. MSG_DONTWAIT: the timeout is not looked at.
    let received = check(unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            messages.as_mut_ptr(),
            count as libc::c_uint,
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    })? as usize;
    for slot in 0..received {
        let total = messages[slot].msg_len as usize;
        let truncated = messages[slot].msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let buffer = &mut buffers[slot];
        buffer.length = if truncated { 0 } else { total.saturating_sub(VNET_HEADER).min(buffer.bytes.len()) };
        let gso_size = u16::from_le_bytes([vnet[slot][4], vnet[slot][5]]);
        buffer.segment = if vnet[slot][1] == VIRTIO_NET_HDR_GSO_NONE { None } else { NonZeroU16::new(gso_size) };
        buffer.vlan = vlan_of(&messages[slot].msg_hdr);
    }
    Ok(received)
}

/// The VLAN identifier that the kernel took out of a received frame, if it had a tag.
fn vlan_of(header: &libc::msghdr) -> Option<u16> {
    // SAFETY: `header` was filled by recvmmsg and its control buffer is still alive in the caller; CMSG_FIRSTHDR
    // returns null or a header that lies wholly inside that buffer.
    let message = unsafe { libc::CMSG_FIRSTHDR(header).as_ref()? };
    if message.cmsg_level != libc::SOL_PACKET || message.cmsg_type != PACKET_AUXDATA {
        return None;
    }
    if (message.cmsg_len as usize) < mem::size_of::<libc::cmsghdr>() + mem::size_of::<AuxiliaryData>() {
        return None;
    }
    // SAFETY: the length was checked just above; the data may be unaligned, so it is copied out.
    let auxiliary = unsafe { ptr::read_unaligned(libc::CMSG_DATA(message).cast::<AuxiliaryData>()) };
    (auxiliary.status & TP_STATUS_VLAN_VALID != 0).then_some(auxiliary.vlan_tci & 0x0fff)
}

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// A socket for ioctls; any family does, and this one exists in every kernel that has AF_PACKET.
pub(crate) fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a non-negative result is a descriptor that nobody else owns.
    let fd = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn interface_ioctl(
    fd: BorrowedFd<'_>,
    command: libc::c_ulong,
    name: &str,
    fill: impl FnOnce(&mut libc::ifreq),
) -> io::Result<libc::ifreq> {
    let mut request = interface_request(name)?;
    fill(&mut request);
    // SAFETY: every command used in this file takes a pointer to one ifreq, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), command as _, &mut request) })?;
    Ok(request)
}

/// The hardware address of an interface; None if it is not Ethernet.
pub(crate) fn hardware_address(fd: BorrowedFd<'_>, name: &str) -> io::Result<Option<[u8; 6]>> {
    let request = interface_ioctl(fd, libc::SIOCGIFHWADDR as _, name, |_| {})?;
    // SAFETY: SIOCGIFHWADDR fills this member of the union.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    if address.sa_family != libc::ARPHRD_ETHER {
        return Ok(None);
    }
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(address.sa_data) {
        *to = from as u8;
    }
    Ok(Some(mac))
}

/// The interface's MTU: bytes of an IP packet.
pub(crate) fn mtu(fd: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    let request = interface_ioctl(fd, libc::SIOCGIFMTU as _, name, |_| {})?;
    // SAFETY: SIOCGIFMTU fills this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_mtu } as u32)
}

/// The interface's index.
pub(crate) fn interface_index(fd: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    let request = interface_ioctl(fd, libc::SIOCGIFINDEX as _, name, |_| {})?;
    // SAFETY: SIOCGIFINDEX fills this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex } as u32)
}

/// Sets the interface's MTU.
pub(crate) fn set_mtu(fd: BorrowedFd<'_>, name: &str, mtu: u32) -> io::Result<()> {
    interface_ioctl(fd, libc::SIOCSIFMTU as _, name, |request| request.ifr_ifru.ifru_mtu = mtu as libc::c_int).map(drop)
}

/// The interface's flags (IFF_UP, IFF_RUNNING, ...).
pub(crate) fn flags(fd: BorrowedFd<'_>, name: &str) -> io::Result<i32> {
    let request = interface_ioctl(fd, libc::SIOCGIFFLAGS as _, name, |_| {})?;
    // SAFETY: SIOCGIFFLAGS fills this member of the union.
    Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags } as u16))
}

/// Sets the interface's flags.
pub(crate) fn set_flags(fd: BorrowedFd<'_>, name: &str, flags: i32) -> io::Result<()> {
    interface_ioctl(fd, libc::SIOCSIFFLAGS as _, name, |request| {
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
    })
    .map(drop)
}

/// Runs one ethtool command. `data` is the command's structure as 32-bit words, the command number first; the caller
/// makes it as long as the command's structure says it is.
pub(crate) fn ethtool(fd: BorrowedFd<'_>, name: &str, data: &mut [u32]) -> io::Result<()> {
    if data.len() < 64 {
        // Fixed-size structures end within 256 bytes; whoever passes less could be written past its end.
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: the kernel reads and writes the command's structure, which is no longer than `data` (checked for the
    // fixed ones; for those with counts, the caller put the count of what is allocated into the structure).
    interface_ioctl(fd, SIOCETHTOOL, name, |request| {
        request.ifr_ifru.ifru_data = data.as_mut_ptr().cast();
    })
    .map(drop)
}

/// Index and name of every interface in this network namespace.
pub(crate) fn interfaces() -> Vec<(u32, String)> {
    let mut found = Vec::new();
    // SAFETY: if_nameindex returns null or an array that ends with an entry whose name is null; it is freed once,
    // after the names were copied.
    unsafe {
        let list = libc::if_nameindex();
        if list.is_null() {
            return found;
        }
        let mut entry = list;
        while (*entry).if_index != 0 && !(*entry).if_name.is_null() {
            found.push(((*entry).if_index, CStr::from_ptr((*entry).if_name).to_string_lossy().into_owned()));
            entry = entry.add(1);
        }
        libc::if_freenameindex(list);
    }
    found
}

/// IPv4 addresses, and IPv6 addresses other than link-local ones, that the kernel has on interface `name`.
pub(crate) fn kernel_addresses(name: &str) -> io::Result<Vec<std::net::IpAddr>> {
    let wanted = CString::new(name)?;
    let mut list = MaybeUninit::<*mut libc::ifaddrs>::uninit();
    // SAFETY: getifaddrs writes the head of a list on success.
    check(unsafe { libc::getifaddrs(list.as_mut_ptr()) })?;
    // SAFETY: written by the successful call above.
    let head = unsafe { list.assume_init() };
    let mut found = Vec::new();
    let mut entry = head;
    // SAFETY: the list is valid until freeifaddrs; each address has the type that its family tells.
    unsafe {
        while let Some(interface) = entry.as_ref() {
            if CStr::from_ptr(interface.ifa_name) == wanted.as_c_str()
                && let Some(address) = interface.ifa_addr.as_ref()
            {
                if address.sa_family as i32 == libc::AF_INET {
                    let v4 = &*interface.ifa_addr.cast::<libc::sockaddr_in>();
                    found.push(std::net::Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into());
                } else if address.sa_family as i32 == libc::AF_INET6 {
                    let v6 =
                        std::net::Ipv6Addr::from((*interface.ifa_addr.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr);
                    if !v6.is_unicast_link_local() {
                        found.push(v6.into());
                    }
                }
            }
            entry = interface.ifa_next;
        }
        libc::freeifaddrs(head);
    }
    Ok(found)
}
