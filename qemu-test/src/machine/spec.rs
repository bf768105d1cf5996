//! What a host is, and where its files lie.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::process::Background;
use crate::servers::{Export, Make};
use crate::tagged::{PORT_GROUP, VLAN};
use crate::wire::Wire;

/// A host's machine and what it boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    /// `host-a`, `host-b`, ...
    pub name: String,
    /// From 1; its addresses follow from it.
    pub number: u8,
    /// CPUs.
    pub cpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// What it boots.
    pub start_from: StartFrom,
    /// The NFS server that it mounts.
    pub server: Make,
    /// Further words for the kernel's command line (only when it starts from the kernel directly).
    pub words: Vec<String>,
    /// A disk image with a configuration on it (label GODWIT).
    pub config_drive: Option<PathBuf>,
}

/// What a host boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartFrom {
    /// Kernel and initramfs, handed over by QEMU: seconds faster, and the configuration goes on the command line.
    Kernel,
    /// The ISO, by firmware.
    Iso(Firmware, Medium),
}

/// Which firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

/// As what the ISO is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Medium {
    /// A CD on AHCI.
    Cd,
    /// A USB stick on xHCI.
    Usb,
}

impl HostSpec {
    /// Host number `number` (1 is `host-a`) with the lab's usual machine: 1 CPU, 1.5 GiB. With 2 CPUs the emulator lets a
    /// guest triple-fault, or a host reset without a word, about once in five moves of a guest whose memory is written all
    /// the time; with 1 it was not seen to.
    pub fn usual(number: u8) -> Self {
        let letter = char::from(b'a' + number - 1);
        Self {
            name: format!("host-{letter}"),
            number,
            cpus: 1,
            memory_mib: 1536,
            start_from: StartFrom::Kernel,
            server: Make::default(),
            words: Vec::new(),
            config_drive: None,
        }
    }

    /// The host's configuration as words of the kernel command line.
    pub fn configuration_words(&self) -> Vec<String> {
        let nic = |wire: Wire| wire.host_mac(self.number);
        let address = |wire: Wire| format!("{}/24", wire.host_address(self.number));
        let Export { server, path, version } = self.server.export();
        vec![
            format!("godwit.hostname={}", self.name),
            format!("godwit.management.nic={}", nic(Wire::Management)),
            format!("godwit.management.address={}", address(Wire::Management)),
            format!("godwit.storage_nic.nfs.nic={}", nic(Wire::Datastore)),
            format!("godwit.storage_nic.nfs.address={}", address(Wire::Datastore)),
            format!("godwit.migration_nic.nic={}", nic(Wire::Migration)),
            format!("godwit.migration_nic.address={}", address(Wire::Migration)),
            // What the wires carry. Each packet costs an emulated host half a millisecond, whatever its length.
            "godwit.migration_nic.mtu=9000".into(),
            format!("godwit.vswitch.vs0.uplink={}", nic(Wire::Guests)),
            "godwit.port_group.lab.vswitch=vs0".into(),
            format!("godwit.port_group.{PORT_GROUP}.vswitch=vs0"),
            format!("godwit.port_group.{PORT_GROUP}.vlan={VLAN}"),
            format!("godwit.datastore.lab.server={server}"),
            format!("godwit.datastore.lab.export={path}"),
            format!("godwit.datastore.lab.version={version}"),
        ]
    }

    /// The same configuration as a `host.toml`.
    pub fn configuration_file(&self) -> String {
        let words = self.configuration_words();
        let pairs = words.iter().filter_map(|word| word.trim_start_matches("godwit.").split_once('='));
        // A word that is a whole number counts as one on the kernel's command line too.
        let typed =
            |value: &str| value.parse::<i64>().map_or_else(|_| format!("{value:?}"), |number| number.to_string());
        pairs.map(|(key, value)| format!("{key} = {}\n", typed(value))).collect()
    }
}

/// A host's files in the fleet's folder.
#[derive(Debug, Clone)]
pub struct Machine {
    /// What it is.
    pub spec: HostSpec,
    /// Its folder.
    pub folder: PathBuf,
}

impl Machine {
    /// The machine of a host of the fleet in `run`.
    pub fn of(spec: HostSpec, run: &Path) -> Self {
        let folder = run.join(&spec.name);
        Self { spec, folder }
    }

    /// The socket of its first serial port.
    pub fn serial_socket(&self) -> PathBuf {
        self.folder.join("serial.sock")
    }

    /// All that it ever wrote to its serial port in this boot.
    pub fn serial_log(&self) -> PathBuf {
        self.folder.join("serial.log")
    }

    /// The socket of its second serial port, where the stowaway listens.
    pub fn stowaway_socket(&self) -> PathBuf {
        self.folder.join("stowaway.sock")
    }

    /// The socket of QEMU's control protocol.
    pub fn qmp_socket(&self) -> PathBuf {
        self.folder.join("qmp.sock")
    }

    /// The QEMU process.
    pub fn process(&self) -> Background {
        Background { pid_file: self.folder.join("qemu.pid"), mark: self.folder.display().to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::host_config::Layers;

    #[test]
    fn the_product_accepts_the_configuration_of_the_labs_hosts_in_both_forms() {
        for server in [Make::Ganesha, Make::Knfsd] {
            let spec = HostSpec { server, ..HostSpec::usual(2) };
            let mut by_words = Layers::new("defaults", "").unwrap();
            by_words.kernel_words(&spec.configuration_words().join(" ")).unwrap();
            let mut by_file = Layers::new("defaults", "").unwrap();
            by_file.file("host.toml", &spec.configuration_file()).unwrap();
            let config = by_words.read().unwrap();
            assert_eq!(config, by_file.read().unwrap());
            assert_eq!(config.hostname.as_str(), "host-b");
            assert_eq!(config.datastores.len(), 1);
        }
    }
}
