//! The `newc` cpio archive that the kernel unpacks as its initramfs (Linux, Documentation/driver-api/early-userspace/
//! buffer-format.rst): written here, so that device nodes need no root and equal inputs give equal bytes.

use crate::error::{LabError, Result};

const MAGIC: &[u8] = b"070701";
const HEADER: usize = 110;
const TRAILER: &str = "TRAILER!!!";

const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const SYMBOLIC_LINK: u32 = 0o120_000;

/// An archive under construction. Owner is root and all times are 0.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a folder. Parents come before what lies in them.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER | 0o755, (0, 0), &[]);
    }

    /// Adds a file with its permissions.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, to: &str) {
        self.entry(path, SYMBOLIC_LINK | 0o777, (0, 0), to.as_bytes());
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE | permissions, (major, minor), &[]);
    }

    /// Ends the archive. Its length is a multiple of 512 bytes, so another can follow it.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.pad(512);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = if mode & FOLDER == FOLDER { 2 } else { 1 };
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            content.len() as u32,
            0,
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(MAGIC);
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(content);
        self.pad(4);
    }

    fn pad(&mut self, multiple: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(multiple), 0);
    }
}

/// One thing in an archive that is read back.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path, without a slash in front.
    pub path: String,
    /// Kind and permissions, as in `st_mode`.
    pub mode: u32,
    /// A file's content or a link's goal.
    pub content: Vec<u8>,
}

impl Entry {
    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.mode & 0o170_000 == REGULAR
    }
}

/// Reads an archive, or several one after the other, back.
pub fn read(mut bytes: &[u8]) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    loop {
        // Between archives there may be padding.
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
        bytes = &bytes[start..];
        if bytes.is_empty() {
            return Ok(entries);
        }
        let (entry, rest) = read_entry(bytes).ok_or_else(|| LabError::Input("not a whole newc archive".into()))?;
        bytes = rest;
        if entry.path != TRAILER {
            entries.push(entry);
        }
    }
}

fn read_entry(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let header = bytes.get(..HEADER)?.strip_prefix(MAGIC)?;
    let field = |index: usize| {
        let text = std::str::from_utf8(header.get(index * 8..index * 8 + 8)?).ok()?;
        u32::from_str_radix(text, 16).ok()
    };
    let (mode, size, path_size) = (field(1)?, field(6)? as usize, field(11)? as usize);
    let path = bytes.get(HEADER..HEADER + path_size.checked_sub(1)?)?;
    let content_at = (HEADER + path_size).next_multiple_of(4);
    let content = bytes.get(content_at..content_at + size)?;
    let rest = bytes.get((content_at + size).next_multiple_of(4)..).unwrap_or_default();
    let path = String::from_utf8(path.to_vec()).ok()?;
    Some((Entry { path, mode, content: content.to_vec() }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.folder("etc");
        archive.file("etc/odd", 0o640, b"seven b");
        archive.link("etc/link", "odd");
        archive.character_device("console", 0o600, 5, 1);
        archive.finish()
    }

    #[test]
    fn what_is_written_is_read_back_also_from_two_archives_in_a_row() {
        let entries = read(&[sample(), sample()].concat()).unwrap();
        let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["etc", "etc/odd", "etc/link", "console", "etc", "etc/odd", "etc/link", "console"]);
        assert_eq!(entries[1].content, b"seven b");
        assert_eq!(entries[1].mode, 0o100_640);
        assert!(entries[1].is_file() && !entries[0].is_file());
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let whole = sample();
        assert!(read(&whole[..150]).is_err());
        assert!(read(b"070701 but no archive").is_err());
    }

    #[test]
    fn another_implementation_reads_it() {
        let Ok(mut cpio) =
            Command::new("cpio").args(["--quiet", "-tv"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
        else {
            return; // no cpio on this machine
        };
        cpio.stdin.take().unwrap().write_all(&sample()).unwrap();
        let output = cpio.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.contains("etc/link -> odd") && said.contains("5,   1"), "{said}");
    }
}
