//! Datastores that cannot be written, or not their lease area: what a person is told of it.

mod world;

use std::path::Path;

use godwit::lease::area;
use world::mount::Mount;
use world::{Datastore, Host, line, wait};

#[test]
fn what_keeps_a_lease_area_from_being_written_is_named_with_its_mend_wherever_one_looks() {
    let Some(datastore) = Datastore::with_witness("unwritable") else { return };
    let [fixed, full, filled] = ["fixed", "full", "filled"].map(|name| datastore.path(name));
    // All else can be written there: what a try of the datastore itself writes, too.
    let lease = fixed.join("godwit/lease");
    for folder in [fixed.join("godwit"), full.clone(), filled.clone()] {
        std::fs::create_dir_all(folder).expect("made");
    }
    area::open_or_make(&lease, "host-z").expect("an area");
    let bind = lease.display().to_string();
    let Some(read_only) = Mount::at(lease, &[&["--bind", &bind], &["-o", "remount,ro,bind"]]) else { return };
    let small: [&[&str]; 1] = [&["-t", "tmpfs", "-o", "size=64k", "none"]];
    let Some(_full) = Mount::at(full.clone(), &small) else { return };
    let Some(_filled) = Mount::at(filled.clone(), &small) else { return };
    // One has an area, in which no host has written yet.
    std::fs::create_dir(filled.join("godwit")).expect("made");
    area::open_or_make(&filled.join("godwit/lease"), "host-z").expect("an area");
    for place in [&full, &filled] {
        // As much as there is room for.
        assert!(std::fs::write(place.join("filler"), vec![1; 1 << 20]).is_err());
    }
    let kept =
        |name: &str, path: &Path| format!("[datastore.{name}]\nkind = \"directory\"\npath = \"{}\"\n", path.display());
    let host = Host::boot_with(
        &datastore,
        "host-a",
        1,
        &(kept("fixed", &fixed) + &kept("full", &full) + &kept("filled", &filled)),
    );
    let asked = |typed: &str| line(&host.ask(typed).1);
    for (name, place, state, cause, mend) in [
        ("fixed", &fixed, "cannot be written", "is exported for reading only", "(rw)"),
        ("full", &full, "full", "is full", "make room"),
        ("filled", &filled, "full", "is full", "make room"),
    ] {
        let cause = format!("{} {cause}", place.display());
        let show = format!("datastore show {name}");
        let is_found =
            || asked(&show).lines().any(|line| line.starts_with("state") && line.ends_with(&format!(" {state}")));
        wait("it is found", is_found);
        let shown = asked(&show);
        assert!(shown.contains(&cause) && shown.contains(mend) && shown.contains("not held"), "{shown}");
        let checked = asked("host check");
        for told in [&cause, &format!("the host lease on datastore {name} is not renewed: {cause}")] {
            assert!(checked.contains(told.as_str()) && checked.contains(mend), "{told}: {checked}");
        }
        wait("the consoles are told", || host.whole_log("host").contains(&format!("error: datastore {name}: {cause}")));
    }
    // Each has records exchanged anew.
    (0..3).for_each(|_| drop(asked("host list")));
    let told = host.whole_log("host");
    for name in ["full", "filled"] {
        assert_eq!(told.matches(&format!("discovery on datastore {name}: ")).count(), 1, "{told}");
    }
    drop(read_only);
    std::fs::remove_file(filled.join("filler")).expect("removed");
    for name in ["fixed", "filled"] {
        wait("it is well again", || {
            let shown = asked(&format!("datastore show {name}"));
            shown.contains("available") && shown.contains("held, renewed") && !shown.contains("cause:")
        });
    }
    assert!(host.whole_log("host").contains("datastore fixed can be written again"));
}

#[test]
fn a_datastore_that_fills_up_is_told_to_be_full_and_a_start_from_it_warns_of_that() {
    let Some(datastore) = Datastore::with_witness("filling") else { return };
    let small = datastore.path("small");
    let own = small.join("vms/filler");
    std::fs::create_dir_all(&small).expect("made");
    let Some(_small) = Mount::at(small.clone(), &[&["-t", "tmpfs", "-o", "size=16m", "none"]]) else { return };
    std::fs::create_dir_all(&own).expect("made");
    let config = std::fs::read_to_string(datastore.path("vms/witness/vm.toml")).expect("it is there");
    std::fs::write(own.join("vm.toml"), config.replacen("\"witness\"", "\"filler\"", 1)).expect("written");
    std::fs::copy(datastore.path("vms/witness/witness.elf"), own.join("witness.elf")).expect("copied");
    let kept = format!("[datastore.small]\nkind = \"directory\"\npath = \"{}\"\n", small.display());
    let host = Host::boot_with(&datastore, "host-a", 1, &kept);
    let asked = |typed: &str| line(&host.ask(typed).1);
    wait("its host lease is held", || asked("datastore show small").contains("held, renewed"));
    // What a lease of it takes has its room from then on.
    assert!(!asked("vm start filler").contains("full"));
    host.done("vm kill filler");
    assert!(std::fs::write(small.join("all"), vec![1; 32 << 20]).is_err());
    wait("it is found", || asked("datastore list").lines().any(|row| row.contains("small") && row.contains(" full ")));
    let (status, said) = host.ask("vm start filler");
    let told = line(&said);
    let cause = format!("{} is full", small.display());
    assert!(status == 0 && told.contains("runs on this host"), "{told}");
    assert!(told.contains(&cause) && told.contains("make room"), "{told}");
    assert!(!asked("vm show filler").contains("disk errors"), "it has no disk");
}
