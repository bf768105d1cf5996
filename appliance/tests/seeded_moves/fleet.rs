//! Two hosts and the VMs that move between them: where each runs, and whether it is as its guest left it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use godwit::api::host::{VmHolder, VmState};
use sim::rng::Rng;

use crate::disturbance::Disturbance;
use crate::world::echo::{EchoClient, Heard};
use crate::world::journal::judge;
use crate::world::role_memory::RoleMemory;
use crate::world::{Cable, Datastore, Host, wait};

pub(crate) const NAMES: [&str; 2] = ["host-a", "host-b"];

/// A VM.
pub(crate) struct Vm {
    pub(crate) name: &'static str,
    cpus: u8,
    verify: &'static str,
    nics: usize,
}

pub(crate) const VMS: [Vm; 4] = [
    Vm { name: "one", cpus: 1, verify: "audit", nics: 1 },
    Vm { name: "two", cpus: 2, verify: "full", nics: 2 },
    Vm { name: "eight", cpus: 8, verify: "audit", nics: 1 },
    Vm { name: "other", cpus: 1, verify: "transfer", nics: 0 },
];

/// The VM that a client outside talks to.
const TALKER: usize = 0;
const TALKS_AT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const NETWORK: &str = "[vswitch.gwlan]\nuplink = \"gwup\"\n[port_group.lan]\nvswitch = \"gwlan\"\n";

/// For so many moves, one power-off: each takes as long as the lease of a dead host takes to expire.
const MOVES_PER_POWER_OFF: u64 = 30;

pub(crate) struct Fleet {
    pub(crate) hosts: [Host; 2],
    pub(crate) cable: Cable,
    /// Where the client of the talker's echo is.
    namespace: String,
    pub(crate) datastore: Datastore,
    disks: [PathBuf; VMS.len()],
    /// Up to which record each VM's journal was flushed when it was looked at last.
    flushed: [u64; VMS.len()],
    pub(crate) rng: Rng,
    /// On which host each VM runs.
    pub(crate) place: [usize; VMS.len()],
    /// Which hosts have power.
    pub(crate) is_up: [bool; 2],
    /// How many moves ended so; of the last, nobody heard how, because the control plane died that was to tell.
    pub(crate) moved: u64,
    pub(crate) not_moved: u64,
    pub(crate) untold: u64,
    /// How often each VM had to be started again in this chapter, because its monitor was killed or its host lost its power.
    started_again: [u64; VMS.len()],
    pub(crate) power_offs_left: u64,
    /// Of hosts that had lost their power.
    pub(crate) boots: u8,
    /// Nothing disturbs the moves from now on.
    pub(crate) is_calm: bool,
    memory: RoleMemory,
}

impl Fleet {
    pub(crate) fn new(seed: u64, moves: u64) -> Option<Self> {
        let datastore = Datastore::with_witness("seeded")?;
        let mut cable = Cable::lay_through_switches("seeded", 9000)?;
        let namespace = cable.join_guests("gwup", "10.9.0.1/24");
        for Vm { name, cpus, verify, .. } in VMS {
            // They nap when nothing is due, so that twelve vCPUs leave something of two processors to the hosts.
            let cmdline = format!("seed={} rate=300 set=4M scan=300 nap=on report_ms=500 journal=200", name.len());
            let echo = if name == VMS[TALKER].name { " echo=10.9.0.2/24" } else { "" };
            let migration = format!("verify = \"{verify}\"\nstun_ms_max = 5000");
            datastore.add(name, cpus, "32 MiB", &(cmdline + echo), &migration);
        }
        // Their locks are such that no two monitors can have them.
        let disks = VMS.map(|vm| datastore.add_disk(vm.name));
        for Vm { name, nics, .. } in VMS {
            (0..nics).for_each(|_| datastore.add_nic(name, "lan"));
        }
        let hosts = Host::boot_two_with(&datastore, &cable, NETWORK);
        Some(Self {
            hosts,
            cable,
            namespace,
            datastore,
            disks,
            flushed: [0; VMS.len()],
            rng: Rng::new(seed),
            place: [0; VMS.len()],
            is_up: [true; 2],
            moved: 0,
            not_moved: 0,
            untold: 0,
            started_again: [0; VMS.len()],
            power_offs_left: moves.div_ceil(MOVES_PER_POWER_OFF),
            boots: 0,
            is_calm: false,
            memory: RoleMemory::default(),
        })
    }

    /// Moves that were made, or tried.
    pub(crate) fn moves(&self) -> u64 {
        self.moved + self.not_moved + self.untold
    }

    /// Starts all VMs on hosts of the seed's choice, and a client that talks to one of them.
    pub(crate) fn start_all(&mut self) -> EchoClient {
        for vm in 0..VMS.len() {
            let end = self.rng.index(2);
            self.start(vm, end);
        }
        self.started_again = [0; VMS.len()];
        self.settle(false);
        EchoClient::start(&self.namespace, TALKS_AT)
    }

    /// Starts a VM on this host.
    pub(crate) fn start(&mut self, vm: usize, end: usize) {
        self.hosts[end].done(&format!("vm start {}", VMS[vm].name));
        self.started(vm, end);
    }

