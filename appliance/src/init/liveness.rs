//! Whether the control plane lives: it is asked again and again, and one that answered before and answers nobody for
//! `API_SILENT_MS_MAX` is ended and started again. Its VMs run on, and the next one adopts them.
//!
//! The question is answered by a thread of its own, which waits for no lock, no datastore and no other role: a control plane that waits
//! for a server that is away lives. One that has not answered yet is not judged: while it adopts its VMs it serves nobody.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::Duration;

use model::limits;
use rustix::process::Pid;

use super::supervise::Event;
use crate::api::channel::{Channel, ChannelError};
use crate::api::host::{HostAnswer, HostRequest};
use crate::api::paths::RunDir;

/// Pause between two questions.
const PAUSE: Duration = Duration::from_secs(10);
/// Silence is counted in looks of this length, and not by the clock: a machine that stood still as a whole was silent for one.
const LOOK: Duration = Duration::from_secs(1);
const LOOKS: u64 = limits::API_SILENT_MS_MAX / 1000;

/// Asks in a thread of its own.
pub(super) fn watch(run: &RunDir, events: Sender<Event>) -> io::Result<()> {
    let mut asked = Asked { socket: run.socket("host"), look: LOOK, answered: None };
    let keep = move || {
        loop {
            std::thread::sleep(PAUSE);
            if let Some(silent) = asked.once()
                && events.send(Event::Silent(silent)).is_err()
            {
                return;
            }
        }
    };
    std::thread::Builder::new().name("liveness".into()).spawn(keep).map(drop)
}

/// The control plane, as it was asked so far.
struct Asked {
    socket: PathBuf,
    look: Duration,
    /// The process that answered last.
    answered: Option<Pid>,
}

impl Asked {
    /// Asks once, and waits for long; the process that answers nobody, if it is one that did before.
    fn once(&mut self) -> Option<Pid> {
        // Nobody listens there while it starts; and what waits for a place in its queue so long is silence too.
        let bound = self.look * u32::try_from(LOOKS).unwrap_or(u32::MAX);
        let channel = match Channel::<HostRequest, HostAnswer>::connect_within(&self.socket, bound) {
            Ok(channel) => channel,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return self.answered,
            Err(_) => return None,
        };
        let asked = channel.peer()?;
        channel.send_at_once(&HostRequest::Alive).ok()?;
        for _ in 0..LOOKS {
            match channel.receive_within(self.look) {
                Err(ChannelError::Timeout(_)) => {}
                Ok(_) => {
                    self.answered = Some(asked);
                    return None;
                }
                // It ended, which its supervisor sees by itself.
                Err(_) => return None,
            }
        }
        Some(asked).filter(|asked| self.answered == Some(*asked))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::api::channel::Listener;

    #[test]
    fn a_control_plane_that_answered_and_answers_nobody_any_more_is_told_of_and_one_that_never_did_is_not() {
        let socket = std::env::temp_dir().join(format!("godwit-liveness-{}", std::process::id()));
        let mut asked = Asked { socket: socket.clone(), look: Duration::from_millis(1), answered: None };
        assert_eq!(asked.once(), None, "nobody listens");
        let listener = Listener::bind(&socket).unwrap();
        assert_eq!(asked.once(), None, "it starts, and has served nobody yet");
        // It comes to those that waited before, and serves the next two.
        let (goes_on, stands_still) = channel::<()>();
        let serves = std::thread::spawn(move || {
            let mut served = 0;
            while served < 2 {
                let client = listener.accept::<HostAnswer, HostRequest>().unwrap();
                // A client that is gone had its time.
                if client.receive().is_ok() && client.send(&HostAnswer::TakenUp, &[]).is_ok() {
                    served += 1;
                }
            }
            let _ = stands_still.recv();
            drop(listener);
        });
        let mut patient = Asked { look: Duration::from_secs(1), ..asked };
        assert_eq!((patient.once(), patient.once()), (None, None), "it lives");
        let mut asked = Asked { look: Duration::from_millis(1), ..patient };
        assert_eq!(asked.once(), Some(rustix::process::getpid()), "now it stands still");
        drop(goes_on);
        serves.join().unwrap();
        assert_eq!(asked.once(), None, "it is gone: nobody is to be ended");
        std::fs::remove_file(&socket).unwrap();
    }
}
