//! A move that is given up in each phase before the commit leaves the VM running on its source, the destination clean, and
//! the next attempt to a fresh start.

mod world;

use godwit::api::host::{HostAnswer, VmState};
use model::receipt::Verdict;
use world::command::Command;
use world::leftovers::Held;
use world::{Cable, Datastore, Host, freeze_all, line, wait};

const MOVE: &str = "vm migrate witness host-b";

/// Two hosts, and the witness that runs on the first.
struct World {
    a: Host,
    b: Host,
    /// What each host holds when no move goes on.
    held: [Held; 2],
    _cable: Cable,
    _datastore: Datastore,
}

impl World {
    fn new(name: &str, cable: Cable, cmdline: &str, migration: &str) -> Option<Self> {
        let datastore = Datastore::with_witness(name)?;
        datastore.add("witness", 1, "32 MiB", cmdline, migration);
        let [a, b] = Host::boot_two(&datastore, &cable);
        assert_eq!(a.ask("vm start witness").0, 0);
        a.serial("witness").wait_for("witness: ready");
        wait("nothing stands in the way", || a.ask(&format!("{MOVE} --check")).0 == 0);
        let held = [a.held_at_rest(), b.held_at_rest()];
        Some(Self { a, b, held, _cable: cable, _datastore: datastore })
    }

    /// Gives a move up, by Ctrl-C or by `migration cancel`.
    fn give_up(&self, command: &Command, by_ctrl_c: bool) {
        if by_ctrl_c {
            return command.press_ctrl_c();
        }
        let rows = self.a.migrations();
        let ended = ["moved", "failed", "cancelled", "checked"];
        let under_way: Vec<_> = rows.iter().filter(|row| !ended.contains(&row.state.as_str())).collect();
        let [row] = under_way[..] else { panic!("one move goes on: {rows:?}") };
        let (status, answer) = self.a.ask(&format!("migration cancel {}", row.id));
        assert_eq!(status, 0, "{}", line(&answer));
    }

    /// A move that was given up has ended: the VM never left, and the destination has nothing of it.
    fn nothing_came_of_it(&self, phase: &str, answer: &HostAnswer) {
        let said = line(answer);
        println!("{phase}: {said}");
        match answer {
            HostAnswer::Refused(_) => assert!(said.contains("it is still running on host-a"), "{phase}: {said}"),
            HostAnswer::Migrated(receipt) => assert_eq!(receipt.verdict, Verdict::Cancelled, "{phase}: {said}"),
            other => panic!("{phase}: {other:?}"),
        }
        assert!(said.contains("cancelled"), "{phase}: {said}");
        wait("it runs on its source", || self.a.state("witness") == VmState::Running);
        let elsewhere = VmState::Elsewhere("host-a".parse().expect("a name"));
        wait("the destination knows that it is there", || self.b.state("witness") == elsewhere);
        let audit = self.a.serial("witness").audit();
        assert!(audit.contains(" bad=0 "), "{phase}: {audit}");
        self.a.lets_go_of_all_since(&self.held[0]);
        self.b.lets_go_of_all_since(&self.held[1]);
    }

    /// The next attempt starts from the first page on and succeeds.
    fn the_next_attempt_moves_it(&self) {
        let HostAnswer::Migrated(receipt) = Command::typed(&self.a, MOVE).end() else { panic!("it moves") };
        assert_eq!(receipt.verdict, Verdict::Moved);
        assert_eq!(receipt.rounds[0].pages * 4096, receipt.memory_bytes, "all of it is sent: {:?}", receipt.rounds);
        wait("it runs there", || self.b.state("witness") == VmState::Running);
        let audit = self.b.serial("witness").audit();
        assert!(audit.contains(" bad=0 "), "{audit}");
    }
}

#[test]
fn a_move_that_is_given_up_before_its_first_page_leaves_nothing_behind() {
    let Some(cable) = Cable::lay("early") else { return };
    let Some(world) = World::new("early", cable, "seed=3 rate=500 set=8M scan=500 nap=on report_ms=200", "") else {
        return;
    };
    // Who is stopped, so that the move stays in the phase.
    type Holds = fn(&World) -> Vec<u32>;
    let phases: [(&str, Holds); 4] = [
        ("connect", |world| vec![world.b.migrate_pid()]),
        // Nobody can hold the source back here: who is slow to give it up finds the next phase.
        ("probe", |_| Vec::new()),
        ("offer", |world| vec![world.b.control_plane_pid()]),
        ("reserve", |world| world.a.monitor_processes()),
    ];
    for (round, (phase, holds)) in phases.into_iter().enumerate() {
        for by_ctrl_c in [true, false] {
            let frozen = freeze_all(holds(&world));
            let mut command = Command::typed(&world.a, MOVE);
            command.wait_for(phase);
            world.give_up(&command, by_ctrl_c);
            // The console is answered while whoever held the move back still stands still.
            let answer = command.end();
            frozen.thaw();
            world.nothing_came_of_it(&format!("{phase}, attempt {round}"), &answer);
        }
    }
    world.the_next_attempt_moves_it();
}

#[test]
fn a_move_that_is_given_up_while_pages_travel_or_in_the_stun_leaves_the_vm_running_on_its_source() {
    // What the guest writes takes the link seconds: the rounds are long, and so is the stun that was allowed for.
    let cmdline = "seed=3 rate=max set=16M scan=500 report_ms=200";
    let Some(cable) = Cable::lay_through_switches("late", 9000) else { return };
    if !cable.carries("80mbit") {
        return;
    }
    let Some(world) = World::new("late", cable, cmdline, "stun_ms_max = 60000") else { return };
    for (phase, by_ctrl_c) in [("pre-copy", true), ("pre-copy", false), ("stun", true), ("stun", false)] {
        let mut command = Command::typed(&world.a, MOVE);
        command.wait_for(phase);
        world.give_up(&command, by_ctrl_c);
        let answer = command.end();
        world.nothing_came_of_it(phase, &answer);
    }
    // The last word before the commit is said, and the destination has not committed: its monitor restores no state.
    for by_ctrl_c in [true, false] {
        let mut command = Command::typed(&world.a, MOVE);
        command.wait_for("stun");
        let frozen = freeze_all(world.b.monitor_processes());
        command.wait_for("commit");
        world.give_up(&command, by_ctrl_c);
        let answer = command.end();
        frozen.thaw();
        world.nothing_came_of_it("commit", &answer);
    }
    world.the_next_attempt_moves_it();
}
