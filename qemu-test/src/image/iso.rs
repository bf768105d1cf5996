//! The ISO: one hybrid file for BIOS and UEFI, as CD and as USB stick, by grub-mkrescue.

use std::fs;
use std::path::Path;

use crate::child::Child;
use crate::error::{Doing, Result};
use crate::stamp::Inputs;

/// The volume's label: what init looks for to find `godwit/host.toml` on the medium it was booted from.
const LABEL: &str = "GODWIT";

/// Makes `result` from the kernel, the initramfs and the boot menu of this source tree.
pub(super) fn make(source: &Path, kernel: &Path, initramfs: &Path, result: &Path) -> Result<()> {
    let menu = source.join("buildroot/grub.cfg");
    let inputs = Inputs::of("iso", 1).large_file(kernel)?.large_file(initramfs)?.content(&menu)?;
    inputs.make(result, || {
        let staging = result.with_file_name("iso");
        let _ = fs::remove_dir_all(&staging);
        for (from, to) in [(kernel, "boot/vmlinuz"), (initramfs, "boot/initramfs"), (&menu, "boot/grub/grub.cfg")] {
            let to = staging.join(to);
            let parent = to.parent().unwrap_or(&staging);
            fs::create_dir_all(parent).at("creating", parent)?;
            fs::copy(from, &to).at("copying", from)?;
        }
        // Only the modules that the menu uses: GRUB's whole set would double the ISO.
        let modules = "linux normal part_msdos part_gpt iso9660 fat serial terminal all_video search echo test gzio";
        Child::new("grub-mkrescue", ["-o"])
            .arg(result)
            .arg(format!("--install-modules={modules}"))
            .arg("--fonts=")
            .arg("--locales=")
            .arg("--themes=")
            .arg(&staging)
            .arg("--")
            .arg("-volid")
            .arg(LABEL)
            .run()?;
        fs::remove_dir_all(&staging).at("removing", &staging)
    })?;
    Ok(())
}
