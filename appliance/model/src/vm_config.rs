//! What a `vm.toml` says (DESIGN.md, section 6).

mod clone;

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config_tree::{ConfigError, Section, Tree};
use crate::cpu_report::Baseline;
use crate::limits;
use crate::names::{MacAddress, PortGroupName, VmName};
use crate::text_type::text_type;
use crate::units::Bytes;

pub use clone::{NoClone, cloned_text};

/// The configuration of one VM, valid as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    /// Its name, the same as its folder's.
    pub name: VmName,
    /// vCPUs, 1 to [`limits::VM_CPUS_MAX`].
    pub cpus: u8,
    /// Memory, a multiple of 2 MiB.
    pub memory: Bytes,
    /// What of the host's processor the guest sees.
    pub cpu_baseline: Baseline,
    /// Host CPUs that the vCPUs are pinned to; such a VM cannot be migrated.
    pub cpu_affinity: Option<Vec<u32>>,
    /// Started by itself when its host comes up.
    pub autostart: bool,
    /// What it boots.
    pub boot: Boot,
    /// Its disks, in the order of their slots.
    pub disks: Vec<Disk>,
    /// Its NICs, in the order of their slots.
    pub nics: Vec<Nic>,
    /// How it migrates.
    pub migration: Migration,
}

/// A kernel that the VMM loads itself. Files are relative to the VM's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// A Linux bzImage or an ELF with a PVH entry.
    pub kernel: FilePath,
    /// The initial RAM disk, where there is one.
    pub initrd: Option<FilePath>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// What holds its content.
    pub medium: Medium,
    /// The guest may only read it.
    pub read_only: bool,
}

/// What holds a disk's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Medium {
    /// A raw image in the VM's folder.
    File(FilePath),
    /// An image that VMs share and none writes, as of a CD: its path from the root of the VM's datastore.
    Iso(FilePath),
    /// A drive of the host itself. It keeps the VM from moving.
    Device(DevicePath),
}

impl Medium {
    /// The file in the VM's folder, if it is one.
    pub fn own_file(&self) -> Option<&FilePath> {
        if let Self::File(file) = self { Some(file) } else { None }
    }
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::Iso(path) => path.fmt(f),
            Self::Device(path) => path.fmt(f),
        }
    }
}

/// One NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The label of the port group that it is plugged into.
    pub port_group: PortGroupName,
    /// Its address; where it is absent, the host makes one from the names of the datastore and the VM, the same at each start.
    pub mac: Option<MacAddress>,
}

/// How a VM migrates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// The longest acceptable stun in milliseconds.
    pub stun_ms_max: u32,
    /// How deeply a move is verified.
    pub verify: Verify,
}

/// How deeply a move is verified (DESIGN.md, section 9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// What was sent is compared with what arrived before the commit.
    Transfer,
    /// Besides, all memory is compared after the resume.
    #[default]
    Audit,
    /// All memory is compared inside the stun.
    Full,
}

impl FromStr for Verify {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "transfer" => Ok(Self::Transfer),
            "audit" => Ok(Self::Audit),
            "full" => Ok(Self::Full),
            _ => Err("write \"transfer\", \"audit\" or \"full\""),
        }
    }
}

impl fmt::Display for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Transfer => "transfer",
            Self::Audit => "audit",
            Self::Full => "full",
        })
    }
}

/// A path of a file below a folder, the VM's or the datastore's: relative, without `.` and `..`, at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FilePath(String);

/// The path of a block device of the host: `/dev/` and a name of letters, digits, `-` and `_`, at most 32 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DevicePath(String);

text_type!(FilePath, "path");
text_type!(DevicePath, "path");

impl FromStr for FilePath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let part = |part: &str| !part.is_empty() && part != "." && part != "..";
        if text.len() > 255 || text.chars().any(char::is_control) || !text.split('/').all(part) {
            return Err("write the path of a file below the VM's folder, 1 to 255 bytes, without \".\" and \"..\"");
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for DevicePath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix("/dev/").filter(|name| (1..=27).contains(&name.len()));
        let is_plain = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        match name.filter(is_plain) {
            Some(_) => Ok(Self(text.to_owned())),
            None => Err("write the path of a drive of the host, as \"/dev/sr0\""),
        }
    }
}

