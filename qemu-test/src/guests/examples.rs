//! The example VMs, on a datastore: `vms/<name>/` with the configuration and its files.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;

use guest_load::journal::Audit;

use crate::child::Child;
use crate::debian::Debian;
use crate::error::{Doing, Result};
use crate::guests::database;
use crate::guests::debian::{self, JOURNAL_BYTES};
use crate::guests::witness;
use crate::home::Home;
use crate::servers::Server;

/// The disk of a small witness: places for 16 records of its journal.
const WITNESS_JOURNAL_BYTES: u64 = 65_536;

/// What an example VM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With Debian's kernel as it is, which unpacks itself, or unpacked, which an emulated host starts seconds sooner.
    Debian {
        unpacked: bool,
    },
    Witness,
    /// Debian with PostgreSQL.
    Database,
}

/// One example VM.
#[derive(Debug, Clone, Copy)]
pub struct Example {
    /// Its name and its folder's.
    pub name: &'static str,
    kind: Kind,
    /// The address that it answers at on the guests' wire.
    pub address: Option<[u8; 4]>,
}

impl Example {
    /// Those that every datastore of the lab begins with.
    pub const USUAL: [Self; 3] = [
        Self { name: "deb", kind: Kind::Debian { unpacked: true }, address: Some([10, 77, 4, 21]) },
        Self { name: "deb2", kind: Kind::Debian { unpacked: false }, address: Some([10, 77, 4, 22]) },
        Self { name: "witness", kind: Kind::Witness, address: None },
    ];
    /// The one with a database, which takes a minute more to make.
    pub const DATABASE: Self = Self { name: "database", kind: Kind::Database, address: Some([10, 77, 4, 23]) };

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::USUAL.into_iter().chain([Self::DATABASE]).find(|example| example.name == name)
    }

    /// Makes what is not up to date, and puts the VM on a datastore.
    pub fn place(self, home: &Home, datastore: &Path) -> Result<()> {
        let folder = datastore.join("vms").join(self.name);
        fs::create_dir_all(&folder).at("creating", &folder)?;
        let configuration = home.source.join("config/examples").join(self.name).join("vm.toml");
        fs::copy(&configuration, folder.join("vm.toml")).at("copying", &configuration)?;
        match self.kind {
            Kind::Debian { unpacked } => {
                place_debian(&debian::build(home)?, unpacked, &folder)?;
                let journal = folder.join("journal.img");
                let file = File::create(&journal).at("creating", &journal)?;
                file.set_len(JOURNAL_BYTES).at("creating", &journal)
            }
            Kind::Witness => copy(&witness::build(home)?, &folder.join("witness")),
            Kind::Database => place_debian(&database::build(home)?, true, &folder),
        }
    }
}

/// Puts the usual example VMs on the datastore.
pub fn place_all(home: &Home, datastore: &Path) -> Result<()> {
    Example::USUAL.into_iter().try_for_each(|example| example.place(home, datastore))
}

fn place_debian(debian: &Debian, unpacked: bool, folder: &Path) -> Result<()> {
    let (kernel, name) = if unpacked { (&debian.vmlinux, "vmlinux") } else { (&debian.vmlinuz, "vmlinuz") };
    copy(kernel, &folder.join(name))?;
    copy(&debian.initrd, &folder.join("initrd.img"))?;
    copy(&debian.root, &folder.join("root.img"))
}

/// The configuration of a witness that has another name.
pub fn witness_called(home: &Home, name: &str) -> Result<String> {
    let example = home.source.join("config/examples/witness/vm.toml");
    let configuration = fs::read_to_string(&example).at("reading", &example)?;
    Ok(configuration.replace("name = \"witness\"", &format!("name = \"{name}\"")))
}

/// Puts a witness of another name on a datastore: so small that a host carries ten of them, and patient, for emulated hosts stun for long. It
/// dirties so many pages a second.
pub fn place_small_witness(home: &Home, datastore: &Path, name: &str, rate: u32) -> Result<()> {
    let folder = datastore.join("vms").join(name);
    fs::create_dir_all(&folder).at("creating", &folder)?;
    let text = witness_called(home, name)?;
    let text = text
        .replace("\"128 MiB\"", "\"32 MiB\"")
        .replace("rate=500", &format!("rate={rate}"))
        .replace("stun_ms_max = 1000", "stun_ms_max = 5000");
    let file = folder.join("vm.toml");
    fs::write(&file, text).at("writing", &file)?;
    copy(&witness::build(home)?, &folder.join("witness"))
}

/// Gives a small witness a disk, on which it keeps a journal, and a NIC in a port group, by which it answers at an address.
pub fn equip_small_witness(datastore: &Path, name: &str, port_group: &str, address: Ipv4Addr) -> Result<()> {
    let folder = datastore.join("vms").join(name);
    let disk = folder.join("journal.img");
    File::create(&disk).and_then(|file| file.set_len(WITNESS_JOURNAL_BYTES)).at("creating", &disk)?;
    let file = folder.join("vm.toml");
    let text = fs::read_to_string(&file).at("reading", &file)?;
    let text = text.replace("set=16M", &format!("set=16M journal=16 echo={address}/24"));
    let text = format!("{text}\n[[disk]]\nfile = \"journal.img\"\n\n[[nic]]\nport_group = \"{port_group}\"\n");
    fs::write(&file, text).at("writing", &file)
}

/// Reads the journal of an example VM as it lies on the datastore now. Reading it while the guest writes is fine: the
/// record that is being written may be the newest only.
pub fn audit_journal(server: &dyn Server, vm: &str) -> Result<Audit> {
    let path = format!("vms/{vm}/journal.img");
    Audit::read(&server.file(&path)?, JOURNAL_BYTES).at("reading", Path::new(&path))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    Child::new("cp", ["--sparse=always", "--reflink=auto"]).arg(from).arg(to).run()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::vm_config::VmConfig;

    #[test]
    fn the_product_accepts_every_example_and_each_bears_its_folders_name() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
        for example in Example::USUAL.into_iter().chain([Example::DATABASE]) {
            let text = fs::read_to_string(folder.join(example.name).join("vm.toml")).unwrap();
            let config =
                VmConfig::parse("vm.toml", &text).unwrap_or_else(|errors| panic!("{}: {errors:?}", example.name));
            assert_eq!(config.name.as_str(), example.name);
            if let Some([a, b, c, d]) = example.address {
                assert!(config.boot.cmdline.contains(&format!("lab.address={a}.{b}.{c}.{d}/24")), "{}", example.name);
            }
        }
    }
}
