//! What the parts of the control plane share: the configuration, the datastores, the hosts, the VMs, the other roles.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use model::config_tree::nearest;
use model::cpu_report::CpuReport;
use model::diagnosis::{Diagnosis, Reason};
use model::names::{DatastoreName, HostName, PortGroupName, VmName};
use model::units::Bytes;

use crate::api::host::{NicRow, VmRow};
use crate::api::migrate::{Own, ToMigrate};
use crate::api::paths::RunDir;
use crate::boot_id::boot_id;
use crate::configuration::Configuration;
use crate::datastore::{Datastore, Datastores};
use crate::host::discovery::{HostRecord, Hosts, MigrationRecord, RUNNING_MAX, Rounds, hex_of};
use crate::host::disk_locks::Servers;
use crate::host::ends::Unwatched;
use crate::host::engine::Engine;
use crate::host::host_lease::Unheld;
use crate::host::leases::Leases;
use crate::host::maintenance::Maintenance;
use crate::host::moves::Moves;
use crate::host::owed::Owed;
use crate::host::running::Running;
use crate::host::taken_away::Astray;
use crate::host::vms::Vms;
use crate::host::{born, checks};
use crate::network::fabric::{self, Fabric};
use crate::network::link;
use crate::network::netlink::{Netlink, NetlinkError};
use crate::network::tap::Tap;

/// Memory that is kept for the host itself.
const HOST_MEMORY: Bytes = Bytes::mib(192);

/// The control plane's state.
pub struct ControlPlane {
    /// Sockets and logs of this host.
    pub run_dir: RunDir,
    /// This host's random identity.
    pub identity: [u8; 16],
    /// The configuration that it came up with.
    pub configuration: Configuration,
    /// What the processor can show, if KVM can be used.
    pub cpu: Option<CpuReport>,
    /// Its networks, where the configuration is good.
    pub fabric: Mutex<Option<Fabric>>,
    /// Its datastores.
    pub datastores: Datastores,
    /// The lease role.
    pub leases: Leases,
    /// Since when it does not hold its own leases.
    pub unheld: Unheld,
    /// The migrate role.
    pub engine: Engine,
    /// Hosts that share a datastore.
    pub hosts: Arc<Hosts>,
    /// When this host and they exchange what they say of themselves.
    pub rounds: Rounds,
    /// Servers that were told of dead hosts.
    pub servers: Servers,
    /// VMs that run here although their leases are not this host's.
    pub astray: Astray,
    /// VMs that this host has to do with.
    pub vms: Vms,
    /// Migrations that it takes or took part in.
    pub moves: Moves,
    /// Leases that it may hold of VMs that it does not run.
    pub owed: Owed,
    /// The VMs of each datastore as they were listed last, for when it does not answer.
    pub(super) listed: Mutex<BTreeMap<DatastoreName, Vec<VmRow>>>,
    /// VMs that nobody watches yet.
    pub unwatched: Unwatched,
    /// Whether VMs may come to run here.
    pub maintenance: Maintenance,
    /// It is being shut down: nothing begins any more.
    pub(super) ending: AtomicBool,
    /// It gives its leases on the datastores up: none is asked for any more.
    pub(super) leaving: AtomicBool,
    /// Held, shared, while a lease on a datastore is asked for, or this host's record is written there.
    pub(super) asking: RwLock<()>,
}

