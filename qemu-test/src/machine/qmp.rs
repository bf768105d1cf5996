//! QEMU's control protocol (QEMU, docs/interop/qmp-spec): one command at a time, and events.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Doing, LabError, Result};
use crate::machine::spec::Machine;
use crate::socket::Socket;
use crate::wire::Wires;

/// How long QEMU may take to answer a command.
const ANSWER_BOUND: Duration = Duration::from_secs(20);

/// A connection to the control socket of one QEMU.
pub struct Qmp {
    /// Whose QEMU it is, for messages.
    who: String,
    /// Where it listens, for messages.
    place: String,
    stream: Box<dyn Socket>,
    answers: BufReader<Box<dyn Socket>>,
    /// What has come of a line that is not whole yet.
    partial: String,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects to the socket at `path`.
    pub fn connect(who: &str, path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).at("connecting to", path)?;
        Self::over(who, path.display().to_string(), Box::new(stream))
    }

    /// Connects to the socket at an address on the lab's wires.
    pub fn connect_on(wires: &Wires, who: &str, address: SocketAddr) -> Result<Self> {
        let connected = wires.enter(|| TcpStream::connect_timeout(&address, ANSWER_BOUND))?;
        Self::over(who, address.to_string(), Box::new(connected.doing(format!("connecting to {address}"))?))
    }

    fn over(who: &str, place: String, stream: Box<dyn Socket>) -> Result<Self> {
        let answers = BufReader::new(stream.try_clone().doing(format!("setting up {place}"))?);
        let who = who.to_owned();
        let mut qmp = Self { who, place, stream, answers, partial: String::new(), events: VecDeque::new() };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Has a command executed and gives what it returns.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let order = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream, "{order}").doing(format!("writing to {}", self.place))?;
        let end = Instant::now() + ANSWER_BOUND;
        loop {
            let answer = self.next(end, command)?;
            if let Some(error) = answer.get("error") {
                return Err(self.fault(format!("QEMU refused {command}: {error}")));
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if answer.get("event").is_some() {
                self.events.push_back(answer);
            }
        }
    }

    /// Waits for the next event that `wanted` accepts; events before it are forgotten.
    pub fn event(&mut self, waiting_for: &str, bound: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let end = Instant::now() + bound;
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.next(end, waiting_for)?,
            };
            if event.get("event").is_some() && wanted(&event) {
                return Ok(event);
            }
        }
    }

    /// The next message of whatever kind.
    fn next(&mut self, end: Instant, waiting_for: &str) -> Result<Value> {
        loop {
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).doing(format!("setting up {}", self.place))?;
            match self.answers.read_line(&mut self.partial) {
                Ok(0) => return Err(self.fault("QEMU closed its control socket".into())),
                Ok(_) => return Ok(serde_json::from_str(&std::mem::take(&mut self.partial)).unwrap_or(Value::Null)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(self.fault(format!("QEMU did not answer in time ({waiting_for})")));
                }
                Err(error) => return Err(error).doing(format!("reading from {}", self.place)),
            }
        }
    }

    fn fault(&self, what: String) -> LabError {
        LabError::Host { host: self.who.clone(), what }
    }
}

impl Machine {
    /// Stops the whole host with its clock: it does not know afterwards that time has passed.
    pub fn freeze(&self) -> Result<()> {
        self.command("stop").map(drop)
    }

    /// Lets a frozen host go on.
    pub fn thaw(&self) -> Result<()> {
        self.command("cont").map(drop)
    }

    /// Whether the host's CPUs run (it is neither frozen nor stopped by an error of QEMU's).
    pub fn is_frozen(&self) -> Result<bool> {
        let status = self.command("query-status")?;
        Ok(status.get("running").and_then(Value::as_bool) == Some(false))
    }

    fn command(&self, name: &str) -> Result<Value> {
        Qmp::connect(&self.spec.name, &self.qmp_socket())?.execute(name, json!({}))
    }
}
