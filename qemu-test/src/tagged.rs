//! This end of the port group with a VLAN: a link of the lab's namespace whose frames have the tag of that VLAN on the guests' wire, and
//! no tag here. This process puts the tags in and takes them out, for the kernel of a lab's machine need not know VLANs; those of the hosts do.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl::{Updater, ioctl, opcode};

use crate::error::{Doing, Result};
use crate::wire::{Wire, Wires};

/// The hosts' port group with a VLAN.
pub const PORT_GROUP: &str = "tagged";
/// Its VLAN.
pub const VLAN: u16 = 20;
/// The link by which its frames come here.
pub const LINK: &str = "tagged";

/// The link's address.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 20, 1);
/// The link at the wire's bridge, where they have their tags.
const AT_BRIDGE: &str = "tagged-wire";
/// Of both links.
const MTU: usize = 1500;
/// Header, tag and payload.
const FRAME_BYTES_MAX: usize = 14 + TAG_BYTES + MTU;
/// Bytes of a tag, behind the two addresses (IEEE 802.1Q, 9.3).
const TAG_BYTES: usize = 4;
const ADDRESSES_BYTES: usize = 12;
const TAG_TYPE: [u8; 2] = [0x81, 0x00];
/// The part of a tag that is the VLAN; the others are priority and eligibility to be dropped.
const VLAN_MASK: u16 = 0x0fff;
/// Time between two looks whether it has lasted long enough.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<libc::c_int>(b'T', 202);

/// The link, for as long as this lives.
pub struct Tagged {
    enough: Arc<AtomicBool>,
    carrier: Option<JoinHandle<Result<()>>>,
}

impl Tagged {
    /// Makes it.
    pub fn plug(wires: &Wires) -> Result<Self> {
        let [here, wire] = [LINK, AT_BRIDGE].map(|name| wires.enter(|| tap(name)));
        let (here, wire) = (here??, wire??);
        wires.ip(&format!(
            "link set {LINK} mtu {MTU} up\naddress add {ADDRESS}/24 dev {LINK}\nlink set {AT_BRIDGE} mtu {MTU} master {} up\n",
            Wire::Guests
        ))?;
        let enough = Arc::<AtomicBool>::default();
        let until = Arc::clone(&enough);
        let carrier = Some(std::thread::spawn(move || carry(&here, &wire, &until)));
        Ok(Self { enough, carrier })
    }
}

impl Drop for Tagged {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::SeqCst);
        match self.carrier.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => eprintln!("the link {LINK}: {error}"),
            Some(Err(_)) => eprintln!("the link {LINK}: its thread panicked"),
            Some(Ok(Ok(()))) | None => {}
        }
    }
}

/// Makes a link whose frames are read and written here, in the network namespace of this thread. It ends with the file.
fn tap(name: &str) -> Result<File> {
    let path = std::path::Path::new("/dev/net/tun");
    let file = File::options().read(true).write(true).open(path).at("opening", path)?;
    // SAFETY: an ifreq is plain numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`; its opcode is encoded with the size of an int by the kernel's own definition.
    unsafe { ioctl(&file, Updater::<TUNSETIFF, libc::ifreq>::new(&mut request)) }.doing("making a tap")?;
    Ok(file)
}

fn carry(here: &File, wire: &File, enough: &AtomicBool) -> Result<()> {
    let mut buffer = [0; FRAME_BYTES_MAX];
    while !enough.load(Ordering::SeqCst) {
        let mut ready = [here, wire].map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN));
        match poll(&mut ready, Some(&LOOK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).doing("waiting for frames"),
        }
        let [from_here, from_wire] = ready.map(|ready| ready.revents().contains(PollFlags::IN));
        if from_here {
            let length = (&*here).read(&mut buffer).doing("reading a frame")?;
            deliver(wire, with_tag(&buffer[..length]));
        }
        if from_wire {
            let length = (&*wire).read(&mut buffer).doing("reading a frame")?;
            deliver(here, without_tag(&buffer[..length]));
        }
    }
    Ok(())
}

/// A frame that a link does not take is lost, as on any.
fn deliver(mut link: &File, frame: Option<Vec<u8>>) {
    if let Some(frame) = frame {
        let _ = link.write(&frame);
    }
}

fn with_tag(frame: &[u8]) -> Option<Vec<u8>> {
    let (addresses, rest) = frame.split_at_checked(ADDRESSES_BYTES)?;
    Some([addresses, &TAG_TYPE, &VLAN.to_be_bytes(), rest].concat())
}

/// The frame, if it has the tag of the VLAN.
fn without_tag(frame: &[u8]) -> Option<Vec<u8>> {
    let (addresses, rest) = frame.split_at_checked(ADDRESSES_BYTES)?;
    let (tag, rest) = rest.split_at_checked(TAG_BYTES)?;
    let is_ours = tag[..2] == TAG_TYPE && u16::from_be_bytes([tag[2], tag[3]]) & VLAN_MASK == VLAN;
    is_ours.then(|| [addresses, rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_without_its_tag_and_goes_out_with_it_and_other_vlans_stay_away() {
        let frame: Vec<u8> = (0..60).collect();
        let tagged = with_tag(&frame).unwrap();
        assert_eq!(tagged[12..16], [0x81, 0, 0, 20]);
        assert_eq!(without_tag(&tagged), Some(frame.clone()));
        let mut urgent = tagged.clone();
        urgent[14] |= 0xe0;
        assert_eq!(without_tag(&urgent), Some(frame.clone()), "a tag has a priority too");
        let mut other = tagged;
        other[15] = 21;
        assert_eq!((without_tag(&other), without_tag(&frame), without_tag(&[1; 13])), (None, None, None));
    }
}
