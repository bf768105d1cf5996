//! Carries one request to the control plane, shows its progress and hears Ctrl-C meanwhile. A control plane that stands still holds nobody:
//! what it does not take up is taken back, and what it took up is left to it.
//!
//! ```text
//!   sent --TakenUp--> taken up --answer-->
//!    |  Ctrl-C, 10 s      |  Ctrl-C: Cancel; Ctrl-C again, 15 s without a sign of life
//!    v                    v
//!  taken back:           left: what came of it is not known here
//!  never carried out
//! ```

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use model::diagnosis::Diagnosis;
use model::limits;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::api::channel::{Channel, ChannelError};
use crate::api::host::{HostAnswer, HostRequest};
use crate::console::render::table::WIDTH;
use crate::console::terminal::RawInput;

const CTRL_C: u8 = 3;
/// Silence is counted in looks of this length, and not by the clock: a machine that stood still as a whole was silent for one.
const LOOK: Duration = Duration::from_secs(1);
/// Looks after which a command that has said nothing is told to be under way.
const SAID_NOTHING: u32 = 2;
/// Looks for which a command that is taken up may be silent before the control plane is asked whether it lives.
const ASK_WHETHER_ALIVE: u32 = 5;
/// Looks that the control plane gets to take a command up, or to say that it lives.
const PATIENCE: u32 = (limits::API_TAKEN_UP_MS_MAX / 1000) as u32;

/// Whether progress is shown: not to a program that reads the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// As a bar that is drawn over itself.
    Shown,
    /// Not at all.
    Hidden,
}

/// Why a request has no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// The control plane is not there, or stands still. The request is not carried out, and will not be.
    Silent(Diagnosis),
    /// A person gave it up, or the control plane went away or fell silent with it.
    Left(Diagnosis),
}

/// What a request comes to: its answer, and what lies beside it.
pub type Answered = Result<(HostAnswer, Vec<OwnedFd>), Unanswered>;

/// Asks and waits for the answer. Ctrl-C takes a request back that is not taken up yet; of one that is, it asks the control plane to give
/// up, which then answers how that went, and pressed again it leaves the request to it.
///
/// # Errors
/// There is no answer, and why.
pub fn ask(socket: &Path, request: &HostRequest, progress: Progress) -> Answered {
    let absent = |error: &dyn std::error::Error| {
        Unanswered::Silent(Diagnosis::new(
            "the command was not carried out",
            format!("the control plane of this host does not answer: {error}"),
            "init restarts it within seconds; try again, then: log show host",
        ))
    };
    let channel = match Channel::<HostRequest, HostAnswer>::connect_within(socket, LOOK) {
        // So many wait for it already.
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(Unanswered::Silent(not_taken_up(request))),
        other => other.map_err(|error| absent(&error))?,
    };
    let _raw = RawInput::begin().map_err(|error| absent(&error))?;
    channel.send(request, &[]).map_err(|error| absent(&error))?;
    let look_ends = Instant::now() + LOOK;
    let mut asked = Asked {
        socket,
        request,
        channel,
        shown: progress == Progress::Shown,
        taken_up: false,
        cancelled: None,
        drawn: false,
        silent: 0,
        look_ends,
        probe: None,
        keys_end: false,
    };
    let answered = asked.follow();
    if asked.drawn {
        print!("\r\x1b[K");
        flush();
    }
    answered
}

/// A request that was sent.
struct Asked<'a> {
    socket: &'a Path,
    request: &'a HostRequest,
    channel: Channel<HostRequest, HostAnswer>,
    shown: bool,
    taken_up: bool,
    cancelled: Option<Instant>,
    drawn: bool,
    /// Looks without a sign of life.
    silent: u32,
    look_ends: Instant,
    /// A second connection, on which the control plane is asked whether it lives.
    probe: Option<Channel<HostRequest, HostAnswer>>,
    /// The terminal is gone; the answer is still awaited, so that the command ends as it would have.
    keys_end: bool,
}

/// What a wait ended with.
enum Heard {
    Answer,
    Probe,
    CtrlC,
    Silence,
    Nothing,
}

