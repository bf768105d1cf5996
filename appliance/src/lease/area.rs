//! The lease area of a datastore: opened past the page cache, made if it is not there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use protocol::lease::identity::AreaId;
use protocol::lease::layout::{Area, Geometry};
use protocol::lease::record::AreaHeader;
use protocol::lease::sector::{Content, decode, encode};
use rustix::fs::OFlags;

use crate::datastore::DatastoreError;
use crate::datastore::beneath::Beneath;
use crate::lease::lane::Aligned;

/// The identity that seeds the checksum of the header itself, which has to be read before the area's own is known.
const HEADER_SEED: AreaId = AreaId(0);
/// Sectors are tried in these sizes: the smaller keep the commit of a move short, because it reads those of all hosts.
const BLOCK_BYTES: [u32; 2] = [512, 4096];

/// Opens the area at `path`, or makes it. Two hosts that make it at once end up with the same one.
///
/// # Errors
/// The file cannot be opened or made, or is not a lease area.
pub fn open_or_make(path: &Path, made_by: &str) -> io::Result<(File, Area)> {
    match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    make(path, made_by)?;
    open(path)
}

/// Opens a file past the page cache: each write is on the storage when it returns. It lies one folder below the root of its
/// datastore (`host::host_lease`), which no link there leads out of.
///
/// # Errors
/// It is not there or not accessible.
pub fn direct(path: &Path) -> io::Result<File> {
    let root = path.ancestors().nth(2).unwrap_or(Path::new("/"));
    let place = path.strip_prefix(root).map_err(io::Error::other)?;
    let opened =
        Beneath::of(root).and_then(|datastore| datastore.open(place, OFlags::RDWR | OFlags::DIRECT | OFlags::DSYNC));
    opened.map(File::from).map_err(|error| match error {
        DatastoreError::Io(error) => error,
        error => io::Error::other(error),
    })
}

/// Opens the area at `path`.
///
/// # Errors
/// It is not there, not accessible, or not a lease area.
pub fn open(path: &Path) -> io::Result<(File, Area)> {
    let file = direct(path)?;
    let area = read_header(&file)?;
    Ok((file, area))
}

/// The area that an open file is.
///
/// # Errors
/// It cannot be read, or is not a lease area.
pub fn read_header(file: &File) -> io::Result<Area> {
    let mut buffer = Aligned::new(4096);
    file.read_exact_at(buffer.bytes_mut(), 0)?;
    match decode::<AreaHeader>(buffer.bytes(), HEADER_SEED, 0) {
        Content::Valid(_, header) => Ok(Area { id: header.area, geometry: header.geometry }),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is no lease area, or its header is damaged")),
    }
}

/// Whether a file could not be opened because what it holds is no lease area, or one without its header.
pub fn is_damage(error: &io::Error) -> bool {
    // A header that was cut off is none either.
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Makes the whole area beside its place and then links it there: a link to a name that exists fails, so exactly one
/// maker wins, and nobody ever sees a part of an area.
fn make(path: &Path, made_by: &str) -> io::Result<()> {
    let mut id = [0; 16];
    rustix::rand::getrandom(&mut id[..], rustix::rand::GetRandomFlags::empty())?;
    let area = AreaId(u128::from_le_bytes(id));
    let fresh = path.with_extension(format!("new-{:032x}", area.0));
    let made = write_fresh(&fresh, area, made_by).and_then(|()| match std::fs::hard_link(&fresh, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let removed = std::fs::remove_file(&fresh);
    made.and(removed)
}

fn write_fresh(fresh: &Path, area: AreaId, made_by: &str) -> io::Result<()> {
    let empty = File::create_new(fresh)?;
    let file = direct(fresh)?;
    let mut refused = io::Error::from(rustix::io::Errno::INVAL);
    let accepts = |geometry: &Geometry| {
        try_to_write(&file, u64::from(geometry.stride())).map_err(|error| refused = error).is_ok()
    };
    let geometry = BLOCK_BYTES.into_iter().filter_map(Geometry::for_blocks_of).find(accepts);
    let geometry = geometry.ok_or_else(|| match refused.kind() {
        io::ErrorKind::InvalidInput => io::Error::other("the storage takes no direct writes of 512 or 4096 bytes"),
        // It is full, for instance.
        _ => refused,
    })?;
    empty.set_len(0)?;
    empty.set_len(geometry.area_bytes())?;
    let header = AreaHeader { area, generation: 1, geometry, made_by: made_by.to_owned() };
    let mut buffer = Aligned::new(4096);
    let sector = encode(&header, 1, HEADER_SEED, 0);
    buffer.bytes_mut()[..sector.len()].copy_from_slice(&sector);
    file.write_all_at(buffer.bytes(), 0)?;
    file.sync_all()
}

/// Writes so many bytes, at a multiple of as many, past the page cache.
fn try_to_write(file: &File, bytes: u64) -> io::Result<()> {
    let buffer = Aligned::new(usize::try_from(bytes).unwrap_or(0));
    file.write_all_at(buffer.bytes(), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_that_is_a_link_out_of_its_datastore_is_neither_opened_nor_made() {
        let folder = std::env::temp_dir().join(format!("godwit-area-out-{}", std::process::id()));
        let (datastore, outside) = (folder.join("datastore"), folder.join("host"));
        for made in [datastore.join("godwit"), outside.clone()] {
            std::fs::create_dir_all(made).expect("made");
        }
        open_or_make(&outside.join("lease"), "host").expect("an area");
        std::os::unix::fs::symlink(outside.join("lease"), datastore.join("godwit/lease")).expect("linked");
        std::os::unix::fs::symlink(&outside, datastore.join("linked")).expect("linked");
        for place in ["godwit/lease", "linked/lease", "linked/new"] {
            let refused = open_or_make(&datastore.join(place), "host").map(drop).map_err(|error| error.to_string());
            assert_eq!(refused, Err("a link in its path leads out of the datastore".to_owned()), "{place}");
        }
        assert_eq!(std::fs::read_dir(&outside).expect("listed").count(), 1, "nothing was made outside");
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn two_hosts_that_make_the_area_at_once_share_it() {
        let folder = std::env::temp_dir().join(format!("godwit-area-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("made");
        let path = folder.join("lease");
        let makers: Vec<_> = (0..8)
            .map(|n| {
                let path = path.clone();
                std::thread::spawn(move || open_or_make(&path, &format!("host-{n}")).expect("an area").1.id)
            })
            .collect();
        let mut ids: Vec<AreaId> = makers.into_iter().map(|maker| maker.join().expect("ended")).collect();
        ids.dedup();
        assert_eq!(ids.len(), 1);
        assert_eq!(std::fs::read_dir(&folder).expect("listed").count(), 1, "nothing is left beside it");
        for damaged in [vec![7; 4096], vec![7; 100]] {
            std::fs::write(&path, damaged).expect("written");
            assert!(is_damage(&open_or_make(&path, "host").expect_err("garbage")));
        }
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
