//! The lease role as processes: several hosts, each with a run folder of its own, on one lease area.

use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use godwit::api::channel::Channel;
use godwit::api::lease::{LeaseAnswer, LeaseRequest, Listed, VmOnDatastore};
use godwit::api::paths::RunDir;
use model::limits;
use protocol::lease::layout::Place;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, kill_process, pidfd_open, prlimit};

/// Far more than anything takes: an expiry, a claim and a slow machine.
const BOUND: Duration = Duration::from_secs(120);

/// How often ten VMs are started by two hosts at once.
const ROUNDS: usize = 100;

struct Host {
    number: u8,
    run: RunDir,
    role: Child,
}

struct Lab {
    folder: PathBuf,
    hosts: Vec<Host>,
    others: Vec<Child>,
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed()).expect("a process")
}

fn start_role(run: &RunDir) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_godwit"));
    command.arg("lease").env("GODWIT_RUN", run.path()).spawn().expect("the role starts")
}

impl Lab {
    fn new(name: &str, hosts: u8) -> Self {
        let folder = std::env::temp_dir().join(format!("godwit-lease-{name}-{}", std::process::id()));
        let mut lab = Self { folder: folder.clone(), hosts: Vec::new(), others: Vec::new() };
        for number in 0..hosts {
            let path = folder.join(format!("run-{number}"));
            std::fs::create_dir_all(&path).expect("made");
            let run = RunDir::at(path);
            let role = start_role(&run);
            lab.hosts.push(Host { number, run, role });
        }
        for host in &lab.hosts {
            assert_eq!(host.open(&folder), LeaseAnswer::Done, "host {}", host.number);
        }
        lab
    }

