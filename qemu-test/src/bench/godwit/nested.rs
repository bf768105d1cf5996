//! Two hosts that boot the image, machines of the lab. A host has one console, its serial line: a VM's serial port is joined
//! to it for as long as the guest is listened to.

use std::cell::RefCell;
use std::time::Duration;

use crate::bench::contestant::NESTED_MOVE_BOUND;
use crate::bench::conversation::Conversation;
use crate::bench::godwit::moves::{self, Host, Hosts};
use crate::bench::stage::Stage;
use crate::console::SerialLine;
use crate::error::{LabError, Result};
use crate::machine::Machine;
use crate::wait;

/// The longest that a command may take: a move is one.
const COMMAND_BOUND: Duration = NESTED_MOVE_BOUND;
/// How long a VM that was started or moved may take to be shown by its host.
const ATTACH_BOUND: Duration = Duration::from_secs(60);
/// How long a console may take to be itself again.
const CONSOLE_BOUND: Duration = Duration::from_secs(30);
/// Leaves a VM's serial port (Ctrl-]).
const LEAVE: u8 = 0x1d;

/// Two hosts, as long as they are on the stage.
pub(in crate::bench) struct Nested<'a> {
    stage: &'a RefCell<Stage>,
    hosts: Option<[Console; 2]>,
}

impl<'a> Nested<'a> {
    /// Those of this stage.
    pub(in crate::bench) fn of(stage: &'a RefCell<Stage>) -> Self {
        Self { stage, hosts: None }
    }
}

impl Hosts for Nested<'_> {
    fn both(&mut self) -> Result<[&mut dyn Host; 2]> {
        let (machines, new) = self.stage.borrow_mut().godwit()?;
        let consoles = self.hosts.take().filter(|_| !new);
        let [source, destination] = self.hosts.insert(consoles.unwrap_or_else(|| machines.map(Console::of)));
        Ok([source, destination])
    }

    fn give_up(&mut self) {
        self.stage.borrow_mut().clear_after_failure();
    }
}

/// One host.
struct Console {
    machine: Machine,
    /// Whether a VM's serial port was joined to the line.
    joined: bool,
    /// Whether it stopped answering: nothing more is waited for then.
    lost: bool,
}

impl Console {
    fn of(machine: Machine) -> Self {
        Self { machine, joined: false, lost: false }
    }

    /// Leaves the VM's serial port, if it is joined.
    fn leave(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.joined) {
            return Ok(());
        }
        let mut line = SerialLine::open(&self.machine)?;
        line.send(&[LEAVE])?;
        // What is typed before the prompt is there is lost; where the guest ended it was there before.
        match line.read_until(&format!("{}> ", self.machine.spec.name), Duration::from_secs(5)) {
            Ok(_) | Err(LabError::TimedOut { .. }) => line.wait_until_ready(CONSOLE_BOUND),
            Err(error) => Err(error),
        }
    }

    fn type_command(&mut self, command: &str) -> Result<String> {
        self.leave()?;
        let answer = SerialLine::open(&self.machine)?.exec_within(command, COMMAND_BOUND)?;
        if answer.status == 0 {
            return Ok(answer.output);
        }
        let what = format!("`{command}` ended with status {}: {}", answer.status, answer.output.trim_end());
        Err(LabError::Host { host: self.machine.spec.name.clone(), what })
    }
}

impl Host for Console {
    fn name(&self) -> String {
        self.machine.spec.name.clone()
    }

    fn ready(&mut self) -> Result<()> {
        self.leave()?;
        SerialLine::open(&self.machine)?.wait_until_ready(CONSOLE_BOUND)
    }

    fn done(&mut self, command: &str) -> Result<String> {
        if self.lost {
            let what = format!("it does not answer any more, `{command}` was not typed");
            return Err(LabError::Host { host: self.name(), what });
        }
        let done = self.type_command(command);
        self.lost = matches!(done, Err(LabError::TimedOut { .. } | LabError::Io { .. }));
        done
    }

    fn attach(&mut self, vm: &str) -> Result<Conversation> {
        wait::until("the VM's console", ATTACH_BOUND, || {
            self.ready()?;
            let (line, owned) = SerialLine::open(&self.machine)?.into_stream()?;
            let mut serial = Conversation::over(Box::new(line), Some(owned))?;
            let joined = moves::attach(&mut serial, vm)?;
            self.joined = joined.is_ok();
            Ok(joined.map(|()| serial))
        })
    }

    fn machine(&mut self, _vm: &str) -> Result<Option<u32>> {
        Ok(None)
    }

    fn workers(&self) -> Vec<u32> {
        crate::bench::stage::pid_of(&self.machine).into_iter().collect()
    }
}
