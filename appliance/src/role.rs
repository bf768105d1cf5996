//! The manifest of roles (`config/roles.toml`, compiled in): who starts a role, how it is supervised, what it may do.
//!
//! [`enter`] puts a process into its role: limits and capabilities are set before the role's first own instruction.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Uid, getpid, getuid, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use serde::Deserialize;

use crate::api::paths::RunDir;

/// Exit status of a role that this build does not contain; the supervisor does not start it again.
pub const EXIT_ABSENT: u8 = 77;

/// The roles of the binary.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// PID 1: boot phases, supervision, shutdown.
    Init,
    /// Reads host.toml from boot media, once, with little trust.
    Configure,
    /// The control plane.
    Host,
    /// Renews leases, feeds the watchdog, fences.
    Lease,
    /// Owns the migration NIC and moves VMs.
    Migrate,
    /// One running VM.
    Vmm,
    /// One terminal.
    Console,
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Init => "init",
            Self::Configure => "configure",
            Self::Host => "host",
            Self::Lease => "lease",
            Self::Migrate => "migrate",
            Self::Vmm => "vmm",
            Self::Console => "console",
        })
    }
}

/// Who starts a role.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// `init`, once, at boot.
    Boot,
    /// `init`, one for each console terminal.
    Terminal,
    /// Another role, when it needs it.
    Order,
}

/// What happens when a role ends.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Restart {
    /// It is started again, after a growing pause.
    Always,
    /// It has done its work.
    Never,
}

/// One role as the manifest describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Who starts it.
    pub start: Start,
    /// What happens when it ends.
    pub restart: Restart,
    /// First pause before a restart, in milliseconds.
    #[serde(default)]
    pub backoff_ms_min: u64,
    /// Longest pause before a restart, in milliseconds.
    #[serde(default)]
    pub backoff_ms_max: u64,
    /// A role that ran this long, in seconds, starts again from the shortest pause.
    #[serde(default)]
    pub steady_s: u64,
    /// Position in the shutdown, lowest first.
    pub stop_order: u8,
    /// Seconds that it may take to stop before it is killed.
    pub stop_s_max: u64,
    /// User it runs as.
    pub uid: u32,
    /// Capabilities that it keeps, in the names of capabilities(7) without `CAP_`, in lower case.
    pub capabilities: Vec<String>,
    /// RLIMIT_NOFILE.
    pub open_files_max: u64,
    /// It sees the host's networks; a role that does not has only the descriptors that it was given.
    #[serde(default = "yes")]
    pub network: bool,
    /// It sees the host's files; for a role that does not, no path leads anywhere.
    #[serde(default = "yes")]
    pub files: bool,
    /// No limit on locked memory.
    #[serde(default)]
    pub locked_memory: bool,
}

fn yes() -> bool {
    true
}

impl Role {
    /// Pause before the `failures`-th restart in a row (1 is the first): doubles up to the longest.
    pub fn backoff(&self, failures: u32) -> Duration {
        let doubled = self.backoff_ms_min.saturating_mul(1 << failures.saturating_sub(1).min(20));
        Duration::from_millis(doubled.min(self.backoff_ms_max))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    role: BTreeMap<RoleName, Role>,
}

/// Why a process could not enter its role.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// No role by this name.
    #[error("no role is called {0}; the roles are init, configure, host, lease, migrate, vmm and console")]
    Unknown(String),
    /// No name was given.
    #[error("the first argument names the role: init, configure, host, lease, migrate, vmm or console")]
    Unnamed,
    /// The kernel refused a privilege change.
    #[error("{what}")]
    Privilege {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Errno,
    },
}

/// The whole manifest. It is part of the image: a manifest that does not parse is a fault of the build, which a test finds.
pub fn manifest() -> &'static BTreeMap<RoleName, Role> {
    static MANIFEST: OnceLock<BTreeMap<RoleName, Role>> = OnceLock::new();
    MANIFEST.get_or_init(|| {
        let manifest: Manifest =
            toml::from_str(include_str!("../../config/roles.toml")).expect("config/roles.toml is part of the build");
        manifest.role
    })
}

/// The role that these arguments (without the program's name) ask for. PID 1 is always `init`: the kernel hands it stray
/// words of its command line.
pub fn requested(arguments: &[String]) -> Result<RoleName, RoleError> {
    if getpid().is_init() {
        return Ok(RoleName::Init);
    }
    let name = arguments.first().ok_or(RoleError::Unnamed)?;
    match name.as_str() {
        "init" => Ok(RoleName::Init),
        "configure" => Ok(RoleName::Configure),
        "host" => Ok(RoleName::Host),
        "lease" => Ok(RoleName::Lease),
        "migrate" => Ok(RoleName::Migrate),
        "vmm" => Ok(RoleName::Vmm),
        "console" => Ok(RoleName::Console),
        other => Err(RoleError::Unknown(other.to_owned())),
    }
}

