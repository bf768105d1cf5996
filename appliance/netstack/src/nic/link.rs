//! State, speed and counters of an interface, by ioctl: sysfs shows the network namespace of whoever mounted it, and
//! an ioctl always the socket's own.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use super::syscall;

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GLINK: u32 = 0x0a;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETHTOOL_GLINKSETTINGS: u32 = 0x4c;
const ETH_SS_FEATURES: u32 = 4;
const STRING_LENGTH: usize = 32;
/// Words of the largest structure with a count that we ask for: 256 feature names.
const LARGE: usize = 3 + 256 * STRING_LENGTH / 4;

/// What the NIC says of its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Administratively up and with carrier.
    pub up: bool,
    /// Mbit/s, when the device knows.
    pub speed_mbit: Option<u32>,
    /// When the device knows.
    pub full_duplex: Option<bool>,
}

/// Frames since the NIC was opened; bytes without preamble and checksum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames handed up to us; a super-frame counts once.
    pub received_frames: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames handed to the NIC; a super-frame counts once.
    pub sent_frames: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames that the kernel dropped because we did not read in time.
    pub dropped_by_socket: u64,
    /// Receive errors and drops that the device counts since it was made.
    pub device_receive_errors: u64,
    /// Send errors and drops that the device counts since it was made.
    pub device_send_errors: u64,
    /// Times the NIC's queue was full and we kept the frame for later.
    pub send_blocked: u64,
    /// Frames that the NIC refused: its link was down, or they were too large.
    pub send_failed: u64,
}

/// Whether the interface is up and has carrier (ETHTOOL_GLINK). `IFF_RUNNING` says it too, but late: the kernel gathers such news for up to a second,
/// and on a busy host for longer.
pub(crate) fn is_up(control: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    let flags = syscall::flags(control, name)?;
    let mut words = vec![0u32; 64];
    words[0] = ETHTOOL_GLINK;
    let has_carrier = match syscall::ethtool(control, name, &mut words) {
        Ok(()) => words[1] != 0,
        // Its driver does not tell.
        Err(_) => flags & libc::IFF_RUNNING != 0,
    };
    Ok(flags & libc::IFF_UP != 0 && has_carrier)
}

/// Speed in Mbit/s and whether it is full duplex (ETHTOOL_GLINKSETTINGS, linux/ethtool.h).
pub(crate) fn speed(control: BorrowedFd<'_>, name: &str) -> io::Result<(Option<u32>, Option<bool>)> {
    let mut words = vec![0u32; 128];
    words[0] = ETHTOOL_GLINKSETTINGS;
    syscall::ethtool(control, name, &mut words)?;
    // The first answer tells, negated, how many mask words the kernel wants room for; byte 15 of the structure.
    let wanted = (words[3] >> 24) as u8 as i8;
    if wanted >= 0 || usize::from(wanted.unsigned_abs()) * 3 + 12 > words.len() {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    words.fill(0);
    words[0] = ETHTOOL_GLINKSETTINGS;
    words[3] = u32::from(wanted.unsigned_abs()) << 24;
    syscall::ethtool(control, name, &mut words)?;
    let speed = match words[1] {
        0 | u32::MAX => None,
        speed => Some(speed),
    };
    let duplex = match words[2] as u8 {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    };
    Ok((speed, duplex))
}

/// The bus address that the driver tells, `0000:00:03.0` for PCI (ETHTOOL_GDRVINFO).
pub(crate) fn bus_address(control: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    let mut words = vec![0u32; 64];
    words[0] = ETHTOOL_GDRVINFO;
    syscall::ethtool(control, name, &mut words)?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    // cmd, then driver, version, fw_version and bus_info, 32 bytes each.
    Ok(c_text(&bytes[4 + 3 * 32..4 + 4 * 32]))
}

fn c_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Turns one offload on by the name that `ethtool -k` shows. Errors: Unsupported when the device has no such name.
pub(crate) fn enable_feature(control: BorrowedFd<'_>, name: &str, feature: &str) -> io::Result<()> {
    let (bit, count) = feature_bit(control, name, feature)?;
    let mut request = vec![0u32; 64];
    request[0] = ETHTOOL_SFEATURES;
    request[1] = count.div_ceil(32) as u32;
    request[2 + bit / 32 * 2] = 1 << (bit % 32);
    request[3 + bit / 32 * 2] = 1 << (bit % 32);
    syscall::ethtool(control, name, &mut request)
}

/// Whether an offload is on (ETHTOOL_GFEATURES). Errors: as [`enable_feature`].
pub(crate) fn feature_is_on(control: BorrowedFd<'_>, name: &str, feature: &str) -> io::Result<bool> {
    let (bit, count) = feature_bit(control, name, feature)?;
    let mut blocks = vec![0u32; 64];
    blocks[0] = ETHTOOL_GFEATURES;
    blocks[1] = count.div_ceil(32) as u32;
    syscall::ethtool(control, name, &mut blocks)?;
    // A block of 32 features is four words: available, requested, active, never changed.
    Ok(blocks[2 + bit / 32 * 4 + 2] & 1 << (bit % 32) != 0)
}

/// The place of an offload among the kernel's, and how many there are.
fn feature_bit(control: BorrowedFd<'_>, name: &str, feature: &str) -> io::Result<(usize, usize)> {
    let mut words = vec![0u32; 64];
    words[0] = ETHTOOL_GSSET_INFO;
    words[2] = 1 << ETH_SS_FEATURES;
    syscall::ethtool(control, name, &mut words)?;
    let count = words[4] as usize;
    if count == 0 || count > 256 {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    let mut strings = vec![0u32; LARGE];
    strings[0] = ETHTOOL_GSTRINGS;
    strings[1] = ETH_SS_FEATURES;
    strings[2] = count as u32;
    syscall::ethtool(control, name, &mut strings)?;
    let bytes: Vec<u8> = strings[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let bit = bytes
        .chunks_exact(STRING_LENGTH)
        .take(count)
        .position(|text| c_text(text) == feature)
        .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
    Ok((bit, count))
}

/// Receive and send errors plus drops of the device, from `/proc/net/dev` of this thread's network namespace.
pub(crate) fn device_errors(name: &str) -> Option<(u64, u64)> {
    errors_in(&fs::read_to_string("/proc/thread-self/net/dev").ok()?, name)
}

fn errors_in(table: &str, name: &str) -> Option<(u64, u64)> {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    let numbers: Vec<u64> = line.split_ascii_whitespace().map_while(|text| text.parse().ok()).collect();
    // Receive: bytes packets errs drop fifo frame compressed multicast; then transmit: bytes packets errs drop ...
    Some((numbers.get(2)? + numbers.get(3)?, numbers.get(10)? + numbers.get(11)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_drops_are_read_from_the_right_columns() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes ...\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  mig0: 9 9 1 2 0 0 0 0 9 9 3 4 0 0 0 0\n";
        assert_eq!(errors_in(table, "mig0"), Some((3, 7)));
        assert_eq!(errors_in(table, "mig"), None);
    }
}
