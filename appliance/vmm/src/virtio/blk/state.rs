//! What of a disk travels beside rings and registers: what the driver was shown.

use serde::{Deserialize, Serialize};

use super::device::Blk;
use crate::state::{StateError, decode, encode};

#[derive(Serialize, Deserialize)]
struct BlkState {
    sectors: u64,
    read_only: bool,
    block_bytes: u32,
    seen: bool,
}

pub(super) fn export(front: &Blk) -> Result<Vec<u8>, StateError> {
    let state = BlkState {
        sectors: front.limits.sectors,
        read_only: front.limits.read_only,
        block_bytes: front.block_bytes,
        seen: front.seen,
    };
    encode("disk", &state)
}

pub(super) fn import(front: &mut Blk, bytes: &[u8]) -> Result<(), StateError> {
    let state: BlkState = decode("disk", bytes)?;
    if (state.sectors, state.read_only) != (front.limits.sectors, front.limits.read_only) {
        return Err(StateError::invalid("disk", "the other machine's disk is another"));
    }
    if !state.block_bytes.is_power_of_two() || !(512..=64 << 10).contains(&state.block_bytes) {
        return Err(StateError::invalid("disk", "its block size cannot be"));
    }
    front.block_bytes = state.block_bytes;
    front.seen = state.seen;
    Ok(())
}