impl Asked<'_> {
    fn follow(&mut self) -> Answered {
        loop {
            match self.wait().map_err(|error| self.gone(&error))? {
                Heard::Answer => match self.channel.receive().map_err(|error| self.gone(&error))? {
                    (HostAnswer::TakenUp, _) => {
                        self.taken_up = true;
                        self.silent = 0;
                    }
                    (HostAnswer::Progress { doing, thousandths }, _) => {
                        self.silent = 0;
                        self.draw(&doing, thousandths);
                    }
                    answered => return Ok(answered),
                },
                Heard::Probe => {
                    let lives = self.probe.take().is_some_and(|probe| probe.receive().is_ok());
                    self.silent = if lives { 0 } else { self.silent };
                }
                Heard::CtrlC if !self.taken_up => {
                    return self.take_back(Unanswered::Left(not_waited_for(self.request)));
                }
                Heard::CtrlC if self.request.only_asks() => {
                    return Err(Unanswered::Left(not_waited_for(self.request)));
                }
                // Keys that are pressed in one breath are one.
                Heard::CtrlC if self.cancelled.is_some_and(|first| first.elapsed() >= LOOK) => {
                    return Err(Unanswered::Left(left(
                        self.request,
                        "Ctrl-C was pressed again before its answer came",
                    )));
                }
                Heard::CtrlC => self.cancel(),
                Heard::Silence => {
                    self.silent += 1;
                    if let Some(end) = self.bear_silence() {
                        return end;
                    }
                }
                Heard::Nothing => {}
            }
        }
    }

    /// Does what is due after so many silent looks; an end, if it is one.
    fn bear_silence(&mut self) -> Option<Answered> {
        if !self.taken_up && self.silent >= PATIENCE {
            return Some(self.take_back(Unanswered::Silent(not_taken_up(self.request))));
        }
        if self.silent >= ASK_WHETHER_ALIVE + PATIENCE {
            let looks = u64::from(self.silent) * LOOK.as_secs();
            let cause =
                format!("the control plane of this host (role host) stands still: it said nothing for {looks} s");
            return Some(Err(Unanswered::Left(left(self.request, &cause))));
        }
        if self.taken_up && self.silent == ASK_WHETHER_ALIVE {
            let probe = Channel::connect_within(self.socket, LOOK).ok();
            self.probe = probe.filter(|probe| probe.send_at_once(&HostRequest::Alive).is_ok());
        }
        if self.silent == SAID_NOTHING && !self.drawn {
            let doing =
                if self.taken_up { "waiting for the answer" } else { "waiting for the control plane (role host)" };
            self.draw(&format!("{doing}; Ctrl-C gives it up"), None);
        }
        None
    }

    /// Asks the control plane to give the command up.
    fn cancel(&mut self) {
        // One that reads nothing finds it in the order of what was sent; where not even that goes, the next Ctrl-C leaves.
        let _ = self.channel.send_at_once(&HostRequest::Cancel);
        self.cancelled.get_or_insert_with(Instant::now);
        self.draw("giving it up; Ctrl-C again leaves it to the control plane", None);
    }

    /// Takes a request back that is not taken up, which it can have been at this very moment. Once this end is shut the control plane cannot
    /// say that it takes it up, and what it said before is read here: both sides know the same.
    fn take_back(&self, back: Unanswered) -> Answered {
        let _ = self.channel.send_at_once(&HostRequest::Cancel);
        self.channel.shut();
        let mut taken_up = false;
        loop {
            match self.channel.receive_within(Duration::ZERO) {
                Ok((HostAnswer::TakenUp | HostAnswer::Progress { .. }, _)) => taken_up = true,
                Ok(answered) => return Ok(answered),
                Err(_) if taken_up => {
                    return Err(Unanswered::Left(left(self.request, "it was given up as it was taken up")));
                }
                Err(_) => return Err(back),
            }
        }
    }

    /// The control plane went away: what came of a request that it had taken up, only what is there now can tell.
    fn gone(&self, error: &ChannelError) -> Unanswered {
        let cause = format!("the control plane of this host ended before it answered: {error}");
        if self.taken_up {
            return Unanswered::Left(left(self.request, &cause));
        }
        let hint = "init restarts it within seconds; try again, then: log show host";
        Unanswered::Left(Diagnosis::new("the command was not carried out", cause, hint))
    }

    /// Waits until the control plane said something, a key was pressed, or the look is over.
    fn wait(&mut self) -> Result<Heard, ChannelError> {
        let stdin = io::stdin();
        let left = self.look_ends.saturating_duration_since(Instant::now());
        let patience = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        // A connection is always to be heard, in the place of what is not there.
        let probe = self.probe.as_ref().unwrap_or(&self.channel);
        let keys = if self.keys_end { self.channel.as_fd() } else { stdin.as_fd() };
        let mut ready = [&self.channel, probe].map(|channel| PollFd::new(channel, PollFlags::IN)).to_vec();
        ready.push(PollFd::from_borrowed_fd(keys, PollFlags::IN));
        match poll(&mut ready, Some(&patience)) {
            Err(rustix::io::Errno::INTR) => return Ok(Heard::Nothing),
            other => other?,
        };
        let [said, lives, typed] = [0, 1, 2].map(|at| !ready[at].revents().is_empty());
        if said {
            return Ok(Heard::Answer);
        }
        if lives {
            return Ok(Heard::Probe);
        }
        if typed && self.is_ctrl_c()? {
            return Ok(Heard::CtrlC);
        }
        if Instant::now() < self.look_ends {
            return Ok(Heard::Nothing);
        }
        self.look_ends = Instant::now() + LOOK;
        Ok(Heard::Silence)
    }

    fn is_ctrl_c(&mut self) -> Result<bool, ChannelError> {
        let mut keys = [0; 64];
        let count = rustix::io::read(io::stdin().as_fd(), &mut keys)?;
        self.keys_end = count == 0;
        Ok(keys[..count].contains(&CTRL_C))
    }

    fn draw(&mut self, doing: &str, thousandths: Option<u16>) {
        if self.shown {
            self.drawn = true;
            draw(doing, thousandths);
        }
    }
}

