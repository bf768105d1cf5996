//! A VM's life on one host.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use protocol::lease::identity::AreaId;
use protocol::lease::layout::Place;
use protocol::lease::record::AreaHeader;
use protocol::lease::sector::{Content, decode};

use crate::error::{Doing, LabError, Result};
use crate::guests;
use crate::tests::nested::bench::{Bench, expect};
use crate::tests::nested::guest::HOSTS;
use crate::tests::tally::Verdict;

pub(super) fn a_debian_guest_starts_from_the_datastore_and_answers_its_client(bench: &mut Bench) -> Result<Verdict> {
    bench.end("deb")?;
    bench.done("host-a", "vm start deb")?;
    let talker = bench.talk("deb")?;
    bench.judge(talker, "deb")?;
    expect(bench.settled_on("deb")? == "host-a", || "deb does not run where it was started".into())?;
    Ok(Verdict::Passed)
}

pub(super) fn a_vm_that_runs_is_not_started_a_second_time(bench: &mut Bench) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    for host in HOSTS {
        let answer = bench.exec(host, "vm start deb")?;
        let explained = answer.status != 0 && answer.output.contains("host-a") && answer.output.contains("\nhint:  ");
        expect(explained, || bench.unexpected(host, "vm start deb", &answer).to_string())?;
    }
    expect(bench.settled_on("deb")? == "host-a", || "deb does not run where it ran".into())?;
    Ok(Verdict::Passed)
}

/// The other host has never heard of this VM's lease, and must read of it before it lists the VM.
pub(super) fn a_new_vm_is_listed_where_it_runs_by_every_host_at_once(bench: &mut Bench) -> Result<Verdict> {
    let vms = bench.fleet.datastore().join("vms");
    let (witness, fresh) = (vms.join("witness"), vms.join("fresh"));
    fs::create_dir_all(&fresh).at("creating", &fresh)?;
    let text = fs::read_to_string(witness.join("vm.toml")).at("reading", &witness)?;
    let text = text.replace("name = \"witness\"", "name = \"fresh\"");
    fs::write(fresh.join("vm.toml"), text).at("writing", &fresh)?;
    fs::copy(witness.join("witness"), fresh.join("witness")).at("copying", &witness)?;
    bench.done("host-a", "vm start fresh")?;
    let first = bench.state("host-b", "fresh");
    bench.end("fresh")?;
    fs::remove_dir_all(&fresh).at("removing", &fresh)?;
    expect(first? == "elsewhere host-a", || "host-b did not list the VM where it runs".into())?;
    Ok(Verdict::Passed)
}

pub(super) fn a_paused_vm_is_silent_and_goes_on_where_it_was(bench: &mut Bench) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    let talker = bench.talk("deb")?;
    bench.listen(&talker)?;
    bench.done("host-a", "vm pause deb")?;
    std::thread::sleep(Duration::from_millis(500));
    let before = guests::audit_journal(&*bench.fleet.server(), "deb")?.last;
    std::thread::sleep(Duration::from_secs(2));
    let after = guests::audit_journal(&*bench.fleet.server(), "deb")?.last;
    expect(before == after, || format!("a paused guest wrote: {before:?}, then {after:?}"))?;
    bench.done("host-a", "vm resume deb")?;
    bench.judge(talker, "deb")?;
    Ok(Verdict::Passed)
}

pub(super) fn a_vm_obeys_its_power_button(bench: &mut Bench) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    bench.judge_nothing_lost_after(|bench| {
        bench.done("host-a", "vm stop deb")?;
        HOSTS.iter().try_for_each(|host| bench.wait_for_state(host, "deb", "stopped"))
    })?;
    expect(bench.monitors("deb")?.is_empty(), || "a monitor of a stopped VM is left".into())?;
    Ok(Verdict::Passed)
}

/// What is damaged is put right again, and all is well.
pub(super) fn a_damaged_lease_keeps_vms_from_starting_and_says_what_mends_it(bench: &mut Bench) -> Result<Verdict> {
    bench.end("deb")?;
    bench.end("witness")?;
    let path = bench.fleet.datastore().join("godwit/lease");
    let area = File::options().read(true).write(true).open(&path).at("opening", &path)?;
    let mut header = vec![0; 4096];
    area.read_exact_at(&mut header, 0).at("reading", &path)?;
    let Content::Valid(_, AreaHeader { geometry, .. }) = decode(&header, AreaId(0), 0) else {
        return Err(LabError::Input(format!("{} is not a lease area", path.display())));
    };
    // The leases of the VMs that were started first: all that the lab has.
    let offset = geometry.vm(Place(0)).extent().offset;
    let mut sound = vec![0; usize::try_from(geometry.vm(Place(8)).extent().offset - offset).unwrap_or_default()];
    area.read_exact_at(&mut sound, offset).at("reading", &path)?;
    area.write_all_at(&vec![0xA5; sound.len()], offset).at("writing", &path)?;
    let said = ["vm start witness", "vm list", "host check"].map(|command| bench.exec("host-a", command));
    area.write_all_at(&sound, offset).at("writing", &path)?;
    let [start, list, check] = said;
    let (start, list, check) = (start?, list?, check?);
    let told = ["the lease of VM witness is damaged", "corrupt in both copies", "lease break witness"];
    expect(start.status != 0 && told.iter().all(|part| start.output.contains(part)), || {
        bench.unexpected("host-a", "vm start witness", &start).to_string()
    })?;
    expect(list.output.contains("witness"), || format!("a VM is denied: {}", list.output))?;
    expect(check.status != 0 && check.output.contains("the lease of VM witness is damaged"), || {
        bench.unexpected("host-a", "host check", &check).to_string()
    })?;
    bench.done("host-a", "vm start witness")?;
    bench.done("host-a", "vm kill witness").map(|_| Verdict::Passed)
}

pub(super) fn a_bad_vm_configuration_is_refused_with_every_reason_at_once(bench: &mut Bench) -> Result<Verdict> {
    let folder = bench.fleet.datastore().join("vms/bad");
    fs::create_dir_all(&folder).at("creating", &folder)?;
    fs::write(folder.join("vm.toml"), [0x80, 0, 0xFF]).at("writing", &folder)?;
    let answer = bench.exec("host-a", "vm start bad")?;
    expect(
        answer.status != 0 && answer.output.contains("vms/bad/vm.toml") && answer.output.contains("not UTF-8"),
        || bench.unexpected("host-a", "vm start bad", &answer).to_string(),
    )?;
    let text =
        "[vm]\nname = \"bad\"\ncpus = 1000\nmemory = \"lots\"\ncolour = \"red\"\n\n[boot]\nkernel = \"vmlinuz\"\n";
    fs::write(folder.join("vm.toml"), text).at("writing", &folder)?;
    let answer = bench.exec("host-a", "vm start bad");
    fs::remove_dir_all(&folder).at("removing", &folder)?;
    let answer = answer?;
    for word in ["error: ", "cpus", "memory", "colour", "line 3", "vms/bad/vmlinuz"] {
        let explained = answer.status != 0 && answer.output.contains(word);
        expect(explained, || format!("{word} is missing: {}", bench.unexpected("host-a", "vm start bad", &answer)))?;
    }
    Ok(Verdict::Passed)
}

impl Bench {
    /// A client talks, is stopped, `work` is done; then the journal must hold everything that the client saw.
    pub(super) fn judge_nothing_lost_after(&self, work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let talker = self.talk("deb")?;
        self.listen(&talker)?;
        let heard = talker.stop()?;
        work(self)?;
        self.nothing_is_lost(&heard, "deb").map(drop)
    }
}
