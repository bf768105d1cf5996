//! The vm.toml of a VM's clone: that of the VM, with the comments and the form that a person gave it, but for its name, for its
//! MAC addresses, which no two VMs may share, and for `autostart`: a clone runs when somebody starts it.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::VmConfig;
use crate::config_tree::ConfigError;
use crate::limits;
use crate::names::{MacAddress, VmName};

/// Why there is no vm.toml of a clone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoClone {
    /// The VM's own has errors.
    #[error("its vm.toml has errors")]
    Errors(Vec<ConfigError>),
    /// With a longer name it would be larger than a vm.toml may be.
    #[error("the vm.toml of the clone would be larger than {} bytes", limits::VM_CONFIG_BYTES_MAX)]
    TooLarge,
    /// What was written does not say what it should: a defect of Godwit, found before anything came of it.
    #[error("the vm.toml of the clone would not say what that of the VM says")]
    Differs,
}

impl VmConfig {
    /// What a clone of this VM is, whose NICs have the addresses that `mac` makes, by their number from 0, where this VM's
    /// vm.toml gives one.
    #[must_use]
    pub fn cloned(&self, name: &VmName, mac: impl Fn(usize) -> MacAddress) -> Self {
        let mut clone = Self { name: name.clone(), autostart: false, ..self.clone() };
        for (n, nic) in clone.nics.iter_mut().enumerate() {
            nic.mac = nic.mac.map(|_| mac(n));
        }
        clone
    }
}

/// The vm.toml of a clone from that of the VM; `mac` as for [`VmConfig::cloned`].
///
/// # Errors
/// [`NoClone`].
pub fn cloned_text(text: &str, name: &VmName, mac: impl Fn(usize) -> MacAddress) -> Result<String, NoClone> {
    let config = VmConfig::parse("vm.toml", text).map_err(NoClone::Errors)?;
    let table = DeTable::parse(text).map_err(|_| NoClone::Errors(Vec::new()))?;
    let mut changes = changes(table.get_ref(), name, &mac);
    // From the back, so that what comes before stays where the parser saw it.
    changes.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    let mut cloned = text.to_owned();
    for (span, value) in changes {
        cloned.replace_range(span, &value);
    }
    if cloned.len() as u64 > limits::VM_CONFIG_BYTES_MAX {
        return Err(NoClone::TooLarge);
    }
    match VmConfig::parse("vm.toml", &cloned) {
        Ok(read) if read == config.cloned(name, mac) => Ok(cloned),
        _ => Err(NoClone::Differs),
    }
}

