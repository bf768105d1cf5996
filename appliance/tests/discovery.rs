//! Hosts that know each other by what they leave on their datastores, and say what does not agree.

mod world;

use godwit::api::host::{HostAnswer, HostRow, HostState};
use model::limits;
use world::{Cable, Datastore, Host, line, wait};

fn checked(host: &Host) -> String {
    line(&host.ask("host check").1)
}

fn row(host: &Host, name: &str) -> HostRow {
    let HostAnswer::Hosts(rows) = host.ask("host list").1 else { panic!("no list") };
    rows.into_iter().find(|row| row.name.as_str() == name).expect("it is listed")
}

#[test]
fn hosts_see_each_others_state_load_and_processor_and_when_one_is_silent() {
    let Some(datastore) = Datastore::with_witness("known") else { return };
    let (a, mut b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    wait("host-b is known", || line(&a.ask("host list").1).contains("host-b"));
    wait("its load is told", || row(&a, "host-b").busy_permille.is_some());
    let there = row(&a, "host-b");
    assert_eq!((there.state, there.named_twice), (HostState::Alive, false));
    assert!(there.cpus.is_some_and(|cpus| cpus > 0) && there.memory_free.0 > 0, "{there:?}");
    let shown = line(&a.ask("host show host-b").1);
    for told in ["alive", &"02".repeat(16), "datastore  lab", "host cpu --compare host-b"] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    assert!(matches!(a.ask("host show host-a").1, HostAnswer::Host(_)), "its own name is itself");
    let (status, refusal) = a.ask("host show host-c");
    assert!(status == 1 && line(&refusal).contains("no host of this name shares a datastore"), "{refusal:?}");
    // They are one machine.
    let compared = line(&a.ask("host cpu --compare host-b").1);
    assert!(compared.contains("host-a and host-b show VMs the same processor"), "{compared}");
    assert!(compared.contains("VMs, host") && compared.contains("witness"), "{compared}");
    let shared = line(&a.ask("host cpu --baseline").1);
    assert!(shared.contains("host-a, host-b") && shared.contains("cpu_baseline = \"x86-64-v"), "{shared}");
    let (status, refusal) = a.ask("host cpu --compare host-c");
    assert!(status == 1 && line(&refusal).contains("known are host-b"), "{refusal:?}");
    assert!(checked(&a).contains("ok    hosts: 1 other is seen"), "{}", checked(&a));
    b.power_off();
    wait("it is silent", || row(&a, "host-b").state == HostState::Silent);
    let shown = line(&a.ask("host show host-b").1);
    assert!(shown.contains("it may come back"), "its lease has not expired: {shown}");
    wait("it is dead", || row(&a, "host-b").state == HostState::Dead);
    assert!(checked(&a).contains("host-b: dead"), "{}", checked(&a));
    let listed = line(&a.ask("host list").1);
    assert!(listed.contains("dead ") && row(&a, "host-b").seen_s >= limits::LEASE_EXPIRY_MS / 1_000, "{listed}");
    let shared = line(&a.ask("host cpu --baseline").1);
    assert!(shared.contains("host-b, silent for ") && shared.contains("it has it, too"), "{shared}");
    let compared = line(&a.ask("host cpu --compare host-b").1);
    assert!(compared.starts_with("host-b has said nothing for "), "{compared}");
}

#[test]
fn what_a_person_does_to_a_host_is_seen_on_another_and_a_host_that_stands_still_is_silent_meanwhile() {
    let Some(datastore) = Datastore::with_witness("seen") else { return };
    let (a, mut b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    wait("host-b is known", || line(&a.ask("host list").1).contains("host-b"));
    b.done("host maintenance enter");
    wait("it is in maintenance", || row(&a, "host-b").maintenance);
    b.done("host maintenance exit");
    wait("it is over", || !row(&a, "host-b").maintenance);
    wait("it renews", || row(&a, "host-b").state == HostState::Alive);
    // Its control plane goes on, as if nothing were: the lease tells.
    let frozen = b.freeze();
    wait("it is silent", || row(&a, "host-b").state == HostState::Silent);
    frozen.thaw();
    wait("it is back", || row(&a, "host-b").state == HostState::Alive);
    b.ask_to_end();
    b.wait_for_end();
    wait("it is off", || row(&a, "host-b").state == HostState::Off);
}

#[test]
fn two_hosts_of_one_name_both_say_so_once_and_so_does_a_third_until_it_is_over() {
    let Some(datastore) = Datastore::with_witness("one-name") else { return };
    let one = Host::boot(&datastore, "host-a", 1);
    let third = Host::boot(&datastore, "host-c", 3);
    let two = Host::boot_called(&datastore, "twin", "host-a", 2);
    const TOLD: &str = "the name host-a is used by two living hosts (identities 01010101 and 02020202)";
    for host in [&one, &two, &third] {
        wait("it is told", || checked(host).contains(TOLD));
        assert_eq!(host.ask("host check").0, 1);
    }
    wait("the second has no lease", || checked(&two).contains("has the name of this one\nhint:  give one of the two"));
    wait("it is listed", || line(&third.ask("host list").1).contains("named twice"));
    let times = |host: &Host| host.whole_log("host").matches(TOLD).count();
    let (mut last, mut turns) = (String::new(), 0);
    wait("each has written over the other again and again", || {
        let text = std::fs::read_to_string(datastore.path("hosts/host-a/record.toml")).unwrap_or_default();
        let identity = text.lines().find(|line| line.starts_with("identity")).unwrap_or_default().to_owned();
        turns += usize::from(identity != last);
        last = identity;
        turns > 6
    });
    assert_eq!([&one, &two, &third].map(times), [1, 1, 1]);
    drop(two);
    for host in [&one, &third] {
        wait("it is over", || host.whole_log("host").contains("only one host has the name host-a now"));
        assert!(checked(host).contains("ok    hosts"), "{}", checked(host));
        assert_eq!(times(host), 1);
    }
}

#[test]
fn a_datastore_is_known_by_its_lease_area_on_every_host_by_a_move_too() {
    let Some(cable) = Cable::lay("areas") else { return };
    let Some(datastore) = Datastore::with_witness("areas") else { return };
    for (folder, vm) in [("same", "one"), ("here", "two"), ("there", "two"), ("spare", "three"), ("far", "four")] {
        datastore.add(vm, 1, "64 MiB", world::WITNESS, "");
        let vms = datastore.path(&format!("{folder}/vms"));
        std::fs::create_dir_all(&vms).expect("made");
        std::fs::rename(datastore.path(&format!("vms/{vm}")), vms.join(vm)).expect("moved");
    }
    let kept = |name: &str, folder: &str| {
        let path = datastore.path("");
        format!("[datastore.{name}]\nkind = \"directory\"\npath = \"{}{folder}\"\n", path.display())
    };
    let at_a = kept("same", "same") + &kept("shared", "here") + &kept("far", "far") + &kept("spare", "spare");
    // One is another one in the same way; one lies at another place, where its lease area may be that of a copy.
    let at_b = kept("same", "same") + &kept("shared", "there") + &kept("far", "./far");
    let a = Host::boot_at_with(&datastore, &cable, 0, &at_a);
    let b = Host::boot_at_with(&datastore, &cable, 1, &at_b);
    wait("host-a says so", || checked(&a).contains("one name stands for two"));
    wait("host-b says so", || checked(&b).contains("one name stands for two"));
    wait("host-a knows what host-b lacks", || checked(&a).contains("host-b does not have the datastore spare"));
    wait("so does host-b", || checked(&b).contains("this host does not have the datastore spare of host-a"));
    assert!([&a, &b].iter().all(|host| !checked(host).contains("datastore same of")), "{}", checked(&a));
    wait("it is told at the console", || a.whole_log("host").contains("one name stands for two"));
    for vm in ["one", "two", "four"] {
        wait("it starts", || a.ask(&format!("vm start {vm}")).0 == 0);
    }
    let check = |vm: &str| line(&a.ask(&format!("vm migrate {vm} host-b --check")).1);
    wait("the hosts know each other", || check("one").contains("migration link: "));
    assert!(check("one").contains("ok    storage"), "{}", check("one"));
    for (vm, datastore) in [("two", "shared"), ("four", "far")] {
        let told = check(vm);
        let refused = told.contains(&format!("the datastore {datastore} is not the same on both hosts"));
        assert!(refused && told.contains("FAIL  storage") && told.contains("(lease area "), "{told}");
    }
}
