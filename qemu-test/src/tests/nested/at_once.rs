//! Several moves at once.

use std::fs;

use serde_json::Value;

use crate::error::{Doing, Result};
use crate::guests;
use crate::tests::nested::bench::{Bench, expect};
use crate::tests::nested::guest::{MOVE_BOUND, Way};
use crate::tests::tally::Verdict;
use crate::wait;

/// Moves that one link of the lab carries at once.
const SLOTS: usize = model::limits::MIGRATION_SLOTS_1G as usize;
/// Pages a second that each VM dirties: a fraction of what its move may take of the link.
const RATE: u32 = 40;
/// Mbit/s that each of the first moves may take: so slow that all are still under way when the last is ordered.
const SLOWLY: u32 = 8;

/// One console orders them one after another and waits for none.
pub(super) fn four_vms_move_at_once_and_a_fifth_is_queued_and_follows_by_itself(bench: &mut Bench) -> Result<Verdict> {
    let way = Way { source: "host-a", destination: "host-b" };
    for vm in ["deb", "deb2", "witness"] {
        bench.end(vm)?;
    }
    let vms: Vec<String> = (0..=SLOTS).map(|vm| format!("many{vm}")).collect();
    let datastore = bench.fleet.datastore();
    for vm in &vms {
        guests::place_small_witness(&bench.home, &datastore, vm, RATE)?;
        bench.done(way.source, &format!("vm start {vm}"))?;
    }
    bench.can_move(&vms[0], way.source, way.destination)?;
    let (first, last) = (&vms[..SLOTS], &vms[SLOTS]);
    let bounds = first.iter().map(|_| format!(" --bandwidth-max {SLOWLY}")).chain([String::new()]);
    for (vm, bound) in vms.iter().zip(bounds) {
        let begun = bench.done(way.source, &format!("vm migrate {vm} {} --no-wait{bound}", way.destination))?;
        expect(begun.contains("on its way"), || format!("what is said of a move that begins: {begun}"))?;
    }
    wait::until("four moves under way and a fifth queued", MOVE_BOUND, || {
        let states = states(bench, way.source)?;
        let of = |vm: &String| states.iter().find(|(name, _)| name == vm).map(|(_, state)| state.as_str());
        let moving = |vm: &String| of(vm).is_some_and(|state| state.starts_with("pre-copy"));
        let queued = of(last).is_some_and(|state| state.starts_with("queued"));
        Ok(if queued && first.iter().all(moving) { Ok(()) } else { Err(format!("{states:?}")) })
    })?;
    wait::until("all of them to have moved", MOVE_BOUND, || {
        let states = states(bench, way.source)?;
        let moved = |vm: &String| states.iter().any(|(name, state)| name == vm && state == "moved");
        Ok(if vms.iter().all(moved) { Ok(()) } else { Err(format!("{states:?}")) })
    })?;
    // The moves themselves compared each page.
    let said = bench.witness_of_all(last, way.destination)?;
    expect(said.contains("bad=0 "), || format!("{last} has damaged pages: {said}"))?;
    for vm in &vms {
        let monitors = bench.monitors(vm)?;
        expect(monitors == [way.destination], || format!("{vm} has monitors on {monitors:?}"))?;
        bench.done(way.destination, &format!("vm kill {vm}"))?;
        let folder = datastore.join("vms").join(vm);
        fs::remove_dir_all(&folder).at("removing", &folder)?;
    }
    Ok(Verdict::Passed)
}

/// What a host says of its moves: the VM, and the phase or the verdict.
fn states(bench: &Bench, host: &str) -> Result<Vec<(String, String)>> {
    let said = bench.done(host, "migration list --json")?;
    let rows: Vec<Value> = serde_json::from_str(&said).doing("reading the list of moves")?;
    let text = |row: &Value, name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(rows.iter().map(|row| (text(row, "vm"), text(row, "state"))).collect())
}