/// A `vm.toml` as far as it can be understood: what is well formed in it is looked at whatever else is wrong, so that a
/// person is told everything at once.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The configuration, or every error of the text by its line.
    pub config: Result<VmConfig, Vec<ConfigError>>,
    /// Memory, a multiple of 2 MiB.
    pub memory: Option<Bytes>,
    /// What of the host's processor the guest sees.
    pub cpu_baseline: Option<Baseline>,
    /// The kernel.
    pub kernel: Option<FilePath>,
    /// The initial RAM disk.
    pub initrd: Option<FilePath>,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its NICs.
    pub nics: Vec<Nic>,
}

impl VmConfig {
    /// Reads a `vm.toml`; `file` is how errors name it.
    ///
    /// # Errors
    /// Every error of the text at once.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<ConfigError>> {
        Draft::read(file, text, None).config
    }
}

impl Draft {
    /// Reads a `vm.toml`; `file` is how errors name it, `folder` the name that the VM must have.
    pub fn read(file: &str, text: &str, folder: Option<&VmName>) -> Self {
        let tree = match Tree::parse(file, text) {
            Ok(tree) => tree,
            Err(error) => return Self::of_nothing(vec![error]),
        };
        let errors = RefCell::default();
        let mut draft = read(Section::root(&tree, &errors), folder);
        let mut errors = errors.into_inner();
        if !errors.is_empty() {
            errors.sort_by_key(|error| error.line);
            draft.config = Err(errors);
        }
        draft
    }

    fn of_nothing(errors: Vec<ConfigError>) -> Self {
        let (disks, nics) = (Vec::new(), Vec::new());
        Self { config: Err(errors), memory: None, cpu_baseline: None, kernel: None, initrd: None, disks, nics }
    }
}

/// The draft's configuration is an error, whose list is still empty, only where an error was recorded.
fn read(mut root: Section<'_>, folder: Option<&VmName>) -> Draft {
    let vm = root.section("vm").map(|section| read_vm(section, folder));
    let boot = root.section("boot").map(read_boot);
    for (section, present) in [("vm", vm.is_some()), ("boot", boot.is_some())] {
        if !present {
            root.error("", format!("the section [{section}] is missing"));
        }
    }
    let (vm, boot) = (vm.unwrap_or_default(), boot.unwrap_or_default());
    let mut disks = Vec::new();
    for section in root.sections("disk", limits::VM_DISKS_MAX) {
        disks.extend(read_disk(section, &disks));
    }
    let mut macs = Vec::new();
    let nics = root.sections("nic", limits::VM_NICS_MAX);
    let nics: Vec<_> = nics.into_iter().filter_map(|section| read_nic(section, &mut macs)).collect();
    let migration = root.section("migration").map(read_migration).unwrap_or_default();
    root.finish();
    let (memory, cpu_baseline) = (vm.memory, vm.cpu_baseline);
    let (kernel, initrd) = (boot.kernel.clone(), boot.initrd.clone());
    let config = whole(vm, boot, &disks, &nics, migration).ok_or_else(Vec::new);
    Draft { config, memory, cpu_baseline, kernel, initrd, disks, nics }
}

fn whole(vm: VmSection, boot: BootSection, disks: &[Disk], nics: &[Nic], migration: Migration) -> Option<VmConfig> {
    Some(VmConfig {
        name: vm.name?,
        cpus: vm.cpus?,
        memory: vm.memory?,
        cpu_baseline: vm.cpu_baseline?,
        cpu_affinity: vm.cpu_affinity,
        autostart: vm.autostart,
        boot: Boot { kernel: boot.kernel?, initrd: boot.initrd, cmdline: boot.cmdline },
        disks: disks.to_vec(),
        nics: nics.to_vec(),
        migration,
    })
}

#[derive(Default)]
struct VmSection {
    name: Option<VmName>,
    cpus: Option<u8>,
    memory: Option<Bytes>,
    cpu_baseline: Option<Baseline>,
    cpu_affinity: Option<Vec<u32>>,
    autostart: bool,
}

