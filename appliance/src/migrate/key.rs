//! The key by which other hosts know this one: made anew at each boot, kept while the host is up, so that a restarted
//! role is the same to its peers.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use netstack::KeyPair;

use crate::api::paths::RunDir;

/// The key of this boot.
///
/// # Errors
/// It cannot be made or kept.
pub fn of_this_boot(run_dir: &RunDir) -> io::Result<KeyPair> {
    let path = run_dir.path().join("migrate.key");
    if let Ok(bytes) = std::fs::read(&path)
        && let Ok(pair) = KeyPair::from_pkcs8(&bytes)
    {
        return Ok(pair);
    }
    let pair = KeyPair::generate().map_err(io::Error::other)?;
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(pair.to_pkcs8())?;
    std::fs::rename(&fresh, &path)?;
    Ok(pair)
}
