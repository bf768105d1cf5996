//! The lease role as a process of its own, several hosts on one area.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use godwit::api::channel::Channel;
use godwit::api::lease::{LeaseAnswer, LeaseRequest, VmOnDatastore};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

const BOUND: Duration = Duration::from_secs(120);

/// A host: its folder of sockets and its lease role.
struct Host {
    run: PathBuf,
    area: PathBuf,
    identity: [u8; 16],
    name: &'static str,
    role: Child,
}

impl Host {
    fn boot(folder: &Path, name: &'static str, identity: u8) -> Self {
        let run = folder.join(name);
        std::fs::create_dir_all(&run).expect("made");
        let role = start(&run);
        let host = Self { run, area: folder.join("lease"), identity: [identity; 16], name, role };
        assert_eq!(host.open(), LeaseAnswer::Done);
        host
    }

    fn open(&self) -> LeaseAnswer {
        let name = self.name.parse().expect("valid");
        let area = self.area.to_string_lossy().into_owned();
        self.ask(&LeaseRequest::Open { datastore: "lab".parse().expect("valid"), area, host: self.identity, name })
    }

    fn ask(&self, request: &LeaseRequest) -> LeaseAnswer {
        self.ask_beside(request, &[])
    }

    fn ask_beside(&self, request: &LeaseRequest, beside: &[std::os::fd::BorrowedFd<'_>]) -> LeaseAnswer {
        let channel = Channel::<LeaseRequest, LeaseAnswer>::connect(&self.run.join("lease.sock")).expect("it listens");
        channel.ask(request, beside, BOUND).expect("an answer").0
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.role), signal).expect("signalled");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.role.kill();
        let _ = self.role.wait();
    }
}

fn start(run: &Path) -> Child {
    let role = Command::new(env!("CARGO_BIN_EXE_godwit")).arg("lease").env("GODWIT_RUN", run).spawn().expect("started");
    wait("it listens", || Channel::<LeaseRequest, LeaseAnswer>::connect(&run.join("lease.sock")).is_ok());
    role
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {BOUND:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("made");
    folder
}

fn web() -> VmOnDatastore {
    VmOnDatastore { datastore: "lab".parse().expect("valid"), vm: "web".parse().expect("valid") }
}

#[test]
fn one_of_two_hosts_gets_a_vm_and_the_other_is_told_who_has_it() {
    let folder = folder("one-of-two");
    let (a, b) = (Host::boot(&folder, "host-a", 1), Host::boot(&folder, "host-b", 2));
    let (at_a, at_b) = std::thread::scope(|scope| {
        let at_a = scope.spawn(|| a.ask(&LeaseRequest::Acquire(web())));
        let at_b = scope.spawn(|| b.ask(&LeaseRequest::Acquire(web())));
        (at_a.join().expect("answered"), at_b.join().expect("answered"))
    });
    let (winner, loser, refusal) = match (&at_a, &at_b) {
        (LeaseAnswer::Held { epoch: 1 }, LeaseAnswer::HeldBy(holder)) => (&a, &b, holder),
        (LeaseAnswer::HeldBy(holder), LeaseAnswer::Held { epoch: 1 }) => (&b, &a, holder),
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal.name.as_str(), winner.name);
    assert_eq!(winner.ask(&LeaseRequest::GiveUp(web())), LeaseAnswer::Done);
    assert_eq!(loser.ask(&LeaseRequest::Acquire(web())), LeaseAnswer::Held { epoch: 2 });
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_move_hands_the_lease_over_in_one_commit() {
    let folder = folder("commit");
    let (a, b) = (Host::boot(&folder, "host-a", 1), Host::boot(&folder, "host-b", 2));
    assert_eq!(a.ask(&LeaseRequest::Acquire(web())), LeaseAnswer::Held { epoch: 1 });
    assert_eq!(
        b.ask(&LeaseRequest::Prepare { vm: web(), source: a.identity, epoch: 1 }),
        LeaseAnswer::Prepared { epoch: 2 }
    );
    assert_eq!(b.ask(&LeaseRequest::Commit { vm: web(), epoch: 1 }), LeaseAnswer::Held { epoch: 2 });
    let LeaseAnswer::HeldBy(holder) = a.ask(&LeaseRequest::Resolve { vm: web(), epoch: 1 }) else {
        panic!("a lost it")
    };
    assert_eq!((holder.name.as_str(), holder.epoch), ("host-b", 2));
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_source_that_reclaims_its_vm_makes_the_commit_of_the_destination_fail() {
    let folder = folder("reclaim");
    let (a, b) = (Host::boot(&folder, "host-a", 1), Host::boot(&folder, "host-b", 2));
    assert_eq!(a.ask(&LeaseRequest::Acquire(web())), LeaseAnswer::Held { epoch: 1 });
    assert_eq!(
        b.ask(&LeaseRequest::Prepare { vm: web(), source: a.identity, epoch: 1 }),
        LeaseAnswer::Prepared { epoch: 2 }
    );
    assert_eq!(a.ask(&LeaseRequest::Resolve { vm: web(), epoch: 1 }), LeaseAnswer::Held { epoch: 2 });
    let late = b.ask(&LeaseRequest::Commit { vm: web(), epoch: 1 });
    assert!(!matches!(late, LeaseAnswer::Held { .. }), "{late:?}");
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_frozen_host_loses_its_vm_and_kills_it_when_it_wakes() {
    let folder = folder("frozen");
    let (a, b) = (Host::boot(&folder, "host-a", 1), Host::boot(&folder, "host-b", 2));
    assert_eq!(a.ask(&LeaseRequest::Acquire(web())), LeaseAnswer::Held { epoch: 1 });
    let mut monitor = Command::new("sleep").arg("600").spawn().expect("started");
    let pidfd = pidfd_open(Pid::from_child(&monitor), PidfdFlags::empty()).expect("opened");
    let guarded = a.ask_beside(&LeaseRequest::Guard(web()), &[pidfd.as_fd()]);
    assert_eq!(guarded, LeaseAnswer::Held { epoch: 1 });
    a.signal(Signal::STOP);
    wait("b takes the VM", || matches!(b.ask(&LeaseRequest::Acquire(web())), LeaseAnswer::Held { epoch: 2 }));
    assert!(monitor.try_wait().expect("looked").is_none(), "nobody else kills it: the machine froze with its clock");
    a.signal(Signal::CONT);
    wait("a kills its VM", || monitor.try_wait().expect("looked").is_some());
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_restarted_lease_role_goes_on_with_the_life_of_its_predecessor() {
    let folder = folder("restarted");
    let mut a = Host::boot(&folder, "host-a", 1);
    assert_eq!(a.ask(&LeaseRequest::Acquire(web())), LeaseAnswer::Held { epoch: 1 });
    a.signal(Signal::KILL);
    a.role.wait().expect("collected");
    a.role = start(&a.run);
    assert_eq!(a.open(), LeaseAnswer::Done);
    let LeaseAnswer::Holder(Some(holder)) = a.ask(&LeaseRequest::Query(web())) else { panic!("it is held") };
    assert!(holder.own && holder.alive && holder.epoch == 1, "{holder:?}");
    std::fs::remove_dir_all(folder).expect("removed");
}