fn read_vm(mut section: Section<'_>, folder: Option<&VmName>) -> VmSection {
    let name: Option<VmName> = section.required("name", folder.map_or("web", VmName::as_str));
    if let (Some(name), Some(folder)) = (&name, folder)
        && name != folder
    {
        section.error("name", format!("is \"{name}\", but the folder is \"{folder}\": make them the same"));
    }
    let cpus = section.integer("cpus", 1..=limits::VM_CPUS_MAX);
    let range = Bytes(limits::VM_MEMORY_BYTES_MIN)..=Bytes(limits::VM_MEMORY_BYTES_MAX);
    let memory = section.size("memory", range);
    for (key, example) in [("cpus", "2"), ("memory", "\"1 GiB\"")] {
        if !section.has(key) {
            section.error(key, format!("is missing; write for example {key} = {example}"));
        }
    }
    if memory.is_some_and(|memory| !memory.0.is_multiple_of(2 << 20)) {
        section.error("memory", "must be a multiple of 2 MiB");
    }
    let cpu_baseline = section.parsed("cpu_baseline");
    let cpu_baseline = if section.has("cpu_baseline") { cpu_baseline } else { Some(Baseline::default()) };
    let cpu_affinity = section.integers("cpu_affinity", 0..=4095);
    let autostart = section.boolean("autostart").unwrap_or(false);
    section.finish();
    VmSection {
        name,
        cpus: cpus.and_then(|cpus| u8::try_from(cpus).ok()),
        memory,
        cpu_baseline,
        cpu_affinity: cpu_affinity.map(|cpus| cpus.into_iter().filter_map(|cpu| u32::try_from(cpu).ok()).collect()),
        autostart,
    }
}

#[derive(Default)]
struct BootSection {
    kernel: Option<FilePath>,
    initrd: Option<FilePath>,
    cmdline: String,
}

fn read_boot(mut section: Section<'_>) -> BootSection {
    let kernel = section.required("kernel", "vmlinuz");
    let initrd = section.parsed("initrd");
    let cmdline = section.text("cmdline").unwrap_or_default();
    if cmdline.len() as u64 > limits::VM_CMDLINE_BYTES_MAX || cmdline.bytes().any(|b| b == 0) {
        section.error("cmdline", format!("must be at most {} bytes without zero bytes", limits::VM_CMDLINE_BYTES_MAX));
    }
    section.finish();
    BootSection { kernel, initrd, cmdline }
}

/// `others` are those before it.
fn read_disk(mut section: Section<'_>, others: &[Disk]) -> Option<Disk> {
    let media = [
        section.parsed("file").map(Medium::File),
        section.parsed("iso").map(Medium::Iso),
        section.parsed("device").map(Medium::Device),
    ];
    let given: Vec<&str> = ["file", "iso", "device"].into_iter().filter(|key| section.has(key)).collect();
    let key = given.last().copied().unwrap_or("file");
    match given.len() {
        0 => section.error(key, "is missing; write for example file = \"root.img\""),
        1 => {}
        _ => section.error(key, format!("a disk has one of {}: remove the others", given.join(" and "))),
    }
    let mut medium = media.into_iter().flatten().next().filter(|_| given.len() == 1);
    let is_qcow2 = |medium: &mut Medium| medium.to_string().ends_with(".qcow2");
    if medium.take_if(is_qcow2).is_some() {
        section.error(key, "qcow2 disks are not supported yet: convert it with qemu-img convert -O raw");
    }
    let written = section.boolean("read_only");
    if key == "iso" && written == Some(false) {
        section.error(
            "read_only",
            "an iso is never written: leave read_only out, or put the image into the VM's folder as a file",
        );
    }
    let read_only = written.unwrap_or(key == "iso");
    // The lock of a disk that is written is exclusive, also against its own VM.
    let shared = others.iter().any(|other| Some(&other.medium) == medium.as_ref() && !(read_only && other.read_only));
    if shared {
        section.error(key, "is a disk of this VM already: only disks that are all read_only may share a file");
    }
    section.finish();
    Some(Disk { medium: medium?, read_only })
}

/// `macs` are the addresses of the NICs before it.
fn read_nic(mut section: Section<'_>, macs: &mut Vec<Option<MacAddress>>) -> Option<Nic> {
    let port_group = section.required("port_group", "lab");
    let mac: Option<MacAddress> = section.parsed("mac");
    if let Some(earlier) = mac.and_then(|mac| macs.iter().position(|earlier| *earlier == Some(mac))) {
        section.error("mac", format!("is the address of nic[{}] already: give each NIC its own", earlier + 1));
    }
    macs.push(mac);
    section.finish();
    Some(Nic { port_group: port_group?, mac })
}

