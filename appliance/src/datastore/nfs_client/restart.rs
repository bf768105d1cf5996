//! Asks a server for the client of a host that is dead, restarts it, and ends it.

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
    /// The server is not reached; it keeps what it has.
    #[error("{}", crate::datastore::plain(.0))]
    Io(#[from] io::Error),
    /// The server does not do it, and keeps what it has.
    #[error("{0}")]
    Call(#[from] CallError),
    /// It is too late: what was known of the client may be so no more.
    #[error("it was not done in time")]
    TooLate,
    /// It was asked for the client and says nothing: another host may have told it, and it may not be done yet (nfs-ganesha answers nobody
    /// about a client that it is about to give up).
    #[error("the server does not say whether it has the client: {}", crate::datastore::plain(.0))]
    Silent(io::Error),
    /// The server has not said whether it is done with it.
    #[error("the server has not answered yet: {}", crate::datastore::plain(.0))]
    Unanswered(io::Error),
}

impl RestartError {
    /// What may be so after it, the worst last.
    fn gravity(&self) -> u8 {
        match self {
            Self::Io(_) | Self::Call(_) | Self::TooLate => 0,
            Self::Silent(_) => 1,
            Self::Unanswered(_) => 2,
        }
    }
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

/// Whether a server has a client of this boot of a host of this name, which it may keep something for. Changes nothing, and so may be asked of a
/// host that lives, too. Answered only when the server has done what it was told of that client before.
///
/// # Errors
/// It does not tell.
pub fn is_known(server: SocketAddr, boot: u128, host: &str) -> Result<bool, RestartError> {
    let mut is_known = false;
    for minor in MINORS {
        let owner = owner(minor, boot, host);
        let mut conversation = Conversation::open(server, minor, host)?;
        match conversation.ask(&Call::AskFor { owner: &owner, verifier: new_verifier()? }, PATIENCE) {
            Ok(_) | Err(RestartError::Call(CallError::OTHER_CLIENT)) => is_known = true,
            Err(RestartError::Call(CallError::NO_CLIENT | CallError::OTHER_VERSION)) => {}
            Err(RestartError::Io(error)) => return Err(RestartError::Silent(error)),
            Err(error) => return Err(error),
        }
    }
    Ok(is_known)
}

/// What is to be told of several tries: that one is not answered may hide behind no other failure.
fn worst<const N: usize>(outcomes: [Result<(), RestartError>; N]) -> Result<(), RestartError> {
    let failures = outcomes.into_iter().filter_map(Result::err);
    failures.max_by_key(RestartError::gravity).map_or(Ok(()), Err)
}

/// A verifier that no client had, which is the time at which it began.
fn new_verifier() -> io::Result<[u8; 8]> {
    let mut verifier = [0; 8];
    getrandom(&mut verifier[..], GetRandomFlags::empty())?;
    Ok(verifier)
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
    let introduce = Call::Introduce { owner: &owner, verifier: new_verifier()? };
    let client = match conversation.ask(&introduce, PATIENCE) {
        Ok(Answer::Introduced(client)) => client,
        Ok(_) => return Err(CallError::Malformed.into()),
        Err(RestartError::Io(error)) => return Err(RestartError::Silent(error)),
        Err(error) => return Err(error),
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

#[cfg(test)]
mod tests {
    use super::super::stand_in::{Heard, StandIn};
    use super::*;

    const BOOT: u128 = 7;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(600)
    }

    #[test]
    fn a_server_is_asked_for_a_client_without_a_change_and_knows_none_when_it_was_restarted_and_ended() {
        let server = StandIn::with(&[owner(2, BOOT, "host-b")]);
        for _ in 0..2 {
            assert!(is_known(server.address(), BOOT, "host-b").expect("it tells"));
        }
        assert!(!is_known(server.address(), BOOT + 1, "host-b").expect("it tells"), "a later boot is another client");
        restart(server.address(), BOOT, "host-b", soon()).expect("done");
        assert!(!is_known(server.address(), BOOT, "host-b").expect("it tells"));
        // Who asked first meanwhile is told so, and another restart does no harm.
        restart(server.address(), BOOT, "host-b", soon()).expect("done");
        assert_eq!(server.known(), Vec::<String>::new());
    }

    #[test]
    fn a_client_that_was_dead_for_too_long_ago_a_look_is_left_alone() {
        let server = StandIn::with(&[owner(2, BOOT, "host-b")]);
        let outcome = restart(server.address(), BOOT, "host-b", Instant::now());
        assert!(matches!(outcome, Err(RestartError::TooLate)), "{outcome:?}");
        assert_eq!(server.known(), [owner(2, BOOT, "host-b")]);
        assert!(!server.heard().contains(&Heard::Confirm));
    }

    #[test]
    fn a_server_that_says_nothing_of_a_client_may_be_giving_it_up_and_one_that_is_not_reached_is_not() {
        let server = StandIn::silent();
        let outcome = restart(server.address(), BOOT, "host-b", soon());
        assert!(matches!(outcome, Err(RestartError::Silent(_))), "{outcome:?}");
        let outcome = is_known(server.address(), BOOT, "host-b");
        assert!(matches!(outcome, Err(RestartError::Silent(_))), "{outcome:?}");
        let closed = StandIn::gone();
        let outcome = restart(closed, BOOT, "host-b", soon());
        assert!(matches!(outcome, Err(RestartError::Io(_))), "{outcome:?}");
    }

    #[test]
    fn what_the_server_has_not_answered_hides_behind_no_other_failure() {
        let io = || io::Error::from(io::ErrorKind::TimedOut);
        let outcome = worst([Err(RestartError::Unanswered(io())), Err(RestartError::Io(io()))]);
        assert!(matches!(outcome, Err(RestartError::Unanswered(_))));
        let outcome = worst([Err(RestartError::Silent(io())), Err(RestartError::TooLate)]);
        assert!(matches!(outcome, Err(RestartError::Silent(_))));
        assert!(worst([Ok(()), Ok(())]).is_ok());
    }
}