    /// A process that stands for the monitor of a VM.
    fn monitor(&mut self) -> usize {
        self.others.push(Command::new("sleep").arg("600").spawn().expect("started"));
        self.others.len() - 1
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in self.hosts.iter_mut().map(|host| &mut host.role).chain(&mut self.others) {
            // It may be stopped or gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Host {
    fn connect(&self) -> Channel<LeaseRequest, LeaseAnswer> {
        let began = Instant::now();
        loop {
            match Channel::connect(&self.run.socket("lease")) {
                Ok(channel) => return channel,
                Err(error) => assert!(began.elapsed() < BOUND, "host {}: {error}", self.number),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ask(&self, request: &LeaseRequest) -> LeaseAnswer {
        self.connect().ask(request, &[], BOUND).expect("an answer").0
    }

    fn open(&self, folder: &Path) -> LeaseAnswer {
        self.ask(&LeaseRequest::Open {
            datastore: "lab".parse().expect("a name"),
            area: folder.join("lease").to_string_lossy().into_owned(),
            host: [self.number + 1; 16],
            name: format!("host-{}", self.number).parse().expect("a name"),
            watchdog: None,
        })
    }

    fn guard(&self, vm: &str, monitor: &Child) -> LeaseAnswer {
        let pidfd = pidfd_open(pid(monitor), PidfdFlags::empty()).expect("opened");
        let request = LeaseRequest::Guard(on_lab(vm));
        self.connect().ask(&request, &[pidfd.as_fd()], BOUND).expect("an answer").0
    }

    fn acquire(&self, vm: &str) -> LeaseAnswer {
        self.ask(&LeaseRequest::Acquire(on_lab(vm)))
    }

    /// Asks until it is held here: another may hold it, and a role that was restarted has its host lease only after a while.
    fn acquire_in_the_end(&self, vm: &str) -> LeaseAnswer {
        self.acquire_until(vm, |answer| matches!(answer, LeaseAnswer::Held { .. }))
    }

    /// Asks until the answer is one that was waited for.
    fn acquire_until(&self, vm: &str, waited_for: impl Fn(&LeaseAnswer) -> bool) -> LeaseAnswer {
        let began = Instant::now();
        loop {
            let answer = self.acquire(vm);
            if waited_for(&answer) || began.elapsed() > BOUND {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn on_lab(vm: &str) -> VmOnDatastore {
    VmOnDatastore { datastore: "lab".parse().expect("a name"), vm: vm.parse().expect("a name") }
}

#[test]
fn of_three_hosts_that_start_a_vm_at_once_exactly_one_wins_and_the_others_say_who() {
    let lab = Lab::new("race", 3);
    for vm in (0..8).map(|n| format!("vm-{n}")) {
        let answers: Vec<LeaseAnswer> = std::thread::scope(|scope| {
            let asking: Vec<_> = lab.hosts.iter().map(|host| scope.spawn(|| host.acquire(&vm))).collect();
            asking.into_iter().map(|thread| thread.join().expect("answered")).collect()
        });
        let winners: Vec<usize> = (0..3).filter(|at| matches!(answers[*at], LeaseAnswer::Held { .. })).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        for (at, answer) in answers.iter().enumerate().filter(|(at, _)| *at != winners[0]) {
            let LeaseAnswer::HeldBy(holder) = answer else { panic!("host {at}: {answer:?}") };
            assert_eq!(holder.name.as_str(), format!("host-{}", winners[0]));
            assert!(holder.alive && !holder.own);
        }
        assert_eq!(lab.hosts[winners[0]].ask(&LeaseRequest::GiveUp(on_lab(&vm))), LeaseAnswer::Done);
        let next = (winners[0] + 1) % 3;
        assert!(
            matches!(lab.hosts[next].acquire(&vm), LeaseAnswer::Held { epoch: 2, .. }),
            "a clean give-up is taken at once"
        );
    }
}

#[test]
fn a_seizure_takes_the_epoch_that_was_meant_and_no_later_one() {
    let lab = Lab::new("seize", 2);
    let [holder, other] = &lab.hosts[..] else { panic!("two hosts") };
    assert!(matches!(holder.acquire("web"), LeaseAnswer::Held { epoch: 1, .. }));
    let seize = |epoch| other.ask(&LeaseRequest::Seize { vm: on_lab("web"), epoch });
    let kept = seize(7);
    assert!(matches!(&kept, LeaseAnswer::HeldBy(who) if who.epoch == 1 && who.alive), "{kept:?}");
    assert!(matches!(seize(1), LeaseAnswer::Held { epoch: 2, .. }));
    let lost = holder.ask(&LeaseRequest::Resolve { vm: on_lab("web"), epoch: 0 });
    assert!(matches!(&lost, LeaseAnswer::HeldBy(who) if who.epoch == 2), "{lost:?}");
}

/// Damages these places of VMs' leases.
fn damage(lab: &Lab, places: std::ops::Range<u16>) {
    let path = lab.folder.join("lease");
    let (_, area) = godwit::lease::area::open(&path).expect("an area");
    let (first, after) = (area.geometry.vm(Place(places.start)).extent(), area.geometry.vm(Place(places.end)).extent());
    let file = std::fs::File::options().write(true).open(path).expect("it is there");
    file.write_all_at(&vec![0xA5; usize::try_from(after.offset - first.offset).expect("small")], first.offset)
        .expect("written");
    file.sync_all().expect("on the disk");
}

#[test]
fn a_damaged_lease_is_mended_by_who_vouches_or_is_alone_and_then_one_host_gets_the_vm() {
    let mut lab = Lab::new("damaged", 2);
    let mend = |host: &Host, vouched: Option<u64>| host.ask(&LeaseRequest::Mend { vm: on_lab("web"), vouched });
    let may_run_on_other = || LeaseAnswer::MayRunOn { live: vec!["host-1".to_owned()], untold: Vec::new() };
    assert!(matches!(lab.hosts[0].acquire("web"), LeaseAnswer::Held { .. }));
    assert_eq!(lab.hosts[0].ask(&LeaseRequest::GiveUp(on_lab("web"))), LeaseAnswer::Done);
    assert_eq!(mend(&lab.hosts[0], None), LeaseAnswer::Holder(None), "it is not damaged");
    damage(&lab, 0..8);
    let [mark, other] = [0, 1].map(|host: usize| {
        let LeaseAnswer::Damaged { vm, why, mark } = lab.hosts[host].acquire("web") else { panic!("it is believed") };
        assert!(vm.as_str() == "web" && why.contains("the lease of VM web is damaged"), "{why}");
        mark
    });
    assert_eq!(mark, other);
    assert!(matches!(lab.hosts[0].acquire("db"), LeaseAnswer::Damaged { .. }), "its place is damaged, too");
    let vms = ["db", "web"].map(|vm| vm.parse().expect("a name")).to_vec();
    let LeaseAnswer::Holders(all) =
        lab.hosts[0].ask(&LeaseRequest::List { datastore: "lab".parse().expect("a name"), vms })
    else {
        panic!("no list")
    };
    assert!(all.len() == 2 && all.iter().all(|(_, listed)| matches!(listed, Listed::Damaged(_))), "{all:?}");
    assert_eq!(mend(&lab.hosts[0], None), may_run_on_other());
    let barrier = Barrier::new(2);
    let answers = std::thread::scope(|scope| {
        let asked = lab.hosts.iter().map(|host| {
            let (barrier, mend) = (&barrier, &mend);
            scope.spawn(move || {
                barrier.wait();
                let mended = mend(host, Some(mark));
                assert!(matches!(mended, LeaseAnswer::Done | LeaseAnswer::Holder(_)), "{mended:?}");
                barrier.wait();
                host.acquire("web")
            })
        });
        let asked: Vec<_> = asked.collect();
        asked.into_iter().map(|asked| asked.join().expect("asked")).collect::<Vec<_>>()
    });
    let held = answers.iter().filter(|answer| matches!(answer, LeaseAnswer::Held { epoch: 1, .. })).count();
    let heard = answers.iter().filter(|answer| matches!(answer, LeaseAnswer::HeldBy(_))).count();
    assert_eq!((held, heard), (1, 1), "{answers:?}");
    // Its new place, too, of which nobody has said anything.
    let last = u16::try_from(limits::LEASE_VMS_MAX).expect("small");
    damage(&lab, last - 1..last);
    assert_eq!(mend(&lab.hosts[0], Some(mark)), may_run_on_other());
    assert_eq!(mend(&lab.hosts[0], None), may_run_on_other());
    kill_process(pid(&lab.hosts[1].role), Signal::TERM).expect("asked to end");
    lab.hosts[1].role.wait().expect("it ends");
    assert_eq!(mend(&lab.hosts[0], None), LeaseAnswer::Done, "it left, so this host is alone");
    assert!(matches!(lab.hosts[0].acquire("web"), LeaseAnswer::Held { .. }));
    let monitor = lab.monitor();
    assert!(matches!(lab.hosts[0].guard("web", &lab.others[monitor]), LeaseAnswer::Held { .. }));
    damage(&lab, last - 2..last - 1);
    assert_eq!(mend(&lab.hosts[0], None), LeaseAnswer::Failed("the VM still runs here".to_owned()));
}

#[test]
fn while_the_header_of_the_area_is_damaged_nothing_is_taken_and_everybody_is_told_why_at_once() {
    let mut lab = Lab::new("header", 1);
    assert!(matches!(lab.hosts[0].acquire("web"), LeaseAnswer::Held { .. }));
    let file = std::fs::File::options().read(true).write(true).open(lab.folder.join("lease")).expect("it is there");
    let mut header = vec![0; 4_096];
    file.read_exact_at(&mut header, 0).expect("read");
    file.write_all_at(&[0xA5; 4_096], 0).expect("written");
    let why = "godwit/lease on datastore lab is no lease area, or its header is damaged".to_owned();
    let standing = |host: &Host| {
        let LeaseAnswer::Status(mut leases) = host.ask(&LeaseRequest::Status) else { panic!("no status") };
        let lease = leases.remove(0);
        (lease.held, lease.damage)
    };
    let wait_for = |host: &Host, wanted: (bool, Option<String>)| {
        let began = Instant::now();
        while standing(host) != wanted {
            assert!(began.elapsed() < BOUND, "{:?}", standing(host));
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait_for(&lab.hosts[0], (true, Some(why.clone())));
    let list =
        LeaseRequest::List { datastore: "lab".parse().expect("a name"), vms: vec!["db".parse().expect("a name")] };
    for request in [
        LeaseRequest::Acquire(on_lab("db")),
        LeaseRequest::Mend { vm: on_lab("db"), vouched: None },
        LeaseRequest::Query(on_lab("db")),
        list,
    ] {
        assert_eq!(lab.hosts[0].ask(&request), LeaseAnswer::AreaDamaged(why.clone()), "{request:?}");
    }
    // A host that comes now cannot open it.
    let run = RunDir::at(lab.folder.join("run-1"));
    std::fs::create_dir_all(run.path()).expect("made");
    let role = start_role(&run);
    lab.hosts.push(Host { number: 1, run, role });
    assert_eq!(lab.hosts[1].open(&lab.folder), LeaseAnswer::Failed(why.clone()));
    assert_eq!(lab.hosts[1].acquire("db"), LeaseAnswer::AreaDamaged(why.clone()));
    wait_for(&lab.hosts[1], (false, Some(why)));
    file.write_all_at(&header, 0).expect("written");
    lab.hosts.iter().for_each(|host| wait_for(host, (true, None)));
    assert!(matches!(lab.hosts[1].acquire("db"), LeaseAnswer::Held { .. }));
}

/// Ten VMs, each started by two hosts at the same instant, again and again.
#[test]
fn of_two_hosts_that_start_ten_vms_each_at_once_one_gets_each_vm_and_the_other_hears_who() {
    let lab = Lab::new("ten-vms", 2);
    let vms: Vec<String> = (0..10).map(|number| format!("vm-{number}")).collect();
    for round in 0..ROUNDS {
        let start = Barrier::new(2 * vms.len());
        let answers: Vec<[LeaseAnswer; 2]> = std::thread::scope(|scope| {
            let start = &start;
            let asked: Vec<_> = vms
                .iter()
                .map(|vm| {
                    [&lab.hosts[0], &lab.hosts[1]].map(|host| {
                        scope.spawn(move || {
                            start.wait();
                            host.acquire(vm)
                        })
                    })
                })
                .collect();
            asked.into_iter().map(|both| both.map(|one| one.join().expect("answered"))).collect()
        });
        for (vm, answers) in vms.iter().zip(answers) {
            let won: Vec<usize> = (0..2).filter(|host| matches!(answers[*host], LeaseAnswer::Held { .. })).collect();
            let [winner] = won[..] else { panic!("round {round}, {vm}: {answers:?}") };
            let told = matches!(&answers[1 - winner], LeaseAnswer::HeldBy(holder)
                if holder.name.as_str() == format!("host-{winner}") && holder.alive && !holder.own);
            assert!(told, "round {round}, {vm}: {answers:?}");
            let given_up = lab.hosts[winner].ask(&LeaseRequest::GiveUp(on_lab(vm)));
            assert_eq!(given_up, LeaseAnswer::Done, "round {round}, {vm}");
        }
    }
}

#[test]
fn a_move_is_committed_once_and_the_source_learns_it_from_the_lease() {
    let lab = Lab::new("move", 2);
    let (source, destination) = (&lab.hosts[0], &lab.hosts[1]);
    let epoch = 1;
    assert_eq!(source.acquire("web"), LeaseAnswer::held(epoch));
    let prepare = LeaseRequest::Prepare { vm: on_lab("web"), source: [1; 16], epoch };
    assert_eq!(destination.ask(&prepare), LeaseAnswer::Prepared { epoch: 2 });
    assert!(matches!(source.ask(&LeaseRequest::Query(on_lab("web"))), LeaseAnswer::Holder(Some(h)) if h.own));
    // A source that calls its stun off makes sure of its lease, and the destination stays prepared.
    let confirm = LeaseRequest::Confirm { vm: on_lab("web"), epoch };
    assert_eq!(source.ask(&confirm), LeaseAnswer::held(epoch));
    let commit = LeaseRequest::Commit { vm: on_lab("web"), epoch };
    assert_eq!(destination.ask(&commit), LeaseAnswer::held(2));
    let resolve = LeaseRequest::Resolve { vm: on_lab("web"), epoch };
    assert!(matches!(source.ask(&resolve), LeaseAnswer::HeldBy(h) if h.name.as_str() == "host-1" && h.epoch == 2));
    assert!(matches!(source.ask(&confirm), LeaseAnswer::HeldBy(h) if h.name.as_str() == "host-1" && h.epoch == 2));
    // Back, but this time the source does not wait: it wins the epoch itself, and the commit comes too late.
    let prepare = LeaseRequest::Prepare { vm: on_lab("web"), source: [2; 16], epoch: 2 };
    assert_eq!(source.ask(&prepare), LeaseAnswer::Prepared { epoch: 3 });
    let resolve = LeaseRequest::Resolve { vm: on_lab("web"), epoch: 2 };
    assert_eq!(destination.ask(&resolve), LeaseAnswer::held(3));
    assert!(matches!(source.ask(&LeaseRequest::Commit { vm: on_lab("web"), epoch: 2 }), LeaseAnswer::Unknown(_)));
    assert!(matches!(source.ask(&resolve), LeaseAnswer::HeldBy(h) if h.name.as_str() == "host-1"));
}

#[test]
fn a_killed_role_goes_on_with_its_life_and_a_dead_host_is_taken_over() {
    let mut lab = Lab::new("takeover", 2);
    let monitor = lab.monitor();
    assert!(matches!(lab.hosts[0].acquire("web"), LeaseAnswer::Held { epoch: 1, .. }));
    assert_eq!(lab.hosts[0].guard("web", &lab.others[monitor]), LeaseAnswer::held(1));
    let still_runs = lab.hosts[0].ask(&LeaseRequest::GiveUp(on_lab("web")));
    assert!(matches!(still_runs, LeaseAnswer::Failed(_)), "{still_runs:?}");
    lab.hosts[0].role.kill().expect("killed");
    lab.hosts[0].role.wait().expect("collected");
    lab.hosts[0].role = start_role(&lab.hosts[0].run);
    // Nobody opens the datastore again: the successor knows of it by itself.
    assert_eq!(lab.hosts[0].acquire_in_the_end("web"), LeaseAnswer::held(1));
    assert!(lab.others[monitor].try_wait().expect("asked").is_none(), "the VM ran all the while");
    // Now the whole host dies.
    lab.hosts[0].role.kill().expect("killed");
    lab.others[monitor].kill().expect("killed");
    assert!(matches!(lab.hosts[1].acquire("web"), LeaseAnswer::HeldBy(_)), "it must expire first");
    let taken = lab.hosts[1].acquire_in_the_end("web");
    let LeaseAnswer::Held { epoch: 2, taken_from: Some(from) } = &taken else { panic!("{taken:?}") };
    assert_eq!((from.name.as_str(), from.why.as_str()), ("host-0", "its host lease had expired"));
}

#[test]
fn a_role_that_was_stopped_past_its_deadline_kills_its_vms_before_anything_else() {
    let mut lab = Lab::new("stopped", 2);
    let monitor = lab.monitor();
    assert!(matches!(lab.hosts[0].acquire("web"), LeaseAnswer::Held { epoch: 1, .. }));
    assert_eq!(lab.hosts[0].guard("web", &lab.others[monitor]), LeaseAnswer::held(1));
    kill_process(pid(&lab.hosts[0].role), Signal::STOP).expect("stopped");
    assert!(matches!(lab.hosts[1].acquire_in_the_end("web"), LeaseAnswer::Held { epoch: 2, taken_from: Some(_) }));
    kill_process(pid(&lab.hosts[0].role), Signal::CONT).expect("continued");
    let began = Instant::now();
    while lab.others[monitor].try_wait().expect("asked").is_none() {
        assert!(began.elapsed() < BOUND, "the monitor still runs");
        std::thread::sleep(Duration::from_millis(20));
    }
    // The new life of the same host does not hold what the old one held.
    let told = |answer: &LeaseAnswer| !matches!(answer, LeaseAnswer::Failed(_) | LeaseAnswer::Unknown(_));
    let answer = lab.hosts[0].acquire_until("web", told);
    assert!(matches!(&answer, LeaseAnswer::HeldBy(holder) if holder.name.as_str() == "host-1"), "{answer:?}");
}

#[test]
fn a_role_that_is_asked_to_end_leaves_so_that_others_need_not_wait() {
    let mut lab = Lab::new("leave", 2);
    assert!(matches!(lab.hosts[0].acquire("web"), LeaseAnswer::Held { epoch: 1, .. }));
    kill_process(pid(&lab.hosts[0].role), Signal::TERM).expect("asked");
    assert!(lab.hosts[0].role.wait().expect("collected").success());
    let LeaseAnswer::Hosts(hosts) = lab.hosts[1].ask(&LeaseRequest::Hosts("lab".parse().expect("a name"))) else {
        panic!("no hosts")
    };
    assert_eq!(hosts.len(), 2);
    let taken = lab.hosts[1].acquire_in_the_end("web");
    let LeaseAnswer::Held { epoch: 2, taken_from: Some(from) } = &taken else { panic!("{taken:?}") };
    assert_eq!(from.why, "it had given its host lease up");
}

/// One host without a lease area yet, under this host.toml, and the log of its role.
fn logged(name: &str, host_toml: &str) -> (Lab, PathBuf) {
    let folder = std::env::temp_dir().join(format!("godwit-lease-{name}-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("config")).expect("made");
    std::fs::write(folder.join("config/host.toml"), host_toml).expect("written");
    let (run, log) = (RunDir::at(folder.clone()), folder.join("log"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_godwit"));
    command.arg("lease").env("GODWIT_RUN", run.path()).stderr(std::fs::File::create(&log).expect("made"));
    let role = command.spawn().expect("the role starts");
    (Lab { folder, hosts: vec![Host { number: 0, run, role }], others: Vec::new() }, log)
}

#[test]
fn a_role_that_has_no_descriptor_left_for_a_while_goes_on_and_serves_who_waited() {
    let (mut lab, log) = logged("descriptors", "");
    assert_eq!(lab.hosts[0].ask(&LeaseRequest::Status), LeaseAnswer::Status(Vec::new()));
    let role = pid(&lab.hosts[0].role);
    // One, since poll(2) refuses to look at more descriptors than this.
    let limit = |current| prlimit(Some(role), Resource::Nofile, Rlimit { current: Some(current), maximum: Some(256) });
    limit(1).expect("set");
    let waits = lab.hosts[0].connect();
    let began = Instant::now();
    while !std::fs::read_to_string(&log).expect("read").contains("a connection is not served") {
        assert!(lab.hosts[0].role.try_wait().expect("asked").is_none(), "the role ended");
        assert!(began.elapsed() < BOUND, "nothing was told");
        std::thread::sleep(Duration::from_millis(20));
    }
    limit(256).expect("set");
    let (answer, _) = waits.ask(&LeaseRequest::Status, &[], BOUND).expect("an answer");
    assert_eq!(answer, LeaseAnswer::Status(Vec::new()));
}

#[test]
fn a_watcher_that_went_away_leaves_no_descriptor_behind() {
    let lab = Lab::new("watchers", 1);
    let open = || std::fs::read_dir(format!("/proc/{}/fd", lab.hosts[0].role.id())).expect("read").count();
    let before = open();
    for _ in 0..32 {
        lab.hosts[0].connect().send(&LeaseRequest::Watch, &[]).expect("sent");
    }
    // The role has taken them all when it answers one that came after them.
    assert!(matches!(lab.hosts[0].ask(&LeaseRequest::Status), LeaseAnswer::Status(_)));
    let began = Instant::now();
    // A few come and go with the datastore's I/O.
    while open() > before + 16 {
        assert!(began.elapsed() < BOUND, "{} descriptors, {before} before", open());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_role_logs_as_much_as_the_configuration_says() {
    let logs = [("quiet", "error"), ("usual", "info")].map(|(name, level)| {
        let (lab, log) = logged(name, &format!("log_level = \"{level}\"\n"));
        assert_eq!(lab.hosts[0].open(&lab.folder), LeaseAnswer::Done);
        std::fs::read_to_string(log).expect("read")
    });
    assert!(!logs[0].contains(" lease info: "), "{}", logs[0]);
    assert!(logs[1].contains(" lease info: "), "{}", logs[1]);
}
