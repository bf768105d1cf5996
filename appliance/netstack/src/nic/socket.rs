//! The NIC itself: one AF_PACKET socket bound to one interface.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::link::{self, Counters, LinkState};
use super::offload;
use super::port::{FrameBatch, OutgoingFrame, Port};
use super::prepare;
use super::selector::{self, NicSelector};
use super::syscall;

/// Holds about 10 ms of 10 Gbit/s, with the kernel's own bookkeeping counted in.
const RECEIVE_BUFFER: i32 = 16 << 20;
const SEND_BUFFER: i32 = 4 << 20;
/// Bytes of an 802.1Q tag.
const VLAN_TAG: usize = 4;

/// How the migration NIC is to be set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicConfig {
    /// Which interface.
    pub selector: NicSelector,
    /// Bytes of an IP packet, 1280 to 9216; None leaves the interface's own.
    pub mtu: Option<u16>,
    /// 802.1Q VLAN, 1 to 4094; None sends and accepts untagged frames only.
    pub vlan: Option<u16>,
}

/// Why a NIC cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NicError {
    /// No interface matches the selector.
    #[error("there is no Ethernet interface {selector}; present are: {present}")]
    NotFound {
        /// What was asked for.
        selector: NicSelector,
        /// What there is.
        present: String,
    },
    /// The kernel would answer for this interface.
    #[error("interface {interface} has the kernel address {address}; the migration NIC must have none")]
    HasKernelAddress {
        /// The interface.
        interface: String,
        /// Its first address.
        address: IpAddr,
    },
    /// The device does not take this MTU.
    #[error("interface {interface} does not accept an MTU of {mtu}")]
    MtuRefused {
        /// The interface.
        interface: String,
        /// What was asked for.
        mtu: u16,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A value of the configuration is out of its range.
    #[error("{what} is {value}, and must be from {least} to {most}")]
    OutOfRange {
        /// The key.
        what: &'static str,
        /// Its value.
        value: u32,
        /// Least and most.
        least: u32,
        /// Most.
        most: u32,
    },
    /// The interface could not be taken from the kernel.
    #[error("cannot {what} (interface {interface})")]
    Prepare {
        /// The interface.
        interface: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// The migration NIC. Dropping it closes the socket; the interface stays up and silent.
#[derive(Debug)]
pub struct Nic {
    socket: OwnedFd,
    control: OwnedFd,
    index: u32,
    name: String,
    mac: [u8; 6],
    mtu: u16,
    vlan: Option<u16>,
    counters: Counters,
    cuts_for_us: bool,
}

impl Nic {
    /// Finds the interface, silences the kernel on it, brings it up and opens it.
    pub fn open(config: &NicConfig) -> Result<Self, NicError> {
        check_range("mtu", config.mtu, 1280, 9216)?;
        check_range("vlan", config.vlan, 1, 4094)?;
        let failed = |what: &'static str| {
            let interface = config.selector.to_string();
            move |source: io::Error| NicError::Prepare { interface, what, source }
        };
        let control = syscall::control_socket().map_err(failed("open a socket for ioctls"))?;
        let found = selector::find(control.as_fd(), &config.selector)?;
        prepare::take_from_kernel(control.as_fd(), &found, config.mtu)?;
        let socket = syscall::open_packet_socket(found.index, RECEIVE_BUFFER, SEND_BUFFER)
            .map_err(failed("open a packet socket (CAP_NET_RAW is needed)"))?;
        let cuts_for_us = link::feature_is_on(control.as_fd(), &found.name, prepare::CUTTING).unwrap_or(false);
        let mtu = syscall::mtu(control.as_fd(), &found.name).map_err(failed("read the MTU"))?;
        Ok(Self {
            socket,
            control,
            index: found.index,
            name: found.name,
            mac: found.mac,
            mtu: u16::try_from(mtu).unwrap_or(9216).min(9216),
            vlan: config.vlan,
            counters: Counters::default(),
            // The path past the queue discipline drops what the device cannot cut, each time, and calls that a full queue.
            cuts_for_us,
        })
    }

    fn write(&mut self, frame: &OutgoingFrame<'_>) -> io::Result<()> {
        let Some(vlan) = self.vlan else {
            let vnet = offload::vnet_header(frame, 0);
            let parts = [IoSlice::new(&vnet), IoSlice::new(frame.header), IoSlice::new(frame.body)];
            return rustix::io::writev(&self.socket, &parts).map(drop).map_err(io::Error::from);
        };
        let (macs, rest) = frame.header.split_at(frame.header.len().min(12));
        let vnet = offload::vnet_header(frame, VLAN_TAG);
        let [high, low] = vlan.to_be_bytes();
        // TPID 0x8100 and the tag control information, IEEE 802.1Q section 9.6.
        let tag = [0x81, 0x00, high, low];
        let parts =
            [IoSlice::new(&vnet), IoSlice::new(macs), IoSlice::new(&tag), IoSlice::new(rest), IoSlice::new(frame.body)];
        rustix::io::writev(&self.socket, &parts).map(drop).map_err(io::Error::from)
    }

    fn write_or_block(&mut self, frame: &OutgoingFrame<'_>) -> io::Result<()> {
        let result = self.write(frame);
        match &result {
            Ok(()) => {
                self.counters.sent_frames += 1;
                self.counters.sent_bytes += (frame.header.len() + frame.body.len()) as u64;
            }
            // With QDISC_BYPASS a full device queue is ENOBUFS, a full socket EAGAIN: both pass.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => {
                self.counters.send_blocked += 1;
                return Err(io::Error::from(io::ErrorKind::WouldBlock));
            }
            Err(_) => {}
        }
        result
    }
}

