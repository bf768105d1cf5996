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
    for (name, place, cause, mend) in [
        ("fixed", &fixed, "is exported for reading only", "(rw)"),
        ("full", &full, "is full", "make room"),
        ("filled", &filled, "is full", "make room"),
    ] {
        let cause = format!("{} {cause}", place.display());
        let show = format!("datastore show {name}");
        wait("it is found", || asked(&show).contains("cannot be written"));
        let shown = asked(&show);
        assert!(shown.contains(&cause) && shown.contains(mend) && shown.contains("not held"), "{shown}");
        let checked = asked("host check");
        for told in [&cause, &format!("the host lease on datastore {name} is not renewed: {cause}")] {
            assert!(checked.contains(told.as_str()) && checked.contains(mend), "{told}: {checked}");
        }
        wait("the consoles are told", || host.whole_log("host").contains(&format!("error: datastore {name}: {cause}")));
    }
    let listed = asked("datastore list");
    assert_eq!(listed.lines().filter(|row| row.contains("cannot be written")).count(), 3, "{listed}");
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
