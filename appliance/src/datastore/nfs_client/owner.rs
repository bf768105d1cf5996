//! The owner string of this host, and of others, as Linux's NFS client makes it.

use std::io;

use crate::boot_id::boot_id;

/// Where the kernel is told what makes this host's owner string unique
/// (Documentation/filesystems/nfs/client-identifier.rst); for mounts that come after.
const IDENTIFIER: &str = "/sys/fs/nfs/net/nfs_client/identifier";

/// Tells the kernel's NFS client who this boot of this host is. Each boot is another client: what an earlier one left can be given up
/// without meaning this one.
///
/// # Errors
/// The kernel does not take it: servers then know this host by its name alone.
pub fn establish() -> io::Result<()> {
    let identifier = identifier(boot_id());
    match std::fs::read_to_string(IDENTIFIER) {
        Ok(known) if known.trim_end() == identifier => Ok(()),
        _ => std::fs::write(IDENTIFIER, identifier),
    }
}

fn identifier(boot: u128) -> String {
    format!("godwit-{boot:032x}")
}

/// The owner string of a boot of a host with this name, for NFSv4.1 (`minor` is 1) or 4.2 (2): `nfs4_init_uniform_client_string` in
/// `fs/nfs/nfs4proc.c`.
pub fn owner(minor: u32, boot: u128, host: &str) -> String {
    format!("Linux NFSv4.{minor} {}/{host}", identifier(boot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_boot_has_an_owner_string_of_its_own_and_the_kernel_has_room_for_what_makes_it_so() {
        assert_eq!(owner(2, 0x1f, "host-a"), "Linux NFSv4.2 godwit-0000000000000000000000000000001f/host-a");
        // NFS4_CLIENT_ID_UNIQ_LEN of the kernel, with the end of the string.
        assert!(identifier(u128::MAX).len() < 64);
    }
}
