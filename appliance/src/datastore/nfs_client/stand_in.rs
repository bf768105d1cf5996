//! A server of NFSv4.1 in a test: it knows clients by their owner strings, and does what it is told of them.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BufMut as _;

use super::compound::{CallError, length};

/// What a server was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It was asked for a client.
    AskFor(String),
    /// A client was introduced.
    Introduce(String),
    /// One was confirmed.
    Confirm,
    /// A session was ended.
    EndSession,
    /// A client was ended.
    EndClient,
}

#[derive(Debug, Default)]
struct State {
    known: Vec<String>,
    /// Those that were introduced, by the numbers that they were given.
    introduced: BTreeMap<u64, String>,
    introductions: u64,
    heard: Vec<Heard>,
}

/// The server, which ends with the process of the test.
#[derive(Debug)]
pub(crate) struct StandIn {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl StandIn {
    /// One that knows clients with these owner strings.
    pub(crate) fn with(owners: &[String]) -> Self {
        Self::answering(owners, true)
    }

    /// One that takes every call, and answers none.
    pub(crate) fn silent() -> Self {
        Self::answering(&[], false)
    }

    /// The address of one that is not there.
    pub(crate) fn gone() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        listener.local_addr().expect("it has one")
    }

    fn answering(owners: &[String], answers: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let address = listener.local_addr().expect("it has one");
        let state = Arc::new(Mutex::new(State { known: owners.to_vec(), ..State::default() }));
        let serves = Arc::clone(&state);
        std::thread::spawn(move || {
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept() {
                if answers {
                    let state = Arc::clone(&serves);
                    // Who asked hangs up.
                    std::thread::spawn(move || drop(serve(stream, &state)));
                } else {
                    open.push(stream);
                }
            }
        });
        Self { address, state }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The owner strings of the clients that it has.
    pub(crate) fn known(&self) -> Vec<String> {
        lock(&self.state).known.clone()
    }

    /// What it was told so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        lock(&self.state).heard.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    loop {
        let mut mark = [0; 4];
        stream.read_exact(&mut mark)?;
        let mut call = vec![0; length(mark).map_err(io::Error::other)?];
        stream.read_exact(&mut call)?;
        let answer = lock(state).answer(&call);
        let mut record = Vec::new();
        record.put_u32(1 << 31 | answer.len() as u32);
        record.extend(answer);
        stream.write_all(&record)?;
    }
}

impl State {
    /// Answers a call that is well formed, as [`super::compound::Call::record`] makes it.
    fn answer(&mut self, call: &[u8]) -> Vec<u8> {
        let word = |at: usize| u32::from_be_bytes(call[at..at + 4].try_into().expect("four bytes"));
        // Behind the credential come its verifier, the tag, the minor version, the number of operations, and the operation.
        let operation_at = 32 + word(28) as usize + 20;
        let (operation, arguments) = (word(operation_at), operation_at + 4);
        let number = || u64::from(word(arguments)) << 32 | u64::from(word(arguments + 4));
        let (status, result) = match operation {
            42 => {
                let bytes = word(arguments + 8) as usize;
                let owner = String::from_utf8(call[arguments + 12..][..bytes].to_vec()).expect("an owner string");
                let flags = word(arguments + 12 + bytes.next_multiple_of(4));
                self.exchange(owner, flags & 0x4000_0000 != 0)
            }
            43 => {
                self.heard.push(Heard::Confirm);
                let owner = self.introduced.get(&number()).expect("it was introduced").clone();
                // What it had before ends, and what stands in for it has its name.
                self.known.retain(|known| *known != owner);
                self.known.push(owner);
                (0, vec![0; 4])
            }
            44 => {
                self.heard.push(Heard::EndSession);
                (0, Vec::new())
            }
            _ => {
                self.heard.push(Heard::EndClient);
                let owner = self.introduced.remove(&number()).expect("it was introduced");
                self.known.retain(|known| *known != owner);
                (0, Vec::new())
            }
        };
        let words = [word(0), 1, 0, 0, 0, 0, status, 0, 1, operation, status].into_iter().chain(result);
        words.flat_map(u32::to_be_bytes).collect()
    }

    fn exchange(&mut self, owner: String, is_asked_for: bool) -> (u32, Vec<u32>) {
        if is_asked_for {
            let CallError::Status(status) =
                (if self.known.contains(&owner) { CallError::OTHER_CLIENT } else { CallError::NO_CLIENT })
            else {
                unreachable!("both are statuses")
            };
            self.heard.push(Heard::AskFor(owner));
            return (status, Vec::new());
        }
        self.heard.push(Heard::Introduce(owner.clone()));
        self.introductions += 1;
        self.introduced.insert(self.introductions, owner);
        (0, vec![0, self.introductions as u32, 1])
    }
}
