//! Each fault at each end of a move, in each of its phases: longer than the tests may take, for who has the time.

use crate::error::Result;
use crate::fleet::Fleet;
use crate::home::Home;
use crate::image;
use crate::servers::Make;
use crate::tests::nested::bench::{Bench, expect};
use crate::tests::nested::faults::{CABLE_AWAY, End, Fault, break_moves, kill_monitor, strike, until_hit};
use crate::tests::nested::fences::{heard_on, went_on};
use crate::tests::nested::losses::{BRIEFLY, cut_for, power_lost};
use crate::tests::tally::{Tally, Verdict};
use crate::wire::Wire;

/// What the log of the source tells of a move.
const SOURCE: &[&str] =
    &["hello", "probe", "offer", "reserve", "pre-copy", "stun", "commit", "resume", "audit", "release"];
/// What the log of the destination tells of it.
const DESTINATION: &[&str] = &["checks", "reserve", "pre-copy", "verify", "commit", "resume", "audit"];

/// Something that befalls one end of a move.
struct Loss {
    name: &'static str,
    /// Lets it happen in a phase at an end, and judges what comes of it.
    befall: fn(&mut Bench, End, &str) -> Result<Verdict>,
}

const LOSSES: &[Loss] = &[
    Loss {
        name: "migrate",
        befall: |bench, end, phase| break_moves(bench, end, &[phase], &Fault::AtOnce("kill migrate")),
    },
    Loss { name: "monitor", befall: lose_monitor },
    Loss { name: "cable", befall: |bench, end, phase| cut_for(bench, end, &[phase], Wire::Migration, CABLE_AWAY) },
    Loss { name: "datastore", befall: |bench, end, phase| cut_for(bench, end, &[phase], Wire::Datastore, BRIEFLY) },
    Loss { name: "power", befall: power_lost },
];

/// Breaks a move by each fault whose name holds `filter`, at each end, in each phase.
///
/// # Errors
/// The fleet does not come up. What a fault broke is counted in the tally.
pub fn break_every_phase(home: &Home, make: Make, filter: &str, tally: &mut Tally) -> Result<()> {
    let image = image::build(home)?;
    let mut bench = Bench::up(home, make, image.clone())?;
    for Loss { name, befall } in LOSSES.iter().filter(|loss| loss.name.contains(filter)) {
        for (end, at, phases) in [(End::Source, "source", SOURCE), (End::Destination, "destination", DESTINATION)] {
            for phase in phases {
                if !tally.check(&format!("{name} lost at the {at} in {phase}"), || befall(&mut bench, end, phase)) {
                    bench.show_logs();
                    // What one fault left is not to be held against the next.
                    drop(bench);
                    Fleet::down(home)?;
                    bench = Bench::up(home, make, image.clone())?;
                }
            }
        }
    }
    Ok(())
}

/// The VM runs on one host then, or on none and starts at once; its journal has lost nothing.
fn lose_monitor(bench: &mut Bench, end: End, phase: &str) -> Result<Verdict> {
    let fault = Fault::Within { still: &kill_monitor, afterwards: &|_, _| Ok(()) };
    until_hit(phase, || {
        let way = bench.way("deb")?;
        let heard = heard_on(bench, way.source)?;
        let (hit, answer) = strike(bench, way, end, phase, &fault)?;
        let verdict = if answer.status == 0 { "moved" } else { "failed" };
        match bench.settled_anywhere("deb")? {
            Some(host) => println!("  monitor lost in {phase}: {verdict}, runs on {host}"),
            None => {
                println!("  monitor lost in {phase}: {verdict}, and it runs nowhere");
                expect(!hit || answer.output.contains("vm start deb") || answer.status == 0, || {
                    format!("nobody says how the VM starts again: {}", answer.output)
                })?;
                bench.done(way.destination, "vm start deb")?;
            }
        }
        went_on(bench, &[heard])?;
        Ok((hit, ()))
    })?;
    Ok(Verdict::Passed)
}
