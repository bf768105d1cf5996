//! Moves of several VMs at once in both directions, with kills, cuts and cancels, all from one seed: `GODWIT_SEED` names it, `GODWIT_MOVES` how many
//! (`cargo lab moves`). What the seed does not fix is the time that processes take, so a failure may need more than one run of its seed.

mod world;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use godwit::api::host::{HostAnswer, VmHolder, VmState};
use model::receipt::Verdict;
use sim::rng::Rng;
use world::command::Command;
use world::echo::{EchoClient, Heard};
use world::{Cable, Datastore, Host, kill, line, wait};

/// Moves where nothing else is asked for.
const MOVES: u64 = 12;
const SEED: u64 = 20_261_130;
/// Of so many rounds, one goes undisturbed.
const CALM: u64 = 3;
/// A disturbance comes within this time after the moves began, ms.
const WITHIN_MS: u64 = 1_500;
/// Keeps a move under way for a second or so, however fast the machine is.
const SLOWLY: &str = "--bandwidth-max 250";
const NAMES: [&str; 2] = ["host-a", "host-b"];

const VMS: [(&str, u8, &str); 4] =
    [("one", 1, "audit"), ("two", 2, "full"), ("eight", 8, "audit"), ("other", 1, "transfer")];

/// The VM that a client outside talks to.
const TALKER: usize = 0;
const TALKS_AT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const NETWORK: &str = "[vswitch.gwlan]\nuplink = \"gwup\"\n[port_group.lan]\nvswitch = \"gwlan\"\n";

/// What is done while VMs move.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    Nothing,
    /// The first of the moves is given up.
    Cancel,
    /// The migration engine of this host is killed.
    Engine(usize),
    /// A monitor of this host is killed, if it has one: of a VM that leaves, comes or stays.
    Monitor(usize),
    /// The cable is pulled for so many ms.
    Cut(u64),
    /// The control plane of this host is killed.
    ControlPlane(usize),
}

struct World {
    hosts: [Host; 2],
    cable: Cable,
    /// Where the client of the talker's echo is.
    namespace: String,
    _datastore: Datastore,
    disks: [PathBuf; VMS.len()],
    /// Up to which record each VM's journal was flushed when it was looked at last.
    flushed: [u64; VMS.len()],
    rng: Rng,
    /// On which host each VM runs.
    place: [usize; VMS.len()],
    /// How many moves ended so.
    moved: u64,
    not_moved: u64,
    /// How often each VM had to be started again, because its monitor was killed.
    started_again: [u64; VMS.len()],
}

impl World {
    fn new(seed: u64) -> Option<Self> {
        let datastore = Datastore::with_witness("seeded")?;
        let mut cable = Cable::lay_through_switches("seeded", 9000)?;
        let namespace = cable.join_guests("gwup", "10.9.0.1/24");
        for (name, cpus, verify) in VMS {
            // They nap when nothing is due, so that twelve vCPUs leave something of two processors to the hosts.
            let cmdline = format!("seed={} rate=300 set=4M scan=300 nap=on report_ms=500 journal=200", name.len());
            let echo = if name == VMS[TALKER].0 { " echo=10.9.0.2/24" } else { "" };
            datastore.add(
                name,
                cpus,
                "32 MiB",
                &(cmdline + echo),
                &format!("verify = \"{verify}\"\nstun_ms_max = 5000"),
            );
        }
        // Their locks are such that no two monitors can have them.
        let disks = VMS.map(|(name, ..)| datastore.add_disk(name));
        datastore.add_nic(VMS[TALKER].0, "lan");
        let hosts = Host::boot_two_with(&datastore, &cable, NETWORK);
        let rng = Rng::new(seed);
        let (moved, not_moved, started_again) = (0, 0, [0; VMS.len()]);
        Some(Self {
            hosts,
            cable,
            namespace,
            _datastore: datastore,
            disks,
            flushed: [0; VMS.len()],
            rng,
            place: [0; VMS.len()],
            moved,
            not_moved,
            started_again,
        })
    }

    /// Starts a VM on this host.
    fn start(&mut self, vm: usize, end: usize) {
        self.hosts[end].done(&format!("vm start {}", VMS[vm].0));
        self.hosts[end].serial(VMS[vm].0).wait_for("witness: ready");
        self.place[vm] = end;
    }

