//! Who this host is: a random value of its own (never DMI: boards ship with equal UUIDs) and its name.

use std::fs::{self, File};
use std::io::Read;

/// Where roles read the identity, as 32 hexadecimal digits.
pub const IDENTITY_FILE: &str = "/run/godwit/identity";

/// Sets the host's name in the kernel and writes the identity for the roles: `known` if a medium keeps one, else a new one.
pub(super) fn establish(hostname: &str, known: Option<[u8; 16]>) -> std::io::Result<String> {
    rustix::system::sethostname(hostname.as_bytes())?;
    let identity = match known {
        Some(identity) => identity,
        None => random()?,
    };
    let digits: String = identity.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(IDENTITY_FILE, &digits)?;
    Ok(digits)
}

/// 128 bits from the kernel. The device does not block early in boot as getrandom(2) does on a machine without a seed;
/// a host that came up with a poor seed still differs from its twin by what it mixed in since (interrupts, jitter).
fn random() -> std::io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
