//! Ways to boot, and boots that go wrong.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::error::{Doing, LabError, Result};
use crate::machine::{Firmware, HostSpec, Machine, Medium, StartFrom, config_drive};
use crate::tests::nested::bench::{Bench, expect, says};
use crate::tests::nested::migration::check_receipt;
use crate::tests::tally::Verdict;
use crate::wait;

/// How long a host may take to shut its VMs and itself down.
const OFF_BOUND: Duration = Duration::from_secs(300);
/// What host-b tells others of itself, on the datastore.
const RECORD: &str = "hosts/host-b/record.toml";
/// What a host says at a boot after one that was not ended in order.
const WENT_DOWN: &str = "this host went down, and no datastore saw it shut down";
/// How long a host may take to tell something by itself.
const TOLD_BOUND: Duration = Duration::from_secs(60);
/// The first of the hosts that these tests boot beside the fleet.
const NUMBER: u8 = 9;

/// And what boots so is the product: a Debian guest moves from the one host to the other.
pub(super) fn the_iso_boots_by_bios_as_a_cd_and_as_a_usb_stick(bench: &mut Bench) -> Result<Verdict> {
    bench.end("deb")?;
    boot_iso(bench, Firmware::Bios, |bench, [cd, stick]| {
        bench.done(cd, "vm start deb")?;
        let talker = bench.talk("deb")?;
        bench.listen(&talker)?;
        bench.can_move("deb", cd, stick)?;
        check_receipt(&bench.move_vm("deb", cd, stick)?)?;
        bench.judge(talker, "deb")?;
        bench.done(stick, "vm kill deb").map(|_| ())
    })
}

pub(super) fn the_iso_boots_by_uefi_as_a_cd_and_as_a_usb_stick(bench: &mut Bench) -> Result<Verdict> {
    boot_iso(bench, Firmware::Uefi, |_, _| Ok(()))
}

/// The ISO boots to a console that answers, and the host has taken its name from the volume labelled GODWIT. Then `more` is tried with both.
fn boot_iso(
    bench: &mut Bench,
    firmware: Firmware,
    more: impl FnOnce(&Bench, [&str; 2]) -> Result<()>,
) -> Result<Verdict> {
    let mut specs = Vec::new();
    for (number, medium) in (NUMBER..).zip([Medium::Cd, Medium::Usb]) {
        let mut spec = HostSpec { start_from: StartFrom::Iso(firmware, medium), ..HostSpec::usual(number) };
        spec.config_drive = Some(config_drive(&bench.home.run(), &spec.name, &spec.configuration_file())?);
        specs.push(spec);
    }
    bench.with_hosts(specs, |bench, machines| {
        for Machine { spec: HostSpec { name, .. }, .. } in machines {
            bench.done(name, "help")?;
            let log = bench.serial_log(name)?;
            expect(says(&log, &format!("identity: host {name}")), || {
                format!("{name} did not find its configuration:\n{log}")
            })?;
        }
        let [cd, stick] = machines else { return Err(LabError::Input("two hosts boot".into())) };
        more(bench, [&cd.spec.name, &stick.spec.name])?;
        Ok(Verdict::Passed)
    })
}

pub(super) fn a_host_with_a_bad_configuration_comes_up_and_says_what_is_wrong(bench: &mut Bench) -> Result<Verdict> {
    let mut spec = HostSpec { start_from: StartFrom::Kernel, ..HostSpec::usual(NUMBER) };
    let good = spec.configuration_file();
    let bad = format!("{good}\nport_group.lab.vlan = 5000\nmigration_nic.adress = \"10.0.0.1/24\"\n");
    spec.config_drive = Some(config_drive(&bench.home.run(), &spec.name, &bad)?);
    bench.with_host(spec, |bench, machine| {
        bench.done(&machine.spec.name, "help")?;
        let log = bench.serial_log(&machine.spec.name)?;
        for word in ["host.toml", "port_group.lab.vlan", "1 to 4094", "migration_nic.adress", "mean \"address\""] {
            expect(says(&log, word), || format!("the boot does not say {word}:\n{log}"))?;
        }
        Ok(Verdict::Passed)
    })
}

pub(super) fn a_host_that_lost_power_comes_back_and_says_what_ran_there(bench: &mut Bench) -> Result<Verdict> {
    bench.end("witness")?;
    bench.done("host-b", "vm start witness")?;
    wait_for_record(bench, "\"witness\"")?;
    let machine = bench.fleet.machine("host-b")?;
    machine.process().kill()?;
    bench.fleet.boot(std::slice::from_ref(&machine))?;
    wait::until("host-b to say what happened", TOLD_BOUND, || {
        let serial = bench.serial_log("host-b")?;
        let told = says(&serial, WENT_DOWN) && says(&serial, "it ran witness: vm list tells where they are now");
        Ok(if told { Ok(()) } else { Err(serial) })
    })?;
    bench.start_in_the_end("witness", "host-b")?;
    bench.end("witness")?;
    Ok(Verdict::Passed)
}

pub(super) fn a_host_that_is_shut_down_ends_its_vms_first_and_says_what_it_waits_for(
    bench: &mut Bench,
) -> Result<Verdict> {
    bench.bring("deb", "host-b")?;
    let machine = bench.fleet.machine("host-b")?;
    bench.judge_nothing_lost_after(|bench| {
        bench.done("host-b", "host shutdown")?;
        wait::until("host-b to be off", OFF_BOUND, || {
            Ok(if machine.process().runs() { Err("it still runs".into()) } else { Ok(()) })
        })
    })?;
    let serial = bench.serial_log("host-b")?;
    let told = serial.lines().any(|line| says(line, "waiting until these VMs are shut down") && says(line, ": deb"));
    expect(told, || format!("host-b does not say what it waits for:\n{serial}"))?;
    // It gave its leases up: nothing has to expire.
    bench.done("host-a", "vm start deb")?;
    wait::until("host-a to say that host-b was shut down", TOLD_BOUND, || {
        let listed = bench.done("host-a", "host list")?;
        let off = listed.lines().any(|line| line.contains("host-b") && line.contains(" off "));
        Ok(if off { Ok(()) } else { Err(listed) })
    })?;
    bench.fleet.boot(std::slice::from_ref(&machine))?;
    // It has read what it wrote last, and written anew.
    wait_for_record(bench, "left = false")?;
    let serial = bench.serial_log("host-b")?;
    expect(!says(&serial, WENT_DOWN), || format!("host-b does not know that it was shut down:\n{serial}"))?;
    Ok(Verdict::Passed)
}

/// Waits until what host-b tells others of itself says this.
fn wait_for_record(bench: &Bench, what: &str) -> Result<()> {
    wait::until(&format!("host-b to tell others {what}"), TOLD_BOUND, || {
        let record = io::read_to_string(bench.fleet.server().file(RECORD)?).at("reading", Path::new(RECORD))?;
        Ok(if record.contains(what) { Ok(()) } else { Err(record) })
    })
}
