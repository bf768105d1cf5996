//! TCP connections of the kernel, listed and ended as `ss` does (sock_diag(7), SOCK_DESTROY): what was handed to one that is ended and
//! was not acknowledged yet is not sent again.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_ESTABLISHED};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags, Timer};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use rustix::io::Errno;

use super::netlink::{Netlink, NetlinkError};

/// Retransmissions in a row after which a connection counts as stalled.
const STALLED_RETRANSMISSIONS: u8 = 2;

/// Ends every TCP connection from here to `server`, in the network namespace of this thread; gives how many. Needs
/// CAP_NET_ADMIN and the kernel's `tcp_diag` (with CONFIG_INET_DIAG_DESTROY).
///
/// # Errors
/// The kernel does not list them, or does not end one; the others end all the same.
pub fn end_connections(server: SocketAddr) -> Result<usize, NetlinkError> {
    let mut netlink = Netlink::open_sock_diag()?;
    let all = listed(&mut netlink, server)?;
    end(&mut netlink, server, all)
}

/// Ends those connections from here to `server` that are stalled and would not send again for `pause`; gives how many.
///
/// # Errors
/// As those of [`end_connections`].
pub fn end_stalled(server: SocketAddr, pause: Duration) -> Result<usize, NetlinkError> {
    let mut netlink = Netlink::open_sock_diag()?;
    let stalled =
        listed(&mut netlink, server)?.into_iter().filter(|connection| is_stalled(connection, pause)).collect();
    end(&mut netlink, server, stalled)
}

/// Whether a connection from here to `server` is stalled and will not send again for `pause`.
///
/// # Errors
/// The kernel does not list them.
pub fn has_stalled(server: SocketAddr, pause: Duration) -> Result<bool, NetlinkError> {
    let listed = listed(&mut Netlink::open_sock_diag()?, server)?;
    Ok(listed.iter().any(|connection| is_stalled(connection, pause)))
}

/// What it sent last went unanswered several times, and it waits before it sends it once more (RFC 6298, 5.5).
fn is_stalled(connection: &InetResponseHeader, pause: Duration) -> bool {
    let waits = matches!(connection.timer, Some(Timer::Retransmit(left, count))
        if count >= STALLED_RETRANSMISSIONS && left > pause);
    connection.state == TCP_ESTABLISHED && waits
}

fn listed(netlink: &mut Netlink, server: SocketAddr) -> Result<Vec<InetResponseHeader>, NetlinkError> {
    let to_server = |id: &SocketId| id.destination_address == server.ip() && id.destination_port == server.port();
    let listed = netlink.dump(SockDiagMessage::InetRequest(request(server.ip(), any(server.ip()))))?;
    let connections = listed.into_iter().filter_map(|message| match message {
        SockDiagMessage::InetResponse(response) => Some(response.header),
        _ => None,
    });
    Ok(connections.filter(|connection| to_server(&connection.socket_id)).collect())
}

fn end(netlink: &mut Netlink, server: SocketAddr, connections: Vec<InetResponseHeader>) -> Result<usize, NetlinkError> {
    let (mut ended, mut failed) = (0, Ok(()));
    for connection in connections {
        let end = SockDiagDestroy::new(SockDiagMessage::InetRequest(request(server.ip(), connection.socket_id)));
        match netlink.request(end, 0) {
            Ok(()) => ended += 1,
            // It ended by itself meanwhile.
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            Err(error) => failed = Err(error),
        }
    }
    failed.map(|()| ended)
}

fn any(family_of: IpAddr) -> SocketId {
    if family_of.is_ipv6() { SocketId::new_v6() } else { SocketId::new_v4() }
}

fn request(family_of: IpAddr, socket_id: SocketId) -> InetRequest {
    InetRequest {
        family: if family_of.is_ipv6() { AF_INET6 } else { AF_INET },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT,
        socket_id,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_to_a_server_end_at_once_and_those_to_another_go_on() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: ending connections needs root");
            return;
        }
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let [ended, other] = [(); 2].map(|()| {
                let listener = TcpListener::bind(loopback).expect("bound");
                let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
                client.write_all(b"sent before").expect("sent");
                (client, listener)
            });
            let (mut client, listener) = ended;
            assert_eq!(end_connections(listener.local_addr().expect("bound")).expect("ended"), 1);
            let error = client.write_all(b"sent after").expect_err("it is ended");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
            let (mut client, listener) = other;
            client.write_all(b", and after").expect("it goes on");
            drop(client);
            let mut heard = String::new();
            listener.accept().expect("connected").0.read_to_string(&mut heard).expect("heard");
            assert_eq!(heard, "sent before, and after");
        }
    }
}
