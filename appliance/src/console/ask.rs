//! Carries one request to the control plane, shows its progress and hears Ctrl-C meanwhile.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use model::diagnosis::Diagnosis;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::api::channel::{Channel, ChannelError};
use crate::api::host::{HostAnswer, HostRequest};
use crate::console::render::table::WIDTH;
use crate::console::terminal::RawInput;

const CTRL_C: u8 = 3;
/// A command that has said nothing for so long is told to be under way.
const SILENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Whether progress is shown: not to a program that reads the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// As a bar that is drawn over itself.
    Shown,
    /// Not at all.
    Hidden,
}

/// Asks and waits for the answer; Ctrl-C asks the control plane to give up, which then answers how that went.
///
/// # Errors
/// The control plane is not there or went away.
pub fn ask(socket: &Path, request: &HostRequest, progress: Progress) -> Result<(HostAnswer, Vec<OwnedFd>), Diagnosis> {
    let away = |error: &dyn std::error::Error| {
        Diagnosis::new(
            "the command was not done",
            format!("the control plane of this host does not answer: {error}"),
            "init restarts it within seconds; try again, then: log show host",
        )
    };
    let channel = Channel::<HostRequest, HostAnswer>::connect(socket).map_err(|error| away(&error))?;
    let _raw = RawInput::begin().map_err(|error| away(&error))?;
    channel.send(request, &[]).map_err(|error| away(&error))?;
    let away = |error: &dyn std::error::Error| gone(request, error);
    let mut drawn = false;
    let answer = loop {
        let silent = progress == Progress::Shown && !drawn;
        match wait(&channel, silent.then_some(&SILENCE)).map_err(|error| away(&error))? {
            Heard::Answer => {}
            Heard::Silence => {
                drawn = true;
                draw("waiting for the answer; Ctrl-C gives it up", None);
                continue;
            }
            Heard::CtrlC if request.only_asks() => break Err(not_waited_for()),
            Heard::CtrlC => {
                channel.send(&HostRequest::Cancel, &[]).map_err(|error| away(&error))?;
                continue;
            }
            Heard::Nothing => continue,
        }
        match channel.receive().map_err(|error| away(&error)) {
            Ok((HostAnswer::Progress { doing, thousandths }, _)) => {
                if progress == Progress::Shown {
                    drawn = true;
                    draw(&doing, thousandths);
                }
            }
            other => break other,
        }
    };
    if drawn {
        print!("\r\x1b[K");
        flush();
    }
    answer
}

/// The control plane went away when it had the request: what came of it, only what is there now can tell.
fn gone(request: &HostRequest, error: &dyn std::error::Error) -> Diagnosis {
    let cause = format!("the control plane of this host ended before it answered: {error}");
    match request.changes() {
        None => Diagnosis::new(
            "the command was not done",
            cause,
            "init restarts it within seconds; try again, then: log show host",
        ),
        Some(vm) => {
            let hint = format!("init restarts it within seconds; then: vm show {vm}; migration list; log show host");
            Diagnosis::new(format!("what came of the command is not known here; VM {vm} may be as it was"), cause, hint)
        }
    }
}

/// A question whose answer a person does not want to wait for: most likely a datastore has to be asked for it that does not answer.
fn not_waited_for() -> Diagnosis {
    Diagnosis::new(
        "the command was given up",
        "Ctrl-C was pressed before its answer came",
        "datastore list; host check",
    )
}

/// What a wait ended with.
enum Heard {
    Answer,
    CtrlC,
    Silence,
    Nothing,
}

/// Waits until the control plane said something or a key was pressed, for so long.
fn wait(channel: &Channel<HostRequest, HostAnswer>, patience: Option<&Timespec>) -> Result<Heard, ChannelError> {
    let stdin = io::stdin();
    let mut ready = [PollFd::new(channel, PollFlags::IN), PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
    match poll(&mut ready, patience) {
        Err(rustix::io::Errno::INTR) => return Ok(Heard::Nothing),
        Ok(0) => return Ok(Heard::Silence),
        other => other?,
    };
    if !ready[0].revents().is_empty() {
        return Ok(Heard::Answer);
    }
    let mut keys = [0; 64];
    let count = rustix::io::read(stdin.as_fd(), &mut keys)?;
    if count == 0 {
        // The terminal is gone; the answer is still awaited, so that the command ends as it would have.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Ok(if keys[..count].contains(&CTRL_C) { Heard::CtrlC } else { Heard::Nothing })
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
        let told = gone(&started, &ChannelError::Closed).to_string();
        assert!(!told.contains("was not done") && told.contains("vm show web"), "{told}");
        assert!(gone(&HostRequest::VmList, &ChannelError::Closed).to_string().contains("was not done"));
    }

    #[test]
    fn progress_stays_on_one_line_of_the_terminal() {
        assert_eq!(progress_line("stun", Some(500)), "[######......]  50 %  stun");
        assert_eq!(progress_line("starting web", None), "starting web ...");
        let long = progress_line(&"waiting ".repeat(20), None);
        assert!(long.chars().count() < WIDTH && long.ends_with('~'), "{long}");
    }
}
