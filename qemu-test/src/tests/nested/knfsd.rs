//! The kernel's NFS server, spoken to by NFS 4.2: what differs between servers, tried on a second one. It gives files out of its
//! own cache, it has a grace period, and it keeps the locks of a client that it does not hear of until another asks for them.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::error::{Doing, LabError, Result};
use crate::guests;
use crate::home::Home;
use crate::machine::HostSpec;
use crate::servers::{Make, Replacement, SPARE, replace_spare};
use crate::tests::nested::bench::{Bench, expect};
use crate::tests::nested::guest::HOSTS;
use crate::tests::nested::migration;
use crate::tests::tally::Verdict;
use crate::wait;

/// The host that these tests boot beside the fleet.
const NUMBER: u8 = 3;
/// How long a host may take to end the VMs of a datastore that is lost.
const ENDED_BOUND: Duration = Duration::from_secs(60);

pub(super) fn a_debian_guest_runs_from_the_kernels_nfs_server_and_moves_there_and_back(
    bench: &mut Bench,
) -> Result<Verdict> {
    migration::there_and_back(bench, "deb", 1)?;
    // NFS 4.2 has more to offer than reads and writes, and a server may refuse it.
    for host in HOSTS {
        let log = bench.done(host, "log show vmm")?;
        expect(!log.contains("requests have failed"), || format!("{host} failed requests of the guest: {log}"))?;
    }
    Ok(Verdict::Passed)
}

/// The words of a host's configuration for one more datastore.
fn datastore(name: &str, settings: &[(&str, &str)]) -> Vec<String> {
    settings.iter().map(|(key, value)| format!("godwit.datastore.{name}.{key}={value}")).collect()
}

/// Several servers and exports, most of them of no use.
pub(super) fn a_host_tells_what_mends_each_datastore_that_it_cannot_use_and_uses_the_others(
    bench: &mut Bench,
) -> Result<Verdict> {
    let server = Make::Knfsd.export().server.to_string();
    // Name, server, export, version of NFS, and what is to be told of it.
    let useless = [
        ("missing", &*server, "/srv/nothing", "4.2", ["has no export /srv/nothing", "export it on the server"]),
        (
            "private",
            &server,
            "/srv/private",
            "3",
            ["does not let this host mount /srv/private", "permit this host's address"],
        ),
        ("readonly", &server, "/srv/readonly", "4.2", ["is exported for reading only", "(rw)"]),
        ("squashed", &server, "/srv/squashed", "4.2", ["root squash", "no_root_squash"]),
        ("full", &server, "/srv/full", "4.2", ["is full", "make room on the server"]),
        (
            "nobody",
            "10.77.2.251",
            "/lab",
            "4.1",
            ["10.77.2.251 does not answer", "look at the cable and the addresses"],
        ),
    ];
    let mut spec = HostSpec::usual(NUMBER);
    for (name, server, export, version, _) in useless {
        spec.words.extend(datastore(name, &[("server", server), ("export", export), ("version", version)]));
    }
    bench.with_host(spec, |bench, machine| {
        let host = &*machine.spec.name;
        for (name, .., told) in useless {
            for told in told {
                bench.says_in_the_end(host, &format!("datastore show {name}"), told)?;
            }
        }
        let check = bench.exec(host, "host check")?;
        let all = useless.iter().all(|(name, ..)| check.output.contains(&format!("datastore {name}")));
        expect(check.status != 0 && all, || format!("`host check` does not tell of each datastore: {}", check.output))?;
        let good = bench.done(host, "datastore show lab")?;
        expect(good.contains("available") && good.contains("kept by the server for 60 s"), || {
            format!("the datastore that can be used is not told to be so: {good}")
        })?;
        bench.done(host, "vm start witness")?;
        bench.done(host, "vm kill witness").map(|_| Verdict::Passed)
    })
}

