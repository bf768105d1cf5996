//! A request of the guest, parsed and checked against the disk (virtio 1.2, section 5.2.6). Pure: what to do is data.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use crate::disk::raw::SECTOR_BYTES;
use crate::virtio::chain::{Chain, Segment};

/// Bytes of the header: type, reserved, sector.
pub const HEADER_BYTES: usize = 16;
/// Bytes of one range of a discard or write-zeroes request.
const RANGE_BYTES: usize = 16;
/// Sectors of one discard at most: 128 MiB.
pub const DISCARD_SECTORS_MAX: u32 = 256 << 10;
/// Sectors of one write-zeroes at most: 4 MiB, so that draining stays short where the file cannot do it by itself.
pub const WRITE_ZEROES_SECTORS_MAX: u32 = 8 << 10;

/// What the disk allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sectors that the guest sees.
    pub sectors: u64,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Read into the writable part, without its last byte, from this byte of the disk.
    Read {
        /// Offset, bytes.
        offset: u64,
        /// Length, bytes.
        length: u64,
    },
    /// Write the readable part behind the header.
    Write {
        /// Offset, bytes.
        offset: u64,
        /// Length, bytes.
        length: u64,
    },
    /// Make everything durable.
    Flush,
    /// Give the serial number.
    GetId,
    /// Forget a range.
    Discard {
        /// Offset, bytes.
        offset: u64,
        /// Length, bytes.
        length: u64,
    },
    /// Zero a range.
    WriteZeroes {
        /// Offset, bytes.
        offset: u64,
        /// Length, bytes.
        length: u64,
        /// Space may be given back.
        unmap: bool,
    },
    /// Answer with this status: OK for nothing to do, or an error.
    Answer(u8),
}

/// A parsed request.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// What to do.
    pub action: Action,
    /// Where the status byte goes.
    pub status: Segment,
    /// Bytes of the writable part in front of the status byte.
    pub data_in: usize,
}

/// Parses a chain. The framing is the driver's choice (2.7.4.1): the header may be split, and joined with data.
///
/// # Errors
/// In words, if there is no header or no status byte: the driver is broken.
pub fn parse(chain: &Chain, limits: Limits) -> Result<Request, &'static str> {
    let mut header = [0; HEADER_BYTES];
    if !chain.readable.read(0, &mut header) {
        return Err("a block request is shorter than its header");
    }
    let Some(data_in) = chain.writable.bytes().checked_sub(1) else {
        return Err("a block request has no room for its status");
    };
    let status = chain.writable.range(data_in, 1).next().ok_or("a block request has no room for its status")?;
    let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let sector = u64_at(&header, 8);
    let data_out = chain.readable.bytes() - HEADER_BYTES;
    let action = match kind {
        VIRTIO_BLK_T_IN => match extent(sector, data_in as u64, limits) {
            Some((_, 0)) => Action::Answer(0),
            Some((offset, length)) => Action::Read { offset, length },
            None => Action::Answer(VIRTIO_BLK_S_IOERR as u8),
        },
        VIRTIO_BLK_T_OUT if !limits.read_only => match extent(sector, data_out as u64, limits) {
            Some((_, 0)) => Action::Answer(0),
            Some((offset, length)) => Action::Write { offset, length },
            None => Action::Answer(VIRTIO_BLK_S_IOERR as u8),
        },
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if !limits.read_only => parse_range(chain, kind, limits),
        VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => Action::Answer(VIRTIO_BLK_S_IOERR as u8),
        VIRTIO_BLK_T_FLUSH => Action::Flush,
        VIRTIO_BLK_T_GET_ID => Action::GetId,
        _ => Action::Answer(VIRTIO_BLK_S_UNSUPP as u8),
    };
    Ok(Request { action, status, data_in })
}

/// A discard or write-zeroes request with its one range (we tell the driver that one is the most).
fn parse_range(chain: &Chain, kind: u32, limits: Limits) -> Action {
    let mut range = [0; RANGE_BYTES];
    if chain.readable.bytes() != HEADER_BYTES + RANGE_BYTES || !chain.readable.read(HEADER_BYTES, &mut range) {
        return Action::Answer(VIRTIO_BLK_S_IOERR as u8);
    }
    let sectors = u32::from_le_bytes([range[8], range[9], range[10], range[11]]);
    let flags = u32::from_le_bytes([range[12], range[13], range[14], range[15]]);
    let (allowed, most) = if kind == VIRTIO_BLK_T_DISCARD {
        (0, DISCARD_SECTORS_MAX)
    } else {
        (VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, WRITE_ZEROES_SECTORS_MAX)
    };
    // 5.2.6.2: unknown flags, and unmap on a discard, are unsupported.
    if flags & !allowed != 0 {
        return Action::Answer(VIRTIO_BLK_S_UNSUPP as u8);
    }
    match extent(u64_at(&range, 0), u64::from(sectors) * SECTOR_BYTES, limits) {
        Some((offset, length)) if sectors <= most && length > 0 => match kind {
            VIRTIO_BLK_T_DISCARD => Action::Discard { offset, length },
            _ => Action::WriteZeroes { offset, length, unmap: flags != 0 },
        },
        Some((_, 0)) => Action::Answer(0),
        _ => Action::Answer(VIRTIO_BLK_S_IOERR as u8),
    }
}

/// Offset and length in bytes, if they are whole sectors of the disk.
fn extent(sector: u64, bytes: u64, limits: Limits) -> Option<(u64, u64)> {
    let end = sector.checked_add(bytes / SECTOR_BYTES)?;
    (bytes.is_multiple_of(SECTOR_BYTES) && end <= limits.sectors).then(|| (sector * SECTOR_BYTES, bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}
