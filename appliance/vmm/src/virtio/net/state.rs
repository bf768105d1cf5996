//! What of a NIC travels beside rings and registers: link, announcement, and what the control queue changed.

use serde::{Deserialize, Serialize};

use super::device::Net;
use super::engine::{GUEST_OFFLOADS, NetEngine};
use crate::state::{StateError, decode, encode};

#[derive(Serialize, Deserialize)]
struct NetState {
    status: u16,
    offloads: u64,
}

pub(super) fn export(front: &Net, engine: &NetEngine) -> Result<Vec<u8>, StateError> {
    encode("nic", &NetState { status: front.status.bits(), offloads: engine.offloads })
}

pub(super) fn import(front: &mut Net, engine: &mut NetEngine, bytes: &[u8]) -> Result<(), StateError> {
    let state: NetState = decode("nic", bytes)?;
    if state.offloads & !(engine.features & GUEST_OFFLOADS) != 0 {
        return Err(StateError::invalid("nic", "offloads are on that the driver did not negotiate"));
    }
    front.status.restore(state.status);
    engine.offloads = state.offloads;
    engine.stale = true;
    Ok(())
}
