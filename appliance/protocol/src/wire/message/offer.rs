//! What a source wants to move, and whether that is within every bound.

use std::ops::Deref;

use model::limits;
use model::vm_config::Verify;
use serde::{Deserialize, Serialize};

use super::content::RunState;
use crate::checks::facts::{HostFacts, LinkFacts, VmFacts};
use crate::uplink_probe::Agreed;
use crate::wire::error::{WireError, bound};

/// What the source wants to move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The VM and what it needs.
    pub vm: VmFacts,
    /// Its `vm.toml`, as the source runs it.
    pub config_text: String,
    /// How its machine is built, for the VMM of the other side; means nothing here.
    pub machine: Vec<u8>,
    /// The source.
    pub source: HostFacts,
    /// The path to the destination as the source measured it.
    pub link: LinkFacts,
    /// Whether the VM runs or is paused, at the moment.
    pub run_state: RunState,
    /// The epoch of the lease under which the source runs it.
    pub epoch: u64,
    /// How large its device and vCPU state will be, about.
    pub state_bytes: u64,
    /// The longest acceptable stun, microseconds.
    pub stun_us_max: u64,
    /// How deeply the move is verified.
    pub verify: Verify,
    /// Only the checks are wanted.
    pub check_only: bool,
    /// The operator accepts a link below the floor, and port groups on different physical networks.
    pub force_link: bool,
    /// The port groups that the source probes, told beside the rest: a build that knows nothing of it does without.
    #[serde(skip)]
    pub probe: Vec<Agreed>,
}

/// An offer whose every part is within its bounds and whose parts agree with each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedOffer(Offer);

impl ValidatedOffer {
    /// Judges an offer.
    ///
    /// # Errors
    /// The part that is out of bounds.
    pub fn new(offer: Offer) -> Result<Self, WireError> {
        let value = |what| Err(WireError::Value(what));
        let memory = offer.vm.memory.0;
        if !(limits::VM_MEMORY_BYTES_MIN..=limits::VM_MEMORY_BYTES_MAX).contains(&memory)
            || !memory.is_multiple_of(1 << 20)
        {
            return value("the memory of the offered VM");
        }
        if offer.vm.cpus == 0 || u64::from(offer.vm.cpus) > limits::VM_CPUS_MAX {
            return value("the number of vCPUs of the offered VM");
        }
        bound("the configuration of the offered VM", offer.config_text.len() as u64, limits::VM_CONFIG_BYTES_MAX)?;
        bound("the machine of the offered VM", offer.machine.len() as u64, limits::API_MESSAGE_BYTES_MAX)?;
        bound("the state of the offered VM", offer.state_bytes, limits::MIGRATION_STATE_BYTES_MAX)?;
        if offer.stun_us_max > limits::MIGRATION_STUN_MS_MAX * 1_000 {
            return value("the stun of the offered VM");
        }
        bound("the list of port groups to probe", offer.probe.len() as u64, 64)?;
        offer.vm.within_bounds()?;
        offer.source.within_bounds()?;
        Ok(Self(offer))
    }

    /// The same offer over a path that was measured since.
    #[must_use]
    pub fn over(mut self, link: LinkFacts) -> Self {
        self.0.link = link;
        self
    }

    /// Pages of the VM's memory.
    pub fn pages(&self) -> u64 {
        self.0.vm.memory.pages()
    }
}

impl Deref for ValidatedOffer {
    type Target = Offer;

    fn deref(&self) -> &Offer {
        &self.0
    }
}
