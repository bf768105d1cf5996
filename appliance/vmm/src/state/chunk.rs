//! The container of a machine's state.
//!
//! ```text
//!   0  magic "GODWITVM"
//!   8  format version (u32), of this container only
//!  12  count of chunks (u32)
//!  16  chunk: kind (u16) instance (u16) version (u16) reserved (u16, 0) length (u32) payload
//!      ...
//!      checksum (u32, CRC-32C of all that comes before it)
//! ```
//!
//! All integers are little-endian. The bytes come from another host: sizes and counts are bounded before anything
//! is allocated, and the same chunk cannot come twice.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};

const MAGIC: &[u8; 8] = b"GODWITVM";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 16;
const CHUNK_HEADER_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;

/// Longest payload of one chunk in bytes. The largest that occurs is a vCPU with AMX state, about 20 KiB.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Most chunks in one state: 255 vCPUs, every device slot of a PCI bus, and what the machine has once.
pub const CHUNKS_MAX: usize = 1024;
/// Longest state in bytes.
pub const STATE_BYTES_MAX: usize = 32 << 20;

/// What a chunk is about, and which one of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkKind {
    /// The subject: one of the constants here.
    pub kind: u16,
    /// Which one of several of the same kind, from 0.
    pub instance: u16,
    /// The version of the payload's layout.
    pub version: u16,
}

impl ChunkKind {
    /// What machine it was: checked before anything else.
    pub const MACHINE: u16 = 1;
    /// One vCPU; the instance is its index.
    pub const VCPU: u16 = 2;
    /// PIC, I/O APIC and PIT of the kernel.
    pub const IRQCHIP: u16 = 3;
    /// kvmclock.
    pub const CLOCK: u16 = 4;
    /// 16550 serial port with the ring of what the guest wrote.
    pub const SERIAL: u16 = 5;
    /// Real-time clock and CMOS memory.
    pub const RTC: u16 = 6;
    /// ACPI power management registers.
    pub const ACPI_PM: u16 = 7;
    /// Keyboard controller and the reset port.
    pub const RESET_CONTROL: u16 = 8;
    /// First number for what lies in `pci/`, `virtio/` and `disk/`: 0x100 PCI root, 0x110 block, 0x111 net,
    /// 0x112 entropy, and on.
    pub const DEVICES_FROM: u16 = 0x100;

    /// The first layout of the first instance of `kind`.
    pub const fn new(kind: u16, instance: u16, version: u16) -> Self {
        Self { kind, instance, version }
    }

    /// Whether a payload of `version` has the layout that is understood here.
    ///
    /// # Errors
    /// [`StateError::Version`].
    pub const fn check_version(self, version: u16) -> Result<(), StateError> {
        if version == self.version {
            return Ok(());
        }
        Err(StateError::Version { kind: self.kind, instance: self.instance, version })
    }
}

impl std::fmt::Display for ChunkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}.{} (version {})", self.kind, self.instance, self.version)
    }
}

/// Why a state could not be written or taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The bytes do not begin as a state does.
    #[error("this is not the state of a machine")]
    NotAState,
    /// Another format of the container.
    #[error("the state has format {found}; this version reads format {FORMAT}")]
    Format {
        /// The format that was found.
        found: u32,
    },
    /// The bytes end early, go on too long, or a count or length is out of bounds.
    #[error("the state is damaged: {0}")]
    Damaged(&'static str),
    /// The checksum at the end is another than that of the bytes.
    #[error("the state is damaged: its checksum does not match")]
    Checksum,
    /// A chunk that this machine needs is not there.
    #[error("the state has no chunk {kind:#x}.{instance}")]
    Missing {
        /// Kind of the missing chunk.
        kind: u16,
        /// Its instance.
        instance: u16,
    },
    /// A chunk that this machine does not know: it has a device that this machine lacks.
    #[error("the state has a chunk {kind:#x}.{instance} for which this machine has no use")]
    Unexpected {
        /// Kind of the chunk.
        kind: u16,
        /// Its instance.
        instance: u16,
    },
    /// The payload's layout is of a version that is not understood.
    #[error("chunk {kind:#x}.{instance} has version {version}, which is not understood here")]
    Version {
        /// Kind of the chunk.
        kind: u16,
        /// Its instance.
        instance: u16,
        /// The version it has.
        version: u16,
    },
    /// The payload does not decode, or holds a value that cannot be.
    #[error("{subject}: {what}")]
    Invalid {
        /// Whose state it is.
        subject: String,
        /// What is wrong with it.
        what: String,
    },
    /// The kernel refused a part of the state.
    #[error("{subject}: KVM refused {what} ({errno})")]
    Kernel {
        /// Whose state it is.
        subject: String,
        /// What it refused.
        what: &'static str,
        /// The error, as the system says it.
        errno: String,
    },
}

impl StateError {
    /// A value of `subject` that cannot be.
    pub fn invalid(subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Invalid { subject: subject.into(), what: what.into() }
    }
}

