//! The VMs of the cases on a datastore, and the depths to which their moves are verified.

use std::fs;
use std::path::Path;

use model::vm_config::Verify;

use crate::bench::case::{Case, Rivals};
use crate::error::{Doing, Result};

/// The least of the depths, beside which the others are shown.
pub(in crate::bench) const LEAST: Verify = Verify::Transfer;
/// All depths.
pub(in crate::bench) const DEPTHS: [Verify; 3] = [Verify::Audit, LEAST, Verify::Full];

/// The name of Godwit where it verifies to this depth.
pub(in crate::bench) fn name(verify: Verify) -> String {
    if verify == Verify::default() { "Godwit".into() } else { format!("Godwit, {verify}") }
}

/// Other programs are met as Godwit is by default.
pub(super) fn is_measured(rivals: Rivals, verify: Verify) -> bool {
    rivals == Rivals::Depths || verify == Verify::default()
}

/// Puts a VM of each of the cases on a datastore, and of each depth where the case compares them.
pub(in crate::bench) fn place(datastore: &Path, kernel: &Path, cases: &[Case]) -> Result<()> {
    let vms = cases.iter().flat_map(|case| DEPTHS.map(|verify| (*case, verify)));
    for (case, verify) in vms.filter(|(case, verify)| is_measured(case.rivals, *verify)) {
        let vm = datastore.join("vms").join(vm_name(case, verify));
        fs::create_dir_all(&vm).at("creating", &vm)?;
        fs::copy(kernel, vm.join("witness")).at("copying", kernel)?;
        fs::write(vm.join("vm.toml"), vm_toml(case, verify)).at("writing", &vm)?;
    }
    Ok(())
}

pub(super) fn vm_name(case: Case, verify: Verify) -> String {
    match case.rivals {
        Rivals::Programs => case.vm_name(),
        Rivals::Depths => format!("{}-{verify}", case.vm_name()),
    }
}

fn vm_toml(case: Case, verify: Verify) -> String {
    let Case { memory_mib, stun_ms_max, .. } = case;
    format!(
        "[vm]\nname = \"{}\"\ncpus = 1\nmemory = \"{memory_mib} MiB\"\ncpu_baseline = \"host\"\n\n\
         [boot]\nkernel = \"witness\"\ncmdline = \"{}\"\n\n[migration]\nstun_ms_max = {stun_ms_max}\nverify = \"{verify}\"\n",
        vm_name(case, verify),
        case.cmdline()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::case;

    #[test]
    fn a_depth_is_asked_for_in_the_vm_toml_of_a_case_that_compares_depths() {
        let case = *case::native().last().unwrap();
        let asked = DEPTHS.map(|verify| {
            let config = model::vm_config::VmConfig::parse("vm.toml", &vm_toml(case, verify)).unwrap();
            assert_eq!(config.name.as_str(), vm_name(case, verify));
            config.migration.verify
        });
        assert_eq!(asked, DEPTHS);
    }

    #[test]
    fn the_product_accepts_the_vm_of_every_case_of_nested_hosts() {
        for case in case::nested() {
            let text = vm_toml(case, Verify::default());
            let config = model::vm_config::VmConfig::parse("vm.toml", &text)
                .unwrap_or_else(|errors| panic!("{}: {errors:?}", case.title()));
            assert_eq!(config.migration.stun_ms_max, case.stun_ms_max);
        }
    }
}
