//! `cargo lab demo`: a VM moves from one host to another while a client talks to it.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use crate::error::{LabError, Result};
use crate::fleet::{self, Fleet};
use crate::guests::{self, Hearing, Talker};
use crate::home::Home;
use crate::image;
use crate::machine::{Firmware, HostSpec, Medium, StartFrom, config_drive};
use crate::servers::Make;
use crate::setup::{self, Purpose};
use crate::terminal;

const VM: &str = "deb";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 4, 21);
const COMMAND_BOUND: Duration = Duration::from_secs(300);
/// A guest of an emulated host takes its time to boot.
const GUEST_BOUND: Duration = Duration::from_secs(240);
/// How long the client talks before and after the move.
const TALK: Duration = Duration::from_secs(4);

/// Shows the move, then hands over a console unless `auto`; ends the hosts in any case.
pub(super) fn run(home: &Home, auto: bool) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Build, Purpose::Image, Purpose::Fleet, Purpose::Guests])?;
    let _held = fleet::hold(home)?;
    Fleet::down(home)?;
    image::build(home)?;
    let shown = show(home, auto);
    let ended = Fleet::down(home);
    shown?;
    ended?;
    Ok(ExitCode::SUCCESS)
}

fn show(home: &Home, auto: bool) -> Result<()> {
    // As on bare machines: the ISO as a CD and as a stick, and the configuration on a volume beside it.
    let boots = [(1, Firmware::Bios, Medium::Cd), (2, Firmware::Uefi, Medium::Usb)];
    let host = |(number, firmware, medium)| {
        let mut host = HostSpec { start_from: StartFrom::Iso(firmware, medium), ..HostSpec::usual(number) };
        host.config_drive = Some(config_drive(&home.image(), &host.name, &host.configuration_file())?);
        Ok(host)
    };
    let hosts = boots.into_iter().map(host).collect::<Result<Vec<_>>>()?;
    println!("demo: host-a boots the ISO as a CD by BIOS, host-b as a USB stick by UEFI");
    let fleet = Fleet::up(home, Make::default(), hosts, |store| guests::place_all(home, store))?;
    type_shown(&fleet, "host-a", &format!("vm start {VM}"))?;
    println!("demo: a client outside connects to the VM by TCP and counts");
    let talker = Talker::start(fleet.wires(), ADDRESS, GUEST_BOUND)?;
    std::thread::sleep(TALK);
    // A move that fails leaves the VM on its source: the client and the journal are judged all the same.
    let moved = type_shown(&fleet, "host-a", &format!("vm migrate {VM} host-b"));
    std::thread::sleep(TALK);
    let heard = talker.stop()?;
    type_shown(&fleet, "host-b", "vm list")?;
    judge(&fleet, &heard)?;
    if moved.is_err() {
        println!("demo: the move failed; the VM stayed where it was and lost nothing (the reason stands above)");
    }
    if !auto {
        println!("demo: this is the serial console of host-b; try: vm list, vm console {VM}, help");
        terminal::attach(&fleet.machine("host-b")?)?;
    }
    moved
}

/// Types a command and shows it as it looks on the console.
fn type_shown(fleet: &Fleet, host: &str, command: &str) -> Result<()> {
    println!("\n{host}> {command}");
    let answer = fleet.exec(host, command, COMMAND_BOUND)?;
    println!("{}", answer.output.trim_end());
    if answer.status == 0 {
        return Ok(());
    }
    Err(LabError::Host { host: host.into(), what: format!("`{command}` ended with status {}", answer.status) })
}

fn judge(fleet: &Fleet, heard: &Hearing) -> Result<()> {
    let audit = guests::audit_journal(&*fleet.server(), VM)?;
    println!("\ndemo: what the client saw");
    println!("  one TCP connection, unbroken; {} questions, each answered once and in order", heard.ticks);
    println!("  longest wait for an answer   {:.0} ms", heard.longest_silence.as_secs_f64() * 1e3);
    println!("  longest gap the guest felt   {:.0} ms", heard.guest_gap.as_secs_f64() * 1e3);
    println!("demo: what the guest's journal says");
    println!("  {} records on its disk, {} of them seen acknowledged", audit.records, heard.acknowledged.len());
    let faults = heard.compare(&audit);
    if faults.is_empty() {
        println!("  nothing lost, nothing doubled");
        return Ok(());
    }
    Err(LabError::Input(format!("the journal is not sound: {}", faults.join("; "))))
}
