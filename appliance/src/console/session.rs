//! Reads lines from the terminal and runs them, for ever.

use std::path::PathBuf;

use model::diagnosis::Diagnosis;
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{CompletionType, Config, Editor};

use crate::api::host::{HostAnswer, HostRequest};
use crate::api::paths::RunDir;
use crate::console::ask::{Progress, Unanswered, ask};
use crate::console::attach::{Left, attach};
use crate::console::by_init;
use crate::console::command::{Line, help, parse, wants_force, wants_json};
use crate::console::complete::Completion;
use crate::console::news::{self, Turn};
use crate::console::render;

/// How a command ended, as `cargo lab exec` and scripts see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Done = 0,
    Refused = 1,
    NotUnderstood = 2,
}

/// What a typed line comes to on the console itself.
#[derive(Debug)]
enum Understood {
    /// Nothing was typed.
    Nothing,
    /// It is answered here.
    Answered(HostAnswer, Status),
    /// The control plane is to be asked.
    Ask(HostRequest),
}

fn understand(line: &str, progress: Progress) -> Understood {
    let refused = |refusal, status| Understood::Answered(HostAnswer::Refused(refusal), status);
    match parse(line) {
        Ok(Line::Empty) => Understood::Nothing,
        Ok(Line::Help(topic)) => match help(&topic) {
            Ok(text) => Understood::Answered(HostAnswer::Done(text), Status::Done),
            Err(refusal) => refused(refusal, Status::NotUnderstood),
        },
        // The line would be the guest's from then on, and whatever the program types next with it.
        Ok(Line::Ask(HostRequest::VmConsole(vm))) if progress == Progress::Hidden => {
            let cause = "a serial port needs a person at the terminal, to leave it by Ctrl-]";
            let hint = format!("type it on the console itself: vm console {vm}");
            let what = format!("the console of VM {vm} was not attached");
            refused(Diagnosis::new(what, cause, hint), Status::Refused)
        }
        Ok(Line::Ask(request)) => Understood::Ask(request),
        Err(refusal) => refused(refusal, Status::NotUnderstood),
    }
}

fn shown(answer: &HostAnswer, json: bool) -> String {
    if json { render::json(answer) } else { render::text(answer) }
}

/// Runs the console on standard input and output until the terminal ends.
///
/// # Errors
/// The terminal cannot be used.
pub fn run(run_dir: &RunDir) -> rustyline::Result<()> {
    let socket = run_dir.socket("host");
    let config = Config::builder().completion_type(CompletionType::List).bracketed_paste(false).build();
    let history = MemHistory::with_config(&config);
    let mut editor = Editor::<Completion, MemHistory>::with_history(config, history)?;
    editor.set_helper(Some(Completion::new(socket.clone())));
    let turn = Turn::default();
    // A terminal that is none, or a dumb one, has no line that could be drawn anew below the news.
    if let Ok(printer) = editor.create_external_printer() {
        news::show(&socket, printer, &turn)?;
    }
    let session = Session { run_dir: run_dir.clone(), socket, turn };
    println!("Godwit {}. Type help for the commands.", env!("CARGO_PKG_VERSION"));
    loop {
        match editor.readline(&session.prompt()) {
            Ok(line) => {
                let _turn = session.turn.for_command();
                match line.strip_prefix("@exec ").and_then(|rest| rest.split_once(' ')) {
                    Some((token, command)) => session.run_for_program(token, command),
                    None => {
                        editor.add_history_entry(&line)?;
                        session.run_line(&line, Progress::Shown);
                    }
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

struct Session {
    run_dir: RunDir,
    socket: PathBuf,
    turn: Turn,
}

impl Session {
    fn prompt(&self) -> String {
        format!("{}> ", rustix::system::uname().nodename().to_string_lossy())
    }

    /// Runs a command between two marks that a program at the other end of the line can tell from everything else.
    fn run_for_program(&self, token: &str, command: &str) {
        println!("@begin {token}");
        let status = self.run_line(command, Progress::Hidden);
        println!("@end {token} {}", status as u8);
    }

    fn run_line(&self, line: &str, progress: Progress) -> Status {
        let json = wants_json(line);
        match understand(line, progress) {
            Understood::Nothing => Status::Done,
            Understood::Answered(answer, status) => {
                println!("{}", shown(&answer, json));
                status
            }
            Understood::Ask(request) => self.run_request(&request, json, wants_force(line), progress),
        }
    }

    fn run_request(&self, request: &HostRequest, json: bool, force: bool, progress: Progress) -> Status {
        let (answer, descriptors) = match ask(&self.socket, request, progress) {
            Ok(answered) => answered,
            Err(Unanswered::Left(refusal)) => (HostAnswer::Refused(refusal), Vec::new()),
            Err(Unanswered::Silent(refusal)) => {
                (self.without_control_plane(request, refusal, force, progress), Vec::new())
            }
        };
        let status = if answer.is_refusal() { Status::Refused } else { Status::Done };
        if let (HostAnswer::Console, Some(monitor)) = (&answer, descriptors.into_iter().next()) {
            println!("Attached. Ctrl-] leaves.");
            match attach(monitor) {
                Ok(Left::ByKey) => println!("\nDetached."),
                Ok(Left::GuestEnded) => println!("\nThe VM ended here, or moved: vm list tells where it is."),
                Err(error) => println!("\nerror: the VM's console failed: {error}"),
            }
            return status;
        }
        println!("{}", shown(&answer, json));
        status
    }
}

impl Session {
    /// What can be done where the control plane does not answer: `init` ends the host, if that was asked for, and is wanted all the same.
    fn without_control_plane(
        &self,
        request: &HostRequest,
        refusal: Diagnosis,
        force: bool,
        progress: Progress,
    ) -> HostAnswer {
        let Some(order) = by_init::order(request) else { return HostAnswer::Refused(refusal) };
        let wanted = force || (progress == Progress::Shown && by_init::is_wanted(&refusal));
        if !wanted {
            return HostAnswer::Refused(refusal);
        }
        by_init::give(&self.run_dir, order).unwrap_or_else(HostAnswer::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mistyped_and_help_are_answered_in_json_where_json_is_wanted() {
        for (line, variant, status) in [
            ("vm strat web --json", "refused", Status::NotUnderstood),
            ("vm start --json", "refused", Status::NotUnderstood),
            ("help --json", "done", Status::Done),
            ("help nothing --json", "refused", Status::NotUnderstood),
            ("vm console web --json", "refused", Status::Refused),
        ] {
            let Understood::Answered(answer, came) = understand(line, Progress::Hidden) else { panic!("{line}") };
            let value: serde_json::Value = serde_json::from_str(&shown(&answer, wants_json(line))).expect("JSON");
            assert!(value.get(variant).is_some() && came == status, "{line}: {value}");
            assert!(!shown(&answer, wants_json("vm")).starts_with('{'), "{line}");
        }
    }
}
