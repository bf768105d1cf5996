//! A production database moves: PostgreSQL under pgbench, and a client outside that counts what was committed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::error::{Doing, Result};
use crate::guests::{self, Committed, Database, Example, Ledger, Workload};
use crate::home::Home;
use crate::image;
use crate::servers::Make;
use crate::tests::nested::bench::{Bench, expect};
use crate::tests::nested::guest::{HOSTS, address};
use crate::tests::nested::migration::{Load, check_receipt, link_load, summary};
use crate::tests::tally::Verdict;
use crate::wait;

/// The VM.
const VM: &str = Example::DATABASE.name;
/// Memory that the guest keeps rewriting beside the database, and for how much of the link: several rounds.
const LOAD: Load = Load { mebibytes: 16, of_link_permille: 40 };
/// How long a database may take to answer: its guest boots, and after a power cut it reads its log first.
const ANSWER_BOUND: Duration = Duration::from_secs(300);
/// Rows of the ledger that are to be committed before a test goes on.
const ROWS: u64 = 10;
/// How long they may take.
const ROWS_BOUND: Duration = Duration::from_secs(120);

/// In the list of promises, on nfs-ganesha. As often as is promised it moves with `cargo lab database`.
pub(super) fn a_database_moves_there_and_back_and_keeps_each_committed_transaction_once(
    bench: &mut Bench,
) -> Result<Verdict> {
    // What runs beside it would take the emulated hosts' one processor from it.
    for vm in ["deb", "deb2", "witness"] {
        bench.end(vm)?;
    }
    place(&bench.home, &bench.fleet.datastore(), 1)?;
    let moved = move_it(bench, 2);
    bench.end(VM)?;
    let folder = bench.fleet.datastore().join("vms").join(VM);
    fs::remove_dir_all(&folder).at("removing", &folder)?;
    moved.map(|()| Verdict::Passed)
}

/// The same with a fleet of its own, as often as one likes.
///
/// # Errors
/// A move failed, or the database is not what its clients know it to be.
pub fn move_a_database(home: &Home, make: Make, cpus: u32, moves: usize) -> Result<()> {
    let image = image::build(home)?;
    let bench = Bench::up_with(home, make, image, |home, store| {
        guests::place_all(home, store)?;
        place(home, store, cpus)
    })?;
    move_it(&bench, moves)
}

/// Puts the VM with so many vCPUs on a datastore.
fn place(home: &Home, datastore: &Path, cpus: u32) -> Result<()> {
    Example::DATABASE.place(home, datastore)?;
    let file = datastore.join("vms").join(VM).join("vm.toml");
    let text = fs::read_to_string(&file).at("reading", &file)?;
    fs::write(&file, text.replace("cpus = 1", &format!("cpus = {cpus}"))).at("writing", &file)
}

/// Moves it while its clients work, judges it, takes its power away, and judges it again on the other host.
fn move_it(bench: &Bench, moves: usize) -> Result<()> {
    bench.done(HOSTS[0], &format!("vm start {VM}"))?;
    let database = Database::of(&bench.home, bench.fleet.wires(), address(VM)?)?;
    answers(&database)?;
    bench.load_memory(VM, link_load(bench, VM, LOAD)?)?;
    let workload = Workload::start(&database);
    let ledger = Ledger::start(&database)?;
    for (from, to) in [(HOSTS[0], HOSTS[1]), (HOSTS[1], HOSTS[0])].into_iter().cycle().take(moves) {
        ledger.hear_more(ROWS, ROWS_BOUND)?;
        let receipt = bench.move_vm(VM, from, to)?;
        println!("  {from} to {to}: {}", summary(&receipt));
        check_receipt(&receipt)?;
        expect(bench.settled_on(VM)? == to, || format!("{VM} does not run on {to}"))?;
    }
    ledger.hear_more(ROWS, ROWS_BOUND)?;
    let (rows, longest) = ledger.stop()?;
    let committed = Committed { transactions: workload.stop()?, rows };
    println!("  {committed}, the longest of a row took {:.0} ms", longest.as_secs_f64() * 1e3);
    bench.judge_memory(VM)?;
    judge(&database, committed)?;
    database.check_every_page()?;
    // What it had said to be committed is on the disk and not only in the memory that moved.
    let last = bench.settled_on(VM)?;
    bench.done(last, &format!("vm kill {VM}"))?;
    let other = if last == HOSTS[0] { HOSTS[1] } else { HOSTS[0] };
    bench.start_in_the_end(VM, other)?;
    answers(&database)?;
    judge(&database, committed)
}

fn answers(database: &Database) -> Result<()> {
    wait::until("the database to answer", ANSWER_BOUND, || {
        Ok(database.ask("SELECT 1").map_err(|error| error.to_string()))
    })
    .map(drop)
}

fn judge(database: &Database, committed: Committed) -> Result<()> {
    let faults = database.faults(committed)?;
    expect(faults.is_empty(), || faults.join("; "))
}