    /// Some VMs, at least one, in an order of the seed's.
    fn some(&mut self) -> Vec<usize> {
        let mut all: Vec<usize> = (0..VMS.len()).collect();
        self.rng.shuffle(&mut all);
        all.truncate(1 + self.rng.index(VMS.len()));
        all
    }

    fn disturbance(&mut self, moving: &[usize]) -> Disturbance {
        if self.rng.below(CALM) == 0 {
            return Disturbance::Nothing;
        }
        let end = self.rng.index(2);
        // A command dies with the control plane that it was typed at, and what came of it is not heard.
        let quiet = moving.iter().all(|vm| self.place[*vm] != end);
        match self.rng.below(5) {
            0 => Disturbance::Engine(end),
            1 => Disturbance::Monitor(end),
            2 => Disturbance::Cut(self.rng.between(100, 12_000)),
            3 if quiet => Disturbance::ControlPlane(end),
            _ => Disturbance::Cancel,
        }
    }

    /// Moves some VMs at once, each from where it runs, disturbs them, and waits until each runs on one host again.
    fn round(&mut self) {
        let moving = self.some();
        let disturbance = self.disturbance(&moving);
        let slowly = if matches!(disturbance, Disturbance::Nothing) { "" } else { SLOWLY };
        let after = Duration::from_millis(self.rng.below(WITHIN_MS));
        println!("{moving:?} from {:?}, {disturbance:?} after {after:?}", self.place);
        let typed = |vm: &usize| {
            let (from, to) = (self.place[*vm], NAMES[1 - self.place[*vm]]);
            Command::typed(&self.hosts[from], &format!("vm migrate {} {to} {slowly}", VMS[*vm].0))
        };
        let commands: Vec<Command> = moving.iter().map(typed).collect();
        if !matches!(disturbance, Disturbance::Nothing) {
            std::thread::sleep(after);
            self.disturb(disturbance, &commands);
        }
        for (command, vm) in commands.into_iter().zip(&moving) {
            match command.end() {
                HostAnswer::Migrated(receipt) if receipt.verdict == Verdict::Moved => {
                    assert_eq!(receipt.audit.different_pages, 0, "{receipt:?}");
                    self.moved += 1;
                }
                other => {
                    println!("{}: {}", VMS[*vm].0, line(&other));
                    assert!(!matches!(disturbance, Disturbance::Nothing), "nothing was in its way");
                    self.not_moved += 1;
                }
            }
        }
        self.mend(disturbance);
        self.settle(matches!(disturbance, Disturbance::Monitor(_)));
    }

    fn disturb(&mut self, disturbance: Disturbance, commands: &[Command]) {
        match disturbance {
            Disturbance::Nothing => {}
            Disturbance::Cancel => commands[0].press_ctrl_c(),
            Disturbance::Engine(end) => kill(self.hosts[end].migrate_pid()),
            Disturbance::Monitor(end) => {
                let monitors = self.hosts[end].monitor_processes();
                if !monitors.is_empty() {
                    kill(monitors[self.rng.index(monitors.len())]);
                }
            }
            Disturbance::Cut(ms) => {
                self.cable.plugged(false);
                std::thread::sleep(Duration::from_millis(ms));
                self.cable.plugged(true);
            }
            Disturbance::ControlPlane(end) => self.hosts[end].restart_control_plane(),
        }
    }

    /// Does what `init` would.
    fn mend(&mut self, disturbance: Disturbance) {
        if let Disturbance::Engine(end) = disturbance {
            self.hosts[end].restart_migrate();
        }
    }