    /// A VM that ran nowhere was started on this host: its guest comes up, and finds on its disk all that it flushed.
    pub(crate) fn started(&mut self, vm: usize, end: usize) {
        let Vm { name, .. } = VMS[vm];
        self.hosts[end].serial(name).wait_for("witness: ready");
        self.hosts[end].serial(name).journal_found(name, self.flushed[vm]);
        self.place[vm] = end;
        self.started_again[vm] += 1;
    }

    /// Kills all VMs.
    pub(crate) fn kill_all(&mut self) {
        for (vm, Vm { name, .. }) in VMS.iter().enumerate() {
            self.hosts[self.place[vm]].done(&format!("vm kill {name}"));
        }
        for Vm { name, .. } in VMS {
            wait("nobody holds its lease", || self.hosts.iter().all(|host| host.vm(name).holder == VmHolder::Nobody));
        }
        (0..VMS.len()).for_each(|vm| self.judge_disk(vm));
    }

    /// The host on which a VM runs, if one does.
    pub(crate) fn runner(&self, vm: usize) -> Option<usize> {
        let runs = [0, 1].map(|end| self.is_up[end] && self.hosts[end].state(VMS[vm].name) == VmState::Running);
        assert!(runs != [true; 2], "{} runs on both", VMS[vm].name);
        runs.iter().position(|runs| *runs)
    }

    /// Each VM comes to run on exactly one host. Where a monitor was killed, its VM may have come to nothing, and starts on either.
    pub(crate) fn settle(&mut self, may_have_ended: bool) {
        for (vm, Vm { name, .. }) in VMS.iter().enumerate() {
            let mut place = None;
            wait(&format!("{name} runs on exactly one host, or on none and can be started"), || {
                place = self.runner(vm).map(Some);
                if place.is_none() && may_have_ended {
                    let is_over = |host: &Host| {
                        let vm = host.vm(name);
                        vm.row.state == VmState::Stopped && vm.holder == VmHolder::Nobody
                    };
                    place = self.hosts.iter().all(is_over).then_some(None);
                }
                place.is_some()
            });
            match place.flatten() {
                Some(end) => self.place[vm] = end,
                None => {
                    let end = self.rng.index(2);
                    self.start(vm, end);
                }
            }
        }
        wait("each VM has one monitor and its taps", || (0..2).all(|end| self.has_what_its_vms_need(end)));
        for end in 0..2 {
            // Engines come up, and hosts learn each other's keys.
            if let Some(vm) = (0..VMS.len()).find(|vm| self.place[*vm] == end) {
                let check = format!("vm migrate {} {} --check", VMS[vm].name, NAMES[1 - end]);
                wait("nothing stands in the way", || self.hosts[end].ask(&check).0 == 0);
            }
        }
    }

    /// Whether a host has the monitors and taps of the VMs that run there, and no others.
    fn has_what_its_vms_need(&self, end: usize) -> bool {
        let here = || VMS.iter().enumerate().filter(|(vm, _)| self.place[*vm] == end);
        self.hosts[end].monitor_processes().len() == here().count()
            && self.hosts[end].taps().len() == here().map(|(_, vm)| vm.nics).sum::<usize>()
    }

    /// Nobody who talks to a VM hears anything twice, late or of the past, and a connection ends only with its guest.
    pub(crate) fn judge(&self, [udp, tcp]: [Heard; 2]) {
        let ends = self.started_again[TALKER];
        println!("{} moved, {} did not, {} untold", self.moved, self.not_moved, self.untold);
        println!("started again: {:?}\nUDP: {udp:?}\nTCP: {tcp:?}", self.started_again);
        for Heard { verdict, .. } in [&udp, &tcp] {
            assert_eq!((verdict.duplicates, verdict.reordered, verdict.strange), (0, 0, 0), "{verdict:?}");
            assert!(verdict.clock_back <= ends, "{verdict:?}, started again {ends} times");
        }
        assert!(tcp.connections <= 1 + ends && tcp.verdict.losses <= ends, "{tcp:?}, started again {ends} times");
    }

    /// Every page of every VM is as its guest left it, and no write of it was lost, in its memory or on its disk; and the roles
    /// keep no memory of moves that are over.
    pub(crate) fn audit(&mut self) {
        for (vm, Vm { name, .. }) in VMS.iter().enumerate() {
            let mut serial = self.hosts[self.place[vm]].serial(name);
            serial.audit_whole(name);
            self.flushed[vm] = serial.journal_whole(name, &self.disks[vm], self.flushed[vm]);
        }
        let moves = self.moves();
        self.memory.looked_at(&self.hosts, moves);
    }

    /// What a VM flushed is on its disk, whether or not it runs.
    pub(crate) fn judge_disk(&self, vm: usize) {
        judge(&self.disks[vm], self.flushed[vm]);
    }

    /// What is to be done to the next moves.
    pub(crate) fn next_disturbance(&mut self) -> Disturbance {
        if self.is_calm {
            return Disturbance::Nothing;
        }
        let disturbance = Disturbance::chosen(&mut self.rng, self.power_offs_left > 0);
        self.power_offs_left -= u64::from(matches!(disturbance, Disturbance::PowerOff(_)));
        disturbance
    }
}