impl ControlPlane {
    /// The VMs of a datastore as they were listed last, if they ever were.
    pub(super) fn listed(&self, datastore: &Datastore) -> Option<Vec<VmRow>> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        listed.get(datastore.name()).cloned()
    }

    /// Takes note of them.
    pub(super) fn note_listed(&self, datastore: &Datastore, rows: &[VmRow]) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        listed.insert(datastore.name().clone(), rows.to_vec());
    }

    /// This host's name.
    pub fn name(&self) -> &HostName {
        &self.configuration.hostname
    }

    /// The datastores that are configured here.
    ///
    /// # Errors
    /// The host came up with a bad configuration: which they are is not known.
    pub fn known_datastores(&self, what: &str) -> Result<Vec<Arc<Datastore>>, Diagnosis> {
        match self.configuration.config {
            Some(_) => Ok(self.datastores.all()),
            None => Err(Diagnosis::of(what, vec![unconfigured()])),
        }
    }

    fn fabric(&self) -> MutexGuard<'_, Option<Fabric>> {
        self.fabric.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works with the networks of this host.
    ///
    /// # Errors
    /// The host came up with a bad configuration and has none.
    pub fn with_fabric<T>(&self, what: &str, work: impl FnOnce(&mut Fabric) -> T) -> Result<T, Diagnosis> {
        match &mut *self.fabric() {
            Some(fabric) => Ok(work(fabric)),
            None => Err(Diagnosis::of(what, vec![unconfigured()])),
        }
    }

    /// Addresses of the management network, as far as the kernel tells them.
    pub fn addresses(&self) -> Vec<String> {
        self.with_fabric("", |fabric| fabric.addresses()).ok().and_then(Result::ok).unwrap_or_default()
    }

    /// All NICs of this host and what uses them: also with a bad configuration, which is mended by them.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub fn nics(&self) -> Result<Vec<NicRow>, NetlinkError> {
        self.fabric().as_ref().map_or_else(fabric::unused_nics, Fabric::nics)
    }

    /// Makes a tap for a NIC and plugs it in; nothing passes until [`ControlPlane::open_taps`].
    ///
    /// # Errors
    /// The port group is not there.
    pub fn plug(&self, label: &PortGroupName, tap: &str) -> Result<Tap, Reason> {
        let plugged = self.with_fabric("no NIC was plugged in", |fabric| fabric.plug(label, tap));
        plugged.and_then(|plugged| plugged).map_err(first_reason)
    }

    /// Lets frames pass through a VM's taps.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open_taps(&self, running: &Running) -> Result<(), Reason> {
        // By name: a control plane that was restarted has no handles of the taps that the one before it made.
        let open = || {
            let mut netlink = Netlink::open()?;
            (0..running.spec.nics.len()).try_for_each(|nic| {
                let tap = link::by_name(&mut netlink, &born::tap_name(&running.vm, nic))?;
                tap.map_or(Ok(()), |tap| link::set_up(&mut netlink, tap.index, true))
            })
        };
        open().map_err(|error| Reason::new(format!("a NIC cannot be switched on: {error}"), "host check"))
    }

    /// What is wrong with a port group on this host, if anything is.
    pub fn port_group_problem(&self, label: &PortGroupName) -> Option<Reason> {
        let Some(config) = &self.configuration.config else {
            return Some(unconfigured());
        };
        if config.port_groups.iter().any(|group| group.name == *label) {
            return None;
        }
        let labels: Vec<&str> = config.port_groups.iter().map(|group| group.name.as_str()).collect();
        let hint = match nearest(label.as_str(), &labels) {
            Some(near) => {
                format!("did you mean \"{near}\"? Labels must be the same to the letter: network port-group list")
            }
            None => format!("add [port_group.\"{label}\"] to the configuration of {}", self.name()),
        };
        Some(Reason::new(format!("{} has no port group with the label \"{label}\"", self.name()), hint))
    }

    /// The VLAN of a port group of this host.
    pub fn vlan(&self, label: &PortGroupName) -> Option<u16> {
        self.configuration.config.as_ref()?.port_groups.iter().find(|group| group.name == *label)?.vlan
    }

    /// All memory of this host.
    pub fn memory(&self) -> Bytes {
        memory_line("MemTotal")
    }

    /// Memory that all VMs together may have: all, less the host's own.
    pub fn memory_for_vms(&self) -> Bytes {
        Bytes(self.memory().0.saturating_sub(HOST_MEMORY.0))
    }

    /// Memory that VMs can still be given: what running VMs may come to use is not, nor what is kept for VMs that come.
    pub fn memory_free(&self) -> Bytes {
        Bytes(self.memory_for_vms().0.saturating_sub(self.vms.memory_beside(None)))
    }

    /// The same for one VM, which may have some or be kept some already.
    pub fn memory_free_for(&self, vm: &VmName) -> Bytes {
        Bytes(self.memory_for_vms().0.saturating_sub(self.vms.memory_beside(Some(vm))))
    }

    /// What the migration engine has to know first, if this host has a migration NIC.
    pub fn own(&self) -> Option<ToMigrate> {
        let nic = self.configuration.config.as_ref()?.migration_nic.clone()?;
        let cpu = self.cpu.clone()?;
        Some(ToMigrate::Configure(Box::new(Own { name: self.name().clone(), identity: self.identity, nic, cpu })))
    }

    /// Whether a migration NIC is configured.
    pub fn has_migration_nic(&self) -> bool {
        self.configuration.config.as_ref().is_some_and(|config| config.migration_nic.is_some())
    }

    /// Why no VM can be moved from or to here, if none can.
    pub fn migration_trouble(&self) -> Option<Reason> {
        if self.configuration.config.is_none() {
            return Some(unconfigured());
        }
        if !self.has_migration_nic() {
            let hint = "add [migration_nic] with nic and address to its configuration, then: host reboot";
            return Some(Reason::new(format!("{} has no migration NIC configured", self.name()), hint));
        }
        if self.cpu.is_none() {
            return checks::kvm_problem().or_else(|| Some(Reason::new("the processor is not known", "host check")));
        }
        let trouble = self.engine.trouble()?;
        let cause = format!("the migration stack of {} is not up: {trouble}", self.name());
        Some(Reason::new(cause, "network migration-nic; log show migrate"))
    }

    /// What this host tells others of itself, its load and its datastores apart.
    pub fn own_record(&self, beat: u64) -> HostRecord {
        let config = self.configuration.config.as_ref();
        let nic = config.and_then(|config| config.migration_nic.as_ref());
        // Others must not try to move VMs to a stack that is not up.
        let migration = nic.filter(|_| self.cpu.is_some() && self.engine.is_to_be_found()).and_then(|nic| {
            let public_key = self.engine.public_key()?;
            Some(MigrationRecord { address: nic.address.address, port: nic.port, public_key })
        });
        let groups = config.map(|config| config.port_groups.as_slice()).unwrap_or_default();
        let mut running: Vec<VmName> = self.vms.all_running().iter().map(|(vm, _)| vm.vm.vm.clone()).collect();
        running.sort();
        HostRecord {
            name: self.name().clone(),
            identity: hex_of(&self.identity),
            earlier: Vec::new(),
            twin: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: Some(kernel()),
            addresses: self.addresses(),
            beat,
            boot: Some(format!("{:032x}", boot_id())),
            left: false,
            maintenance: self.maintenance.last(),
            vms: u32::try_from(running.len()).unwrap_or(u32::MAX),
            running: running.into_iter().take(RUNNING_MAX).collect(),
            cpus: Some(logical_processors()),
            busy_permille: None,
            memory: self.memory(),
            memory_free: self.memory_free(),
            migration,
            datastores: BTreeMap::new(),
            port_groups: groups.iter().map(|group| (group.name.to_string(), group.vlan.unwrap_or(0))).collect(),
            cpu: self.cpu.clone(),
        }
    }
}

