//! A talk in lines with a guest's serial port, or a console: the standard input and output of a program, or a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::error::{Doing, LabError, Result};
use crate::line_owner::Owned;
use crate::socket::Socket;

/// Lines that an error shows.
const LINES_SHOWN: usize = 12;

/// The talk; the program is killed, or the connection closed, with it.
pub(super) struct Conversation {
    with: With,
    input: Box<dyn Write + Send>,
    lines: Receiver<String>,
    heard: Vec<String>,
}

/// Who is at the other end.
enum With {
    Program(Child),
    /// A connection, and what must be kept for as long as it is used.
    Connection {
        socket: Box<dyn Socket>,
        _owned: Option<Owned>,
    },
}

impl Conversation {
    /// Starts the program.
    pub(super) fn begin(mut command: Command) -> Result<Self> {
        let what = format!("starting {}", command.get_program().to_string_lossy());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().doing(&what)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.ok_or_else(|| LabError::Input(format!("{what}: no pipes")))?;
        Ok(Self { with: With::Program(child), input: Box::new(input), lines: lines_of(output), heard: Vec::new() })
    }

    /// Talks over a connection; `owned` is kept until its end.
    pub(super) fn over(socket: Box<dyn Socket>, owned: Option<Owned>) -> Result<Self> {
        let clone = || socket.try_clone().doing("setting up a connection");
        let (input, output) = (clone()?, clone()?);
        let lines = lines_of(output);
        Ok(Self { with: With::Connection { socket, _owned: owned }, input: Box::new(input), lines, heard: Vec::new() })
    }

    /// The program's process, if it is one of this machine's.
    pub(super) fn pid(&self) -> Option<u32> {
        match &self.with {
            With::Program(child) => Some(child.id()),
            With::Connection { .. } => None,
        }
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
        match &mut self.with {
            With::Program(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            With::Connection { socket, .. } => {
                let _ = socket.shutdown();
            }
        }
    }
}

/// The lines of an output, for as long as it lasts and somebody wants them.
fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
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
    lines
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_connection_is_talked_over_in_lines_and_closed_at_the_end_of_the_talk() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut talk = Conversation::over(Box::new(ours), None).expect("set up");
        assert_eq!(talk.pid(), None);
        talk.type_line("v").expect("typed");
        theirs.set_read_timeout(Some(Duration::from_secs(20))).expect("set up");
        let mut theirs = BufReader::new(theirs);
        let mut typed = String::new();
        theirs.read_line(&mut typed).expect("read");
        assert_eq!(typed, "v\n");
        theirs.get_mut().write_all(b"noise\r\nwitness: ok\r\nhalf").expect("written");
        let bound = Duration::from_secs(20);
        talk.line("ok", bound, |line| (line == "witness: ok").then_some(())).expect("a whole line without its end");
        let none = talk.line("more", Duration::from_millis(50), |_| Some(())).expect_err("half a line is none");
        assert!(none.to_string().contains("noise"), "{none}");
        drop(talk);
        assert_eq!(theirs.read_line(&mut typed).expect("closed, not in error"), 0);
    }
}