impl Default for Migration {
    fn default() -> Self {
        let stun_ms_max = u32::try_from(limits::MIGRATION_STUN_MS_DEFAULT).unwrap_or(u32::MAX);
        Self { stun_ms_max, verify: Verify::default() }
    }
}

fn read_migration(mut section: Section<'_>) -> Migration {
    let default = Migration::default();
    let stun = section.integer("stun_ms_max", limits::MIGRATION_STUN_MS_MIN..=limits::MIGRATION_STUN_MS_MAX);
    let verify = section.parsed("verify").unwrap_or_default();
    section.finish();
    let stun_ms_max = stun.and_then(|ms| u32::try_from(ms).ok()).unwrap_or(default.stun_ms_max);
    Migration { stun_ms_max, verify }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WEB: &str = r#"
[vm]
name = "web"
cpus = 2
memory = "1 GiB"
cpu_baseline = "x86-64-v2"

[boot]
kernel = "vmlinuz"
initrd = "initrd.img"
cmdline = "console=ttyS0 root=/dev/vda1"

[[disk]]
file = "root.img"

[[nic]]
port_group = "lab"
mac = "52:54:00:12:34:56"

[migration]
stun_ms_max = 200
verify = "full"
"#;

    #[test]
    fn the_documented_example_is_read() {
        let config = VmConfig::parse("vm.toml", WEB).expect("valid");
        assert_eq!((config.name.as_str(), config.cpus, config.memory), ("web", 2, Bytes::mib(1024)));
        assert_eq!(config.nics[0].mac, Some("52:54:00:12:34:56".parse().expect("valid")));
        assert_eq!((config.migration.stun_ms_max, config.migration.verify), (200, Verify::Full));
    }

    #[test]
    fn every_error_of_a_bad_vm_toml_is_told_at_once() {
        let text = "[vm]\nname = \"../x\"\ncpus = 0\nmemory = \"1 GB\"\n[boot]\nkernle = \"a\"\n[[disk]]\nfile = \"/etc/passwd\"\n";
        let errors = VmConfig::parse("vms/x/vm.toml", text).expect_err("invalid");
        let texts: Vec<String> = errors.iter().map(|error| format!("{}: {}", error.line, error.key)).collect();
        assert_eq!(
            texts,
            ["2: vm.name", "3: vm.cpus", "4: vm.memory", "5: boot.kernel", "6: boot.kernle", "8: disk[1].file"]
        );
    }

    #[test]
    fn what_is_well_formed_in_a_bad_vm_toml_is_there_to_be_looked_at() {
        let text = "[vm]\nname = \"web\"\ncpus = 0\nmemory = \"1 GiB\"\ncpu_baseline = \"x86\"\n\
                    [boot]\nkernel = \"vmlinuz\"\ninitrd = \"../initrd\"\n\
                    [[disk]]\nfile = \"/dev/sda\"\n[[disk]]\nfile = \"root.img\"\n[[disk]]\nfile = \"old.qcow2\"\n";
        let draft = Draft::read("vm.toml", text, Some(&"db".parse().expect("valid")));
        let errors: Vec<usize> = draft.config.expect_err("invalid").iter().map(|error| error.line).collect();
        assert_eq!(errors, [2, 3, 5, 8, 10, 14]);
        assert_eq!((draft.memory, draft.cpu_baseline), (Some(Bytes::mib(1024)), None));
        assert_eq!((draft.kernel, draft.initrd), (Some("vmlinuz".parse().expect("valid")), None));
        let medium = Medium::File("root.img".parse().expect("valid"));
        assert_eq!(draft.disks, [Disk { medium, read_only: false }]);
    }

    #[test]
    fn two_disks_share_a_file_only_where_nobody_writes_it() {
        let disk = |read_only: bool| format!("[[disk]]\nfile = \"data.img\"\nread_only = {read_only}\n");
        let of = |first, second| VmConfig::parse("vm.toml", &format!("{WEB}{}{}", disk(first), disk(second)));
        for (first, second) in [(false, false), (true, false), (false, true)] {
            let errors = of(first, second).expect_err("one writes what the other has");
            assert!(errors.len() == 1 && errors[0].key == "disk[3].file", "{errors:?}");
        }
        assert_eq!(of(true, true).expect("both only read").disks.len(), 3);
    }

    #[test]
    fn a_disk_is_a_file_an_iso_that_nobody_writes_or_a_drive_of_the_host() {
        let of = |text: &str| VmConfig::parse("vm.toml", &format!("{WEB}[[disk]]\n{text}"));
        let iso = Medium::Iso("iso/debian.iso".parse().expect("valid"));
        let drive = Medium::Device("/dev/sr0".parse().expect("valid"));
        for (text, medium, read_only) in [
            ("iso = \"iso/debian.iso\"", &iso, true),
            ("device = \"/dev/sr0\"", &drive, false),
            ("device = \"/dev/sr0\"\nread_only = true", &drive, true),
        ] {
            let disk = Disk { medium: medium.clone(), read_only };
            assert_eq!(of(text).expect(text).disks.last(), Some(&disk));
        }
        for (text, told) in [
            ("read_only = true", "write for example file = \"root.img\""),
            ("file = \"a\"\niso = \"b\"", "a disk has one of file and iso: remove the others"),
            ("iso = \"b\"\nread_only = false", "an iso is never written"),
            ("iso = \"/iso/b\"", "without \".\" and \"..\""),
            ("device = \"/dev/disk/by-id/x\"", "as \"/dev/sr0\""),
            ("device = \"/dev/\"", "as \"/dev/sr0\""),
            ("device = \"/etc/shadow\"", "as \"/dev/sr0\""),
            ("device = \"/dev/..\"", "as \"/dev/sr0\""),
        ] {
            let errors = of(text).expect_err(text);
            assert!(errors.len() == 1 && errors[0].problem.contains(told), "{text}: {errors:?}");
        }
    }

    #[test]
    fn two_nics_never_have_one_address() {
        let nic = |mac: &str| format!("[[nic]]\nport_group = \"lab\"\n{mac}");
        let (none, other) = (nic(""), nic("mac = \"52:54:00:12:34:57\"\n"));
        assert!(VmConfig::parse("vm.toml", &format!("{WEB}{none}{other}{none}")).is_ok());
        let same = nic("mac = \"52:54:00:12:34:56\"\n");
        let errors = VmConfig::parse("vm.toml", &format!("{WEB}{none}{same}")).expect_err("invalid");
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["vm.toml line 27: nic[3].mac: is the address of nic[1] already: give each NIC its own"]);
    }

    #[test]
    fn every_bad_value_says_what_is_allowed() {
        for (good, bad, allowed) in [
            ("\"web\"", "\"../web\"", "1 to 48 letters"),
            ("cpus = 2", "cpus = 65", "1 to 64"),
            ("cpus = 2", "cpus = \"2\"", "1 to 64"),
            ("\"1 GiB\"", "\"2 TiB\"", "16 MiB to 1 TiB"),
            ("\"1 GiB\"", "\"1 GB\"", "16 MiB to 1 TiB"),
            ("\"1 GiB\"", "\"99999999999 TiB\"", "16 MiB to 1 TiB"),
            ("\"1 GiB\"", "1.5", "16 MiB to 1 TiB"),
            ("\"1 GiB\"", "\"21 MiB\"", "a multiple of 2 MiB"),
            ("\"x86-64-v2\"", "\"x86\"", "x86-64-v1"),
            ("cpus = 2", "cpus = 2\ncpu_affinity = [4096]", "0 to 4095"),
            ("\"vmlinuz\"", "\"/boot/vmlinuz\"", "1 to 255 bytes"),
            ("\"initrd.img\"", "\"\"", "1 to 255 bytes"),
            ("\"root.img\"", "\"../root.img\"", "1 to 255 bytes"),
            ("\"lab\"", "\"lab!\"", "1 to 48 letters"),
            ("52:54:00:12:34:56", "52-54-00-12-34-56", "six pairs of hex digits"),
            ("stun_ms_max = 200", "stun_ms_max = 4", "5 to 60000"),
            ("\"full\"", "\"deep\"", "\"transfer\", \"audit\" or \"full\""),
        ] {
            let errors = VmConfig::parse("vm.toml", &WEB.replacen(good, bad, 1)).expect_err(bad);
            assert!(errors.len() == 1 && errors[0].problem.contains(allowed), "{bad}: {errors:?}");
        }
    }

    #[test]
    fn a_missing_section_is_told() {
        let errors = VmConfig::parse("vm.toml", "").expect_err("invalid");
        assert_eq!(errors.len(), 2);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reading_panic(text in "(\\PC|\n){0,200}") {
            let _ = VmConfig::parse("vm.toml", &text);
        }
    }
}
