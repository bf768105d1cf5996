//! A raw disk: an open file or block device, and the facts about it that the data path needs.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, FlockOperation, OFlags, SeekFrom, StatxFlags, flock};

/// A sector of virtio-blk, whatever the logical block size (virtio 1.2, 5.2.4).
pub const SECTOR_BYTES: u64 = 512;

/// Alignment assumed for a file opened with O_DIRECT that does not tell its own (statx without STATX_DIOALIGN).
const DIRECT_ALIGN_ASSUMED: u32 = 512;

/// The largest block or memory alignment that a disk may ask for; a file that asks for more is refused.
const ALIGN_MAX: u32 = 64 * 1024;

/// Why a file cannot serve as a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A system call about the file failed.
    #[error("{call} on the disk's file failed")]
    Call {
        /// The system call.
        call: &'static str,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("the disk is neither a regular file nor a block device")]
    NotADisk,
    /// The descriptor was opened for reading and the disk is to be written.
    #[error("the disk's file is open for reading only, but the disk is not read-only")]
    NotWritable,
    /// Less than one sector.
    #[error("the disk's file holds {bytes} bytes, less than one sector of 512")]
    TooSmall {
        /// Size of the file.
        bytes: u64,
    },
    /// The file demands an alignment that is not a power of two up to 64 KiB.
    #[error("the disk's file demands I/O alignment of {bytes} bytes; powers of two up to 65536 are supported")]
    Alignment {
        /// What it demands.
        bytes: u32,
    },
}

/// An open raw disk.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    bytes: u64,
    read_only: bool,
    direct: bool,
    block_bytes: u32,
    memory_align: u32,
    /// The lock on the file was taken, and not let go of since.
    locked: bool,
}

impl RawDisk {
    /// Takes an open file or block device. Whether it is O_DIRECT is read from its flags.
    ///
    /// # Errors
    /// [`DiskError`] if it is no disk, too small, or not open for writing although `read_only` is false.
    pub fn new(file: File, read_only: bool) -> Result<Self, DiskError> {
        let flags = rustix::fs::fcntl_getfl(&file).map_err(|e| call("fcntl(F_GETFL)", e))?;
        if !read_only && flags & OFlags::RWMODE == OFlags::RDONLY {
            return Err(DiskError::NotWritable);
        }
        let direct = flags.contains(OFlags::DIRECT);
        let bytes = size(&file)?;
        if bytes < SECTOR_BYTES {
            return Err(DiskError::TooSmall { bytes });
        }
        let (block_bytes, memory_align) = if direct { direct_alignment(&file)? } else { (1, 1) };
        for bytes in [block_bytes, memory_align] {
            if !bytes.is_power_of_two() || bytes > ALIGN_MAX {
                return Err(DiskError::Alignment { bytes });
            }
        }
        Ok(Self { file, bytes, read_only, direct, block_bytes, memory_align, locked: false })
    }

    /// Whole sectors of 512 bytes; a tail shorter than a sector is out of the guest's reach.
    pub fn sectors(&self) -> u64 {
        self.bytes / SECTOR_BYTES
    }

    /// The block size to show the guest, bytes: 512 or what O_DIRECT demands of offsets and lengths, if that is more.
    pub fn guest_block_bytes(&self) -> u32 {
        self.block_bytes.max(SECTOR_BYTES as u32)
    }

    /// Alignment of offsets and lengths, bytes (1 without O_DIRECT).
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Alignment of buffer addresses, bytes (1 without O_DIRECT).
    pub fn memory_align(&self) -> u32 {
        self.memory_align
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Whether the file was opened with O_DIRECT.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Locks the file for this machine alone (flock(2)), unless it is only read. One that was locked before and lost the
    /// lock otherwise than by [`Self::release`] does not get it anew: whoever has it since must not be written over. False if
    /// another has the lock.
    ///
    /// # Errors
    /// flock(2) fails.
    pub fn lock(&mut self) -> Result<bool, DiskError> {
        if !self.read_only && !self.locked {
            match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => self.locked = true,
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
                Err(error) => return Err(call("flock(LOCK_EX)", error)),
            }
        }
        Ok(true)
    }

    /// Lets go of the lock, so that another host may write the file.
    ///
    /// # Errors
    /// flock(2) fails.
    pub fn release(&mut self) -> Result<(), DiskError> {
        if self.locked {
            flock(&self.file, FlockOperation::Unlock).map_err(|error| call("flock(LOCK_UN)", error))?;
            self.locked = false;
        }
        Ok(())
    }

    /// Gives the file back, for instance to close it before another host opens it.
    pub fn into_file(self) -> File {
        self.file
    }
}

fn call(call: &'static str, error: rustix::io::Errno) -> DiskError {
    DiskError::Call { call, source: error.into() }
}

fn size(file: &File) -> Result<u64, DiskError> {
    let stat = rustix::fs::fstat(file).map_err(|e| call("fstat", e))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(stat.st_size as u64),
        // A block device's size is where its end is; all our I/O is positioned, so moving the offset hurts nobody.
        FileType::BlockDevice => rustix::fs::seek(file, SeekFrom::End(0)).map_err(|e| call("lseek", e)),
        _ => Err(DiskError::NotADisk),
    }
}

/// (alignment of offsets and lengths, alignment of memory) for O_DIRECT on this file: statx(2), STATX_DIOALIGN.
fn direct_alignment(file: &File) -> Result<(u32, u32), DiskError> {
    let stat = rustix::fs::statx(file.as_fd(), c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        .map_err(|e| call("statx", e))?;
    let told = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN);
    if told && stat.stx_dio_offset_align != 0 {
        return Ok((stat.stx_dio_offset_align, stat.stx_dio_mem_align.max(1)));
    }
    Ok((DIRECT_ALIGN_ASSUMED, DIRECT_ALIGN_ASSUMED))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of 4096 bytes, as long as its descriptor is held, and the path by which it is opened anew.
    fn image() -> (std::os::fd::OwnedFd, String) {
        let memfd = rustix::fs::memfd_create(c"disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memfd, 4096).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memfd));
        (memfd, path)
    }

    #[test]
    fn a_descriptor_open_for_reading_never_becomes_a_writable_disk() {
        let (_memfd, path) = image();
        assert!(matches!(RawDisk::new(File::open(&path).unwrap(), false), Err(DiskError::NotWritable)));
        assert_eq!(RawDisk::new(File::open(&path).unwrap(), true).unwrap().sectors(), 8);
    }

    #[test]
    fn a_lock_that_was_let_go_of_comes_back_unless_another_has_it() {
        let (_memfd, path) = image();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let other = open();
        let mut disk = RawDisk::new(open(), false).unwrap();
        assert!(disk.lock().unwrap());
        other.try_lock().expect_err("it is the disk's");
        disk.release().unwrap();
        other.try_lock().unwrap();
        assert!(!disk.lock().unwrap(), "another has it");
        other.unlock().unwrap();
        assert!(disk.lock().unwrap());
        other.try_lock().expect_err("it is taken back");
        assert!(disk.lock().unwrap(), "it is there already");
    }

    #[test]
    fn a_lock_that_was_lost_is_not_taken_anew() {
        let (_memfd, path) = image();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let mut disk = RawDisk::new(open(), false).unwrap();
        disk.lock().unwrap();
        disk.file().unlock().unwrap();
        disk.lock().unwrap();
        open().try_lock().expect("the disk has not locked it");
    }

    #[test]
    fn a_character_device_is_no_disk() {
        assert!(matches!(RawDisk::new(File::open("/dev/zero").unwrap(), true), Err(DiskError::NotADisk)));
    }
}
