//! A host's serial line: types commands on its console and reads exactly what they print.
//!
//! A line `@exec TOKEN COMMAND...` makes the console print `@begin TOKEN`, then the command's output, then
//! `@end TOKEN STATUS`; what else appears on the line in between (a late kernel message) cannot be told from output, which
//! is why the lab's hosts boot `quiet`.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Doing, LabError, Result};
use crate::line_owner::{Owned, Owner};
use crate::machine::Machine;
use crate::wait;

/// Ctrl-U: takes back whatever somebody left typed.
const TAKE_BACK: u8 = 0x15;
/// How long a healthy console may take from the typed line to `@begin`.
const ANSWER_BOUND: Duration = Duration::from_secs(60);

/// What a console command gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Exactly what it printed, lines ended by `\n`.
    pub output: String,
    /// Its status, 0 for success.
    pub status: u8,
}

/// The serial line of one host, held by this process alone.
pub struct SerialLine {
    host: String,
    stream: UnixStream,
    log: PathBuf,
    seen: Vec<u8>,
    owned: Owned,
}

impl SerialLine {
    /// Takes the console's line; waits while another command of the lab has it.
    ///
    /// # Errors
    /// A person sits at it (`cargo lab console`), or the host is off.
    pub fn open(machine: &Machine) -> Result<Self> {
        Self::open_port(machine, machine.serial_socket())
    }

    /// Takes the line of the stowaway, which understands the same `@exec` lines and other commands.
    pub fn open_stowaway(machine: &Machine) -> Result<Self> {
        Self::open_port(machine, machine.stowaway_socket())
    }

    fn open_port(machine: &Machine, socket: PathBuf) -> Result<Self> {
        let owned = Owned::take(&socket, &machine.spec.name, Owner::Command)?;
        let stream = match UnixStream::connect(&socket) {
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {
                let host = &machine.spec.name;
                return Err(LabError::Input(format!("{host} is off: cargo lab fault {host} boot")));
            }
            connected => connected.at("connecting to", &socket)?,
        };
        stream.set_read_timeout(Some(Duration::from_millis(100))).at("setting up", &socket)?;
        let (host, log) = (machine.spec.name.clone(), machine.serial_log());
        Ok(Self { host, stream, log, seen: Vec::new(), owned })
    }

    /// The line itself, for what is no command. It is this process's for as long as both are kept.
    ///
    /// # Errors
    /// The stream cannot be set up.
    pub fn into_stream(self) -> Result<(UnixStream, Owned)> {
        self.stream.set_read_timeout(None).doing(format!("setting up the console of {}", self.host))?;
        Ok((self.stream, self.owned))
    }

    /// Waits until the console answers commands.
    pub fn wait_until_ready(&mut self, bound: Duration) -> Result<()> {
        let waiting_for = format!("the console of {}", self.host);
        wait::until(&waiting_for, bound, || match self.exec_within("help", Duration::from_secs(5)) {
            Ok(_) => Ok(Ok(())),
            Err(LabError::TimedOut { instead, .. }) => Ok(Err(instead)),
            Err(error) => Err(error),
        })
    }

    /// Types a command, waits for it to end within `bound`.
    pub fn exec_within(&mut self, command: &str, bound: Duration) -> Result<Answer> {
        let token = self.type_command(command)?;
        let now = Instant::now();
        self.read_answer(&token, now, now + bound.min(ANSWER_BOUND), now + bound)
    }

    /// Types a command and does not wait; its token serves [`Self::finish`].
    pub fn type_command(&mut self, command: &str) -> Result<String> {
        if command.contains(['\n', '\r']) {
            return Err(LabError::Input("a console command is one line".into()));
        }
        let token = new_token();
        self.seen.clear();
        self.send(&[&[TAKE_BACK], format!("@exec {token} {command}\r").as_bytes()].concat())?;
        Ok(token)
    }

    /// Waits for the end of a command that was typed before.
    pub fn finish(&mut self, token: &str, bound: Duration) -> Result<Answer> {
        let now = Instant::now();
        self.read_answer(token, now, now + bound, now + bound)
    }

