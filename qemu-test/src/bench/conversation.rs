//! A program whose standard input and output are the two ends of a talk in lines: a guest's serial port, or a console.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::error::{Doing, LabError, Result};

/// Lines that an error shows.
const LINES_SHOWN: usize = 12;

/// The talk; the program is killed with it.
pub(super) struct Conversation {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    heard: Vec<String>,
}

impl Conversation {
    /// Starts the program.
    pub(super) fn begin(mut command: Command) -> Result<Self> {
        let what = format!("starting {}", command.get_program().to_string_lossy());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().doing(&what)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.ok_or_else(|| LabError::Input(format!("{what}: no pipes")))?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, input, lines, heard: Vec::new() })
    }

    /// The program's process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types a line.
    pub(super) fn type_line(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").doing("typing a line")
    }

    /// Reads lines until `pick` finds what it looks for in one.
    pub(super) fn line<T>(
        &mut self,
        waiting_for: &str,
        bound: Duration,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + bound;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(found) = pick(&line) {
                        return Ok(found);
                    }
                    self.heard.push(line);
                }
                Err(why) => {
                    let ended = if why == RecvTimeoutError::Disconnected { "it ended; " } else { "" };
                    let heard = self.heard[self.heard.len().saturating_sub(LINES_SHOWN)..].join("\n");
                    let instead = format!("{ended}it said:\n{heard}");
                    return Err(LabError::TimedOut { waiting_for: waiting_for.into(), after: bound, instead });
                }
            }
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // The only error is that it ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
