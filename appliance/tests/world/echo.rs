//! A client outside that talks to a witness's echo, over UDP and TCP at the same time, from a network namespace of its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use witness_kernel::witness::echo::PORT;
use witness_kernel::witness::echo::judge::{Judge, Verdict};
use witness_kernel::witness::echo::message::{MESSAGE_BYTES, Message};

use super::cable::enter;
use super::{BOUND, wait};

/// Between two requests.
const PERIOD: Duration = Duration::from_millis(10);
/// What is not answered by then, after the last request, is lost. TCP goes on until all is answered.
const LATE: Duration = Duration::from_secs(5);

/// What came of the requests of one protocol.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) verdict: Verdict,
    /// Connections that were made; 1 for UDP.
    pub(crate) connections: u64,
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    /// The highest number answered over UDP and TCP.
    newest: [AtomicU64; 2],
}

/// A client at work.
pub(crate) struct EchoClient {
    shared: Arc<Shared>,
    udp: JoinHandle<Heard>,
    tcp: JoinHandle<Heard>,
}

impl EchoClient {
    /// Begins to ask the witness at an address, from this network namespace.
    pub(crate) fn start(namespace: &str, witness: Ipv4Addr) -> Self {
        let shared = Arc::<Shared>::default();
        let place = SocketAddr::from((witness, PORT));
        let spawn = |work: fn(SocketAddr, &Shared) -> Heard| {
            let (shared, namespace) = (Arc::clone(&shared), namespace.to_owned());
            std::thread::spawn(move || {
                enter(&namespace);
                work(place, &shared)
            })
        };
        let (udp, tcp) = (spawn(ask_by_datagrams), spawn(ask_by_stream));
        Self { shared, udp, tcp }
    }

    /// Waits until something that is asked from now on is answered over both protocols.
    pub(crate) fn wait_for_answers(&self) {
        for (protocol, newest) in ["UDP", "TCP"].iter().zip(&self.shared.newest) {
            // Answers that were under way are of no account: some more have to come.
            let now = newest.load(Ordering::Relaxed);
            wait(&format!("the witness answers over {protocol}"), || newest.load(Ordering::Relaxed) > now + 20);
        }
    }

    /// Asks no more, waits for what is under way, and gives what came of UDP and TCP.
    pub(crate) fn end(self) -> [Heard; 2] {
        self.shared.ends.store(true, Ordering::Relaxed);
        [self.udp, self.tcp].map(|thread| thread.join().expect("a client does not panic"))
    }
}

/// When the next request is due, and what the client's clock says.
struct Pace {
    start: Instant,
    next: Instant,
}

impl Pace {
    fn new() -> Self {
        let start = Instant::now();
        Self { start, next: start }
    }

    /// Whether a request is due, which the next one then follows by a period.
    fn is_due(&mut self) -> bool {
        let is_due = Instant::now() >= self.next;
        if is_due {
            self.next = Instant::now() + PERIOD;
        }
        is_due
    }

    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }
}

fn ask_by_datagrams(witness: SocketAddr, shared: &Shared) -> Heard {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
    socket.connect(witness).expect("a route");
    socket.set_read_timeout(Some(PERIOD / 4)).expect("a socket");
    let (mut judge, mut pace, mut ended) = (Judge::new(), Pace::new(), None);
    loop {
        if shared.ends.load(Ordering::Relaxed) {
            let since = *ended.get_or_insert_with(Instant::now);
            if judge.newest() == judge.verdict().sent || since.elapsed() > LATE {
                break;
            }
        } else if pace.is_due()
            && let Some(request) = judge.next_request()
        {
            // What the host cannot send is lost, as on the way.
            let _ = socket.send(&request.bytes());
        }
        let mut bytes = [0; MESSAGE_BYTES + 1];
        if let Ok(length) = socket.recv(&mut bytes)
            && let Some(answer) = Message::read(&bytes[..length])
        {
            judge.hear(answer, pace.now_us());
            shared.newest[0].store(judge.newest(), Ordering::Relaxed);
        }
    }
    Heard { verdict: judge.verdict(), connections: 1 }
}

fn ask_by_stream(witness: SocketAddr, shared: &Shared) -> Heard {
    let (mut judge, mut pace, mut connections) = (Judge::new(), Pace::new(), 0);
    let mut ended = None;
    while !is_over(&judge, shared, &mut ended) {
        let Ok(stream) = TcpStream::connect_timeout(&witness, BOUND) else { continue };
        connections += 1;
        // Its end is what counts: what was under way on it is lost.
        let _ = talk(&stream, &mut judge, &mut pace, shared, &mut ended);
    }
    Heard { verdict: judge.verdict(), connections }
}

fn is_over(judge: &Judge, shared: &Shared, ended: &mut Option<Instant>) -> bool {
    shared.ends.load(Ordering::Relaxed)
        && (judge.newest() == judge.verdict().sent || ended.get_or_insert_with(Instant::now).elapsed() > BOUND)
}

/// Talks until the connection breaks, or all that is asked was answered.
fn talk(
    mut stream: &TcpStream,
    judge: &mut Judge,
    pace: &mut Pace,
    shared: &Shared,
    ended: &mut Option<Instant>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PERIOD / 4))?;
    let mut held = Vec::new();
    while !is_over(judge, shared, ended) {
        if !shared.ends.load(Ordering::Relaxed)
            && pace.is_due()
            && let Some(request) = judge.next_request()
        {
            stream.write_all(&request.bytes())?;
        }
        let mut bytes = [0; 1024];
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(length) => held.extend_from_slice(&bytes[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        let whole = held.len() / MESSAGE_BYTES * MESSAGE_BYTES;
        for bytes in held.drain(..whole).as_slice().chunks(MESSAGE_BYTES) {
            let answer = Message::read(bytes).ok_or(ErrorKind::InvalidData)?;
            judge.hear(answer, pace.now_us());
        }
        shared.newest[1].store(judge.newest(), Ordering::Relaxed);
    }
    Ok(())
}
