//! What tests of several roles say to each other.

use model::receipt::{Audit, Receipt, Round, Stun, Verdict};

/// The receipt of a move of the VM `web` from `host-a` to `host-b`.
pub(crate) fn receipt() -> Receipt {
    let stun = Stun {
        stop_us: 1_000,
        last_pages_us: 2_000,
        state_us: 3_000,
        verify_us: 0,
        lease_us: 4_000,
        resume_us: 5_000,
        announce_us: 700,
        total_us: 16_500,
    };
    Receipt {
        id: "00000000000000ff".to_owned(),
        vm: "web".parse().expect("valid"),
        source: "host-a".parse().expect("valid"),
        destination: "host-b".parse().expect("valid"),
        verdict: Verdict::Moved,
        reason: String::new(),
        epoch: 2,
        started_unix_s: 0,
        total_us: 2_000_000,
        memory_bytes: 1 << 20,
        sent_bytes: 1 << 20,
        zero_pages: 0,
        compression_saved_bytes: 0,
        throughput_bytes_per_s: 1 << 20,
        dirty_pages_per_s: 1,
        clock_step_us: Some(-15_000),
        predicted_stun_us: 20_000,
        stun_max_us: 300_000,
        stun,
        audit: Audit::default(),
        phases: Vec::new(),
        rounds: vec![Round { pages: 256, zero_pages: 0, bytes: 1 << 20, us: 900_000 }; 2],
        predicted_moved_us: Some(1_500_000),
    }
}
