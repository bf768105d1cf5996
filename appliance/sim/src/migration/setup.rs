//! What a world is like.

use model::vm_config::Verify;
use protocol::checks::facts::LinkFacts;
use protocol::convergence::{NoConvergence, Policy};
use protocol::time::Duration;
use protocol::wire::message::RunState;

use super::faults::{Fault, When};

/// What a world is like.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The seed of every choice.
    pub seed: u64,
    /// What goes wrong, and when.
    pub faults: Vec<(When, Fault)>,
    /// Whether the VM runs or is paused.
    pub run_state: RunState,
    /// How deeply the move is verified.
    pub verify: Verify,
    /// Between two writes of the guest.
    pub write_every: Duration,
    /// What the operator wants.
    pub policy: Policy,
    /// How long it takes to stop the vCPUs, the first time.
    pub first_stop: Duration,
    /// The same, each time after.
    pub stop: Duration,
    /// How long an access to the lease area takes at most.
    pub datastore: Duration,
    /// How long it takes the source to hash all of memory.
    pub hashing: Duration,
    /// What a probe of the link between the hosts finds.
    pub link: LinkFacts,
    /// How long a message takes at least, beside what chance adds.
    pub one_way: Duration,
    /// Only the checks are wanted.
    pub check_only: bool,
    /// Whether the destination's build sets the guest's clock; those of before left it as it was saved.
    pub sets_clock: bool,
}

impl Setup {
    /// A calm guest and no faults.
    pub fn calm(seed: u64) -> Self {
        Self {
            seed,
            faults: Vec::new(),
            run_state: RunState::Running,
            verify: Verify::Audit,
            write_every: Duration::from_millis(2),
            policy: Policy {
                stun_max: Duration::from_millis(300),
                throttle: true,
                no_convergence: NoConvergence::Abort,
                bounded: false,
            },
            first_stop: Duration::from_millis(1),
            stop: Duration::from_millis(1),
            datastore: Duration::from_millis(20),
            hashing: Duration::ZERO,
            link: LinkFacts { rtt_us: 500, bandwidth_bytes_per_s: Some(100_000_000), mtu: Some(9000) },
            one_way: Duration::ZERO,
            check_only: false,
            sets_clock: true,
        }
    }
}
