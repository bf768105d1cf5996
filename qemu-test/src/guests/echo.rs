//! A connection to the echo of a witness, held across its moves.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use witness_kernel::witness::echo::PORT;
use witness_kernel::witness::echo::message::{MESSAGE_BYTES, Message};

use crate::error::{Doing, LabError, Result};
use crate::wait;
use crate::wire::Wires;

/// How long an answer may take: TCP asks again after a stun, each time twice as late.
const SILENCE_BOUND: Duration = Duration::from_secs(120);
/// How long one attempt to connect may take.
const ATTEMPT_BOUND: Duration = Duration::from_secs(2);

/// An open connection, and what it heard last.
pub struct Echo {
    stream: TcpStream,
    last: Message,
}

impl Echo {
    /// Connects to a witness from the lab's end of the wires, as soon as it answers within `bound`.
    pub fn connect(wires: &Wires, address: Ipv4Addr, bound: Duration) -> Result<Self> {
        let to = SocketAddr::from((address, PORT));
        let stream = wait::until(&format!("the echo at {to} to answer"), bound, || {
            let connected = wires.enter(|| TcpStream::connect_timeout(&to, ATTEMPT_BOUND))?;
            Ok(connected.map_err(|error| error.to_string()))
        })?;
        stream.set_nodelay(true).doing("setting up the client of an echo")?;
        stream.set_read_timeout(Some(SILENCE_BOUND)).doing("setting up the client of an echo")?;
        Ok(Self { stream, last: Message::default() })
    }

    /// Asks once more. The answer has to be the one to this request and to no other, of a guest that has answered all of them
    /// once and whose clock went on.
    pub fn ask(&mut self) -> Result<()> {
        let request = Message { number: self.last.number + 1, ..Message::default() };
        self.stream.write_all(&request.bytes()).doing("asking an echo")?;
        let mut bytes = [0; MESSAGE_BYTES];
        self.stream.read_exact(&mut bytes).doing("hearing an echo")?;
        let answer = Message::read(&bytes);
        let follows = answer.filter(|answer| follows(self.last, *answer));
        self.last = follows.ok_or_else(|| {
            LabError::Input(format!("an echo answered {answer:?} to {request:?}, after {:?}", self.last))
        })?;
        Ok(())
    }
}

fn follows(last: Message, answer: Message) -> bool {
    let counts = last.number == 0 || answer.answered == last.answered + 1;
    answer.number == last.number + 1 && counts && answer.clock_us > last.clock_us
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_doubled_skipped_or_of_an_older_clock_does_not_follow() {
        let message = |number, answered, clock_us| Message { number, answered, clock_us };
        assert!(follows(Message::default(), message(1, 7, 5)), "others may have asked before");
        let last = message(1, 7, 5);
        assert!(follows(last, message(2, 8, 6)));
        for wrong in [message(1, 8, 6), message(3, 8, 6), message(2, 7, 6), message(2, 9, 6), message(2, 8, 4)] {
            assert!(!follows(last, wrong), "{wrong:?}");
        }
    }
}
