//! QEMU in two machines of the lab: Debian's kernel with its KVM, on the wires and with the machine of Godwit's hosts.
//! Orders are given to the shell that is a machine's init, on its serial line, in the `@exec` lines that Godwit's console understands too.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::bench::case::Case;
use crate::bench::contestant::NESTED_MOVE_BOUND;
use crate::bench::conversation::Conversation;
use crate::bench::qemu::initramfs::{INIT_RUNS, Initramfs, KEYS, PID_FILE, WITNESS};
use crate::bench::qemu::moves::Ends;
use crate::bench::qemu::way::{KEY_FILE, Way, new_key};
use crate::bench::stage::{self, Stage};
use crate::console::SerialLine;
use crate::error::{Doing, LabError, Result};
use crate::fleet::Fleet;
use crate::image::Image;
use crate::machine::{Boot, KERNEL_WORDS, Machine, Qmp, chassis};
use crate::wire::{Wire, Wires};

/// The ports of a QEMU on the management wire: its guest's serial port, and its control protocol.
const SERIAL: u16 = 4001;
const CONTROL: u16 = 4002;
/// How long an order may take: QEMU reads its files and makes its machine.
const ORDER_BOUND: Duration = Duration::from_secs(60);
/// How long a machine may take to its init when nothing else runs.
const BOOT_BOUND: Duration = Duration::from_secs(20);
/// From there to a shell that answers.
const SHELL_BOUND: Duration = Duration::from_secs(60);

/// Boots the machines of a fleet side by side and waits until each takes orders, has KVM, and knows the key.
pub(in crate::bench) fn boot_hosts(fleet: &Fleet, image: &Image, initramfs: &Initramfs) -> Result<()> {
    let machines = fleet.machines();
    let start = |machine: &Machine| start(machine, fleet, image, initramfs);
    machines.iter().try_for_each(start)?;
    let key = new_key()?;
    for machine in &machines {
        let boot = Boot {
            name: &machine.spec.name,
            log: machine.serial_log(),
            process: machine.process(),
            idle_bound: BOOT_BOUND,
            shows_init: |log| log.contains(INIT_RUNS),
        };
        boot.see_through(fleet.accelerator(), || start(machine))?;
        SerialLine::open(machine)?.wait_until_ready(SHELL_BOUND)?;
        order(machine, "test -c /dev/kvm || { dmesg | tail -n 20; false; }")?;
        order(machine, &format!("echo {key} >{KEYS}/{KEY_FILE}"))?;
    }
    Ok(())
}

fn start(machine: &Machine, fleet: &Fleet, image: &Image, initramfs: &Initramfs) -> Result<()> {
    std::fs::create_dir_all(&machine.folder).at("creating", &machine.folder)?;
    let _ = std::fs::remove_file(machine.serial_log());
    let mut line = chassis(machine, fleet.accelerator());
    line.option("-kernel", &image.kernel);
    line.option("-initrd", &initramfs.file);
    let number = machine.spec.number;
    let nic = |wire: Wire| format!("lab.nic={}={}/24", wire.host_mac(number), wire.host_address(number));
    let words = [KERNEL_WORDS.into(), nic(Wire::Management), nic(Wire::Migration)];
    line.kernel_words(fleet.accelerator(), words);
    line.program(fleet.wires()).run()
}

/// Gives an order to the shell that is a machine's init.
fn order(machine: &Machine, order: &str) -> Result<()> {
    let answer = SerialLine::open(machine)?.exec_within(order, ORDER_BOUND)?;
    if answer.status == 0 {
        return Ok(());
    }
    let what = format!("`{order}` ended with status {} and said:\n{}", answer.status, answer.output.trim_end());
    Err(LabError::Host { host: machine.spec.name.clone(), what })
}

/// The machines, as long as they are on the stage.
pub(in crate::bench) struct Nested<'a> {
    stage: &'a RefCell<Stage>,
}

impl<'a> Nested<'a> {
    /// Those of this stage.
    pub(in crate::bench) fn of(stage: &'a RefCell<Stage>) -> Self {
        Self { stage }
    }

    fn machines(&self) -> Result<[Machine; 2]> {
        self.stage.borrow_mut().qemu()
    }

    fn wires(&self) -> Wires {
        self.stage.borrow().wires()
    }
}

impl Ends for Nested<'_> {
    fn launch(&mut self, way: Way, case: Case, end: usize) -> Result<Conversation> {
        let machine = &self.machines()?[end];
        let words = way.words(case, end, Path::new(WITNESS), Path::new(KEYS));
        order(machine, &command(&words, end))?;
        let address = SocketAddr::from((on(Wire::Management, end), SERIAL));
        let connected = self.wires().enter(|| TcpStream::connect_timeout(&address, ORDER_BOUND))?;
        let stream = connected.doing(format!("connecting to {address}"))?;
        let serial = Conversation::over(Box::new(stream), None)?;
        if end == 0 {
            // It waits for this, so that nothing of what its guest says is lost.
            self.control(end)?.execute("cont", serde_json::json!({}))?;
        }
        Ok(serial)
    }

    fn control(&mut self, end: usize) -> Result<Qmp> {
        let who = &self.machines()?[end].spec.name;
        Qmp::connect_on(&self.wires(), who, SocketAddr::from((on(Wire::Management, end), CONTROL)))
    }

    fn address(&self, end: usize) -> Ipv4Addr {
        on(Wire::Migration, end)
    }

    fn move_bound(&self) -> Duration {
        NESTED_MOVE_BOUND
    }

    fn workers(&self) -> Vec<u32> {
        let machines = self.machines().map(Vec::from).unwrap_or_default();
        machines.iter().filter_map(stage::pid_of).collect()
    }

    fn clear(&mut self) -> Result<()> {
        self.machines()?.iter().try_for_each(|machine| order(machine, "end-qemu"))
    }

    fn give_up(&mut self) {
        self.stage.borrow_mut().clear_after_failure();
    }
}

/// The address of an end's machine.
fn on(wire: Wire, end: usize) -> Ipv4Addr {
    wire.host_address(end as u8 + 1)
}

/// What the shell is told to start QEMU with these words. The source's guest waits until it is told to run.
fn command(words: &[String], end: usize) -> String {
    let listens = |port: u16| format!("tcp:{}:{port},server=on,wait=off", on(Wire::Management, end));
    let mut command = "qemu-system-x86_64".to_owned();
    for word in words {
        command += &format!(" '{word}'");
    }
    command += &format!(" -serial {} -qmp {} -daemonize -pidfile {PID_FILE}", listens(SERIAL), listens(CONTROL));
    command + if end == 0 { " -S" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::case;
    use crate::child::Child;

    #[test]
    fn the_shell_gives_qemu_each_word_whole_and_takes_the_order_in_one_line() {
        let case = *case::nested().last().expect("there are cases");
        for (way, end) in Way::MOVING.into_iter().flat_map(|way| [(way, 0), (way, 1)]) {
            let words = way.words(case, end, Path::new(WITNESS), Path::new(KEYS));
            let command = command(&words, end);
            let printed = command.replacen("qemu-system-x86_64", "printf '%s\\n'", 1);
            let said = Child::new("sh", ["-c", &printed]).output().expect("a shell that understands it");
            let said: Vec<&str> = said.lines().collect();
            assert_eq!(said[..words.len()], words, "{command}");
            assert_eq!(said.last() == Some(&"-S"), end == 0);
            // A terminal takes no longer lines (termios(3), canonical mode).
            assert!(command.len() < 4000 && !command.contains('\n'), "{command}");
        }
    }
}
