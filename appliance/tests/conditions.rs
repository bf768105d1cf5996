//! The conditions of a move, violated on real hosts: each is told with its cause and what mends it, all at once, by the check and by the move that is
//! refused, and the VM stays where it is.

mod world;

use std::io::Read;

use godwit::api::host::{HostAnswer, VmState};
use godwit::api::migrate::ToMigrate;
use model::cpu_report::CpuidLeaf;
use model::limits;
use model::units::Bytes;
use protocol::checks::memory::overhead;
use protocol::session::Versions;
use world::later_build::LaterBuild;
use world::two_hosts::may_move;
use world::{Cable, Datastore, Host, engine_line, line, wait};

/// On both hosts: a port group on uplinks that lie on one wire, and one on uplinks that do not.
const BOTH: &str = "[vswitch.gwwire]\nuplink = \"gwjoin\"\n[port_group.joined]\nvswitch = \"gwwire\"\n\
                    [port_group.apart]\nvswitch = \"gwouter\"\n";
/// On host-a: a vswitch without an uplink, and one that leads somewhere.
const HERE: &str = "[vswitch.gwinner]\n[vswitch.gwouter]\nuplink = \"gwup\"\n\
                    [port_group.inner]\nvswitch = \"gwinner\"\n[port_group.lab]\nvswitch = \"gwouter\"\n\
                    [port_group.shared]\nvswitch = \"gwouter\"\n";
/// On host-b: one label is spelled otherwise, one is another VLAN.
const THERE: &str = "[vswitch.gwouter]\nuplink = \"gwup\"\n\
                     [port_group.inner]\nvswitch = \"gwouter\"\n[port_group.Lab]\nvswitch = \"gwouter\"\n\
                     [port_group.shared]\nvswitch = \"gwouter\"\nvlan = 7\n";
/// What is told of each, and what mends it.
const TOLD: [(&str, &str); 8] = [
    ON_THE_HOST,
    ("its vCPUs are pinned to CPUs 0 of host-a", "remove cpu_affinity from the VM's vm.toml"),
    ("port group \"inner\" is on a vswitch without an uplink on host-a", "give the vswitch of \"inner\" an uplink"),
    ("host-b has no port group \"lab\", but one that is spelled \"Lab\"", "labels must match to the letter"),
    ("port group \"shared\" has no VLAN on host-a and VLAN 7 on host-b", "give port group \"shared\" no VLAN"),
    (
        "port group \"apart\" is not the same physical network on host-a and host-b: no frame passes between their uplinks",
        "plug both uplinks into one network",
    ),
    ("the migration NIC of host-a has an MTU of 1500, that of host-b of 1400", "set mtu = 1400 in [migration_nic]"),
    ("host-b is in maintenance", "host maintenance exit"),
];

/// A disk that is a drive of the host itself.
const ON_THE_HOST: (&str, &str) = (") lies on host-a itself", "put its content on the datastore lab");

/// A drive of this machine that can be read; its VM may only read it, too.
fn drive() -> Option<String> {
    let names = std::fs::read_dir("/sys/block").ok()?.flatten().map(|entry| entry.file_name());
    let mut drives = names.filter_map(|name| Some(format!("/dev/{}", name.to_str()?)));
    drives.find(|drive| {
        let mut byte = [0];
        std::fs::File::open(drive).and_then(|mut drive| drive.read_exact(&mut byte)).is_ok()
    })
}

#[test]
fn whatever_forbids_a_move_is_told_at_once_with_its_mend_and_the_vm_stays() {
    let Some(datastore) = Datastore::with_witness("conditions") else { return };
    let Some(mut cable) = Cable::lay("conditions") else { return };
    [0, 1].into_iter().for_each(|end| cable.add_uplink(end, "gwup"));
    cable.join_guests("gwjoin", "10.9.0.1/24");
    let config = datastore.path("vms/witness/vm.toml");
    let text = std::fs::read_to_string(&config).expect("it is there").replacen("[vm]", "[vm]\ncpu_affinity = [0]", 1);
    let labels = ["inner", "lab", "shared", "joined", "apart"];
    let nics: String = labels.map(|label| format!("[[nic]]\nport_group = \"{label}\"\n")).concat();
    let drive = drive();
    let disk = drive.as_ref().map(|drive| format!("[[disk]]\ndevice = \"{drive}\"\nread_only = true\n"));
    if disk.is_none() {
        eprintln!("not tried: a drive of the host as a disk: this machine has none that can be read");
    }
    std::fs::write(&config, format!("{text}{}{nics}", disk.unwrap_or_default())).expect("written");
    let a = Host::boot_at_with(&datastore, &cable, 0, &format!("{HERE}{BOTH}"));
    cable.set_mtu(1, 1400);
    let b = Host::boot_at_with(&datastore, &cable, 1, &format!("{THERE}{BOTH}"));
    for (host, other) in [(&a, "host-b"), (&b, "host-a")] {
        wait("the hosts know each other", || line(&host.ask("host list").1).contains(other));
    }
    let (status, answer) = a.ask("vm start witness");
    assert_eq!(status, 0, "{}", line(&answer));
    a.serial("witness").wait_for("witness: ready");
    assert_eq!(b.ask("host maintenance enter").0, 0);
    let texts = told(&a, "witness", &["maintenance", "migration link"]);
    for (cause, mend) in TOLD.into_iter().filter(|told| *told != ON_THE_HOST || drive.is_some()) {
        names(&texts, cause, mend);
    }
    assert!(texts.iter().all(|text| !text.contains("\"joined\"")), "its frames pass:\n{texts:?}");
    assert!(b.monitor_processes().is_empty(), "nothing was built for it");
}