/// Turns a payload into bytes (postcard).
///
/// # Errors
/// [`StateError::Invalid`] if it is longer than [`CHUNK_BYTES_MAX`] or cannot be serialised.
pub fn encode<T: Serialize>(subject: &str, value: &T) -> Result<Vec<u8>, StateError> {
    let bytes = postcard::to_stdvec(value).map_err(|error| StateError::invalid(subject, error.to_string()))?;
    if bytes.len() > CHUNK_BYTES_MAX {
        return Err(StateError::invalid(subject, format!("{} bytes of state are too many", bytes.len())));
    }
    Ok(bytes)
}

/// Turns bytes back into a payload; all bytes must be used.
///
/// # Errors
/// [`StateError::Invalid`].
pub fn decode<T: DeserializeOwned>(subject: &str, bytes: &[u8]) -> Result<T, StateError> {
    let (value, rest) =
        postcard::take_from_bytes(bytes).map_err(|error| StateError::invalid(subject, error.to_string()))?;
    if !rest.is_empty() {
        return Err(StateError::invalid(subject, format!("{} bytes too many", rest.len())));
    }
    Ok(value)
}

/// Writes a state chunk by chunk.
#[derive(Debug)]
pub struct StateWriter {
    bytes: Vec<u8>,
    chunks: BTreeMap<(u16, u16), ()>,
}

impl Default for StateWriter {
    fn default() -> Self {
        let mut bytes = Vec::with_capacity(64 << 10);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&0u32.to_le_bytes());
        Self { bytes, chunks: BTreeMap::new() }
    }
}

impl StateWriter {
    /// A state without chunks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a chunk.
    ///
    /// # Errors
    /// [`StateError::Damaged`] if it is too long, is one too many, or has been added before.
    pub fn add(&mut self, chunk: ChunkKind, payload: &[u8]) -> Result<(), StateError> {
        if payload.len() > CHUNK_BYTES_MAX {
            return Err(StateError::Damaged("a chunk is too long"));
        }
        if self.chunks.len() >= CHUNKS_MAX {
            return Err(StateError::Damaged("there are too many chunks"));
        }
        if self.chunks.insert((chunk.kind, chunk.instance), ()).is_some() {
            return Err(StateError::Damaged("a chunk comes twice"));
        }
        for part in [chunk.kind, chunk.instance, chunk.version, 0] {
            self.bytes.extend_from_slice(&part.to_le_bytes());
        }
        self.bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(payload);
        Ok(())
    }

    /// The finished bytes.
    ///
    /// # Errors
    /// [`StateError::Damaged`] if they are more than [`STATE_BYTES_MAX`].
    pub fn finish(mut self) -> Result<Vec<u8>, StateError> {
        self.bytes[12..HEADER_BYTES].copy_from_slice(&(self.chunks.len() as u32).to_le_bytes());
        let sum = crc32c(&self.bytes);
        self.bytes.extend_from_slice(&sum.to_le_bytes());
        if self.bytes.len() > STATE_BYTES_MAX {
            return Err(StateError::Damaged("it is too long"));
        }
        Ok(self.bytes)
    }
}

/// The chunks of a state, checked. Each is taken once; what is left at the end is a chunk nobody wanted.
#[derive(Debug)]
pub struct StateReader<'a> {
    chunks: BTreeMap<(u16, u16), (u16, &'a [u8])>,
}