    /// Each VM comes to run on exactly one host. Where a monitor was killed, its VM may have come to nothing, and starts on either.
    fn settle(&mut self, may_have_ended: bool) {
        for (vm, (name, ..)) in VMS.iter().enumerate() {
            let mut place = None;
            wait(&format!("{name} runs on exactly one host, or on none and can be started"), || {
                let [a, b] = self.hosts.each_ref().map(|host| host.vm(name));
                place = match [a.row.state == VmState::Running, b.row.state == VmState::Running] {
                    [true, false] => Some(Some(0)),
                    [false, true] => Some(Some(1)),
                    [true, true] => panic!("{name} runs on both"),
                    [false, false] => {
                        let ended = [&a, &b].iter().all(|vm| vm.row.state == VmState::Stopped)
                            && a.holder == VmHolder::Nobody
                            && may_have_ended;
                        ended.then_some(None)
                    }
                };
                place.is_some()
            });
            match place.flatten() {
                Some(end) => self.place[vm] = end,
                None => {
                    let end = self.rng.index(2);
                    self.start(vm, end);
                    self.started_again[vm] += 1;
                }
            }
        }
        let monitors = || self.hosts.iter().map(|host| host.monitor_processes().len()).sum::<usize>();
        wait("each VM has one monitor", || monitors() == VMS.len());
        for end in 0..2 {
            // Engines come up, and hosts learn each other's keys.
            if let Some(vm) = (0..VMS.len()).find(|vm| self.place[*vm] == end) {
                let check = format!("vm migrate {} {} --check", VMS[vm].0, NAMES[1 - end]);
                wait("nothing stands in the way", || self.hosts[end].ask(&check).0 == 0);
            }
        }
    }

    /// Nobody who talks to a VM hears anything twice, late or of the past, and a connection ends only with its guest.
    fn judge(&self, [udp, tcp]: [Heard; 2]) {
        println!("UDP: {udp:?}\nTCP: {tcp:?}");
        let ends = self.started_again[TALKER];
        for Heard { verdict, .. } in [&udp, &tcp] {
            assert_eq!((verdict.duplicates, verdict.reordered, verdict.strange), (0, 0, 0), "{verdict:?}");
            assert!(verdict.clock_back <= ends, "{verdict:?}, started again {ends} times");
        }
        assert!(tcp.connections <= 1 + ends && tcp.verdict.losses <= ends, "{tcp:?}, started again {ends} times");
    }

    /// Every page of every VM is as its guest left it, and no write of it was lost, in its memory or on its disk.
    fn audit(&mut self) {
        for (vm, (name, ..)) in VMS.iter().enumerate() {
            let mut serial = self.hosts[self.place[vm]].serial(name);
            serial.audit_whole(name);
            self.flushed[vm] = serial.journal_whole(name, &self.disks[vm], self.flushed[vm]);
        }
    }
}

fn asked_for(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |value| value.parse().expect("a number"))
}

#[test]
fn whatever_disturbs_moves_each_vm_runs_on_one_host_with_every_page_and_record_and_nothing_is_left_over() {
    let (moves, seed) = (asked_for("GODWIT_MOVES", MOVES), asked_for("GODWIT_SEED", SEED));
    println!("{moves} moves from seed {seed}");
    let Some(mut world) = World::new(seed) else { return };
    // A VM that was started and is gone again: from here on everything that is made once was made.
    world.start(0, 0);
    wait("nothing stands in the way", || world.hosts[0].ask("vm migrate one host-b --check").0 == 0);
    world.hosts[0].done("vm kill one");
    wait("it is gone", || world.hosts[0].state("one") == VmState::Stopped);
    let before = world.hosts.each_ref().map(Host::held_at_rest);

    (0..VMS.len()).for_each(|vm| world.start(vm, 0));
    let client = EchoClient::start(&world.namespace, TALKS_AT);
    let mut rounds = 0;
    while world.moved + world.not_moved < moves {
        world.round();
        rounds += 1;
        if rounds % 5 == 0 {
            world.audit();
            client.wait_for_answers();
        }
    }
    world.audit();
    client.wait_for_answers();
    println!("{} moved, {} did not, {:?} started again", world.moved, world.not_moved, world.started_again);
    world.judge(client.end());

    for (vm, (name, ..)) in VMS.iter().enumerate() {
        world.hosts[world.place[vm]].done(&format!("vm kill {name}"));
    }
    for (name, ..) in VMS {
        wait("nobody holds its lease", || world.hosts.iter().all(|host| host.vm(name).holder == VmHolder::Nobody));
    }
    for (host, before) in world.hosts.iter().zip(&before) {
        host.lets_go_of_all_since(before);
    }
}
