//! Restarts the client of a host that is dead, at its server, and ends it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};

use super::compound::{Answer, Call, CallError, length};
use super::owner::owner;

/// How long a connection, and each answer but one, is waited for: nothing of the host that asks may hang for long.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the answer is waited for before which the server gives up what the dead client has: some end its I/O first.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(6);
/// How often a server is asked that is not done with something, and the pause before.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(300);
/// The minor versions that a host may have spoken: NFSv4.1 and 4.2.
const MINORS: [u32; 2] = [1, 2];

/// Why a client was not restarted.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// The server is not reached, or does not answer in time; it keeps what it has.
    #[error("{}", crate::datastore::plain(.0))]
    Io(#[from] io::Error),
    /// The server does not do it, and keeps what it has.
    #[error("{0}")]
    Call(#[from] CallError),
    /// It is too late: what was known of the client may be so no more.
    #[error("it was not done in time")]
    TooLate,
    /// The server has not said whether it is done with it.
    #[error("the server has not answered yet: {}", crate::datastore::plain(.0))]
    Unanswered(io::Error),
}

/// Makes a server give up whatever it keeps for a boot of a host of this name, which was known to be dead until `by`. A client that it does
/// not know is none afterwards either. Takes some seconds where the server is slow.
///
/// # Errors
/// The server did not do it, or it is not known whether it did: it may be asked again.
pub fn restart(server: SocketAddr, boot: u128, host: &str, by: Instant) -> Result<(), RestartError> {
    // A host speaks one of them, and which is not known.
    worst(MINORS.map(|minor| restart_minor(server, minor, boot, host, by)))
}

/// What is to be told of several tries: that one is not answered may hide behind no other failure.
fn worst<const N: usize>(outcomes: [Result<(), RestartError>; N]) -> Result<(), RestartError> {
    let (silent, others): (Vec<_>, Vec<_>) =
        outcomes.into_iter().partition(|outcome| matches!(outcome, Err(RestartError::Unanswered(_))));
    silent.into_iter().chain(others).collect()
}

fn restart_minor(server: SocketAddr, minor: u32, boot: u128, host: &str, by: Instant) -> Result<(), RestartError> {
    let mut tries = 1;
    loop {
        match try_once(server, minor, boot, host, by) {
            Err(RestartError::Call(CallError::OTHER_VERSION)) => return Ok(()),
            // The old client has a request inside.
            Err(RestartError::Call(CallError::DELAY)) if tries < TRIES => tries += 1,
            outcome => return outcome,
        }
        std::thread::sleep(PAUSE);
    }
}

fn try_once(server: SocketAddr, minor: u32, boot: u128, host: &str, by: Instant) -> Result<(), RestartError> {
    let mut conversation = Conversation::open(server, minor, host)?;
    let owner = owner(minor, boot, host);
    // Any but the one that the client had, which was the time at which it began.
    let mut verifier = [0; 8];
    getrandom(&mut verifier[..], GetRandomFlags::empty()).map_err(io::Error::from)?;
    let Answer::Introduced(client) = conversation.ask(&Call::Introduce { owner: &owner, verifier }, PATIENCE)? else {
        return Err(CallError::Malformed.into());
    };
    if Instant::now() >= by {
        return Err(RestartError::TooLate);
    }
    let session = match conversation.ask(&Call::Confirm(client), CONFIRM_PATIENCE) {
        Ok(Answer::Confirmed(session)) => session,
        Ok(_) => return Err(CallError::Malformed.into()),
        Err(RestartError::Io(error)) => return Err(RestartError::Unanswered(error)),
        Err(error) => return Err(error),
    };
    // What the dead host had is given up by now. What stands in for it ends too; if it does not, the server misses it.
    for end in [Call::EndSession(session), Call::EndClient(client)] {
        if let Err(error) = conversation.ask(&end, PATIENCE) {
            log::debug!("{server}: {end:?}: {error}");
        }
    }
    Ok(())
}

struct Conversation<'a> {
    stream: TcpStream,
    minor: u32,
    host: &'a str,
    calls: u32,
}

impl<'a> Conversation<'a> {
    fn open(server: SocketAddr, minor: u32, host: &'a str) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, minor, host, calls: 0 })
    }

    fn ask(&mut self, call: &Call<'_>, patience: Duration) -> Result<Answer, RestartError> {
        self.calls += 1;
        self.stream.write_all(&call.record(self.calls, self.minor, self.host))?;
        let by = Instant::now() + patience;
        let mut mark = [0; 4];
        self.read(&mut mark, by)?;
        let mut body = vec![0; length(mark)?];
        self.read(&mut body, by)?;
        Ok(call.answer(self.calls, &body)?)
    }

    /// Fills `buffer` in time, also from a server that sends it byte by byte.
    fn read(&mut self, mut buffer: &mut [u8], by: Instant) -> io::Result<()> {
        while !buffer.is_empty() {
            let left = by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => buffer = &mut buffer[read..],
            }
        }
        Ok(())
    }
}