    /// Sends bytes as typed.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).doing(format!("typing on the console of {}", self.host))
    }

    /// Reads until `text` appears; gives everything since the last command was typed.
    pub fn read_until(&mut self, text: &str, bound: Duration) -> Result<String> {
        let now = Instant::now();
        loop {
            let said = String::from_utf8_lossy(&self.seen);
            if said.contains(text) {
                return Ok(said.into_owned());
            }
            self.read_more(now, now + bound, &format!("\"{text}\""))?;
        }
    }

    /// Forgets what was read up to the end of `text`; what came in behind it stays.
    pub fn forget_through(&mut self, text: &str) {
        let end = self.seen.windows(text.len()).position(|bytes| bytes == text.as_bytes()).map(|at| at + text.len());
        self.seen.drain(..end.unwrap_or(0));
    }

    /// Forgets what was read so far.
    pub fn forget(&mut self) {
        self.seen.clear();
    }

    fn read_answer(&mut self, token: &str, start: Instant, begin_by: Instant, end_by: Instant) -> Result<Answer> {
        loop {
            match parse_answer(&self.seen, token) {
                Parsed::Whole(answer) => return Ok(answer),
                Parsed::Begun => self.read_more(start, end_by, "the command to end")?,
                Parsed::Nothing => self.read_more(start, begin_by, "the console to take the command")?,
            }
        }
    }

    fn read_more(&mut self, start: Instant, until: Instant, waiting_for: &str) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    let what = format!("its serial line closed: QEMU ended (see {})", self.log.display());
                    return Err(LabError::Host { host: self.host.clone(), what });
                }
                Ok(count) => {
                    self.seen.extend_from_slice(&buffer[..count]);
                    return Ok(());
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).doing(format!("reading the console of {}", self.host)),
            }
            if Instant::now() >= until {
                let instead = format!("{} said: {}", self.host, last_lines(&self.seen));
                return Err(LabError::TimedOut { waiting_for: waiting_for.into(), after: start.elapsed(), instead });
            }
        }
    }
}

fn last_lines(seen: &[u8]) -> String {
    let said = String::from_utf8_lossy(seen);
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

fn new_token() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}x{:x}x{count:x}", std::process::id(), now.as_nanos() as u64)
}

/// How much of an answer has come.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Nothing,
    Begun,
    Whole(Answer),
}

fn parse_answer(seen: &[u8], token: &str) -> Parsed {
    let said = String::from_utf8_lossy(seen).replace("\r\n", "\n");
    let begin = format!("@begin {token}\n");
    // The marker counts at the start of a line only: the typed line may be echoed.
    let Some(at) = said.match_indices(&begin).map(|(at, _)| at).find(|at| line_starts(&said, *at)) else {
        return Parsed::Nothing;
    };
    let after = &said[at + begin.len()..];
    let end = format!("@end {token} ");
    // Output need not end with a new line; the console puts its marker on a line of its own all the same.
    let Some(end_at) = after.match_indices(&end).map(|(at, _)| at).find(|at| line_starts(after, *at)) else {
        return Parsed::Begun;
    };
    let Some((status, _)) = after[end_at + end.len()..].split_once('\n') else { return Parsed::Begun };
    let output = after[..end_at].to_owned();
    Parsed::Whole(Answer { output, status: status.trim().parse().unwrap_or(u8::MAX) })
}

fn line_starts(text: &str, at: usize) -> bool {
    matches!(text[..at].chars().next_back(), None | Some('\n' | '\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(said: &str) -> Answer {
        match parse_answer(said.as_bytes(), "t1") {
            Parsed::Whole(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn output_is_given_exactly_and_only_between_the_markers() {
        let answer =
            whole("host-a> @exec t1 vm list\r\n@begin t1\r\nNAME  STATE\r\nweb   running\r\n@end t1 0\r\nhost-a> ");
        assert_eq!(answer, Answer { output: "NAME  STATE\nweb   running\n".into(), status: 0 });
    }

    #[test]
    fn an_echoed_marker_is_not_taken_for_the_marker() {
        let said = "> @exec t1 echo @begin t1\r\n";
        assert_eq!(parse_answer(said.as_bytes(), "t1"), Parsed::Nothing);
        let said = "@begin t1\r\nno end: @end t1 0\r\n";
        assert_eq!(parse_answer(said.as_bytes(), "t1"), Parsed::Begun);
    }

    #[test]
    fn a_status_that_has_not_wholly_arrived_is_waited_for() {
        assert_eq!(parse_answer(b"@begin t1\r\n@end t1 1", "t1"), Parsed::Begun);
        assert_eq!(whole("@begin t1\r\n@end t1 12\r\n"), Answer { output: String::new(), status: 12 });
    }

    #[test]
    fn another_commands_answer_is_not_this_ones() {
        assert_eq!(parse_answer(b"@begin t0\n@end t0 0\n", "t1"), Parsed::Nothing);
    }
}
