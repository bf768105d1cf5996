//! What a role may ask of `init`, on `/run/godwit/init.sock` (SOCK_SEQPACKET, one request and one answer a connection).

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    recv, send, socket_with,
};
use serde::{Deserialize, Serialize};

use super::supervise::Event;

/// The socket's place.
pub const SOCKET: &str = "/run/godwit/init.sock";
/// Most bytes of a message.
const MESSAGE_BYTES_MAX: usize = 4096;
/// How long `init` waits for a slow client, and a client for `init`.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `init` is asked to do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Order {
    /// Only report the roles.
    Report,
    /// Stop everything in order, then reboot.
    Reboot,
    /// Stop everything in order, then power off.
    Shutdown,
}

/// One supervised role, as `init` sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RoleReport {
    /// Name, with the terminal behind a dash for a console.
    pub title: String,
    /// Process, if it runs.
    pub pid: Option<u32>,
    /// How often it was started again since boot.
    pub restarts: u32,
}

/// Why an order did not reach `init`.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The socket could not be used (this machine was not booted by godwit, or `init` is stuck).
    #[error("init did not answer on {SOCKET}")]
    Unreachable(#[source] Errno),
    /// The answer made no sense.
    #[error("init answered with something that is not a report")]
    Garbled(#[source] postcard::Error),
}

/// Gives `order` to `init` and returns the roles as they are now. The order is carried out after the answer.
pub fn give(order: Order) -> Result<Vec<RoleReport>, OrderError> {
    give_at(Path::new(SOCKET), order)
}

fn give_at(path: &Path, order: Order) -> Result<Vec<RoleReport>, OrderError> {
    let answer = exchange(path, &[order as u8]).map_err(OrderError::Unreachable)?;
    postcard::from_bytes(&answer).map_err(OrderError::Garbled)
}

fn exchange(path: &Path, request: &[u8]) -> Result<Vec<u8>, Errno> {
    let socket = seqpacket()?;
    bound_waits(&socket)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    send(&socket, request, SendFlags::NOSIGNAL)?;
    let mut answer = vec![0; MESSAGE_BYTES_MAX];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    answer.truncate(length);
    Ok(answer)
}

/// Listens for orders in a thread of its own and passes them to the supervisor.
pub(super) fn listen_for(path: &Path, events: Sender<Event>) -> Result<(), Errno> {
    let _ = std::fs::remove_file(path);
    let socket = seqpacket()?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmod(path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    listen(&socket, 8)?;
    let serve = move || {
        while let Ok(client) = accept_with(&socket, SocketFlags::CLOEXEC).map(Some).or_else(retry) {
            // A client that says nothing, or nonsense, costs its own connection.
            if let Some(client) = client {
                let _ = serve_one(&client, &events);
            }
        }
    };
    std::thread::Builder::new().name("orders".into()).spawn(serve).map_err(|_| Errno::AGAIN)?;
    Ok(())
}

fn serve_one(client: &OwnedFd, events: &Sender<Event>) -> Result<(), Errno> {
    bound_waits(client)?;
    let mut request = [0_u8; 2];
    let (length, _) = recv(client, &mut request[..], RecvFlags::empty())?;
    let order = match request.get(..length) {
        Some([0]) => Order::Report,
        Some([1]) => Order::Reboot,
        Some([2]) => Order::Shutdown,
        _ => return Err(Errno::PROTO),
    };
    let (answer, report) = channel();
    events.send(Event::Ordered(order, answer)).map_err(|_| Errno::SHUTDOWN)?;
    let report = report.recv_timeout(PATIENCE).map_err(|_| Errno::TIMEDOUT)?;
    let bytes = postcard::to_allocvec(&report).map_err(|_| Errno::MSGSIZE)?;
    send(client, &bytes, SendFlags::NOSIGNAL).map(drop)
}

fn retry(error: Errno) -> Result<Option<OwnedFd>, Errno> {
    match error {
        Errno::INTR | Errno::CONNABORTED => Ok(None),
        // Out of descriptors or memory: give them time to come back.
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS => {
            std::thread::sleep(Duration::from_millis(100));
            Ok(None)
        }
        other => Err(other),
    }
}

fn seqpacket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

fn bound_waits(socket: &OwnedFd) -> Result<(), Errno> {
    set_socket_timeout(socket, Timeout::Recv, Some(PATIENCE))?;
    set_socket_timeout(socket, Timeout::Send, Some(PATIENCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reaches_init_and_is_answered_with_the_roles() {
        let path = std::env::temp_dir().join(format!("godwit-order-{}.sock", std::process::id()));
        let (sender, events) = channel();
        listen_for(&path, sender).unwrap();
        let role = RoleReport { title: "host".into(), pid: Some(7), restarts: 1 };
        let answer = role.clone();
        let supervisor = std::thread::spawn(move || match events.recv().unwrap() {
            Event::Ordered(order, reply) => {
                reply.send(vec![answer]).unwrap();
                order
            }
            Event::Ended(..) => panic!("no child ended"),
        });
        assert_eq!(exchange(&path, b"nonsense").unwrap(), b"", "nonsense ends the connection and orders nothing");
        assert_eq!(give_at(&path, Order::Shutdown).unwrap(), [role]);
        assert_eq!(supervisor.join().unwrap(), Order::Shutdown);
        std::fs::remove_file(&path).unwrap();
    }
}
