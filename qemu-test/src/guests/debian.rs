//! The Debian that VMs of the lab run, with `guest-load` in it.

use crate::debian::{Debian, Recipe};
use crate::error::Result;
use crate::home::Home;
use crate::image::static_program;

/// Size of the journal's disk.
pub const JOURNAL_BYTES: u64 = 64 << 20;

/// Modules that the initrd loads. `button` and `evdev` bring the power button to `guest-load`.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_net", "crc32c_generic", "ext4", "button", "evdev"];

/// The root's init: `SERVICES`, then the lab's own load in the background, and a shell on the serial port.
const MINI: &str = r#"#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
SERVICES
journal=
[ -b /dev/vdb ] && journal=/dev/vdb
/usr/sbin/guest-load $journal &
cd /root
while :; do
    setsid --ctty --wait bash --login </dev/ttyS0 >/dev/ttyS0 2>&1
    sleep 1
done
"#;

/// What every Debian guest of the lab is made of, with lines of its init that start its own services.
pub(super) fn recipe(home: &Home, name: &'static str, services: &str) -> Result<Recipe> {
    // Static, so that it fits any Debian.
    let load = static_program(home, "guest-load")?;
    Ok(Recipe::usual(name, MODULES, MINI.replace("SERVICES", services), vec![load]))
}

/// Makes what is not up to date; VMs get copies of the root.
pub fn build(home: &Home) -> Result<Debian> {
    Debian::build(home, &recipe(home, "guest", "")?)
}
