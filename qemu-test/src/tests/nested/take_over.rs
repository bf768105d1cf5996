//! How long a VM with a disk takes to run elsewhere when its host is lost, and whether anything of it is.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::home::Home;
use crate::image;
use crate::servers::Make;
use crate::tests::nested::bench::Bench;
use crate::tests::nested::fences::{heard_on, went_on};
use crate::tests::nested::guest::HOSTS;
use crate::wire::Wire;

/// How a host is lost.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// Its cable to the datastore is cut: it ends its VMs by itself.
    Cable,
    /// Its power cord is pulled.
    Power,
}

/// Loses each of two hosts in turn, `times` in each way, and prints the seconds from the loss to the answer of the start that succeeded
/// on the other. Each time the guest's journal must hold what it had said before.
///
/// # Errors
/// A VM did not start elsewhere, or has lost something.
pub fn measure(home: &Home, make: Make, times: u32) -> Result<()> {
    let image = image::build(home)?;
    let mut bench = Bench::up(home, make, image)?;
    for loss in [Loss::Cable, Loss::Power] {
        let mut seconds = Vec::new();
        for turn in 0..times {
            let [from, to] = if turn.is_multiple_of(2) { HOSTS } else { [HOSTS[1], HOSTS[0]] };
            let took = lose(&mut bench, loss, from, to)?.as_secs_f64();
            println!("  {loss:?} of {from}: deb runs on {to} after {took:.1} s");
            seconds.push(format!("{took:.1}"));
        }
        println!("{loss:?}, {make}, seconds: {}", seconds.join(", "));
    }
    Ok(())
}

/// Loses `from` while it runs the VM; gives how long it took to run on `to`.
fn lose(bench: &mut Bench, loss: Loss, from: &str, to: &str) -> Result<Duration> {
    let heard = heard_on(bench, from)?;
    let machine = bench.fleet.machine(from)?;
    match loss {
        Loss::Cable => bench.fleet.wires().cut(from, Wire::Datastore)?,
        Loss::Power => machine.process().kill()?,
    }
    let lost = Instant::now();
    let started = bench.start_in_the_end("deb", to);
    let took = lost.elapsed();
    match loss {
        Loss::Cable => bench.fleet.wires().mend(from, Wire::Datastore)?,
        Loss::Power => bench.fleet.boot(std::slice::from_ref(&machine))?,
    }
    started?;
    went_on(bench, &[heard])?;
    bench.comes_back(from)?;
    Ok(took)
}
