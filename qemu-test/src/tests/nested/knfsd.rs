//! The kernel's NFS server, spoken to by NFS 4.2: what differs between servers, tried on a second one. It gives files out of its
//! own cache, it has a grace period, and it keeps the locks of a client that it does not hear of until another asks for them.

use serde_json::Value;

use crate::error::{LabError, Result};
use crate::tests::nested::bench::{Bench, expect};
use crate::tests::nested::guest::HOSTS;
use crate::tests::nested::{fences, migration};
use crate::tests::tally::Verdict;

pub(super) fn a_debian_guest_runs_from_the_kernels_nfs_server_and_moves_there_and_back(
    bench: &mut Bench,
) -> Result<Verdict> {
    migration::there_and_back(bench, "deb", 1, migration::LOAD)?;
    // NFS 4.2 has more to offer than reads and writes, and a server may refuse it.
    for host in HOSTS {
        let log = bench.done(host, "log show vmm")?;
        expect(!log.contains("requests have failed"), || format!("{host} failed requests of the guest: {log}"))?;
    }
    Ok(Verdict::Passed)
}

/// Its opens and locks are gone, and the hosts claim them again in the grace period. So the VM goes on; or its host fenced itself,
/// and it starts elsewhere. With or without a client, the guest writes its journal all the time.
pub(super) fn a_restart_of_the_kernels_nfs_server_takes_nothing_from_a_vm_that_it_was_promised(
    bench: &mut Bench,
) -> Result<Verdict> {
    let before = fences::heard_on(bench, "host-a")?;
    let host = if survives_a_restart(bench)? {
        "host-a"
    } else {
        bench.start_in_the_end("deb", "host-b")?;
        "host-b"
    };
    expect(bench.settled_on("deb")? == host, || format!("deb does not run on {host}"))?;
    fences::went_on(bench, &[before])?;
    Ok(Verdict::Passed)
}

pub(super) fn a_frozen_host_writes_nothing_to_the_kernels_nfs_server_after_the_take_over(
    bench: &mut Bench,
) -> Result<Verdict> {
    fences::a_host_frozen_with_its_clock_writes_nothing_after_the_take_over(bench)
}

/// The disks of a clone do not travel to the host and back.
pub(super) fn a_clone_is_copied_by_the_kernels_nfs_server_itself_and_runs(bench: &mut Bench) -> Result<Verdict> {
    bench.end("deb")?;
    let said = bench.done("host-a", "vm clone deb copy --json")?;
    let clone: Value = serde_json::from_str(&said).map_err(|error| LabError::Input(format!("{error}: {said}")))?;
    let of = |key: &str| clone.get(key).map(Value::to_string).unwrap_or_default();
    println!(
        "  {} bytes copied by {} in {} ms, {} bytes of holes",
        of("copied"),
        of("copied_by"),
        of("ms"),
        of("holes")
    );
    expect(clone.get("copied_by").and_then(Value::as_str) == Some("server"), || {
        format!("the server did not copy: {said}")
    })?;
    // It has the address of the VM that it was made of, which does not run.
    bench.done("host-b", "vm start copy")?;
    let talker = bench.talk("deb")?;
    bench.listen(&talker)?;
    let heard = talker.stop()?;
    bench.nothing_is_lost(&heard, "copy")?;
    bench.done("host-b", "vm kill copy")?;
    Ok(Verdict::Passed)
}

/// Restarts the server under a VM on host-a, and tells whether the VM went on. It takes a host's NFS client 3 to 7 s to claim all
/// again, and a host lease bears 5 to 7 without a renewal: where it did not go on, host-a must have fenced itself.
fn survives_a_restart(bench: &Bench) -> Result<bool> {
    let fences = || Ok(bench.done("host-a", "log show lease")?.matches("the host lease is lost").count());
    let fences_before = fences()?;
    let talker = bench.talk("deb")?;
    bench.fleet.server().restart()?;
    bench.listen(&talker)?;
    let heard = match talker.stop() {
        Ok(heard) => heard,
        Err(error) if fences()? == fences_before => return Err(error),
        Err(_) => {
            println!("  host-a could not renew its lease in time");
            return Ok(false);
        }
    };
    println!("  the VM went on, longest wait {:.0} ms", heard.longest_silence.as_secs_f64() * 1e3);
    bench.nothing_is_lost(&heard, "deb").map(|_| true)
}