/// Puts this process into its role: name, journal, limits, capabilities. Must be called while it has one thread, since
/// Linux keeps capabilities by thread. A process that is not root (a native test) keeps what it has.
pub fn enter(name: RoleName, arguments: &[String]) -> Result<(), RoleError> {
    let title = arguments.first().map_or_else(|| name.to_string(), |first| format!("{name} {first}"));
    if let Ok(title) = std::ffi::CString::new(title.chars().take(15).collect::<String>()) {
        let _ = rustix::thread::set_name(&title);
    }
    crate::journal::install(name);
    if name == RoleName::Console {
        own_terminal();
    }
    let Some(role) = manifest().get(&name) else { return Ok(()) };
    if getuid() != Uid::ROOT {
        return Ok(());
    }
    limit(role);
    if !role.network {
        leave_network()?;
    }
    if !role.files {
        leave_files()?;
    }
    confine(role)
}

/// Makes the terminal on standard input this process's own, so that Ctrl-C reaches it. Started from a shell, it has it.
fn own_terminal() {
    let _ = rustix::process::setsid();
    let _ = rustix::process::ioctl_tiocsctty(std::io::stdin());
}

/// Goes into a network namespace of its own, which has no link.
fn leave_network() -> Result<(), RoleError> {
    // SAFETY: only the namespace of the networks is left; descriptors, memory and file systems stay as they are.
    let left = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
    left.map_err(|source| RoleError::Privilege { what: "leaving the host's networks", source })
}

/// Goes into an empty folder and makes it the root of its files. What is open stays open.
fn leave_files() -> Result<(), RoleError> {
    let empty = RunDir::from_environment().empty();
    let refused = |source| RoleError::Privilege { what: "leaving the host's files", source };
    let made = std::fs::create_dir_all(&empty).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    made.and_then(|()| rustix::process::chdir(&empty)).and_then(|()| rustix::process::chroot(".")).map_err(refused)
}

/// Sets the limits. A limit that the kernel refuses (a container) stays as it was; the role then meets a clear EMFILE.
fn limit(role: &Role) {
    let files = Some(role.open_files_max);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files }) {
        log::warn!("the limit of open files stays as it was: {error}");
    }
    if role.locked_memory
        && let Err(error) = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None })
    {
        log::warn!("the limit of locked memory stays as it was: {error}");
    }
}

/// Gives up every capability that the manifest does not name, for this process and for what it starts.
fn confine(role: &Role) -> Result<(), RoleError> {
    let privilege = |what| move |source| RoleError::Privilege { what, source };
    let keep = role.capabilities.iter().filter_map(|name| capability(name)).fold(CapabilitySet::empty(), |a, b| a | b);
    let held = rustix::thread::capabilities(None).map_err(privilege("reading capabilities"))?;
    for capability in CapabilitySet::all().iter().filter(|one| !keep.contains(*one)) {
        // EINVAL: this kernel does not know the capability, so nobody has it. EPERM: already confined (a container).
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    if role.uid != 0 {
        rustix::thread::set_keep_capabilities(true).map_err(privilege("keeping capabilities"))?;
        let uid = Uid::from_raw(role.uid);
        rustix::thread::set_thread_groups(&[]).map_err(privilege("dropping groups"))?;
        rustix::thread::set_thread_gid(rustix::process::Gid::from_raw(role.uid))
            .map_err(privilege("changing group"))?;
        rustix::thread::set_thread_uid(uid).map_err(privilege("changing user"))?;
    }
    let keep = keep & held.permitted;
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(privilege("dropping capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(privilege("refusing new privileges"))
}

fn capability(name: &str) -> Option<CapabilitySet> {
    CapabilitySet::from_name(&name.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_of_the_manifest_exists() {
        for (name, role) in manifest() {
            for word in &role.capabilities {
                assert!(capability(word).is_some(), "{name} asks for the capability {word}");
            }
        }
    }

    #[test]
    fn leases_are_the_last_thing_to_stop() {
        let lease = manifest()[&RoleName::Lease].stop_order;
        for (name, role) in manifest() {
            assert!(*name == RoleName::Lease || role.stop_order < lease, "{name} stops after the lease role");
        }
    }

    #[test]
    fn the_pause_before_a_restart_doubles_to_its_bound() {
        let host = &manifest()[&RoleName::Host];
        assert_eq!(host.backoff(1), Duration::from_millis(host.backoff_ms_min));
        assert_eq!(host.backoff(2), Duration::from_millis(2 * host.backoff_ms_min));
        assert_eq!(host.backoff(u32::MAX), Duration::from_millis(host.backoff_ms_max));
    }

    #[test]
    fn a_restarted_role_comes_back_within_its_bounds() {
        for (name, role) in manifest() {
            assert!(role.restart == Restart::Never || role.backoff_ms_min > 0, "{name} would restart in a busy loop");
            assert!(role.backoff_ms_min <= role.backoff_ms_max, "{name}");
        }
    }
}