/// Where another value is to stand, and which.
fn changes(root: &DeTable<'_>, name: &VmName, mac: &impl Fn(usize) -> MacAddress) -> Vec<(Range<usize>, String)> {
    let mut changes = Vec::new();
    if let Some(vm) = root.get("vm").and_then(|vm| vm.get_ref().as_table()) {
        changes.extend(vm.get("name").map(|value| (value.span(), format!("\"{name}\""))));
        changes.extend(vm.get("autostart").map(|value| (value.span(), "false".to_owned())));
    }
    let nics = root.get("nic").and_then(|nics| nics.get_ref().as_array());
    for (n, nic) in nics.into_iter().flat_map(|nics| nics.iter().enumerate()) {
        let given: Option<&Spanned<DeValue<'_>>> = nic.get_ref().as_table().and_then(|nic| nic.get("mac"));
        changes.extend(given.map(|value| (value.span(), format!("\"{}\"", mac(n)))));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> VmName {
        text.parse().expect("valid")
    }

    /// What no test's VM has.
    fn fresh(nic: usize) -> MacAddress {
        MacAddress::new([0x52, 0x54, 0, 0xff, 0xff, nic as u8]).expect("unicast")
    }

    #[test]
    fn a_clone_keeps_the_comments_and_the_form_that_a_person_gave_its_vm_toml() {
        let text = "# the shop's web server\n[vm]\nautostart=true# since May\nname   = 'web'  # not \"web\" of the lab\n\
                    cpus = 0x2\nmemory = \"1 GiB\"\n\n[boot]\nkernel = \"vmlinuz\"\ncmdline = \"name=web mac=52:54:00:12:34:56\"\n\
                    [[nic]]\nport_group = \"lab\"\nmac = \"52:54:00:12:34:56\" # as the DHCP server knows it\n\
                    [[nic]]\nport_group = \"lab\" # none is given\n";
        let cloned = cloned_text(text, &name("copy"), fresh).expect("cloned");
        let expected = text
            .replace("=true#", "=false#")
            .replace("'web'", "\"copy\"")
            .replace("mac = \"52:54:00:12:34:56\"", "mac = \"52:54:00:ff:ff:00\"");
        assert_eq!(cloned, expected);
    }

    #[test]
    fn every_way_to_write_a_vm_toml_can_be_cloned() {
        let text = "nic = [{ port_group = \"lab\", mac = \"52:54:00:12:34:56\" }, { mac = '''52:54:00:12:34:57''', port_group = \"a\" }]\n\
                    boot.kernel = \"vmlinuz\"\n\"vm\" . \"name\" = \"\"\"web\"\"\"\nvm.autostart = true\nvm.cpus = 1\nvm.memory = \"64 MiB\"\n";
        let cloned = cloned_text(text, &name("a-longer-name"), fresh).expect("cloned");
        let config = VmConfig::parse("vm.toml", &cloned).expect("valid");
        assert_eq!((config.name.as_str(), config.autostart), ("a-longer-name", false));
        assert_eq!(config.nics.iter().map(|nic| nic.mac).collect::<Vec<_>>(), [Some(fresh(0)), Some(fresh(1))]);
    }

    #[test]
    fn a_vm_toml_that_cannot_be_cloned_says_why() {
        let errors = cloned_text("[vm]\nname = \"web\"\n", &name("copy"), fresh);
        assert!(matches!(errors, Err(NoClone::Errors(errors)) if !errors.is_empty()));
        let minimal = "[vm]\nname = \"web\"\ncpus = 1\nmemory = \"64 MiB\"\n[boot]\nkernel = \"k\"\n#";
        let full = minimal.to_owned() + &"x".repeat(limits::VM_CONFIG_BYTES_MAX as usize - minimal.len());
        assert!(cloned_text(&full, &name("abc"), fresh).is_ok());
        assert_eq!(cloned_text(&full, &name("abcd"), fresh), Err(NoClone::TooLarge));
    }

    fn vm_toml() -> impl Strategy<Value = String> {
        let nic = proptest::option::of(any::<[u8; 3]>());
        let (autostart, nics) = (proptest::option::of(any::<bool>()), proptest::collection::vec(nic, 0..8));
        let comment = "[ -~äöü]{0,20}";
        ("[a-z]([a-z.-]{0,10}[a-z0-9])?", 1u8..64, autostart, nics, comment, any::<bool>()).prop_map(
            |(name, cpus, autostart, nics, comment, tail)| {
                let mut text =
                    format!("#{comment}\n[vm]\nname = \"{name}\" #{comment}\ncpus = {cpus}\nmemory = \"64 MiB\"\n");
                text += &autostart.map_or_else(String::new, |autostart| format!("autostart = {autostart}#{comment}\n"));
                let boot = "[boot]\nkernel = \"k\"\n";
                let disks = "[[disk]]\nfile = \"a.img\"\nread_only = true\n[[disk]]\nfile = \"b.img\"\n";
                text += if tail { disks } else { boot };
                for (n, nic) in nics.into_iter().enumerate() {
                    let mac =
                        |[a, b, c]: [u8; 3]| format!("mac = \"02:{n:02x}:00:{a:02x}:{b:02x}:{c:02x}\" #{comment}\n");
                    text +=
                        &format!("[[nic]] #{comment}\n{}port_group = \"p{n}\"\n", nic.map_or_else(String::new, mac));
                }
                text + if tail { boot } else { disks }
            },
        )
    }

    proptest! {
        #[test]
        fn a_clone_is_what_the_vm_is_but_for_its_name_its_addresses_and_its_autostart(text in vm_toml()) {
            let source = VmConfig::parse("vm.toml", &text).expect("valid");
            let cloned = cloned_text(&text, &name("copy"), fresh).expect("cloned");
            let mut clone = VmConfig::parse("vm.toml", &cloned).expect("valid");
            prop_assert!(clone.name == name("copy") && !clone.autostart);
            for (n, (nic, own)) in source.nics.iter().zip(&mut clone.nics).enumerate() {
                prop_assert_eq!(own.mac, nic.mac.map(|_| fresh(n)));
                own.mac = nic.mac;
            }
            (clone.name, clone.autostart) = (source.name.clone(), source.autostart);
            prop_assert_eq!(clone, source);
            let lines = |text: &str| text.lines().map(|line| line.split_once('#').map(|(_, c)| c.to_owned())).collect::<Vec<_>>();
            prop_assert_eq!(lines(&cloned), lines(&text), "no line and no comment is lost");
        }
    }
}
