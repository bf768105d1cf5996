//! The uplinks of the VM's port groups are probed before a move: this host sends frames on them, and listens for those of the other
//! (`protocol::uplink_probe`, `docs/decisions/a-probe-frame.md`).

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use model::vm_config::VmConfig;
use protocol::checks::physical_network::{Found, Heard};
use protocol::time::{Duration, Instant};
use protocol::uplink_probe::{Agreed, End, Exchange, Step, Token, frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::api::migrate::Incoming;
use crate::host::control_plane::ControlPlane;
use crate::network::fabric::UplinkPort;
use crate::network::packet::PacketSocket;

/// Longest wait before a probe looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// Most frames of one uplink that are taken before the clock is looked at again: in a network with a loop they do not end.
const FRAMES_A_TURN: usize = 64;

/// What both hosts agree on for a VM: of each of its port groups that has an uplink here, one token for each end.
///
/// # Errors
/// No random bytes are to be had.
pub fn agree(plane: &ControlPlane, config: &VmConfig) -> io::Result<Vec<Agreed>> {
    let mut labels: Vec<_> = config.nics.iter().map(|nic| nic.port_group.clone()).collect();
    labels.sort();
    labels.dedup();
    let leads_out = |label: &_| {
        let port = plane.with_fabric("", |fabric| fabric.uplink_port(label));
        !matches!(port, Ok(Ok(None)) | Err(_))
    };
    let agreed = labels.into_iter().filter(leads_out);
    agreed.map(|label| Ok(Agreed { label, source: random()?, destination: random()? })).collect()
}

fn random() -> io::Result<Token> {
    let mut bytes = [0; Token::BYTES];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(Token(bytes))
}

/// Probes for a VM that is to come here. Where a port group has another VLAN here, its check tells that.
pub fn of_arrival(plane: &ControlPlane, incoming: &Incoming) -> Probing {
    let (mut probe, groups) = (incoming.probe.clone(), &incoming.vm.port_groups);
    probe.retain(|agreed| groups.contains(&(agreed.label.clone(), plane.vlan(&agreed.label))));
    Probing::begin(plane, End::Destination, probe)
}

/// Uplinks that are being probed, by a thread of its own; dropped, it ends soon.
#[derive(Debug)]
pub struct Probing {
    is_wanted: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Found>>>,
    /// What could not be tried.
    untried: Vec<Found>,
}

impl Probing {
    /// Listens on the uplinks of these port groups, and then begins to send. A port group without an uplink is left out.
    pub fn begin(plane: &ControlPlane, end: End, agreed: Vec<Agreed>) -> Self {
        let (mut lines, mut groups, mut untried) = (Vec::new(), Vec::new(), Vec::new());
        for agreed in agreed {
            let label = agreed.label.clone();
            let port = plane.with_fabric("", |fabric| fabric.uplink_port(&label));
            let port = port.unwrap_or_else(|_| Err("no network is configured".to_owned()));
            match port.and_then(|port| port.map(|port| Line::open(port, agreed.sent_by(end))).transpose()) {
                Ok(Some(line)) => {
                    lines.push(line);
                    groups.push(agreed);
                }
                Ok(None) => {}
                Err(why) => untried.push(Found { label, heard: Heard::Untried(why) }),
            }
        }
        let is_wanted = Arc::new(AtomicBool::new(true));
        let wanted = Arc::clone(&is_wanted);
        let thread = std::thread::Builder::new().name("uplinks".to_owned());
        let labels: Vec<_> = groups.iter().map(|agreed| agreed.label.clone()).collect();
        let thread = match thread.spawn(move || run(&mut lines, end, groups, &wanted)) {
            Ok(thread) => Some(thread),
            Err(error) => {
                let heard = Heard::Untried(format!("the probe of the uplinks cannot begin: {error}"));
                untried.extend(labels.into_iter().map(|label| Found { label, heard: heard.clone() }));
                None
            }
        };
        Self { is_wanted, thread, untried }
    }

    /// What was heard, when it is over by itself.
    pub fn wait(mut self) -> Vec<Found> {
        let mut found = std::mem::take(&mut self.untried);
        // It does not panic; if it did, nothing is known.
        found.extend(self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default());
        found
    }

    /// What was heard up to now.
    pub fn stop(self) -> Vec<Found> {
        self.is_wanted.store(false, Ordering::Relaxed);
        self.wait()
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.is_wanted.store(false, Ordering::Relaxed);
    }
}

/// The uplink of one port group.
struct Line {
    socket: PacketSocket,
    frame: Vec<u8>,
    name: String,
    /// Why the last frame could not be sent.
    trouble: Option<io::Error>,
}

impl Line {
    fn open(port: UplinkPort, token: Token) -> Result<Self, String> {
        let UplinkPort { index, name, mac, vlan } = port;
        let socket = PacketSocket::open_on_port(index, frame::ETHER_TYPE, vlan);
        let socket = socket.map_err(|error| format!("its uplink {name} cannot be listened on: {error}"))?;
        Ok(Self { socket, frame: frame::write(mac, vlan, token), name, trouble: None })
    }

    fn send(&mut self) {
        self.trouble = self.socket.send(&self.frame).err();
    }

    /// What was heard on it, or why that says nothing.
    fn found(&self, is_heard: bool) -> Heard {
        match &self.trouble {
            _ if is_heard => Heard::Frames,
            Some(error) => Heard::Untried(format!("a frame cannot be sent on its uplink {}: {error}", self.name)),
            None => Heard::Nothing,
        }
    }
}

fn run(lines: &mut [Line], end: End, groups: Vec<Agreed>, is_wanted: &AtomicBool) -> Vec<Found> {
    let began = std::time::Instant::now();
    let now = || Instant::from_nanos(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    let mut exchange = Exchange::new(now(), end, groups);
    while is_wanted.load(Ordering::Relaxed) {
        hear(lines, &mut exchange);
        match exchange.step(now()) {
            Step::Send => lines.iter_mut().for_each(Line::send),
            Step::Wait(until) => wait(lines, until.since(now()).min(LOOK)),
            Step::Over => break,
        }
    }
    // What came last.
    hear(lines, &mut exchange);
    let heard = exchange.heard().zip(lines.iter());
    heard.map(|((agreed, heard), line)| Found { label: agreed.label.clone(), heard: line.found(heard) }).collect()
}

fn hear(lines: &[Line], exchange: &mut Exchange) {
    let mut buffer = [0; frame::BYTES];
    for (index, line) in lines.iter().enumerate() {
        for _ in 0..FRAMES_A_TURN {
            // An uplink that goes down tells so once, and then nothing comes.
            let Ok(Some(received)) = line.socket.receive(&mut buffer) else { break };
            exchange.hear(index, received);
        }
    }
}

/// Until a frame comes, at most so long.
fn wait(lines: &[Line], most: Duration) {
    let mut polled: Vec<_> =
        lines.iter().map(|line| PollFd::from_borrowed_fd(line.socket.as_fd(), PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: 0, tv_nsec: most.nanos().try_into().unwrap_or(0) };
    // A signal only makes it look sooner.
    let _ = poll(&mut polled, Some(&timeout));
}
