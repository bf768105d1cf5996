//! The conditions of a move, violated on real hosts: each is told with its cause and what mends it, all at once, by the check and by the move that is
//! refused, and the VM stays where it is.

mod world;

use std::io::Read;

use godwit::api::host::VmState;
use world::{Cable, Datastore, Host, line, wait};

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
    let mut said = String::new();
    wait("the check tells of all", || {
        said = line(&a.ask("vm migrate witness host-b --check").1);
        said.contains("maintenance") && said.contains("migration link")
    });
    let (status, refusal) = a.ask("vm migrate witness host-b");
    let refusal = line(&refusal);
    assert_eq!(status, 1, "{refusal}");
    assert!(refusal.contains("it is still running on host-a"), "{refusal}");
    for (cause, mend) in TOLD.into_iter().filter(|told| *told != ON_THE_HOST || drive.is_some()) {
        for text in [&said, &refusal] {
            assert!(text.contains(cause) && text.contains(mend), "{cause}; {mend}:\n{text}");
        }
    }
    assert!(!said.contains("\"joined\"") && !refusal.contains("\"joined\""), "its frames pass:\n{said}\n{refusal}");
    assert_eq!(a.state("witness"), VmState::Running);
    assert!(b.monitor_processes().is_empty(), "nothing was built for it");
}