/// What the check of a move to host-b says, once it says all of this, and the refusal of the move itself, which leaves the VM where it is.
fn told(a: &Host, vm: &str, awaited: &[&str]) -> [String; 2] {
    let mut said = String::new();
    wait(&format!("the check of {vm} tells of {awaited:?}"), || {
        let now = line(&a.ask(&format!("vm migrate {vm} host-b --check")).1);
        if now != said {
            println!("{now}");
            said = now;
        }
        awaited.iter().all(|awaited| said.contains(awaited))
    });
    let (status, refusal) = a.ask(&format!("vm migrate {vm} host-b"));
    let refusal = line(&refusal);
    assert_eq!(status, 1, "{refusal}");
    assert!(refusal.contains("it is still running on host-a"), "{refusal}");
    assert_eq!(a.state(vm), VmState::Running);
    [said, refusal]
}

/// Each of the texts names a cause, and what mends it.
fn names(texts: &[String], cause: &str, mend: &str) {
    for text in texts {
        assert!(text.contains(cause) && text.contains(mend), "{cause}; {mend}:\n{text}");
    }
}

#[test]
fn a_datastore_that_the_destination_does_not_know_or_cannot_write_or_has_another_of_is_named() {
    let Some(datastore) = Datastore::with_witness("stores") else { return };
    let Some(cable) = Cable::lay("stores") else { return };
    let config = std::fs::read_to_string(datastore.path("vms/witness/vm.toml")).expect("it is there");
    let lay = |place: &str, vm: &str| {
        datastore.write(&format!("{place}/vms/{vm}/vm.toml"), &config.replacen("\"witness\"", &format!("\"{vm}\""), 1));
        let kernel = datastore.path(&format!("{place}/vms/{vm}/witness.elf"));
        std::fs::copy(datastore.path("vms/witness/witness.elf"), kernel).expect("copied");
        datastore.path(place).display().to_string()
    };
    let section = |name: &str, path: &str| format!("[datastore.{name}]\nkind = \"directory\"\npath = \"{path}\"\n");
    let (alone, fixed, twin) = (lay("alone", "lonely"), lay("fixed", "still"), lay("twin", "double"));
    // A copy of it, which is not the same from then on.
    let copy = lay("copy", "double");
    let there = section("fixed", &fixed) + &section("twin", &twin);
    // An export that host-b may only read, and another that it has mounted in the place of the one.
    let mounts = format!("mount --bind {fixed} {fixed}\nmount -o remount,ro,bind {fixed}\nmount --bind {copy} {twin}");
    let a = Host::boot_at_with(&datastore, &cable, 0, &(section("alone", &alone) + &there));
    let b = Host::boot_at_mounting(&datastore, &cable, 1, &there, &mounts);
    for (host, name) in [(&a, "alone"), (&a, "fixed"), (&a, "twin"), (&b, "twin")] {
        let show = format!("datastore show {name}");
        wait("its host lease is held", || line(&host.ask(&show).1).contains("held, renewed"));
    }
    wait("the hosts know each other", || line(&a.ask("host list").1).contains("host-b"));
    for vm in ["lonely", "still", "double"] {
        a.done(&format!("vm start {vm}"));
    }

    let texts = told(&a, "lonely", &["datastore alone"]);
    names(&texts, "host-b does not know the datastore alone", "add [datastore.alone] to the configuration of host-b");

    let texts = told(&a, "still", &["datastore fixed"]);
    let cause = format!("host-b cannot write the datastore fixed ({fixed} is exported for reading only");
    names(&texts, &cause, "on host-b: datastore show fixed");

    let texts = told(&a, "double", &["datastore twin"]);
    let place = format!("directory {twin} (lease area ");
    names(
        &texts,
        &format!("the datastore twin is not the same on both hosts: {place}"),
        "on host-b: give it another name",
    );
    for text in &texts {
        let areas: Vec<_> = text.split(&place).skip(1).filter_map(|after| after.split(')').next()).collect();
        assert!(matches!(areas[..], [here, there] if here != there), "{text}");
    }

    // Of a datastore that both see as it is nothing is said.
    a.done("vm start witness");
    let said = may_move(&a, "host-b");
    assert!(said.contains("ok    storage"), "{said}");
    assert!(b.monitor_processes().is_empty(), "nothing was built for any of them");
}

/// What is left free at the destination: enough for the guest of 64 MiB, and too little for what a move needs beside it.
const LEFT: u64 = 80 << 20;

