//! The one way to run another program and wait for it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::error::{Doing, LabError, Result};

/// How many lines of a failed program's output are shown.
const LINES_SHOWN: usize = 25;

/// A program to run to its end.
pub struct Child {
    command: Command,
}

impl Child {
    /// A child that runs `program` with what follows as its arguments.
    pub fn new<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = A>) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        Self { command }
    }

    /// Adds one argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds several arguments, or none.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets the folder that it runs in.
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it and gives what it printed on standard output; a status other than 0 is an error.
    pub fn output(mut self) -> Result<String> {
        let output = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        let output = output.doing(format!("starting {}", self.typed()))?;
        if !output.status.success() {
            return Err(self.failed(&output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it for its effect; a status other than 0 is an error that shows what it printed.
    pub fn run(self) -> Result<()> {
        self.output().map(drop)
    }

    /// Runs it for its effect and takes what it prints on standard output away unread, however much it is.
    pub fn into_silence(mut self) -> Result<()> {
        let output = self.command.stdout(Stdio::null()).stderr(Stdio::piped()).output();
        let output = output.doing(format!("starting {}", self.typed()))?;
        if output.status.success() { Ok(()) } else { Err(self.failed(&output)) }
    }

    /// Runs it with this process's own standard output and error, and says whether it ended with status 0.
    pub fn succeeds_in_sight(mut self) -> Result<bool> {
        let status = self.command.status().doing(format!("starting {}", self.typed()))?;
        Ok(status.success())
    }

    /// Runs it silently and says whether it could be started and ended with status 0.
    pub fn succeeds(mut self) -> bool {
        self.command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// The command inside, for what this type does not offer (pipes that are read while it runs).
    pub fn into_command(self) -> Command {
        self.command
    }

    fn typed(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    fn failed(&self, output: &Output) -> LabError {
        let ended = match output.status.code() {
            Some(code) => format!("exited with status {code}"),
            None => format!("was ended ({})", output.status),
        };
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let lines: Vec<&str> = said.lines().collect();
        let said = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
        LabError::Child { command: self.typed(), ended, said }
    }
}
