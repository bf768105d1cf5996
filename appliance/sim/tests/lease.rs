//! Lease worlds that run on every `cargo test`: the seeds that once failed, a fixed set, and a hundred hosts.

use sim::lease::seeds::{Size, run_damaged_seeds, run_seed, run_seeds, run_sized};

#[test]
fn seeds_that_once_failed_keep_every_promise() {
    let kept = include_str!("../seeds/lease.txt");
    let seeds = kept.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let seed = line.split_whitespace().next().expect("a line names a seed");
        seed.parse::<u64>().expect("a seed is a number")
    });
    let mut count = 0;
    for seed in seeds {
        let outcome = run_seed(seed);
        assert_eq!(outcome.violation, None, "seed {seed}");
        count += 1;
    }
    assert!(count >= 10, "the file of kept seeds has lost its seeds");
}

#[test]
fn at_most_one_host_runs_a_vm_in_every_world_of_a_fixed_set() {
    let report = run_seeds(0..300);
    assert!(report.failures.is_empty(), "{report}");
    // A world in which nothing happens proves nothing.
    let counts = report.counts;
    assert!(counts.starts > 1_000 && counts.moves > 100 && counts.takeovers > 50 && counts.fences > 50, "{report}");
    assert!(counts.restarted_clients > 10 && counts.moves_after_all > 5, "{report}");
}

#[test]
fn at_most_one_host_runs_a_vm_whose_lease_was_damaged_and_mended_and_one_does_in_the_end() {
    let report = run_damaged_seeds(0..200);
    assert!(report.failures.is_empty(), "{report}");
    assert!(report.counts.mended > 50 && report.counts.starts > 300, "{report}");
}

#[test]
fn a_hundred_hosts_share_a_datastore() {
    for seed in 0..1 {
        let outcome = run_sized(seed, Size { hosts: 100, vms: 40 });
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert!(outcome.counts.starts >= 40, "{outcome:?}");
    }
}

#[test]
fn a_seed_is_the_same_world_every_time() {
    assert_eq!(run_seed(7).counts, run_seed(7).counts);
}