fn first_reason(diagnosis: Diagnosis) -> Reason {
    let what = diagnosis.what;
    diagnosis.reasons.into_iter().next().unwrap_or_else(|| Reason::new(what, ""))
}

/// Why a host has nothing of what a configuration gives.
fn unconfigured() -> Reason {
    Reason::new("this host came up with a bad configuration", "config show")
}

/// The version of the kernel that runs.
pub(super) fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Logical processors of this host.
pub(super) fn logical_processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// A line of /proc/meminfo (proc_meminfo(5)), whose values are KiB.
fn memory_line(name: &str) -> Bytes {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Bytes(kib.unwrap_or(0) * 1024)
}

/// A control plane in a test of what it does, with a folder of its own and no other role but what the test says.
#[cfg(test)]
pub(super) mod stand_in {
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::api::channel::Listener;
    use crate::api::lease::{LeaseAnswer, LeaseRequest};
    use crate::host::role;

    /// A control plane, and its folder, which is removed at the end.
    pub(crate) struct Place {
        pub(crate) plane: Arc<ControlPlane>,
        folder: PathBuf,
    }

    impl Place {
        /// One whose datastore is not there before the first [`Place::write`], and whose lease role answers so.
        pub(crate) fn without_datastore(
            name: &str,
            lease: impl Fn(&LeaseRequest) -> LeaseAnswer + Send + 'static,
        ) -> Self {
            Self::configured(name, "[datastore.lab]\nkind = \"directory\"\npath = \"{data}\"\n", lease)
        }

        /// One with this in its host.toml, where `{data}` stands for the folder of [`Place::write`].
        pub(crate) fn configured(
            name: &str,
            config: &str,
            lease: impl Fn(&LeaseRequest) -> LeaseAnswer + Send + 'static,
        ) -> Self {
            let folder = std::env::temp_dir().join(format!("godwit-{name}-{}", std::process::id()));
            for made in ["config", "vm", "log"] {
                std::fs::create_dir_all(folder.join(made)).expect("made");
            }
            let config = config.replace("{data}", &folder.join("data").display().to_string());
            let config = format!("hostname = \"host-a\"\n{config}");
            std::fs::write(folder.join("config/host.toml"), config).expect("written");
            std::fs::write(folder.join("identity"), "01".repeat(16)).expect("written");
            let run_dir = RunDir::at(&folder);
            let listener = Listener::bind(&run_dir.socket("lease")).expect("bound");
            // Ends with the process of the test.
            std::thread::spawn(move || {
                while let Ok(channel) = listener.accept::<LeaseAnswer, LeaseRequest>() {
                    if let Ok((request, _)) = channel.receive() {
                        // Who asked may have gone.
                        let _ = channel.send(&lease(&request), &[]);
                    }
                }
            });
            Self { plane: Arc::new(role::plane(&run_dir).expect("made")), folder }
        }

        /// Puts a file on the datastore.
        pub(crate) fn write(&self, path: &str, text: &(impl AsRef<[u8]> + ?Sized)) {
            let path = self.folder.join("data").join(path);
            std::fs::create_dir_all(path.parent().expect("below the datastore")).expect("made");
            std::fs::write(path, text).expect("written");
        }

        /// Waits until something holds.
        pub(crate) fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
            let deadline = Instant::now() + Duration::from_secs(120);
            while !holds() {
                assert!(Instant::now() < deadline, "{what}: not within two minutes");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
