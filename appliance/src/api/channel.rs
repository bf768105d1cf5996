//! Messages between roles: one postcard value a packet on a unix SOCK_SEQPACKET socket, with descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use model::limits;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    recvmsg, sendmsg, socket_with, socketpair,
};
use rustix::process::Pid;
use rustix::time::Timespec;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Descriptors that may lie beside one message.
const DESCRIPTORS_MAX: usize = 32;
/// How long a send, or a connect, waits for the other side: a role that is stopped, or hangs, must not hold this one.
const SEND_BOUND: Duration = Duration::from_millis(limits::API_SEND_MS_MAX);

/// Why a message did not go or come.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other side is gone.
    #[error("the other side closed the connection")]
    Closed,
    /// Nothing came in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The other side did not read earlier messages in time.
    #[error("the other side did not take the message within {} ms", .0.as_millis())]
    NotTaken(Duration),
    /// The message is larger than `API_MESSAGE_BYTES_MAX`.
    #[error("the message has more than {} bytes", limits::API_MESSAGE_BYTES_MAX)]
    TooLong,
    /// What came is not such a message.
    #[error("the message cannot be read")]
    Malformed(#[source] postcard::Error),
    /// The socket failed.
    #[error("the socket failed")]
    Socket(#[from] io::Error),
}

impl From<rustix::io::Errno> for ChannelError {
    fn from(errno: rustix::io::Errno) -> Self {
        match errno {
            rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET => Self::Closed,
            errno => Self::Socket(errno.into()),
        }
    }
}

/// One end of a connection that sends `S` and receives `R`.
#[derive(Debug)]
pub struct Channel<S, R> {
    socket: OwnedFd,
    messages: PhantomData<fn(S) -> R>,
}

impl<S, R> AsFd for Channel<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S: Serialize, R: DeserializeOwned> Channel<S, R> {
    /// Takes over a connected socket, for instance one that came beside a message.
    pub fn of(socket: OwnedFd) -> Self {
        bound_sends(&socket);
        Self { socket, messages: PhantomData }
    }

    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Nobody listens there, or who listens took no connection within `API_SEND_MS_MAX`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::connect_within(path, SEND_BOUND)
    }

    /// The same with a bound of one's own.
    ///
    /// # Errors
    /// Nobody listens there, or who listens took no connection within `bound`.
    pub fn connect_within(path: &Path, bound: Duration) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // It bounds the wait for a place in the listener's queue too (unix(7) sockets).
        set_socket_timeout(&socket, Timeout::Send, Some(bound))?;
        connect(&socket, &SocketAddrUnix::new(path)?).map_err(|errno| match errno {
            rustix::io::Errno::AGAIN => {
                let words = format!("who listens took no connection within {} ms", bound.as_millis());
                io::Error::new(io::ErrorKind::TimedOut, words)
            }
            errno => errno.into(),
        })?;
        Ok(Self::of(socket))
    }

    /// Two connected ends.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn pair() -> io::Result<(Self, Channel<R, S>)> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        bound_sends(&b);
        Ok((Self::of(a), Channel { socket: b, messages: PhantomData }))
    }

    /// Sends a message and, beside it, descriptors.
    ///
    /// # Errors
    /// The message is too long, the other side is gone, or it took no message within `API_SEND_MS_MAX`.
    pub fn send(&self, message: &S, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.send_with(message, descriptors, SendFlags::NOSIGNAL)
    }

    /// Sends a message unless that would have to wait for the other side to read earlier ones.
    ///
    /// # Errors
    /// As [`Channel::send`], or the other side is too slow.
    pub fn send_at_once(&self, message: &S) -> Result<(), ChannelError> {
        self.send_with(message, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }

    fn send_with(&self, message: &S, descriptors: &[BorrowedFd<'_>], flags: SendFlags) -> Result<(), ChannelError> {
        let bytes = postcard::to_stdvec(message).map_err(ChannelError::Malformed)?;
        if bytes.len() as u64 > limits::API_MESSAGE_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(ChannelError::TooLong);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            beside.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let sent = rustix::io::retry_on_intr(|| sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut beside, flags));
        match sent {
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::AGAIN) if flags.contains(SendFlags::DONTWAIT) => {
                Err(ChannelError::NotTaken(Duration::ZERO))
            }
            Err(rustix::io::Errno::AGAIN) => Err(ChannelError::NotTaken(SEND_BOUND)),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for the next message and the descriptors beside it.
    ///
    /// # Errors
    /// The other side is gone, or sent what is not such a message.
    pub fn receive(&self) -> Result<(R, Vec<OwnedFd>), ChannelError> {
        let max = usize::try_from(limits::API_MESSAGE_BYTES_MAX).unwrap_or(usize::MAX);
        let mut bytes = vec![0; max];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut beside, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        let mut descriptors = Vec::new();
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.bytes == 0 && descriptors.is_empty() {
            return Err(ChannelError::Closed);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(ChannelError::TooLong);
        }
        let message = postcard::from_bytes(&bytes[..received.bytes]).map_err(ChannelError::Malformed)?;
        Ok((message, descriptors))
    }

    /// As [`Channel::receive`], but gives up after `bound`.
    ///
    /// # Errors
    /// As [`Channel::receive`], or nothing came in time.
    pub fn receive_within(&self, bound: Duration) -> Result<(R, Vec<OwnedFd>), ChannelError> {
        if wait_readable(self.socket.as_fd(), bound)? { self.receive() } else { Err(ChannelError::Timeout(bound)) }
    }

    /// Sends a request and waits for its answer, on a connection that carries nothing else meanwhile.
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::receive_within`].
    pub fn ask(
        &self,
        request: &S,
        descriptors: &[BorrowedFd<'_>],
        bound: Duration,
    ) -> Result<(R, Vec<OwnedFd>), ChannelError> {
        self.send(request, descriptors)?;
        self.receive_within(bound)
    }

    /// Whether the other side has closed the connection, or its sending half, and nothing that it sent is left to read. (By recvmsg(2), which is all
    /// that a monitor's filter lets through for this.)
    pub fn is_left(&self) -> bool {
        let mut nothing = RecvAncillaryBuffer::default();
        let mut first = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut first)], &mut nothing, flags) {
            // No message is empty.
            Ok(received) => received.bytes == 0,
            // Told once of a peer that left without reading all (unix(7)).
            Err(errno) => errno == rustix::io::Errno::CONNRESET,
        }
    }

    /// The process at the other end: of a connection that was made by its path, the one that listened when it was made.
    pub fn peer(&self) -> Option<Pid> {
        Some(socket_peercred(&self.socket).ok()?.pid)
    }

    /// Ends the connection for both sides and for whoever waits on it, whoever else has it. What was sent is still read.
    pub fn shut(&self) {
        // It is refused only where it has ended already.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// The socket itself, to hand it to another role.
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

fn bound_sends(socket: &OwnedFd) {
    // It is refused only by what is no socket, and that says so at the first message.
    let _ = set_socket_timeout(socket, Timeout::Send, Some(SEND_BOUND));
}

/// Whether the descriptor became readable (or its other end went away) within `bound`.
///
/// # Errors
/// The descriptor cannot be polled.
pub fn wait_readable(descriptor: BorrowedFd<'_>, bound: Duration) -> io::Result<bool> {
    let deadline = std::time::Instant::now() + bound;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

/// A socket on which a role listens.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Listener {
    /// Listens at `path`, in the place of whoever listened there before.
    ///
    /// # Errors
    /// The folder is not there or not writable.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, 64)?;
        Ok(Self { socket })
    }

    /// Takes over a listening socket that another role bound.
    pub fn of(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// The socket itself, to hand it to another role.
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn accept<S: Serialize, R: DeserializeOwned>(&self) -> io::Result<Channel<S, R>> {
        let socket = rustix::io::retry_on_intr(|| accept_with(&self.socket, SocketFlags::CLOEXEC))?;
        Ok(Channel::of(socket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn a_message_and_its_descriptors_arrive_together() {
        let (here, there) = Channel::<String, u32>::pair().expect("sockets");
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        here.send(&"take this".to_owned(), &[writer.as_fd()]).expect("sent");
        drop(writer);
        let (text, descriptors) = there.receive().expect("received");
        assert_eq!((text.as_str(), descriptors.len()), ("take this", 1));
        let mut writer = std::fs::File::from(descriptors.into_iter().next().expect("one"));
        writer.write_all(b"x").expect("written");
        drop(writer);
        let mut read = String::new();
        reader.read_to_string(&mut read).expect("read");
        assert_eq!(read, "x");
    }

    #[test]
    fn silence_and_a_lost_peer_are_told_apart() {
        let (here, there) = Channel::<u32, u32>::pair().expect("sockets");
        assert!(matches!(here.receive_within(Duration::from_millis(1)), Err(ChannelError::Timeout(_))));
        drop(there);
        assert!(matches!(here.receive_within(Duration::from_secs(10)), Err(ChannelError::Closed)));
        assert!(matches!(here.send(&1, &[]), Err(ChannelError::Closed)));
    }

    #[test]
    fn a_message_over_the_bound_is_refused_before_it_is_sent() {
        let (here, _there) = Channel::<Vec<u8>, u32>::pair().expect("sockets");
        assert!(matches!(here.send(&vec![0; 70_000], &[]), Err(ChannelError::TooLong)));
    }

    /// What `work` returns, done on another thread; it fails if that takes longer than anything may.
    fn ends<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(work()));
        receiver.recv_timeout(SEND_BOUND * 10).expect("it does not wait for ever")
    }

    #[test]
    fn who_sends_to_one_that_does_not_read_is_told_so_in_the_end() {
        let (here, _there) = Channel::<Vec<u8>, u32>::pair().expect("sockets");
        let (bound, message) = (Duration::from_millis(50), vec![0; 60_000]);
        set_socket_timeout(&here.socket, Timeout::Send, Some(bound)).expect("set");
        let refused = ends(move || std::iter::repeat_with(|| here.send(&message, &[])).find_map(Result::err));
        assert!(matches!(refused, Some(ChannelError::NotTaken(_))), "{refused:?}");
    }

    #[test]
    fn every_channel_has_a_bound_on_its_sends() {
        let path = std::env::temp_dir().join(format!("godwit-channel-bound-{}", std::process::id()));
        let listener = Listener::bind(&path).expect("listens");
        let connected = Channel::<u32, u32>::connect(&path).expect("connected");
        let accepted = listener.accept::<u32, u32>().expect("accepted");
        let (one, other) = Channel::<u32, u32>::pair().expect("sockets");
        std::fs::remove_file(&path).expect("removed");
        for channel in [&connected, &accepted, &one, &other] {
            let bound = rustix::net::sockopt::socket_timeout(&channel.socket, Timeout::Send).expect("asked");
            assert_eq!(bound, Some(SEND_BOUND));
        }
    }

    #[test]
    fn who_connects_to_one_that_accepts_nobody_is_told_so_in_the_end() {
        let path = std::env::temp_dir().join(format!("godwit-channel-queue-{}", std::process::id()));
        let _listener = Listener::bind(&path).expect("listens");
        let (there, bound) = (path.clone(), Duration::from_millis(50));
        let refused = ends(move || {
            let mut connected = Vec::new();
            loop {
                match Channel::<u32, u32>::connect_within(&there, bound) {
                    Ok(channel) => connected.push(channel),
                    Err(error) => break error,
                }
            }
        });
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(refused.to_string(), "who listens took no connection within 50 ms");
    }
}
