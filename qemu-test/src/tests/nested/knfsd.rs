//! The kernel's NFS server, spoken to by NFS 4.2: what differs between servers, tried on a second one. It gives files out of its
//! own cache, it has a grace period, and it keeps the locks of a client that it does not hear of until another asks for them.

use serde_json::Value;

use crate::error::{LabError, Result};
use crate::tests::nested::bench::{Bench, expect};
use crate::tests::nested::guest::HOSTS;
use crate::tests::nested::migration;
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