impl<'a> StateReader<'a> {
    /// Checks the container and finds the chunks. Nothing is copied.
    ///
    /// # Errors
    /// Every way in which bytes can fail to be a state.
    pub fn new(bytes: &'a [u8]) -> Result<Self, StateError> {
        if bytes.len() < HEADER_BYTES + CHECKSUM_BYTES || &bytes[..8] != MAGIC {
            return Err(StateError::NotAState);
        }
        if bytes.len() > STATE_BYTES_MAX {
            return Err(StateError::Damaged("it is too long"));
        }
        let format = u32_at(bytes, 8);
        if format != FORMAT {
            return Err(StateError::Format { found: format });
        }
        let (body, sum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
        if crc32c(body) != u32_at(sum, 0) {
            return Err(StateError::Checksum);
        }
        let count = u32_at(bytes, 12) as usize;
        if count > CHUNKS_MAX {
            return Err(StateError::Damaged("there are too many chunks"));
        }
        let mut chunks = BTreeMap::new();
        let mut rest = &body[HEADER_BYTES..];
        for _ in 0..count {
            rest = Self::take_one(rest, &mut chunks)?;
        }
        if !rest.is_empty() {
            return Err(StateError::Damaged("there are bytes behind the last chunk"));
        }
        Ok(Self { chunks })
    }

    fn take_one(rest: &'a [u8], chunks: &mut BTreeMap<(u16, u16), (u16, &'a [u8])>) -> Result<&'a [u8], StateError> {
        if rest.len() < CHUNK_HEADER_BYTES {
            return Err(StateError::Damaged("it ends inside a chunk"));
        }
        let (header, rest) = rest.split_at(CHUNK_HEADER_BYTES);
        let length = u32_at(header, 8) as usize;
        if length > CHUNK_BYTES_MAX {
            return Err(StateError::Damaged("a chunk is too long"));
        }
        if length > rest.len() {
            return Err(StateError::Damaged("it ends inside a chunk"));
        }
        let (payload, rest) = rest.split_at(length);
        let key = (u16_at(header, 0), u16_at(header, 2));
        if chunks.insert(key, (u16_at(header, 4), payload)).is_some() {
            return Err(StateError::Damaged("a chunk comes twice"));
        }
        Ok(rest)
    }

    /// Takes the chunk of `kind` and `instance`: its version and payload.
    ///
    /// # Errors
    /// [`StateError::Missing`].
    pub fn take(&mut self, kind: u16, instance: u16) -> Result<(u16, &'a [u8]), StateError> {
        self.chunks.remove(&(kind, instance)).ok_or(StateError::Missing { kind, instance })
    }

    /// Takes and decodes a chunk whose layout must be `version`.
    ///
    /// # Errors
    /// [`StateError::Missing`], [`StateError::Version`], [`StateError::Invalid`].
    pub fn take_decoded<T: DeserializeOwned>(&mut self, chunk: ChunkKind, subject: &str) -> Result<T, StateError> {
        let (version, bytes) = self.take(chunk.kind, chunk.instance)?;
        if version != chunk.version {
            return Err(StateError::Version { kind: chunk.kind, instance: chunk.instance, version });
        }
        decode(subject, bytes)
    }

    /// Says that all that is wanted has been taken.
    ///
    /// # Errors
    /// [`StateError::Unexpected`] if a chunk is left.
    pub fn finish(self) -> Result<(), StateError> {
        match self.chunks.into_keys().next() {
            Some((kind, instance)) => Err(StateError::Unexpected { kind, instance }),
            None => Ok(()),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// CRC-32C (Castagnoli; RFC 3720, section B.4), bytewise by table: a state is tens of kilobytes.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { (value >> 1) ^ 0x82f6_3b78 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Vec<u8> {
        let mut writer = StateWriter::new();
        writer.add(ChunkKind::new(2, 0, 1), b"first").unwrap();
        writer.add(ChunkKind::new(2, 1, 7), b"").unwrap();
        writer.add(ChunkKind::new(0x110, 0, 1), &[9; 300]).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn the_checksum_is_castagnoli() {
        // RFC 3720, section B.4: 32 bytes of zeroes, 32 bytes of ones.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn what_was_written_is_read_and_what_nobody_takes_is_named() {
        let bytes = sample();
        let mut reader = StateReader::new(&bytes).unwrap();
        assert_eq!(reader.take(2, 0).unwrap(), (1, &b"first"[..]));
        assert_eq!(reader.take(2, 1).unwrap(), (7, &b""[..]));
        assert_eq!(reader.take(2, 0), Err(StateError::Missing { kind: 2, instance: 0 }));
        assert_eq!(reader.finish(), Err(StateError::Unexpected { kind: 0x110, instance: 0 }));
    }

    #[test]
    fn any_single_bit_that_flips_is_noticed() {
        let bytes = sample();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(StateReader::new(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_chunk_cannot_be_written_twice() {
        let mut writer = StateWriter::new();
        writer.add(ChunkKind::new(2, 0, 1), b"a").unwrap();
        assert!(writer.add(ChunkKind::new(2, 0, 2), b"b").is_err());
    }

    /// Puts a right checksum behind any body, so that the parser behind the checksum is reached.
    fn sealed(mut body: Vec<u8>) -> Vec<u8> {
        let sum = crc32c(&body);
        body.extend_from_slice(&sum.to_le_bytes());
        body
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(
            count in 0u32..5000,
            tail in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let mut body = MAGIC.to_vec();
            body.extend_from_slice(&FORMAT.to_le_bytes());
            body.extend_from_slice(&count.to_le_bytes());
            body.extend_from_slice(&tail);
            let bytes = sealed(body);
            if let Ok(reader) = StateReader::new(&bytes) {
                prop_assert!(reader.chunks.len() == count as usize);
            }
            let _ = StateReader::new(&tail);
        }

        #[test]
        fn every_set_of_chunks_comes_back(
            chunks in proptest::collection::btree_map(any::<(u16, u16)>(), (any::<u16>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..20),
        ) {
            let mut writer = StateWriter::new();
            for ((kind, instance), (version, payload)) in &chunks {
                writer.add(ChunkKind::new(*kind, *instance, *version), payload).unwrap();
            }
            let bytes = writer.finish().unwrap();
            let mut reader = StateReader::new(&bytes).unwrap();
            for ((kind, instance), (version, payload)) in &chunks {
                prop_assert_eq!(reader.take(*kind, *instance).unwrap(), (*version, &payload[..]));
            }
            prop_assert!(reader.finish().is_ok());
        }
    }
}