fn check_range(what: &'static str, value: Option<u16>, least: u16, most: u16) -> Result<(), NicError> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(NicError::OutOfRange { what, value: value.into(), least: least.into(), most: most.into() })
        }
        _ => Ok(()),
    }
}

impl Port for Nic {
    fn receive(&mut self, batch: &mut FrameBatch) -> io::Result<usize> {
        let (vlan, counters) = (self.vlan, &mut self.counters);
        let filled = batch.refill(|buffers| {
            let filled = syscall::receive_frames(self.socket.as_fd(), buffers)?;
            for buffer in &mut buffers[..filled] {
                // Priority-tagged frames (VLAN 0) count as untagged, IEEE 802.1Q section 6.9.1.
                if buffer.vlan.filter(|tag| *tag != 0) != vlan {
                    buffer.length = 0;
                }
                counters.received_frames += 1;
                counters.received_bytes += buffer.length as u64;
            }
            Ok(filled)
        });
        match filled {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            // ENETDOWN is told once after the interface went down; EINVAL: a frame that this kernel's vnet header
            // cannot describe was thrown away. The link's state is asked for elsewhere.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::EINVAL)) => Ok(0),
            other => other,
        }
    }

    fn send(&mut self, frame: &OutgoingFrame<'_>) -> io::Result<()> {
        if frame.segment.is_none() || self.cuts_for_us {
            match self.write_or_block(frame) {
                // Kernels before 6.2 know no UDP segmentation in the vnet header: cut here from now on.
                Err(error) if frame.segment.is_some() && error.raw_os_error() == Some(libc::EINVAL) => {
                    log::info!("{}: no UDP segmentation in this kernel, frames are cut here", self.name);
                    self.cuts_for_us = false;
                }
                result => return result,
            }
        }
        // A queue that fills in the middle loses the rest of the batch, as a full switch would: QUIC sends it again.
        let mut sent_any = false;
        offload::cut(frame, |piece| {
            let result = self.write_or_block(piece);
            if result.is_err() && sent_any {
                return Ok(());
            }
            sent_any |= result.is_ok();
            result
        })
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn link(&mut self) -> LinkState {
        let up = link::is_up(self.control.as_fd(), &self.name).unwrap_or(false);
        let (speed_mbit, full_duplex) = link::speed(self.control.as_fd(), &self.name).unwrap_or_default();
        LinkState { up, speed_mbit, full_duplex }
    }

    fn is_gone(&mut self) -> bool {
        // A device that came again has the name and another index.
        !syscall::interface_index(self.control.as_fd(), &self.name).is_ok_and(|index| index == self.index)
    }

    fn counters(&mut self) -> Counters {
        if let Ok((_, drops)) = syscall::packet_statistics(self.socket.as_fd()) {
            self.counters.dropped_by_socket += u64::from(drops);
        }
        if let Some((receive, send)) = link::device_errors(&self.name) {
            (self.counters.device_receive_errors, self.counters.device_send_errors) = (receive, send);
        }
        self.counters
    }

    fn join_multicast(&mut self, mac: [u8; 6]) -> io::Result<()> {
        syscall::join_multicast(self.socket.as_fd(), self.index, mac)
    }
}
