//! The line between a host and its lease role, which loses words or puts others in their place as a test wants it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use godwit::api::channel::{Channel, Listener};
use godwit::api::host::{HostAnswer, HostRequest};
use godwit::api::lease::{LeaseAnswer, LeaseRequest};
use rustix::fd::AsFd;

use super::{BOUND, Host, wait};

/// What becomes of a request.
pub(crate) enum Word {
    /// It arrives, and so does its answer.
    Passes,
    /// It arrives, and its answer is lost with the connection.
    AnswerIsLost,
    /// It does not arrive; the answer is that nothing is known.
    IsUnknown,
}

type Fate = Box<dyn Fn(&LeaseRequest) -> Word + Send>;

/// A line that passes every word until it is told otherwise.
pub(crate) struct LeaseLine {
    fate: Arc<Mutex<Fate>>,
}

impl LeaseLine {
    /// Goes between a host that runs and its lease role.
    pub(crate) fn cut_into(host: &Host) -> Self {
        let (socket, role) = (host.run.join("lease.sock"), host.run.join("lease-role.sock"));
        std::fs::rename(&socket, &role).expect("the role's own socket is moved aside");
        let listener = Listener::bind(&socket).expect("the line listens in its place");
        let line = Self { fate: Arc::new(Mutex::new(Box::new(|_| Word::Passes))) };
        let fate = Arc::clone(&line.fate);
        // Ends with the process of the test.
        std::thread::spawn(move || {
            while let Ok(channel) = listener.accept::<LeaseAnswer, LeaseRequest>() {
                let (fate, role) = (Arc::clone(&fate), role.clone());
                std::thread::spawn(move || carry(&channel, &fate, &role));
            }
        });
        line
    }

    /// From now on this becomes of requests.
    pub(crate) fn becomes(&self, fate: impl Fn(&LeaseRequest) -> Word + Send + 'static) {
        *self.fate.lock().expect("no thread panicked") = Box::new(fate);
    }

    /// Every word passes again.
    pub(crate) fn mend(&self) {
        self.becomes(|_| Word::Passes);
    }
}

fn carry(channel: &Channel<LeaseAnswer, LeaseRequest>, fate: &Mutex<Fate>, role: &Path) {
    while let Ok((request, beside)) = channel.receive() {
        let word = (fate.lock().expect("no thread panicked"))(&request);
        if matches!(word, Word::IsUnknown) {
            let unknown = LeaseAnswer::Unknown("the line is cut".to_owned());
            if channel.send(&unknown, &[]).is_err() {
                return;
            }
            continue;
        }
        let Some(onward) = connect(role) else { return };
        let beside: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
        if request == LeaseRequest::Watch {
            onward.send(&request, &[]).expect("the role listens");
            while let Ok((event, _)) = onward.receive() {
                if channel.send(&event, &[]).is_err() {
                    return;
                }
            }
            return;
        }
        let Ok((answer, _)) = onward.ask(&request, &beside, BOUND) else { return };
        if matches!(word, Word::AnswerIsLost) || channel.send(&answer, &[]).is_err() {
            return;
        }
    }
}

fn connect(role: &Path) -> Option<Channel<LeaseRequest, LeaseAnswer>> {
    Channel::connect(role).ok()
}

/// Begins a move that stays in its rounds: the destination cannot get its lease ready for the switchover. `typed` is what begins it.
pub(crate) fn hold_in_pre_copy(from: &Host, to: &Host, typed: &str) -> (LeaseLine, Channel<HostRequest, HostAnswer>) {
    let lease = LeaseLine::cut_into(to);
    lease.becomes(|request| match request {
        LeaseRequest::Prepare { .. } => Word::IsUnknown,
        _ => Word::Passes,
    });
    let moving = from.begin(typed);
    wait("pre-copy", || from.migrations().iter().any(|row| row.state.starts_with("pre-copy")));
    (lease, moving)
}
