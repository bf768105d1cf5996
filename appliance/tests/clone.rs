//! Clones on real processes: the control plane, the lease role and monitors, on a datastore that is a folder.

mod world;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use godwit::api::channel::Channel;
use godwit::api::host::{CloneDetail, HostAnswer, HostRequest, VmState};
use godwit::api::lease::LeaseRequest;
use world::lease_line::{LeaseLine, Word};
use world::mount::Mount;
use world::{Datastore, Host, finish, line, wait};

const CLONE: &str = "vm clone witness copy";

fn cloned(answer: &HostAnswer) -> CloneDetail {
    match answer {
        HostAnswer::Cloned(clone) => (**clone).clone(),
        other => panic!("{other:?}"),
    }
}

/// A disk with bytes at its start and at its end, and a hole between.
fn fill(disk: &Path) {
    let file = File::options().write(true).create(true).truncate(true).open(disk).expect("made");
    file.write_all_at(&[0x5a; 300_000], 0).expect("written");
    file.write_all_at(&[0xa5; 4096], (16 << 20) - 4096).expect("written");
    file.sync_all().expect("synced");
}

/// What is in the folder of VMs, hidden or not.
fn folders(datastore: &Datastore) -> Vec<String> {
    let entries = std::fs::read_dir(datastore.path("vms")).expect("listed").flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn listed(host: &Host) -> Vec<String> {
    match host.ask("vm list").1 {
        HostAnswer::Vms(rows) => rows.into_iter().map(|row| row.name).collect(),
        other => panic!("{other:?}"),
    }
}

/// Somebody who has the lock of a disk, so that a clone waits for it, with the leases in its hands.
struct Lock {
    _file: File,
}

impl Lock {
    fn of(disk: &Path) -> Self {
        let file = File::options().write(true).open(disk).expect("it is there");
        file.lock().expect("locked");
        Self { _file: file }
    }

    /// Begins a clone and waits until it waits.
    fn hold_up(&self, host: &Host, typed: &str) -> Channel<HostRequest, HostAnswer> {
        let command = host.begin(typed);
        wait("it waits for the disk", || match command.receive().expect("the control plane answers").0 {
            HostAnswer::TakenUp => false,
            HostAnswer::Progress { doing, .. } => doing.contains("waiting for a disk") && doing.contains("disk.img"),
            answer => panic!("{answer:?}"),
        });
        command
    }
}

#[test]
fn a_vm_and_its_clone_run_side_by_side_each_on_a_disk_of_its_own() {
    let Some(datastore) = Datastore::with_witness("clone") else { return };
    let disk = datastore.add_disk("witness");
    fill(&disk);
    // What a person wrote beside it, what VMs leave, and a kernel and a CD that several share.
    let config = datastore.path("vms/witness/vm.toml");
    let text = std::fs::read_to_string(&config).expect("it is there");
    let text = text.replacen("[vm]", "# of the shop\n[vm]\nautostart = false # not yet", 1);
    let text = text.replace("witness.elf\"", "shared.elf\"") + "[[disk]]\niso = \"images/cd.iso\"\n";
    std::fs::write(&config, &text).expect("written");
    datastore.write("vms/witness/receipts/0.toml", "a receipt");
    datastore.write("vms/witness/notes", "not of the VM");
    datastore.write("images/cd.iso", &"a sector".repeat(256));
    std::fs::rename(datastore.path("vms/witness/witness.elf"), datastore.path("images/witness.elf")).expect("moved");
    symlink("../../images/witness.elf", datastore.path("vms/witness/shared.elf")).expect("linked");
    let host = Host::boot(&datastore, "host-a", 1);
    let command = host.begin(CLONE);
    let (said, answer) = finish(&command);
    let mut steps = said.iter();
    for step in ["taking the leases", "locking the disks", "copying: 0 B of ", "16 MiB of 16 MiB", "copied: copy gets"]
    {
        assert!(steps.any(|said| said.contains(step)), "{step}: {said:?}");
    }
    let clone = cloned(&answer);
    assert_eq!((clone.copied.0 + clone.holes.0, clone.datastore.as_str()), (16 << 20, "lab"));
    assert!(clone.copied.0 < 1 << 20, "{clone:?}");
    let files: Vec<_> = clone.files.iter().map(|file| (file.file.as_str(), file.copied.is_some())).collect();
    assert_eq!(files, [("shared.elf", false), ("disk.img", true)]);
    let json: serde_json::Value = serde_json::from_str(&godwit::console::render::json(&answer)).expect("JSON");
    assert!(json["name"] == "copy" && json["copied_by"] == "kernel" && json["copied"] == clone.copied.0, "{json}");
    let mut made: Vec<_> =
        std::fs::read_dir(datastore.path("vms/copy")).expect("listed").flatten().map(|e| e.file_name()).collect();
    made.sort();
    assert_eq!(made, ["disk.img", "shared.elf", "vm.toml"]);
    let copy = datastore.path("vms/copy/disk.img");
    assert!(std::fs::read(&copy).expect("read") == std::fs::read(&disk).expect("read"));
    assert!(std::fs::metadata(&copy).expect("there").blocks() * 512 < 1 << 20, "the hole is one");
    assert_eq!(
        std::fs::read_to_string(datastore.path("vms/copy/vm.toml")).expect("read"),
        text.replacen("\"witness\"", "\"copy\"", 1)
    );
    assert!(std::fs::symlink_metadata(datastore.path("vms/copy/shared.elf")).expect("there").is_symlink());
    assert_eq!(folders(&datastore), ["copy", "witness"]);
    for vm in ["witness", "copy"] {
        let (status, said) = host.ask(&format!("vm start {vm}"));
        assert_eq!(status, 0, "{said:?}");
    }
    for vm in ["witness", "copy"] {
        host.serial(vm).wait_for("witness: ready");
        assert_eq!(host.state(vm), VmState::Running);
        let shown = line(&host.ask(&format!("vm show {vm}")).1);
        assert!(shown.contains("images/cd.iso, an image on the datastore, read-only"), "{shown}");
    }
}

#[test]
fn a_vm_that_runs_anywhere_is_not_cloned_and_who_asks_is_told_how_to_stop_it() {
    let Some(datastore) = Datastore::with_witness("clone-running") else { return };
    datastore.add_disk("witness");
    let (a, b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    assert_eq!(a.ask("vm start witness").0, 0);
    let refused = |host: &Host| {
        let (status, answer) = host.ask(CLONE);
        assert_eq!(status, 1, "{answer:?}");
        line(&answer)
    };
    let told = refused(&a);
    assert!(told.contains("it is running on host-a") && told.contains("hint:  vm stop witness; when"), "{told}");
    let told = refused(&b);
    assert!(told.contains("it is on host-a") && told.contains("hint:  on host-a: vm stop witness;"), "{told}");
    assert_eq!(a.ask("vm pause witness").0, 0);
    let told = refused(&a);
    assert!(told.contains("it is paused on host-a") && told.contains("vm stop witness"), "{told}");
    assert_eq!(folders(&datastore), ["witness"]);
    assert_eq!(a.ask("vm kill witness").0, 0);
    assert_eq!(b.ask(CLONE).0, 0);
}

#[test]
fn nobody_starts_a_vm_while_it_is_cloned_or_makes_another_of_that_name_and_what_is_cancelled_leaves_nothing() {
    let Some(datastore) = Datastore::with_witness("clone-busy") else { return };
    datastore.add("other", 1, "64 MiB", "", "");
    let disk = datastore.add_disk("witness");
    let (a, b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    let lock = Lock::of(&disk);
    let command = lock.hold_up(&a, CLONE);
    let refused = |host: &Host, typed: &str| {
        let (status, answer) = host.ask(typed);
        assert_eq!(status, 1, "{typed}: {answer:?}");
        line(&answer)
    };
    assert_eq!((a.state("witness"), listed(&a)), (VmState::Cloning, vec!["other".to_owned(), "witness".to_owned()]));
    let told = refused(&a, "vm start witness");
    assert!(
        told.contains("is being cloned on this host") && told.contains("it is stopped, and is being cloned"),
        "{told}"
    );
    let told = refused(&b, "vm start witness");
    assert!(told.contains("host-a holds its lease"), "{told}");
    assert!(refused(&a, "vm clone other copy").contains("being made on this host"));
    assert!(refused(&b, "vm clone other copy").contains("host-a holds the lease of the name copy"));
    command.send(&HostRequest::Cancel, &[]).expect("heard");
    let told = line(&finish(&command).1);
    assert!(told.contains("it is stopped") && told.contains("it was cancelled"), "{told}");
    assert_eq!(folders(&datastore), ["other", "witness"]);
    drop(lock);
    assert_eq!(b.ask("vm clone other copy").0, 0, "the name is free again");
    assert_eq!(b.ask("vm start witness").0, 0, "and so is the VM");
}

#[test]
fn a_clone_of_a_host_that_is_shut_down_is_given_up() {
    let Some(datastore) = Datastore::with_witness("clone-closing") else { return };
    let disk = datastore.add_disk("witness");
    let (mut a, b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    let lock = Lock::of(&disk);
    let command = lock.hold_up(&a, CLONE);
    a.ask_to_end();
    let told = line(&finish(&command).1);
    assert!(told.contains("host-a is being shut down"), "{told}");
    a.wait_for_end();
    drop(lock);
    assert_eq!(b.ask("vm start witness").0, 0, "its lease was given up");
    assert_eq!(folders(&datastore), ["witness"]);
}

#[test]
fn a_control_plane_that_dies_in_the_middle_of_a_clone_leaves_no_vm_and_no_lease_and_the_next_clone_clears_up() {
    let Some(datastore) = Datastore::with_witness("clone-dies") else { return };
    fill(&datastore.add_disk("witness"));
    let (mut a, b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    let lease = LeaseLine::cut_into(&a);
    // All is copied, and the control plane waits for its lease role before it gives the clone its name.
    let (asked, goes_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (is_asked, may_go_on, vms) = (Arc::clone(&asked), Arc::clone(&goes_on), datastore.path("vms"));
    lease.becomes(move |request| {
        let names = std::fs::read_dir(&vms).expect("listed").flatten().map(|entry| entry.path().join("disk.img"));
        let is_copied =
            || names.into_iter().any(|disk| disk.to_string_lossy().contains(".clone-copy") && disk.exists());
        if matches!(request, LeaseRequest::Resolve { .. }) && is_copied() {
            is_asked.store(true, Ordering::Relaxed);
            wait("the control plane is gone", || may_go_on.load(Ordering::Relaxed));
        }
        Word::Passes
    });
    let _command = a.begin(CLONE);
    wait("it is copied", || asked.load(Ordering::Relaxed));
    a.kill_control_plane();
    goes_on.store(true, Ordering::Relaxed);
    lease.mend();
    let left = folders(&datastore);
    assert!(left.len() == 2 && left[0].starts_with(".clone-copy-"), "{left:?}");
    assert_eq!(listed(&b), ["witness"], "nobody takes it for a VM");
    assert!(line(&b.ask("vm start witness").1).contains("host-a holds its lease"));
    a.start_control_plane();
    wait("the lease is given up", || b.ask("vm start witness").0 == 0);
    let told = line(&a.ask("host check").1);
    assert!(told.contains(&left[0]) && told.contains("vm clone VM copy"), "{told}");
    assert_eq!((a.ask("vm start copy").0, listed(&a)), (1, vec!["witness".to_owned()]));
    assert_eq!(b.ask("vm kill witness").0, 0);
    let (status, said) = b.ask(CLONE);
    assert_eq!(status, 0, "{said:?}");
    assert_eq!(folders(&datastore), ["copy", "witness"]);
    assert!(line(&a.ask("host check").1).contains("clones: none was left unfinished"));
}

/// The host that makes a clone loses its lease, and another starts the VM: before anything is copied, or when all is.
fn loses_the_lease(name: &str, when_copied: bool) {
    let Some(datastore) = Datastore::with_witness(name) else { return };
    let disk = datastore.add_disk("witness");
    let (a, b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    let mut lock = Some(Lock::of(&disk));
    let command = lock.as_ref().expect("it has it").hold_up(&a, CLONE);
    let frozen = a.freeze();
    wait("the lease of host-a expires", || line(&b.ask("lease list").1).contains("over"));
    if when_copied {
        drop(lock.take());
        let is_copy = |folder: &String| {
            let folder = datastore.path("vms").join(folder);
            ["disk.img", "witness.elf"].iter().all(|file| folder.join(file).exists())
        };
        let is_hidden = |folder: &String| folder.starts_with(".clone-copy-");
        wait("it is copied", || folders(&datastore).iter().any(|folder| is_hidden(folder) && is_copy(folder)));
    }
    let starting = b.begin("vm start witness");
    wait("host-b has the lease", || line(&b.ask("lease list").1).contains("host-b"));
    frozen.thaw();
    let told = line(&finish(&command).1);
    assert!(told.contains("this host lost the lease of witness"), "{told}");
    drop(lock);
    let said = line(&finish(&starting).1);
    assert!(said.contains("it was taken from host-a"), "{said}");
    assert_eq!(folders(&datastore), ["witness"]);
    assert_eq!(b.state("witness"), VmState::Running);
}

#[test]
fn a_host_that_loses_the_lease_while_it_waits_for_a_disk_does_not_copy_what_another_writes() {
    loses_the_lease("clone-waits", false);
}

#[test]
fn what_was_copied_by_a_host_that_lost_the_lease_meanwhile_is_no_vm() {
    loses_the_lease("clone-fenced", true);
}

#[test]
fn what_stands_in_the_way_of_a_clone_is_told_at_once() {
    let Some(datastore) = Datastore::with_witness("clone-refused") else { return };
    datastore.add_disk("witness");
    std::fs::remove_file(datastore.path("vms/witness/disk.img")).expect("removed");
    datastore.write("other/vms/there/vm.toml", "");
    datastore.write("vms/here/vm.toml", "");
    datastore.write("vms/bad/vm.toml", "[vm]\nname = \"bad\"\n");
    let more = format!("[datastore.other]\nkind = \"directory\"\npath = \"{}\"\n", datastore.path("other").display());
    let host = Host::boot_with(&datastore, "host-a", 1, &more);
    wait("both are there", || line(&host.ask("datastore list").1).matches("available").count() == 2);
    for (typed, told) in [
        (
            "vm clone witness here",
            &["datastore lab has a VM here", "witness/disk.img on datastore lab: there is no"][..],
        ),
        ("vm clone witness there", &["datastore other has a VM there", "disk.img", "choose another name"]),
        ("vm clone witness witness", &["a name of its own", "hint:  choose another name: vm clone witness NEW"]),
        ("vm clone nothing copy", &["no datastore of this host has a VM nothing", "vm list"]),
        ("vm clone bad copy", &["vm.cpus: is missing", "the section [boot] is missing", "vm check bad"]),
    ] {
        let (status, answer) = host.ask(typed);
        let said = line(&answer);
        assert!(status == 1 && told.iter().all(|told| said.contains(told)), "{typed}: {said}");
    }
    assert_eq!(folders(&datastore), ["bad", "here", "witness"]);
}

#[test]
fn a_datastore_that_has_no_room_or_becomes_full_or_takes_nothing_has_nothing_of_the_clone() {
    let Some(datastore) = Datastore::with_witness("clone-full") else { return };
    let small = datastore.path("small");
    let fixed = datastore.path("fixed");
    for place in [&small, &fixed] {
        std::fs::create_dir_all(place).expect("made");
    }
    let Some(_small) = Mount::at(small.clone(), &[&["-t", "tmpfs", "-o", "size=40M", "none"]]) else { return };
    std::fs::create_dir_all(small.join("vms")).expect("made");
    let moved = Command::new("mv").arg(datastore.path("vms/witness")).arg(small.join("vms/witness")).status();
    assert!(moved.expect("mv runs").success());
    let disk = small.join("vms/witness/disk.img");
    std::fs::write(&disk, vec![7; 16 << 20]).expect("written");
    let config = small.join("vms/witness/vm.toml");
    let text = std::fs::read_to_string(&config).expect("it is there");
    std::fs::write(&config, format!("{text}[[disk]]\nfile = \"disk.img\"\n")).expect("written");
    let bind = small.display().to_string();
    let Some(_fixed) = Mount::at(fixed.clone(), &[&["--bind", &bind], &["-o", "remount,ro,bind"]]) else { return };
    let at =
        |name: &str, path: &Path| format!("[datastore.{name}]\nkind = \"directory\"\npath = \"{}\"\n", path.display());
    let host = Host::boot_with(&datastore, "host-a", 1, &at("small", &small));
    wait("it is there", || line(&host.ask("datastore show small").1).contains("held, renewed"));
    let in_folder = || {
        let entries = std::fs::read_dir(small.join("vms")).expect("listed").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let lock = Lock::of(&disk);
    let command = lock.hold_up(&host, CLONE);
    // There was room when it was looked at.
    let filler = File::create(small.join("filler")).expect("made");
    let mut at_byte = 0;
    while filler.write_all_at(&[1; 1 << 20], at_byte).is_ok() {
        at_byte += 1 << 20;
    }
    drop((lock, filler));
    let told = line(&finish(&command).1);
    assert!(told.contains("the datastore is full") && told.contains("make room there"), "{told}");
    assert_eq!(in_folder(), ["witness"]);
    let told = line(&host.ask(CLONE).1);
    assert!(told.contains("free, and what is to be copied needs 16") && told.contains("it is stopped"), "{told}");
    std::fs::remove_file(small.join("filler")).expect("removed");
    let (status, said) = host.ask(CLONE);
    assert_eq!(status, 0, "{said:?}");
    let other = Host::boot_with(&datastore, "host-b", 2, &at("fixed", &fixed));
    wait("it is found to take nothing", || line(&other.ask("datastore list").1).contains("cannot be written"));
    let told = line(&other.ask("vm clone witness another").1);
    assert!(told.contains("the export is read-only") && told.contains("(rw)"), "{told}");
}
