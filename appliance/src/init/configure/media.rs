//! Boot media: which block devices hold an ISO 9660 or FAT volume, and `godwit/host.toml` on the first of them.
//!
//! Order: a FAT volume labelled GODWIT (somebody made it for this purpose), then ISO 9660 volumes, then other FAT volumes;
//! by device name among equals. Volumes are mounted read-only through a detached mount (`fsmount(2)`) that never appears
//! in the file tree and is gone when this process ends. A device without a known signature is not mounted at all.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

/// Most bytes of host.toml.
const TEXT_BYTES_MAX: u64 = 64 * 1024;
/// The label that marks a volume as the host's own.
const LABEL: &str = "GODWIT";

/// A configuration that was found.
pub(super) struct Found {
    /// The text of host.toml.
    pub(super) text: String,
    /// Where it lies, for people.
    pub(super) origin: String,
    /// The identity file of a GODWIT volume (16 bytes as hexadecimal digits).
    pub(super) identity: Option<[u8; 16]>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Rank {
    Own,
    Iso,
    Fat,
}

#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Volume {
    rank: Rank,
    device: String,
    label: String,
}

/// Looks at every block device, once.
pub(super) fn find() -> Option<Found> {
    let mut volumes: Vec<Volume> = block_devices().filter_map(|device| recognise(&device)).collect();
    volumes.sort();
    volumes.iter().find_map(|volume| match read(volume) {
        Ok(found) => Some(found),
        Err(Errno::NOENT) => None,
        Err(error) => {
            log::warn!("{} ({}) could not be read: {error}", volume.label, volume.device);
            None
        }
    })
}

fn block_devices() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !["loop", "ram", "zram", "dm-", "md"].iter().any(|prefix| name.starts_with(prefix)))
}

fn recognise(device: &str) -> Option<Volume> {
    let file = File::open(format!("/dev/{device}")).ok()?;
    let mut first = [0_u8; 512];
    file.read_exact_at(&mut first, 0).ok()?;
    // ECMA-119, 8.4: the primary volume descriptor is sector 16 of 2,048 bytes.
    let mut descriptor = [0_u8; 2048];
    let iso = file.read_exact_at(&mut descriptor, 16 * 2048).is_ok();
    let (rank, label) = classify(&first, iso.then_some(&descriptor))?;
    Some(Volume { rank, device: device.to_owned(), label })
}

/// What the first sector and the ISO descriptor of a device say: kind and label.
fn classify(first: &[u8; 512], descriptor: Option<&[u8; 2048]>) -> Option<(Rank, String)> {
    if let Some(descriptor) = descriptor
        && &descriptor[..6] == b"\x01CD001"
    {
        return Some((Rank::Iso, label(&descriptor[40..72])));
    }
    // FAT32 has its label at 71 and its name at 82; FAT12 and FAT16 at 43 and 54.
    let fat = if &first[82..87] == b"FAT32" {
        Some(label(&first[71..82]))
    } else if &first[54..58] == b"FAT1" {
        Some(label(&first[43..54]))
    } else {
        None
    };
    let label = fat.filter(|_| first[510..] == [0x55, 0xaa])?;
    Some((if label == LABEL { Rank::Own } else { Rank::Fat }, label))
}

fn label(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { ' ' })
        .collect::<String>()
        .trim()
        .to_owned()
}

fn read(volume: &Volume) -> Result<Found, Errno> {
    let root = mount_detached(volume)?;
    let text = read_bounded(&root, "godwit/host.toml")?;
    let text = String::from_utf8(text).map_err(|_| Errno::ILSEQ)?;
    let kept = read_bounded(&root, "godwit/identity").ok().filter(|_| volume.rank == Rank::Own);
    let origin = format!("godwit/host.toml on {} ({})", volume.label, volume.device);
    Ok(Found { text, origin, identity: kept.and_then(|digits| identity(&digits)) })
}

fn mount_detached(volume: &Volume) -> Result<OwnedFd, Errno> {
    let kind = if volume.rank == Rank::Iso { "iso9660" } else { "vfat" };
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", format!("/dev/{}", volume.device))?;
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn read_bounded(root: &OwnedFd, path: &str) -> Result<Vec<u8>, Errno> {
    let file = File::from(openat(root, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?);
    let mut bytes = Vec::new();
    file.take(TEXT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    if bytes.len() as u64 > TEXT_BYTES_MAX { Err(Errno::FBIG) } else { Ok(bytes) }
}

fn identity(digits: &[u8]) -> Option<[u8; 16]> {
    let digits = std::str::from_utf8(digits).ok()?.trim();
    if digits.len() != 32 {
        return None;
    }
    u128::from_str_radix(digits, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fat(name_at: usize, name: &[u8], label_at: usize, label: &[u8]) -> [u8; 512] {
        let mut sector = [0; 512];
        sector[name_at..name_at + name.len()].copy_from_slice(name);
        sector[label_at..label_at + label.len()].copy_from_slice(label);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    #[test]
    fn a_volume_made_for_the_host_comes_before_the_boot_medium() {
        let own = classify(&fat(82, b"FAT32   ", 71, b"GODWIT     "), None).unwrap();
        let stick = classify(&fat(54, b"FAT16   ", 43, b"EFI        "), None).unwrap();
        let mut descriptor = [0; 2048];
        descriptor[..6].copy_from_slice(b"\x01CD001");
        descriptor[40..46].copy_from_slice(b"GODWIT");
        let iso = classify(&[0; 512], Some(&descriptor)).unwrap();
        assert!(own < iso && iso < stick, "{own:?} {iso:?} {stick:?}");
        assert_eq!(iso.1, "GODWIT");
    }

    #[test]
    fn a_disk_without_a_known_signature_is_left_alone() {
        assert_eq!(classify(&[0; 512], Some(&[0; 2048])), None);
        let mut unsigned = fat(82, b"FAT32   ", 71, b"GODWIT     ");
        unsigned[511] = 0;
        assert_eq!(classify(&unsigned, None), None);
    }

    #[test]
    fn an_identity_is_32_hexadecimal_digits() {
        assert_eq!(identity(b"000102030405060708090a0b0c0d0e0f\n").unwrap()[15], 15);
        assert_eq!(identity(b"0001"), None);
        assert_eq!(identity(b"+00102030405060708090a0b0c0d0e0"), None);
    }
}
