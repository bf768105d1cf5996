//! The lease area: bytes that change when writes land.

/// The bytes of a lease area.
#[derive(Clone, Debug)]
pub struct Disk {
    bytes: Vec<u8>,
}

impl Disk {
    /// An area of holes.
    pub fn new(bytes: u64) -> Self {
        Self { bytes: vec![0; bytes as usize] }
    }

    /// The bytes as they are now.
    pub fn read(&self, offset: u64, bytes: usize) -> &[u8] {
        let start = offset as usize;
        &self.bytes[start..start + bytes]
    }

    /// These bytes land.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let start = offset as usize;
        self.bytes[start..start + data.len()].copy_from_slice(data);
    }
}