/// A request that the control plane has, and whose answer does not come, or is not waited for.
fn left(request: &HostRequest, cause: &str) -> Diagnosis {
    if request.order().is_none() {
        return Diagnosis::new("the command was not answered", cause, REVIVED);
    }
    let look = match request.changes() {
        Some(vm) => format!("vm show {vm}; migration list; log show host"),
        None => "host show; log show host".to_owned(),
    };
    let what = match request.changes() {
        Some(vm) => format!("what came of the command is not known here; VM {vm} may be as it was"),
        None => "what came of the command is not known here".to_owned(),
    };
    Diagnosis::new(
        what,
        cause,
        format!("the control plane may go on with it; init restarts one that ended or stands still; then: {look}"),
    )
}

/// What becomes of a control plane that stands still.
const REVIVED: &str = "init ends a control plane that answers nobody for a minute and starts it again (the VMs run on): try again then, \
     then: log show host; without it work: host reboot --force, host shutdown --force";

/// The control plane did not take a request up in time.
fn not_taken_up(request: &HostRequest) -> Diagnosis {
    let what = match request.order() {
        Some(_) => "the command was not carried out, and will not be",
        None => "the command was not answered",
    };
    let patience = u64::from(PATIENCE) * LOOK.as_secs();
    let cause = format!(
        "the control plane of this host (role host) stands still, or is not up yet: it took the command not up within {patience} s"
    );
    Diagnosis::new(what, cause, REVIVED)
}

/// A question whose answer a person does not want to wait for: most likely a datastore has to be asked for it that does not answer. Or an order
/// that was not taken up.
fn not_waited_for(request: &HostRequest) -> Diagnosis {
    match request.order() {
        None => Diagnosis::new(
            "the command was given up",
            "Ctrl-C was pressed before its answer came",
            "datastore list; host check",
        ),
        Some(_) => Diagnosis::new(
            "the command was given up; it was not carried out, and will not be",
            "Ctrl-C was pressed before the control plane of this host (role host) took it up",
            "host check tells whether the control plane answers",
        ),
    }
}

fn draw(doing: &str, thousandths: Option<u16>) {
    print!("\r\x1b[K{}", progress_line(doing, thousandths));
    flush();
}

/// How far a command is, on one line of the terminal: one that wrapped could not be drawn over.
fn progress_line(doing: &str, thousandths: Option<u16>) -> String {
    const BAR: usize = 12;
    let line = match thousandths {
        Some(done) => {
            let filled = usize::from(done.min(1000)) * BAR / 1000;
            format!("[{}{}] {:3} %  {doing}", "#".repeat(filled), ".".repeat(BAR - filled), done / 10)
        }
        None => format!("{doing} ..."),
    };
    let room = WIDTH - 1;
    if line.chars().count() <= room { line } else { line.chars().take(room - 1).chain(['~']).collect() }
}

fn flush() {
    // A terminal that cannot be written to has nobody to tell.
    let _ = io::stdout().flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_vm_whose_command_lost_its_control_plane_nothing_is_claimed_and_the_way_to_find_out_is_told() {
        let started = HostRequest::VmStart("web".parse().expect("valid"));
        let told = left(&started, "it ended").to_string();
        assert!(!told.contains("was not carried out") && told.contains("vm show web"), "{told}");
        assert!(left(&HostRequest::VmList, "it ended").to_string().contains("was not answered"));
    }

    #[test]
    fn progress_stays_on_one_line_of_the_terminal() {
        assert_eq!(progress_line("stun", Some(500)), "[######......]  50 %  stun");
        assert_eq!(progress_line("starting web", None), "starting web ...");
        let long = progress_line(&"waiting ".repeat(20), None);
        assert!(long.chars().count() < WIDTH && long.ends_with('~'), "{long}");
    }
}