#[test]
fn a_destination_whose_memory_is_taken_says_how_much_is_needed_and_how_much_is_free() {
    let Some(datastore) = Datastore::with_witness("full-host") else { return };
    let Some(cable) = Cable::lay("full-host") else { return };
    let [a, b] = Host::boot_two(&datastore, &cable);
    a.done("vm start witness");
    // A VM's memory is a multiple of 2 MiB.
    let most = (free_memory(&b) - LEFT) >> 21 << 1;
    if most << 20 > limits::VM_MEMORY_BYTES_MAX {
        eprintln!("skipped: this machine has more memory than one VM may have");
        return;
    }
    datastore.add("filler", 1, &format!("{most} MiB"), "seed=7 rate=1000 set=16M scan=1000 nap=on report_ms=200", "");
    b.done("vm start filler");
    let free = free_memory(&b);
    let needs = Bytes((64 << 20) + overhead(Bytes(64 << 20)).0);
    assert!((64 << 20..needs.0).contains(&free), "{free} bytes are free for it");
    let cause = format!("host-b has {} of free memory, and the VM needs {needs} there", Bytes(free));
    names(
        &told(&a, "witness", &[&cause]),
        &cause,
        "on host-b: stop or migrate a VM (vm list), or choose another host: host list",
    );
    assert_eq!(b.monitor_processes().len(), 1, "nothing was built for it");
    b.done("vm kill filler");
    let said = may_move(&a, "host-b");
    assert!(said.contains("ok    memory"), "{said}");
}

/// The memory that a host can still give to VMs.
fn free_memory(host: &Host) -> u64 {
    match host.ask("host show").1 {
        HostAnswer::Host(host) => host.memory_free.0,
        other => panic!("{other:?}"),
    }
}

/// Features of x86-64-v2, with their bits in ecx of CPUID leaf 1. Any KVM shows the first; the nested one of some machines no other.
const LACKED: [(&str, u32); 3] = [("cx16", 13), ("sse4.2", 20), ("popcnt", 23)];

#[test]
fn each_cpu_feature_that_the_destination_lacks_is_named_and_another_makers_processor_with_its_family() {
    let Some(datastore) = Datastore::with_witness("cpus") else { return };
    let Some(cable) = Cable::lay("cpus") else { return };
    let [a, mut b] = Host::boot_two(&datastore, &cable);
    a.done("vm start witness");
    may_move(&a, "host-b");
    let HostAnswer::Cpu(here) = a.ask("host cpu").1 else { panic!("it has one") };
    // This machine has one processor: what host-b tells its engine of its own is another's.
    engine_line::cut_into(&mut b, |word| {
        if let ToMigrate::Facts(_, facts) = word {
            let cpu = &mut facts.cpu;
            (cpu.vendor, cpu.signature) = ("CentaurHauls".to_owned(), [6, 15, 1]);
            let lacks = |leaf: &mut CpuidLeaf| LACKED.iter().for_each(|(_, bit)| leaf.ecx &= !(1 << bit));
            cpu.leaves.iter_mut().filter(|leaf| leaf.function == 1).for_each(lacks);
        }
    });
    let texts = told(&a, "witness", &["different makers"]);
    let there = "CentaurHauls family 6 model 15";
    let makers =
        format!("{} family {} model {} here, {there} on host-b", here.vendor, here.signature[0], here.signature[1]);
    let cause = format!("the processors are of different makers: {makers}");
    names(&texts, &cause, "choose a host with a processor of the same maker: host list");
    for (name, bit) in
        LACKED.into_iter().filter(|(_, bit)| here.leaf(1, 0).is_some_and(|leaf| leaf.ecx & 1 << bit != 0))
    {
        let cause = format!("host-b ({there}) lacks the CPU feature {name} (CPUID leaf 0x1, ecx bit {bit})");
        names(&texts, &cause, "set cpu_baseline = \"x86-64-v1\" in the VM's vm.toml and restart the VM");
    }
}

#[test]
fn a_host_whose_build_speaks_no_version_of_ours_is_named_with_its_build_and_what_is_to_be_updated() {
    let Some(datastore) = Datastore::with_witness("versions") else { return };
    let Some(cable) = Cable::lay("versions") else { return };
    let [a, b] = Host::boot_two(&datastore, &cable);
    a.done("vm start witness");
    may_move(&a, "host-b");
    let newest = Versions::OURS.newest();
    let theirs = Versions::new(newest + 1, newest + 2).expect("a range");
    let later = LaterBuild::takes_over(&a, &b, &cable, "99.0", theirs);
    let cause = format!("host-b (build 99.0) speaks protocol versions {theirs}, this host {}", Versions::OURS);
    let texts = told(&a, "witness", &[&cause]);
    names(&texts, &cause, "update this host: a host accepts the version before its own");
    assert!(b.monitor_processes().is_empty(), "nothing was built for it");
    drop(later);
    let said = may_move(&a, "host-b");
    assert!(said.contains("ok    versions"), "{said}");
}