/// Three exports of two servers of different make: what befalls one datastore concerns its own VMs alone.
pub(super) fn a_host_with_several_servers_loses_only_the_vms_of_the_one_that_hangs(
    bench: &mut Bench,
) -> Result<Verdict> {
    bench.end("witness")?;
    let other = Make::Ganesha.server(&bench.home);
    serve_one_vm(&bench.home, "other")?;
    other.start()?;
    let mut spec = HostSpec::usual(NUMBER);
    for (name, make, export) in [("other", Make::Ganesha, Make::Ganesha.export().path), ("spare", Make::Knfsd, SPARE)] {
        let (server, version) = (make.export().server.to_string(), make.export().version);
        spec.words.extend(datastore(name, &[("server", &server), ("export", export), ("version", version)]));
    }
    let outcome = bench.with_host(spec, |bench, machine| {
        let host = &*machine.spec.name;
        bench.comes_back(host)?;
        for vm in ["witness", "other"] {
            bench.done(host, &format!("vm start {vm}"))?;
        }
        other.freeze()?;
        let states = bench.says_in_the_end(host, "datastore show other", "lost for").and_then(|()| {
            wait::until("the VM of the lost datastore to be ended", ENDED_BOUND, || {
                let state = bench.state(host, "other")?;
                Ok(if state == "running" { Err(state) } else { Ok(()) })
            })?;
            bench.state(host, "witness")
        });
        other.thaw()?;
        expect(states? == "running", || "the VM of the server that answers does not run any more".into())?;
        bench.comes_back(host)?;
        bench.start_in_the_end("other", host)?;
        replace_spare(&bench.home, Replacement::Copy)?;
        bench.says_in_the_end(host, "log show host", "datastore spare is lost: what the server exported as")?;
        bench.says_in_the_end(host, "datastore show spare", "available")?;
        bench.comes_back(host)?;
        // What another export has, or has not, no life may go on in.
        replace_spare(&bench.home, Replacement::Nothing)?;
        bench.says_in_the_end(host, "host check", "another lease area, or none, lies in the place of the one")?;
        for vm in ["witness", "other"] {
            expect(bench.state(host, vm)? == "running", || format!("{vm} does not run any more"))?;
            bench.done(host, &format!("vm kill {vm}"))?;
        }
        Ok(Verdict::Passed)
    });
    other.kill()?;
    outcome
}

/// Leaves one VM, a witness of this name, in the folder that nfs-ganesha serves. The kernel's server has a copy of what was there.
fn serve_one_vm(home: &Home, name: &str) -> Result<()> {
    let vms = home.datastore().join("vms");
    let folder = vms.join(name);
    fs::rename(vms.join("witness"), &folder).at("renaming", &folder)?;
    for example in ["deb", "deb2"] {
        fs::remove_dir_all(vms.join(example)).at("removing", &vms)?;
    }
    let file = folder.join("vm.toml");
    fs::write(&file, guests::witness_called(home, name)?).at("writing", &file)
}

/// Versions of NFS on one datastore: what one host wrote the other reads.
pub(super) fn a_debian_guest_runs_by_nfs_3_and_moves_to_a_host_that_mounts_by_nfs_4(
    bench: &mut Bench,
) -> Result<Verdict> {
    bench.end("deb")?;
    let mut spec = HostSpec::usual(NUMBER);
    spec.words.extend(datastore("lab", &[("version", "3")]));
    bench.with_host(spec, |bench, machine| {
        let host = &*machine.spec.name;
        let listed = bench.done(host, "datastore list")?;
        expect(listed.contains("nfs 3 "), || format!("{host} does not mount by NFS 3: {listed}"))?;
        let check = bench.done(host, "host check")?;
        expect(check.contains("the server keeps no locks"), || {
            format!("the fence that is missing is not told: {check}")
        })?;
        bench.done(host, "vm start deb")?;
        let talker = bench.talk("deb")?;
        bench.listen(&talker)?;
        // They get to know each other by what they leave on the datastore.
        bench.can_move("deb", host, "host-b")?;
        bench.move_vm("deb", host, "host-b")?;
        bench.judge(talker, "deb")
    })?;
    expect(bench.settled_on("deb")? == "host-b", || "deb does not run on host-b".into())?;
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
