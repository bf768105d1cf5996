//! Frames that the network holds back: a host's cable whose frames are kept, and delivered when everybody has forgotten them.
//!
//! The host's tap is taken off its bridge and its frames are read there, with the header that says which checksums and segments
//! are still to be made (PACKET_VNET_HDR, packet(7)); they are delivered through a veth pair, as if they came from the host.

use rustix::net::{SendFlags, send};

use crate::error::{Doing, Result};
use crate::frames::{Frames, open};
use crate::wire::{Wire, Wires, tap_name};

/// The pair of links through which frames are delivered: ours, and the one at the bridge.
const PAIR: [&str; 2] = ["held-in", "held-out"];

/// A cable whose frames towards the bridge are kept. Nothing comes from the bridge meanwhile.
pub struct HeldFrames {
    wires: Wires,
    host: String,
    wire: Wire,
    kept: Option<Frames>,
}

impl HeldFrames {
    /// Begins to keep what a host sends on a wire.
    pub fn of(wires: &Wires, host: &str, wire: Wire) -> Result<Self> {
        let kept = Frames::of(wires, &tap_name(host, wire))?;
        wires.take_off(host, wire)?;
        Ok(Self { wires: wires.clone(), host: host.to_owned(), wire, kept: Some(kept) })
    }

    /// Delivers what was kept, in order, and plugs the cable in again. Gives the frames, each behind its header.
    pub fn deliver(mut self) -> Result<Vec<Vec<u8>>> {
        let frames = self.end()?;
        self.wires.pair(PAIR, self.wire)?;
        let delivered = self.wires.enter(|| {
            let socket = open(PAIR[0])?;
            frames
                .iter()
                .try_for_each(|frame| send(&socket, frame, SendFlags::empty()).map(drop))
                .doing("delivering a frame")
        });
        self.wires.unpair(PAIR)?;
        self.wires.put_on(&self.host, self.wire)?;
        delivered??;
        Ok(frames)
    }

    /// Ends the keeping; gives what was kept.
    fn end(&mut self) -> Result<Vec<Vec<u8>>> {
        self.kept.take().map_or_else(|| Ok(Vec::new()), Frames::end)
    }
}

impl Drop for HeldFrames {
    /// A test that ended early leaves the cable whole; what was kept is lost.
    fn drop(&mut self) {
        if self.kept.is_some() {
            let put_on = self.end().and_then(|_| self.wires.put_on(&self.host, self.wire));
            if let Err(error) = put_on {
                eprintln!("{}: {error}", self.host);
            }
        }
    }
}
