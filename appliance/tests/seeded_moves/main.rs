//! Moves of several VMs at once in both directions, with kills, cuts, cancels and power-offs, all from one seed: `GODWIT_SEED` names it, `GODWIT_MOVES`
//! how many (`cargo lab moves`). What the seed does not fix is the time that processes take, so a failure may need more than one run of its seed.
//!
//! ```text
//!   chapter: all VMs start ----> round after round ------------------------------------> all are killed: nothing is left over
//!                                some move, the seed disturbs them, each runs again,
//!                                and now and then every page, record and echo is audited
//! ```
//! Of several chapters the last is calm.
//!
//! In reading order: [`fleet`] (the two hosts and their VMs, and what they are judged by), [`round`], [`disturbance`], [`power_off`] (and what
//! comes after it), [`accounts`] (what is there at the end of a chapter that was not there before the first).

#[path = "../world/mod.rs"]
mod world;

mod accounts;
mod disturbance;
mod fleet;
mod power_off;
mod round;

use accounts::Accounts;
use fleet::Fleet;

/// Moves where nothing else is asked for.
const MOVES: u64 = 12;
/// While four of its moves go on, both hosts lose their power, and while others do, an engine dies.
const SEED: u64 = 115;
/// Moves of a chapter.
const CHAPTER: u64 = 75;
/// Rounds from one audit to the next.
const AUDITED: u64 = 5;

fn asked_for(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |value| value.parse().expect("a number"))
}

#[test]
fn whatever_disturbs_moves_each_vm_runs_on_one_host_with_every_page_and_record_and_nothing_is_left_over() {
    let (moves, seed) = (asked_for("GODWIT_MOVES", MOVES), asked_for("GODWIT_SEED", SEED));
    println!("{moves} moves from seed {seed}");
    let Some(mut fleet) = Fleet::new(seed, moves) else { return };
    let before = Accounts::before(&mut fleet);
    while fleet.moves() < moves {
        let end = moves.min(fleet.moves() + CHAPTER);
        // Roles that nobody kills for a chapter would show what they keep of each move.
        fleet.is_calm = end == moves && moves > CHAPTER;
        let client = fleet.start_all();
        let mut rounds = 0;
        while fleet.moves() < end {
            fleet.round();
            rounds += 1;
            if rounds % AUDITED == 0 {
                fleet.audit();
                client.wait_for_answers();
            }
        }
        fleet.audit();
        client.wait_for_answers();
        fleet.judge(client.end());
        fleet.kill_all();
        before.hold_for(&fleet);
    }
}
